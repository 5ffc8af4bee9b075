//! The model that is part of the library: English spelling to IPA.
//!
//! Its weights lie in the library at 12 bits each (`build.rs` makes them so, without loss), and are the released file again, byte
//! for byte, while they are packed. Then the embedding alone is kept of it.

use crate::error::{Error, Result};
use crate::load::Load;
use crate::t5::T5;
use crate::tokenizer::Tokenizer;
use std::time::Instant;
use tiny_t5_checkpoint::Checkpoint;
use tiny_t5_kernels::{Arena, Team, expand};

macro_rules! file {
    ($include:ident, $name:literal) => {
        $include!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/g2p-ipa/", $name))
    };
}

impl T5 {
    /// The model compiled into the library: English spelling to IPA.
    ///
    /// ```
    /// let t5 = tiny_t5::T5::embedded(&tiny_t5::Load::default())?;
    /// assert_eq!(t5.generate("hello", &Default::default())?.text(), "həˈloʊ");
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// Where the system gives no memory.
    pub fn embedded(load: &Load) -> Result<T5> {
        let start = Instant::now();
        let (config, generation) = (file!(include_str, "config.json"), file!(include_str, "generation_config.json"));
        let checkpoint = |team: &Team| Ok(Checkpoint::from_owned(config, Some(generation), Box::new(weights(team)?))?);
        let open_tokenizer = || Ok(Some(Tokenizer::from_json(file!(include_bytes, "tokenizer.json"), None)?));
        T5::assemble(Box::new(checkpoint), load, start, Box::new(open_tokenizer))
    }
}

/// The bytes of model.safetensors.
fn weights(team: &Team) -> Result<Arena> {
    let compact = include_bytes!(concat!(env!("OUT_DIR"), "/model.compact"));
    // 12 bits become 16; the exact size is in the form itself.
    let bytes = compact.len() / 3 * 4;
    expand(team, compact).map_err(|source| Error::Memory { what: "the embedded weights", bytes, source })
}

#[cfg(test)]
#[path = "../build/compact.rs"]
mod compact;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn weights_are_the_released_file() {
        for threads in [1, 3] {
            let found = Team::enter(threads, weights).unwrap();
            assert!(found.bytes() == file!(include_bytes, "model.safetensors"), "{threads} threads");
        }
        let compact = include_bytes!(concat!(env!("OUT_DIR"), "/model.compact")).len();
        let released = file!(include_bytes, "model.safetensors").len();
        assert!(compact * 100 < released * 76, "{compact} bytes for {released}");
    }

    /// Compacts and expands `before` and `words`.
    fn assert_comes_back(before: &[u8], words: &[u16]) {
        let mut bytes = before.to_vec();
        bytes.extend(words.iter().flat_map(|w| w.to_le_bytes()));
        let compact = compact::compact(&bytes, before.len()..bytes.len());
        let found = expand(&Team::new(2), &compact).unwrap();
        assert!(found.bytes() == bytes, "{} bytes, {} words: {words:?}", before.len(), words.len());
    }

    #[test]
    fn expand_gives_back_every_word_at_every_place() {
        // All 2^16 words: zeros of both signs, denormal numbers, infinities, every NaN.
        let all: Vec<u16> = (0..=u16::MAX).collect();
        assert_comes_back(b"header", &all);
        // Neighbours of far exponents, so that most of each block are exceptions.
        let scattered: Vec<u16> = all.iter().map(|w| w.wrapping_mul(0x6487)).collect();
        assert_comes_back(b"", &scattered);
        for word in [0, 0x8000, 1, 0x8001, 0x7f80, 0xff80, 0x7fc0, 0xffff] {
            assert_comes_back(b"", &vec![word; 5000]);
            let mut ones = vec![0x3f80; 4100];
            for at in [0, 31, 4095, 4096, 4099] {
                ones[at] = word;
            }
            assert_comes_back(b"odd", &ones);
        }
    }

    #[test]
    fn expand_gives_back_every_length() {
        for len in (0..100).chain([4095, 4096, 4097, 8191, 3 << 20, (3 << 20) + 17]) {
            let words: Vec<u16> = (0..len).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u16).collect();
            assert_comes_back(&vec![7; len as usize % 9], &words);
        }
    }

    proptest! {
        #[test]
        fn expand_gives_back_any_words(words: Vec<u16>, before: Vec<u8>) {
            assert_comes_back(&before, &words);
        }
    }
}
