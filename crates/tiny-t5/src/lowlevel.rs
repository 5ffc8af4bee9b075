//! The steps below [`T5::generate`]: an encoder pass, a decoder with its caches, hidden states and logits. No other call needs
//! them; they are for a search of one's own.
//!
//! ```
//! # #[cfg(feature = "embedded")] {
//! use tiny_t5::{Load, T5};
//!
//! let t5 = T5::embedded(&Load::default())?;
//! let mut decoder = t5.decoder(&t5.encode("hello")?)?;
//! let (mut next, mut ids) = (t5.config().decoder_start_token_id, Vec::new());
//! while !t5.config().eos_token_id.contains(&next) && ids.len() < 20 {
//!     decoder.push(&[next])?; // one token, or several at once
//!     let logits = decoder.logits()?.values; // [1, vocab_size]
//!     next = (0..logits.len()).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap_or(0) as u32;
//!     ids.push(next);
//! }
//! assert_eq!(ids, t5.generate("hello", &Default::default())?.sequences[0].ids);
//!
//! let other = decoder.clone(); // goes its own way from here
//! decoder.truncate(1); // forgets all but the first token
//! assert_eq!((decoder.len(), other.len()), (1, ids.len()));
//! # }
//! # Ok::<_, tiny_t5::Error>(())
//! ```

use crate::decoder::{self, Feed};
use crate::embed::Encoding;
use crate::error::{Error, Result};
use crate::kv_cache::KvCache;
use crate::score::Logits;
use crate::stack::Scratch;
use crate::t5::T5;
use tiny_t5_kernels::padded;

/// Positions beyond which a text is surely a mistake.
const MAX_POSITIONS: usize = 1 << 20;

/// The decoder at work on one source: the keys and values of the source, and those of the tokens that it was given.
///
/// A clone has caches of its own and the same model. Numbers are those of [`T5::logits`], to the bit, however the tokens are cut
/// into pushes.
#[derive(Clone)]
pub struct Decoder {
    t5: T5,
    /// One cache in each: of the source, and of the tokens.
    sources: Vec<KvCache>,
    caches: Vec<KvCache>,
    /// Of the last push: [ids, padded(d_model)].
    hidden: Vec<f32>,
}

impl T5 {
    /// A decoder that looks at an encoded source: [`T5::encode`]. It holds no tokens yet; the first to push is
    /// `config().decoder_start_token_id`. See [`lowlevel`](crate::lowlevel).
    ///
    /// # Errors
    /// Where the checkpoint is not for conditional generation, or the hidden states are not [ids, d_model].
    pub fn decoder(&self, encoding: &Encoding) -> Result<Decoder> {
        let (decoder, _) = self.generator("decoder")?;
        let (model, stride, d_model) = (self.model(), self.model().shape.stride(), self.config().d_model);
        let Encoding { input_ids, hidden, .. } = encoding;
        if input_ids.is_empty() || encoding.d_model != d_model || hidden.len() != input_ids.len() * d_model {
            let found = format!("{} numbers of {} ids, d_model {}", hidden.len(), input_ids.len(), encoding.d_model);
            return Err(Error::input(
                "encoding",
                found,
                format!("[ids, d_model] of at least one id, d_model {d_model}"),
            ));
        }
        let mut rows = vec![0.0; input_ids.len() * stride];
        for (to, row) in rows.chunks_exact_mut(stride).zip(hidden.chunks_exact(d_model)) {
            to[..d_model].copy_from_slice(row);
        }
        Ok(self.with_state(|exec, state| {
            let decoding = &mut state.decoder;
            decoder::receive(model, decoding, decoder, &[input_ids]);
            let scratch = &mut Scratch::for_team(&mut state.scratch, exec.team)[0];
            decoder::project(model, exec, scratch, &mut decoding.sources[..1], decoder, &rows, &[input_ids]);
            decoder::begin(model, decoding, decoder, 1, decoder::TOGETHER);
            let (source, cache) = (std::mem::take(&mut decoding.sources[0]), std::mem::take(&mut decoding.caches[0]));
            Decoder { t5: self.clone(), sources: vec![source], caches: vec![cache], hidden: Vec::new() }
        }))
    }
}

impl Decoder {
    /// Tokens that it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.caches[0].len()
    }

    /// It holds no token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Decodes tokens behind those that it holds; each sees itself and all before it. Several at once read the weights once.
    ///
    /// # Errors
    /// Where there are no ids, one is not of the vocabulary, or there would be more than 1048576 tokens; then nothing changes.
    pub fn push(&mut self, ids: &[u32]) -> Result<()> {
        let Decoder { t5, sources, caches, hidden } = self;
        let (decoder, _) = t5.generator("decoder")?;
        let (model, vocab_size, len) = (t5.model(), t5.config().vocab_size, caches[0].len());
        if ids.is_empty() {
            return Err(Error::input("decoder ids", "an empty list of ids", "at least one id"));
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocab_size) {
            return Err(Error::input("decoder ids", format!("id {id}"), format!("ids below vocab_size, {vocab_size}")));
        }
        if ids.len() > MAX_POSITIONS - len {
            let found = format!("{} tokens behind {len}", ids.len());
            return Err(Error::input("decoder ids", found, format!("at most {MAX_POSITIONS} in all")));
        }
        hidden.clear();
        t5.with_state(|exec, state| {
            let decoding = &mut state.decoder;
            for ids in ids.chunks(decoder::TOGETHER) {
                let feed = Feed { cache: 0, source: 0, rows: 0..ids.len() };
                std::mem::swap(&mut decoding.sources, sources);
                std::mem::swap(&mut decoding.caches, caches);
                decoder::decode(model, exec, &mut state.scratch, decoding, (decoder, &model.packed), &[feed], ids);
                std::mem::swap(&mut decoding.sources, sources);
                std::mem::swap(&mut decoding.caches, caches);
                hidden.extend_from_slice(&decoding.hidden[..ids.len() * model.shape.stride()]);
            }
        });
        Ok(())
    }

    /// The hidden states of the last push: for each of its ids a row `[d_model]`, behind the final norm, and scaled where
    /// transformers scales before a tied output matrix.
    #[must_use]
    pub fn hidden(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        let d_model = self.t5.config().d_model;
        self.hidden.chunks_exact(padded(d_model)).map(move |row| &row[..d_model])
    }

    /// The logits of the last push: for each of its ids a row `[vocab_size]`, about the token that follows it.
    ///
    /// # Errors
    /// Where there is no memory for the packed output matrix, which the first call makes.
    pub fn logits(&self) -> Result<Logits> {
        let (_, head) = self.t5.generator("decoder")?;
        let (model, vocab_size) = (self.t5.model(), self.t5.config().vocab_size);
        let rows = self.hidden.len() / model.shape.stride();
        let (mut logits, mut values) = (Vec::new(), Vec::with_capacity(rows * vocab_size));
        self.t5.with_state(|exec, _| {
            let logits = head.logits(model, exec, &self.hidden, rows, &mut logits)?;
            logits.chunks_exact(padded(vocab_size)).for_each(|row| values.extend_from_slice(&row[..vocab_size]));
            Ok::<_, Error>(())
        })?;
        Ok(Logits { values, vocab_size })
    }

    /// Forgets the tokens from `len` on; the last push's hidden states stay.
    pub fn truncate(&mut self, len: usize) {
        self.caches[0].truncate(len);
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("t5", &self.t5).field("len", &self.len()).finish_non_exhaustive()
    }
}
