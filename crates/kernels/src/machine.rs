//! What this machine can do at most: the limits that the kernels are held against, measured beside them.

use crate::arena::Arena;
use crate::simd::{Isa, Kernel, LANES, Simd, unrolled};
use std::hint::black_box;
use std::time::Instant;

/// Fused multiply-adds of 16 lanes in a timed burst: well under a millisecond, so that some burst runs undisturbed.
const FMAS: usize = 120_000;

struct Fma;

impl Kernel for Fma {
    type Out = f32;
    /// Independent chains: more than the latency of an FMA times the units that a core has. AVX2's sixteen registers hold six
    /// chains of two; a Cascade Lake, with two units of AVX-512, reached only three quarters of its peak with six.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        if S::ROWS >= 12 { chains::<S, 12>(s) } else { chains::<S, 6>(s) }
    }
}

#[inline(always)]
fn chains<S: Simd, const N: usize>(s: S) -> f32 {
    let (a, b) = (s.splat(black_box(0.999)), s.splat(black_box(0.001)));
    let mut chains = [s.splat(1.0); N];
    for _ in 0..FMAS / N {
        unrolled!(N, i => { chains[i] = s.mul_add(chains[i], a, b); });
    }
    chains.into_iter().map(|c| s.sum(c)).sum()
}

/// Operations of a burst: a fused multiply-add counts 2.
pub const BURST_FLOPS: usize = 2 * LANES * FMAS;

/// One burst of fused multiply-adds on registers.
pub fn burst(isa: Isa) {
    black_box(isa.run(Fma));
}

/// Floating-point operations a second of one thread: the best of `bursts` bursts.
#[must_use]
pub fn fma_peak(isa: Isa, bursts: usize) -> f64 {
    let timed = |_| {
        let start = Instant::now();
        burst(isa);
        BURST_FLOPS as f64 / start.elapsed().as_secs_f64()
    };
    (0..bursts.max(1)).map(timed).fold(0.0, f64::max)
}

struct Read<'a>(&'a [f32]);

impl Kernel for Read<'_> {
    type Out = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut top = [s.splat(0.0); 8];
        let (lines, _) = self.0.as_chunks::<{ 8 * LANES }>();
        for line in lines {
            let (registers, _) = line.as_chunks::<LANES>();
            for (top, x) in top.iter_mut().zip(registers) {
                *top = s.max(s.load_array(x), *top);
            }
        }
        top.into_iter().map(|t| s.sum(t)).sum()
    }
}

/// Memory to sweep through.
#[derive(Debug)]
pub struct Sweep(Arena);

impl Sweep {
    /// `bytes` bytes, rounded up to whole lines.
    ///
    /// # Errors
    /// Where the system gives no memory.
    pub fn new(bytes: usize) -> std::io::Result<Sweep> {
        let whole = bytes.checked_next_multiple_of(8 * LANES * 4).ok_or(std::io::ErrorKind::OutOfMemory)?;
        let mut arena = Arena::new(whole)?;
        arena.bytes_mut().fill(1);
        Ok(Sweep(arena))
    }

    /// Reads all of it once.
    pub fn read(&self, isa: Isa) {
        black_box(isa.run(Read(black_box(bytemuck::cast_slice(self.0.bytes())))));
    }
}

/// Bytes a second that one thread reads when it sweeps `bytes` bytes over and over; each of `sweeps` timed alone, the
/// fastest and the median.
///
/// # Errors
/// Where the system gives no memory.
pub fn read_bandwidth(isa: Isa, bytes: usize, sweeps: usize) -> std::io::Result<(f64, f64)> {
    let memory = Sweep::new(bytes)?;
    let timed = |_| {
        let start = Instant::now();
        memory.read(isa);
        bytes as f64 / start.elapsed().as_secs_f64()
    };
    let mut speeds: Vec<f64> = (0..sweeps.max(3)).map(timed).collect();
    speeds.sort_by(f64::total_cmp);
    Ok((speeds[speeds.len() - 1], speeds[speeds.len() / 2]))
}
