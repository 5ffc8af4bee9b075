//! What a sentence-transformers folder puts behind the encoder: modules.json and a folder a module.
//!
//! ```text
//! modules.json         Transformer (the folder itself), Pooling, Dense ..., Normalize: in this order
//! 1_Pooling/           config.json: which mean
//! 2_Dense/             config.json: in_features, out_features, bias, activation_function; linear.weight, linear.bias
//! sentence_bert_config.json   max_seq_length, do_lower_case; without the first, model_max_length of tokenizer_config.json
//! config_sentence_transformers.json   default_prompt_name, and prompts by name
//! ```
//! Source: sentence-transformers, `models/{Transformer,Pooling,Dense,Normalize}.py`; the folders of Sentence-T5 and GTR.

use std::path::{Component, Path};

use serde_json::{Map, Value};

use crate::bytes::{self, Access};
use crate::checkpoint::open_weights;
use crate::error::{Error, shown};
use crate::tensors::{Tensor, Tensors};

const MODULES: &str = "modules.json";
const TRANSFORMER: &str = "sentence_bert_config.json";
/// Bytes of one of these JSON files; real ones have hundreds.
const LARGEST: u64 = 1 << 16;
const PROMPTS: &str = "config_sentence_transformers.json";
const TOKENIZER: &str = "tokenizer_config.json";
/// Bytes of that one, which lists tokens.
const LARGEST_TOKENIZER: u64 = 4 << 20;
/// Tokens of a text.
const LONGEST: u64 = 1 << 24;
/// Modules; released models have four.
const MOST_MODULES: usize = 16;
/// Features of a dense layer.
const WIDTH: u64 = 1 << 16;

/// What follows the encoder: the mean of the hidden states, dense layers, a norm.
#[derive(Debug)]
#[non_exhaustive]
pub struct Modules {
    /// Tokens that a text is cut to, its end token included.
    pub max_seq_length: Option<usize>,
    /// Texts are made lower case.
    pub do_lower_case: bool,
    /// What stands before every text.
    pub prompt: String,
    /// Layers behind the mean, in order.
    pub dense: Vec<Dense>,
    /// The vector is divided by its length.
    pub normalize: bool,
}

/// A dense layer: `activation(weight x + bias)`.
#[derive(Debug)]
#[non_exhaustive]
pub struct Dense {
    /// Columns of the weight.
    pub in_features: usize,
    /// Rows of the weight.
    pub out_features: usize,
    /// Tanh behind it; else nothing.
    pub tanh: bool,
    bias: bool,
    /// The weight file, for messages.
    file: String,
    config: String,
    tensors: Tensors,
}

impl Modules {
    /// Those of a checkpoint folder; `None` where it has no modules.json.
    ///
    /// # Errors
    /// Where a file cannot be read or is not what it should be, or a module is one that is not computed here.
    pub fn open(dir: &Path) -> Result<Option<Modules>, Error> {
        if !dir.join(MODULES).exists() {
            return Ok(None);
        }
        let mut modules = Modules {
            max_seq_length: None,
            do_lower_case: false,
            prompt: prompt(dir)?,
            dense: Vec::new(),
            normalize: false,
        };
        if dir.join(TRANSFORMER).exists() {
            let config = object(dir, TRANSFORMER)?;
            modules.max_seq_length = number(TRANSFORMER, &config, "max_seq_length", LONGEST)?;
            modules.do_lower_case = flag(TRANSFORMER, &config, "do_lower_case", false)?;
        }
        if modules.max_seq_length.is_none() && dir.join(TOKENIZER).exists() {
            let text = bytes::read_text(&dir.join(TOKENIZER), TOKENIZER, LARGEST_TOKENIZER)?;
            let config: Value = serde_json::from_str(&text).map_err(|e| Error::json(TOKENIZER, e))?;
            // Where there is no limit transformers writes 10^30.
            let limit = config["model_max_length"].as_u64().filter(|n| (1..=LONGEST).contains(n));
            modules.max_seq_length = limit.map(|n| n as usize);
        }
        let list = match read(dir, MODULES)? {
            Value::Array(list) => list,
            other => return Err(unlike(MODULES, "its content", &other, "a list of modules")),
        };
        if list.len() > MOST_MODULES {
            return Err(Error::too_large(MODULES, "the number of modules", list.len() as u64, MOST_MODULES as u64));
        }
        let mut pooled = false;
        for (i, module) in list.iter().enumerate() {
            let text = |key: &str| match &module[key] {
                Value::String(text) => Ok(text.as_str()),
                other => Err(unlike(MODULES, format!("[{i}].{key}"), other, "a text")),
            };
            let (kind, path) = (text("type")?, text("path")?);
            let inside =
                !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
            match kind.rsplit('.').next() {
                Some("Transformer") if i == 0 && path.is_empty() => {}
                Some("Pooling") if i == 1 && inside => {
                    mean_alone(dir, &format!("{path}/config.json"), !modules.prompt.is_empty())?;
                    pooled = true;
                }
                Some("Dense") if pooled && !modules.normalize && inside => {
                    modules.dense.push(Dense::open(dir, path)?);
                }
                Some("Normalize") if pooled && !modules.normalize => modules.normalize = true,
                _ => {
                    let expected = "Transformer (path \"\"), Pooling, Dense ..., Normalize in this order";
                    return Err(unlike(MODULES, format!("[{i}]"), module, expected));
                }
            }
        }
        match pooled {
            true => Ok(Some(modules)),
            false => Err(unlike(MODULES, "its content", &Value::Array(list), "a Pooling behind the Transformer")),
        }
    }
}

impl Dense {
    fn open(dir: &Path, path: &str) -> Result<Dense, Error> {
        let file = format!("{path}/config.json");
        let config = object(dir, &file)?;
        let features = |key| {
            number(&file, &config, key, WIDTH)?.ok_or_else(|| unlike(&file, key, &Value::Null, "a number of features"))
        };
        // torch's and sentence-transformers' defaults.
        let bias = flag(&file, &config, "bias", true)?;
        let activation = config.get("activation_function").unwrap_or(&Value::Null);
        let tanh = match activation.as_str().map(|name| name.rsplit('.').next().unwrap_or(name)) {
            Some("Identity") => false,
            Some("Tanh") => true,
            None if activation.is_null() => true,
            _ => return Err(unlike(&file, "activation_function", activation, "torch's Identity or Tanh")),
        };
        let (in_features, out_features) = (features("in_features")?, features("out_features")?);
        let (weights, mut tensors) = open_weights(&dir.join(path), &format!("{path}/"), Access::Read)?;
        tensors.keep(&["linear.weight", "linear.bias"]);
        Ok(Dense { in_features, out_features, tanh, bias, file: weights, config: file, tensors })
    }

    /// `linear.weight` [out_features, in_features].
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Shape`] or [`Error::Dtype`].
    pub fn weight(&self) -> Result<Tensor<'_>, Error> {
        let why = format!("out_features, in_features in {}", self.config);
        self.tensors.expect(&self.file, "linear.weight", &[self.out_features, self.in_features], &why)
    }

    /// `linear.bias` `[out_features]`, if the layer has one.
    ///
    /// # Errors
    /// As [`Dense::weight`].
    pub fn bias(&self) -> Result<Option<Tensor<'_>>, Error> {
        let why = format!("out_features in {}", self.config);
        let tensor = || self.tensors.expect(&self.file, "linear.bias", &[self.out_features], &why);
        self.bias.then(tensor).transpose()
    }
}

/// What stands before every text, where nobody asks for another prompt.
fn prompt(dir: &Path) -> Result<String, Error> {
    if !dir.join(PROMPTS).exists() {
        return Ok(String::new());
    }
    let config = object(dir, PROMPTS)?;
    let name = match config.get("default_prompt_name") {
        None | Some(Value::Null) => return Ok(String::new()),
        Some(Value::String(name)) => name,
        Some(found) => return Err(unlike(PROMPTS, "default_prompt_name", found, "a text")),
    };
    match config.get("prompts").and_then(|prompts| prompts.get(name)) {
        Some(Value::String(prompt)) => Ok(prompt.clone()),
        found => {
            let (key, found) = (format!("prompts.{}", shown(name)), found.unwrap_or(&Value::Null));
            Err(unlike(PROMPTS, key, found, "the text of the default prompt"))
        }
    }
}

/// Checks that the pooling is the mean over all tokens, those of a prompt too, and nothing else.
fn mean_alone(dir: &Path, file: &str, has_prompt: bool) -> Result<(), Error> {
    let config = object(dir, file)?;
    if let Some(found @ Value::Bool(false)) = config.get("include_prompt").filter(|_| has_prompt) {
        return Err(unlike(file, "include_prompt", found, "true: the mean of all tokens is what is computed"));
    }
    for (key, value) in config.iter().filter(|(key, _)| key.starts_with("pooling_mode_")) {
        let expected = key == "pooling_mode_mean_tokens";
        if value.as_bool() != Some(expected) {
            return Err(unlike(file, key, value, format!("{expected}: the mean of the tokens is what is computed")));
        }
    }
    match config.get("pooling_mode") {
        None => Ok(()),
        Some(Value::String(mode)) if mode == "mean" => Ok(()),
        Some(mode) => Err(unlike(file, "pooling_mode", mode, "\"mean\"")),
    }
}

fn read(dir: &Path, file: &str) -> Result<Value, Error> {
    let text = bytes::read_text(&dir.join(file), file, LARGEST)?;
    serde_json::from_str(&text).map_err(|e| Error::json(file, e))
}

fn object(dir: &Path, file: &str) -> Result<Map<String, Value>, Error> {
    match read(dir, file)? {
        Value::Object(map) => Ok(map),
        other => Err(unlike(file, "its content", &other, "an object")),
    }
}

fn number(file: &str, config: &Map<String, Value>, key: &str, most: u64) -> Result<Option<usize>, Error> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().filter(|n| (1..=most).contains(n)) {
            Some(n) => Ok(Some(n as usize)),
            None => Err(unlike(file, key, value, format!("a whole number, 1 to {most}"))),
        },
    }
}

fn flag(file: &str, config: &Map<String, Value>, key: &str, default: bool) -> Result<bool, Error> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(found) => Err(unlike(file, key, found, "true or false")),
    }
}

fn unlike(file: &str, key: impl Into<String>, found: &Value, expected: impl Into<String>) -> Error {
    let found = match found {
        Value::String(text) => format!("\"{}\"", shown(text)),
        other => shown(&other.to_string()),
    };
    Error::Config { file: shown(file), key: shown(&key.into()), found, expected: expected.into() }
}
