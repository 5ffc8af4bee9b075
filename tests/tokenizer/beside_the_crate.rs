//! Ids and text beside the `tokenizers` crate's.

use super::*;
use serde_json::{Value, json};

fn same(own: &Tokenizer, reference: &tokenizers::Tokenizer, text: &str) {
    for template in [true, false] {
        let ids = match template {
            true => own.encode(text),
            false => own.encode_plain(text),
        };
        // The crate panics on added tokens of white space beside others that strip it.
        let panics = || reference.encode_fast(text, template).map_err(|e| e.to_string());
        let expected = std::panic::catch_unwind(panics).unwrap_or_else(|_| Err("a panic".into()));
        match (ids, expected) {
            (Ok(ids), Ok(expected)) => {
                assert_eq!(ids, expected.get_ids(), "{text:?}");
                for skip in [true, false] {
                    let expected = reference.decode(&ids, skip).unwrap();
                    assert_eq!(own.decode(&ids, skip).unwrap(), expected, "{text:?}");
                }
            }
            (Err(_), Err(_)) => {}
            (ids, expected) => panic!("{text:?}: {ids:?} {:?}", expected.map(|e| e.get_ids().to_vec())),
        }
    }
}

fn reference(name: &str) -> tokenizers::Tokenizer {
    tokenizers::Tokenizer::from_bytes(read(name)).unwrap()
}

#[test]
fn seeded_texts() {
    for name in [T5, METASPACE, G2P] {
        let (own, reference) = (own(name), reference(name));
        let mut random = Random(name.len() as u64);
        for _ in 0..6000 {
            let text = random_text(&mut random);
            same(own, &reference, &text);
            if name == T5 {
                assert_eq!(spiece().encode(&text).unwrap(), own.encode(&text).unwrap(), "{text:?}");
            }
        }
        let end = own.vocab_size() + 30;
        for _ in 0..2000 {
            let ids: Vec<u32> = (0..random.below(9)).map(|_| random.below(end) as u32).collect();
            for skip in [true, false] {
                let expected = reference.decode(&ids, skip).unwrap();
                assert_eq!(own.decode(&ids, skip).unwrap(), expected, "{ids:?}");
            }
        }
        assert_eq!(own.vocab_size(), reference.get_vocab_size(true));
    }
}

/// Every character alone, after a letter and before a combining mark.
#[test]
fn every_character() {
    let (own, reference) = (own(T5), reference(T5));
    let characters: Vec<char> =
        ('\0'..='\u{2ffff}').filter(|c| !c.is_alphabetic() || (*c as u32).is_multiple_of(7)).collect();
    for chunk in characters.chunks(64) {
        for around in [("", " "), ("a", "\u{301}")] {
            let text: String = chunk
                .iter()
                .flat_map(|c| [around.0, &c.to_string(), around.1].concat().chars().collect::<Vec<_>>())
                .collect();
            same(own, &reference, &text);
        }
    }
}

#[test]
fn a_long_text() {
    let mut random = Random(99);
    let text: String = (0..4000).map(|_| random_text(&mut random)).collect();
    for name in [T5, METASPACE, G2P] {
        same(own(name), &reference(name), &text);
    }
}

/// Pipelines of every supported shape over a small vocabulary with equal scores, so that ties
/// decide; others go through the crate, and the answers are the same either way.
#[test]
fn seeded_pipelines() {
    let mut random = Random(1234);
    let (mut ours, mut theirs) = (0, 0);
    for _ in 0..1200 {
        let file = random_pipeline(&mut random);
        let bytes = serde_json::to_vec(&file).unwrap();
        let reference = tokenizers::Tokenizer::from_bytes(&bytes);
        let own = Tokenizer::from_json(&bytes, None);
        let (own, mut reference) = match (own, reference) {
            (Ok(own), Ok(reference)) => (own, reference),
            (Err(_), Err(_)) => continue,
            // There the crate never ends.
            (Err(error), Ok(_)) if error.to_string().contains("normalises to nothing") => continue,
            (own, reference) => panic!("{own:?} {:?} {file}", reference.err()),
        };
        reference.with_padding(None).with_truncation(None).unwrap();
        match own.kind() {
            "tokenizer.json (own Unigram)" => ours += 1,
            _ => theirs += 1,
        }
        for _ in 0..25 {
            let mut text = random_text(&mut random);
            for _ in 0..random.below(12) {
                text.push_str(
                    ["a", "b", "c", " ", "ab", "▁", "bc", "[X]", "[Y]", "  ", "é", "A", "yy"][random.below(13)],
                );
            }
            let answer = std::panic::catch_unwind(|| same(&own, &reference, &text));
            assert!(answer.is_ok(), "{text:?} {file}");
        }
    }
    assert!(ours > 600 && theirs > 100, "{ours} {theirs}");
}

fn pick<'a>(random: &mut Random, from: &[&'a str]) -> &'a str {
    from[random.below(from.len())]
}

fn random_pipeline(random: &mut Random) -> Value {
    let scores = [-1.0, -2.0, -1.5, -3.0, 0.5];
    let mut vocab = vec![json!(["<unk>", 0.0]), json!(["</s>", 0.0])];
    for piece in
        ["▁", "a", "b", "c", "ab", "bc", "abc", "▁a", "▁ab", "aa", "aaa", "[X]", "yz", "e", "é", " ", "\u{301}", "x"]
    {
        if random.below(5) > 0 {
            let choice = if random.below(9) == 0 { 5 } else { 3 };
            vocab.push(json!([piece, scores[random.below(choice)]]));
        }
    }
    if random.below(20) == 0 {
        vocab.push(vocab[3].clone());
    }
    let charsmap = || {
        let file: Value = json("t5/tokenizer.json");
        file["normalizer"]["precompiled_charsmap"].clone()
    };
    static MAP: OnceLock<Value> = OnceLock::new();
    let step = |random: &mut Random| match random.below(9) {
        0..3 => json!({"type": "Precompiled", "precompiled_charsmap": MAP.get_or_init(charsmap)}),
        3 => json!({"type": "Lowercase"}),
        4 => json!({"type": "Strip", "strip_left": random.below(2) == 0, "strip_right": true}),
        5 => {
            json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": pick(random, &["▁", " ", "x", ""])})
        }
        6 => {
            json!({"type": "Replace", "pattern": {"String": pick(random, &["a", "bc", "’", "\u{301}"])}, "content": pick(random, &["b", "", "ab"])})
        }
        7 => json!({"type": "Strip", "strip_left": false, "strip_right": true}),
        _ if random.below(3) > 0 => json!({"type": "Lowercase"}),
        _ => json!({"type": "NFKC"}),
    };
    let normalizer = match random.below(5) {
        0 => Value::Null,
        1 => step(random),
        n => json!({"type": "Sequence", "normalizers": (1..n).map(|_| step(random)).collect::<Vec<_>>()}),
    };
    let metaspace = |random: &mut Random| {
        let mut stage = json!({"type": "Metaspace", "replacement": "▁"});
        match random.below(6) {
            0 => stage["add_prefix_space"] = json!(random.below(4) > 0),
            1 => {}
            2 => stage["prepend_scheme"] = json!("never"),
            3 => stage["prepend_scheme"] = json!("first"),
            _ => stage["prepend_scheme"] = json!("always"),
        }
        match random.below(4) {
            0 => stage["split"] = json!(false),
            1 => stage["split"] = json!(true),
            _ => {}
        }
        stage
    };
    let pre_tokenizer = match random.below(8) {
        0 => Value::Null,
        1 => json!({"type": "WhitespaceSplit"}),
        2..5 => metaspace(random),
        5 => json!({"type": "Sequence", "pretokenizers": [metaspace(random), {"type": "WhitespaceSplit"}]}),
        _ => json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace(random)]}),
    };
    let mut added = Vec::new();
    for (id, content) in
        ["<unk>", "</s>", "<extra_id_0>", "<extra_id_10>", "[X]", "[Y]", "[", "yy", " ", "É", "<"].iter().enumerate()
    {
        if random.below(if *content == " " { 15 } else { 3 }) == 0 {
            added.push(json!({"id": id, "content": content, "single_word": random.below(60) == 0,
                "lstrip": random.below(5) == 0, "rstrip": random.below(5) == 0,
                "normalized": random.below(3) == 0, "special": random.below(2) == 0}));
        }
    }
    let sequence = json!({"Sequence": {"id": "A", "type_id": 0}});
    let end = json!({"SpecialToken": {"id": "</s>", "type_id": 0}});
    let single = match random.below(4) {
        0 => json!([end, sequence]),
        1 => json!([sequence, end, end]),
        _ => json!([sequence, end]),
    };
    let template = json!({"type": "TemplateProcessing", "single": single, "pair": [sequence, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}});
    let decoder = match random.below(12) {
        0 | 1 => json!({"type": "Fuse"}),
        2 => Value::Null,
        _ => metaspace(random),
    };
    json!({
        "version": "1.0",
        "truncation": if random.below(5) == 0 { json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}) } else { Value::Null },
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": if random.below(6) == 0 { Value::Null } else { template },
        "decoder": decoder,
        "model": {"type": "Unigram", "unk_id": if random.below(12) == 0 { Value::Null } else { json!(0) }, "vocab": vocab},
    })
}

/// What random texts meet too seldom.
#[test]
fn corners() {
    let check = |vocab: Value, normalizer: Value, texts: &[(&str, &[u32])]| {
        let file = json!({"added_tokens": [], "normalizer": normalizer, "decoder": {"type": "Fuse"},
            "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab}});
        let bytes = serde_json::to_vec(&file).unwrap();
        let own = Tokenizer::from_json(&bytes, None).unwrap();
        assert_eq!(own.kind(), "tokenizer.json (own Unigram)");
        let reference = tokenizers::Tokenizer::from_bytes(&bytes).unwrap();
        for &(text, ids) in texts {
            assert_eq!(own.encode(text).unwrap(), ids, "{text:?}");
            same(&own, &reference, text);
        }
    };
    // An unknown costs 10 more than the worst piece: -15 + 9.5 < -5.
    let vocab = json!([["?", 0.0], ["a", 9.5], ["qa", -5.0]]);
    check(vocab, Value::Null, &[("qa", &[2]), ("q", &[0]), ("ra", &[0, 1])]);
    // Two unknowns beat the piece that they are, and are called by its name.
    let vocab = json!([["?", 30.0], ["a", 30.0], ["qr", 35.0]]);
    check(vocab, Value::Null, &[("qr", &[2]), ("qrq", &[0]), ("aqra", &[1, 2, 1]), ("rqr", &[0])]);
    // The unknown token's own text is a piece, and one with the unknowns beside it.
    let vocab = json!([["<unk>", 0.0], ["a", -1.0]]);
    check(vocab, Value::Null, &[("a<unk>a", &[1, 0, 1]), ("x<unk><unk>y", &[0])]);
    // Letters one by one: a sigma at the end of a word is like any other.
    let vocab = json!([["?", 0.0], ["σ", -1.0], ["ς", -1.0], ["α", -1.0], ["i", -1.0], ["\u{307}", -1.0]]);
    check(vocab, json!({"type": "Lowercase"}), &[("ΑΣ", &[3, 1]), ("ς", &[2]), ("İ", &[4, 5])]);
    // Pieces with zero bytes, which the index pads with.
    let vocab = json!([["?", 0.0], ["a", -1.0], ["a\0", -1.0], ["a\0\0", -1.5], ["b\0", -1.0], ["\0", -1.0]]);
    let texts: &[(&str, &[u32])] = &[("a\0", &[2]), ("a\0\0", &[3]), ("b", &[0]), ("b\0a", &[4, 1]), ("\0", &[5])];
    check(vocab, Value::Null, texts);
    // Pieces of 11 to 17 bytes that share their beginning: where the index stops comparing numbers.
    let long: Vec<String> = (11..18).flat_map(|n| ["x", "y"].map(|end| "a".repeat(n - 1) + end)).collect();
    let mut vocab = vec![json!(["?", 0.0]), json!(["a", -5.0])];
    vocab.extend(long.iter().rev().map(|piece| json!([piece, -1.0])));
    let texts: Vec<(&str, [u32; 1])> = (2..).zip(long.iter().rev()).map(|(id, text)| (text.as_str(), [id])).collect();
    let texts: Vec<(&str, &[u32])> = texts.iter().map(|(text, ids)| (*text, &ids[..])).collect();
    check(json!(vocab), Value::Null, &texts);
    // A character map that knows "\r\n" and neither half.
    let mut trie = [0u32; 120];
    trie[0] = 16 << 10;
    trie[16 ^ 13] = 13 | 32 << 10;
    trie[16 ^ 13 ^ 32 ^ 10] = 10 | 1 << 8 | 64 << 10;
    let units = trie.iter().flat_map(|unit| unit.to_le_bytes());
    let map: Vec<u8> = 480u32.to_le_bytes().into_iter().chain(units).chain(*b"xy\0").collect();
    let map = json!({"type": "Precompiled", "precompiled_charsmap": hostile::base64(&map)});
    let vocab = json!([["?", 0.0], ["xy", -1.0], ["\r", -1.0], ["\n", -1.0], ["a", -1.0]]);
    let texts: &[(&str, &[u32])] = &[("a\r\na", &[4, 1, 4]), ("\r\r\n\n", &[2, 1, 3]), ("\n\r", &[3, 2])];
    check(vocab, map, texts);
}

#[test]
fn a_foreign_pipeline_streams_too() {
    let file = json!({"model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "hello": 1, "world": 2, "!": 3}, "unk_token": "[UNK]"},
        "pre_tokenizer": {"type": "Whitespace"}, "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true}});
    let tokenizer = Tokenizer::from_json(&serde_json::to_vec(&file).unwrap(), None).unwrap();
    assert_eq!(tokenizer.kind(), "tokenizer.json (tokenizers crate)");
    assert_eq!((tokenizer.unk_id(), tokenizer.vocab_size()), (Some(0), 4));
    let ids = tokenizer.encode("hello world !").unwrap();
    assert_eq!(ids, [1, 2, 3]);
    assert_eq!(streamed(&tokenizer, &ids, true), tokenizer.decode(&ids, true).unwrap());
}

/// A text of pieces that have tripped tokenizers.
fn random_text(random: &mut Random) -> String {
    const PARTS: &[&str] = &[
        " ",
        " ",
        " ",
        "  ",
        "   ",
        "\n",
        "\t",
        "\r\n",
        "\u{a0}",
        "\u{3000}",
        "\u{200b}",
        "\u{feff}",
        "▁",
        "▁▁",
        "the ",
        "Hello",
        "translate English to German:",
        "tokenization",
        "internationalisation",
        "x",
        "aaaa",
        "e\u{301}",
        "\u{301}",
        "a\u{308}\u{323}",
        "é",
        "Å",
        "ß",
        "İ",
        "Σς",
        "ﬁ",
        "ﬁ\u{301}",
        "½",
        "№",
        "℻",
        "㎏",
        "①",
        "ｱﾞ",
        "\u{a8}",
        "\u{fdfa}",
        "한국어",
        "각",
        "日本語",
        "中文字符",
        "ก็",
        "क्षि",
        "நி",
        "עברית",
        "العربية\u{64b}",
        "👩\u{200d}👩\u{200d}👧",
        "🇩🇪🇫",
        "👍🏽",
        "☺\u{fe0f}",
        "🏴\u{e0067}\u{e0062}",
        "\u{1f600}",
        "\u{10ffff}",
        "\0",
        "\u{1}",
        "\u{7f}",
        "\u{85}",
        "\u{ad}",
        "\u{2028}",
        "\u{200d}",
        "\u{600}1",
        "</s>",
        "<pad>",
        "<unk>",
        "<extra_id_0>",
        "<extra_id_1>",
        "<extra_id_10>",
        "<extra_id_99>",
        "<extra_id_",
        "</s",
        "<",
        "{",
        "}",
        "~",
        "\\",
        "``",
        "''",
        "‘",
        "’",
        "“",
        "—",
        "...",
        "1234567",
        "3.14",
        "http://a.b/c?d=e",
        "[X]",
        "[Y]",
    ];
    let mut text = String::new();
    for _ in 0..random.below(14) {
        match random.below(8) {
            0 => text.extend(char::from_u32(random.below(0x3_0000) as u32)),
            1 => text.extend(char::from_u32(random.below(0x500) as u32)),
            2 => text.push((b' ' + random.below(95) as u8) as char),
            3 => {
                for _ in 0..random.below(9) {
                    text.push((b'a' + random.below(26) as u8) as char);
                }
            }
            _ => text.push_str(PARTS[random.below(PARTS.len())]),
        }
    }
    text
}

/// A run of byte tokens is decoded as a whole: where it ends within a character, each of its bytes shows as U+FFFD.
#[test]
fn a_stream_of_byte_tokens_is_the_whole() {
    let bytes = (0..256).map(|byte| json!([format!("<0x{byte:02X}>"), -9.0]));
    let pieces = [json!(["<unk>", 0.0]), json!(["▁a", -1.0]), json!(["b", -1.0])].into_iter().chain(bytes);
    let json = json!({"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"},
            {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}]},
        "model": {"type": "Unigram", "unk_id": 0, "vocab": pieces.collect::<Vec<_>>(), "byte_fallback": true}});
    let tokenizer = Tokenizer::from_json(json.to_string().as_bytes(), None).unwrap();
    let byte = |byte: u32| byte + 3;
    let (e, part) = ([byte(0xc3), byte(0xa9)], byte(0xe6));
    let runs: [&[u32]; 5] =
        [&[1, e[0], e[1], part], &[1, e[0], e[1], 2], &[1, e[0], e[1], part, 2], &[part], &[1, 2, e[0]]];
    // Ids without a token end no run.
    let beyond = 259;
    for ids in runs.into_iter().chain([&[1, e[0], e[1], beyond, e[0]][..]]) {
        assert_eq!(streamed(&tokenizer, ids, true), tokenizer.decode(ids, true).unwrap(), "{ids:?}");
    }
    assert_eq!(tokenizer.decode(runs[0], true).unwrap(), "a\u{fffd}\u{fffd}\u{fffd}");
    assert_eq!(tokenizer.decode(runs[1], true).unwrap(), "aéb");
}
