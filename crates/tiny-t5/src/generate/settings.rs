//! Options, checked and completed: what a search runs with.

use super::processors::{self, Processor};
use crate::error::{Error, Result};
use crate::options::{EarlyStopping, Generate};
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
    pub(crate) num_beams: usize,
    pub(crate) length_penalty: f64,
    pub(crate) early_stopping: EarlyStopping,
    pub(crate) num_return_sequences: usize,
    pub(crate) eos: Vec<u32>,
    pub(crate) start: u32,
    /// In transformers' order.
    pub(crate) processors: Vec<Box<dyn Processor>>,
}

impl Settings {
    /// Completes `options`, which go before the checkpoint's own `defaults`.
    pub(crate) fn new(options: &Generate, defaults: &Generate, config: &Config) -> Result<Settings> {
        let o = options.or(defaults);
        let eos = match &o.eos_token_id {
            Some(ids) => ids.as_slice().to_vec(),
            // An end token past the vocabulary can never come; released configs have such.
            None => config.eos_token_id.iter().copied().filter(|id| (*id as usize) < config.vocab_size).collect(),
        };
        let start = o.decoder_start_token_id.unwrap_or(config.decoder_start_token_id);
        check_ids(&o, &eos, start, config.vocab_size)?;
        check_numbers(&o)?;
        if o.do_sample == Some(true) {
            return Err(Error::option("do_sample", true, "false: sampling is not supported yet"));
        }
        // A caller's limit of one kind goes before the checkpoint's of the other.
        let (max_new_tokens, max_length) = match (options.max_new_tokens, options.max_length) {
            (None, Some(length)) => (None, Some(length)),
            _ => (o.max_new_tokens, o.max_length),
        };
        let limit = max_new_tokens.or(max_length.map(|length| length.saturating_sub(1)));
        let max_new_tokens = limit.unwrap_or(20);
        if !(1..=MAX_TOKENS).contains(&max_new_tokens) {
            let (option, found) = match (o.max_new_tokens, max_length) {
                (None, Some(length)) => ("max_length", length),
                _ => ("max_new_tokens", max_new_tokens),
            };
            let least = if option == "max_length" { 2 } else { 1 };
            return Err(Error::option(option, found, format!("{least} to {MAX_TOKENS}")));
        }
        let num_beams = o.num_beams.unwrap_or(1);
        if !(1..=MAX_BEAMS).contains(&num_beams) {
            return Err(Error::option("num_beams", num_beams, format!("1 to {MAX_BEAMS}")));
        }
        let num_return_sequences = o.num_return_sequences.unwrap_or(1);
        if !(1..=num_beams).contains(&num_return_sequences) {
            return Err(Error::option(
                "num_return_sequences",
                num_return_sequences,
                format!("1 to num_beams, {num_beams}"),
            ));
        }
        Ok(Settings {
            max_new_tokens,
            limit_was_default: limit.is_none(),
            num_beams,
            length_penalty: o.length_penalty.unwrap_or(1.0),
            early_stopping: o.early_stopping.unwrap_or(EarlyStopping::Heuristic),
            num_return_sequences,
            processors: processors::of(&o, &eos, max_new_tokens),
            eos,
            start,
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
    check("decoder_start_token_id", &[start])?;
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
    if let Some(value) = o.length_penalty.filter(|v| !v.is_finite()) {
        return Err(Error::option("length_penalty", value, "a finite number"));
    }
    if let Some((_, factor)) = o.exponential_decay_length_penalty.filter(|(_, f)| !(f.is_finite() && *f > 0.0)) {
        return Err(Error::option("exponential_decay_length_penalty", factor, "a factor above 0"));
    }
    Ok(())
}
