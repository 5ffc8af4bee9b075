//! Options, checked and completed: what a search runs with.

use super::choices::Closed;
use super::processors::{self, Failure, Rule};
use super::warpers::{self, Warper};
use crate::error::{Error, Result};
use crate::options::{EarlyStopping, Generate, Speculation};
use std::time::Duration;
use tiny_t5_checkpoint::Config;

/// Beams beyond which a search is surely a mistake; their scores alone would be gigabytes.
const MAX_BEAMS: usize = 1024;
/// Tokens beyond which a text is surely a mistake; T5 was trained on a few hundred.
const MAX_TOKENS: usize = 1 << 20;

/// What a search runs with.
pub(crate) struct Settings {
    /// Most tokens to generate.
    pub(crate) max_new_tokens: usize,
    /// Nobody asked for this limit.
    pub(crate) limit_was_default: bool,
    pub(crate) max_time: Option<Duration>,
    pub(crate) num_beams: usize,
    pub(crate) length_penalty: f64,
    pub(crate) early_stopping: EarlyStopping,
    pub(crate) num_return_sequences: usize,
    pub(crate) eos: Vec<u32>,
    /// The start token, and the decoder ids that the caller gave.
    pub(crate) prompt: Vec<u32>,
    pub(crate) do_sample: bool,
    pub(crate) speculation: Speculation,
    pub(crate) seed: u64,
    pub(crate) warpers: Vec<Warper>,
    /// In transformers' order.
    pub(crate) rules: Vec<Rule>,
    /// Of a rule, since the call began.
    pub(crate) failure: Failure,
    /// Log-probabilities are asked for, with this many alternatives a token.
    pub(crate) top_logprobs: Option<usize>,
}

/// The end tokens that options name, or else the model.
pub(crate) fn eos(o: &Generate, config: &Config) -> Vec<u32> {
    match &o.eos_token_id {
        Some(ids) => ids.as_slice().to_vec(),
        // An end token past the vocabulary can never come; released configs have such.
        None => config.eos_token_id.iter().copied().filter(|id| (*id as usize) < config.vocab_size).collect(),
    }
}

impl Settings {
    /// Completes `options`, which go before the checkpoint's own `defaults`; `prefix` are the ids of decoder_prefix, and
    /// `closed` is the list that outputs are chosen from.
    pub(crate) fn new(
        options: &Generate,
        defaults: &Generate,
        prefix: &[u32],
        closed: Option<Closed>,
        config: &Config,
    ) -> Result<Settings> {
        let mut o = options.or(defaults);
        if o.do_sample != Some(true) {
            // Of a checkpoint that does not sample they mean nothing; released ones have a temperature of 0.
            let Generate { temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff, .. } = *options;
            o = Generate { temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff, ..o };
        }
        let eos = eos(&o, config);
        let start = o.start(config);
        check_ids(&o, &eos, start, config.vocab_size)?;
        check_numbers(&o)?;
        if let Some(id) = prefix.iter().find(|id| **id as usize >= config.vocab_size) {
            let expected = format!("a text of ids below vocab_size, {}", config.vocab_size);
            return Err(Error::option("decoder_prefix", format!("id {id}"), expected));
        }
        // Whoever gives them, the number of new tokens goes before the length, as in transformers.
        let (new_tokens, max_length) = (o.max_new_tokens, o.max_length);
        let mut prompt = [o.decoder_input_ids.as_deref().unwrap_or_default(), prefix].concat();
        if prompt.first() != Some(&start) {
            prompt.insert(0, start);
        }
        // One that a checkpoint's max_new_tokens goes before has to be possible all the same.
        let lengths = prompt.len() + 1..=prompt.len() + MAX_TOKENS;
        if let (Some(length), None) = (options.max_length, options.max_new_tokens)
            && !lengths.contains(&length)
        {
            return Err(Error::option("max_length", length, format!("{} to {}", lengths.start(), lengths.end())));
        }
        let limit = new_tokens.or(max_length.map(|length| length.saturating_sub(prompt.len())));
        let mut max_new_tokens = limit.unwrap_or(20);
        if let Some(Closed { eos: end, longest, largest, .. }) = closed {
            if largest as usize >= config.vocab_size {
                let expected = format!("ids of this model, below vocab_size {}", config.vocab_size);
                return Err(Error::option("choices", format!("id {largest}"), expected));
            }
            if !eos.contains(&end) {
                let expected = format!("{end} among them, which closes the choices");
                return Err(Error::option("eos_token_id", format!("{eos:?}"), expected));
            }
            // The checkpoint's limit is none for them.
            let given = options.max_new_tokens.or(options.max_length.filter(|_| new_tokens.is_none()));
            if given.is_some() && max_new_tokens < longest {
                let option = if options.max_new_tokens.is_some() { "max_new_tokens" } else { "max_length" };
                let expected = format!("room for the {longest} tokens of the longest choice");
                return Err(Error::option(option, given.unwrap_or(0), expected));
            }
            max_new_tokens = max_new_tokens.max(longest);
        }
        if !(1..=MAX_TOKENS).contains(&max_new_tokens) {
            let (option, found) = match (new_tokens, max_length) {
                (None, Some(length)) => ("max_length", length),
                _ => ("max_new_tokens", max_new_tokens),
            };
            let least = if option == "max_length" { prompt.len() + 1 } else { 1 };
            return Err(Error::option(option, found, format!("{least} to {MAX_TOKENS}")));
        }
        let num_beams = o.num_beams.unwrap_or(1);
        if !(1..=MAX_BEAMS).contains(&num_beams) {
            return Err(Error::option("num_beams", num_beams, format!("1 to {MAX_BEAMS}")));
        }
        let do_sample = o.do_sample.unwrap_or(false);
        if do_sample && num_beams > 1 {
            return Err(Error::option(
                "do_sample",
                true,
                format!("num_beams 1, not {num_beams}: beams are not sampled"),
            ));
        }
        let num_return_sequences = o.num_return_sequences.unwrap_or(1);
        let (most, whose) = match closed {
            _ if do_sample => (MAX_BEAMS, ""),
            Some(Closed { count, .. }) if num_beams == 1 => (count, " (choices)"),
            _ => (num_beams, " (num_beams)"),
        };
        if !(1..=most).contains(&num_return_sequences) {
            return Err(Error::option("num_return_sequences", num_return_sequences, format!("1 to {most}{whose}")));
        }
        let top_logprobs = o.top_logprobs.or((o.logprobs == Some(true)).then_some(0));
        if let Some(top) = top_logprobs.filter(|top| *top > config.vocab_size) {
            return Err(Error::option("top_logprobs", top, format!("at most vocab_size, {}", config.vocab_size)));
        }
        Ok(Settings {
            max_new_tokens,
            limit_was_default: limit.is_none(),
            max_time: o.max_time.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)),
            num_beams,
            length_penalty: o.length_penalty.unwrap_or(1.0),
            early_stopping: o.early_stopping.unwrap_or(EarlyStopping::Heuristic),
            num_return_sequences,
            rules: processors::of(&o, &eos, max_new_tokens),
            failure: Failure::default(),
            top_logprobs,
            warpers: warpers::of(&o),
            do_sample,
            speculation: o.speculation.unwrap_or_default(),
            seed: o.seed.unwrap_or(0),
            eos,
            prompt,
        })
    }
}

/// Every id of an option is one of the vocabulary.
fn check_ids(o: &Generate, eos: &[u32], start: u32, vocab_size: usize) -> Result<()> {
    let check = |option: &str, ids: &[u32]| match ids.iter().find(|id| **id as usize >= vocab_size) {
        Some(id) => Err(Error::option(option, id, format!("ids below vocab_size, {vocab_size}"))),
        None => Ok(()),
    };
    check("eos_token_id", eos)?;
    check("decoder_input_ids", o.decoder_input_ids.as_deref().unwrap_or_default())?;
    let named = if o.decoder_start_token_id.is_none() && o.bos_token_id.is_some() {
        "bos_token_id"
    } else {
        "decoder_start_token_id"
    };
    check(named, &[start])?;
    check("forced_bos_token_id", o.forced_bos_token_id.as_slice())?;
    check("forced_eos_token_id", o.forced_eos_token_id.as_ref().map_or(&[], |ids| ids.as_slice()))?;
    check("suppress_tokens", o.suppress_tokens.as_deref().unwrap_or_default())?;
    check("begin_suppress_tokens", o.begin_suppress_tokens.as_deref().unwrap_or_default())?;
    for (option, sequences) in [
        ("bad_words_ids", o.bad_words_ids.iter().flatten().collect::<Vec<_>>()),
        ("sequence_bias", o.sequence_bias.iter().flatten().map(|(ids, _)| ids).collect()),
    ] {
        for ids in sequences {
            if ids.is_empty() {
                return Err(Error::option(option, "an empty sequence", "sequences of at least one id"));
            }
            check(option, ids)?;
        }
    }
    Ok(())
}

/// Every number of an option is one that its formula can take.
fn check_numbers(o: &Generate) -> Result<()> {
    for (option, value) in
        [("repetition_penalty", o.repetition_penalty), ("encoder_repetition_penalty", o.encoder_repetition_penalty)]
    {
        if let Some(value) = value.filter(|v| !(v.is_finite() && *v > 0.0)) {
            return Err(Error::option(option, value, "a number above 0"));
        }
    }
    let fractions = [("top_p", o.top_p), ("min_p", o.min_p), ("typical_p", o.typical_p)];
    for (option, value) in fractions {
        if let Some(value) = value.filter(|v| !(0.0..=1.0).contains(v)) {
            return Err(Error::option(option, value, "0 to 1"));
        }
    }
    for (option, value) in [("epsilon_cutoff", o.epsilon_cutoff), ("eta_cutoff", o.eta_cutoff)] {
        if let Some(value) = value.filter(|v| !(0.0..1.0).contains(v)) {
            return Err(Error::option(option, value, "0 to below 1"));
        }
    }
    if let Some((_, value)) = o.sequence_bias.iter().flatten().find(|(_, bias)| bias.is_nan()) {
        return Err(Error::option("sequence_bias", value, "a number"));
    }
    if let Some(value) = o.temperature.filter(|v| !(v.is_finite() && *v > 0.0)) {
        return Err(Error::option("temperature", value, "a number above 0"));
    }
    // Infinity is no limit: what a caller says where a checkpoint has one.
    if let Some(value) = o.max_time.filter(|v| v.is_nan() || *v < 0.0) {
        return Err(Error::option("max_time", value, "seconds, at least 0"));
    }
    if let Some(value) = o.length_penalty.filter(|v| !v.is_finite()) {
        return Err(Error::option("length_penalty", value, "a finite number"));
    }
    if let Some((_, factor)) = o.exponential_decay_length_penalty.filter(|(_, f)| !(f.is_finite() && *f > 0.0)) {
        return Err(Error::option("exponential_decay_length_penalty", factor, "a factor above 0"));
    }
    Ok(())
}
