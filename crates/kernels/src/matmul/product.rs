//! out[m][n] = sum over k of a[m][k] w[n][k], each output one chain of fused multiply-adds.
//!
//! ```text
//! for a block of rows, for a group of panels:        a chunk of the region; what a worker claims
//!     for a tile of rows:                            up to 12 rows x 2 panels of accumulators in registers
//!         for k ascending:                           the chain: one load a panel, one broadcast a row
//!             acc[row][panel] = fma(a[row][k], w[panel][k], acc[row][panel])
//!         epilogue, store
//! ```
//!
//! Lanes hold different outputs, never parts of one, so the value of an output depends neither on the tile, nor on the
//! rows computed with it, nor on the thread: a plain loop over `f32::mul_add` gives the same bits.

use super::in_place;
use super::inputs::{self, Rows, interleave};
use super::int8;
use super::panels::{Panels, Storage};
use crate::region::{MAX_CHUNKS, Team};
use crate::simd::{Isa, Kernel, LANES, LINE, Simd, unrolled};
use crate::upcoming::Upcoming;
use half::{bf16, f16};
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

/// A stored weight and how 16 of them are widened.
pub(crate) trait Weight: Copy + Sync {
    /// # Safety
    /// `p` is valid for reading 16 weights.
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::F;
}

impl Weight for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f32) -> S::F {
        // SAFETY: as the caller's.
        unsafe { s.load(p) }
    }
}

impl Weight for bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const bf16) -> S::F {
        // SAFETY: as the caller's; bf16 is a transparent u16.
        unsafe { s.load_bf16(p.cast()) }
    }
}

impl Weight for f16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f16) -> S::F {
        // SAFETY: as the caller's; f16 is a transparent u16.
        unsafe { s.load_f16(p.cast()) }
    }
}

impl Weight for i16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const i16) -> S::F {
        // SAFETY: as the caller's.
        unsafe { s.load_i16(p) }
    }
}

/// The one inner loop: `M` rows of inputs times `P` panels of `w`, added to `acc` in ascending order of k.
///
/// The 16 weights of step k of panel p lie at `w + p panel + k step`.
///
/// Steps are written out by four. Besides the counting it saves, processors from Skylake to Cascade Lake decode anew
/// whatever shares 32 bytes with a jump at their end (Intel's "jump conditional code" erratum), by chance of where the
/// linker puts a loop: with a jump a step 12 x 2 tiles ran at 102 or at 131 GFLOP/s.
///
/// # Safety
/// All of these are valid for reading: `k` inputs of each row, 16 weights at each step of each panel.
#[cfg_attr(not(unoptimised), inline(always))]
pub(crate) unsafe fn tile<S: Simd, W: Weight, const M: usize, const P: usize>(
    s: S,
    k: usize,
    rows: Rows,
    (w, panel, step): (*const W, usize, usize),
    ahead: Ahead,
    mut acc: [[S::F; P]; M],
) -> [[S::F; P]; M] {
    let mut from = 0;
    // SAFETY: from < k, m < M, p < P: within what the caller vouches for.
    unsafe {
        while from + STEPS <= k {
            match ahead {
                Ahead::Nothing => {}
                Ahead::Each { bytes, apart } => {
                    unrolled!(P of 4, p => {
                        let read = w.wrapping_add(from * step).wrapping_byte_add(bytes.wrapping_add(p.wrapping_mul(apart)));
                        unrolled!(STEPS of 4, i => {
                            // Of 16 bits each line twice: once a line the LM head of F took 40 ms instead of 32 (Zen 4).
                            s.prefetch(read.wrapping_add(i * step).cast());
                        });
                    });
                }
            }
            unrolled!(STEPS of 4, i => { acc = one_step::<S, W, M, P>(s, from + i, rows, (w, panel, step), acc); });
            from += STEPS;
        }
        while from < k {
            acc = one_step::<S, W, M, P>(s, from, rows, (w, panel, step), acc);
            from += 1;
        }
    }
    acc
}

/// What [`tile`] asks the caches for while it computes. How many lines is known to the compiler: a number that is found out for each tile
/// took 3 to 15 % more instructions.
#[derive(Clone, Copy)]
pub(crate) enum Ahead {
    /// One or two rows of a product read as fast as the processor's own prefetching brings.
    Nothing,
    /// For every register that is read another one: with those of the first panel what lies so many `bytes` behind them, or before
    /// them (the sum wraps), and with those of each further panel what lies so many bytes `apart` from what the panel before asks for.
    ///
    /// With all lines of the panels that come next instead of a quarter of one F of the tiny shape took 79 ms instead of 112, with AVX2 76
    /// instead of 117, and the layers of E 144 instead of 154 (Zen 4, one thread, medians in turn). Further tiles of the same panels
    /// ask again, which costs nothing that was seen, unless something is upcoming: [`in_turn`].
    Each { bytes: usize, apart: usize },
}

/// Steps of [`tile`] that are written out.
const STEPS: usize = 4;
/// Step k of [`tile`].
///
/// # Safety
/// As [`tile`], for this k.
#[inline(always)]
unsafe fn one_step<S: Simd, W: Weight, const M: usize, const P: usize>(
    s: S,
    k: usize,
    rows: Rows,
    (w, panel, step): (*const W, usize, usize),
    mut acc: [[S::F; P]; M],
) -> [[S::F; P]; M] {
    let mut weights = [s.splat(0.0); P];
    // SAFETY: m < M, p < P: within what the caller vouches for.
    unsafe {
        unrolled!(P of 4, p => { weights[p] = W::load(s, w.add(p * panel + k * step)); });
        unrolled!(M, m => {
            let x = s.splat(rows.get(k, m));
            unrolled!(P of 4, p => { acc[m][p] = s.mul_add(x, weights[p], acc[m][p]); });
        });
    }
    acc
}

/// What becomes of a finished sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    /// out = sum
    Store,
    /// out += sum: the residual connection.
    Add,
    /// out = max(sum, 0)
    Relu,
}

/// The operands of a product; see [`matmul`].
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    /// Inputs [m, lda], row-major; the first k of each row count.
    pub a: &'a [f32],
    /// Row stride of `a`, at least k.
    pub lda: usize,
    /// Rows.
    pub m: usize,
    /// Weights [n, k].
    pub w: Panels<'a>,
    /// What becomes of the sums.
    pub epilogue: Epilogue,
}

/// Inputs of a block, where a row has more: the weights of a block stay in the L1 cache while the rows pass.
///
/// Sums wait in f32 between blocks, which changes no bit. Without blocks 128 x 512 x 2048 reached 87 % of the FMA peak.
const BLOCK_K: usize = 512;
/// Rows whose inputs are read as they lie: so few that laying them out would cost more than it gains.
const FEW: usize = 2;
/// Rows that wait together between blocks of k.
const WAITING: usize = 96;
/// Rows of a tile of one panel where tiles have two.
const LONE_ROWS: usize = 4;
/// Panels of the widest tile of many rows.
const WIDEST: usize = 2;

/// Multiply-adds from which a product is worth a region of several threads.
const PARALLEL: usize = 48 * 1024;
/// Floats of inputs that a block of rows may have: it stays in the L2 cache beside the panels.
const BLOCK_FLOATS: usize = 128 * 1024;

/// `out[m][n] = epilogue(sum over k of a[m][k] w[n][k])`.
///
/// `out` is [m, ldo] row-major; `padded(n)` columns of each row are written, those past n with what zero weights give.
///
/// # Panics
/// Where a stride or a length does not fit.
pub fn matmul(isa: Isa, team: &Team, p: Product<'_>, out: &mut [f32], ldo: usize) {
    matmul_asking_for(isa, team, p, None, out, ldo);
}

/// [`matmul`], which asks the caches for what is upcoming as well, for who comes next, and uses it up. Only tiles of two panels do, where
/// several read the same panels: AVX-512, more than 12 rows, weights that are not int8.
///
/// # Panics
/// As [`matmul`].
pub fn matmul_asking_for(
    isa: Isa,
    team: &Team,
    p: Product<'_>,
    upcoming: Option<&Upcoming>,
    out: &mut [f32],
    ldo: usize,
) {
    let Product { a, lda, m, w, .. } = p;
    if m == 0 || w.n == 0 {
        return;
    }
    let panels = w.n.div_ceil(LANES);
    let reach = |stride: usize, width: usize| (m - 1).saturating_mul(stride).saturating_add(width);
    assert!(lda >= w.k && a.len() >= reach(lda, w.k), "inputs: {} floats for {m} rows of {}", a.len(), w.k);
    assert!(ldo >= panels * LANES && out.len() >= reach(ldo, panels * LANES), "outputs: {} floats", out.len());
    if let Storage::Int8(panels, digits) = w.data {
        return int8::product(isa, team, p, (panels, digits), out, ldo);
    }
    let out = Out { to: out.as_mut_ptr(), stride: ldo };
    if m <= FEW {
        return blocks(isa, team, Block { p, interleaved: None, upcoming, out, rows: 0..m, panels: 0..panels });
    }
    INPUTS.with_borrow_mut(|inputs| {
        let floats = inputs::floats(m, w.k);
        if inputs.len() < floats {
            inputs.resize(floats, 0.0);
        }
        let inputs = &mut inputs[..floats];
        interleave(isa, team, a, (m, lda), w.k, inputs);
        blocks(isa, team, Block { p, interleaved: Some(inputs), upcoming, out, rows: 0..m, panels: 0..panels });
    });
}

/// The blocks of a product, one after the other or on several threads.
fn blocks(isa: Isa, team: &Team, whole: Block<'_>) {
    let (m, w, panels) = (whole.p.m, whole.p.w, whole.panels.len());
    let row_block = (BLOCK_FLOATS / w.k.max(1)).clamp(48, 1024) / inputs::ROWS * inputs::ROWS;
    let row_blocks = m.div_ceil(row_block);
    let run = |part: Block<'_>| match w.data {
        // All rows pass while panels are turned.
        Storage::Rows(rows) => in_place::run(isa, part, rows, row_blocks),
        _ => isa.run(part),
    };
    let row_chunks = if matches!(w.data, Storage::Rows(_)) { 1 } else { row_blocks };
    if team.threads() == 1 || m * panels * LANES * w.k < PARALLEL {
        for i in 0..row_chunks {
            run(whole.part(i, row_chunks, 0, 1));
        }
        return;
    }
    // Enough chunks that a late or slow worker leaves little to wait for, of at least 4 panels each.
    let panel_chunks =
        (4 * team.threads()).div_ceil(row_chunks).min(panels.div_ceil(4)).clamp(1, MAX_CHUNKS / row_chunks.max(1));
    team.run(row_chunks * panel_chunks, |_, chunk| {
        run(whole.part(chunk / panel_chunks, row_chunks, chunk % panel_chunks, panel_chunks));
    });
}

thread_local! {
    /// Interleaved inputs, kept from call to call.
    static INPUTS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

#[derive(Clone, Copy)]
struct Out {
    to: *mut f32,
    stride: usize,
}

// SAFETY: the chunks of `matmul` write disjoint parts of an exclusively borrowed slice.
unsafe impl Sync for Out {}

/// A part of a product: some rows, some panels.
#[derive(Clone)]
pub(super) struct Block<'a> {
    pub(super) p: Product<'a>,
    /// The inputs of more than [`FEW`] rows.
    interleaved: Option<&'a [f32]>,
    upcoming: Option<&'a Upcoming>,
    out: Out,
    rows: Range<usize>,
    pub(super) panels: Range<usize>,
}

impl<'a> Block<'a> {
    /// The panels from `first` on, which `w` holds.
    pub(super) fn of_panels<'b>(&'b self, first: usize, w: Panels<'b>) -> Block<'b> {
        let out = Out { to: self.out.to.wrapping_add(first * LANES), ..self.out };
        Block { p: Product { w, ..self.p }, out, panels: 0..w.n / LANES, ..self.clone() }
    }

    /// Part (i, j) of `rows` by `panels` parts; the parts are disjoint and together the whole.
    pub(super) fn part(&self, i: usize, rows: usize, j: usize, panels: usize) -> Self {
        // Panels are dealt out in fours, so that a matrix-vector product runs whole groups.
        let fours = self.panels.len().div_ceil(4);
        let tiles = self.rows.end.div_ceil(inputs::ROWS);
        let cut = |i, parts, whole: usize| i * whole / parts;
        Block {
            rows: inputs::ROWS * cut(i, rows, tiles)..(inputs::ROWS * cut(i + 1, rows, tiles)).min(self.rows.end),
            panels: 4 * cut(j, panels, fours)..(4 * cut(j + 1, panels, fours)).min(self.panels.end),
            ..self.clone()
        }
    }
}

impl Kernel for Block<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.p.w.data {
            Storage::F32(w) => block(s, &self, w),
            Storage::Bf16(w) => block(s, &self, w),
            Storage::F16(w) => block(s, &self, w),
            Storage::I16(w) => block(s, &self, w),
            Storage::Int8(..) | Storage::Rows(..) => {} // `matmul` and `blocks` send them elsewhere
        }
    }
}

#[inline(always)]
fn block<S: Simd, W: Weight>(s: S, b: &Block<'_>, w: &[W]) {
    let rows = b.rows.len();
    const { assert!(inputs::ROWS.is_multiple_of(S::ROWS) && S::ROWS.is_multiple_of(S::TOGETHER)) };
    const { assert!(S::PANELS == 1 || LONE_ROWS.is_multiple_of(S::TOGETHER)) };
    let (tallest, wide) = match (b.interleaved, rows) {
        (None, 1) => (1, 4),
        (None, _) => (2, 2),
        (Some(_), _) => (S::ROWS, S::PANELS),
    };
    let wide = wide.min(S::WIDEST);
    let k = b.p.w.k;
    let in_blocks = tallest > 2 && k > BLOCK_K;
    let mut waiting = [const { MaybeUninit::<[f32; WIDEST * LANES]>::uninit() }; WAITING];
    let mut panel = b.panels.start;
    while panel < b.panels.end {
        let left = b.panels.end - panel;
        let group = if left >= wide {
            wide
        } else if left >= 2 && wide >= 2 {
            2
        } else {
            1
        };
        // A lone last panel goes through lower tiles: tiles are code.
        let tallest = if group < S::PANELS { tallest.min(LONE_ROWS) } else { tallest };
        let many = if in_blocks { WAITING / tallest * tallest } else { rows };
        let mut first = b.rows.start;
        while first < b.rows.end {
            let last = (first + many).min(b.rows.end);
            let mut from = 0;
            while from < k || from == 0 {
                // The last block takes what is left, up to one and a half.
                let to = if in_blocks && k - from > BLOCK_K * 3 / 2 { from + BLOCK_K } else { k };
                let mut row = first;
                while row < last {
                    let m = height::<S>(tallest, last - row);
                    // What is read next: the next inputs, or the next panels.
                    let line = LANES * size_of::<W>();
                    let bytes = line * if to < k { to - from } else { group * k - from };
                    let mut ahead = Ahead::Each { bytes, apart: k * line };
                    if let Some(upcoming) = b.upcoming
                        && group == 2
                        && last - first > tallest
                        && let Some(address) = upcoming.take((to - from) * line / LINE)
                    {
                        let read = w.as_ptr().wrapping_add((panel * k + from) * LANES).addr();
                        let tile = (row - first).div_ceil(tallest);
                        ahead = in_turn(tile, (bytes, k * line), address.wrapping_sub(read));
                    }
                    let waiting = if in_blocks { &mut waiting[row - first..] } else { &mut [][..] };
                    let at = At { row, m, panel, from, to, waiting, ahead };
                    // SAFETY: `matmul` checked that every row below m and every panel below n / 16 lies within the slices.
                    unsafe {
                        match group {
                            4 => at.tile::<S, W, 1, 4>(s, b, w),
                            2 => at.rows::<S, W, 2>(s, b, w),
                            _ => at.rows::<S, W, 1>(s, b, w),
                        }
                    }
                    row += m;
                }
                from = to.max(1);
            }
            first = last;
        }
        panel += group;
    }
}

/// What one of several tiles of the same two panels asks for, where something is `upcoming`, so many bytes from what the tile reads.
/// All of them would ask for all that is read next, which lies `bytes` behind, a panel `apart` from the other; instead each does for
/// one panel, and for what is upcoming at the place of the other.
///
/// Layers of E 63.0 to 57.7 ms on two threads, 116 to 107 on one (Zen 4, medians in turn). A further
/// prefetch a step instead gave as much, but took 2 to 4 % of all other products. Tiles of one panel, all but the first of which
/// asked for nothing but what is upcoming, gave nothing (AVX2).
fn in_turn(tile: usize, (bytes, apart): (usize, usize), upcoming: usize) -> Ahead {
    let bytes = bytes + tile % 2 * apart;
    Ahead::Each { bytes, apart: upcoming.wrapping_sub(bytes) }
}

/// Rows of the next tile. A last tile of few rows would have too few chains to keep the multipliers busy: it gets some of those of the
/// tile before it. Of 8 and 8 rows instead of 12 and 4 products of 16 rows run at 93 % of the FMA peak instead of 88, of 64 rows at 96
/// instead of 95 (1,024 outputs of 256 inputs, AVX-512, Zen 5).
pub(crate) fn height<S: Simd>(tallest: usize, left: usize) -> usize {
    let over = left.saturating_sub(tallest);
    let shared = over > 0 && 3 * over <= tallest;
    let rows = if shared { left.div_ceil(2) } else { tallest };
    rows.next_multiple_of(S::TOGETHER).min(left)
}

/// Where a tile is: its first row, how many rows it writes, its first panel, its inputs `from..to`, the sums of earlier
/// inputs, a row each (written by the tile of the same rows and panels that ended at `from`), and what it asks for.
struct At<'a> {
    row: usize,
    m: usize,
    panel: usize,
    from: usize,
    to: usize,
    waiting: &'a mut [MaybeUninit<[f32; WIDEST * LANES]>],
    ahead: Ahead,
}

impl At<'_> {
    /// Tiles are code: heights between these, and one or two rows of many, compute some of the rows that fill up the inputs as well.
    ///
    /// # Safety
    /// Rows `row..row + m` and panels `panel..panel + P` lie within the operands.
    #[inline(always)]
    unsafe fn rows<S: Simd, W: Weight, const P: usize>(self, s: S, b: &Block<'_>, w: &[W]) {
        // SAFETY: as the caller's.
        unsafe {
            match self.m {
                1 if b.interleaved.is_none() => self.tile::<S, W, 1, P>(s, b, w),
                1 | 2 if b.interleaved.is_none() || S::ROWS <= FEW => self.tile::<S, W, 2, P>(s, b, w),
                // One or two of many take as long as four: each sum waits for itself.
                1..=4 => self.tile::<S, W, 4, P>(s, b, w),
                5 | 6 => self.tile::<S, W, 6, P>(s, b, w),
                7 | 8 => self.tile::<S, W, 8, P>(s, b, w),
                _ => self.tile::<S, W, 12, P>(s, b, w),
            }
        }
    }

    /// # Safety
    /// Rows `row..row + m`, of which a tile of M has at least one, and panels `panel..panel + P` lie within the operands.
    #[cfg_attr(not(unoptimised), inline(always))]
    unsafe fn tile<S: Simd, W: Weight, const M: usize, const P: usize>(self, s: S, b: &Block<'_>, w: &[W]) {
        let never = M > S::ROWS
            || P > S::WIDEST
            || (P == 1 && S::PANELS > 1 && M > LONE_ROWS)
            || (P == 2 && S::PANELS < 2 && M > FEW);
        if never {
            return; // `block` does not ask for such tiles; here so that no code is made for them
        }
        let At { row, m: rows, panel, from, to, waiting, ahead } = self;
        let k = b.p.w.k;
        let mut sums = [[s.splat(0.0); P]; M];
        // Tiles of interleaved inputs begin with a group of `TOGETHER` rows (asserted in `block`) and compute rows that are not there only
        // at the end, which whole groups of `inputs::ROWS` fill up.
        // SAFETY: the caller vouches for the rows and panels, `matmul` for the slices that hold them, and for rows that are not there as
        // above. A waiting row has room for the widest tile that waits, WIDEST panels, there are as many as a tile has rows, and they were
        // written by the block of inputs before this one.
        unsafe {
            if from > 0 {
                unrolled!(M, m => {
                    let waiting = waiting[m].as_ptr().cast::<f32>();
                    unrolled!(P of 4, p => { sums[m][p] = s.load(waiting.add(p * LANES)); });
                });
            }
            let w = (w.as_ptr().add((panel * k + from) * LANES), k * LANES, LANES);
            // Where the rows lie is known to the compiler, and so their distances.
            let sums = match b.interleaved {
                Some(a) if M > FEW || S::ROWS <= FEW => {
                    let a = Rows::interleaved::<S>(a.as_ptr(), k, row, from);
                    tile::<S, W, M, P>(s, to - from, a, w, ahead, sums)
                }
                None if M <= FEW => {
                    let a = Rows::apart(b.p.a.as_ptr().add(row * b.p.lda + from), b.p.lda);
                    tile::<S, W, M, P>(s, to - from, a, w, Ahead::Nothing, sums)
                }
                _ => unreachable!("{M} rows in another form"),
            };
            if to < k {
                unrolled!(M, m => {
                    let waiting = waiting[m].as_mut_ptr().cast::<f32>();
                    unrolled!(P of 4, p => { s.store(waiting.add(p * LANES), sums[m][p]); });
                });
                return;
            }
            let out = b.out.to.add(row * b.out.stride + panel * LANES);
            unrolled!(M, m => {
                if m < rows {
                    unrolled!(P of 4, p => {
                        let to = out.add(m * b.out.stride + p * LANES);
                        let value = match b.p.epilogue {
                            Epilogue::Store => sums[m][p],
                            Epilogue::Add => s.add(s.load(to), sums[m][p]),
                            Epilogue::Relu => s.max(s.splat(0.0), sums[m][p]),
                        };
                        s.store(to, value);
                    });
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two tiles ask for the panels that come next, one each, and for what is upcoming beside.
    #[test]
    fn tiles_in_turn_ask_for_everything() {
        let asked = |ahead| match ahead {
            Ahead::Each { bytes, apart } => [0, 1].map(|panel: usize| bytes.wrapping_add(panel.wrapping_mul(apart))),
            Ahead::Nothing => [0; 2],
        };
        // The next panels are 3,000 and 4,000 bytes behind; what is upcoming lies before.
        let upcoming = 0usize.wrapping_sub(9000);
        assert_eq!(asked(in_turn(0, (3000, 1000), upcoming)), [3000, upcoming]);
        assert_eq!(asked(in_turn(1, (3000, 1000), 500)), [4000, 500]);
        assert_eq!(asked(in_turn(2, (3000, 1000), 700)), [3000, 700]);
    }
}
