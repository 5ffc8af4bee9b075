//! A checkpoint's tensors, assembled: which tensor is which matrix, packed and ready to compute.

use crate::cache::Cache;
use crate::error::{Error, Result, one_line};
use crate::kv_cache::CacheShape;
use crate::lm_head::LmHead;
use crate::load::{Dtype, Load};
use crate::numbers;
use crate::recent_rows::RecentRows;
use crate::stack::{Block, CrossAttention, Exec, FeedForward, Shape, Stack};
use crate::weights::{Heads, Matrix, Packed, Plan};
use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use tiny_t5_checkpoint::{Architecture, Checkpoint, Config, ModelType, Tensor};
use tiny_t5_kernels::{Activation, Isa, Team};

/// A loaded model: everything that is known before the first token.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) shape: Shape,
    pub(crate) dtype: Dtype,
    pub(crate) packed: Packed,
    /// Where packed weights are kept from start to start.
    pub(crate) cache: Option<Cache>,
    /// A decoder step reads more than caches hold.
    pub(crate) steps_wait_for_memory: bool,
    /// What a draft reads, in steps.
    pub(crate) draft_cost: f64,
    /// Made on first use.
    draft: OnceLock<Draft>,
    /// Searches that drafts could have served before they began to.
    searches: AtomicUsize,
    pub(crate) encoder: Stack,
    pub(crate) decoder: Option<Stack>,
    pub(crate) head: Head,
    /// d_model^-0.5 where the decoder's output is scaled before the head.
    pub(crate) decoder_scale: Option<f32>,
    /// The name of the embedding matrix.
    embedding: &'static str,
    /// How its numbers are rounded: [`numbers::rounded_as`].
    embedding_dtype: Dtype,
    /// Tensors that nothing here uses.
    pub(crate) unused: Vec<String>,
}

/// The decoder at 8 bits, which guesses what the exact one then checks.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) stack: Stack,
    pub(crate) packed: Packed,
}

/// Bytes of the layers that a decoder step reads from which it waits for memory: more than a core's own caches hold.
/// Measured from T5-Efficient-TINY's 14.7 MB on (benches/PERFORMANCE.md).
const IN_MEMORY_FROM: usize = 12 << 20;
/// Searches before drafts begin: making them takes about as long as they save in one.
const SEARCHES_BEFORE_DRAFTS: usize = 2;

/// What stands on top of the stacks.
#[derive(Debug)]
pub(crate) enum Head {
    /// Nothing: hidden states.
    None,
    /// The output matrix.
    Lm(Box<LmHead>),
    /// `classification_head`: dense, tanh, out_proj, on the decoder's state at the last end token.
    Sequence { dense: Linear, out: Linear },
    /// `classifier`, on every encoder state.
    Token(Linear),
    /// `qa_outputs` [2, d_model], on every decoder state.
    Answer(Linear),
}

/// A matrix [n, d_model] with a bias [n].
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Matrix,
    pub(crate) bias: Vec<f32>,
    pub(crate) n: usize,
}

const EMBEDDINGS: [&str; 4] =
    ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"];

impl Model {
    pub(crate) fn load(mut checkpoint: Checkpoint, isa: Isa, team: &Team, load: &Load) -> Result<Model> {
        let dtype = load.dtype;
        let cache = match &load.cache {
            Some(dir) => Cache::open(dir, &checkpoint, dtype, team)?,
            None => None,
        };
        let config = checkpoint.config().clone();
        let mut reader = Reader { checkpoint: &checkpoint, config: &config, dtype, used: BTreeSet::new() };
        let mut plan = Plan::new(isa, dtype, &checkpoint, cache.as_ref().map(|cache| (cache, "layers")), team);
        plan.in_place = load.in_place && cache.is_none();
        let shape = Shape {
            d_model: config.d_model,
            heads: Heads { heads: config.num_heads, d_kv: config.d_kv },
            epsilon: config.layer_norm_epsilon,
            max_distance: config.relative_attention_max_distance,
        };
        reader.blocks_are_known()?;
        let embedding = reader.embedding()?;
        let encoder = reader.stack(&mut plan, "encoder", config.num_layers)?;
        let decoder = match config.architecture.has_decoder() {
            true => Some(reader.stack(&mut plan, "decoder", config.num_decoder_layers)?),
            false => None,
        };
        let head = reader.head(&mut plan, embedding)?;
        let embedding_dtype = match (&head, checkpoint.find(embedding)) {
            (Head::Lm(head), _) if head.name == embedding => head.dtype,
            (_, Some(matrix)) => numbers::rounded_as(&matrix, dtype),
            (_, None) => dtype,
        };
        if dtype == Dtype::F16 {
            checkpoint.release(); // what was looked at for it
        }
        let unused = reader.unused();
        let packed = plan.pack(team)?;
        let output = if let Head::Lm(head) = &head { head.name } else { embedding };
        if packed.is_packed() {
            checkpoint.keep(&[embedding, output]);
        }
        let scaled = config.scale_decoder_outputs && matches!(head, Head::Lm(_));
        let mut blocks = decoder.as_ref().map_or(Vec::new(), |decoder: &Stack| decoder.blocks.clone());
        let matrices: Vec<&mut Matrix> = blocks.iter_mut().flat_map(Block::step_matrices_mut).collect();
        let of_layers: usize = matrices.iter().map(|matrix| matrix.bytes()).sum();
        let of_draft: usize = matrices.iter().map(|matrix| matrix.weights()).sum();
        let of_head = config.vocab_size * config.d_model;
        let draft_cost = (of_draft + of_head) as f64 / (of_layers + of_head) as f64;
        let steps_wait_for_memory = of_layers >= IN_MEMORY_FROM;
        let (draft, searches) = (OnceLock::new(), AtomicUsize::new(0));
        let decoder_scale = scaled.then(|| (config.d_model as f64).powf(-0.5) as f32);
        Ok(Model {
            shape,
            dtype,
            packed,
            encoder,
            decoder,
            head,
            decoder_scale,
            embedding,
            embedding_dtype,
            unused,
            cache,
            checkpoint,
            draft,
            searches,
            steps_wait_for_memory,
            draft_cost,
        })
    }

    /// The decoder at 8 bits.
    pub(crate) fn draft(&self, exec: Exec<'_>, decoder: &Stack) -> Result<&Draft> {
        if let Some(draft) = self.draft.get() {
            return Ok(draft);
        }
        let mut stack = decoder.clone();
        let mut matrices: Vec<&mut Matrix> = stack.blocks.iter_mut().flat_map(Block::step_matrices_mut).collect();
        let packed = self.packed.at_8_bits(&mut matrices, exec.isa, exec.team)?;
        Ok(self.draft.get_or_init(|| Draft { stack, packed }))
    }

    /// Whether drafts save time in steps of one sequence, and there have been enough searches to make them for.
    pub(crate) fn drafts_pay(&self) -> bool {
        self.steps_wait_for_memory && self.searches.fetch_add(1, Ordering::Relaxed) >= SEARCHES_BEFORE_DRAFTS
    }

    /// Of the keys and values of `decoder`, this model's or its draft.
    pub(crate) fn cache_shape(&self, decoder: &Stack) -> CacheShape {
        let Heads { heads, d_kv } = self.shape.heads;
        CacheShape { layers: decoder.blocks.len(), heads, d_kv, half: CacheShape::is_half(self.dtype) }
    }

    pub(crate) fn config(&self) -> &Config {
        self.checkpoint.config()
    }

    /// The embedding matrix [vocab_size, d_model], as it lies in the checkpoint.
    pub(crate) fn embedding(&self) -> Tensor<'_> {
        self.checkpoint.find(self.embedding).expect("`load` found it, and a checkpoint does not change")
    }

    /// Writes the embeddings of ids, row by row; T5 does not scale them. The ids are below vocab_size.
    pub(crate) fn embed(&self, recent: &mut RecentRows, ids: impl Iterator<Item = u32>, out: &mut [f32]) {
        let (embedding, stride) = (self.embedding(), self.shape.stride());
        for (id, out) in ids.zip(out.chunks_exact_mut(stride)) {
            let read = |row: &mut [f32]| numbers::row(&embedding, id as usize, self.embedding_dtype, row);
            out.copy_from_slice(recent.row(id, stride, read));
        }
    }
}

/// Finds tensors by their names and checks their shapes.
struct Reader<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a Config,
    dtype: Dtype,
    used: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    fn tensor(&mut self, name: &str, shape: &[usize], why: &str) -> Result<Tensor<'a>> {
        self.used.insert(name.to_owned());
        Ok(self.checkpoint.tensor(name, shape, why)?)
    }

    fn vector(&mut self, name: &str, len: usize, why: &str) -> Result<Vec<f32>> {
        Ok(numbers::vector(&self.tensor(name, &[len], why)?, self.dtype))
    }

    /// T5 has no more blocks than config.json says: a deeper checkpoint would compute something else without a word.
    fn blocks_are_known(&self) -> Result<()> {
        for (stack, blocks, key) in [
            ("encoder.block.", self.config.num_layers, "num_layers"),
            ("decoder.block.", self.config.num_decoder_layers, "num_decoder_layers"),
        ] {
            if stack.starts_with("decoder") && !self.config.architecture.has_decoder() {
                continue;
            }
            for name in self.checkpoint.names() {
                let index = name.strip_prefix(stack).and_then(|rest| rest.split('.').next());
                if let Some(index) = index.and_then(|i| i.parse::<usize>().ok()).filter(|i| *i >= blocks) {
                    let file = self.checkpoint.find(name).map_or("weights", |t| t.file).to_owned();
                    let name = one_line(name);
                    let what =
                        format!("{name} is of block {index}, expected blocks below {blocks} ({key} in config.json)");
                    return Err(Error::Variant { file, what });
                }
            }
        }
        Ok(())
    }

    fn embedding(&mut self) -> Result<&'static str> {
        let shape = [self.config.vocab_size, self.config.d_model];
        let found = EMBEDDINGS.into_iter().find(|name| self.checkpoint.find(name).is_some());
        let name = found.unwrap_or(EMBEDDINGS[0]);
        self.tensor(name, &shape, "vocab_size, d_model in config.json")?;
        // Copies of the embedding under its other names are no surprise.
        self.used.extend(EMBEDDINGS[..3].iter().map(|n| (*n).to_owned()));
        Ok(name)
    }

    fn stack(&mut self, plan: &mut Plan<'a>, stack: &str, blocks: usize) -> Result<Stack> {
        plan.once = stack == "encoder";
        let blocks = (0..blocks).map(|i| self.block(plan, stack, i)).collect::<Result<_>>()?;
        plan.once = false;
        let final_norm =
            self.vector(&format!("{stack}.final_layer_norm.weight"), self.config.d_model, "d_model in config.json")?;
        Ok(Stack { blocks, final_norm })
    }

    fn block(&mut self, plan: &mut Plan<'a>, stack: &str, i: usize) -> Result<Block> {
        let c = self.config;
        let name = |rest: &str| format!("{stack}.block.{i}.{rest}");
        let norm = "d_model in config.json";
        let heads = Heads { heads: c.num_heads, d_kv: c.d_kv };

        let attention_norm = self.vector(&name("layer.0.layer_norm.weight"), c.d_model, norm)?;
        let [q, k, v, o] = self.projections(&name("layer.0.SelfAttention"))?;
        let qkv = plan.head_rows(&[q, k, v], heads);
        let o = plan.head_columns(o, heads);
        let bias = match i == 0 || c.model_type == ModelType::Umt5 {
            true => {
                let shape = [c.relative_attention_num_buckets, c.num_heads];
                let why = "relative_attention_num_buckets, num_heads in config.json";
                let weight = self.tensor(&name("layer.0.SelfAttention.relative_attention_bias.weight"), &shape, why)?;
                Some(numbers::all(&weight, self.dtype))
            }
            false => None,
        };
        let cross = match stack == "decoder" {
            true => {
                let norm = self.vector(&name("layer.1.layer_norm.weight"), c.d_model, norm)?;
                let [q, k, v, o] = self.projections(&name("layer.1.EncDecAttention"))?;
                let q = plan.head_rows(&[q], heads);
                plan.once = true; // all tokens of the source
                let kv = plan.head_rows(&[k, v], heads);
                plan.once = false;
                Some(CrossAttention { norm, q, kv, o: plan.head_columns(o, heads) })
            }
            false => None,
        };
        let last = if cross.is_some() { "layer.2" } else { "layer.1" };
        let feed_forward = self.feed_forward(plan, &name(last))?;
        Ok(Block { attention_norm, qkv, o, bias, cross, feed_forward })
    }

    fn projections(&mut self, attention: &str) -> Result<[Tensor<'a>; 4]> {
        let c = self.config;
        let inner = c.num_heads * c.d_kv;
        let why = format!("num_heads {} * d_kv {}, d_model {} in config.json", c.num_heads, c.d_kv, c.d_model);
        let has = |part: &str| self.checkpoint.find(&format!("{attention}.{part}.weight")).is_some();
        if has("q") && (has("k") != has("v")) {
            let file = self.checkpoint.find(&format!("{attention}.q.weight")).map_or("weights", |t| t.file).to_owned();
            let what = format!(
                "{attention} has only one of k and v: checkpoints with tied keys and values (skv) are not supported"
            );
            return Err(Error::Variant { file, what });
        }
        let mut part = |part: &str, shape: [usize; 2]| self.tensor(&format!("{attention}.{part}.weight"), &shape, &why);
        let (down, up) = ([inner, c.d_model], [c.d_model, inner]);
        Ok([part("q", down)?, part("k", down)?, part("v", down)?, part("o", up)?])
    }

    fn feed_forward(&mut self, plan: &mut Plan<'a>, layer: &str) -> Result<FeedForward> {
        let c = self.config;
        let why = "d_ff, d_model in config.json";
        let norm = self.vector(&format!("{layer}.layer_norm.weight"), c.d_model, "d_model in config.json")?;
        let names: &[&str] = if c.is_gated_act { &["wi_0", "wi_1"] } else { &["wi"] };
        let wi = names
            .iter()
            .map(|w| self.tensor(&format!("{layer}.DenseReluDense.{w}.weight"), &[c.d_ff, c.d_model], why))
            .collect::<Result<Vec<_>>>()?;
        let wo = self.tensor(&format!("{layer}.DenseReluDense.wo.weight"), &[c.d_model, c.d_ff], why)?;
        let activation = match c.activation {
            tiny_t5_checkpoint::Activation::Relu => Activation::Relu,
            tiny_t5_checkpoint::Activation::GeluNew => Activation::GeluNew,
            tiny_t5_checkpoint::Activation::Gelu => Activation::Gelu,
            tiny_t5_checkpoint::Activation::Silu => Activation::Silu,
        };
        let (wi, wo) = (plan.rows(&wi), plan.rows(&[wo]));
        Ok(FeedForward { norm, wi, wo, gated: c.is_gated_act, activation })
    }

    fn head(&mut self, plan: &mut Plan<'a>, embedding: &'static str) -> Result<Head> {
        let c = self.config;
        let labels = c.labels.len();
        let names_labels = [Architecture::SequenceClassification, Architecture::TokenClassification];
        if labels == 0 && names_labels.contains(&c.architecture) {
            let what = "id2label, num_labels: found no label, expected one or more".to_owned();
            return Err(Error::Variant { file: "config.json".to_owned(), what });
        }
        Ok(match c.architecture {
            Architecture::Encoder => Head::None,
            Architecture::ConditionalGeneration => {
                // A stored lm_head that equals the embedding gives the same logits, so nobody has to compare them.
                let name = if self.checkpoint.find("lm_head.weight").is_some() { "lm_head.weight" } else { embedding };
                let tensor = self.tensor(name, &[c.vocab_size, c.d_model], "vocab_size, d_model in config.json")?;
                Head::Lm(Box::new(LmHead::new(name, numbers::rounded_as(&tensor, self.dtype))))
            }
            Architecture::SequenceClassification => Head::Sequence {
                dense: self.linear(plan, "classification_head.dense", c.d_model, "d_model in config.json")?,
                out: self.linear(plan, "classification_head.out_proj", labels, "id2label, d_model in config.json")?,
            },
            Architecture::TokenClassification => {
                Head::Token(self.linear(plan, "classifier", labels, "id2label, d_model in config.json")?)
            }
            Architecture::QuestionAnswering => Head::Answer(self.linear(plan, "qa_outputs", 2, "start and end")?),
        })
    }

    fn linear(&mut self, plan: &mut Plan<'a>, name: &str, n: usize, why: &str) -> Result<Linear> {
        let weight = self.tensor(&format!("{name}.weight"), &[n, self.config.d_model], why)?;
        let bias = self.vector(&format!("{name}.bias"), n, why)?;
        Ok(Linear { weight: plan.rows(&[weight]), bias, n })
    }

    /// Tensors that the model has no place for.
    fn unused(&self) -> Vec<String> {
        self.checkpoint.names().filter(|name| !self.used.contains(*name)).map(str::to_owned).collect()
    }
}
