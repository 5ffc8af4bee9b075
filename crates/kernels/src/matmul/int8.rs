//! Products with weights of 8 bits: out[m][n] = s_n t_m * (sum over k of x[m][k] q[n][k]), the sum in integers.
//!
//! ```text
//! weights  w[n][k] ~ s_n q[n][k]     q in -127..=127, a scale a row
//! inputs   a[m][k] ~ t_m x[m][k]     x in -63..=63 (one digit of 7 bits) or -8191..=8191 (two), a scale a row
//! ```
//!
//! Integer sums are exact, also where AVX2 adds pairs of products in 16 bits: digits are unsigned and below 128, weights above
//! -128. Inputs are quantised by operations that round the same everywhere. So the outputs, too, are the same on every
//! instruction set and thread, and do not depend on the rows computed together. With more inputs than an i32 holds the
//! sums of blocks are added in f32, ascending.
//!
//! A second digit reads no more bytes: for one row, which waits for memory, it is free on AVX-512. It leaves of the
//! inputs' error a hundredth, and is what keeps outliers among them from drowning the rest.
//!
//! A panel is `[k / 4][16][4]` bytes, for every block of inputs the 16 sums of q as i32, and the 16 scales as f32.

use super::product::{Epilogue, Product};
use crate::region::{MAX_CHUNKS, Team};
use crate::simd::{Isa, Kernel, LANES, Simd, unrolled};
use std::cell::RefCell;
use std::ops::Range;

/// Groups of 4 inputs of a block: 127 * 8191 * 2048 fits an i32.
const BLOCK: usize = 2048 / 4;

/// How finely the inputs of an int8 product are quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Digits {
    /// To 127 levels.
    One,
    /// To 16383 levels.
    Two,
}

/// Bytes of a panel of k inputs.
pub(super) fn panel_bytes(k: usize) -> usize {
    let groups = k.div_ceil(4);
    groups * 4 * LANES + (groups.div_ceil(BLOCK) + 1) * LANES * 4
}

/// How much of 16 rows is lost in 8 bits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loss {
    /// The sum of the squared errors.
    pub error: f64,
    /// The sum of the squared weights.
    pub norm: f64,
}

/// Quantises 16 rows [k] (zeros where absent) into a panel of `panel_bytes(k)`; tells the loss.
///
/// Weights that are not finite make their row's scale, and so its outputs, not a number.
///
/// # Panics
/// Where the lengths do not fit together.
pub(super) fn pack(isa: Isa, rows: &[Option<&[f32]>; LANES], k: usize, panel: &mut [u8]) -> Loss {
    assert_eq!(panel.len(), panel_bytes(k), "bytes of a panel of {k} inputs");
    assert!(rows.iter().flatten().all(|row| row.len() == k), "inputs of a row");
    isa.run(Pack { rows, k, panel })
}

struct Pack<'a> {
    rows: &'a [Option<&'a [f32]>; LANES],
    k: usize,
    panel: &'a mut [u8],
}

impl Kernel for Pack<'_> {
    type Out = Loss;
    /// Plain loops, which the compiler turns into vectors of the instruction set.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Loss {
        let groups = self.k.div_ceil(4);
        let (weights, behind) = self.panel.split_at_mut(groups * 4 * LANES);
        let (groups, _) = weights.as_chunks_mut::<{ 4 * LANES }>();
        let (sums, scales) = behind.split_at_mut(behind.len() - LANES * 4);
        sums.fill(0);
        let mut loss = Loss::default();
        for (lane, row) in self.rows.iter().enumerate() {
            let row = row.unwrap_or_default();
            let top = largest(row);
            let scale = top / 127.0;
            scales[lane * 4..][..4].copy_from_slice(&scale.to_le_bytes());
            let up = if scale > f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
            for (i, group) in groups.iter_mut().enumerate() {
                let mut sum = 0;
                for j in 0..4 {
                    let x = row.get(4 * i + j).copied().unwrap_or(0.0);
                    let q = nearest(x, up, 127.0);
                    let error = f64::from(q.mul_add(-scale, x));
                    loss.error += error * error;
                    loss.norm += f64::from(x) * f64::from(x);
                    group[4 * lane + j] = q as i8 as u8;
                    sum += q as i32;
                }
                let at = &mut sums[(i / BLOCK * LANES + lane) * 4..][..4];
                let before = i32::from_le_bytes([at[0], at[1], at[2], at[3]]);
                at.copy_from_slice(&(before + sum).to_le_bytes());
            }
        }
        loss
    }
}

/// The largest size; not a number where one is none.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    // Bits without the sign are ordered as sizes are, and numbers that are none come last.
    f32::from_bits(x.iter().fold(0, |top, x| top.max(x.to_bits() & 0x7fff_ffff)))
}

/// x `up`, rounded to a whole number and cut at `most`; 0 for what is not a number.
#[inline(always)]
fn nearest(x: f32, up: f32, most: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to a whole number.
    let whole = (x * up).clamp(-most, most) + 12_582_912.0 - 12_582_912.0;
    if whole.is_nan() { 0.0 } else { whole }
}

thread_local! {
    /// Quantised inputs, kept from call to call.
    static INPUTS: RefCell<Inputs> = const { RefCell::new(Inputs { digits: Vec::new(), scales: Vec::new() }) };
}

/// The quantised rows of a product.
#[derive(Default)]
struct Inputs {
    /// [m][digits][k / 4]: the digits of 4 inputs a word, the high ones first.
    digits: Vec<u32>,
    /// [m]
    scales: Vec<f32>,
}

struct Quantise<'a> {
    p: &'a Product<'a>,
    digits: Digits,
    inputs: &'a mut Inputs,
}

impl Kernel for Quantise<'_> {
    type Out = ();
    /// Plain loops, which the compiler turns into vectors of the instruction set.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Product { a, lda, m, w, .. } = *self.p;
        let groups = w.k.div_ceil(4);
        let (count, most) = match self.digits {
            Digits::One => (1, 63.0),
            Digits::Two => (2, 8191.0),
        };
        self.inputs.digits.resize(m * count * groups, 0);
        self.inputs.scales.resize(m, 0.0);
        for row in 0..m {
            let x = &a[row * lda..][..w.k];
            let top = largest(x);
            let scale = top / most;
            let up = if scale > f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
            self.inputs.scales[row] = scale;
            let (high, low) = self.inputs.digits[row * count * groups..][..count * groups].split_at_mut(groups);
            let (fours, last) = x.as_chunks::<4>();
            let mut padded = [0.0; 4];
            padded[..last.len()].copy_from_slice(last);
            for (i, four) in fours.iter().chain((!last.is_empty()).then_some(&padded)).enumerate() {
                let whole = four.map(|x| nearest(x, up, most) as i32);
                let word = |digit: [i32; 4]| u32::from_le_bytes(digit.map(|d| d as u8));
                match self.digits {
                    Digits::One => high[i] = word(whole.map(|x| x + 64)),
                    Digits::Two => {
                        high[i] = word(whole.map(|x| (x + 8192) >> 7));
                        low[i] = word(whole.map(|x| (x + 8192) & 127));
                    }
                }
            }
        }
    }
}

/// The product, as [`super::matmul`] does it, whose checks it relies on.
pub(super) fn product(
    isa: Isa,
    team: &Team,
    p: Product<'_>,
    panels: &[u8],
    digits: Digits,
    out: &mut [f32],
    ldo: usize,
) {
    let count = p.w.n.div_ceil(LANES);
    assert_eq!(panels.len(), count * panel_bytes(p.w.k), "packed weights of a matrix [{}, {}]", p.w.n, p.w.k);
    INPUTS.with_borrow_mut(|inputs| {
        isa.run(Quantise { p: &p, digits, inputs: &mut *inputs });
        let out = Out { to: out.as_mut_ptr(), stride: ldo };
        let part = |panels_of: Range<usize>| isa.run(Part { p, panels, digits, inputs, out, of: panels_of });
        // Enough multiply-adds for several threads, and chunks of at least 4 panels.
        let work = p.m * count * LANES * p.w.k;
        let chunks = (4 * team.threads()).min(count.div_ceil(4)).clamp(1, MAX_CHUNKS);
        if team.threads() == 1 || work < 96 * 1024 || chunks == 1 {
            return part(0..count);
        }
        let fours = count.div_ceil(4);
        let cut = |i: usize| (i * fours / chunks * 4).min(count);
        team.run(chunks, |_, i| part(cut(i)..cut(i + 1)));
    });
}

#[derive(Clone, Copy)]
struct Out {
    to: *mut f32,
    stride: usize,
}

// SAFETY: the chunks of `product` write disjoint columns of an exclusively borrowed slice.
unsafe impl Sync for Out {}

/// Some panels of a product, all rows.
struct Part<'a> {
    p: Product<'a>,
    panels: &'a [u8],
    digits: Digits,
    inputs: &'a Inputs,
    out: Out,
    of: Range<usize>,
}

impl Kernel for Part<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.digits {
            Digits::One => self.sweep::<S, 1>(s),
            Digits::Two => self.sweep::<S, 2>(s),
        }
    }
}

impl Part<'_> {
    /// Rows share each load of the weights; few rows take several panels at a time, so that sums do not wait for one another.
    #[inline(always)]
    fn sweep<S: Simd, const D: usize>(&self, s: S) {
        let mut panel = self.of.start;
        while panel < self.of.end {
            let left = self.of.end - panel;
            let wide = if self.p.m == 1 && left >= 4 && S::WIDEST == 4 { 4 } else { 1 };
            let mut row = 0;
            while row < self.p.m {
                // SAFETY: `product` found every panel within the weights; rows below m and panels below n / 16 lie within the
                // inputs, which `Quantise` made, and within the outputs, which `matmul` checked.
                row += unsafe {
                    match self.p.m - row {
                        4.. if S::WIDEST == 4 => self.tile::<S, 4, 1, D>(s, row, panel),
                        2.. if S::WIDEST == 4 => self.tile::<S, 2, 1, D>(s, row, panel),
                        _ if wide == 4 => self.tile::<S, 1, 4, D>(s, row, panel),
                        _ => self.tile::<S, 1, 1, D>(s, row, panel),
                    }
                };
            }
            panel += wide;
        }
    }

    /// Returns M.
    ///
    /// # Safety
    /// Rows `row..row + M` and panels `panel..panel + P` are there.
    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize, const P: usize, const D: usize>(
        &self,
        s: S,
        row: usize,
        panel: usize,
    ) -> usize {
        if M.max(P) > S::WIDEST {
            return M; // never asked for; no code is made for it
        }
        let (groups, size) = (self.p.w.k.div_ceil(4), panel_bytes(self.p.w.k));
        let blocks = groups.div_ceil(BLOCK);
        let mut dots = [[s.splat(0.0); P]; M];
        // SAFETY: a panel is `size` bytes: groups of 64, then the sums of every block and the scales; a row of the inputs is
        // D times `groups` words.
        unsafe {
            let w = self.panels.as_ptr().add(panel * size).cast::<i8>();
            let x = self.inputs.digits.as_ptr().add(row * D * groups);
            for block in 0..blocks {
                let mut high = [[s.int_zero(); P]; M];
                let mut low = [[s.int_zero(); P]; M];
                for i in block * BLOCK..((block + 1) * BLOCK).min(groups) {
                    unrolled!(M of 4, m => {
                        let h = *x.add(m * D * groups + i);
                        unrolled!(P of 4, p => {
                            let w = w.add(p * size + i * 4 * LANES);
                            high[m][p] = s.dot4(high[m][p], h, w);
                            if D == 2 {
                                low[m][p] = s.dot4(low[m][p], *x.add(m * D * groups + groups + i), w);
                            }
                        });
                    });
                }
                unrolled!(M of 4, m => {
                    unrolled!(P of 4, p => {
                        let sums = w.add(p * size + groups * 4 * LANES).cast::<i32>().add(block * LANES);
                        // One digit is as two of which the second is zero: 128 times the sum.
                        let sum = s.int_to_f32(s.int_join(high[m][p], low[m][p], sums));
                        dots[m][p] = s.add(dots[m][p], sum);
                    });
                });
            }
            let unit = if D == 2 { 1.0 } else { 1.0 / 128.0 };
            unrolled!(M of 4, m => {
                let scale = s.splat(*self.inputs.scales.as_ptr().add(row + m) * unit);
                unrolled!(P of 4, p => {
                    let scales = w.add(p * size + size - LANES * 4).cast::<f32>();
                    let value = s.mul(s.mul(s.load(scales), scale), dots[m][p]);
                    let to = self.out.to.add((row + m) * self.out.stride + (panel + p) * LANES);
                    let value = match self.p.epilogue {
                        Epilogue::Store => value,
                        Epilogue::Add => s.add(s.load(to), value),
                        Epilogue::Relu => s.max(s.splat(0.0), value),
                    };
                    s.store(to, value);
                });
            });
        }
        M
    }
}
