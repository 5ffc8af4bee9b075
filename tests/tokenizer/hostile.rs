//! Files that lie: an error or an answer, never a panic.

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

/// Forty steps that each double a text: an error where they are met, not all memory.
#[test]
fn hostile_steps_that_grow_a_text_are_an_error() {
    let step = r#"{"type":"Replace","pattern":{"String":"a"},"content":"aa"}"#;
    let token =
        r#"{"id":1,"content":"a","single_word":false,"lstrip":false,"rstrip":false,"normalized":true,"special":false}"#;
    for (steps, token, opens) in [(40, "", true), (40, token, false), (3, token, true)] {
        let steps = vec![step; steps].join(",");
        let file = format!(
            r#"{{"added_tokens":[{token}],"normalizer":{{"type":"Sequence","normalizers":[{steps}]}},"decoder":{{"type":"Fuse"}},"model":{{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["b",-1.0]]}}}}"#
        );
        let tokenizer = Tokenizer::from_json(file.as_bytes(), None);
        assert_eq!(tokenizer.is_ok(), opens, "{:?}", tokenizer.err().map(|e| e.to_string()));
        if let (Ok(tokenizer), true) = (tokenizer, token.is_empty()) {
            assert!(tokenizer.encode("b").is_ok());
            assert!(tokenizer.encode("ab").unwrap_err().to_string().contains("normalizer"));
        }
    }
}

/// A pipe in the place of a file: opening it would wait.
#[cfg(unix)]
#[test]
fn hostile_pipe_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("tokenizer.json");
    assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
    assert!(Tokenizer::open(folder.path(), tiny_t5::tokenizer::Hint::default()).is_err());
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
        let step =
            format!("\"normalizers\": [{{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"{}\"}},", base64(&map));
        let bad = text.replacen("\"normalizers\": [", &step, 1);
        assert!(bad.contains("Precompiled"), "the file is laid out otherwise");
        try_all(Tokenizer::from_json(bad.as_bytes(), None));
    }
}

pub(super) fn base64(bytes: &[u8]) -> String {
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
