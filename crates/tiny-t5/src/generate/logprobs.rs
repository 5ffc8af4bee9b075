//! Log-probabilities of ids that are known: of what a search found, and of choices.
//!
//! A known sequence is decoded again, many positions at once. Since an output's bits depend on nothing but its own inputs,
//! that gives exactly what the search's own steps would have, whatever the search was; and greedy search keeps its screen.

use super::{Found, Known, RESERVE, Search};
use crate::decoder::Feed;
use crate::error::Result;
use crate::kv_cache::KvCache;
use serde::Serialize;
use tiny_t5_kernels::{Isa, log_sum_exp};

/// Positions decoded together: their logits take 8 MB with T5's vocabulary.
const ROWS: usize = 64;

/// How likely a token was.
#[derive(Debug, Clone, PartialEq, Serialize)]
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
    /// `order` is a buffer.
    fn of(isa: Isa, id: u32, logits: &[f32], top: usize, order: &mut Vec<u32>) -> TokenLogprob {
        let sum = log_sum_exp(isa, logits);
        let best_first = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        order.clear();
        if top > 0 {
            order.extend(0..logits.len() as u32);
        }
        if top < order.len() {
            order.select_nth_unstable_by(top, best_first);
        }
        order.truncate(top);
        order.sort_unstable_by(best_first);
        let logprob = |id: u32| logits[id as usize] - sum;
        let top_logprobs = order.iter().map(|id| (*id, logprob(*id))).collect();
        TokenLogprob { id, logprob: logprob(id), top_logprobs }
    }
}

impl Search<'_> {
    /// Decodes `count` sequences that are known, each a source, and ids behind the start token: `get` names them. `each` gets the
    /// number of a sequence, a position, and the logits [vocab_size] of its id there, in their order. Uses the caches of the
    /// search, which must have ended.
    ///
    /// The first `done` positions of the first sequence are in its cache already; a cache has `room` for as many from the start. Between
    /// its steps it asks `go_on`, and where that says no it ends before the last sequence.
    pub(super) fn known<'s>(
        &mut self,
        count: usize,
        get: impl Fn(usize) -> (usize, &'s [u32]),
        (done, room): (usize, usize),
        go_on: impl Fn() -> bool,
        mut each: impl FnMut(usize, usize, &mut [f32]),
    ) -> Result<()> {
        let start = self.settings.prompt[0];
        let shape = self.model.cache_shape(self.decoder);
        let caches = &mut self.state.decoder.caches;
        if caches.len() < count.min(ROWS) {
            caches.resize_with(count.min(ROWS), KvCache::default);
        }
        // The sequence and the position to go on with.
        let (mut next, mut position) = (0, done);
        let mut parts = std::mem::take(&mut self.state.known.parts);
        while next < count {
            self.state.feeds.clear();
            self.state.ids.clear();
            parts.clear();
            while next < count && self.state.ids.len() < ROWS {
                let (source, ids) = get(next);
                let cache = next % ROWS; // a step has a row of each of its sequences
                if position == 0 {
                    self.state.decoder.caches[cache].reset(shape, ids.len().max(room));
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
            if !go_on() {
                break;
            }
        }
        self.state.known.parts = parts;
        Ok(())
    }

    /// Adds the log-probabilities of all sequences of all sources, where they are asked for. A sequence without a score gets one:
    /// their sum over its length to the power of length_penalty, as in beam search.
    pub(super) fn add_logprobs(&mut self, found: &mut [Vec<Found>]) -> Result<()> {
        let Some(top) = self.settings.top_logprobs else { return Ok(()) };
        let isa = self.exec.isa;
        let Known { mut texts, mut sources, mut order, parts } = std::mem::take(&mut self.state.known);
        self.state.known.parts = parts;
        texts.clear();
        sources.clear();
        for (source, found) in found.iter_mut().enumerate() {
            for found in found {
                texts.push(&[&found.ids]);
                sources.push(source);
                found.logprobs = Some(Vec::with_capacity(found.ids.len()));
            }
        }
        // One sequence comes after the other.
        let mut rest = found.iter_mut().flatten().enumerate();
        let mut current = rest.next();
        let get = |sequence: usize| (sources[sequence], texts.get(sequence));
        self.known(
            texts.len(),
            get,
            (0, 0),
            || true,
            |sequence, position, logits| {
                while current.as_ref().is_some_and(|(number, _)| *number < sequence) {
                    current = rest.next();
                }
                if let Some((_, Found { ids, logprobs: Some(logprobs), .. })) = &mut current {
                    logprobs.push(TokenLogprob::of(isa, ids[position], logits, top, &mut order));
                }
            },
        )?;
        let given = self.settings.prompt.len() - 1;
        for found in found.iter_mut().flatten() {
            let new = found.logprobs.as_ref().and_then(|all| all.get(given..)).unwrap_or_default();
            let sum = new.iter().fold(0.0, |sum, token| token.logprob + sum);
            let penalty = (new.len() as f64).powf(self.settings.length_penalty) as f32;
            found.score = found.score.or(Some(sum / penalty));
        }
        let parts = std::mem::take(&mut self.state.known.parts);
        self.state.known = Known { texts, sources, order, parts };
        Ok(())
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
        let mut order = std::mem::take(&mut self.state.known.order);
        let room = self.settings.prompt.len() + self.settings.max_new_tokens.min(RESERVE);
        std::mem::swap(caches, &mut self.state.decoder.caches);
        let result = self.known(
            1,
            |_| (0, ids),
            (done, room),
            || true,
            |_, position, logits| {
                new.push(TokenLogprob::of(isa, ids[position], logits, top, &mut order));
            },
        );
        std::mem::swap(caches, &mut self.state.decoder.caches);
        self.state.known.order = order;
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
            let of = |top| TokenLogprob::of(isa, 5, &logits, top, &mut Vec::new());
            let ids = |top| of(top).top_logprobs.iter().map(|(id, _)| *id).collect::<Vec<_>>();
            assert_eq!(ids(0), [0u32; 0]);
            assert_eq!(ids(1), [1]);
            assert_eq!(ids(3), [1, 3, 2]);
            assert_eq!(ids(6), [1, 3, 2, 0, 5, 4]);
            let of = of(6);
            let sum: f32 = of.top_logprobs.iter().map(|(_, logprob)| logprob.exp()).sum();
            assert!((sum - 1.0).abs() < 1e-6 && of.logprob == of.top_logprobs[4].1);
        }
    }
}
