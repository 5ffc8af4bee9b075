//! The tokenizer beside its references: transformers' ids of fixed texts, and the `tokenizers`
//! crate's of thousands of seeded ones.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tiny_t5::tokenizer::{Hint, Tokenizer};

const T5: &str = "t5/tokenizer.json";
const METASPACE: &str = "t5-metaspace-only/tokenizer.json";
const G2P: &str = "g2p-ipa/tokenizer.json";

fn vocab() -> PathBuf {
    // The crate that runs this lies in crates/; the tests have their own folder at the top.
    let beside = Path::new(file!()).with_file_name("data/vocab");
    match beside.is_dir() {
        true => beside,
        false => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/vocab"),
    }
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
fn threads_may_share_one() {
    fn shared<T: Send + Sync>() {}
    shared::<Tokenizer>();
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
    let hint = Hint { tokenizer_class: Some("ByT5Tokenizer"), vocab_size: 400 };
    assert_eq!(open(&[], hint), Some("bytes"));
    let rows = Hint { tokenizer_class: None, vocab_size: 384 };
    assert_eq!(open(&[], rows), Some("bytes"));
    assert_eq!(open(&[("tokenizer_config.json", &config)], rows), None);

    // A file that is there and broken is an error that names it, on one line.
    for (name, bytes) in
        [("tokenizer.json", &b"{\"a\n"[..]), ("spiece.model", b"\x0a\xff"), ("tokenizer_config.json", b"[1]")]
    {
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
    let pieces: Vec<String> =
        (tokenizer.encode("aé日").unwrap().into_iter()).map(|id| stream.push(id).unwrap()).collect();
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
    let words =
        ["n", "'", "t", "'t", " ' t", "n't", "'s", "v", "e", "'ve", ".", ",", "!", "?", "a", "é", " ", "r", "'re"];
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

/// Tokens that were added to T5's own, as older versions of transformers wrote them beside a spiece.model; ids as transformers 5.24
/// has them.
#[test]
fn spiece_with_added_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| std::fs::write(folder.path().join(file), text).unwrap();
    std::fs::write(folder.path().join("spiece.model"), read("t5/spiece.model")).unwrap();
    let open = || Tokenizer::open(folder.path(), Hint::default()).map(Option::unwrap);
    let token = |id: u32, text: &str, special: bool| {
        format!(
            r#""{id}": {{"content": "{text}", "lstrip": false, "rstrip": false, "normalized": false, "special": {special}}}"#
        )
    };
    write("added_tokens.json", r#"{"<b>": 32101, "<ctx>": 32100}"#);
    let tokenizer = open().unwrap();
    assert_eq!(tokenizer.encode("<ctx><b>").unwrap(), [32100, 32101, 1]);
    assert_eq!(tokenizer.decode(&[32100, 1], true).unwrap(), "<ctx>");
    // One that is not special is looked for in the normalized text, which has no full-width letters.
    assert_eq!(tokenizer.encode("＜ctx＞").unwrap(), [32100, 1]);
    // A special one is looked for as it stands.
    write("tokenizer_config.json", r#"{"additional_special_tokens": ["<ctx>"]}"#);
    let tokenizer = open().unwrap();
    assert_eq!(tokenizer.decode(&[32100, 32101, 1], true).unwrap(), "<b>");
    assert_ne!(tokenizer.encode("＜ctx＞").unwrap(), [32100, 1]);
    for bad in [r#"{"<b>": "x"}"#, r#"{"<a>": 32100, "<b>": 32100}"#] {
        write("added_tokens.json", bad);
        assert!(open().unwrap_err().to_string().contains("added_tokens.json"));
    }
    // Where tokenizer_config.json has them that file counts for nothing.
    let config = |tokens: &[String], special: &str| {
        write(
            "tokenizer_config.json",
            &format!(
                r#"{{"additional_special_tokens": [{special}], "added_tokens_decoder": {{{}}}}}"#,
                tokens.join(",")
            ),
        );
    };
    config(
        &[token(32101, "<b>", true), token(32100, "<a>", false), token(32099, "<extra_id_0>", true)],
        r#""<b>", "<a>""#,
    );
    let tokenizer = open().unwrap();
    assert_eq!(tokenizer.encode("<a><b><extra_id_0>").unwrap(), [32100, 32101, 32099, 1]);
    assert_eq!(tokenizer.decode(&[32100, 32101, 1], true).unwrap(), "<a>");
    config(&[token(32100, "<a>", false), token(32101, "<b>", false)], r#""<b>""#);
    assert_eq!(open().unwrap().encode("<a><b>").unwrap(), [32100, 32101, 1]);
    write("tokenizer_config.json", r#"{"added_tokens_decoder": {"x": {"content": "<a>"}}}"#);
    let error = open().unwrap_err().to_string();
    assert!(error.contains("tokenizer_config.json") && error.contains("the id \"x\""), "{error}");
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
    // mT5's sentinels are pieces with a blank before them.
    let piece = "▁<extra_id_0>".as_bytes();
    let more = [&[0x0a, piece.len() as u8 + 2, 0x0a, piece.len() as u8], piece].concat();
    let tokenizer = Tokenizer::from_spiece(&model(1, &more), Some(br#"{"extra_ids": 0}"#)).unwrap();
    assert_eq!((tokenizer.sentinel(0), tokenizer.sentinel(1)), (Some(7), None));
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

#[cfg(feature = "tokenizer")]
#[path = "tokenizer/beside_the_crate.rs"]
mod beside_the_crate;

#[path = "tokenizer/hostile.rs"]
mod hostile;

#[cfg(not(feature = "tokenizer"))]
#[test]
fn a_foreign_pipeline_names_the_feature() {
    let bpe = br#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#;
    let error = Tokenizer::from_json(bpe, None).unwrap_err().to_string();
    assert!(error.contains("feature `tokenizer`"), "{error}");
}
