//! What this machine can do at most with the threads of a call, and what the engine must do at least: the limits that
//! measured times are held against.

use crate::error::{Error, Result};
use crate::kv_cache::CacheShape;
use crate::lm_head::LmHead;
use crate::load::Dtype;
use crate::t5::{MAX_THREADS, T5};
use std::hint::black_box;
use std::time::Instant;
use tiny_t5_checkpoint::{Architecture, Config};
use tiny_t5_kernels::{Isa, Team, machine, padded, screen_bytes};

/// The processor's name as Linux tells it; elsewhere, the architecture.
#[must_use]
pub fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("model name"));
    let name = line.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim());
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), str::to_owned)
}

/// Measures with an instruction set and a number of threads.
///
/// ```
/// let machine = tiny_t5::Machine::new(1)?;
/// let (peak, bytes) = (machine.fma_peak(10), 1 << 20);
/// let seconds = machine.memory(bytes)?.read(5);
/// println!("{:.0} GFLOP/s, {:.0} GB/s", peak / 1e9, bytes as f64 / seconds / 1e9);
/// # Ok::<_, tiny_t5::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    isa: Isa,
    threads: usize,
}

impl Machine {
    /// With the instruction set that models use, and this many threads, 1 to 1024.
    ///
    /// # Errors
    /// Where there are other threads, and where `TINY_T5_ISA` names no instruction set that this processor has.
    pub fn new(threads: usize) -> Result<Machine> {
        if !(1..=MAX_THREADS).contains(&threads) {
            return Err(Error::option("threads", threads, format!("1 to {MAX_THREADS}")));
        }
        Ok(Machine { isa: Isa::from_env()?, threads })
    }

    /// The instruction set.
    #[must_use]
    pub fn isa(&self) -> &'static str {
        self.isa.name()
    }

    /// Floating-point operations a second (a fused multiply-add is 2) of all threads at once: the fastest of `bursts` bursts, each
    /// well under a millisecond.
    #[must_use]
    pub fn fma_peak(&self, bursts: usize) -> f64 {
        let fastest = Team::enter(self.threads, |team| {
            let timed = |_| seconds(|| team.run(self.threads, |_, _| machine::burst(self.isa)));
            (0..bursts.max(1)).map(timed).fold(f64::INFINITY, f64::min)
        });
        (self.threads * machine::BURST_FLOPS) as f64 / fastest
    }

    /// Memory of `bytes` bytes, a share for each thread.
    ///
    /// # Errors
    /// Where the system gives no memory.
    pub fn memory(&self, bytes: usize) -> Result<Memory> {
        let each = bytes.div_ceil(self.threads);
        let memory = |source| Error::Memory { what: "read bandwidth", bytes, source };
        let sweeps = (0..self.threads).map(|_| machine::Sweep::new(each)).collect::<std::io::Result<_>>();
        Ok(Memory { machine: *self, sweeps: sweeps.map_err(memory)? })
    }

    /// Seconds that a region of several threads costs beside its work: what `runs` regions of equal small chunks take in the
    /// median, less what a thread alone takes for them over the number of threads.
    #[must_use]
    pub fn region(&self, runs: usize) -> f64 {
        let chunks = 4 * self.threads;
        let work = |_, _| {
            (0..2000u32).for_each(|i| _ = black_box(i));
        };
        let of = |threads| {
            Team::enter(threads, |team| median((0..runs.max(1)).map(|_| seconds(|| team.run(chunks, work))).collect()))
        };
        (of(self.threads) - of(1) / self.threads as f64).max(0.0)
    }
}

/// Memory that is read over and over: [`Machine::memory`].
#[derive(Debug)]
pub struct Memory {
    machine: Machine,
    sweeps: Vec<machine::Sweep>,
}

impl Memory {
    /// Seconds that all threads take to read all of it: the median of `times`, after one that is not counted.
    #[must_use]
    pub fn read(&self, times: usize) -> f64 {
        Team::enter(self.machine.threads, |team| {
            let read = || team.run(self.sweeps.len(), |_, i| self.sweeps[i].read(self.machine.isa));
            read();
            median((0..times.max(1)).map(|_| seconds(read)).collect())
        })
    }
}

/// Bytes that a decoder step of one sequence must read, as this engine keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepBytes {
    /// The blocks' matrices.
    pub weights: u64,
    /// The LM head: its int8 screen in greedy search, and where there is none the matrix. The few rows that the screen leaves
    /// to f32 come on top.
    pub head: u64,
    /// Keys and values of the source and of what was generated, in the middle of the target.
    pub cached: u64,
}

impl StepBytes {
    /// Those of a shape whose weights are kept as `dtype` (`Auto`: as f32); none of a model that generates nothing.
    #[must_use]
    pub fn of(config: &Config, dtype: Dtype, source: u64, target: u64) -> StepBytes {
        let n = |n: usize| n as u64;
        let product = |of: &[u64]| of.iter().fold(1u64, |product, x| product.saturating_mul(*x));
        let width = weight_bytes(dtype);
        if config.architecture != Architecture::ConditionalGeneration {
            return StepBytes { weights: 0, head: 0, cached: 0 }; // no steps
        }
        let blocks = n(config.num_decoder_layers);
        let inner = product(&[n(config.num_heads), n(padded(config.d_kv))]);
        let matrices = if config.is_gated_act { 3 } else { 2 };
        // q, k, v and o of self-attention, q and o of cross-attention.
        let block = product(&[6, n(config.d_model), inner]);
        let block = block.saturating_add(product(&[matrices, n(config.d_model), n(config.d_ff)]));
        let head = match LmHead::is_screened(config, dtype) {
            true => n(screen_bytes(config.vocab_size, config.d_model)),
            false => product(&[n(config.vocab_size), n(config.d_model), width]),
        };
        let positions = source.saturating_add(target.div_ceil(2));
        StepBytes {
            weights: product(&[blocks, block, width]),
            head,
            cached: product(&[2, blocks, positions, inner, cached_bytes(dtype)]),
        }
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.head).saturating_add(self.cached)
    }
}

impl T5 {
    /// The machine with this model's instruction set and threads.
    #[must_use]
    pub fn machine(&self) -> Machine {
        Machine { isa: self.isa_value(), threads: self.threads() }
    }
}

/// Bytes of a weight that is kept so.
pub(crate) fn weight_bytes(dtype: Dtype) -> u64 {
    match dtype {
        Dtype::Auto | Dtype::F32 => 4,
        Dtype::Bf16 | Dtype::F16 => 2,
        Dtype::Int8 => 1,
    }
}

/// Bytes of a cached key or value, where weights are kept so.
fn cached_bytes(dtype: Dtype) -> u64 {
    if CacheShape::is_half(dtype) { 2 } else { 4 }
}

fn seconds(call: impl FnOnce()) -> f64 {
    let start = Instant::now();
    call();
    start.elapsed().as_secs_f64()
}

/// The middle one of values, of which there is at least one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_numbers_are_errors_or_the_largest_counts() {
        for threads in [0, MAX_THREADS + 1, usize::MAX] {
            assert!(Machine::new(threads).unwrap_err().to_string().contains("1 to 1024"));
        }
        assert!(Machine::new(2).unwrap().memory(usize::MAX).is_err());
        let config = Config::parse(r#"{"model_type": "t5"}"#).unwrap();
        let bytes = StepBytes::of(&config, Dtype::Auto, u64::MAX, u64::MAX);
        assert_eq!((bytes.cached, bytes.total()), (u64::MAX, u64::MAX));
        let encoder = Config::parse(r#"{"model_type": "t5", "architectures": ["T5EncoderModel"]}"#).unwrap();
        assert_eq!(StepBytes::of(&encoder, Dtype::Auto, 64, 32).total(), 0);
    }
}
