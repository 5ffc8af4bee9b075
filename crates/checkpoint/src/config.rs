//! config.json, with all its history, as numbers that cannot be wrong.
//!
//! Every field is optional and has the default of its model type; unknown keys are ignored and `null` is absent. Every
//! number is checked against a limit here, and the sizes that the numbers imply fit the address space, so that no
//! product of them has to be checked again.
//!
//! Source: transformers, `T5Config`, `MT5Config`, `UMT5Config`.

mod keys;

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::Error;
use keys::{Keys, keys_error, quoted, value};

/// The name of the file in a checkpoint folder.
pub(crate) const FILE: &str = "config.json";
/// Bytes of a config.json: enough for ten thousands of labels; parsed, it takes up to 24 times its size.
pub(crate) const LARGEST: u64 = 2 << 20;

// The largest numbers of real checkpoints (T5 xxl, mT5 xxl): vocabulary 256,384, d_model 4096, d_kv 256, d_ff 65,536,
// 64 layers, 128 heads, 64 buckets. The limits leave a factor of 16 or more.
const VOCABULARY: RangeInclusive<u64> = 1..=1 << 24;
const WIDTH: RangeInclusive<u64> = 1..=1 << 16;
const FEED_FORWARD: RangeInclusive<u64> = 1..=1 << 20;
const LAYERS: RangeInclusive<u64> = 1..=1024;
const HEADS: RangeInclusive<u64> = 1..=4096;
/// Half of the encoder's half is exact: fewer than 4 buckets leave nothing of it.
const BUCKETS: RangeInclusive<u64> = 4..=1 << 16;
/// The bucket's formula works in f32, which holds integers up to 2^24.
const DISTANCE: u64 = 1 << 24;
const LABELS: u64 = 1 << 16;
/// Bytes of all parameters in f32: half of what a 64-bit processor addresses today, or of 32 bits.
const MOST_BYTES: usize = if usize::BITS > 32 { 1 << 47 } else { isize::MAX as usize };

/// What config.json says about a model: its shape, its variant, its special ids.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of one attention head; independent of `d_model / num_heads`.
    pub d_kv: usize,
    /// Width of the feed-forward layer.
    pub d_ff: usize,
    /// Encoder blocks.
    pub num_layers: usize,
    /// Decoder blocks; those of the encoder where config.json does not say.
    pub num_decoder_layers: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Rows of the relative-bias table; at least 4.
    pub relative_attention_num_buckets: usize,
    /// Distance from which on all positions share the last bucket; more than the buckets of single distances.
    pub relative_attention_max_distance: usize,
    /// Epsilon of the RMS norms; finite, not negative.
    pub layer_norm_epsilon: f32,
    /// Activation of the feed-forward layer (of its gate, where it is gated).
    pub activation: Activation,
    /// Whether the feed-forward layer is gated: `act(wi_0 x) * (wi_1 x)` instead of `act(wi x)`.
    pub is_gated_act: bool,
    /// What is on top of the stacks.
    pub architecture: Architecture,
    /// T5, mT5 or UMT5.
    pub model_type: ModelType,
    /// The id that pads; below `vocab_size`.
    pub pad_token_id: u32,
    /// The ids that end a sequence; usually one.
    pub eos_token_id: Vec<u32>,
    /// The id that the decoder starts with; below `vocab_size` where there is a decoder.
    pub decoder_start_token_id: u32,
    /// Whether the decoder's output is multiplied by `d_model^-0.5` before the output matrix.
    pub scale_decoder_outputs: bool,
    /// `id2label` in the order of ids; `LABEL_0`, `LABEL_1`, ... where config.json has none.
    pub labels: Vec<String>,
    /// `tokenizer_class`, such as `T5Tokenizer` or `ByT5Tokenizer`.
    pub tokenizer_class: Option<String>,
    /// Everything in the file, as it stands: old fine-tunes keep generation options here.
    pub raw: Map<String, Value>,
}

/// The feed-forward layer's activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// The tanh form of GELU, `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`; `gated-gelu` means this one.
    GeluNew,
    /// GELU by erf, `0.5 x (1 + erf(x / sqrt 2))`.
    Gelu,
    /// `x / (1 + exp(-x))`, also called swish.
    Silu,
}

/// What a model computes from its stacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Encoder, decoder and output matrix: text to text.
    ConditionalGeneration,
    /// The encoder with its final norm.
    Encoder,
    /// Encoder and decoder with `classification_head` on the last eos.
    SequenceClassification,
    /// The encoder with `classifier` on every position.
    TokenClassification,
    /// Encoder and decoder with `qa_outputs` on every position.
    QuestionAnswering,
}

impl Architecture {
    /// Whether the decoder takes part.
    pub fn has_decoder(self) -> bool {
        !matches!(self, Architecture::Encoder | Architecture::TokenClassification)
    }
}

/// The family that a model belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelType {
    /// T5 1.0, 1.1, Flan, T5-Efficient, ByT5.
    T5,
    /// mT5: T5 1.1's graph, never scaled.
    Mt5,
    /// UMT5: relative bias in every block.
    Umt5,
}

impl Config {
    /// Parses the text of a config.json.
    ///
    /// Where `architectures` is absent, an encoder is assumed if `is_encoder_decoder` is false, else conditional
    /// generation; [`Checkpoint`](crate::Checkpoint) then looks at the tensors too.
    ///
    /// # Errors
    /// [`Error::Json`], or [`Error::Config`] that names the key, its value and what is possible.
    pub fn parse(text: &str) -> Result<Config, Error> {
        let raw: Map<String, Value> = serde_json::from_str(text).map_err(|e| Error::json(FILE, e))?;
        let keys = Keys(&raw);
        let model_type = model_type(&keys)?;
        let architecture = architecture(&keys)?;
        let defaults = Defaults::of(model_type);

        let vocab_size = keys.number("vocab_size", VOCABULARY, defaults.vocab_size)?;
        let num_layers = keys.number("num_layers", LAYERS, defaults.num_layers)?;
        let decoder_layers = if architecture.has_decoder() { LAYERS } else { 0..=*LAYERS.end() };
        let num_buckets = keys.number("relative_attention_num_buckets", BUCKETS, 32)?;
        // Buckets of one distance each: half of a stack's. The logarithmic ones must lie beyond them.
        let exact = if architecture.has_decoder() { num_buckets / 2 } else { num_buckets / 4 };
        let (activation, is_gated_act) = activation(&keys, defaults.feed_forward_proj)?;
        let ids = 0..=vocab_size.saturating_sub(1);
        let start_ids = if architecture.has_decoder() { ids.clone() } else { 0..=u64::from(u32::MAX) };
        let pad_token_id = keys.number("pad_token_id", ids, 0)?;

        let config = Config {
            vocab_size: vocab_size as usize,
            d_model: keys.number("d_model", WIDTH, 512)? as usize,
            d_kv: keys.number("d_kv", WIDTH, 64)? as usize,
            d_ff: keys.number("d_ff", FEED_FORWARD, defaults.d_ff)? as usize,
            num_layers: num_layers as usize,
            num_decoder_layers: keys.number("num_decoder_layers", decoder_layers, num_layers)? as usize,
            num_heads: keys.number("num_heads", HEADS, defaults.num_heads)? as usize,
            relative_attention_num_buckets: num_buckets as usize,
            relative_attention_max_distance: keys.number(
                "relative_attention_max_distance",
                exact + 1..=DISTANCE,
                DEFAULT_DISTANCE.max(exact + 1),
            )? as usize,
            layer_norm_epsilon: keys.epsilon("layer_norm_epsilon", 1e-6)?,
            activation,
            is_gated_act,
            architecture,
            model_type,
            pad_token_id: pad_token_id as u32,
            eos_token_id: keys.ids("eos_token_id", 1)?,
            decoder_start_token_id: start_id(&keys, model_type, start_ids, pad_token_id)? as u32,
            scale_decoder_outputs: scale_decoder_outputs(&keys, model_type)?,
            labels: labels(&keys)?,
            tokenizer_class: keys.text("tokenizer_class")?.map(str::to_owned),
            raw: Map::new(),
        };
        config.fits_memory()?;
        Ok(Config { raw, ..config })
    }

    /// Decides what config.json left open, by the names of the tensors.
    pub(crate) fn settle_architecture(&mut self, has: impl Fn(&str) -> bool, has_decoder: bool) {
        let keys = Keys(&self.raw);
        if first_architecture(&keys).is_ok_and(|name| name.is_some()) {
            return;
        }
        // As encoders are saved, and classifiers of tokens.
        let alone = keys.get("is_encoder_decoder") == Some(&Value::Bool(false));
        self.architecture = if !alone && has("qa_outputs.weight") {
            Architecture::QuestionAnswering
        } else if !alone && has("classification_head.out_proj.weight") {
            Architecture::SequenceClassification
        } else if has("classifier.weight") {
            Architecture::TokenClassification
        } else if !alone && has_decoder {
            Architecture::ConditionalGeneration
        } else {
            Architecture::Encoder
        };
    }

    /// Every product of sizes is part of the number of bytes of the packed parameters, whose rows and columns are filled up to whole
    /// registers: if that fits, they all do.
    fn fits_memory(&self) -> Result<(), Error> {
        let [vocab, width, ff, heads, buckets] =
            [self.vocab_size, self.d_model, self.d_ff, self.num_heads, self.relative_attention_num_buckets]
                .map(|n| n as u128);
        let filled = |n: u128| n.next_multiple_of(16);
        let (vocab, width, ff) = (filled(vocab), filled(width), filled(ff));
        let inner = heads * filled(self.d_kv as u128);
        let attention = 4 * width * inner + buckets * heads + width;
        let feed_forward = 3 * width * ff + width;
        let encoder = self.num_layers as u128 * (attention + feed_forward);
        let decoder = self.num_decoder_layers as u128 * (2 * attention + feed_forward);
        let bytes = 4 * (2 * vocab * width + encoder + decoder + 2 * width);
        if bytes > MOST_BYTES as u128 {
            let expected = format!("at most {MOST_BYTES}, which a process can address");
            return Err(keys_error("the model's size in bytes", bytes, expected));
        }
        Ok(())
    }
}

const DEFAULT_DISTANCE: u64 = 128;

/// The defaults in which the model types differ.
struct Defaults {
    vocab_size: u64,
    d_ff: u64,
    num_layers: u64,
    num_heads: u64,
    feed_forward_proj: &'static str,
}

impl Defaults {
    fn of(model_type: ModelType) -> Defaults {
        match model_type {
            ModelType::T5 => {
                Defaults { vocab_size: 32128, d_ff: 2048, num_layers: 6, num_heads: 8, feed_forward_proj: "relu" }
            }
            ModelType::Mt5 | ModelType::Umt5 => Defaults {
                vocab_size: 250_112,
                d_ff: 1024,
                num_layers: 8,
                num_heads: 6,
                feed_forward_proj: "gated-gelu",
            },
        }
    }
}

/// `model_type`; where it is absent, the prefix of the architecture.
fn model_type(keys: &Keys<'_>) -> Result<ModelType, Error> {
    match keys.text("model_type")? {
        Some("t5") => Ok(ModelType::T5),
        Some("mt5") => Ok(ModelType::Mt5),
        Some("umt5") => Ok(ModelType::Umt5),
        Some(other) => Err(keys_error("model_type", quoted(other), "t5, mt5 or umt5")),
        None => Ok(match first_architecture(keys)? {
            Some(name) if name.starts_with("MT5") => ModelType::Mt5,
            Some(name) if name.starts_with("UMT5") => ModelType::Umt5,
            _ => ModelType::T5,
        }),
    }
}

/// `architectures`; where it is absent, by `is_encoder_decoder`.
fn architecture(keys: &Keys<'_>) -> Result<Architecture, Error> {
    let Some(name) = first_architecture(keys)? else {
        return Ok(match keys.flag("is_encoder_decoder")? {
            Some(false) => Architecture::Encoder,
            _ => Architecture::ConditionalGeneration,
        });
    };
    let head = ["UMT5", "MT5", "T5"].iter().find_map(|family| name.strip_prefix(family));
    match head {
        // T5Model is the same without an output matrix of its own; T5WithLMHeadModel is the name of 2019.
        Some("ForConditionalGeneration" | "Model" | "WithLMHeadModel") => Ok(Architecture::ConditionalGeneration),
        Some("EncoderModel") => Ok(Architecture::Encoder),
        Some("ForSequenceClassification") => Ok(Architecture::SequenceClassification),
        Some("ForTokenClassification") => Ok(Architecture::TokenClassification),
        Some("ForQuestionAnswering") => Ok(Architecture::QuestionAnswering),
        _ => Err(keys_error(
            "architectures",
            quoted(name),
            "T5, MT5 or UMT5 with ForConditionalGeneration, Model, EncoderModel, ForSequenceClassification, \
             ForTokenClassification or ForQuestionAnswering",
        )),
    }
}

fn first_architecture<'a>(keys: &Keys<'a>) -> Result<Option<&'a str>, Error> {
    let names = match keys.get("architectures") {
        None => return Ok(None),
        Some(Value::Array(names)) => names,
        Some(other) => {
            return Err(keys_error("architectures", value(other), "a list of one name"));
        }
    };
    match names.first() {
        None => Ok(None),
        Some(Value::String(name)) => Ok(Some(name)),
        Some(other) => Err(keys_error("architectures", value(other), "a list of one name")),
    }
}

/// `feed_forward_proj` is `ACT` or `gated-ACT`; `dense_act_fn` and `is_gated_act` override what it says.
fn activation(keys: &Keys<'_>, default: &str) -> Result<(Activation, bool), Error> {
    const FORM: &str = "ACT or gated-ACT, with ACT one of relu, gelu, gelu_new, gelu_pytorch_tanh, silu";
    let projection = keys.text("feed_forward_proj")?.unwrap_or(default);
    let unknown = || keys_error("feed_forward_proj", quoted(projection), FORM);
    let (name, gated) = match projection.strip_prefix("gated-") {
        Some("gelu") => ("gelu_new", true), // so that the first 1.1 checkpoints go on working
        Some(name) => (name, true),
        None => (projection, false),
    };
    let activation = match keys.text("dense_act_fn")? {
        Some(name) => named(name).ok_or_else(|| keys_error("dense_act_fn", quoted(name), FORM))?,
        None => named(name).ok_or_else(unknown)?,
    };
    Ok((activation, keys.flag("is_gated_act")?.unwrap_or(gated)))
}

/// transformers' names (`ACT2FN`) for the functions that this engine has.
fn named(name: &str) -> Option<Activation> {
    match name {
        "relu" => Some(Activation::Relu),
        "gelu" | "gelu_python" => Some(Activation::Gelu),
        // One formula; they differ in the digits of sqrt(2/pi) and in how it is multiplied out.
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_fast" | "gelu_accurate" => {
            Some(Activation::GeluNew)
        }
        "silu" | "swish" => Some(Activation::Silu),
        _ => None,
    }
}

/// `decoder_start_token_id`; where it is absent `bos_token_id`, else the pad id, which is what T5 starts with.
fn start_id(keys: &Keys<'_>, model_type: ModelType, range: RangeInclusive<u64>, pad: u64) -> Result<u64, Error> {
    if keys.get("decoder_start_token_id").is_some() {
        return keys.number("decoder_start_token_id", range, 0);
    }
    match model_type {
        ModelType::T5 => keys.number("bos_token_id", range, pad),
        ModelType::Mt5 | ModelType::Umt5 => Ok(0),
    }
}

/// T5 scales where `scale_decoder_outputs` says so, else unless `tie_word_embeddings` is false; mT5 never. UMT5 scales where nothing says
/// otherwise, as transformers 5.23 does, which knows no choice; 4.57 and 5.24 obey `tie_word_embeddings`, without effect on greedy ids.
fn scale_decoder_outputs(keys: &Keys<'_>, model_type: ModelType) -> Result<bool, Error> {
    let stated = keys.flag("scale_decoder_outputs")?;
    let tied = keys.flag("tie_word_embeddings")?;
    Ok(match model_type {
        ModelType::T5 => stated.unwrap_or(tied != Some(false)),
        ModelType::Mt5 => false,
        ModelType::Umt5 => stated.unwrap_or(true),
    })
}

/// `id2label` in the order of ids, else `num_labels` (transformers' default is 2) numbered names.
fn labels(keys: &Keys<'_>) -> Result<Vec<String>, Error> {
    let Some(found) = keys.get("id2label") else {
        let count = keys.number("num_labels", 0..=LABELS, 2)?;
        return Ok((0..count).map(|id| format!("LABEL_{id}")).collect());
    };
    let wrong =
        |found: String| keys_error("id2label", found, "an object {\"0\": \"name\", ...} with all ids from 0 on");
    let Value::Object(pairs) = found else {
        return Err(wrong(value(found)));
    };
    let mut labels = vec![None; pairs.len()];
    for (id, label) in pairs {
        let slot = id.parse().ok().and_then(|id: usize| labels.get_mut(id));
        match (slot, label) {
            (Some(slot), Value::String(label)) => *slot = Some(label.clone()),
            (Some(slot), Value::Number(label)) => *slot = Some(label.to_string()),
            _ => return Err(wrong(format!("{}: {}", quoted(id), value(label)))),
        }
    }
    let missing = || wrong("without some id".to_owned());
    labels.into_iter().map(|label| label.ok_or_else(missing)).collect()
}

#[cfg(test)]
mod tests;
