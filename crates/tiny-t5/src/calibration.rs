//! What a shape would take on this machine, computed from a few measured numbers.

use crate::complexity::Flops;
use crate::error::Result;
use crate::machine::{Machine, StepBytes, median, processor, weight_bytes};
use crate::options::{Dtype, Generate, Load, Speculation};
use crate::t5::T5;
use serde::{Deserialize, Serialize};
use tiny_t5_checkpoint::Config;

/// Working sets whose read bandwidth is measured, all threads together: from a core's own caches to memory.
const SIZES: [usize; 6] = [1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26, 1 << 28];
/// Regions of a decoder block in a step of one sequence: its products.
const REGIONS: f64 = 6.0;
/// T5-Efficient-TINY, whose encoder shows what of the peak an encoder reaches; its decoder, what of the bandwidth.
const PROBE: &str =
    r#"{"model_type": "t5", "num_layers": 4, "d_model": 256, "d_ff": 1024, "num_heads": 4, "d_kv": 64}"#;
/// Source and target of the probe.
const PROBE_TOKENS: (u64, u64) = (64, 16);

/// What was measured of this machine, with one instruction set, one number of threads and one width of weights: the numbers of
/// a cost model.
///
/// An encoder takes its FLOPs at `encoder_flops`. A decoder step takes the bytes that it reads ([`StepBytes`]) at the read
/// bandwidth of a working set of that size, of which it reaches `step_share`, and for each block the cost of its parallel regions.
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
    /// What a decoder step of T5-Efficient-TINY reaches of the read bandwidth, regions left out.
    pub step_share: f64,
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

impl Calibration {
    /// Measures this machine: a second or two.
    ///
    /// # Errors
    /// Where the system gives no memory, or `TINY_T5_ISA` names no instruction set of this processor.
    pub fn measure(threads: usize, dtype: Dtype) -> Result<Calibration> {
        let machine = Machine::new(threads)?;
        let bandwidth = |bytes: usize| {
            let times = (1 << 29) / bytes;
            Ok((bytes as u64, bytes as f64 / machine.memory(bytes)?.read(times.clamp(3, 200))))
        };
        let mut calibration = Calibration {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            processor: processor(),
            isa: machine.isa().to_owned(),
            threads,
            weight_bytes: weight_bytes(dtype),
            fma_peak: machine.fma_peak(400),
            encoder_flops: 0.0,
            bandwidth: SIZES.into_iter().map(bandwidth).collect::<Result<_>>()?,
            region_us: if threads > 1 { machine.region(2000) * 1e6 } else { 0.0 },
            step_share: 1.0,
        };
        calibration.probe(threads, dtype)?;
        Ok(calibration)
    }

    /// Measures what an encoder reaches of the peak and a decoder step of the bandwidth.
    fn probe(&mut self, threads: usize, dtype: Dtype) -> Result<()> {
        let t5 = T5::random(PROBE, 1, &Load { dtype, threads: Some(threads), ..Load::default() })?;
        let (source, target) = PROBE_TOKENS;
        let ids: Vec<u32> = (2..=source as u32).chain([1]).collect();
        let options = Generate {
            max_new_tokens: Some(target as usize),
            min_new_tokens: Some(target as usize),
            speculation: Some(Speculation::Off),
            ..Generate::default()
        };
        let (mut encoder, mut steps) = (Vec::new(), Vec::new());
        t5.generate(&ids, &options)?;
        for _ in 0..25 {
            let timings = t5.generate(&ids, &options)?.timings;
            encoder.push(timings.encode_ms / 1e3);
            steps.push((timings.layers_ms + timings.head_ms) / 1e3 / target as f64);
        }
        let [encoder, step] = [encoder, steps].map(median);
        self.encoder_flops = t5.flops(source, target).encoder as f64 / encoder;
        let bytes = StepBytes::of(t5.config(), dtype, source, target).total();
        let reading = bytes as f64 / self.bandwidth_at(bytes);
        self.step_share = reading / (step - self.regions(t5.config())).max(step / 10.0);
        Ok(())
    }

    /// Whether it is of this machine and this version, with these threads and this width.
    #[must_use]
    pub fn holds(&self, threads: usize, dtype: Dtype) -> bool {
        let isa = Machine::new(threads).map_or("", |machine| machine.isa());
        let same = [&*self.version, &*self.processor, &*self.isa] == [env!("CARGO_PKG_VERSION"), &*processor(), isa];
        same && self.threads == threads && self.weight_bytes == weight_bytes(dtype) && self.bandwidth.len() > 1
    }

    /// What one source of `source` tokens with `target` tokens would take.
    #[must_use]
    pub fn predict(&self, config: &Config, dtype: Dtype, source: u64, target: u64) -> Prediction {
        let flops = Flops::of(config, source, target);
        let ms = |flops: u64| flops as f64 / self.encoder_flops * 1e3;
        let bytes = StepBytes::of(config, dtype, source, target).total();
        let reading = bytes as f64 / self.bandwidth_at(bytes) / self.step_share;
        let token_ms = (reading + self.regions(config)) * 1e3;
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

    /// Bytes a second at which a working set is read: between two measured sizes, on the straight line over the logarithm of
    /// the size.
    fn bandwidth_at(&self, bytes: u64) -> f64 {
        let after = self.bandwidth.partition_point(|(size, _)| *size <= bytes);
        match (after.checked_sub(1).map(|i| self.bandwidth[i]), self.bandwidth.get(after)) {
            (Some((low, slow)), Some((high, fast))) => {
                let place = (bytes as f64 / low as f64).ln() / (*high as f64 / low as f64).ln();
                slow + (fast - slow) * place
            }
            (Some((_, speed)), None) | (None, Some(&(_, speed))) => speed,
            (None, None) => f64::NAN,
        }
    }
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
            step_share: 0.8,
        }
    }

    #[test]
    fn calibration_reads_bandwidth_between_sizes_and_beyond_them() {
        let c = calibration();
        let read = [1u64, 1 << 20, 1 << 22, 1 << 24, 1 << 30].map(|bytes| c.bandwidth_at(bytes));
        assert_eq!(read, [4e10, 4e10, 3e10, 2e10, 2e10]);
    }

    #[test]
    fn calibration_adds_up_reading_and_regions() {
        let config = Config::parse(PROBE).unwrap();
        let p = calibration().predict(&config, Dtype::F32, 64, 32);
        let bytes = StepBytes::of(&config, Dtype::F32, 64, 32);
        assert_eq!(bytes.weights, 4 * (6 * 256 * 256 + 2 * 256 * 1024) * 4);
        assert!(bytes.head < 32_128 * 256 * 2, "the screen, not the matrix");
        assert!(bytes.total() > 1 << 24, "beyond the largest size");
        let expected = bytes.total() as f64 / 2e10 / 0.8 * 1e3 + 4.0 * 6.0 / 1e3;
        assert!((p.token_ms - expected).abs() < 1e-9, "{p:?}, expected {expected}");
        assert!((p.total_ms - p.first_token_ms - 31.0 * p.token_ms).abs() < 1e-9);
        assert!((p.encode_ms - Flops::of(&config, 64, 0).encoder as f64 / 1e8).abs() < 1e-9);
    }
}
