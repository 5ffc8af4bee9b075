//! The products of a large matrix with a few vectors, nearly, at the cost of reading 16 bits a weight; and which of them must be
//! known exactly.
//!
//! A beam search wants two things of all logits of a beam: the best of them, and ln(sum of e^logit), which it takes away from each.
//! For the best, rigorous bounds tell which logits to compute in f32, as the int8 screen does ([`crate::Screen`]). The sum hardly
//! feels that the others are a little off:
//!
//! ```text
//! build:  c_k = 2^i near the rms of column k         w' = w / c, h' = h c: the same products
//!         s_v = max |w'_v| / 32767, q_v = round(w'_v / s_v)
//!         r = max E_v + 2 g (W_v + E_v)               of 16 rows: E_v >= |w'_v - s_v q_v|, W_v >= |w'_v|, Euclidean norms
//! query:  y_v = s_v (q_v h')                          a product as any other, the weights whole numbers
//!         |y_v - w_v h| <= r |h'|                     w_v h as the f32 chain rounds it
//! ```
//!
//! g is gamma of k + 2 roundings (Higham, *Accuracy and Stability of Numerical Algorithms*, lemma 3.1). What a weight is off is at most
//! half an s_v and has no direction, so y_v is off by about 3e-5 of the size that logits have (their root mean square), and
//! independently of its neighbours. Each counts in the sum by its share p_v, and whatever has a share of 1/256 is
//! computed exactly: the logarithm is off by 3e-5 sqrt(sum of p_v^2) of that size, which is at most 2e-6 and mostly below 1e-6: as much as
//! the rounding of f32 logits costs.

use crate::math::ln;
use crate::matmul::{Epilogue, Panels, Product, Storage, matmul};
use crate::region::Team;
use crate::screen::ColumnScales;
use crate::simd::{Isa, Kernel, LANES, Simd, padded};
use crate::softmax::{BLOCK, log_sum_exp};

/// Of the sum of e^y; what may have more of it is computed exactly.
const SHARE: f64 = 1.0 / 256.0;
/// Of 16 bits.
const MOST: f32 = 32767.0;
/// Numbers below it leave the products of numbers below it finite, and make what is lost below the normal numbers of f32 less than
/// [`TINY`].
const LARGE: f64 = 1e10;
/// Added to every radius.
const TINY: f32 = 1e-30;

/// Bytes of the near copy of a matrix [n, k].
#[must_use]
pub fn near_bytes(n: usize, k: usize) -> usize {
    padded(n) * (k * size_of::<i16>() + size_of::<f32>()) + n.div_ceil(LANES) * size_of::<f32>()
}

/// What 16 rows have in a near copy.
#[derive(Debug)]
pub struct NearPanel<'a> {
    /// [k][16]
    weights: &'a mut [i16],
    /// s
    scales: &'a mut [f32],
    radius: &'a mut f32,
}

/// The panels of a near copy of a matrix [n, k], to be packed.
///
/// # Panics
/// Where `bytes` are not [`near_bytes`], or not aligned for f32.
#[must_use]
pub fn near_panels(n: usize, k: usize, bytes: &mut [u8]) -> Vec<NearPanel<'_>> {
    assert_eq!(bytes.len(), near_bytes(n, k));
    let (weights, bounds) = bytes.split_at_mut(padded(n) * k * size_of::<i16>());
    let (scales, radii) = bytemuck::cast_slice_mut(bounds).split_at_mut(padded(n));
    let weights = bytemuck::cast_slice_mut(weights).chunks_exact_mut((LANES * k).max(1));
    let bounds = scales.chunks_exact_mut(LANES).zip(radii);
    weights.zip(bounds).map(|(weights, (scales, radius))| NearPanel { weights, scales, radius }).collect()
}

impl NearPanel<'_> {
    /// Packs 16 rows `[padded(k)]`, zeros where absent; false where the bounds would not hold.
    ///
    /// # Panics
    /// Where the lengths do not fit together.
    pub fn pack(&mut self, isa: Isa, rows: &[Option<&[f32]>; LANES], columns: &ColumnScales) -> bool {
        let k = columns.scales().len();
        assert!(self.weights.len() == LANES * k && rows.iter().flatten().all(|row| row.len() == padded(k)));
        isa.run(Pack { panel: self, rows, columns })
    }
}

struct Pack<'a, 'b> {
    panel: &'a mut NearPanel<'b>,
    rows: &'a [Option<&'a [f32]>; LANES],
    columns: &'a ColumnScales,
}

impl Kernel for Pack<'_, '_> {
    type Out = bool;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> bool {
        let Pack { panel: NearPanel { weights, scales, radius }, rows, columns } = self;
        **radius = 0.0;
        let (steps, _) = weights.as_chunks_mut::<LANES>();
        let (inverse, _) = columns.inverse().as_chunks::<LANES>();
        // Of a product of k inputs, its scale, and the bounds' own arithmetic.
        let gamma = gamma(steps.len() + 2);
        let zero = s.splat(0.0);
        let mut holds = true;
        for (lane, row) in rows.iter().enumerate() {
            let Some(row) = row else {
                steps.iter_mut().for_each(|step| step[lane] = 0);
                scales[lane] = 0.0;
                continue;
            };
            let (row, _) = row.as_chunks::<LANES>();
            let mut top = zero;
            for (x, c) in row.iter().zip(inverse) {
                let x = s.mul(s.load_array(x), s.load_array(c));
                top = s.max(s.max(x, s.sub(zero, x)), top);
            }
            let scale = s.max_lane(top) / MOST;
            let up = if scale > f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
            let (up, down, magic, most) = (s.splat(up), s.splat(-scale), s.splat(12_582_912.0), s.splat(MOST));
            let (mut errors, mut norms) = (zero, zero);
            for ((x, c), steps) in row.iter().zip(inverse).zip(steps.chunks_mut(LANES)) {
                let x = s.mul(s.load_array(x), s.load_array(c));
                // Adding 1.5 * 2^23 rounds to a whole number.
                let q = s.sub(s.mul_add(x, up, magic), magic);
                let q = s.max(s.sub(zero, most), s.min(most, q));
                let error = s.mul_add(down, q, x);
                errors = s.mul_add(error, error, errors);
                norms = s.mul_add(x, x, norms);
                // The low bits of such a sum are the whole number.
                for (step, q) in steps.iter_mut().zip(&s.to_array(s.add(q, magic))) {
                    step[lane] = q.to_bits() as i16;
                }
            }
            // Sums of k squares in f32 are right to k u, less than 2e-4; what squares too small for f32 lose is below 1e-20.
            let root = |squares| f64::from(s.sum(squares)).sqrt() * 1.001 + 1e-20;
            let (error, norm) = (root(errors), root(norms));
            // A NaN is in the norm.
            holds &= scale.is_finite() && error < LARGE && norm < LARGE;
            scales[lane] = scale;
            **radius = radius.max(up_to_f32(error + 2.0 * gamma * (norm + error)));
        }
        holds
    }
}

/// gamma of n roundings of f32.
fn gamma(n: usize) -> f64 {
    let nu = n as f64 / f64::from(1 << 24);
    nu / (1.0 - nu)
}

/// An f32 that is not below x.
fn up_to_f32(x: f64) -> f32 {
    ((x * (1.0 + 1e-6)) as f32).next_up()
}

/// A packed near copy of a matrix [n, k].
#[derive(Debug, Clone, Copy)]
pub struct Near<'a> {
    n: usize,
    panels: Panels<'a>,
    /// [padded(n)]
    scales: &'a [f32],
    /// One a panel.
    radii: &'a [f32],
}

/// A vector, ready for [`Near::products`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NearQuery {
    /// At least |h'|.
    norm: f32,
}

impl NearQuery {
    /// Writes h', of the first k of `h`, to `to`; none where the bounds would not hold: numbers that are not finite, or far too large.
    ///
    /// # Panics
    /// Where one of them is shorter than k.
    #[must_use]
    pub fn prepare(h: &[f32], columns: &ColumnScales, to: &mut [f32]) -> Option<NearQuery> {
        let scales = columns.scales();
        let (h, to) = (&h[..scales.len()], &mut to[..scales.len()]);
        let mut squares = 0f64;
        for ((to, h), c) in to.iter_mut().zip(h).zip(scales) {
            *to = h * c;
            squares += f64::from(*to) * f64::from(*to);
        }
        let norm = squares.sqrt();
        (norm < LARGE).then(|| NearQuery { norm: up_to_f32(norm) })
    }
}

impl<'a> Near<'a> {
    /// A view of a packed copy.
    ///
    /// # Panics
    /// Where `bytes` are not [`near_bytes`], or not aligned for f32.
    #[must_use]
    pub fn new(n: usize, k: usize, bytes: &'a [u8]) -> Near<'a> {
        assert_eq!(bytes.len(), near_bytes(n, k));
        let (weights, bounds) = bytes.split_at(padded(n) * k * size_of::<i16>());
        let (scales, radii) = bytemuck::cast_slice(bounds).split_at(padded(n));
        Near { n, panels: Panels::new(n, k, Storage::I16(bytemuck::cast_slice(weights))), scales, radii }
    }

    /// q h' of every row for `rows` vectors that [`NearQuery::prepare`] wrote, `stride` apart: [rows, padded(n)].
    ///
    /// # Panics
    /// Where a length does not fit.
    pub fn products(&self, isa: Isa, team: &Team, queries: &[f32], stride: usize, rows: usize, out: &mut [f32]) {
        let product = Product { a: queries, lda: stride, m: rows, w: self.panels, epilogue: Epilogue::Store };
        matmul(isa, team, product, out, padded(self.n));
    }

    /// Makes near logits y of a row of [`Near::products`], and finds the rows of the matrix whose y is not good enough: all that may
    /// have one of the `keep` largest logits, and all with a share of 1/256 of the sum of e^y. The rows in `apart` do not take part:
    /// their y are minus infinity, as those behind n. False where there are more than `most`, or `keep` is more than can be
    /// found in this way.
    ///
    /// # Panics
    /// Where a length does not fit, or `apart` does not ascend or has a row that is not there.
    pub fn leading(
        &self,
        isa: Isa,
        query: NearQuery,
        products: &[f32],
        apart: &[u32],
        (keep, most): (usize, usize),
        leading: &mut NearLeading,
    ) -> bool {
        let NearLeading { logits, rows, tops, lower } = leading;
        let Near { n, scales, radii, .. } = *self;
        assert_eq!(products.len(), padded(n));
        let in_block = BLOCK / LANES;
        logits.resize(products.len(), 0.0);
        isa.run(Logits { products, scales, n, apart, logits, tops });
        let radius_of = |block: usize| {
            let radii = radii[block * in_block..].iter().take(in_block);
            radii.fold(0f32, |most, r| most.max(*r)).mul_add(query.norm, TINY)
        };
        lower.clear();
        lower.extend(tops.iter().enumerate().map(|(block, top)| largest(top) - radius_of(block)));
        rows.clear();
        if keep == 0 || keep > lower.len() {
            return false;
        }
        // So many blocks have a logit that is at least as large as the least of these.
        let (_, least, _) = lower.select_nth_unstable_by(keep - 1, |a, b| b.total_cmp(a));
        // The sum is at least that of some of its parts.
        let share = log_sum_exp(isa, tops.as_flattened()) + ln(SHARE) as f32;
        let least = least.min(share);
        if least == f32::NEG_INFINITY {
            return false;
        }
        for (block, (top, logits)) in tops.iter().zip(logits.chunks(BLOCK)).enumerate() {
            let radius = radius_of(block);
            if largest(top) + radius < least {
                continue;
            }
            for (i, x) in logits.iter().enumerate() {
                if x + radius >= least && rows.len() <= most {
                    rows.push((block * BLOCK + i) as u32);
                }
            }
        }
        rows.len() <= most
    }
}

fn largest(lanes: &[f32; LANES]) -> f32 {
    lanes.iter().fold(f32::NEG_INFINITY, |top, x| if *x > top { *x } else { top })
}

/// What [`Near::leading`] finds.
#[derive(Debug, Clone, Default)]
pub struct NearLeading {
    /// y `[padded(n)]`
    pub logits: Vec<f32>,
    /// Rows of the matrix, ascending.
    pub rows: Vec<u32>,
    /// Of each block the largest logits, a lane each.
    tops: Vec<[f32; LANES]>,
    /// Of each block, what its largest logit is not below.
    lower: Vec<f32>,
}

/// y, minus infinity behind n and of the rows in `apart`; and the tops of each block.
struct Logits<'a> {
    products: &'a [f32],
    scales: &'a [f32],
    n: usize,
    /// Ascending.
    apart: &'a [u32],
    logits: &'a mut [f32],
    tops: &'a mut Vec<[f32; LANES]>,
}

impl Kernel for Logits<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Logits { products, scales, n, mut apart, logits, tops } = self;
        tops.clear();
        let blocks = products.chunks(BLOCK).zip(scales.chunks(BLOCK)).zip(logits.chunks_mut(BLOCK));
        for (block, ((products, scales), logits)) in blocks.enumerate() {
            let first = block * BLOCK;
            let (products, _) = products.as_chunks::<LANES>();
            let (scales, _) = scales.as_chunks::<LANES>();
            for ((x, scale), y) in products.iter().zip(scales).zip(logits.as_chunks_mut::<LANES>().0) {
                s.write(s.mul(s.load_array(x), s.load_array(scale)), y);
            }
            let (here, behind) = apart.split_at(apart.partition_point(|row| (*row as usize) < first + BLOCK));
            apart = behind;
            for row in here {
                logits[*row as usize - first] = f32::NEG_INFINITY;
            }
            let here = n - first.min(n);
            if here < logits.len() {
                logits[here..].fill(f32::NEG_INFINITY);
            }
            let mut top = s.splat(f32::NEG_INFINITY);
            for y in logits.as_chunks::<LANES>().0 {
                top = s.max(s.load_array(y), top);
            }
            tops.push(s.to_array(top));
        }
    }
}
