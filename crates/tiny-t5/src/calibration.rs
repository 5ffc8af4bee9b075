//! What a shape would take on this machine, computed from a few measured numbers.

use crate::complexity::Flops;
use crate::error::Result;
use crate::load::{Dtype, Load};
use crate::machine::{Machine, StepBytes, median, processor, weight_bytes};
use crate::options::{Generate, Speculation};
use crate::t5::T5;
use serde::{Deserialize, Serialize};
use tiny_t5_checkpoint::Config;

/// Working sets whose read bandwidth is measured, in MB, all threads together: from a core's own caches to memory, close together
/// where last caches end and bandwidth falls most.
const SIZES: [usize; 10] = [1, 4, 8, 12, 16, 24, 32, 48, 64, 256];
/// Bytes that are read of each size in a round, and rounds over all sizes: what disturbs one size disturbs the others too.
const READ: usize = 1 << 27;
const ROUNDS: usize = 3;
/// Regions of a decoder block in a step of one sequence: its products.
const REGIONS: f64 = 6.0;
/// Models that show what this engine reaches of the machine's limits, with the encoder of T5-Efficient-TINY. A step of the first fits
/// into most caches, where arithmetic limits it; the second, the tiny shape itself, has two streams of weights (blocks, head) about
/// as large as a last cache, which push each other out; the third comes from memory on most machines.
const PROBES: [&str; 3] = [
    r#"{"model_type": "t5", "num_layers": 4, "num_decoder_layers": 1, "d_model": 256, "d_ff": 1024, "num_heads": 4, "d_kv": 64, "vocab_size": 16384}"#,
    r#"{"model_type": "t5", "num_layers": 4, "num_decoder_layers": 4, "d_model": 256, "d_ff": 1024, "num_heads": 4, "d_kv": 64}"#,
    r#"{"model_type": "t5", "num_layers": 4, "num_decoder_layers": 12, "d_model": 256, "d_ff": 1024, "num_heads": 4, "d_kv": 64}"#,
];
/// Source and target of a probe, and its repeats.
const PROBE_TOKENS: (u64, u64) = (64, 16);
const REPEATS: usize = 12;

/// What was measured of this machine, with one instruction set, one number of threads and one width of weights: the numbers of
/// a cost model.
///
/// An encoder takes its FLOPs at `encoder_flops`: each weight that it reads serves all tokens. A decoder step takes the sum of
///
/// - the bytes of the blocks' matrices ([`StepBytes`]) at the read bandwidth of a working set as large as the whole step, of which
///   products of one row reach a share;
/// - the bytes of the head at that bandwidth, of which it reaches another share: its screen computes a bound for each row, and the
///   rows that it leaves lie far apart;
/// - for each cached key and value `attention_ns_per_byte`: exponentials take longer than reading;
/// - for each block the cost of its parallel regions.
///
/// The shares are measured with models of three sizes: [`Share`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Calibration {
    /// The library's version.
    pub version: String,
    /// The processor's name.
    pub processor: String,
    /// The instruction set.
    pub isa: String,
    /// Threads of a call.
    pub threads: usize,
    /// Bytes of a weight.
    pub weight_bytes: u64,
    /// FLOPs a second of fused multiply-adds on registers.
    pub fma_peak: f64,
    /// FLOPs a second that the encoder of T5-Efficient-TINY reaches over 64 tokens.
    pub encoder_flops: f64,
    /// Bytes of a working set, and bytes a second at which it is read.
    pub bandwidth: Vec<(u64, f64)>,
    /// Microseconds of a parallel region that does nothing.
    pub region_us: f64,
    /// What steps of some sizes reach of the read bandwidth, small ones first.
    pub shares: Vec<Share>,
    /// Nanoseconds of attention in a step for each byte of cached keys and values.
    pub attention_ns_per_byte: f64,
}

/// What decoder steps of one size reach of the read bandwidth of as many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Share {
    /// Bytes that a step reads.
    pub bytes: u64,
    /// Of its blocks' products.
    pub weights: f64,
    /// Of its LM head.
    pub head: f64,
}

/// What a shape would take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Prediction {
    /// The encoder over the source.
    pub encode_ms: f64,
    /// The first token: encoder, keys and values of cross-attention, one step.
    pub first_token_ms: f64,
    /// A step of the decoder with its head.
    pub token_ms: f64,
    /// The whole target.
    pub total_ms: f64,
}

impl Prediction {
    /// Halfway between two.
    #[must_use]
    pub fn mean(&self, other: &Prediction) -> Prediction {
        let mean = |a: f64, b: f64| f64::midpoint(a, b);
        Prediction {
            encode_ms: mean(self.encode_ms, other.encode_ms),
            first_token_ms: mean(self.first_token_ms, other.first_token_ms),
            token_ms: mean(self.token_ms, other.token_ms),
            total_ms: mean(self.total_ms, other.total_ms),
        }
    }
}

impl Calibration {
    /// Measures this machine: two to three seconds.
    ///
    /// ```no_run
    /// # fn main() -> tiny_t5::Result<()> {
    /// use tiny_t5::{Calibration, Dtype, Shape};
    ///
    /// let calibration = Calibration::measure(1, Dtype::Auto)?;
    /// let shape = Shape::named("t5-efficient-mini")?;
    /// println!("{:.1} ms", calibration.predict(&shape.config, Dtype::Auto, 64, 32).total_ms);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Where the system gives no memory, or `TINY_T5_ISA` names no instruction set of this processor.
    pub fn measure(threads: usize, dtype: Dtype) -> Result<Calibration> {
        let machine = Machine::new(threads)?;
        let mut calibration = Calibration {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            processor: processor(),
            isa: machine.isa().to_owned(),
            threads,
            weight_bytes: weight_bytes(dtype),
            fma_peak: machine.fma_peak(400),
            encoder_flops: 0.0,
            bandwidth: bandwidth(&machine)?,
            region_us: if threads > 1 { machine.region(2000) * 1e6 } else { 0.0 },
            shares: Vec::new(),
            attention_ns_per_byte: 0.0,
        };
        for probe in PROBES {
            let share = calibration.probe(probe, threads, dtype)?;
            calibration.shares.push(share);
        }
        Ok(calibration)
    }

    /// Measures what the engine reaches of the limits, in turn with the read bandwidth of as many bytes as a step of the probe reads.
    fn probe(&mut self, probe: &str, threads: usize, dtype: Dtype) -> Result<Share> {
        let t5 = T5::random(probe, 1, &Load { dtype, threads: Some(threads), ..Load::default() })?;
        let (source, target) = PROBE_TOKENS;
        let ids: Vec<u32> = (2..=source as u32).chain([1]).collect();
        let options = Generate {
            max_new_tokens: Some(target as usize),
            min_new_tokens: Some(target as usize),
            speculation: Some(Speculation::Off),
            ..Generate::default()
        };
        let bytes = StepBytes::of(t5.config(), dtype, source, target);
        let memory = t5.machine().memory(bytes.total() as usize)?;
        t5.generate(&ids, &options)?;
        let mut runs: [Vec<f64>; 5] = Default::default();
        for _ in 0..REPEATS {
            let t = t5.generate(&ids, &options)?.timings;
            let a_step = |ms: f64| ms / 1e3 / target as f64;
            let layers = a_step(t.layers_ms - t.attention_ms);
            let run = [t.encode_ms / 1e3, layers, a_step(t.head_ms), a_step(t.attention_ms), memory.read(5)];
            runs.iter_mut().zip(run).for_each(|(all, seconds)| all.push(seconds));
        }
        let [encoder, layers, head, attention, reading] = runs.map(median);
        let second = reading / bytes.total() as f64; // of a byte
        self.encoder_flops = t5.flops(source, target).encoder as f64 / encoder;
        self.attention_ns_per_byte = attention * 1e9 / bytes.cached as f64;
        let layers = (layers - self.regions(t5.config())).max(layers / 10.0);
        Ok(Share {
            bytes: bytes.total(),
            weights: bytes.weights as f64 * second / layers,
            head: bytes.head as f64 * second / head,
        })
    }

    /// Whether it is of this machine and this version, with these threads and this width.
    #[must_use]
    pub fn holds(&self, threads: usize, dtype: Dtype) -> bool {
        let isa = Machine::new(threads).map_or("", |machine| machine.isa());
        let same = [&*self.version, &*self.processor, &*self.isa] == [env!("CARGO_PKG_VERSION"), &*processor(), isa];
        same && self.threads == threads
            && self.weight_bytes == weight_bytes(dtype)
            && self.bandwidth.len() > 1
            && !self.shares.is_empty()
    }

    /// What one source of `source` tokens with `target` tokens would take.
    #[must_use]
    pub fn predict(&self, config: &Config, dtype: Dtype, source: u64, target: u64) -> Prediction {
        let flops = Flops::of(config, source, target);
        let ms = |flops: u64| flops as f64 / self.encoder_flops * 1e3;
        let bytes = StepBytes::of(config, dtype, source, target);
        let share = self.share_at(bytes.total());
        let reading = bytes.weights as f64 / share.weights + bytes.head as f64 / share.head;
        let attention = bytes.cached as f64 * self.attention_ns_per_byte / 1e9;
        let step = reading / self.bandwidth_at(bytes.total()) + attention + self.regions(config);
        let token_ms = if bytes.total() == 0 { 0.0 } else { step * 1e3 };
        let encode_ms = ms(flops.encoder);
        let before = encode_ms + ms(flops.cross);
        Prediction {
            encode_ms,
            first_token_ms: before + token_ms,
            token_ms,
            total_ms: before + target as f64 * token_ms,
        }
    }

    /// Seconds of the regions of a decoder step.
    fn regions(&self, config: &Config) -> f64 {
        config.num_decoder_layers as f64 * REGIONS * self.region_us / 1e6
    }

    /// What a step of so many bytes reaches.
    fn share_at(&self, bytes: u64) -> Share {
        let curve = |of: fn(&Share) -> f64| between(self.shares.iter().map(|share| (share.bytes, of(share))), bytes);
        Share { bytes, weights: curve(|share| share.weights), head: curve(|share| share.head) }
    }

    /// Bytes a second at which a working set is read.
    fn bandwidth_at(&self, bytes: u64) -> f64 {
        between(self.bandwidth.iter().copied(), bytes)
    }
}

/// A curve over bytes: between two points on the straight line over the logarithm of the bytes, beyond them the last one.
fn between(points: impl Iterator<Item = (u64, f64)>, bytes: u64) -> f64 {
    let mut before: Option<(u64, f64)> = None;
    for (at, value) in points {
        match before {
            Some((low, from)) if bytes < at => {
                let place = (bytes as f64 / low as f64).ln() / (at as f64 / low as f64).ln();
                return from + (value - from) * place;
            }
            None if bytes < at => return value,
            _ => before = Some((at, value)),
        }
    }
    before.map_or(f64::NAN, |(_, value)| value)
}

/// Bytes a second at which working sets of [`SIZES`] are read: medians of rounds over all of them.
fn bandwidth(machine: &Machine) -> Result<Vec<(u64, f64)>> {
    let mut seconds: [Vec<f64>; SIZES.len()] = Default::default();
    for _ in 0..ROUNDS {
        for (megabytes, seconds) in SIZES.into_iter().zip(&mut seconds) {
            seconds.push(machine.memory(megabytes << 20)?.read((READ / (megabytes << 20)).clamp(3, 50)));
        }
    }
    let sizes = SIZES.map(|megabytes| (megabytes << 20) as f64);
    Ok(sizes.into_iter().zip(seconds).map(|(bytes, seconds)| (bytes as u64, bytes / median(seconds))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calibration() -> Calibration {
        Calibration {
            version: String::new(),
            processor: String::new(),
            isa: String::new(),
            threads: 2,
            weight_bytes: 4,
            fma_peak: 1e11,
            encoder_flops: 1e11,
            bandwidth: vec![(1 << 20, 4e10), (1 << 24, 2e10)],
            region_us: 1.0,
            shares: vec![
                Share { bytes: 1 << 20, weights: 0.4, head: 0.3 },
                Share { bytes: 1 << 24, weights: 0.8, head: 0.5 },
            ],
            attention_ns_per_byte: 0.1,
        }
    }

    #[test]
    fn calibration_reads_bandwidth_between_sizes_and_beyond_them() {
        let c = calibration();
        let read = [1u64, 1 << 20, 1 << 22, 1 << 24, 1 << 30].map(|bytes| c.bandwidth_at(bytes));
        assert_eq!(read, [4e10, 4e10, 3e10, 2e10, 2e10]);
        let shares = [1u64, 1 << 20, 1 << 22, 1 << 24, 1 << 30].map(|bytes| c.share_at(bytes).weights);
        let expected = [0.4, 0.4, 0.6, 0.8, 0.8];
        assert!(shares.iter().zip(expected).all(|(share, expected)| (share - expected).abs() < 1e-12), "{shares:?}");
    }

    #[test]
    fn calibration_adds_up_reading_and_regions() {
        let config = Config::parse(PROBES[2]).unwrap();
        let p = calibration().predict(&config, Dtype::F32, 64, 32);
        let bytes = StepBytes::of(&config, Dtype::F32, 64, 32);
        assert_eq!(bytes.weights, 12 * (6 * 256 * 256 + 2 * 256 * 1024) * 4);
        assert!(bytes.head < 32_128 * 256 * 2, "the screen, not the matrix");
        assert!(bytes.total() > 1 << 24, "beyond the largest size");
        let reading = bytes.weights as f64 / 0.8 + bytes.head as f64 / 0.5;
        let expected = reading / 2e10 * 1e3 + bytes.cached as f64 * 0.1 / 1e6 + 12.0 * 6.0 / 1e3;
        assert!((p.token_ms - expected).abs() < 1e-9, "{p:?}, expected {expected}");
        assert!((p.total_ms - p.first_token_ms - 31.0 * p.token_ms).abs() < 1e-9);
        assert!((p.encode_ms - Flops::of(&config, 64, 0).encoder as f64 / 1e8).abs() < 1e-9);
    }
}
