//! What a shape costs: parameters, bytes and floating-point operations, counted from config.json alone: [`FORMULAS`].
//!
//! Source: the tensors of transformers' `T5Model`; the parameters equal the tensors' sizes in every reference checkpoint
//! (`tests/cli.rs`) and in checkpoints made for named shapes (`tests/family.rs`), and the published counts of the T5-Efficient
//! family (Tay et al., 2021, arXiv:2109.10686), but for ten checkpoints that are not what their names say (`family.rs`).

use tiny_t5_checkpoint::{Architecture, Config, ModelType};

/// The formulas of [`Parameters`], [`Flops`] and [`DecodedToken`]:
///
/// ```text
#[doc = include_str!("formulas.txt")]
/// ```
pub const FORMULAS: &str = include_str!("formulas.txt");

/// How many parameters a model has, by the part that they belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parameters {
    /// The embedding, which source and target share.
    pub embedding: u64,
    /// The encoder's blocks, its relative-bias table and its last norm.
    pub encoder: u64,
    /// The decoder's; 0 where the architecture has none.
    pub decoder: u64,
    /// What stands on top: an output matrix of its own, or a classifier.
    pub head: u64,
}

impl Parameters {
    /// Counts those of a shape. `own_head`: the output matrix is not the embedding, as in T5 1.1, Flan and mT5.
    #[must_use]
    pub fn of(config: &Config, own_head: bool) -> Parameters {
        Parameters::count(config, own_head, Kv::Apart)
    }

    pub(crate) fn count(config: &Config, own_head: bool, kv: Kv) -> Parameters {
        let s = Sizes::of(config);
        let stack = |blocks: u64, attentions: u64| {
            let block = attentions * (2 + kv.matrices()) * s.d * s.inner + s.feed_forward + (attentions + 1) * s.d;
            let tables = if config.model_type == ModelType::Umt5 { blocks } else { blocks.min(1) };
            blocks * block + tables * s.buckets * s.heads + s.d
        };
        let labels = config.labels.len() as u64;
        let linear = |n: u64| n * s.d + n;
        Parameters {
            embedding: s.vocab * s.d,
            encoder: stack(s.encoder_blocks, 1),
            decoder: if config.architecture.has_decoder() { stack(s.decoder_blocks, 2) } else { 0 },
            head: match config.architecture {
                Architecture::ConditionalGeneration if own_head => s.vocab * s.d,
                Architecture::ConditionalGeneration | Architecture::Encoder => 0,
                Architecture::SequenceClassification => linear(s.d) + linear(labels),
                Architecture::TokenClassification => linear(labels),
                Architecture::QuestionAnswering => linear(2),
            },
        }
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.embedding + self.encoder + self.decoder + self.head
    }

    /// Bytes of all of them at 4 (f32), 2 (bf16, f16) or 1 (int8, its scales not counted) bytes each.
    #[must_use]
    pub fn bytes(&self, bytes_each: u64) -> u64 {
        self.total() * bytes_each
    }
}

/// Floating-point operations of one source and its target, by the part that does them. A multiply-add is 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Flops {
    /// The encoder, over the source.
    pub encoder: u64,
    /// Keys and values of cross-attention, once a source.
    pub cross: u64,
    /// The decoder's blocks, over the target: cached, one token after the other.
    pub decoder: u64,
    /// The output matrix or classifier.
    pub head: u64,
}

impl Flops {
    /// Counts those of a shape for `source` and `target` tokens. Numbers past `u64::MAX` are that.
    ///
    /// The classifiers that read decoder states are given the source as target; `target` counts all the same.
    #[must_use]
    pub fn of(config: &Config, source: u64, target: u64) -> Flops {
        Flops::count(config, Kv::Apart, source, target)
    }

    pub(crate) fn count(config: &Config, kv: Kv, source: u64, target: u64) -> Flops {
        let s = Sizes::of(config);
        let kv = u128::from(kv.matrices());
        let [d, inner, ff, vocab] = [s.d, s.inner, s.feed_forward, s.vocab].map(u128::from);
        // Lengths are the caller's and may be anything; beyond these the square alone is past u64::MAX.
        let [source, target] = [source, target].map(|tokens| u128::from(tokens.min(1 << 44)));
        let labels = config.labels.len() as u128;
        let product = d * inner;
        let encoder = source * ((2 + kv) * product + ff + 2 * source * inner);
        let decoder = target * ((4 + kv) * product + ff + 2 * source * inner + (target + 1) * inner);
        let decoder_blocks = if config.architecture.has_decoder() { s.decoder_blocks } else { 0 };
        let head = match config.architecture {
            Architecture::ConditionalGeneration => target * vocab * d,
            Architecture::Encoder => 0,
            Architecture::SequenceClassification => d * d + labels * d,
            Architecture::TokenClassification => source * labels * d,
            Architecture::QuestionAnswering => target * 2 * d,
        };
        let flops = |blocks: u64, multiply_adds: u128| {
            u128::from(2 * blocks).checked_mul(multiply_adds).and_then(|n| u64::try_from(n).ok()).unwrap_or(u64::MAX)
        };
        Flops {
            encoder: flops(s.encoder_blocks, encoder),
            cross: flops(decoder_blocks, source * kv * product),
            decoder: flops(decoder_blocks, decoder),
            head: flops(1, head),
        }
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        [self.encoder, self.cross, self.decoder, self.head].into_iter().fold(0, u64::saturating_add)
    }
}

/// What one more token of a single sequence costs: the decoder reads its weights and caches once for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DecodedToken {
    /// Floating-point operations: the decoder's and the head's.
    pub flops: u64,
    /// Weights that are read.
    pub weights: u64,
    /// Numbers of cached keys and values that are read: 4 bytes each, 2 beside weights of 1 byte.
    pub cached: u64,
}

impl DecodedToken {
    /// Counts the mean of the `target` tokens (of 1 where it is 0) that answer `source` tokens; of a shape without a decoder
    /// and an output matrix, nothing.
    #[must_use]
    pub fn of(config: &Config, source: u64, target: u64) -> DecodedToken {
        DecodedToken::count(config, Kv::Apart, source, target)
    }

    pub(crate) fn count(config: &Config, kv: Kv, source: u64, target: u64) -> DecodedToken {
        if config.architecture != Architecture::ConditionalGeneration {
            return DecodedToken { flops: 0, weights: 0, cached: 0 };
        }
        let (s, target) = (Sizes::of(config), target.max(1));
        let flops = Flops::count(config, kv, source, target);
        let cross = s.decoder_blocks * kv.matrices() * s.d * s.inner;
        let cached = u128::from(s.decoder_blocks * s.inner) * (2 * u128::from(source) + u128::from(target) + 1);
        DecodedToken {
            flops: flops.decoder.saturating_add(flops.head) / target,
            weights: Parameters::count(config, false, kv).decoder - cross + s.vocab * s.d,
            cached: u64::try_from(cached).unwrap_or(u64::MAX),
        }
    }

    /// Bytes that are read, with weights of `bytes_each`.
    #[must_use]
    pub fn bytes(&self, bytes_each: u64) -> u64 {
        let cached_each = if bytes_each == 1 { 2 } else { 4 };
        self.weights.saturating_mul(bytes_each).saturating_add(self.cached.saturating_mul(cached_each))
    }

    /// Floating-point operations a byte; 0 where there are none.
    #[must_use]
    pub fn intensity(&self, bytes_each: u64) -> f64 {
        self.flops as f64 / self.bytes(bytes_each).max(1) as f64
    }
}

/// Whether keys and values have a matrix each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kv {
    Apart,
    /// One matrix for both: `skv`.
    Tied,
}

impl Kv {
    fn matrices(self) -> u64 {
        match self {
            Kv::Apart => 2,
            Kv::Tied => 1,
        }
    }
}

/// The numbers of the formulas.
struct Sizes {
    vocab: u64,
    d: u64,
    /// num_heads * d_kv
    inner: u64,
    /// Weights of one feed-forward layer.
    feed_forward: u64,
    encoder_blocks: u64,
    decoder_blocks: u64,
    heads: u64,
    buckets: u64,
}

impl Sizes {
    fn of(c: &Config) -> Sizes {
        let n = |n: usize| n as u64;
        let matrices = if c.is_gated_act { 3 } else { 2 };
        Sizes {
            vocab: n(c.vocab_size),
            d: n(c.d_model),
            inner: n(c.num_heads) * n(c.d_kv),
            feed_forward: matrices * n(c.d_model) * n(c.d_ff),
            encoder_blocks: n(c.num_layers),
            decoder_blocks: n(c.num_decoder_layers),
            heads: n(c.num_heads),
            buckets: n(c.relative_attention_num_buckets),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A T5-Efficient shape: layers, d_ff, d_model, d_kv, heads.
    fn efficient([nl, ff, dm, kv, nh]: [u32; 5]) -> Config {
        let json = format!(
            r#"{{"model_type": "t5", "num_layers": {nl}, "d_ff": {ff}, "d_model": {dm}, "d_kv": {kv}, "num_heads": {nh}}}"#
        );
        Config::parse(&json).unwrap()
    }

    fn total(shape: [u32; 5]) -> u64 {
        Parameters::of(&efficient(shape), false).total()
    }

    #[test]
    fn parameters_of_efficient_sizes_equal_the_published_counts() {
        assert_eq!(total([4, 1024, 256, 64, 4]), 15_570_688, "tiny");
        assert_eq!(total([32, 1024, 256, 64, 4]), 66_986_752, "tiny-nl32");
        // The published table has four digits.
        for (name, shape, millions) in [
            ("mini", [4, 1536, 384, 64, 8], 31.22),
            ("small", [6, 2048, 512, 64, 8], 60.51),
            ("base", [12, 3072, 768, 64, 12], 222.90),
            ("large", [24, 4096, 1024, 64, 16], 737.67),
        ] {
            let found = total(shape) as f64 / 1e6;
            assert!((found - millions).abs() <= 0.006, "{name}: {found}, expected {millions}");
        }
    }

    #[test]
    fn parameters_of_the_parts_add_up() {
        let parts = Parameters::of(&efficient([4, 1024, 256, 64, 4]), true);
        assert_eq!(parts.embedding, 32_128 * 256);
        assert_eq!(parts.head, parts.embedding, "an lm_head of its own is as large as the embedding");
        assert_eq!(parts.encoder, 4 * (4 * 256 * 256 + 2 * 256 * 1024 + 2 * 256) + 32 * 4 + 256);
        assert_eq!(parts.decoder, 4 * (8 * 256 * 256 + 2 * 256 * 1024 + 3 * 256) + 32 * 4 + 256);
        assert_eq!(parts.total(), 15_570_688 + 32_128 * 256);
    }

    #[test]
    fn flops_of_small_nl16_to_base_are_the_published_share() {
        let flops = |shape| Flops::of(&efficient(shape), 512, 512).total() as f64;
        let share = flops([16, 2048, 512, 64, 8]) / flops([12, 3072, 768, 64, 12]);
        assert!((share - 0.631).abs() < 0.005, "{share}");
    }

    #[test]
    fn flops_of_no_tokens_are_none_and_of_too_many_the_largest() {
        let tiny = efficient([4, 1024, 256, 64, 4]);
        assert_eq!(Flops::of(&tiny, 0, 0).total(), 0);
        assert_eq!(Flops::of(&tiny, u64::MAX / 2, 1).total(), u64::MAX);
        // One token from one: no attention beyond one pair.
        let one = Flops::of(&tiny, 1, 1);
        assert_eq!(one.encoder, 2 * 4 * (4 * 256 * 256 + 2 * 256 * 1024 + 2 * 256));
        assert_eq!(one.cross, 2 * 4 * 2 * 256 * 256);
        assert_eq!(one.decoder, 2 * 4 * (6 * 256 * 256 + 2 * 256 * 1024 + 4 * 256));
        assert_eq!(one.head, 2 * 32_128 * 256);
    }
}
