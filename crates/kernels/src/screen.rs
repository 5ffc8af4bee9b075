//! Which rows of a large matrix can have the largest product with a vector, at the cost of reading int8.
//!
//! The LM head of a small T5 is most of what a decoder step reads, and greedy search wants one thing of it: the row
//! with the largest logit. The screen keeps an int8 copy of the matrix and, for each row, how far the copy can be off. A scan
//! over the copy gives what no logit of 64 rows exceeds, rigorously; those that reach highest are looked at more closely, and rows
//! whose upper bound is below the best lower bound cannot win. The few that are left are computed exactly, by the same chain as
//! [`crate::matmul`]: the winner, ties and all, is that of the full f32 product.
//!
//! ```text
//! build:  c_k = 2^i near the rms of column k         w' = w / c, h' = h c: the same products
//!         s_v = max(max |w'_v| / 127, what meets / 253), q_v = round(w'_v / s_v)
//!         E_v >= |w'_v - s_v q_v|, W_v >= |w'_v|      Euclidean norms, rounded up
//! scan:   h' ~ t x, x in -8191..=8191                 two digits of 7 bits: one load of q, two integer products;
//!                                                     or one digit, half the products and some more survivors
//!         w_v h is within E_v |t x| + W_v (|h' - t x| + g |h'|) + slack of s_v t (q_v x)
//! ```
//!
//! g |w'| |h'| bounds what the f32 chain itself rounds away: g = K u / (1 - K u), u = 2^-24 (Higham, *Accuracy and
//! Stability of Numerical Algorithms*, lemma 3.1). The slack covers the f32 arithmetic of the bounds, and numbers so small that
//! they are subnormal. Column scales keep outlier columns, as trained embeddings have, from coarsening all others.
//!
//! What meets: [`Simd::dot16`] adds the products of eight weights with digits of 7 bits in 16 bits, for which 127 times the sum of the
//! positive ones, and of the negative ones, must be below 2^15: 258 a side. The scale sees to it with room for rounding. That makes
//! numbers of normal distribution a quarter coarser.
//!
//! Integer sums are exact, so the survivors, too, are the same on every instruction set.

mod scan;

pub use scan::{Bounds, Screen};

use crate::simd::{Isa, Kernel, LANES, Simd, padded};
use crate::turn::{ROWS, turn};

/// Inputs up to which the sum of 127 * 8191 * k products fits an i32.
pub const SCREEN_MAX_K: usize = 2048;
/// Rows that share a bound.
pub const SCREEN_GROUP: usize = 4 * LANES;

/// Words of a block: [`Simd::dot16`] adds every fourth of them in 16 bits. `quantise` bounds the weights that meet there.
const MEETING: usize = 16;

/// Bytes behind a panel's weights: scale, E, W and the sum of q, for 16 rows.
const BOUNDS: usize = 4 * LANES * 4;
/// Rounding unit of f32.
const U: f64 = 1.0 / (1 << 24) as f64;

/// Bytes of the screen of a matrix [n, k].
#[must_use]
pub fn screen_bytes(n: usize, k: usize) -> usize {
    n.div_ceil(LANES) * panel_bytes(k)
}

fn panel_bytes(k: usize) -> usize {
    k.div_ceil(4) * 4 * LANES + BOUNDS
}

/// A power of two for each column, and one over it.
#[derive(Debug, Clone)]
pub struct ColumnScales {
    k: usize,
    /// [padded(k)]
    scale: Vec<f32>,
    /// [padded(k)], zero behind k
    inverse: Vec<f32>,
}

impl ColumnScales {
    /// Scales near the root of each column's mean square over sample rows [count, stride], of which k columns count.
    #[must_use]
    pub fn new(rows: &[f32], stride: usize, k: usize) -> ColumnScales {
        let mut squares = vec![0f64; k];
        let mut count = 0;
        for row in rows.chunks(stride.max(1)) {
            count += 1;
            squares.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
        }
        let scale = |sum: f64| {
            let rms = (sum / f64::from(count.max(1))).sqrt();
            // A column of zeros, or one that is not finite, is left as it is.
            let exponent = if rms > 0.0 && rms.is_finite() { rms.log2().round().clamp(-40.0, 40.0) } else { 0.0 };
            exponent.exp2() as f32
        };
        ColumnScales::from_scales(&squares.into_iter().map(scale).collect::<Vec<_>>())
    }

    /// Scales that [`ColumnScales::scales`] told.
    #[must_use]
    pub fn from_scales(scales: &[f32]) -> ColumnScales {
        let k = scales.len();
        let (mut scale, mut inverse) = (vec![1.0; padded(k)], vec![0.0; padded(k)]);
        scale[..k].copy_from_slice(scales);
        inverse.iter_mut().zip(scales).for_each(|(inverse, scale)| *inverse = 1.0 / scale);
        ColumnScales { k, scale, inverse }
    }

    /// The power of two of each column `[k]`.
    #[must_use]
    pub fn scales(&self) -> &[f32] {
        &self.scale[..self.k]
    }

    /// One over each, zeros behind `[padded(k)]`.
    pub(crate) fn inverse(&self) -> &[f32] {
        &self.inverse
    }
}

/// Packs 16 rows (zeros where absent); false where a number is too large for the bounds to hold, or none.
///
/// `rows` are [padded(k)] each, `panel` has `screen_bytes(16, k)` bytes.
///
/// # Panics
/// Where the lengths do not fit together.
pub fn pack_screen(isa: Isa, rows: &[Option<&[f32]>; LANES], scales: &ColumnScales, panel: &mut [u8]) -> bool {
    assert!(panel.len() == panel_bytes(scales.k) && scales.k <= SCREEN_MAX_K);
    assert!(rows.iter().flatten().all(|row| row.len() == padded(scales.k)));
    isa.run(PackScreen { rows, scales, panel })
}

struct PackScreen<'a> {
    rows: &'a [Option<&'a [f32]>; LANES],
    scales: &'a ColumnScales,
    panel: &'a mut [u8],
}

impl Kernel for PackScreen<'_> {
    type Out = bool;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> bool {
        let (weights, bounds) = self.panel.split_at_mut(self.panel.len() - BOUNDS);
        let stride = padded(self.scales.k) / LANES;
        let mut quantised = ROWS.take();
        quantised.resize(LANES * stride, [0; LANES]);
        let mut holds = true;
        for (lane, (row, quantised)) in self.rows.iter().zip(quantised.chunks_exact_mut(stride)).enumerate() {
            let bound = match row {
                Some(row) => quantise(s, row, &self.scales.inverse, quantised),
                None => {
                    quantised.fill([0; LANES]);
                    Bound::default()
                }
            };
            holds &= bound.holds();
            let Bound { scale, error, norm, sum } = bound;
            let parts = [scale.to_le_bytes(), error.to_le_bytes(), norm.to_le_bytes(), sum.to_le_bytes()];
            for (i, part) in parts.iter().enumerate() {
                bounds[(i * LANES + lane) * 4..][..4].copy_from_slice(part);
            }
        }
        let bytes: &[u8] = bytemuck::cast_slice(&quantised);
        let row = weights.len() / LANES;
        turn(s, &std::array::from_fn(|lane| &bytes[lane * stride * LANES..][..row]), weights);
        ROWS.set(quantised);
        holds
    }
}

#[derive(Default)]
struct Bound {
    scale: f32,
    error: f32,
    norm: f32,
    sum: i32,
}

impl Bound {
    fn holds(&self) -> bool {
        // Below 1e18, so that no product with a query's numbers, which are below 1e18 too, overflows.
        self.scale.is_finite() && self.error < 1e18 && self.norm < 1e18
    }
}

#[inline(always)]
fn quantise<S: Simd>(s: S, row: &[f32], inverse: &[f32], out: &mut [[i8; LANES]]) -> Bound {
    let (row, _) = row.as_chunks::<LANES>();
    let (inverse, _) = inverse.as_chunks::<LANES>();
    let zero = s.splat(0.0);
    let (mut top, mut bottom) = (zero, zero);
    // The largest sum of positive weights that meet, and of negative ones. The last block counts even where it is not whole.
    let mut meeting = zero;
    const REGISTERS: usize = MEETING * 4 / LANES;
    for (x, c) in row.chunks(REGISTERS).zip(inverse.chunks(REGISTERS)) {
        let (mut sum, mut positive) = (zero, zero);
        for (x, c) in x.iter().zip(c) {
            // The same row of the panel that comes next, where they lie one behind the other. An address only.
            s.prefetch(x.as_ptr().wrapping_add(LANES * row.len() * LANES).cast());
            let x = s.mul(s.load_array(x), s.load_array(c));
            (top, bottom) = (s.max(x, top), s.min(x, bottom));
            (sum, positive) = (s.add(sum, x), s.add(positive, s.max(x, zero)));
        }
        meeting = s.max(s.sum_pairs(positive, s.sub(positive, sum)), meeting);
    }
    let largest = s.max(top, s.sub(zero, bottom));
    let scale = s.max_lane(s.max(s.div(largest, s.splat(127.0)), s.div(meeting, s.splat(253.0))));
    let up = if scale > f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
    let (up, down, magic, most) = (s.splat(up), s.splat(-scale), s.splat(12_582_912.0), s.splat(127.0));
    let (mut errors, mut norms, mut sums) = (zero, zero, zero);
    for ((x, c), out) in row.iter().zip(inverse).zip(out) {
        let x = s.mul(s.load_array(x), s.load_array(c));
        // Adding 1.5 * 2^23 rounds to a whole number.
        let q = s.sub(s.mul_add(x, up, magic), magic);
        let q = s.max(s.sub(zero, most), s.min(most, q));
        let error = s.mul_add(down, q, x);
        errors = s.mul_add(error, error, errors);
        norms = s.mul_add(x, x, norms);
        sums = s.add(sums, q);
        // SAFETY: `out` is 16 bytes. A NaN stores some byte, and the norms tell.
        unsafe { s.store_i8(out.as_mut_ptr(), q) };
    }
    // Sums of k squares in f32 are right to k u, less than 2e-4; what squares too small for f32 lose is below 1e-20.
    let bound = |squares| (s.sum(squares).sqrt() * 1.001 + 1e-20).next_up();
    Bound { scale, error: bound(errors), norm: bound(norms), sum: s.sum(sums) as i32 }
}

/// A vector, ready to be screened: with one digit, for a scan that arithmetic bounds, and with two.
#[derive(Debug, Clone, Default)]
pub struct Query {
    coarse: Quantised,
    fine: Quantised,
}

/// A vector in whole numbers.
#[derive(Debug, Clone, Default)]
struct Quantised {
    /// The digits of x + 8192, four inputs a word: high, low. Of one digit all x are multiples of 128, and the low ones zero.
    digits: Vec<[u32; 2]>,
    /// The unit of its bounds: t, and of one digit 128 t.
    scale: f32,
    /// What E is multiplied with, in that unit.
    of_error: f32,
    /// What W is multiplied with.
    of_norm: f32,
    /// More than all that subnormal numbers can lose.
    tiny: f32,
}

impl Query {
    /// Prepares `h` `[k]`; false where the bounds would not hold or not help: numbers that are not finite, or all zero.
    ///
    /// # Panics
    /// Where `h` is shorter.
    pub fn prepare(&mut self, isa: Isa, h: &[f32], scales: &ColumnScales) -> bool {
        assert!(h.len() >= scales.k);
        let with = |digits, out| isa.run(Prepare { out, h, scales, digits });
        with(1, &mut self.coarse) && with(2, &mut self.fine)
    }

    #[inline(always)]
    fn with(&self, digits: usize) -> &Quantised {
        if digits == 1 { &self.coarse } else { &self.fine }
    }
}

/// Digits that pay: two where reading the weights takes the time of both, for one vector with VNNI.
///
/// Measured for 32128 x 256 (Zen 4, 2026-11, microseconds for 1, 2 and 4 vectors, two digits, beside other work): AVX-512
/// 107, 178, 323; AVX2, where each product was still widened, 309, 547, 775. A digit less halves the products. For one vector two digits
/// with AVX-VNNI take 94, 98 % of reading the weights (Zen 5). Groups that a scan leaves over are looked at with two digits anyway.
#[must_use]
pub fn screen_digits(isa: Isa, queries: usize) -> usize {
    if ["amx", "avx512", "avxvnni"].contains(&isa.name()) && queries == 1 { 2 } else { 1 }
}

struct Prepare<'a> {
    out: &'a mut Quantised,
    h: &'a [f32],
    scales: &'a ColumnScales,
    digits: usize,
}

impl Kernel for Prepare<'_> {
    type Out = bool;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> bool {
        let Prepare { out, h, scales, digits } = self;
        let k = scales.k;
        let (whole, rest) = h[..k].as_chunks::<LANES>();
        let mut last = [0f32; LANES];
        last[..rest.len()].copy_from_slice(rest);
        let (columns, _) = scales.scale.as_chunks::<LANES>();
        let lanes = || whole.iter().chain((!rest.is_empty()).then_some(&last)).zip(columns);
        let zero = s.splat(0.0);
        let mut top = zero;
        for (h, c) in lanes() {
            let x = s.mul(s.load_array(h), s.load_array(c));
            top = s.max(s.max(x, s.sub(zero, x)), top);
        }
        // A NaN leaves `top` alone: the norm shows it.
        let (most, step) = if digits == 1 { (63.0, 128.0) } else { (8191.0, 1.0) };
        let scale = s.max_lane(top) / most;
        let inverse = 1.0 / scale;
        out.digits.clear();
        let (up, down, magic) = (s.splat(inverse), s.splat(-scale), s.splat(12_582_912.0));
        let (most, step, middle) = (s.splat(most), s.splat(step), s.splat(8192.0));
        let (mut norm, mut near, mut off) = (zero, zero, zero);
        for (h, c) in lanes() {
            let x = s.mul(s.load_array(h), s.load_array(c));
            // Adding 1.5 * 2^23 rounds to a whole number.
            let whole = s.sub(s.mul_add(x, up, magic), magic);
            let whole = s.max(s.sub(zero, most), s.min(most, whole));
            let error = s.mul_add(down, whole, x);
            let rounded = s.mul(down, whole);
            norm = s.mul_add(x, x, norm);
            near = s.mul_add(rounded, rounded, near);
            off = s.mul_add(error, error, off);
            // The low bits of such a sum are the whole number.
            let lanes = s.to_array(s.add(s.mul_add(whole, step, middle), magic)).map(|x| x.to_bits() & 0x3fff);
            let (fours, _) = lanes.as_chunks::<4>();
            for digits in fours {
                let word = |of: [u32; 4]| u32::from_le_bytes(of.map(|digit| digit as u8));
                out.digits.push([word(digits.map(|x| x >> 7)), word(digits.map(|x| x & 127))]);
            }
        }
        out.digits.truncate(k.div_ceil(4));
        let gamma = k as f64 * U / (1.0 - k as f64 * U);
        // Sums of k squares in f32 are right to k u, less than 2e-4; what squares too small for f32 lose is below 1e-20.
        let root = |squares| f64::from(s.sum(squares)).sqrt() * 1.001 + 1e-20;
        let (norm, near, off) = (root(norm), root(near), root(off));
        // The centre s t (q x) takes four roundings in f32 at most and its size is at most (W + E) |t x|: 16 u covers them and
        // those of the radius itself.
        let slack = 16.0 * U;
        let (of_error, of_norm) = (near * (1.0 + slack), off + gamma * norm + slack * near + 1e-30);
        let up = |x: f64| ((x / f64::from(scale) * (1.0 + 1e-6)) as f32).next_up();
        (out.scale, out.of_error, out.of_norm, out.tiny) = (scale, up(of_error), up(of_norm), up(1e-30));
        let fine = |x: f64| x < 1e18;
        norm.is_finite() && scale > 1e-30 && inverse.is_finite() && fine(of_error) && fine(of_norm)
    }
}
