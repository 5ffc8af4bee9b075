//! How text is generated: options, with transformers' names, meanings and defaults.

use crate::error::{Error, Result, one_line};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tiny_t5_checkpoint::Config;

/// A value that JSON writes alone or as a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "an id or a list of ids")]
pub enum OneOrMany {
    /// One id.
    One(u32),
    /// Several.
    Many(Vec<u32>),
}

impl OneOrMany {
    /// The ids.
    #[must_use]
    pub fn as_slice(&self) -> &[u32] {
        match self {
            OneOrMany::One(id) => std::slice::from_ref(id),
            OneOrMany::Many(ids) => ids,
        }
    }
}

impl From<u32> for OneOrMany {
    fn from(id: u32) -> Self {
        OneOrMany::One(id)
    }
}

impl From<Vec<u32>> for OneOrMany {
    fn from(ids: Vec<u32>) -> Self {
        OneOrMany::Many(ids)
    }
}

/// When beam search stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum EarlyStopping {
    /// When the best running beam, at its present length, cannot beat the worst finished one: `false`.
    Heuristic,
    /// As soon as there are `num_beams` finished ones: `true`.
    Yes,
    /// When no running beam can beat the worst finished one at any length: `"never"`.
    Never,
}

/// How greedy search of one source guesses tokens that one pass then checks. The ids are the same with all of them, and so are all
/// numbers; only the time differs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", expecting = "\"auto\", \"off\", \"copy\" or \"draft\"")]
#[non_exhaustive]
pub enum Speculation {
    /// Copies; and drafts where the layers of a step are over 12 MB, from the third search of a model on. They then take memory of
    /// about a quarter of the decoder's f32 weights.
    #[default]
    Auto,
    /// Nothing is guessed.
    Off,
    /// What followed the last tokens where they stood before, in the source or the output.
    Copy,
    /// What the decoder at 8 bits goes on with.
    Draft,
}

impl TryFrom<Value> for EarlyStopping {
    type Error = &'static str;
    fn try_from(value: Value) -> Result<Self, Self::Error> {
        match value {
            Value::Bool(false) => Ok(EarlyStopping::Heuristic),
            Value::Bool(true) => Ok(EarlyStopping::Yes),
            Value::String(s) if s == "never" => Ok(EarlyStopping::Never),
            _ => Err("expected true, false or \"never\""),
        }
    }
}

impl From<bool> for EarlyStopping {
    fn from(stops: bool) -> EarlyStopping {
        if stops { EarlyStopping::Yes } else { EarlyStopping::Heuristic }
    }
}

impl From<EarlyStopping> for Value {
    fn from(e: EarlyStopping) -> Value {
        match e {
            EarlyStopping::Heuristic => Value::Bool(false),
            EarlyStopping::Yes => Value::Bool(true),
            EarlyStopping::Never => Value::from("never"),
        }
    }
}

macro_rules! generate_options {
    ($( $(#[doc = $doc:literal])+ $name:ident: $type:ty, )*) => {
        /// How text is generated: transformers' `generate()` options, by its names.
        ///
        /// What is left out (`None`) comes from the checkpoint's generation_config.json, or where there is none from the generation keys in
        /// its config.json, and then from transformers' defaults. More fields will come: end a literal with `..Generate::default()`,
        /// and it stays valid.
        ///
        /// To serde it is an object that refuses names it does not know. Flattened into another struct it cannot see them: there, set
        /// what is left over with [`Generate::set`].
        ///
        /// ```
        /// use tiny_t5::Generate;
        /// let options = Generate { num_beams: Some(4), max_new_tokens: Some(64), ..Generate::default() };
        /// ```
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Generate {
            $( $(#[doc = $doc])+ #[serde(skip_serializing_if = "Option::is_none")] pub $name: Option<$type>, )*
        }

        impl Generate {
            /// Whether an option has a value.
            pub(crate) fn has(&self, option: &str) -> bool {
                match option {
                    $( stringify!($name) => self.$name.is_some(), )*
                    _ => false,
                }
            }
        }

        impl Generate {
            /// Name, type and meaning of every option.
            pub const OPTIONS: &'static [(&'static str, &'static str, &'static str)] = &[
                $( (stringify!($name), stringify!($type), concat!($($doc),+)), )*
            ];

            /// These options, and those of `base` where these say nothing.
            #[must_use]
            pub fn or(&self, base: &Generate) -> Generate {
                Generate { $( $name: self.$name.clone().or_else(|| base.$name.clone()), )* }
            }

            /// Sets one option, where the value is not null; none where there is no such option.
            fn set_as_json(&mut self, name: &str, value: &Value) -> Option<serde_json::Result<()>> {
                match name {
                    $( stringify!($name) => Some(Option::deserialize(value).map(|value: Option<$type>| {
                        self.$name = value.or_else(|| self.$name.take());
                    })), )*
                    _ => None,
                }
            }
        }
    };
}

generate_options! {
    /// Most tokens to generate, the end token included; 20 where neither this nor max_length is given.
    max_new_tokens: usize,
    /// Most tokens of the decoder, the start token included; max_new_tokens goes before it, the checkpoint's own, too.
    max_length: usize,
    /// Fewest tokens to generate before the end token.
    min_new_tokens: usize,
    /// Fewest tokens of the decoder, the start token included; min_new_tokens goes before it.
    min_length: usize,
    /// Beams of the search; 1, the default, is greedy.
    num_beams: usize,
    /// Exponent of the length by which a finished beam's log-probability is divided; by default 1.
    length_penalty: f64,
    /// When beam search stops: false (the default), true or never.
    early_stopping: EarlyStopping,
    /// Sequences to return for each source, best first; by default 1.
    num_return_sequences: usize,
    /// Above 1, the default: tokens that stand in the output already become less likely.
    repetition_penalty: f64,
    /// Above 1, the default: tokens that do not stand in the source become less likely.
    encoder_repetition_penalty: f64,
    /// No n tokens in a row occur twice in the output; 0 for no such rule.
    no_repeat_ngram_size: usize,
    /// No n tokens in a row of the source occur in the output; 0 for no such rule.
    encoder_no_repeat_ngram_size: usize,
    /// Sequences of ids that must not occur.
    bad_words_ids: Vec<Vec<u32>>,
    /// Pairs of a sequence of ids and a number that is added to the score of its last id.
    sequence_bias: Vec<(Vec<u32>, f32)>,
    /// The id of the first token.
    forced_bos_token_id: u32,
    /// The id, or ids, of the last token where the length limit is reached.
    forced_eos_token_id: OneOrMany,
    /// From start tokens on, the end token's score grows by this factor a token: start and factor.
    exponential_decay_length_penalty: (usize, f64),
    /// Ids that are never generated.
    suppress_tokens: Vec<u32>,
    /// Ids that are not generated first.
    begin_suppress_tokens: Vec<u32>,
    /// Scores that are not finite become finite: NaN 0, infinities the largest numbers.
    remove_invalid_values: bool,
    /// Scores are normalised again after all processors.
    renormalize_logits: bool,
    /// Draw tokens by their probability instead of taking the best.
    do_sample: bool,
    /// Divides the scores before sampling (it does nothing without do_sample); by default 1.
    temperature: f64,
    /// Sample from the k best tokens only; by default 50, 0 for all.
    top_k: usize,
    /// Sample from the best tokens that together have this probability; by default 1, all.
    top_p: f64,
    /// Sample from tokens with at least this share of the best one's probability.
    min_p: f64,
    /// Sample from tokens whose surprise is near the expected one, up to this probability.
    typical_p: f64,
    /// Sample from tokens of at least this probability.
    epsilon_cutoff: f64,
    /// As epsilon_cutoff, with a bound that falls with the entropy.
    eta_cutoff: f64,
    /// How greedy search of one source guesses tokens that are then checked at once, which changes no id: auto (the default), off, copy or draft.
    speculation: Speculation,
    /// Seconds after which no further token is begun: what the call has by then is what it gives, and of sources that it has not come to
    /// nothing. One token comes in any case, of the shortest sources of a batch, and the encoder is not interrupted: how long sources
    /// may be bounds it.
    max_time: f64,
    /// Seed of the sampling; by default 0.
    seed: u64,
    /// Give each token's log-probability.
    logprobs: bool,
    /// Give this many of the most likely tokens at each place, with their log-probabilities; each token's own comes along.
    top_logprobs: usize,
    /// The id, or ids, that end a sequence; where neither the call nor the file of generation options has any, those of the model, or 1.
    eos_token_id: OneOrMany,
    /// The id that fills up a batch: nothing here needs it.
    pad_token_id: u32,
    /// Ids that every sequence begins with, behind the start token.
    decoder_input_ids: Vec<u32>,
    /// Text that every sequence begins with, behind decoder_input_ids.
    decoder_prefix: String,
    /// The id that the decoder starts with.
    decoder_start_token_id: u32,
    /// The id that the decoder starts with where decoder_start_token_id is not given.
    bos_token_id: u32,
}

/// What serde says that it expected, in the words of JSON; what it found is said beside it.
fn expected(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once("expected ").map_or(text.as_str(), |(_, expected)| expected) {
        "usize" | "u32" | "u64" => "a whole number, 0 or more".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a tuple of size 2" => "a list of two".to_owned(),
        other => one_line(other),
    }
}

/// Keys of generation_config.json that cannot change the ids.
const HARMLESS: &[&str] = &[
    "_from_model_config",
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "assistant_lookbehind",
    "cache_config",
    "cache_implementation",
    "compile_config",
    "disable_compile",
    "is_assistant",
    "low_memory",
    "max_matching_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "prefill_chunk_size",
    "prompt_lookup_num_tokens",
    "return_dict_in_generate",
    "return_legacy_cache",
    "target_lookbehind",
    "transformers_version",
    "use_cache",
];

/// Keys that would change the ids and are not computed here, with the values that leave the ids as they are.
fn changes_ids(key: &str, value: &Value) -> bool {
    let is = |x: f64| value.as_f64() == Some(x);
    match key {
        "num_beam_groups" => !is(1.0),
        "diversity_penalty" => !is(0.0),
        "guidance_scale" => !is(1.0),
        "token_healing" => value != &Value::Bool(false),
        "penalty_alpha"
        | "dola_layers"
        | "constraints"
        | "force_words_ids"
        | "watermarking_config"
        | "stop_strings"
        | "top_h"
        | "custom_generate" => true,
        _ => false,
    }
}

impl Generate {
    /// Sets one option by its name, from JSON: as a file of options or a request has it.
    ///
    /// ```
    /// let mut options = tiny_t5::Generate::default();
    /// options.set("num_beams", &serde_json::json!(4))?;
    /// assert_eq!(options.num_beams, Some(4));
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Option`] where the name is none of [`Generate::OPTIONS`], or the value is not of its type.
    pub fn set(&mut self, name: &str, value: &Value) -> Result<()> {
        match self.set_as_json(name, value) {
            Some(set) => set.map_err(|e| Error::option(name, value, expected(&e))),
            None => Err(Error::option(name, value, Self::elsewhere(name).unwrap_or("an option of generate"))),
        }
    }

    /// What is expected of a key that transformers' `generate()` knows and this library lacks.
    fn elsewhere(name: &str) -> Option<&'static str> {
        if NEUTRAL.contains(&name) || changes_ids(name, &Value::Null) {
            return Some(ABSENT);
        }
        HARMLESS.contains(&name).then_some("absent: nothing here depends on it")
    }

    /// The options of a generation_config.json, with a note for each key that is ignored.
    pub(crate) fn from_generation_config(text: &str) -> Result<(Generate, Vec<String>)> {
        let file = "generation_config.json";
        let keys = serde_json::from_str(text).map_err(|e| tiny_t5_checkpoint::Error::json(file, e))?;
        Self::from_keys(file, &keys, true)
    }

    /// The generation options among the keys of a config.json, as many old fine-tunes have them.
    pub(crate) fn from_config(keys: &Map<String, Value>) -> Result<(Generate, Vec<String>)> {
        let (mut options, notes) = Self::from_keys("config.json", keys, false)?;
        // That file's start is `Config::decoder_start_token_id`, which knows what the model's family begins with.
        options.bos_token_id = None;
        Ok((options, notes))
    }

    /// The id that the decoder starts with.
    pub(crate) fn start(&self, config: &Config) -> u32 {
        self.decoder_start_token_id.or(self.bos_token_id).unwrap_or(config.decoder_start_token_id)
    }

    fn from_keys(file: &str, keys: &Map<String, Value>, strangers: bool) -> Result<(Generate, Vec<String>)> {
        let (mut options, mut notes) = (Generate::default(), Vec::new());
        for (key, value) in keys.iter().filter(|(_, value)| !value.is_null()) {
            let in_file = |e| match e {
                Error::Option { option, found, expected } => {
                    Error::Option { option: format!("{file}: {option}"), found, expected }
                }
                e => e,
            };
            if Self::OPTIONS.iter().any(|(option, ..)| option == key) {
                options.set(key, value).map_err(in_file)?;
            } else if changes_ids(key, value) {
                return Err(in_file(Error::option(key, value, ABSENT)));
            } else if strangers && !HARMLESS.contains(&key.as_str()) && !NEUTRAL.contains(&key.as_str()) {
                notes.push(format!("{file}: {} is ignored", one_line(key)));
            }
        }
        Ok((options, notes))
    }
}

/// What is expected of keys that are not computed here.
const ABSENT: &str = "absent: it would change the ids and is not supported";

/// Keys that `changes_ids` knows: with the values that they have here they are no news.
const NEUTRAL: &[&str] = &["num_beam_groups", "diversity_penalty", "guidance_scale", "token_healing"];
