//! The tokenizer beside its references: transformers' ids of fixed texts, and the `tokenizers`
//! crate's of thousands of seeded ones.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tiny_t5::tokenizer::{Hint, Tokenizer};

const T5: &str = "t5/tokenizer.json";
const METASPACE: &str = "t5-metaspace-only/tokenizer.json";
const G2P: &str = "g2p-ipa/tokenizer.json";

fn vocab() -> PathBuf {
    // The tests lie beside the workspace's crates, wherever the crate that runs them is.
    Path::new(file!()).parent().map_or_else(PathBuf::new, |tests| {
        let here = tests.join("data/vocab");
        match here.is_dir() {
            true => here,
            false => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/vocab"),
        }
    })
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(vocab().join(name)).unwrap()
}

/// One of the three tokenizer.json files.
fn own(name: &'static str) -> &'static Tokenizer {
    static OWN: OnceLock<[Tokenizer; 3]> = OnceLock::new();
    let all = OWN.get_or_init(|| {
        [T5, METASPACE, G2P].map(|name| {
            let own = Tokenizer::from_json(&read(name), None).unwrap();
            assert_eq!(own.kind(), "tokenizer.json (own Unigram)");
            own
        })
    });
    &all[[T5, METASPACE, G2P].iter().position(|n| *n == name).unwrap()]
}

fn spiece() -> &'static Tokenizer {
    static OWN: OnceLock<Tokenizer> = OnceLock::new();
    OWN.get_or_init(|| {
        let config = read("t5/tokenizer_config.json");
        Tokenizer::from_spiece(&read("t5/spiece.model"), Some(&config)).unwrap()
    })
}

fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&read(name)).unwrap()
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// All pieces of a stream.
fn streamed(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> String {
    let mut stream = tokenizer.stream_with(skip_special);
    let mut text: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    text.push_str(&stream.finish().unwrap());
    text
}

#[test]
fn transformers_ids_and_text() {
    let cases = json("t5/encodings.json");
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 40);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let expected = ids(&case["ids"]);
        for tokenizer in [own(T5), spiece()] {
            assert_eq!(tokenizer.encode(text).unwrap(), expected, "{text:?}");
            let plain = tokenizer.encode_plain(text).unwrap();
            assert_eq!(plain, expected[..expected.len() - 1], "{text:?}");
            for (skip, key) in [(true, "decoded_skip_special"), (false, "decoded_all")] {
                let decoded = tokenizer.decode(&expected, skip).unwrap();
                assert_eq!(decoded, case[key].as_str().unwrap(), "{text:?}");
                assert_eq!(streamed(tokenizer, &expected, skip), decoded, "{text:?}");
            }
        }
        let metaspace = own(METASPACE).encode(text).unwrap();
        assert_eq!(metaspace, ids(&case["metaspace_only_ids"]), "{text:?}");
    }
}

#[test]
fn g2p_cases() {
    let cases = json("g2p-ipa/cases.json");
    let cases = cases["cases"].as_array().unwrap();
    for case in cases {
        let text = case["text"].as_str().unwrap();
        assert_eq!(own(G2P).encode(text).unwrap(), ids(&case["input_ids"]), "{text:?}");
        let out = ids(&case["greedy"]["ids"]);
        let decoded = own(G2P).decode(&out, true).unwrap();
        assert_eq!(decoded, case["greedy"]["text"].as_str().unwrap());
    }
    assert_eq!(cases.len(), 70);
}

#[test]
fn what_a_vocabulary_tells() {
    for tokenizer in [own(T5), own(METASPACE), spiece()] {
        assert_eq!(tokenizer.vocab_size(), 32_100);
        assert_eq!(tokenizer.unk_id(), Some(2));
        assert_eq!(tokenizer.sentinel(0), Some(32_099));
        assert_eq!(tokenizer.sentinel(99), Some(32_000));
        assert_eq!(tokenizer.sentinel(100), None);
        assert_eq!(tokenizer.token_to_id("▁Hello"), Some(8774));
        assert_eq!(tokenizer.token_to_id("▁"), Some(3));
        assert_eq!(tokenizer.token_to_id("no such piece"), None);
        assert_eq!(tokenizer.token_to_id(""), None);
        assert_eq!(tokenizer.id_to_token(1).as_deref(), Some("</s>"));
        assert_eq!(tokenizer.id_to_token(32_099).as_deref(), Some("<extra_id_0>"));
        assert!(tokenizer.is_special(0) && tokenizer.is_special(1) && tokenizer.is_special(32_050));
        assert!(!tokenizer.is_special(3) && !tokenizer.is_special(40_000));
        // Rows without a token, up to 32,127 and beyond.
        for id in [32_100, 32_127, u32::MAX] {
            assert_eq!(tokenizer.id_to_token(id), None);
            assert_eq!(tokenizer.decode(&[8774, id, 1], true).unwrap(), "Hello");
            assert_eq!(streamed(tokenizer, &[id, 8774, id], true), "Hello");
        }
        // The word-start piece alone is nothing at the beginning and a blank elsewhere.
        assert_eq!(tokenizer.decode(&[3, 8774, 3, 296], true).unwrap(), " Hello  world");
        for id in 0..32_100 {
            let token = tokenizer.id_to_token(id).unwrap();
            assert_eq!(tokenizer.token_to_id(&token), Some(id), "{token}");
        }
    }
}

#[test]
fn folders() {
    let folder = |files: &[(&str, &[u8])]| {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        dir
    };
    let open = |files: &[(&str, &[u8])], hint: Hint<'_>| {
        let opened = Tokenizer::open(folder(files).path(), hint);
        opened.unwrap().map(|tokenizer| tokenizer.kind())
    };
    let none = Hint::default();
    let (json, model) = (read(G2P), read("t5/spiece.model"));
    let config = read("t5/tokenizer_config.json");
    assert_eq!(open(&[], none), None);
    assert_eq!(
        open(&[("tokenizer.json", &json), ("spiece.model", &model)], none),
        Some("tokenizer.json (own Unigram)")
    );
    let files: &[(&str, &[u8])] = &[("spiece.model", &model), ("tokenizer_config.json", &config)];
    assert_eq!(open(files, none), Some("spiece.model"));
    let byt5 = br#"{"tokenizer_class": "ByT5Tokenizer"}"#;
    assert_eq!(open(&[("tokenizer_config.json", byt5)], none), Some("bytes"));
    let hint = Hint {
        tokenizer_class: Some("ByT5Tokenizer"),
        vocab_size: 400,
    };
    assert_eq!(open(&[], hint), Some("bytes"));
    let rows = Hint {
        tokenizer_class: None,
        vocab_size: 384,
    };
    assert_eq!(open(&[], rows), Some("bytes"));
    assert_eq!(open(&[("tokenizer_config.json", &config)], rows), None);

    // A file that is there and broken is an error that names it, on one line.
    for (name, bytes) in [
        ("tokenizer.json", &b"{\"a\n"[..]),
        ("spiece.model", b"\x0a\xff"),
        ("tokenizer_config.json", b"[1]"),
    ] {
        let dir = folder(&[(name, bytes)]);
        let error = Tokenizer::open(dir.path(), none).unwrap_err().to_string();
        assert!(error.contains(&dir.path().join(name).display().to_string()), "{error}");
        assert!(error.contains("expected") && !error.contains('\n'), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("spiece.model")).unwrap();
    assert!(Tokenizer::open(dir.path(), none).unwrap_err().to_string().contains("spiece.model"));
}

#[test]
fn bytes_as_byt5_has_them() {
    let tokenizer = Tokenizer::bytes(125);
    assert_eq!(tokenizer.vocab_size(), 384);
    assert_eq!(tokenizer.encode("hé").unwrap(), [107, 198, 172, 1]);
    assert_eq!(tokenizer.encode("").unwrap(), [1]);
    assert_eq!(tokenizer.encode_plain("a").unwrap(), [100]);
    assert_eq!(tokenizer.sentinel(0), Some(259));
    assert_eq!(tokenizer.sentinel(124), Some(383));
    assert_eq!(tokenizer.sentinel(125), None);
    // Special tokens in a text; the end token takes its blanks along and is not doubled.
    assert_eq!(tokenizer.encode("a <extra_id_1>b").unwrap(), [100, 35, 260, 101, 1]);
    assert_eq!(tokenizer.encode("a </s> ").unwrap(), [100, 1]);
    assert_eq!(tokenizer.encode("a <pad>\u{1f} b").unwrap(), [100, 0, 101, 1]);
    assert_eq!((tokenizer.unk_id(), tokenizer.token_to_id("é")), (Some(2), Some(0xe9 + 3)));
    assert_eq!(tokenizer.token_to_id("日"), None);
    // Bytes that are not UTF-8 vanish; ids without a token too.
    let text = "日本";
    let mut ids = tokenizer.encode_plain(text).unwrap();
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    ids.splice(3..3, [0xe6 + 3, 0x80 + 3, 5000, 258, 1]);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "日</s>本");
    assert_eq!(tokenizer.decode(&ids[..5], true).unwrap(), "日");

    // Never half a character.
    let mut stream = tokenizer.stream();
    let pieces: Vec<String> = (tokenizer.encode("aé日").unwrap().into_iter())
        .map(|id| stream.push(id).unwrap())
        .collect();
    assert_eq!(pieces, ["a", "", "é", "", "", "日", ""]);
    assert_eq!(stream.finish().unwrap(), "");

    let mut random = Random(7);
    for _ in 0..3000 {
        let ids: Vec<u32> = (0..random.below(12)).map(|_| random.below(400) as u32).collect();
        for skip in [true, false] {
            assert_eq!(streamed(&tokenizer, &ids, skip), tokenizer.decode(&ids, skip).unwrap());
        }
    }

    let dir = tempfile::tempdir().unwrap();
    let config = r#"{"tokenizer_class": "ByT5Tokenizer", "eos_token": {"content": "</s>", "lstrip": false},
        "additional_special_tokens": ["<one>", "<two>"]}"#;
    std::fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
    let tokenizer = Tokenizer::open(dir.path(), Hint::default()).unwrap().unwrap();
    assert_eq!(tokenizer.vocab_size(), 261);
    assert_eq!(tokenizer.encode("a </s><two>").unwrap(), [100, 35, 1, 260, 1]);
}

#[test]
fn blanks_before_punctuation() {
    let config = br#"{"clean_up_tokenization_spaces": true}"#;
    let clean = Tokenizer::from_json(&read(T5), Some(config)).unwrap();
    let text = "Hello , world ! It 's n't they 've ' you 're ' I 'm done .";
    let ids = clean.encode(text).unwrap();
    let expected = "Hello, world! It'sn't they've'you're'I'm done.";
    assert_eq!(clean.decode(&ids, true).unwrap(), expected);
    assert_eq!(own(T5).decode(&ids, true).unwrap(), text);
    assert_eq!(streamed(&clean, &ids, true), expected);
    // Words of the rules' own characters, in every order.
    let mut random = Random(11);
    let words = ["n", "'", "t", "'t", " ' t", "n't", "'s", "v", "e", "'ve", ".", ",", "!", "?", "a", "é", " ", "r", "'re"];
    for _ in 0..4000 {
        let mut text = String::new();
        for _ in 0..random.below(12) {
            text.push_str(words[random.below(words.len())]);
            if random.below(3) > 0 {
                text.push(' ');
            }
        }
        let mut ids = clean.encode(&text).unwrap();
        ids.retain(|_| random.below(20) > 0);
        for skip in [true, false] {
            assert_eq!(streamed(&clean, &ids, skip), clean.decode(&ids, skip).unwrap(), "{text:?}");
        }
    }
}

#[test]
fn pieces_of_a_stream_are_the_whole() {
    let mut random = Random(3);
    for _ in 0..3000 {
        let tokenizer = own([T5, METASPACE, G2P][random.below(3)]);
        let end = tokenizer.vocab_size() + 20;
        let ids: Vec<u32> = (0..random.below(20))
            .map(|_| [random.below(10), random.below(end), random.below(end)][random.below(3)] as u32)
            .collect();
        for skip in [true, false] {
            assert_eq!(streamed(tokenizer, &ids, skip), tokenizer.decode(&ids, skip).unwrap());
        }
    }
}

#[test]
fn very_long_texts_take_linear_time() {
    let start = std::time::Instant::now();
    let tokenizer = own(T5);
    let english = "The quick brown fox jumps over the lazy dog. ".repeat(25_000);
    assert_eq!(tokenizer.encode(&english).unwrap().len() % 25_000, 1);
    // No blank, no boundary, nothing but unknowns, nothing but an added token's first byte.
    for text in ["a", "日", "👩\u{200d}", "\u{301}", "<", " ", "<extra_id_0>", "🇩"] {
        let text = text.repeat(1_000_000 / text.len());
        for tokenizer in [own(T5), own(METASPACE), own(G2P)] {
            assert!(tokenizer.encode(&text).unwrap().len() <= text.len() + 2);
        }
    }
    // Quadratic would be hours.
    assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
}

#[test]
fn spiece_models_of_other_makes() {
    // unk 1, eos 2, a user's own piece, no pad; mT5's extra_ids 0 and an end token by another name.
    let model = |kind: u8, more: &[u8]| {
        let mut bytes = Vec::new();
        for (piece, score, kind) in [
            ("<s>", 0.0f32, 3u8),
            ("<unk>", 0.0, 2),
            ("<end>", 0.0, 3),
            ("▁", -2.0, 1),
            ("a", -3.0, 1),
            ("▁a", -4.0, 1),
            ("[SEP]", 0.0, 4),
        ] {
            let mut message = vec![0x0a, piece.len() as u8];
            message.extend_from_slice(piece.as_bytes());
            message.push(0x15);
            message.extend_from_slice(&score.to_le_bytes());
            message.extend_from_slice(&[0x18, kind]);
            bytes.extend_from_slice(&[0x0a, message.len() as u8]);
            bytes.extend_from_slice(&message);
        }
        let trainer = [0x18, kind, 0xc0, 0x02, 1, 0xd0, 0x02, 2];
        bytes.extend_from_slice(&[0x12, trainer.len() as u8]);
        bytes.extend_from_slice(&trainer);
        bytes.extend_from_slice(more);
        bytes
    };
    let tokenizer = Tokenizer::from_spiece(&model(1, &[]), Some(br#"{"extra_ids": 0}"#)).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.unk_id(), tokenizer.sentinel(0)), (7, Some(1), None));
    assert_eq!(tokenizer.encode("a aa[SEP]x<end>").unwrap(), [5, 5, 4, 6, 3, 1, 2, 2]);
    assert_eq!(tokenizer.decode(&[5, 6, 2, 1], true).unwrap(), "a[SEP]");
    let tokenizer = Tokenizer::from_spiece(&model(1, &[]), None).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.sentinel(0), tokenizer.sentinel(99)), (107, Some(106), Some(7)));
    let error = |bytes: &[u8]| Tokenizer::from_spiece(bytes, None).unwrap_err().to_string();
    assert!(error(&model(2, &[])).contains("BPE (2)"));
    // A second unknown piece, a repeated piece, a score that is no number.
    assert!(error(&model(1, &[0x0a, 5, 0x0a, 1, b'z', 0x18, 2])).contains("UNKNOWN"));
    assert!(error(&model(1, &[0x0a, 3, 0x0a, 1, b'a'])).contains("twice"));
    assert!(error(&model(1, &[0x0a, 8, 0x0a, 1, b'z', 0x15, 0, 0, 0xc0, 0x7f])).contains("NaN"));
    assert!(error(&[]).contains("no pieces"));
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// A text of pieces that have tripped tokenizers.
fn random_text(random: &mut Random) -> String {
    const PARTS: &[&str] = &[
        " ", " ", " ", "  ", "   ", "\n", "\t", "\r\n", "\u{a0}", "\u{3000}", "\u{200b}", "\u{feff}", "▁", "▁▁",
        "the ", "Hello", "translate English to German:", "tokenization", "internationalisation", "x", "aaaa",
        "e\u{301}", "\u{301}", "a\u{308}\u{323}", "é", "Å", "ß", "İ", "Σς", "ﬁ", "ﬁ\u{301}", "½", "№", "℻", "㎏", "①", "ｱﾞ",
        "\u{a8}", "\u{fdfa}", "한국어", "각", "日本語", "中文字符", "ก็", "क्षि", "நி", "עברית", "العربية\u{64b}",
        "👩\u{200d}👩\u{200d}👧", "🇩🇪🇫", "👍🏽", "☺\u{fe0f}", "🏴\u{e0067}\u{e0062}", "\u{1f600}", "\u{10ffff}",
        "\0", "\u{1}", "\u{7f}", "\u{85}", "\u{ad}", "\u{2028}", "\u{200d}", "\u{600}1",
        "</s>", "<pad>", "<unk>", "<extra_id_0>", "<extra_id_1>", "<extra_id_10>", "<extra_id_99>", "<extra_id_", "</s", "<",
        "{", "}", "~", "\\", "``", "''", "‘", "’", "“", "—", "...", "1234567", "3.14", "http://a.b/c?d=e", "[X]", "[Y]",
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

#[cfg(feature = "tokenizer")]
mod beside_the_crate {
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
        let characters: Vec<char> = ('\0'..='\u{2ffff}').filter(|c| !c.is_alphabetic() || (*c as u32) % 7 == 0).collect();
        for chunk in characters.chunks(64) {
            for around in [("", " "), ("a", "\u{301}")] {
                let text: String = chunk.iter().flat_map(|c| [around.0, &c.to_string(), around.1].concat().chars().collect::<Vec<_>>()).collect();
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
                    text.push_str(["a", "b", "c", " ", "ab", "▁", "bc", "[X]", "[Y]", "  ", "é", "A", "yy"][random.below(13)]);
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
        for piece in ["▁", "a", "b", "c", "ab", "bc", "abc", "▁a", "▁ab", "aa", "aaa", "[X]", "yz", "e", "é", " ", "\u{301}", "x"] {
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
            5 => json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": pick(random, &["▁", " ", "x", ""])}),
            6 => json!({"type": "Replace", "pattern": {"String": pick(random, &["a", "bc", "’", "\u{301}"])}, "content": pick(random, &["b", "", "ab"])}),
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
        for (id, content) in ["<unk>", "</s>", "<extra_id_0>", "<extra_id_10>", "[X]", "[Y]", "[", "yy", " ", "É", "<"].iter().enumerate() {
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
}

/// Files that lie: an error or an answer, never a panic.
mod hostile {
    use super::*;

    /// What a damaged file makes of a text; errors are one line.
    fn try_all(opened: Result<Tokenizer, tiny_t5::tokenizer::TokenizerError>) -> bool {
        match opened {
            Ok(tokenizer) => {
                for text in ["Hello <extra_id_0>. Ünïcode ½ ﬁ 日本 e\u{301}\r\n", ""] {
                    if let Ok(ids) = tokenizer.encode(text) {
                        tokenizer.decode(&ids, true).unwrap();
                    }
                }
                true
            }
            Err(error) => {
                let error = error.to_string();
                assert!(!error.contains('\n') && error.len() < 800, "{error}");
                false
            }
        }
    }

    /// Cuts and changes a file at seeded places; returns how many still opened.
    fn damage(file: &[u8], rounds: usize, seed: u64, open: impl Fn(&[u8]) -> bool) -> usize {
        let mut random = Random(seed);
        let mut opened = 0;
        for round in 0..rounds {
            let at = random.below(file.len());
            let mut bad = file.to_vec();
            match round % 4 {
                0 => bad.truncate(at),
                1 => bad[at] = random.next() as u8,
                2 => bad[at] ^= 1 << random.below(8),
                _ => {
                    let end = (at + random.below(40)).min(bad.len());
                    bad.drain(at..end);
                }
            }
            opened += usize::from(open(&bad));
        }
        opened
    }

    #[test]
    fn spiece_model() {
        let file = read("t5/spiece.model");
        let open = |bad: &[u8]| try_all(Tokenizer::from_spiece(bad, None));
        damage(&file, 300, 1, open);
        // The end of the file: character map and settings.
        let tail = file.len() - 240_000;
        let open = |bad: &[u8]| {
            let whole = [&file[..tail], bad].concat();
            try_all(Tokenizer::from_spiece(&whole, None))
        };
        assert!(damage(&file[tail..], 200, 2, open) > 50);
    }

    #[test]
    fn tokenizer_json() {
        let file = read(G2P);
        damage(&file, 600, 3, |bad| try_all(Tokenizer::from_json(bad, None)));
        let file = read(T5);
        damage(&file, 80, 4, |bad| try_all(Tokenizer::from_json(bad, None)));
    }

    #[test]
    fn tokenizer_config() {
        let model = read("g2p-ipa/tokenizer.json");
        let file = read("t5/tokenizer_config.json");
        let open = |bad: &[u8]| try_all(Tokenizer::from_json(&model, Some(bad)));
        damage(&file, 400, 5, open);
        for bad in [&b"{\"extra_ids\": 1000000000000}"[..], b"{\"extra_ids\": -1}", b"null", b""] {
            assert!(Tokenizer::from_json(&model, Some(bad)).is_err());
        }
        let deep = "[".repeat(100_000);
        assert!(!try_all(Tokenizer::from_json(deep.as_bytes(), None)));
        let deep = format!("{{\"normalizer\": {}", "{\"type\":\"Sequence\",\"normalizers\":[".repeat(10_000));
        assert!(!try_all(Tokenizer::from_json(deep.as_bytes(), None)));
    }

    /// Character maps whose trie points anywhere.
    #[test]
    fn charsmaps() {
        let text = String::from_utf8(read(G2P)).unwrap();
        let mut random = Random(6);
        for _ in 0..300 {
            let size = random.below(200);
            let mut map: Vec<u8> = (0..size).map(|_| random.next() as u8).collect();
            if random.below(2) == 0 {
                let trie = (random.below(size + 1) / 4 * 4) as u32;
                map.splice(0..0, trie.to_le_bytes());
                map.extend_from_slice(b"ab\0");
            }
            let step = format!(
                "\"normalizers\": [{{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"{}\"}},",
                base64(&map)
            );
            let bad = text.replacen("\"normalizers\": [", &step, 1);
            assert!(bad.contains("Precompiled"), "the file is laid out otherwise");
            try_all(Tokenizer::from_json(bad.as_bytes(), None));
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let mut bits = [0; 4];
        bits[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(bits);
        for place in 0..4 {
            out.push(match place <= group.len() {
                true => alphabet[(bits >> (18 - 6 * place) & 63) as usize] as char,
                false => '=',
            });
        }
    }
    out
}

#[cfg(not(feature = "tokenizer"))]
#[test]
fn a_foreign_pipeline_names_the_feature() {
    let bpe = br#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#;
    let error = Tokenizer::from_json(bpe, None).unwrap_err().to_string();
    assert!(error.contains("feature `tokenizer`"), "{error}");
}
