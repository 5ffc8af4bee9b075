//! What transformers calls logits processors: each changes the scores of the next token, in transformers' order.
//!
//! Greedy search hands them raw logits, beam search log-probabilities. A new one is a struct and a line in [`of`].
//! Source: transformers, `generation/logits_process.py`.

use super::custom::Custom;
use crate::error::{Error, Result};
use crate::options::Generate;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// What a processor, or a caller's own rule, may look at.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Context<'a> {
    /// The decoder's ids so far, the start token first.
    pub ids: &'a [u32],
    /// How many of them were given: the start token and a prefix.
    pub prompt: usize,
    /// The source's ids.
    pub source: &'a [u32],
    /// The source's place among those of the call, counted from [`Custom::first_index`] on.
    pub index: usize,
}

impl<'a> Context<'a> {
    /// The ids that were generated.
    #[must_use]
    pub fn new_ids(&self) -> &'a [u32] {
        &self.ids[self.prompt..]
    }
}

/// Changes the scores [vocab_size] of the next token.
pub(crate) trait Processor: Send + Sync {
    fn process(&self, context: &Context<'_>, scores: &mut [f32]);

    /// Adds the ids whose scores `process` changes; false where it may change all. What it tells lets the LM head compute only those
    /// and the best of the others.
    fn touches(&self, context: &Context<'_>, ids: &mut Vec<u32>) -> bool;
}

/// What went wrong in a closure's place, which can return no error: the first is kept, and told at the end of the step.
#[derive(Default)]
pub(crate) struct Failure(Mutex<Option<Error>>);

impl Failure {
    pub(super) fn set(&self, error: impl FnOnce() -> Error) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(error);
    }

    /// Tells it, and forgets it.
    pub(crate) fn check(&self) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }
}

/// A change of scores.
pub(crate) enum Rule {
    /// That options ask for.
    Option(Box<dyn Processor>),
    /// The place of the caller's allowed tokens.
    Allowed,
    /// The place of the caller's other rules; `alone` where there are no beams.
    Caller { alone: bool },
}

impl<P: Processor + 'static> From<P> for Rule {
    fn from(processor: P) -> Rule {
        Rule::Option(Box::new(processor))
    }
}

/// All changes of scores that a call asks for, in transformers' order. The list is of the options, so that it is kept from call to
/// call; the caller's own rules come with each.
pub(crate) struct Rules<'a> {
    pub(super) list: &'a [Rule],
    pub(super) custom: &'a Custom<'a>,
    pub(super) failure: &'a Failure,
}

impl Rules<'_> {
    /// As [`Processor::process`], of one after the other.
    pub(super) fn process(&self, context: &Context<'_>, scores: &mut [f32]) {
        for rule in self.list {
            match rule {
                Rule::Option(processor) => processor.process(context, scores),
                Rule::Allowed => self.custom.allow(context, scores, self.failure),
                Rule::Caller { alone } => self.custom.change(context, scores, *alone, self.failure),
            }
        }
    }

    /// As [`Processor::touches`], of all.
    pub(super) fn touches(&self, context: &Context<'_>, ids: &mut Vec<u32>) -> bool {
        let touches = |rule: &Rule| match rule {
            Rule::Option(processor) => processor.touches(context, ids),
            Rule::Allowed | Rule::Caller { .. } => true,
        };
        !self.custom.changes_scores() && self.list.iter().all(touches)
    }
}

/// The changes that options ask for, and the places of the caller's own.
pub(crate) fn of(o: &Generate, eos: &[u32], max_new_tokens: usize) -> Vec<Rule> {
    let mut all: Vec<Rule> = Vec::new();
    if let Some(biases) = &o.sequence_bias {
        // Of a sequence that stands there twice the last counts, as in transformers, where they are the keys of a dict.
        let mut seen = HashSet::new();
        let mut last: Vec<_> = biases.iter().rev().filter(|(sequence, _)| seen.insert(sequence)).cloned().collect();
        last.reverse();
        all.push(SequenceBias(last).into());
    }
    if let Some(penalty) = o.encoder_repetition_penalty.filter(|p| *p != 1.0) {
        all.push(EncoderRepetitionPenalty((1.0 / penalty) as f32).into());
    }
    if let Some(penalty) = o.repetition_penalty.filter(|p| *p != 1.0) {
        all.push(RepetitionPenalty(penalty as f32).into());
    }
    if let Some(n) = o.no_repeat_ngram_size.filter(|n| *n > 0) {
        all.push(NoRepeatNgram(n).into());
    }
    if let Some(n) = o.encoder_no_repeat_ngram_size.filter(|n| *n > 0) {
        all.push(EncoderNoRepeatNgram(n).into());
    }
    if let Some(words) = &o.bad_words_ids {
        // A bad word that is an end token alone is let pass, as transformers does.
        let words = words.iter().filter(|word| !(word.len() == 1 && eos.contains(&word[0])));
        all.push(SequenceBias(words.map(|word| (word.clone(), f32::NEG_INFINITY)).collect()).into());
    }
    if o.min_new_tokens.or(o.min_length).is_some_and(|n| n > 0) && !eos.is_empty() {
        let (new, whole) = (o.min_new_tokens, o.min_length.filter(|_| o.min_new_tokens.is_none()));
        all.push(MinLength { new: new.unwrap_or(0), whole: whole.unwrap_or(0), eos: eos.to_vec() }.into());
    }
    all.push(Rule::Allowed);
    if let Some(id) = o.forced_bos_token_id {
        all.push(Forced { at: At::Length(1), ids: vec![id] }.into());
    }
    if let Some(ids) = o.forced_eos_token_id.as_ref().filter(|ids| !ids.as_slice().is_empty()) {
        all.push(Forced { at: At::New(max_new_tokens - 1), ids: ids.as_slice().to_vec() }.into());
    }
    if o.remove_invalid_values == Some(true) {
        all.push(RemoveInvalidValues.into());
    }
    if let Some((start, factor)) = o.exponential_decay_length_penalty {
        let mut eos = eos.to_vec();
        // An end token that stands there twice grows once.
        eos.sort_unstable();
        eos.dedup();
        all.push(ExponentialDecay { start, factor, eos }.into());
    }
    if let Some(ids) = o.suppress_tokens.clone() {
        all.push(Suppress { at: At::Always, ids }.into());
    }
    if let Some(ids) = o.begin_suppress_tokens.clone() {
        let at = if o.forced_bos_token_id.is_some() { At::BehindForcedBos } else { At::New(0) };
        all.push(Suppress { at, ids }.into());
    }
    all.push(Rule::Caller { alone: o.num_beams.unwrap_or(1) == 1 });
    if o.renormalize_logits == Some(true) {
        all.push(Renormalize.into());
    }
    all
}

/// Adds a number to the last id of a sequence where the ids so far end with the others.
struct SequenceBias(Vec<(Vec<u32>, f32)>);

impl Processor for SequenceBias {
    fn process(&self, context: &Context<'_>, scores: &mut [f32]) {
        for (sequence, bias) in &self.0 {
            let Some((last, before)) = sequence.split_last() else { continue };
            if context.ids.ends_with(before) {
                scores[*last as usize] += bias;
            }
        }
    }

    fn touches(&self, _: &Context<'_>, ids: &mut Vec<u32>) -> bool {
        ids.extend(self.0.iter().filter_map(|(sequence, _)| sequence.last()));
        true
    }
}

/// score < 0 ? score * p : score / p, once for each id.
fn penalise(ids: &[u32], penalty: f32, scores: &mut [f32]) {
    /// Ids up to which looking back for each costs less than sorting them.
    const FEW: usize = 256;
    let mut penalise = |id: u32| {
        let score = &mut scores[id as usize];
        *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
    };
    if ids.len() > FEW {
        let mut distinct = ids.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        return distinct.into_iter().for_each(penalise);
    }
    for (i, id) in ids.iter().enumerate() {
        if !ids[..i].contains(id) {
            penalise(*id);
        }
    }
}

struct RepetitionPenalty(f32);

impl Processor for RepetitionPenalty {
    fn process(&self, context: &Context<'_>, scores: &mut [f32]) {
        penalise(context.ids, self.0, scores);
    }

    fn touches(&self, context: &Context<'_>, ids: &mut Vec<u32>) -> bool {
        ids.extend_from_slice(context.ids);
        true
    }
}

/// Holds one over the penalty: the source's ids are favoured.
struct EncoderRepetitionPenalty(f32);

impl Processor for EncoderRepetitionPenalty {
    fn process(&self, context: &Context<'_>, scores: &mut [f32]) {
        penalise(context.source, self.0, scores);
    }

    fn touches(&self, context: &Context<'_>, ids: &mut Vec<u32>) -> bool {
        ids.extend_from_slice(context.source);
        true
    }
}

/// Every id that followed, somewhere in `text`, the last n - 1 of `ids`.
fn followers<'a>(text: &'a [u32], ids: &'a [u32], n: usize) -> impl Iterator<Item = u32> + 'a {
    let last = ids.len().checked_sub(n - 1).map(|first| &ids[first..]);
    text.windows(n).filter(move |window| last.is_some_and(|last| window[..n - 1] == *last)).map(move |w| w[n - 1])
}

fn forbid(ids: impl IntoIterator<Item = u32>, scores: &mut [f32]) {
    for id in ids {
        scores[id as usize] = f32::NEG_INFINITY;
    }
}

struct NoRepeatNgram(usize);

impl Processor for NoRepeatNgram {
    fn process(&self, context: &Context<'_>, scores: &mut [f32]) {
        forbid(followers(context.ids, context.ids, self.0), scores);
    }

    fn touches(&self, context: &Context<'_>, ids: &mut Vec<u32>) -> bool {
        ids.extend(followers(context.ids, context.ids, self.0));
        true
    }
}

struct EncoderNoRepeatNgram(usize);

impl Processor for EncoderNoRepeatNgram {
    fn process(&self, context: &Context<'_>, scores: &mut [f32]) {
        forbid(followers(context.source, context.ids, self.0), scores);
    }

    fn touches(&self, context: &Context<'_>, ids: &mut Vec<u32>) -> bool {
        ids.extend(followers(context.source, context.ids, self.0));
        true
    }
}

/// Steps at which a processor acts.
enum At {
    Always,
    /// Where the decoder has this many ids.
    Length(usize),
    /// Where this many are generated.
    New(usize),
    /// First; where a prompt of one id is followed by a forced one, second.
    BehindForcedBos,
}

impl At {
    fn is_now(&self, Context { ids, prompt, .. }: &Context<'_>) -> bool {
        match self {
            At::Always => true,
            At::Length(len) => ids.len() == *len,
            At::New(new) => ids.len() == prompt + new,
            At::BehindForcedBos => ids.len() == prompt + usize::from(*prompt == 1),
        }
    }
}

/// No end token while fewer than `new` ids are generated, or the decoder has fewer than `whole`.
struct MinLength {
    new: usize,
    whole: usize,
    eos: Vec<u32>,
}

impl MinLength {
    fn is_short(&self, Context { ids, prompt, .. }: &Context<'_>) -> bool {
        ids.len() < self.whole || ids.len() - prompt < self.new
    }
}

impl Processor for MinLength {
    fn process(&self, context: &Context<'_>, scores: &mut [f32]) {
        if self.is_short(context) {
            forbid(self.eos.iter().copied(), scores);
        }
    }

    fn touches(&self, context: &Context<'_>, ids: &mut Vec<u32>) -> bool {
        if self.is_short(context) {
            ids.extend_from_slice(&self.eos);
        }
        true
    }
}

/// Nothing but `ids`.
struct Forced {
    at: At,
    ids: Vec<u32>,
}

impl Processor for Forced {
    fn process(&self, context: &Context<'_>, scores: &mut [f32]) {
        if self.at.is_now(context) {
            scores.fill(f32::NEG_INFINITY);
            for id in &self.ids {
                scores[*id as usize] = 0.0;
            }
        }
    }

    fn touches(&self, context: &Context<'_>, _: &mut Vec<u32>) -> bool {
        !self.at.is_now(context)
    }
}

struct RemoveInvalidValues;

impl Processor for RemoveInvalidValues {
    fn process(&self, _: &Context<'_>, scores: &mut [f32]) {
        for score in scores {
            *score = if score.is_nan() { 0.0 } else { score.clamp(f32::MIN, f32::MAX) };
        }
    }

    fn touches(&self, _: &Context<'_>, _: &mut Vec<u32>) -> bool {
        false
    }
}

/// score + |score| (factor^(new - start) - 1) for the end tokens, once more than `start` ids are generated.
struct ExponentialDecay {
    start: usize,
    factor: f64,
    eos: Vec<u32>,
}

impl Processor for ExponentialDecay {
    fn process(&self, context: &Context<'_>, scores: &mut [f32]) {
        let new = context.ids.len() - context.prompt;
        if new > self.start {
            let growth = (self.factor.powf((new - self.start) as f64) - 1.0) as f32;
            for id in &self.eos {
                // One that is forbidden stays so: infinities would make it a NaN.
                let score = &mut scores[*id as usize];
                if score.is_finite() {
                    *score += score.abs() * growth;
                }
            }
        }
    }

    fn touches(&self, _: &Context<'_>, ids: &mut Vec<u32>) -> bool {
        ids.extend_from_slice(&self.eos);
        true
    }
}

/// Forbids ids.
struct Suppress {
    at: At,
    ids: Vec<u32>,
}

impl Processor for Suppress {
    fn process(&self, context: &Context<'_>, scores: &mut [f32]) {
        if self.at.is_now(context) {
            forbid(self.ids.iter().copied(), scores);
        }
    }

    fn touches(&self, _: &Context<'_>, ids: &mut Vec<u32>) -> bool {
        ids.extend_from_slice(&self.ids);
        true
    }
}

struct Renormalize;

impl Processor for Renormalize {
    fn process(&self, _: &Context<'_>, scores: &mut [f32]) {
        let sum = tiny_t5_kernels::log_sum_exp(tiny_t5_kernels::Isa::best(), scores);
        scores.iter_mut().for_each(|score| *score -= sum);
    }

    fn touches(&self, _: &Context<'_>, _: &mut Vec<u32>) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each id once, however many ids there are.
    #[test]
    fn penalties_count_once() {
        for count in [3, 300, 3000] {
            let ids: Vec<u32> = (0..count).map(|i| i * 7919 % 40).collect();
            let mut scores: Vec<f32> = (0..50).map(|i| i as f32 - 20.0).collect();
            let before = scores.clone();
            penalise(&ids, 2.0, &mut scores);
            for (id, (x, y)) in before.into_iter().zip(scores).enumerate() {
                let penalised = if x < 0.0 { x * 2.0 } else { x / 2.0 };
                assert_eq!(y, if ids.contains(&(id as u32)) { penalised } else { x }, "{count} ids, {id}");
            }
        }
    }
    use serde_json::Value;

    /// Single processors against what transformers computes.
    #[test]
    fn golden_processors() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/goldens-options/processors.json");
        let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let ids = |v: &Value| -> Vec<u32> { serde_json::from_value(v.clone()).unwrap() };
        let mut checked = 0;
        for case in file["cases"].as_array().unwrap() {
            let name = case["processor"].as_str().unwrap();
            if ["temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"].contains(&name) {
                continue; // of sampling
            }
            let mut options = Generate::default();
            options.set(name, &case["params"][name]).unwrap();
            let source = case["params"].get("encoder_ids").map_or(vec![], &ids);
            let decoder = ids(&case["decoder_ids"]);
            let mut scores: Vec<f32> = serde_json::from_value(case["scores"].clone()).unwrap();
            let (list, custom, failure) = (&of(&options, &[1], 100)[..], &Custom::new(), &Failure::default());
            let context = Context { ids: &decoder, prompt: 1, source: &source, index: 0 };
            Rules { list, custom, failure }.process(&context, &mut scores);
            for (got, expected) in scores.iter().zip(case["out"].as_array().unwrap()) {
                match expected.as_f64() {
                    Some(expected) => {
                        assert!((f64::from(*got) - expected).abs() < 1e-5, "{name}: {got}, expected {expected}")
                    }
                    None => assert_eq!(*got, f32::NEG_INFINITY, "{name}"),
                }
            }
            checked += 1;
        }
        assert_eq!(checked, 8);
    }
}
