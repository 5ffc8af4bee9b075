//! Which rows of a large matrix can have the largest product with a vector, at the cost of reading int8.
//!
//! The LM head of a small T5 is most of what a decoder step reads, and greedy search wants one thing of it: the row
//! with the largest logit. The screen keeps an int8 copy of the matrix and, for each row, how far the copy can be off. A scan
//! over the copy gives every logit within rigorous bounds; rows whose upper bound is below the best lower bound cannot win. The
//! few that are left are computed exactly, by the same chain as [`crate::matmul`]: the winner, ties and all, is that of
//! the full f32 product.
//!
//! ```text
//! build:  c_k = 2^i near the rms of column k         w' = w / c, h' = h c: the same products
//!         s_v = max |w'_v| / 127, q_v = round(w'_v / s_v)
//!         E_v >= |w'_v - s_v q_v|, W_v >= |w'_v|      Euclidean norms, rounded up
//! scan:   h' ~ t x, x in -8191..=8191                 two digits of 7 bits: one load of q, two integer products;
//!                                                     or one digit, half the products and some more survivors
//!         w_v h is within E_v |t x| + W_v (|h' - t x| + g |h'|) + slack of s_v t (q_v x)
//! ```
//!
//! g |w'| |h'| bounds what the f32 chain itself rounds away: g = K u / (1 - K u), u = 2^-24 (Higham, *Accuracy and
//! Stability of Numerical Algorithms*, lemma 3.1). The slack covers the f32 arithmetic of the bounds, and numbers so small that
//! they are subnormal. Column scales keep outlier columns, as trained embeddings have, from coarsening all others.
//! Integer sums are exact, so the survivors, too, are the same on every instruction set.

use crate::region::{MAX_CHUNKS, Team};
use crate::simd::{Isa, Kernel, LANES, Simd, padded, unrolled};
use std::ops::Range;

/// Inputs up to which the sum of 127 * 8191 * k products fits an i32.
pub const SCREEN_MAX_K: usize = 2048;
/// Vectors that are screened together.
pub const SCREEN_ROWS: usize = 8;

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
    /// Scales near the root of each column's mean square over sample rows `[k]`.
    pub fn new<'a>(rows: impl Iterator<Item = &'a [f32]>, k: usize) -> ColumnScales {
        let mut squares = vec![0f64; k];
        let mut count = 0;
        for row in rows {
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
        let (groups, _) = weights.as_chunks_mut::<{ 4 * LANES }>();
        let mut quantised = [[0i8; LANES]; SCREEN_MAX_K / LANES];
        let mut holds = true;
        for (lane, row) in self.rows.iter().enumerate() {
            let bound = match row {
                Some(row) => quantise(s, row, &self.scales.inverse, &mut quantised),
                None => {
                    quantised.fill([0; LANES]);
                    Bound::default()
                }
            };
            holds &= bound.holds();
            let (fours, _) = quantised.as_flattened().as_chunks::<4>();
            for (group, q) in groups.iter_mut().zip(fours) {
                group[4 * lane..4 * lane + 4].copy_from_slice(&q.map(|q| q as u8));
            }
            let Bound { scale, error, norm, sum } = bound;
            let parts = [scale.to_le_bytes(), error.to_le_bytes(), norm.to_le_bytes(), sum.to_le_bytes()];
            for (i, part) in parts.iter().enumerate() {
                bounds[(i * LANES + lane) * 4..][..4].copy_from_slice(part);
            }
        }
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
    let mut top = zero;
    for (x, c) in row.iter().zip(inverse) {
        let x = s.mul(s.load_array(x), s.load_array(c));
        top = s.max(s.max(x, s.sub(zero, x)), top);
    }
    let scale = s.max_lane(top) / 127.0;
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

/// A vector, ready to be screened.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// The digits of x + 8192, four inputs a word: high, low.
    digits: Vec<[u32; 2]>,
    /// 1 or 2; with 1 all x are multiples of 128, and the low digits zero.
    used: usize,
    /// t
    scale: f32,
    /// What E is multiplied with.
    of_error: f32,
    /// What W is multiplied with.
    of_norm: f32,
}

/// Added to every radius: more than all that subnormal numbers can lose.
const TINY: f32 = 1e-30;

impl Query {
    /// Prepares `h` `[k]` with 1 or 2 digits; false where the bounds would not hold or not help: numbers that are not
    /// finite, or all zero.
    ///
    /// # Panics
    /// Where `h` is shorter, or there are other digits.
    pub fn prepare(&mut self, isa: Isa, h: &[f32], scales: &ColumnScales, digits: usize) -> bool {
        assert!(h.len() >= scales.k && (1..=2).contains(&digits));
        isa.run(Prepare { query: self, h, scales, digits })
    }
}

/// Digits that pay: two where reading the weights takes the time of both, for one vector on AVX-512.
///
/// Measured for 32128 x 256 (Zen 4, 2026-11, microseconds for 1, 2 and 4 vectors, two digits, beside other work): AVX-512
/// 107, 178, 323; AVX2 309, 547, 775. A digit less halves the products; the survivors of the random tiny shape rise from 2
/// to 12.
#[must_use]
pub fn screen_digits(isa: Isa, queries: usize) -> usize {
    if isa.name() == "avx512" && queries == 1 { 2 } else { 1 }
}

struct Prepare<'a> {
    query: &'a mut Query,
    h: &'a [f32],
    scales: &'a ColumnScales,
    digits: usize,
}

impl Kernel for Prepare<'_> {
    type Out = bool;
    /// Plain loops, which the compiler turns into vectors of the instruction set.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> bool {
        let Prepare { query, h, scales, digits } = self;
        let k = scales.k;
        let scaled = || h.iter().zip(&scales.scale[..k]).map(|(h, c)| h * c);
        let top = scaled().fold(0f32, |top, x| if x.abs() > top { x.abs() } else { top });
        // A NaN leaves `top` alone: the norm shows it.
        let (most, step) = if digits == 1 { (63.0, 128.0) } else { (8191.0, 1.0) };
        let scale = top / most;
        let inverse = 1.0 / scale;
        query.used = digits;
        query.digits.clear();
        query.digits.resize(k.div_ceil(4), [0; 2]);
        let (mut norm, mut near, mut off) = (0f64, 0f64, 0f64);
        for (i, x) in scaled().enumerate() {
            // Adding 1.5 * 2^23 rounds to a whole number.
            let whole = ((x * inverse + 12_582_912.0) - 12_582_912.0).clamp(-most, most);
            let digits = (whole * step) as i32 + 8192;
            let shift = i % 4 * 8;
            query.digits[i / 4][0] |= ((digits >> 7) as u32) << shift;
            query.digits[i / 4][1] |= ((digits & 127) as u32) << shift;
            let rounded = f64::from(scale) * f64::from(whole);
            norm += f64::from(x) * f64::from(x);
            near += rounded * rounded;
            off += (f64::from(x) - rounded) * (f64::from(x) - rounded);
        }
        let gamma = k as f64 * U / (1.0 - k as f64 * U);
        let (norm, near, off) = (norm.sqrt(), near.sqrt(), off.sqrt());
        // The centre s t (q x) takes five roundings in f32 and its size is at most (W + E) |t x|: 16 u covers them and those
        // of the radius itself.
        let slack = 16.0 * U;
        let up = |x: f64| ((x * (1.0 + 1e-6)) as f32).next_up();
        query.scale = scale / step; // exact: a power of two, of a number that is checked below
        query.of_error = up(near * (1.0 + slack));
        query.of_norm = up(off + gamma * norm + slack * near + 1e-30);
        let fine = |x: f32| x < 1e18;
        norm.is_finite() && scale > 1e-30 && inverse.is_finite() && fine(query.of_error) && fine(query.of_norm)
    }
}

/// The packed screen of a matrix [n, k].
#[derive(Debug, Clone, Copy)]
pub struct Screen<'a> {
    n: usize,
    k: usize,
    panels: &'a [u8],
}

impl<'a> Screen<'a> {
    /// A view of a packed screen.
    ///
    /// # Panics
    /// Where `panels` has not [`screen_bytes`] bytes, or `k` is over [`SCREEN_MAX_K`].
    #[must_use]
    pub fn new(n: usize, k: usize, panels: &'a [u8]) -> Screen<'a> {
        assert!(k <= SCREEN_MAX_K && panels.len() == screen_bytes(n, k), "screen of a matrix [{n}, {k}]");
        Screen { n, k, panels }
    }

    /// Bounds of every product: `lower` and `upper` are [queries, padded(n)].
    ///
    /// # Panics
    /// Where there are more than [`SCREEN_ROWS`] queries, or a length does not fit.
    pub fn scan(&self, isa: Isa, team: &Team, queries: &[Query], lower: &mut [f32], upper: &mut [f32]) {
        let panels = self.n.div_ceil(LANES);
        let width = panels * LANES;
        assert!(queries.len() <= SCREEN_ROWS && queries.iter().all(|q| q.digits.len() == self.k.div_ceil(4)));
        assert!(lower.len() == queries.len() * width && upper.len() == lower.len());
        let out = Out(lower.as_mut_ptr(), upper.as_mut_ptr());
        let scan = |panels: Range<usize>| isa.run(Scan { screen: *self, queries, panels, out: &out });
        let chunks = (4 * team.threads()).min(panels.div_ceil(32)).clamp(1, MAX_CHUNKS);
        if team.threads() == 1 || chunks == 1 {
            return scan(0..panels);
        }
        let fours = panels.div_ceil(4);
        let cut = |i: usize| (i * fours / chunks * 4).min(panels);
        team.run(chunks, |_, i| scan(cut(i)..cut(i + 1)));
    }
}

struct Out(*mut f32, *mut f32);

// SAFETY: the chunks of `scan` write disjoint columns of two exclusively borrowed slices.
unsafe impl Sync for Out {}

struct Scan<'a> {
    screen: Screen<'a>,
    queries: &'a [Query],
    panels: Range<usize>,
    out: &'a Out,
}

impl Kernel for Scan<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let one_digit = self.queries.iter().all(|q| q.used == 1);
        let mut first = 0;
        while first < self.queries.len() {
            // Queries share each load of the weights; two digits are for one query, which waits for memory anyway.
            let together = match self.queries.len() - first {
                4.. if S::WIDEST == 4 && one_digit => 4,
                2.. if S::WIDEST == 4 && one_digit => 2,
                _ => 1,
            };
            // SAFETY: panels below n / 16 and queries below their number lie within the slices, which `scan` checked.
            unsafe {
                match (together, one_digit) {
                    (4, _) => self.sweep::<S, 4, 1, 1>(s, first),
                    (2, _) => self.sweep::<S, 2, 2, 1>(s, first),
                    (_, true) if S::WIDEST == 4 => self.sweep::<S, 1, 4, 1>(s, first),
                    (_, false) if S::WIDEST == 4 => self.sweep::<S, 1, 4, 2>(s, first),
                    _ => self.sweep::<S, 1, 1, 2>(s, first),
                }
            }
            first += together;
        }
    }
}

impl Scan<'_> {
    /// # Safety
    /// `self.panels` lie within the screen and the outputs; queries `first..first + M` are there.
    #[inline(always)]
    unsafe fn sweep<S: Simd, const M: usize, const P: usize, const D: usize>(&self, s: S, first: usize) {
        if M.max(P) > S::WIDEST {
            return; // `run` does not ask for such tiles; here so that no code is made for them
        }
        let mut panel = self.panels.start;
        while panel < self.panels.end {
            // SAFETY: as the caller's.
            unsafe {
                if panel + P <= self.panels.end {
                    self.tile::<S, M, P, D>(s, first, panel);
                    panel += P;
                } else {
                    self.tile::<S, M, 1, D>(s, first, panel);
                    panel += 1;
                }
            }
        }
    }

    /// # Safety
    /// Panels `panel..panel + P` lie within the screen and the outputs; queries `first..first + M` are there.
    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize, const P: usize, const D: usize>(&self, s: S, first: usize, panel: usize) {
        let k = self.screen.k;
        let size = panel_bytes(k);
        let queries = &self.queries[first..first + M];
        let mut high = [[s.int_zero(); P]; M];
        let mut low = [[s.int_zero(); P]; M];
        // SAFETY: a panel is `size` bytes: k / 4 groups of 64, then the bounds.
        unsafe {
            let w = self.screen.panels.as_ptr().add(panel * size).cast::<i8>();
            for i in 0..k.div_ceil(4) {
                unrolled!(M of 4, m => {
                    let [h, l] = *queries[m].digits.get_unchecked(i);
                    unrolled!(P of 4, p => {
                        let w = w.add(p * size + i * 4 * LANES);
                        high[m][p] = s.dot4(high[m][p], h, w);
                        if D == 2 {
                            low[m][p] = s.dot4(low[m][p], l, w);
                        }
                    });
                });
            }
            let width = self.screen.n.div_ceil(LANES) * LANES;
            unrolled!(M of 4, m => {
                let query = &queries[m];
                unrolled!(P of 4, p => {
                    let bounds = w.add(p * size + size - BOUNDS);
                    let [scale, error, norm] = [0, 1, 2].map(|i| s.load(bounds.cast::<f32>().add(i * LANES)));
                    let dot = s.int_to_f32(s.int_join(high[m][p], low[m][p], bounds.cast::<i32>().add(3 * LANES)));
                    let centre = s.mul(s.mul(scale, s.splat(query.scale)), dot);
                    let radius = s.mul_add(norm, s.splat(query.of_norm), s.splat(TINY));
                    let radius = s.mul_add(error, s.splat(query.of_error), radius);
                    let at = (first + m) * width + (panel + p) * LANES;
                    s.store(self.out.0.add(at), s.sub(centre, radius));
                    s.store(self.out.1.add(at), s.add(centre, radius));
                });
            });
        }
    }
}

/// The rows that can be the largest of those not in `apart`: their numbers, ascending, appended to `survivors`.
///
/// `lower` and `upper` are `[n]` of one query; both are changed: rows of `apart` are taken out.
pub fn survivors(isa: Isa, lower: &mut [f32], upper: &mut [f32], apart: &[u32], survivors: &mut Vec<u32>) {
    for row in apart {
        lower[*row as usize] = f32::NEG_INFINITY;
        upper[*row as usize] = f32::NEG_INFINITY;
    }
    isa.run(Survivors { lower, upper, survivors });
}

struct Survivors<'a> {
    lower: &'a [f32],
    upper: &'a [f32],
    survivors: &'a mut Vec<u32>,
}

impl Kernel for Survivors<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (lanes, rest) = self.lower.as_chunks::<LANES>();
        let mut top = s.splat(f32::NEG_INFINITY);
        for lower in lanes {
            top = s.max(s.load_array(lower), top);
        }
        let best = rest.iter().copied().fold(s.max_lane(top), f32::max);
        const BLOCK: usize = 8 * LANES;
        for (i, upper) in self.upper.chunks(BLOCK).enumerate() {
            // Most blocks have none.
            let (registers, rest) = upper.as_chunks::<LANES>();
            let top = registers.iter().fold(s.splat(f32::NEG_INFINITY), |top, u| s.max(s.load_array(u), top));
            if rest.is_empty() && s.max_lane(top) < best {
                continue;
            }
            let of = upper.iter().enumerate().filter(|(_, u)| **u >= best && **u > f32::NEG_INFINITY);
            self.survivors.extend(of.map(|(lane, _)| (i * BLOCK + lane) as u32));
        }
    }
}

struct Chains<'a> {
    x: &'a [f32],
    rows: &'a [f32],
    stride: usize,
    out: &'a mut [f32],
}

impl Kernel for Chains<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        /// Chains at a time: more than the latency of an FMA.
        const TOGETHER: usize = 8;
        let k = self.x.len();
        let mut rows = self.rows.chunks(self.stride);
        for out in self.out.chunks_mut(TOGETHER) {
            let group: [&[f32]; TOGETHER] =
                std::array::from_fn(|i| if i < out.len() { &rows.next().unwrap_or(self.x)[..k] } else { self.x });
            let mut sums = [0f32; TOGETHER];
            for (i, x) in self.x.iter().enumerate() {
                for (sum, row) in sums.iter_mut().zip(group) {
                    *sum = x.mul_add(row[i], *sum);
                }
            }
            out.copy_from_slice(&sums[..out.len()]);
        }
    }
}

/// `out[i] = sum over k of x[k] rows[i][k]`, each the chain of [`crate::matmul`]: for a few rows that are not packed.
///
/// `rows` is `[out, stride]`, of which the first k of a row count; `x` is `[k]`.
///
/// # Panics
/// Where the lengths do not fit together.
pub fn chains(isa: Isa, x: &[f32], rows: &[f32], stride: usize, out: &mut [f32]) {
    assert!(stride >= x.len() && stride > 0 && rows.len() >= out.len() * stride);
    isa.run(Chains { x, rows, stride, out });
}
