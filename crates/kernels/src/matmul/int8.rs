//! Products with weights of 8 bits: out[m][n] = s_n t_m * (sum over k of x[m][k] q[n][k]), the sum in integers.
//!
//! ```text
//! weights  w[n][k] ~ s_n q[n][k]     q in -127..=127, a scale a row
//! inputs   a[m][k] ~ t_m x[m][k]     a scale a row, and of Digits::One  x in -127..=127
//!                                                   of Digits::Two  x in -8191..=8191, as two digits of 7 bits
//! ```
//!
//! Integer sums are exact: no sum of a block leaves an i32, nor one that AVX2 makes of two products of bytes 16 bits. Inputs
//! are quantised by operations that round the same everywhere. So the outputs, too, are the same on every instruction set and
//! thread, and do not depend on the rows computed together. With more inputs than an i32 holds the sums of blocks are added in
//! f32, ascending.
//!
//! Two digits read no more bytes than one: for one row, which waits for memory, the second is free with VNNI. For many
//! rows, which wait for arithmetic, it doubles the time. Where the processor multiplies whole tiles ([`Tiles`]) so do several rows.
//! AVX2 without VNNI takes inputs as one number of 16 bits ([`Simd::PAIRS`]), in the same time for both.
//!
//! A panel is `[k / 4][16][4]` bytes, for every block of inputs the 16 sums of q as i32, then the 16 scales, and the norms of q rounded
//! up, as f32.

mod inputs;
mod weights;

pub(super) use inputs::{CHUNK, Layout, ROUND, height, nearest, scale_of, store_digits, tiles};
use inputs::{holds_four, quantised, words};
pub use weights::Loss;
pub(super) use weights::pack;

use super::product::{Epilogue, Product};
use super::tiled::Tiled;
use crate::region::{MAX_CHUNKS, Team};
use crate::simd::{Isa, Kernel, LANES, LINE, Simd, unrolled};
use std::cell::RefCell;
use std::ops::Range;

/// How finely the inputs of a product with int8 weights are quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Digits {
    /// To 8 bits: where the time is arithmetic's.
    One,
    /// To 14 bits: where the time is memory's.
    Two,
}

/// The largest whole number of an input.
pub(super) fn most(digits: Digits) -> f32 {
    match digits {
        Digits::One => 127.0,
        Digits::Two => 8191.0,
    }
}

impl Digits {
    /// Bytes that an input takes.
    fn bytes<S: Simd>(self) -> usize {
        if S::PAIRS || self == Digits::Two { 2 } else { 1 }
    }
}

/// Groups of 4 inputs of a block: 127 * 8191 * 2048 fits an i32.
pub(super) const BLOCK: usize = 2048 / 4;

/// Bytes of a panel of k inputs.
pub(super) fn panel_bytes(k: usize) -> usize {
    let groups = k.div_ceil(4);
    groups * 4 * LANES + (groups.div_ceil(BLOCK) + 2) * LANES * 4
}

thread_local! {
    /// Quantised inputs, kept from call to call.
    static INPUTS: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// The product, as [`super::matmul`] does it, whose checks it relies on.
pub(super) fn product(
    isa: Isa,
    team: &Team,
    p: Product<'_>,
    (panels, digits): (&[u8], Digits),
    out: &mut [f32],
    ldo: usize,
) {
    let count = p.w.n.div_ceil(LANES);
    assert_eq!(panels.len(), count * panel_bytes(p.w.k), "packed weights of a matrix [{}, {}]", p.w.n, p.w.k);
    let tiles = tiles(isa, p.m, p.w.k);
    INPUTS.with_borrow_mut(|inputs| {
        let inputs = quantised(isa, team, &p, digits, tiles.is_some(), inputs);
        let out = Out { to: out.as_mut_ptr(), stride: ldo };
        let part = |of: Range<usize>| match (digits, tiles) {
            (Digits::One, None) => isa.run(Part::<1> { p, panels, inputs, out, of }),
            (Digits::Two, None) => isa.run(Part::<2> { p, panels, inputs, out, of }),
            (Digits::One, Some(tiles)) => isa.run(Tiled(Part::<1> { p, panels, inputs, out, of }, tiles)),
            (Digits::Two, Some(tiles)) => isa.run(Tiled(Part::<2> { p, panels, inputs, out, of }, tiles)),
        };
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

/// `len` words from the start of a line of the caches on.
pub(crate) fn lines(words: &mut Vec<u32>, len: usize) -> &mut [u32] {
    const WORDS: usize = LINE / 4;
    if words.len() < len + WORDS {
        words.resize(len + WORDS, 0);
    }
    let first = words.as_ptr().align_offset(LINE).min(WORDS);
    &mut words[first..][..len]
}

#[derive(Clone, Copy)]
pub(super) struct Out {
    to: *mut f32,
    stride: usize,
}

impl Out {
    /// Stores 16 outputs of a row.
    ///
    /// # Safety
    /// They are there, and nobody else's.
    #[inline(always)]
    pub(super) unsafe fn put<S: Simd>(self, s: S, epilogue: Epilogue, row: usize, panel: usize, value: S::F) {
        // SAFETY: as the caller's.
        unsafe {
            let to = self.to.add(row * self.stride + panel * LANES);
            let value = match epilogue {
                Epilogue::Store => value,
                Epilogue::Add => s.add(s.load(to), value),
                Epilogue::Relu => s.max(s.splat(0.0), value),
            };
            s.store(to, value);
        }
    }
}

// SAFETY: the chunks of `product` write disjoint columns of an exclusively borrowed slice.
unsafe impl Sync for Out {}

/// Some panels of a product, all rows; `D` digits an input.
pub(super) struct Part<'a, const D: usize> {
    pub(super) p: Product<'a>,
    pub(super) panels: &'a [u8],
    pub(super) inputs: &'a [u32],
    pub(super) out: Out,
    pub(super) of: Range<usize>,
}

impl<const D: usize> Kernel for Part<'_, D> {
    type Out = ();
    const INTEGERS: bool = true;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (m, k) = (self.p.m, self.p.w.k);
        let digits = if D == 1 { Digits::One } else { Digits::Two };
        assert_eq!(self.inputs.len(), m * words::<S>(k, digits), "inputs laid out for another instruction set");
        let mut panel = self.of.start;
        while panel < self.of.end {
            // Many rows wait for arithmetic: two panels share their inputs.
            let wide = if m >= 8 { S::PANELS.min(self.of.end - panel) } else { 1 };
            let mut row = 0;
            while row < m {
                let height = height::<S>(m - row, digits, k);
                // SAFETY: `product` found every panel within the weights; rows below m and panels below n / 16 lie within the
                // inputs, which `Quantise` made, and within the outputs, which `matmul` checked. All were compiled for the same S:
                // `Kernel::INTEGERS`.
                unsafe {
                    match (height, wide) {
                        (8, 2) => self.tile::<S, 8, 2>(s, row, panel),
                        (4, 2) => self.tile::<S, 4, 2>(s, row, panel),
                        _ => {
                            for panel in panel..panel + wide {
                                match height {
                                    8 => self.tile::<S, 8, 1>(s, row, panel),
                                    4 => self.tile::<S, 4, 1>(s, row, panel),
                                    2 => self.tile::<S, 2, 1>(s, row, panel),
                                    _ => self.tile::<S, 1, 1>(s, row, panel),
                                }
                            }
                        }
                    }
                }
                row += height;
            }
            panel += wide;
        }
    }
}

impl<const D: usize> Part<'_, D> {
    /// # Safety
    /// Rows `row..row + M` and panels `panel..panel + P` are there.
    #[cfg_attr(not(unoptimised), inline(always))]
    unsafe fn tile<S: Simd, const M: usize, const P: usize>(&self, s: S, row: usize, panel: usize) {
        let digits = if D == 1 { Digits::One } else { Digits::Two };
        if (M > 1 && S::WIDEST < 4) || (M == 4 && !holds_four::<S>(digits)) || (M == 8 && (S::PANELS < 2 || D == 2)) {
            return; // never asked for; no code is made for it
        }
        let (groups, size) = (self.p.w.k.div_ceil(4), panel_bytes(self.p.w.k));
        let mut dots = [[s.splat(0.0); P]; M];
        // SAFETY: a panel is `size` bytes: groups of 64, then the sums of every block, scales and norms; a tile of the inputs is M
        // rows of `row_words`, as `Quantise` made it.
        unsafe {
            let row_words = words::<S>(self.p.w.k, digits);
            let w = self.panels.as_ptr().add(panel * size).cast::<i8>();
            let x = self.inputs.as_ptr().add(row * row_words);
            let steps = x.add(M * (row_words - 1)).cast::<f32>();
            // Tiles in turn ask for a part each of what follows these panels, those of one row or two for all of it, or nothing. An
            // address only: it may lie behind the last one.
            let ahead = match M {
                1 | 2 => S::LONE_ASK.then(|| (w.wrapping_add(P * size), CHUNK)),
                _ => Some((w.wrapping_add(P * size + row / M * (groups / CHUNK) * LINE), 1)),
            };
            for block in 0..groups.div_ceil(BLOCK) {
                let of = block * BLOCK..((block + 1) * BLOCK).min(groups);
                let sums = sums::<S, M, P, D>(s, (x, w), size, of, ahead, S::PAIRS);
                unrolled!(M, m => {
                    unrolled!(P of 4, p => {
                        let of_weights = w.add(p * size + groups * 4 * LANES).cast::<i32>().add(block * LANES);
                        let sum = match D {
                            _ if S::PAIRS => sums[m][p][0],
                            1 => s.int_signed(sums[m][p][0], of_weights),
                            _ => s.int_join(s.int_less(sums[m][p][0], of_weights), sums[m][p][D - 1]),
                        };
                        dots[m][p] = s.add(dots[m][p], s.int_to_f32(sum));
                    });
                });
                if M > 4 {
                    break; // the only block, see `height`; and so the registers need not hold `dots` meanwhile
                }
            }
            unrolled!(M, m => {
                let scale = s.splat(*steps.add(m));
                unrolled!(P of 4, p => {
                    let scales = w.add(p * size + size - 2 * LANES * 4).cast::<f32>();
                    let value = s.mul(s.mul(s.load(scales), scale), dots[m][p]);
                    self.out.put(s, self.p.epilogue, row + m, panel + p, value);
                });
            });
        }
    }
}

/// Chains in which each sum is made, word by word in turn: a chain alone waits for itself. Panels side by side would do as well, and do
/// where rows are many, but few rows wait for memory, which comes faster as one stream than as four: a scan of the screen of 32128 x
/// 256 behind 64 MB of other reading took 344 us instead of 725 (Zen 4, one thread; plain reading 405).
#[inline(always)]
pub(crate) const fn chain_count<S: Simd, const M: usize, const P: usize, const D: usize>() -> usize {
    match S::PANELS * 4 / (M * P * D) {
        0 | 1 => 1,
        2 => 2,
        _ => 4,
    }
}

/// The sum of chains.
#[inline(always)]
pub(crate) fn joined<S: Simd, const M: usize, const P: usize, const D: usize>(s: S, sums: [S::I; 4]) -> S::I {
    match chain_count::<S, M, P, D>() {
        1 => sums[0],
        2 => s.int_add(sums[0], sums[1]),
        _ => s.int_add(s.int_add(sums[0], sums[1]), s.int_add(sums[2], sums[3])),
    }
}

/// The one inner loop: the sums of M rows of inputs, of `D` digits, with P panels, `size` bytes from one to the next, over
/// the words `of`. Every fourth word asks for so many further lines of `ahead`, up to 4.
///
/// `x` are the inputs of the tile, `[k / 16][M][D][4]` words, or `[k / 16][M][4][2]` `pairs`; `w` are the weights of its first panel.
/// Words are written out by four; see `product::tile`.
///
/// # Safety
/// They are there; `of` begins at a multiple of 4.
#[cfg_attr(not(unoptimised), inline(always))]
pub(super) unsafe fn sums<S: Simd, const M: usize, const P: usize, const D: usize>(
    s: S,
    (x, w): (*const u32, *const i8),
    size: usize,
    of: Range<usize>,
    ahead: Option<(*const i8, usize)>,
    pairs: bool,
) -> [[[S::I; D]; P]; M] {
    let words = if pairs { 2 } else { D };
    let mut sums = [[[[s.int_zero(); 4]; D]; P]; M];
    let mut first = of.start;
    // SAFETY: words below `of.end` are there.
    unsafe {
        while first + CHUNK <= of.end {
            if let Some((ahead, lines)) = ahead {
                let ahead = ahead.wrapping_add(first / CHUNK * lines * LINE);
                unrolled!(CHUNK of 4, i => {
                    if i < lines {
                        s.prefetch(ahead.wrapping_add(i * LINE).cast());
                    }
                });
            }
            let at = (x.add(first * M * words), w.add(first * 4 * LANES));
            unrolled!(CHUNK of 4, i => {
                sums = add_word::<S, M, P, D>(s, at, size, (i, i % chain_count::<S, M, P, D>()), sums, pairs);
            });
            first += CHUNK;
        }
        let at = (x.add(first * M * words), w.add(first * 4 * LANES));
        for i in 0..of.end - first {
            sums = add_word::<S, M, P, D>(s, at, size, (i, 0), sums, pairs);
        }
    }
    let mut joint = [[[s.int_zero(); D]; P]; M];
    unrolled!(M, m => {
        unrolled!(P of 4, p => {
            unrolled!(D of 4, d => { joint[m][p][d] = joined::<S, M, P, D>(s, sums[m][p][d]); });
        });
    });
    joint
}

/// Word i of a chunk, to a chain.
///
/// # Safety
/// As [`sums`].
#[inline(always)]
unsafe fn add_word<S: Simd, const M: usize, const P: usize, const D: usize>(
    s: S,
    (x, w): (*const u32, *const i8),
    size: usize,
    (i, chain): (usize, usize),
    mut sums: [[[[S::I; 4]; D]; P]; M],
    pairs: bool,
) -> [[[[S::I; 4]; D]; P]; M] {
    // SAFETY: as the caller's.
    unsafe {
        unrolled!(M, m => {
            unrolled!(P of 4, p => {
                let w = w.add(p * size + i * 4 * LANES);
                let row = x.add(if pairs { 2 * (m * CHUNK + i) } else { m * D * CHUNK + i });
                if pairs {
                    sums[m][p][0][chain] = s.dot4_pairs(sums[m][p][0][chain], *row, *row.add(1), w);
                } else if D == 1 {
                    sums[m][p][0][chain] = s.dot4_signed(sums[m][p][0][chain], *row, w);
                } else {
                    sums[m][p][0][chain] = s.dot4(sums[m][p][0][chain], *row, w);
                    sums[m][p][D - 1][chain] = s.dot4(sums[m][p][D - 1][chain], *row.add(CHUNK), w);
                }
            });
        });
    }
    sums
}
