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

use super::product::{Epilogue, Product};
use super::tiled::Tiled;
use crate::region::{MAX_CHUNKS, Team};
use crate::simd::{Isa, Kernel, LANES, LINE, Simd, TILE, Tiles, padded, unrolled};
use crate::turn::{ROWS, turn};
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
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Loss {
        let groups = self.k.div_ceil(4);
        let (weights, behind) = self.panel.split_at_mut(groups * 4 * LANES);
        let (sums, behind) = behind.split_at_mut(behind.len() - 2 * LANES * 4);
        let (scales, sizes) = behind.split_at_mut(LANES * 4);
        let stride = padded(self.k) / LANES;
        let mut quantised = ROWS.take();
        quantised.resize(LANES * stride, [0; LANES]);
        let mut loss = Loss::default();
        for (lane, row) in self.rows.iter().enumerate() {
            let quantised = &mut quantised[lane * stride..][..stride];
            if row.is_none() {
                quantised.fill([0; LANES]);
            }
            let row = row.unwrap_or_default();
            let (scale, up) = scale_of(s, row, 127.0);
            scales[lane * 4..][..4].copy_from_slice(&scale.to_le_bytes());
            let (mut errors, mut norms, mut squares) = (s.splat(0.0), s.splat(0.0), s.splat(0.0));
            // Blocks hold whole registers.
            let blocks = quantised.chunks_mut(BLOCK * 4 / LANES).zip(sums.chunks_exact_mut(LANES * 4));
            for (i, (quantised, sums)) in blocks.enumerate() {
                let mut sum = s.splat(0.0);
                let row = &row[(i * BLOCK * 4).min(row.len())..((i + 1) * BLOCK * 4).min(row.len())];
                let (registers, last) = row.as_chunks::<LANES>();
                let mut padded = [0.0; LANES];
                padded[..last.len()].copy_from_slice(last);
                let registers = registers.iter().chain((!last.is_empty()).then_some(&padded));
                for (quantised, x) in quantised.iter_mut().zip(registers) {
                    let x = s.load_array(x);
                    let q = nearest(s, x, up, 127.0);
                    let error = s.mul_add(q, s.splat(-scale), x);
                    errors = s.mul_add(error, error, errors);
                    norms = s.mul_add(x, x, norms);
                    sum = s.add(sum, q);
                    squares = s.mul_add(q, q, squares);
                    // SAFETY: `quantised` is 16 bytes.
                    unsafe { s.store_i8(quantised.as_mut_ptr(), q) };
                }
                sums[lane * 4..][..4].copy_from_slice(&(s.sum(sum) as i32).to_le_bytes());
            }
            sizes[lane * 4..][..4].copy_from_slice(&(s.sum(squares).sqrt() * 1.0001).to_le_bytes());
            loss.error += f64::from(s.sum(errors));
            loss.norm += f64::from(s.sum(norms));
        }
        let bytes: &[u8] = bytemuck::cast_slice(&quantised);
        turn(s, &std::array::from_fn(|lane| &bytes[lane * stride * LANES..][..groups * 4]), weights);
        ROWS.set(quantised);
        loss
    }
}

/// The step of whole numbers up to `most`, and one over it: not a number where one of x is none or infinite.
#[inline(always)]
pub(super) fn scale_of<S: Simd>(s: S, x: &[f32], most: f32) -> (f32, f32) {
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
pub(super) const ROUND: f32 = 12_582_912.0;

/// x `up`, rounded to a whole number of at most `most`.
#[inline(always)]
pub(super) fn nearest<S: Simd>(s: S, x: S::F, up: f32, most: f32) -> S::F {
    let most = s.splat(most);
    let x = s.max(s.sub(s.splat(0.0), most), s.min(s.mul(x, s.splat(up)), most));
    s.sub(s.add(x, s.splat(ROUND)), s.splat(ROUND))
}

thread_local! {
    /// Quantised inputs, kept from call to call.
    static INPUTS: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// Rows of the tile that begins with `left` rows to go: they share each load of the weights.
///
/// Of one digit eight rows and two panels fill the registers. Sums of several blocks of inputs leave no room for that.
#[inline(always)]
pub(super) fn height<S: Simd>(left: usize, digits: Digits, k: usize) -> usize {
    match left {
        8.. if S::PANELS == 2 && digits == Digits::One && k.div_ceil(4) <= BLOCK => 8,
        4.. if S::WIDEST == 4 && holds_four::<S>(digits) => 4,
        2.. if S::WIDEST == 4 => 2,
        _ => 1,
    }
}

/// Whether registers hold the sums of four rows: 16 do not, of two digits apart.
const fn holds_four<S: Simd>(digits: Digits) -> bool {
    S::PANELS == 2 || S::PAIRS || matches!(digits, Digits::One)
}

/// Rows from which [`Tiles`] pay, where the processor has them.
const TILED_ROWS: usize = 8;

/// [`Tiles`] for a product of `m` rows, where they serve: they take 64 inputs at a time.
pub(super) fn tiles(isa: Isa, m: usize, k: usize) -> Option<Tiles> {
    if m >= TILED_ROWS && k > 0 && k.is_multiple_of(64) { isa.tiles() } else { None }
}

/// Where the quantised inputs of a tile of rows lie, in words: 16 inputs of a digit are a chunk of 4.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Rows of the tile.
    pub(super) rows: usize,
    /// From one chunk of a row to the next, from one row's to the next one's, and from a digit's to the next one's.
    pub(super) chunk: usize,
    pub(super) row: usize,
    digit: usize,
    /// Digits are stored as [`Simd::signed`] makes them.
    pub(super) signed: bool,
}

impl Layout {
    /// For the tile that begins with `left` rows to go, of inputs of so many bytes. [`Tiles`] take rows as they lie,
    /// `[digits][16][k]`; otherwise it is `[k / 16][rows][digits]` chunks, pairs of numbers of 16 bits like two digits.
    #[inline(always)]
    pub(super) fn of<S: Simd>(tiled: bool, left: usize, digits: Digits, bytes: usize, k: usize) -> Layout {
        if tiled {
            let row = k.div_ceil(LANES) * CHUNK;
            return Layout { rows: TILE, chunk: CHUNK, row, digit: TILE * row, signed: false };
        }
        let (rows, row) = (height::<S>(left, digits, k), bytes * CHUNK);
        Layout { rows, chunk: rows * row, row, digit: CHUNK, signed: true }
    }
}

/// Words of a digit of 16 inputs.
pub(super) const CHUNK: usize = LANES / 4;

/// Words of a quantised row: its digits, 4 inputs a word, or pairs, in whole chunks of 16, and its scale.
#[inline(always)]
fn words<S: Simd>(k: usize, digits: Digits) -> usize {
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

/// Rows that a thread quantises at a time: whole tiles.
const QUANTISED: usize = 16;

/// Stores a digit of 16 inputs, where it is `signed` as [`Simd::signed`] makes it.
#[inline(always)] // a closure would lose the instruction set
pub(super) fn store_digits<S: Simd>(s: S, digits: S::F, signed: bool, to: &mut [u32]) {
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
        let size = isa.run(Words(p.w.k, digits));
        let inputs = lines(inputs, if tiles.is_some() { p.m.next_multiple_of(TILE) } else { p.m } * size);
        let quantise = |i: usize, out: &mut [u32]| {
            isa.run(Quantise { p: &p, digits, tiled: tiles.is_some(), first: i * QUANTISED, out });
        };
        if p.m > 2 * QUANTISED {
            team.chunks_mut(inputs, QUANTISED * size, quantise);
        } else {
            quantise(0, inputs);
        }
        let (out, inputs) = (Out { to: out.as_mut_ptr(), stride: ldo }, &*inputs);
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
    #[inline(always)]
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
            // Tiles in turn ask for what follows these panels. An address only: it may lie behind the last one.
            let ahead = (M > 2).then(|| w.wrapping_add(P * size + row / M * (groups / CHUNK) * LINE));
            for block in 0..groups.div_ceil(BLOCK) {
                let of = block * BLOCK..((block + 1) * BLOCK).min(groups);
                let sums = sums::<S, M, P, D>(s, (x, w), size, of, ahead, S::PAIRS);
                unrolled!(M, m => {
                    unrolled!(P of 4, p => {
                        let of_weights = w.add(p * size + groups * 4 * LANES).cast::<i32>().add(block * LANES);
                        let sum = match D {
                            _ if S::PAIRS => sums[m][p][0],
                            1 => s.int_signed(sums[m][p][0], of_weights),
                            _ => s.int_join(sums[m][p][0], sums[m][p][D - 1], of_weights),
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
/// the words `of`. Every fourth word asks for a further line of `ahead`.
///
/// `x` are the inputs of the tile, `[k / 16][M][D][4]` words, or `[k / 16][M][4][2]` `pairs`; `w` are the weights of its first panel.
/// Words are written out by four; see `product::tile`.
///
/// # Safety
/// They are there; `of` begins at a multiple of 4.
#[inline(always)]
pub(super) unsafe fn sums<S: Simd, const M: usize, const P: usize, const D: usize>(
    s: S,
    (x, w): (*const u32, *const i8),
    size: usize,
    of: Range<usize>,
    ahead: Option<*const i8>,
    pairs: bool,
) -> [[[S::I; D]; P]; M] {
    let words = if pairs { 2 } else { D };
    let mut sums = [[[[s.int_zero(); 4]; D]; P]; M];
    let mut first = of.start;
    // SAFETY: words below `of.end` are there.
    unsafe {
        while first + CHUNK <= of.end {
            if let Some(ahead) = ahead {
                s.prefetch(ahead.wrapping_add((first - of.start) / CHUNK * LINE).cast());
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
