//! The inputs of a product, quantised, and where a tile of rows finds them.

use super::super::product::Product;
use super::{BLOCK, Digits, lines, most};
use crate::region::Team;
use crate::simd::{Isa, Kernel, LANES, Simd, TILE, Tiles};

/// The step of whole numbers up to `most`, and one over it: not a number where one of x is none or infinite.
#[inline(always)]
pub(in crate::matmul) fn scale_of<S: Simd>(s: S, x: &[f32], most: f32) -> (f32, f32) {
    let (registers, last) = x.as_chunks::<LANES>();
    let mut padded = [0.0; LANES];
    padded[..last.len()].copy_from_slice(last);
    let zero = s.splat(0.0);
    // Zero times what is not finite is not a number, and stays so.
    let (mut top, mut finite) = (zero, zero);
    for x in registers.iter().chain([&padded]) {
        let x = s.load_array(x);
        top = s.max(s.max(x, s.sub(zero, x)), top);
        finite = s.mul_add(x, zero, finite);
    }
    let scale = s.max_lane(top) / most + s.sum(finite);
    (scale, if scale > f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 })
}

/// Added and taken away again rounds to a whole number: 1.5 * 2^23.
pub(in crate::matmul) const ROUND: f32 = 12_582_912.0;

/// x `up`, rounded to a whole number of at most `most`.
#[inline(always)]
pub(in crate::matmul) fn nearest<S: Simd>(s: S, x: S::F, up: f32, most: f32) -> S::F {
    let most = s.splat(most);
    let x = s.max(s.sub(s.splat(0.0), most), s.min(s.mul(x, s.splat(up)), most));
    s.sub(s.add(x, s.splat(ROUND)), s.splat(ROUND))
}

/// Rows of the tile that begins with `left` rows to go: they share each load of the weights.
///
/// Of one digit eight rows and two panels fill the registers. Sums of several blocks of inputs leave no room for that.
#[inline(always)]
pub(in crate::matmul) fn height<S: Simd>(left: usize, digits: Digits, k: usize) -> usize {
    match left {
        8.. if S::PANELS == 2 && digits == Digits::One && k.div_ceil(4) <= BLOCK => 8,
        4.. if S::WIDEST == 4 && holds_four::<S>(digits) => 4,
        2.. if S::WIDEST == 4 => 2,
        _ => 1,
    }
}

/// Whether registers hold the sums of four rows: 16 do not, of two digits apart.
pub(super) const fn holds_four<S: Simd>(digits: Digits) -> bool {
    S::PANELS == 2 || S::PAIRS || matches!(digits, Digits::One)
}

/// Rows from which [`Tiles`] pay, where the processor has them.
const TILED_ROWS: usize = 8;

/// [`Tiles`] for a product of `m` rows, where they serve: they take 64 inputs at a time.
pub(in crate::matmul) fn tiles(isa: Isa, m: usize, k: usize) -> Option<Tiles> {
    if m >= TILED_ROWS && k > 0 && k.is_multiple_of(64) { isa.tiles() } else { None }
}

/// Where the quantised inputs of a tile of rows lie, in words: 16 inputs of a digit are a chunk of 4.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct Layout {
    /// Rows of the tile.
    pub(in crate::matmul) rows: usize,
    /// From one chunk of a row to the next, from one row's to the next one's, and from a digit's to the next one's.
    pub(in crate::matmul) chunk: usize,
    pub(in crate::matmul) row: usize,
    digit: usize,
    /// Digits are stored as [`Simd::signed`] makes them.
    pub(in crate::matmul) signed: bool,
}

impl Layout {
    /// For the tile that begins with `left` rows to go, of inputs of so many bytes. [`Tiles`] take rows as they lie,
    /// `[digits][16][k]`; otherwise it is `[k / 16][rows][digits]` chunks, pairs of numbers of 16 bits like two digits.
    #[inline(always)]
    pub(in crate::matmul) fn of<S: Simd>(tiled: bool, left: usize, digits: Digits, bytes: usize, k: usize) -> Layout {
        if tiled {
            let row = k.div_ceil(LANES) * CHUNK;
            return Layout { rows: TILE, chunk: CHUNK, row, digit: TILE * row, signed: false };
        }
        let (rows, row) = (height::<S>(left, digits, k), bytes * CHUNK);
        Layout { rows, chunk: rows * row, row, digit: CHUNK, signed: true }
    }
}

/// Words of a digit of 16 inputs.
pub(in crate::matmul) const CHUNK: usize = LANES / 4;

/// Words of a quantised row: its digits, 4 inputs a word, or pairs, in whole chunks of 16, and its scale.
#[inline(always)]
pub(super) fn words<S: Simd>(k: usize, digits: Digits) -> usize {
    k.div_ceil(LANES) * CHUNK * digits.bytes::<S>() + 1
}

/// [`words`] on an instruction set.
struct Words(usize, Digits);

impl Kernel for Words {
    type Out = usize;
    const INTEGERS: bool = true;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        words::<S>(self.0, self.1)
    }
}

/// Stores a digit of 16 inputs, where it is `signed` as [`Simd::signed`] makes it.
#[inline(always)] // a closure would lose the instruction set
pub(in crate::matmul) fn store_digits<S: Simd>(s: S, digits: S::F, signed: bool, to: &mut [u32]) {
    let to = to.first_chunk_mut::<CHUNK>().expect("a chunk of words");
    // SAFETY: `to` holds 16 bytes.
    unsafe { s.store_i8(to.as_mut_ptr().cast(), digits) };
    if signed {
        to.iter_mut().for_each(|word| *word = S::signed(*word));
    }
}

/// Quantises rows: a tile after the other, its digits as [`Layout`] says and then its scales; high digits come first.
struct Quantise<'a> {
    p: &'a Product<'a>,
    digits: Digits,
    tiled: bool,
    /// The first row.
    first: usize,
    /// Whole tiles: rows that are not there keep what was there.
    out: &'a mut [u32],
}

impl Kernel for Quantise<'_> {
    type Out = ();
    const INTEGERS: bool = true;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Product { a, lda, w, .. } = *self.p;
        let most = most(self.digits);
        let mut first = self.first;
        let mut rest = self.out;
        while !rest.is_empty() {
            let size = words::<S>(w.k, self.digits);
            let at = Layout::of::<S>(self.tiled, rest.len() / size, self.digits, self.digits.bytes::<S>(), w.k);
            let (tile, after) = rest.split_at_mut(at.rows * size);
            rest = after;
            let (tile, scales) = tile.split_at_mut(tile.len() - at.rows);
            for (row, to) in scales.iter_mut().enumerate().take(self.p.m - first) {
                let x = &a[(first + row) * lda..][..w.k];
                let (scale, up) = scale_of(s, x, most);
                *to = scale.to_bits();
                let (registers, last) = x.as_chunks::<LANES>();
                let mut padded = [0.0; LANES];
                padded[..last.len()].copy_from_slice(last);
                let registers = registers.iter().chain((!last.is_empty()).then_some(&padded));
                for (i, x) in registers.enumerate() {
                    let to = &mut tile[i * at.chunk + row * at.row..];
                    let whole = nearest(s, s.load_array(x), up, most);
                    if S::PAIRS {
                        let to = to.first_chunk_mut::<{ 2 * CHUNK }>().expect("two chunks of words");
                        // SAFETY: `to` holds 8 words.
                        unsafe { s.store_pairs(to.as_mut_ptr(), whole) };
                        continue;
                    }
                    if self.digits == Digits::One {
                        store_digits(s, whole, at.signed, to);
                        continue;
                    }
                    // x + 8192 = 128 high + low: a multiple of 1/128, less a half and a bit, rounds to the whole below it.
                    let moved = s.add(whole, s.splat(8192.0));
                    let below = s.mul_add(moved, s.splat(1.0 / 128.0), s.splat(1.0 / 256.0 - 0.5));
                    let high = s.sub(s.add(below, s.splat(ROUND)), s.splat(ROUND));
                    store_digits(s, high, false, to);
                    store_digits(s, s.mul_add(high, s.splat(-128.0), moved), false, &mut to[at.digit..]);
                }
            }
            first += at.rows;
        }
    }
}

/// Rows that a thread quantises at a time: whole tiles.
const QUANTISED: usize = 16;

/// The inputs of a product, quantised into a buffer: tiles of rows as [`Layout`] says, for [`Tiles`] whole ones.
pub(super) fn quantised<'a>(
    isa: Isa,
    team: &Team,
    p: &Product<'_>,
    digits: Digits,
    tiled: bool,
    buffer: &'a mut Vec<u32>,
) -> &'a [u32] {
    let size = isa.run(Words(p.w.k, digits));
    let inputs = lines(buffer, if tiled { p.m.next_multiple_of(TILE) } else { p.m } * size);
    let quantise = |i: usize, out: &mut [u32]| isa.run(Quantise { p, digits, tiled, first: i * QUANTISED, out });
    if p.m > 2 * QUANTISED {
        team.chunks_mut(inputs, QUANTISED * size, quantise);
    } else {
        quantise(0, inputs);
    }
    inputs
}
