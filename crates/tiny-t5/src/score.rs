//! What the model thinks of a given target: its logits and log-probabilities.

use crate::desk::Desk;
use crate::error::Result;
use crate::input::Source;
use crate::t5::T5;
use serde::Serialize;
use tiny_t5_kernels::{log_sum_exp, padded};

/// How likely a target is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Score {
    /// The target's ids.
    pub target_ids: Vec<u32>,
    /// The mean negative log-likelihood of the ids: transformers' `loss` with them as labels.
    pub loss: f32,
    /// The natural logarithm of each id's probability, given the source and the ids before it.
    pub token_logprobs: Vec<f32>,
}

/// Logits [positions, vocab_size], row-major.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Logits {
    /// The numbers.
    pub values: Vec<f32>,
    /// Columns.
    pub vocab_size: usize,
}

impl T5 {
    /// How likely `target` is, given `source`. A target text gets the end token that the tokenizer appends; ids are taken as
    /// they are.
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// let t5 = tiny_t5::T5::embedded(&tiny_t5::Load::default())?;
    /// let likely = t5.score("hello", "həˈloʊ")?.loss;
    /// let unlikely = t5.score("hello", "ˈwɝld")?.loss;
    /// assert!(likely < unlikely);
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// Where the source or the target is not valid, or the checkpoint is not for conditional generation.
    pub fn score<'a>(&self, source: impl Into<Source<'a>>, target: impl Into<Source<'a>>) -> Result<Score> {
        self.at_desk(|desk| self.score_at(desk, source.into(), target.into()))
    }

    pub(crate) fn score_at(&self, desk: &mut Desk, source: Source<'_>, target: Source<'_>) -> Result<Score> {
        let target_ids = self.ids_of("target", target)?;
        let isa = self.isa_value();
        let mut token_logprobs = Vec::with_capacity(target_ids.len());
        let mut targets = target_ids.iter();
        self.forced("score", desk, source, &target_ids, |row| {
            if let Some(id) = targets.next() {
                token_logprobs.push(row[*id as usize] - log_sum_exp(isa, row));
            }
        })?;
        // f32 would lose a ten-thousandth over thousands of tokens.
        let sum: f64 = token_logprobs.iter().map(|logprob| f64::from(*logprob)).sum();
        let loss = (-sum / target_ids.len() as f64) as f32;
        Ok(Score { target_ids, loss, token_logprobs })
    }

    /// The logits of every position where the decoder is given `target`: row i is of the position that should yield target
    /// id i. Before the output matrix the decoder's states are scaled as transformers does.
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// let t5 = tiny_t5::T5::embedded(&tiny_t5::Load::default())?;
    /// let logits = t5.logits("hello", "həˈloʊ")?;
    /// assert_eq!(logits.values.len() % logits.vocab_size, 0);
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`T5::score`].
    pub fn logits<'a>(&self, source: impl Into<Source<'a>>, target: impl Into<Source<'a>>) -> Result<Logits> {
        self.at_desk(|desk| self.logits_at(desk, source.into(), target.into()))
    }

    pub(crate) fn logits_at(&self, desk: &mut Desk, source: Source<'_>, target: Source<'_>) -> Result<Logits> {
        let target_ids = self.ids_of("target", target)?;
        let vocab_size = self.config().vocab_size;
        let mut values = Vec::with_capacity(target_ids.len() * vocab_size);
        self.forced("logits", desk, source, &target_ids, |row| values.extend_from_slice(row))?;
        Ok(Logits { values, vocab_size })
    }

    fn forced(
        &self,
        call: &'static str,
        desk: &mut Desk,
        source: Source<'_>,
        target: &[u32],
        mut each: impl FnMut(&[f32]),
    ) -> Result<()> {
        let (decoder, head) = self.generator(call)?;
        let mut ids = std::mem::take(&mut desk.source);
        self.ids_into("source", source, &mut ids)?;
        let start = self.config().decoder_start_token_id; // as transformers' loss, whatever generation begins with
        let mut decoder_ids = std::mem::take(&mut desk.given);
        shift_right(start, target, &mut decoder_ids);
        let vocab_size = self.config().vocab_size;
        let result = desk.run(self, |exec, state| {
            let mut logits = std::mem::take(&mut state.logits);
            let result = self.decoder_states(decoder, exec, state, &ids, &decoder_ids, |hidden, rows| {
                let logits = head.logits(self.model(), exec, hidden, rows, &mut logits)?;
                logits.chunks_exact(padded(vocab_size)).for_each(|row| each(&row[..vocab_size]));
                Ok(())
            });
            state.logits = logits;
            result
        });
        decoder_ids.clear();
        (desk.source, desk.given) = (ids, decoder_ids);
        result
    }
}

/// transformers' `_shift_right`: the decoder's ids that should yield the target's.
pub(crate) fn shift_right(start: u32, target: &[u32], ids: &mut Vec<u32>) {
    ids.clear();
    ids.push(start);
    ids.extend_from_slice(&target[..target.len() - 1]);
}
