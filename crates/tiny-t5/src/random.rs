//! Models of any shape with random weights, made in memory: for measuring and testing shapes whose weights are not at hand.
//!
//! Weight i of a model, in the order of its tensors, is a hash of the seed and of i: SplitMix64 at place i, so that all
//! threads make weights at once and every machine makes the same. They are uniform around 0 instead of normal, with the
//! standard deviations that transformers gives a new T5; norms are 1 and biases 0.
//!
//! Source: transformers, `T5PreTrainedModel._init_weights`, with initializer_factor 1; Steele, Lea and Flood, 2014, Fast
//! splittable pseudorandom number generators.

use crate::error::{Error, Result};
use crate::load::Load;
use crate::t5::T5;
use serde_json::{Map, Value, json};
use std::time::Instant;
use tiny_t5_checkpoint::{Architecture, Checkpoint, Config, ModelType};
use tiny_t5_kernels::{Arena, Team};

/// Weights that a thread makes at a time.
const CHUNK: usize = 1 << 14;
/// Tensors begin at cache lines of the memory.
const ALIGN: usize = 64;

impl T5 {
    /// A model with random f32 weights, without a tokenizer: `config` is the text of a config.json, and one `seed` gives the
    /// same weights everywhere. Nothing is written to disk. While it loads, it takes twice the memory of its weights.
    ///
    /// The output matrix is the embedding unless config.json says otherwise (`tie_word_embeddings`; for T5 also
    /// `scale_decoder_outputs: false`, as transformers 5 saves T5 1.1). What such a model generates has no meaning; its
    /// speed is that of a trained model of the same shape, except where the numbers decide how much work there is.
    ///
    /// ```
    /// use tiny_t5::{Generate, Load, Shape, T5};
    ///
    /// let config = r#"{"model_type": "t5", "num_layers": 2, "d_model": 64, "d_ff": 128, "num_heads": 2, "vocab_size": 512}"#;
    /// let t5 = T5::random(config, 7, &Load::default())?;
    /// let answer = t5.generate(&[20, 31, 1], &Generate::default())?;
    /// println!("{:.1} ms", answer.timings.decode_ms);
    ///
    /// // A shape of the family.
    /// let config = tiny_t5::serde_json::Value::from(Shape::named("t5-efficient-mini")?.config.raw).to_string();
    /// # assert!(config.contains("d_model"));
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// Where `config` is not a valid config.json, and where the system has no memory for such a model.
    pub fn random(config: &str, seed: u64, load: &Load) -> Result<T5> {
        T5::random_with(config, seed, load, |_, _, _| ())
    }

    /// [`T5::random`] with tensors changed before they are loaded: `change` is given every tensor's name and shape, as a
    /// checkpoint has them, and its values.
    ///
    /// # Errors
    /// As [`T5::random`].
    pub fn random_with(
        config: &str,
        seed: u64,
        load: &Load,
        mut change: impl FnMut(&str, &[usize], &mut [f32]),
    ) -> Result<T5> {
        let start = Instant::now();
        let tensors = tensors(&Config::parse(config)?);
        let checkpoint = move |team: &Team| {
            let weights = weights(&tensors, seed, team, &mut change)?;
            Ok(Checkpoint::from_owned(config, None, Box::new(weights))?)
        };
        T5::assemble(Box::new(checkpoint), load, start, Box::new(|| Ok(None)))
    }
}

/// Changes a tensor of this name and shape.
type Change<'a> = dyn FnMut(&str, &[usize], &mut [f32]) + 'a;

/// A tensor before it has values.
struct Tensor {
    name: String,
    shape: Vec<usize>,
    values: Values,
}

enum Values {
    All(f32),
    /// Uniform around 0 with this standard deviation.
    Std(f64),
}

impl Tensor {
    fn len(&self) -> u64 {
        self.shape.iter().map(|n| *n as u64).product()
    }
}

/// The tensors of a shape, under the names of a checkpoint.
fn tensors(config: &Config) -> Vec<Tensor> {
    let (d, labels) = (config.d_model, config.labels.len());
    let mut list = List { config, tensors: Vec::new() };
    list.matrix("shared", [config.vocab_size, d], 1.0);
    list.stack("encoder", config.num_layers);
    if config.architecture.has_decoder() {
        list.stack("decoder", config.num_decoder_layers);
    }
    match config.architecture {
        Architecture::ConditionalGeneration if has_own_head(config) => {
            list.matrix("lm_head", [config.vocab_size, d], 1.0);
        }
        Architecture::ConditionalGeneration | Architecture::Encoder => {}
        Architecture::SequenceClassification => {
            list.linear("classification_head.dense", d, std_for(d));
            list.linear("classification_head.out_proj", labels, std_for(d));
        }
        Architecture::TokenClassification => list.linear("classifier", labels, 1.0),
        Architecture::QuestionAnswering => list.linear("qa_outputs", 2, std_for(d)),
    }
    list.tensors
}

/// Whether the output matrix is one of its own. In a loaded checkpoint its tensors say so; here there is only config.json.
fn has_own_head(config: &Config) -> bool {
    let flag = |key: &str| config.raw.get(key).and_then(Value::as_bool);
    let tied = flag("tie_word_embeddings");
    match config.model_type {
        ModelType::T5 => tied == Some(false) || flag("scale_decoder_outputs") == Some(false),
        ModelType::Mt5 => tied != Some(true),
        ModelType::Umt5 => tied == Some(false),
    }
}

/// The standard deviation that keeps the size of sums of `inputs` products.
fn std_for(inputs: usize) -> f64 {
    1.0 / (inputs as f64).sqrt() // exact everywhere, as a power is not
}

struct List<'a> {
    config: &'a Config,
    tensors: Vec<Tensor>,
}

impl List<'_> {
    fn stack(&mut self, stack: &str, blocks: usize) {
        let c = self.config;
        let attentions: &[&str] =
            if stack == "decoder" { &["SelfAttention", "EncDecAttention"] } else { &["SelfAttention"] };
        for i in 0..blocks {
            for (layer, attention) in attentions.iter().enumerate() {
                let layer = format!("{stack}.block.{i}.layer.{layer}");
                self.attention(&format!("{layer}.{attention}"));
                if *attention == "SelfAttention" && (i == 0 || c.model_type == ModelType::Umt5) {
                    let shape = [c.relative_attention_num_buckets, c.num_heads];
                    self.matrix(&format!("{layer}.{attention}.relative_attention_bias"), shape, std_for(c.d_model));
                }
                self.norm(&format!("{layer}.layer_norm"));
            }
            let layer = format!("{stack}.block.{i}.layer.{}", attentions.len());
            let names: &[&str] = if c.is_gated_act { &["wi_0", "wi_1"] } else { &["wi"] };
            for name in names {
                self.matrix(&format!("{layer}.DenseReluDense.{name}"), [c.d_ff, c.d_model], std_for(c.d_model));
            }
            self.matrix(&format!("{layer}.DenseReluDense.wo"), [c.d_model, c.d_ff], std_for(c.d_ff));
            self.norm(&format!("{layer}.layer_norm"));
        }
        self.norm(&format!("{stack}.final_layer_norm"));
    }

    fn attention(&mut self, attention: &str) {
        let c = self.config;
        let inner = c.num_heads * c.d_kv;
        // Scores are not divided by sqrt(d_kv) in T5: q is that much smaller instead.
        for (name, std) in [("q", std_for(c.d_model * c.d_kv)), ("k", std_for(c.d_model)), ("v", std_for(c.d_model))] {
            self.matrix(&format!("{attention}.{name}"), [inner, c.d_model], std);
        }
        self.matrix(&format!("{attention}.o"), [c.d_model, inner], std_for(inner));
    }

    fn linear(&mut self, name: &str, n: usize, std: f64) {
        self.matrix(name, [n, self.config.d_model], std);
        self.add(format!("{name}.bias"), vec![n], Values::All(0.0));
    }

    fn matrix(&mut self, name: &str, shape: [usize; 2], std: f64) {
        self.add(format!("{name}.weight"), shape.to_vec(), Values::Std(std));
    }

    fn norm(&mut self, name: &str) {
        self.add(format!("{name}.weight"), vec![self.config.d_model], Values::All(1.0));
    }

    fn add(&mut self, name: String, shape: Vec<usize>, values: Values) {
        self.tensors.push(Tensor { name, shape, values });
    }
}

/// The bytes of a safetensors file of the tensors.
fn weights(tensors: &[Tensor], seed: u64, team: &Team, change: &mut Change<'_>) -> Result<Arena> {
    let header = header(tensors);
    let floats: u64 = tensors.iter().map(Tensor::len).sum();
    let bytes = usize::try_from(4 * floats + header.len() as u64).unwrap_or(usize::MAX);
    let memory = |source| Error::Memory { what: "random weights", bytes, source };
    has_room_for(bytes).map_err(memory)?;
    let mut arena = Arena::new(bytes).map_err(memory)?;
    let (head, data) = arena.bytes_mut().split_at_mut(header.len());
    head.copy_from_slice(&header);
    let key = mix(seed);
    let mut first = 0u64;
    let mut rest: &mut [f32] = bytemuck::cast_slice_mut(data);
    for Tensor { name, shape, values } in tensors {
        let (all, after) = std::mem::take(&mut rest).split_at_mut(shape.iter().product());
        rest = after;
        match values {
            Values::All(value) => all.fill(*value),
            Values::Std(std) => {
                // 24 bits, in halves so that they lie around 0: exact, and so is all but the last multiplication.
                let scale = (std * 3f64.sqrt() / f64::from(1 << 23)) as f32;
                team.chunks_mut(all, CHUNK, |chunk, piece| {
                    let place = first + (chunk * CHUNK) as u64;
                    for (value, i) in piece.iter_mut().zip(place..) {
                        let bits = (mix(key.wrapping_add(i.wrapping_mul(GAMMA))) >> 40) as i32;
                        *value = ((bits - (1 << 23)) as f32 + 0.5) * scale;
                    }
                });
            }
        }
        change(name, shape, all);
        first += all.len() as u64;
    }
    Ok(arena)
}

/// What stands before the numbers: its own length, then JSON, filled up with spaces.
fn header(tensors: &[Tensor]) -> Vec<u8> {
    let (mut header, mut end) = (Map::new(), 0);
    for tensor in tensors {
        let from = end;
        end += 4 * tensor.len();
        let entry = json!({"dtype": "F32", "shape": tensor.shape, "data_offsets": [from, end]});
        header.insert(tensor.name.clone(), entry);
    }
    let mut json = Value::Object(header).to_string();
    json.extend(std::iter::repeat_n(' ', (8 + json.len()).next_multiple_of(ALIGN) - 8 - json.len()));
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat()
}

/// Fails where the system says that it has no memory for the weights and for their packed copy: some systems promise what
/// they do not have, and end the process that takes it.
fn has_room_for(bytes: usize) -> std::io::Result<()> {
    let Ok(text) = std::fs::read_to_string("/proc/meminfo") else { return Ok(()) };
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let available = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    match available.map(|kilobytes: u64| kilobytes.saturating_mul(1024)) {
        Some(available) if available / 2 < bytes as u64 => {
            let what = format!("twice that is needed, and the system has {available}");
            Err(std::io::Error::new(std::io::ErrorKind::OutOfMemory, what))
        }
        _ => Ok(()),
    }
}

/// What a place of SplitMix64's sequence is from the one before it.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's hash.
fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
