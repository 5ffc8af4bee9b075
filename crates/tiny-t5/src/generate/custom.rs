//! What a caller's own code decides: scores, allowed tokens, when to stop. transformers' `logits_processor`,
//! `stopping_criteria` and `prefix_allowed_tokens_fn`, as closures.

use super::choices::Choices;
use super::processors::{Context, Failure};
use crate::error::Error;

type LogitsProcessor<'a> = dyn Fn(&Context<'_>, &mut [f32]) + Send + Sync + 'a;
type StoppingCriteria<'a> = dyn Fn(&Context<'_>) -> bool + Send + Sync + 'a;
type PrefixAllowedTokens<'a> = dyn Fn(&Context<'_>) -> Vec<u32> + Send + Sync + 'a;

/// A caller's own rules beside [`Generate`](crate::Generate)'s: for [`T5::generate_with`](crate::T5::generate_with) and its kin.
///
/// They hold in greedy search, sampling, beams, batches and streams. A closure may be called from several threads; where it
/// panics, the call does, and the model can be used again.
///
/// ```
/// # #[cfg(feature = "embedded")] {
/// use tiny_t5::{Custom, Generate, Load, T5};
///
/// let t5 = T5::embedded(&Load::default())?;
/// let o = t5.answer_token("o")? as usize;
/// let custom = Custom::new()
///     .logits_processor(move |_, scores| scores[o] = f32::NEG_INFINITY) // no sound o
///     .stopping_criteria(|context| context.new_ids().len() >= 5);
/// let answer = t5.generate_with("hello", &Generate::default(), &custom)?;
/// assert!(!answer.text().contains('o') && answer.sequences[0].ids.len() <= 5);
/// # }
/// # Ok::<_, tiny_t5::Error>(())
/// ```
pub struct Custom<'a> {
    logits_processors: Vec<Box<LogitsProcessor<'a>>>,
    stopping_criteria: Vec<Box<StoppingCriteria<'a>>>,
    prefix_allowed_tokens: Option<Box<PrefixAllowedTokens<'a>>>,
    choices: Option<&'a Choices>,
    first_index: usize,
}

/// Of calls without rules.
pub(crate) static NO_RULES: Custom<'static> = Custom::new();

impl<'a> Custom<'a> {
    /// No rule.
    #[must_use]
    pub const fn new() -> Custom<'a> {
        Custom {
            logits_processors: Vec::new(),
            stopping_criteria: Vec::new(),
            prefix_allowed_tokens: None,
            choices: None,
            first_index: 0,
        }
    }

    /// Changes the scores `[vocab_size]` of the next token: logits; log-probabilities in beam search and where choices are scored. Behind
    /// the built-in processors and before temperature and what follows it; more than one run in the order given.
    #[must_use]
    pub fn logits_processor(mut self, change: impl Fn(&Context<'_>, &mut [f32]) + Send + Sync + 'a) -> Custom<'a> {
        self.logits_processors.push(Box::new(change));
        self
    }

    /// Ends a sequence, with [`Finish::Stopped`](crate::Finish), behind the token that makes this true; in beam search a beam
    /// that it ends is a finished one. Of more than one any may end it.
    #[must_use]
    pub fn stopping_criteria(mut self, stop: impl Fn(&Context<'_>) -> bool + Send + Sync + 'a) -> Custom<'a> {
        self.stopping_criteria.push(Box::new(stop));
        self
    }

    /// The ids that may come next; all others get minus infinity, inside beams too. An empty list, or one of which the other
    /// rules leave nothing, is an error. A forbidden sequence is never returned: beam search may bring fewer than
    /// `num_return_sequences`.
    #[must_use]
    pub fn prefix_allowed_tokens(
        mut self,
        allowed: impl Fn(&Context<'_>) -> Vec<u32> + Send + Sync + 'a,
    ) -> Custom<'a> {
        self.prefix_allowed_tokens = Some(Box::new(allowed));
        self
    }

    /// The output is one of these: see [`Choices`].
    #[must_use]
    pub fn choices(mut self, choices: &'a Choices) -> Custom<'a> {
        self.choices = Some(choices);
        self
    }

    /// The place of the call's first source among all of a job that is cut into several calls; 0 where left out. Sampling
    /// numbers sources by their place, so a job's samples do not depend on where it is cut.
    #[must_use]
    pub fn first_index(mut self, index: usize) -> Custom<'a> {
        self.first_index = index;
        self
    }

    /// No rule of the caller's.
    pub(crate) fn is_empty(&self) -> bool {
        self.logits_processors.is_empty()
            && self.stopping_criteria.is_empty()
            && self.prefix_allowed_tokens.is_none()
            && self.choices.is_none()
    }

    /// The place of a source of the call.
    pub(crate) fn index(&self, source: usize) -> usize {
        self.first_index.wrapping_add(source)
    }

    /// The list that outputs are chosen from.
    pub(crate) fn chosen_from(&self) -> Option<&'a Choices> {
        self.choices
    }

    /// Some tokens cannot come at all, so that a beam may have fewer ways on than there are beams.
    pub(crate) fn constrains(&self) -> bool {
        self.prefix_allowed_tokens.is_some() || self.choices.is_some()
    }

    /// One of the stop rules holds.
    pub(crate) fn stops(&self, context: &Context<'_>) -> bool {
        self.stopping_criteria.iter().any(|stop| stop(context))
    }

    /// There are stop rules.
    pub(crate) fn may_stop(&self) -> bool {
        !self.stopping_criteria.is_empty()
    }

    /// Some rule changes scores, and may change all of them.
    pub(crate) fn changes_scores(&self) -> bool {
        !self.logits_processors.is_empty() || self.constrains()
    }

    /// What stands where transformers has `prefix_allowed_tokens_fn`. A list that is none is told at the end of the step.
    pub(crate) fn allow(&self, context: &Context<'_>, scores: &mut [f32], failure: &Failure) {
        let Some(allowed) = &self.prefix_allowed_tokens else { return };
        let mut allowed = allowed(context);
        allowed.sort_unstable();
        let vocab_size = scores.len();
        let [found, expected] = match allowed.iter().find(|id| **id as usize >= vocab_size) {
            Some(id) => [id.to_string(), format!("ids below vocab_size, {vocab_size}")],
            None if allowed.is_empty() => ["an empty list".into(), "at least one id".into()],
            None => return keep(allowed.into_iter(), scores),
        };
        failure.set(|| Error::option(PREFIX, found, expected));
    }

    /// What stands behind all built-in processors but the last normalisation. Where one sequence is `alone`, without beams, it
    /// must have a way on.
    pub(crate) fn change(&self, context: &Context<'_>, scores: &mut [f32], alone: bool, failure: &Failure) {
        self.logits_processors.iter().for_each(|change| change(context, scores));
        // A beam without a way on dies, and others live; a row alone has to go on.
        if alone && self.prefix_allowed_tokens.is_some() && scores.iter().all(|score| *score == f32::NEG_INFINITY) {
            failure.set(no_way_on);
        }
        if let Some(choices) = self.choices {
            choices.keep(context, scores);
        }
    }
}

impl Default for Custom<'_> {
    fn default() -> Self {
        Custom::new()
    }
}

impl std::fmt::Debug for Custom<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Custom")
            .field("logits_processors", &self.logits_processors.len())
            .field("stopping_criteria", &self.stopping_criteria.len())
            .field("prefix_allowed_tokens", &self.prefix_allowed_tokens.is_some())
            .field("choices", &self.choices)
            .field("first_index", &self.first_index)
            .finish()
    }
}

/// What beam search says where every beam is at an end that none may take.
pub(super) fn no_way_on() -> Error {
    Error::option(PREFIX, "no id that the other rules allow as well", "at least one")
}

const PREFIX: &str = "prefix_allowed_tokens";

/// Forbids all but some ids, which ascend.
pub(super) fn keep(ids: impl Iterator<Item = u32>, scores: &mut [f32]) {
    let mut next = 0;
    for id in ids.map(|id| id as usize) {
        if id >= next {
            scores[next..id].fill(f32::NEG_INFINITY);
            next = id + 1;
        }
    }
    scores[next..].fill(f32::NEG_INFINITY);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keep_leaves_what_is_named() {
        const OUT: f32 = f32::NEG_INFINITY;
        let kept = |ids: &[u32]| {
            let mut scores = [0.0, 1.0, 2.0, 3.0, 4.0];
            keep(ids.iter().copied(), &mut scores);
            scores
        };
        assert_eq!(kept(&[]), [OUT; 5]);
        assert_eq!(kept(&[0, 1, 2, 3, 4]), [0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(kept(&[1, 1, 3]), [OUT, 1.0, OUT, 3.0, OUT]);
        assert_eq!(kept(&[0, 4]), [0.0, OUT, OUT, OUT, 4.0]);
    }
}
