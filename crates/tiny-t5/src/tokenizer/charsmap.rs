//! SentencePiece's `precompiled_charsmap`: which characters are replaced by what.
//!
//! Layout: u32 size of the trie in bytes, the trie (a Darts double array of little-endian u32),
//! then all replacements, each ended by a zero byte; a trie value is the place of a replacement.
//! The trie is used where it lies. What is looked up, and in which order, is the way of the
//! `tokenizers` crate: a grapheme of up to five bytes first, and of its prefixes in the trie the
//! shortest wins; then each of its characters.

use super::error::TokenizerError;
use super::normalizer::TooLong;
use unicode_segmentation::UnicodeSegmentation;

/// T5's has 237,539 bytes.
const MAX_BYTES: usize = 16 << 20;

const EXPECTED: &str = "a SentencePiece character map (u32 trie size, trie, replacements)";

pub(super) struct Charsmap {
    blob: Vec<u8>,
    /// Bytes of the trie; it begins at byte 4, and the replacements (UTF-8) behind it.
    trie: usize,
    /// For each ASCII character, whether the trie must be asked.
    ascii: [bool; 128],
}

impl Charsmap {
    /// `file` names the file in an error.
    pub(super) fn new(blob: Vec<u8>, file: &str) -> Result<Self, TokenizerError> {
        let bad = |found: String| TokenizerError::format(file, found, EXPECTED);
        if blob.len() > MAX_BYTES {
            return Err(bad(format!("precompiled_charsmap of {} bytes", blob.len())));
        }
        let Some((size, rest)) = blob.split_first_chunk::<4>() else {
            return Err(bad(format!("precompiled_charsmap of {} bytes", blob.len())));
        };
        let trie = u32::from_le_bytes(*size) as usize / 4 * 4;
        if trie == 0 || trie > rest.len() {
            return Err(bad(format!("precompiled_charsmap with a trie of {trie} bytes in {}", blob.len())));
        }
        if std::str::from_utf8(&rest[trie..]).is_err() {
            return Err(bad("precompiled_charsmap whose replacements are not UTF-8".into()));
        }
        let mut map = Self { blob, trie, ascii: [false; 128] };
        for byte in 1..128u8 {
            map.ascii[byte as usize] = map.replacement(&[byte]).is_some();
        }
        map.ascii[b'\r' as usize] = true; // "\r\n" is one grapheme
        Ok(map)
    }

    fn unit(&self, at: usize) -> Option<u32> {
        let place = at.checked_mul(4).filter(|&place| place < self.trie)? + 4;
        let bytes = self.blob.get(place..)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*bytes))
    }

    /// Replacement of the shortest prefix of `text` that the trie knows.
    fn replacement(&self, text: &[u8]) -> Option<&str> {
        // A unit: bits 0 to 7 label, 8 "a value follows", 9 "offset is 256 times larger", 10 to 31
        // offset; a value has bit 31 unset.
        let offset = |unit: u32| ((unit >> 10) as usize) << ((unit & (1 << 9)) >> 6);
        let mut at = offset(self.unit(0)?);
        for &byte in text {
            if byte == 0 {
                return None;
            }
            at ^= byte as usize;
            let unit = self.unit(at)?;
            if unit & (1 << 31 | 0xff) != byte as u32 {
                return None;
            }
            at ^= offset(unit);
            if unit & (1 << 8) != 0 {
                let start = (self.unit(at)? & !(1 << 31)) as usize;
                let rest = self.blob[4 + self.trie..].get(start..)?;
                let end = rest.iter().position(|&byte| byte == 0).unwrap_or(rest.len());
                // Only a place inside a character, in a map that lies, is no string.
                return std::str::from_utf8(&rest[..end]).ok();
            }
        }
        None
    }

    /// Appends `text` with its characters replaced.
    pub(super) fn apply(&self, text: &str, out: &mut String, most: usize) -> Result<(), TooLong> {
        let bytes = text.as_bytes();
        // Between two ASCII characters there is a grapheme boundary, save inside "\r\n".
        let boundary = |at: usize| {
            at == bytes.len()
                || bytes[at - 1].is_ascii() && bytes[at].is_ascii() && !(bytes[at - 1] == b'\r' && bytes[at] == b'\n')
        };
        let mut start = 0;
        while start < bytes.len() {
            let plain = bytes[start..].iter().take_while(|b| b.is_ascii() && !self.ascii[**b as usize]);
            let mut end = start + plain.count();
            // The last of them may carry a combining mark.
            if end > start && !boundary(end) {
                end -= 1;
            }
            out.push_str(&text[start..end]);
            if end == bytes.len() {
                break;
            }
            start = end;
            end += 1;
            while !boundary(end) {
                end += 1;
            }
            for grapheme in text[start..end].graphemes(true) {
                self.apply_grapheme(grapheme, out, most)?;
            }
            start = end;
        }
        Ok(())
    }

    fn apply_grapheme(&self, grapheme: &str, out: &mut String, most: usize) -> Result<(), TooLong> {
        if grapheme.len() < 6
            && let Some(replacement) = self.replacement(grapheme.as_bytes())
        {
            out.push_str(replacement);
            return if out.len() > most { Err(TooLong) } else { Ok(()) };
        }
        let mut buffer = [0; 4];
        for character in grapheme.chars() {
            let character = character.encode_utf8(&mut buffer);
            match self.replacement(character.as_bytes()) {
                Some(replacement) => out.push_str(replacement),
                None => out.push_str(character),
            }
            if out.len() > most {
                return Err(TooLong);
            }
        }
        Ok(())
    }
}
