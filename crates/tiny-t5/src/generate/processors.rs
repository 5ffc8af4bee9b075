//! What transformers calls logits processors: each changes the scores of the next token, in transformers' order.
//!
//! Greedy search hands them raw logits, beam search log-probabilities. A new one is a struct and a line in [`of`].
//! Source: transformers, `generation/logits_process.py`.

use super::custom::Custom;
use crate::error::Result;
use crate::options::Generate;

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

    /// What went wrong since the search began.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// The processors that options ask for, and the caller's own.
pub(crate) fn of<'a>(
    o: &Generate,
    custom: &'a Custom<'_>,
    eos: &[u32],
    max_new_tokens: usize,
) -> Vec<Box<dyn Processor + 'a>> {
    let mut all: Vec<Box<dyn Processor + 'a>> = Vec::new();
    if let Some(biases) = o.sequence_bias.clone() {
        all.push(Box::new(SequenceBias(biases)));
    }
    if let Some(penalty) = o.encoder_repetition_penalty.filter(|p| *p != 1.0) {
        all.push(Box::new(EncoderRepetitionPenalty((1.0 / penalty) as f32)));
    }
    if let Some(penalty) = o.repetition_penalty.filter(|p| *p != 1.0) {
        all.push(Box::new(RepetitionPenalty(penalty as f32)));
    }
    if let Some(n) = o.no_repeat_ngram_size.filter(|n| *n > 0) {
        all.push(Box::new(NoRepeatNgram(n)));
    }
    if let Some(n) = o.encoder_no_repeat_ngram_size.filter(|n| *n > 0) {
        all.push(Box::new(EncoderNoRepeatNgram(n)));
    }
    if let Some(words) = &o.bad_words_ids {
        // A bad word that is an end token alone is let pass, as transformers does.
        let words = words.iter().filter(|word| !(word.len() == 1 && eos.contains(&word[0])));
        all.push(Box::new(SequenceBias(words.map(|word| (word.clone(), f32::NEG_INFINITY)).collect())));
    }
    if o.min_new_tokens.or(o.min_length).is_some_and(|n| n > 0) && !eos.is_empty() {
        let (new, whole) = (o.min_new_tokens, o.min_length.filter(|_| o.min_new_tokens.is_none()));
        all.push(Box::new(MinLength { new: new.unwrap_or(0), whole: whole.unwrap_or(0), eos: eos.to_vec() }));
    }
    all.extend(custom.allowed());
    if let Some(id) = o.forced_bos_token_id {
        all.push(Box::new(Forced { at: At::Length(1), ids: vec![id] }));
    }
    if let Some(ids) = &o.forced_eos_token_id {
        all.push(Box::new(Forced { at: At::New(max_new_tokens - 1), ids: ids.as_slice().to_vec() }));
    }
    if o.remove_invalid_values == Some(true) {
        all.push(Box::new(RemoveInvalidValues));
    }
    if let Some((start, factor)) = o.exponential_decay_length_penalty {
        all.push(Box::new(ExponentialDecay { start, factor, eos: eos.to_vec() }));
    }
    if let Some(ids) = o.suppress_tokens.clone() {
        all.push(Box::new(Suppress { at: At::Always, ids }));
    }
    if let Some(ids) = o.begin_suppress_tokens.clone() {
        let at = if o.forced_bos_token_id.is_some() { At::BehindForcedBos } else { At::New(0) };
        all.push(Box::new(Suppress { at, ids }));
    }
    all.extend(custom.last(o.num_beams.unwrap_or(1)));
    if o.renormalize_logits == Some(true) {
        all.push(Box::new(Renormalize));
    }
    all
}

/// Adds a number to the last id of a sequence where the ids so far end with the others.
struct SequenceBias(Vec<(Vec<u32>, f32)>);

impl Processor for SequenceBias {
    fn process(&self, context: &Context<'_>, scores: &mut [f32]) {
        for (sequence, bias) in &self.0 {
            let Some((last, before)) = sequence.split_last() else { continue };
            // transformers looks at a sequence only once as many ids stand there as it has.
            if before.is_empty() || sequence.len() <= context.ids.len() && context.ids.ends_with(before) {
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
    for (i, id) in ids.iter().enumerate() {
        if !ids[..i].contains(id) {
            let score = &mut scores[*id as usize];
            *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
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
                let score = &mut scores[*id as usize];
                *score += score.abs() * growth;
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
            for processor in of(&options, &Custom::new(), &[1], 100) {
                processor.process(&Context { ids: &decoder, prompt: 1, source: &source, index: 0 }, &mut scores);
            }
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
