//! The vocabulary of a tokenizer.json, read ahead of the rest: 86 % of T5's file is
//! `["piece", score]` 32,100 times over, laid out alike, and this reads it in little more than
//! half of serde_json's time. Whatever is unusual makes it give up, and the whole file goes the
//! plain way.

use super::json::{Vocab, VocabKind};
use super::pieces::Strings;
use std::ops::Range;

const KEY: &[u8] = b"\"vocab\"";

/// The rest is copied; T5's has 340 KB.
const MAX_REST: usize = 8 << 20;

/// Stands in the file for a vocabulary that was read ahead.
pub(super) const MARK: &str = "tiny-t5: read ahead";

/// `json` without the vocabulary, and the vocabulary.
pub(super) fn ahead(json: &[u8]) -> Option<(Vec<u8>, Vocab)> {
    let start = find_key(json)? + KEY.len();
    let (vocab, range) = Scan { json, at: start, number_of: serde_jsons_way() }.vocab()?;
    if json.len() - range.len() > MAX_REST {
        return None;
    }
    let mark = format!("\"{MARK}\"");
    let rest = [&json[..range.start], mark.as_bytes(), &json[range.end..]].concat();
    Some((rest, vocab))
}

/// Place of the first `"vocab"`, which cannot stand inside a string: there its quotes are escaped.
fn find_key(json: &[u8]) -> Option<usize> {
    let last = KEY.len() - 1;
    let mut at = 0;
    // Horspool: the byte under the key's end says how far the key can move.
    loop {
        let byte = *json.get(at + last)?;
        if byte == KEY[last] && json[at..].starts_with(KEY) {
            return Some(at);
        }
        let before = KEY[..last].iter().rposition(|&b| b == byte);
        at += before.map_or(KEY.len(), |place| last - place);
    }
}

struct Scan<'a> {
    json: &'a [u8],
    at: usize,
    number_of: fn(&[u8]) -> Option<f64>,
}

impl<'a> Scan<'a> {
    /// From behind the key; the range is that of the list.
    fn vocab(mut self) -> Option<(Vocab, Range<usize>)> {
        self.token(b':')?;
        self.blanks();
        let start = self.at;
        self.token(b'[')?;
        let mut vocab = Vocab {
            kind: VocabKind::List,
            strings: Strings::with_capacity(32_768, 512 << 10),
            scores: Vec::with_capacity(32_768),
        };
        // What lies between a piece and its score, and between that and the next piece, is nearly
        // always what lay there before.
        let (mut inside, mut between): (&[u8], &[u8]) = (b"", b"");
        self.token(b'[')?;
        self.token(b'"')?;
        loop {
            self.piece(&mut vocab.strings)?;
            if inside.is_empty() || !self.skip(inside) {
                let from = self.at;
                self.token(b',')?;
                self.blanks();
                inside = &self.json[from..self.at];
            }
            vocab.scores.push(self.number()?);
            if between.is_empty() || !self.skip(between) {
                let from = self.at;
                self.token(b']')?;
                self.blanks();
                if self.byte()? == b']' {
                    self.at += 1;
                    return Some((vocab, start..self.at));
                }
                self.token(b',')?;
                self.token(b'[')?;
                self.token(b'"')?;
                between = &self.json[from..self.at];
            }
        }
    }

    fn byte(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.byte(), Some(b' ' | b'\n' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }

    /// Blanks, then this byte.
    fn token(&mut self, byte: u8) -> Option<()> {
        self.blanks();
        (self.byte()? == byte).then(|| self.at += 1)
    }

    fn skip(&mut self, bytes: &[u8]) -> bool {
        let there = self.json[self.at..].starts_with(bytes);
        self.at += if there { bytes.len() } else { 0 };
        there
    }

    /// A piece, from behind its opening quote to behind its closing one.
    fn piece(&mut self, strings: &mut Strings) -> Option<()> {
        let start = self.at;
        let mut escaped = false;
        loop {
            match self.byte()? {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    self.at += 2;
                }
                ..0x20 => return None,
                _ => self.at += 1,
            }
        }
        let end = self.at;
        self.at += 1;
        if escaped {
            let piece: String = serde_json::from_slice(self.json.get(start - 1..=end)?).ok()?;
            return strings.push(&piece).ok();
        }
        strings.push(std::str::from_utf8(&self.json[start..end]).ok()?).ok()
    }

    /// A number: bit for bit what serde_json reads, and so the `tokenizers` crate.
    fn number(&mut self) -> Option<f64> {
        let rest = &self.json[self.at..];
        let is_part = |b: &u8| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let length = rest.iter().take_while(|b| is_part(b)).count();
        self.at += length;
        let text = &rest[..length];
        (self.number_of)(text).or_else(|| serde_json::from_slice(text).ok())
    }
}

/// `-12.345` as serde_json reads it without its feature `float_roundtrip`: all digits as one
/// integer, divided by a power of ten, rounded twice. `None` for what is written otherwise.
fn quick_number(text: &[u8]) -> Option<f64> {
    let (negative, text) = match text {
        [b'-', text @ ..] => (true, text),
        text => (false, text),
    };
    // Up to 18 digits fit the integer; powers of ten are exact up to 10^22.
    if text.len() > 19 {
        return None;
    }
    let mut integer = 0;
    let mut point = None;
    for (at, &byte) in text.iter().enumerate() {
        match byte {
            b'0'..=b'9' => integer = integer * 10 + u64::from(byte - b'0'),
            b'.' if point.is_none() => point = Some(at),
            _ => return None,
        }
    }
    let before = point?;
    let after = text.len() - before - 1;
    let leads_with_zero = text[0] == b'0' && before > 1;
    if before == 0 || after == 0 || leads_with_zero {
        return None;
    }
    let value = integer as f64 / POWERS[after];
    Some(if negative { -value } else { value })
}

const POWERS: [f64; 18] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17];

/// The same numbers as serde_json reads them with `float_roundtrip`: the nearest one.
fn nearest_number(text: &[u8]) -> Option<f64> {
    quick_number(text)?; // written so
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// How serde_json was built to read such numbers: this workspace turns `float_roundtrip` on, a program that links us need not. Of the
/// probes, 17 digits long, both ways of rounding differ.
fn serde_jsons_way() -> fn(&[u8]) -> Option<f64> {
    let theirs = |text: &&str| serde_json::from_str::<f64>(text).ok();
    let is_theirs = |way: &fn(&[u8]) -> Option<f64>| PROBES.iter().all(|text| way(text.as_bytes()) == theirs(text));
    [quick_number as fn(&[u8]) -> _, nearest_number].into_iter().find(is_theirs).unwrap_or(|_| None)
}

const PROBES: [&str; 4] = ["-4.7352594099575458", "1.2987806808863543", "-6.2669656830100237", "7.1003532619084188"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_serde_jsons() {
        let way = serde_jsons_way();
        let mut state = 1u64;
        for round in 0..200_000u64 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round | 1);
            let digits = (state >> 5) % 100_000_000_000_000_000;
            let before = [state >> 60, state >> 57][round as usize % 2];
            let text = format!("-{before}.{}", digits / [1, 10, 1000][round as usize % 3]);
            if text.len() > 20 {
                continue;
            }
            let theirs: f64 = serde_json::from_str(&text).unwrap();
            assert_eq!(way(text.as_bytes()), Some(theirs), "{text}");
        }
        for text in [
            "0",
            "-0.",
            "1e5",
            "1.5e3",
            "01.5",
            ".5",
            "1.",
            ".",
            "-",
            "",
            "--1.5",
            "1.123456789012345678",
            "1.2.3",
            "+1.0",
        ] {
            assert_eq!([quick_number, nearest_number].map(|way| way(text.as_bytes())), [None; 2], "{text}");
        }
        // Both ways differ here, so that the probes tell them apart.
        for text in PROBES {
            assert_ne!(quick_number(text.as_bytes()), text.parse().ok(), "{text}");
        }
    }

    #[test]
    fn what_is_laid_out_otherwise_is_left_alone() {
        let list = |json: &str| ahead(json.as_bytes()).map(|(rest, vocab)| (rest, vocab.scores));
        let rest = b"{\"model\":{\"vocab\" :\n \"tiny-t5: read ahead\",\"x\":1}}".to_vec();
        let json = "{\"model\":{\"vocab\" :\n [ [\"a\", -1.5],[\"\\u0062\\\"\",2] ,\t[\"c\" , 0e0 ]\n],\"x\":1}}";
        assert_eq!(list(json), Some((rest, vec![-1.5, 2.0, 0.0])));
        for json in [
            "",
            "{}",
            r#"{"vocab"}"#,
            r#"{"vocab":{}}"#,
            r#"{"vocab":[]}"#,
            r#"{"vocab":[["a"]]}"#,
            r#"{"vocab":[["a",1,2]]}"#,
            r#"{"vocab":[["a",1],]}"#,
            r#"{"vocab":[["a",1]"#,
            r#"{"vocab":[["a\"#,
            r#"{"vocab":[["a",1e999]]}"#,
            r#"{"vocab":[["a",01]]}"#,
            r#"{"vocab":[["\x",1]]}"#,
            "{\"vocab\":[[\"\n\",1]]}",
        ] {
            assert_eq!(list(json), None, "{json}");
        }
    }
}
