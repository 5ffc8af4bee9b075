//! Log-probabilities of ids that are known: of what a search found, and of choices.
//!
//! A known sequence is decoded again, many positions at once. Since an output's bits depend on nothing but its own inputs,
//! that gives exactly what the search's own steps would have, whatever the search was; and greedy search keeps its screen.

use super::{Found, Search};
use crate::decoder::Feed;
use crate::error::Result;
use crate::kv_cache::KvCache;
use tiny_t5_kernels::{Isa, log_sum_exp};

/// Positions decoded together: their logits take 8 MB with T5's vocabulary.
const ROWS: usize = 64;

/// How likely a token was.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TokenLogprob {
    /// The token.
    pub id: u32,
    /// The natural logarithm of the probability that the model gave it, given the source and the ids before it: before
    /// processors and sampling changed anything, so that all tokens' probabilities sum to 1.
    pub logprob: f32,
    /// The `top_logprobs` most likely tokens there and their log-probabilities, best first, of equals the lower id.
    pub top_logprobs: Vec<(u32, f32)>,
}

impl TokenLogprob {
    fn of(isa: Isa, id: u32, logits: &[f32], top: usize) -> TokenLogprob {
        let sum = log_sum_exp(isa, logits);
        let best_first = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        let mut ids: Vec<u32> = if top > 0 { (0..logits.len() as u32).collect() } else { Vec::new() };
        if top < ids.len() && top > 0 {
            ids.select_nth_unstable_by(top, best_first);
        }
        ids.truncate(top);
        ids.sort_unstable_by(best_first);
        let logprob = |id: u32| logits[id as usize] - sum;
        TokenLogprob { id, logprob: logprob(id), top_logprobs: ids.into_iter().map(|id| (id, logprob(id))).collect() }
    }
}

impl Search<'_> {
    /// Decodes sequences that are known: each a source, and ids behind the start token. `each` gets the number of a sequence,
    /// a position, and the logits [vocab_size] of its id there. Uses the caches of the search, which must have ended.
    ///
    /// The first `done` positions of the first sequence are in its cache already.
    pub(super) fn known(
        &mut self,
        sequences: &[(usize, &[u32])],
        done: usize,
        mut each: impl FnMut(usize, usize, &mut [f32]),
    ) -> Result<()> {
        let start = self.settings.prompt[0];
        let (layers, heads) = (self.decoder.blocks.len(), self.model.shape.heads);
        let caches = &mut self.state.decoder.caches;
        if caches.len() < sequences.len().min(ROWS) {
            caches.resize_with(sequences.len().min(ROWS), KvCache::default);
        }
        // The sequence and the position to go on with.
        let (mut next, mut position) = (0, done);
        let mut parts = Vec::new();
        while next < sequences.len() {
            self.state.feeds.clear();
            self.state.ids.clear();
            parts.clear();
            while next < sequences.len() && self.state.ids.len() < ROWS {
                let (source, ids) = sequences[next];
                let cache = next % ROWS; // a call has no more sequences than rows
                if position == 0 {
                    self.state.decoder.caches[cache].reset(layers, heads.heads, heads.d_kv, ids.len());
                }
                let first = self.state.ids.len();
                let end = ids.len().min(position + ROWS - first);
                if position < end {
                    let inputs = (position..end).map(|p| if p == 0 { start } else { ids[p - 1] });
                    self.state.ids.extend(inputs);
                    self.state.feeds.push(Feed { cache, source, rows: first..self.state.ids.len() });
                    parts.push((next, position, first));
                }
                (next, position) = if end >= ids.len() { (next + 1, 0) } else { (next, end) };
            }
            let rows = self.state.ids.len();
            if rows == 0 {
                break;
            }
            let mut logits = self.logits()?;
            for (i, (sequence, position, first)) in parts.iter().enumerate() {
                let end = parts.get(i + 1).map_or(rows, |(_, _, first)| *first);
                (*first..end).for_each(|row| each(*sequence, position + row - first, logits.row(row)));
            }
        }
        Ok(())
    }

    /// The log-probabilities of all sequences of all sources, one behind the other, where they are asked for. A sequence
    /// without a score gets one: their sum over its length to the power of length_penalty, as in beam search.
    pub(super) fn found_logprobs(&mut self, found: &mut [Vec<Found>]) -> Result<Vec<Vec<TokenLogprob>>> {
        let Some(top) = self.settings.top_logprobs else { return Ok(Vec::new()) };
        let of_source = |(source, found): (usize, &'_ _)| -> Vec<(usize, Vec<u32>)> {
            let found: &Vec<Found> = found;
            found.iter().map(|f| (source, f.ids.clone())).collect()
        };
        let owned: Vec<(usize, Vec<u32>)> = found.iter().enumerate().flat_map(of_source).collect();
        let sequences: Vec<(usize, &[u32])> = owned.iter().map(|(source, ids)| (*source, &ids[..])).collect();
        let isa = self.exec.isa;
        let mut all: Vec<Vec<TokenLogprob>> = sequences.iter().map(|(_, ids)| Vec::with_capacity(ids.len())).collect();
        self.known(&sequences, 0, |sequence, position, logits| {
            all[sequence].push(TokenLogprob::of(isa, sequences[sequence].1[position], logits, top));
        })?;
        let given = self.settings.prompt.len() - 1;
        for (found, logprobs) in found.iter_mut().flatten().zip(&all) {
            let new = logprobs.get(given..).unwrap_or_default();
            let sum = new.iter().fold(0.0, |sum, token| token.logprob + sum);
            let penalty = (new.len() as f64).powf(self.settings.length_penalty) as f32;
            found.score = found.score.or(Some(sum / penalty));
        }
        Ok(all)
    }

    /// The log-probabilities of `ids` behind `done` of them, while the search goes on: `caches` are not its own, and hold the
    /// first `done`.
    pub(crate) fn follow(
        &mut self,
        caches: &mut Vec<KvCache>,
        ids: &[u32],
        done: usize,
        top: usize,
    ) -> Result<Vec<TokenLogprob>> {
        let isa = self.exec.isa;
        let mut new = Vec::with_capacity(ids.len() - done);
        std::mem::swap(caches, &mut self.state.decoder.caches);
        let result = self.known(&[(0, ids)], done, |_, position, logits| {
            new.push(TokenLogprob::of(isa, ids[position], logits, top));
        });
        std::mem::swap(caches, &mut self.state.decoder.caches);
        result.map(|()| new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_logprobs_are_the_best_and_of_equals_the_lower_ids() {
        let logits = [1.0, 3.0, 2.0, 3.0, f32::NEG_INFINITY, 0.0];
        for isa in Isa::available() {
            let ids =
                |top| TokenLogprob::of(isa, 5, &logits, top).top_logprobs.iter().map(|(id, _)| *id).collect::<Vec<_>>();
            assert_eq!(ids(0), [0u32; 0]);
            assert_eq!(ids(1), [1]);
            assert_eq!(ids(3), [1, 3, 2]);
            assert_eq!(ids(6), [1, 3, 2, 0, 5, 4]);
            let of = TokenLogprob::of(isa, 5, &logits, 6);
            let sum: f32 = of.top_logprobs.iter().map(|(_, logprob)| logprob.exp()).sum();
            assert!((sum - 1.0).abs() < 1e-6 && of.logprob == of.top_logprobs[4].1);
        }
    }
}
