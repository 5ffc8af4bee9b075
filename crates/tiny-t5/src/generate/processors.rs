//! What transformers calls logits processors: each changes the scores of the next token, in transformers' order.
//!
//! Greedy search hands them raw logits, beam search log-probabilities. A new one is a struct and a line in [`of`].
//! Source: transformers, `generation/logits_process.py`.

use crate::options::Generate;

/// What a processor may look at.
pub(crate) struct Context<'a> {
    /// The decoder's ids so far, the start token first.
    pub(crate) ids: &'a [u32],
    /// The source's ids.
    pub(crate) source: &'a [u32],
}

/// Changes the scores [vocab_size] of the next token.
pub(crate) trait Processor: Send + Sync {
    fn process(&self, context: &Context<'_>, scores: &mut [f32]);

    /// Adds the ids whose scores `process` changes; false where it may change all. What it tells lets the LM head compute only those
    /// and the best of the others.
    fn touches(&self, context: &Context<'_>, ids: &mut Vec<u32>) -> bool;
}

/// The processors that options ask for.
pub(crate) fn of(o: &Generate, eos: &[u32], max_new_tokens: usize) -> Vec<Box<dyn Processor>> {
    let mut all: Vec<Box<dyn Processor>> = Vec::new();
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
    let least = o.min_new_tokens.map(|n| n.saturating_add(1)).or(o.min_length).unwrap_or(0);
    if least > 0 && !eos.is_empty() {
        all.push(Box::new(MinLength { least, eos: eos.to_vec() }));
    }
    if let Some(id) = o.forced_bos_token_id {
        all.push(Box::new(Forced { len: 1, ids: vec![id] }));
    }
    if let Some(ids) = &o.forced_eos_token_id {
        all.push(Box::new(Forced { len: max_new_tokens, ids: ids.as_slice().to_vec() }));
    }
    if o.remove_invalid_values == Some(true) {
        all.push(Box::new(RemoveInvalidValues));
    }
    if let Some((start, factor)) = o.exponential_decay_length_penalty {
        all.push(Box::new(ExponentialDecay { start: start.saturating_add(1), factor, eos: eos.to_vec() }));
    }
    if let Some(ids) = o.suppress_tokens.clone() {
        all.push(Box::new(Suppress { len: None, ids }));
    }
    if let Some(ids) = o.begin_suppress_tokens.clone() {
        let len = if o.forced_bos_token_id.is_some() { 2 } else { 1 };
        all.push(Box::new(Suppress { len: Some(len), ids }));
    }
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

/// No end token while the decoder has fewer than `least` ids.
struct MinLength {
    least: usize,
    eos: Vec<u32>,
}

impl Processor for MinLength {
    fn process(&self, context: &Context<'_>, scores: &mut [f32]) {
        if context.ids.len() < self.least {
            forbid(self.eos.iter().copied(), scores);
        }
    }

    fn touches(&self, context: &Context<'_>, ids: &mut Vec<u32>) -> bool {
        if context.ids.len() < self.least {
            ids.extend_from_slice(&self.eos);
        }
        true
    }
}

/// Nothing but `ids` where the decoder has `len` ids.
struct Forced {
    len: usize,
    ids: Vec<u32>,
}

impl Processor for Forced {
    fn process(&self, context: &Context<'_>, scores: &mut [f32]) {
        if context.ids.len() == self.len {
            scores.fill(f32::NEG_INFINITY);
            for id in &self.ids {
                scores[*id as usize] = 0.0;
            }
        }
    }

    fn touches(&self, context: &Context<'_>, _: &mut Vec<u32>) -> bool {
        context.ids.len() != self.len
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

/// score + |score| (factor^(len - start) - 1) for the end tokens, once the decoder has more than `start` ids.
struct ExponentialDecay {
    start: usize,
    factor: f64,
    eos: Vec<u32>,
}

impl Processor for ExponentialDecay {
    fn process(&self, context: &Context<'_>, scores: &mut [f32]) {
        if context.ids.len() > self.start {
            let growth = (self.factor.powf((context.ids.len() - self.start) as f64) - 1.0) as f32;
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

/// Forbids ids: always, or only where the decoder has `len` ids.
struct Suppress {
    len: Option<usize>,
    ids: Vec<u32>,
}

impl Processor for Suppress {
    fn process(&self, context: &Context<'_>, scores: &mut [f32]) {
        if self.len.is_none_or(|len| context.ids.len() == len) {
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
            for processor in of(&options, &[1], 100) {
                processor.process(&Context { ids: &decoder, source: &source }, &mut scores);
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
