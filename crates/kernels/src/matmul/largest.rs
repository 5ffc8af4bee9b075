//! Which output of an int8 product is the largest, for half its arithmetic and without writing it out.
//!
//! An input of two digits is x = 128 h + r with |r| <= 64. The sum over h alone gives every output within a bound on what the sum
//! over r can add, |r| |q| (Cauchy and Schwarz). The group of outputs that can reach highest is computed as [`super::matmul`]
//! computes it; then the few others that can reach higher than its largest output.

use super::int8::{
    self, BLOCK, CHUNK, Digits, Layout, ROUND, height, lines, most, nearest, panel_bytes, scale_of, store_digits, sums,
    tiles,
};
use super::panels::{Panels, Storage};
use super::product::{Epilogue, Product};
use super::tiled::ask_for;
use crate::region::{MAX_CHUNKS, Team};
use crate::simd::{Isa, Kernel, LANES, LINE, Simd, TILE, TileSums, Tiles, unrolled};
use crate::softmax::first_max;
use std::cell::RefCell;
use std::ops::Range;

/// Panels that share a bound.
const GROUP: usize = 4;

/// What [`largest`] is asked of a row, and what it found.
#[derive(Clone, Debug, Default)]
pub struct Leading {
    /// Columns that do not compete, but whose outputs are wanted; ascending.
    pub apart: Vec<u32>,
    /// The first of the largest outputs of the other columns, and the outputs of those apart: columns, ascending, with the outputs
    /// that [`super::matmul`] gives. Empty where it takes all outputs to know: numbers that are not finite, more than 2,048 inputs.
    pub outputs: Vec<(u32, f32)>,
}

thread_local! {
    /// Rounded inputs, and what no output of a group exceeds [m][groups], minus infinity where nothing is known: kept from call to call.
    static BUFFERS: RefCell<(Vec<u32>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// The first of the largest outputs of each row of a product with int8 weights; see [`Leading`]. The epilogue is not looked at.
///
/// # Panics
/// Where the weights are not int8 with two digits, there are not `m` of `rows`, or columns apart do not ascend or are not there.
pub fn largest(isa: Isa, team: &Team, p: Product<'_>, rows: &mut [Leading]) {
    let Storage::Int8(panels, Digits::Two) = p.w.data else { panic!("int8 weights and inputs of two digits") };
    assert_eq!(rows.len(), p.m);
    let (n, k) = (p.w.n, p.w.k);
    for row in rows.iter_mut() {
        assert!(row.apart.is_sorted() && row.apart.last().is_none_or(|column| (*column as usize) < n), "columns apart");
        row.outputs.clear();
    }
    if p.m == 0 || n == 0 || k.div_ceil(4) > BLOCK {
        return;
    }
    assert!(p.lda >= k && p.a.len() >= (p.m - 1) * p.lda + k, "inputs: {} floats for {} rows of {k}", p.a.len(), p.m);
    let tiles = tiles(isa, p.m, k);
    BUFFERS.with_borrow_mut(|(inputs, uppers)| {
        let inputs = lines(inputs, if tiles.is_some() { p.m.next_multiple_of(TILE) } else { p.m } * words(k));
        isa.run(Round { p: &p, tiled: tiles.is_some(), out: inputs });
        let inputs = &*inputs;
        // Outputs behind the whole groups have no bounds and are always computed.
        let groups = n / (GROUP * LANES);
        uppers.resize(p.m * groups, 0.0);
        let to = Out(uppers.as_mut_ptr());
        let scan = |of: Range<usize>| {
            let scan = Scan { p: &p, panels, inputs, groups, of, out: to };
            match tiles {
                None => isa.run(scan),
                Some(tiles) => isa.run(Tiled(scan, tiles)),
            }
        };
        let chunks = (4 * team.threads()).min(groups.div_ceil(4)).clamp(1, MAX_CHUNKS);
        let cut = |i: usize| i * groups / chunks;
        team.run(chunks, |_, i| scan(cut(i)..cut(i + 1)));
        let uppers = &*uppers;
        team.chunks_mut(rows, 1, |row, leading| {
            let (a, uppers) = (&p.a[row * p.lda..][..k], &uppers[row * groups..][..groups]);
            find(isa, Product { a, lda: k, m: 1, ..p }, panels, uppers, &mut leading[0]);
        });
    });
}

/// The leading outputs of one row, from what its whole groups do not exceed.
fn find(isa: Isa, p: Product<'_>, panels: &[u8], uppers: &[f32], leading: &mut Leading) {
    let Leading { apart, outputs } = leading;
    let (n, k, size) = (p.w.n, p.w.k, panel_bytes(p.w.k));
    let mut best: Option<(u32, f32)> = None;
    let mut compute = |group: usize| {
        let first = group * GROUP * LANES;
        let n = (n - first).min(GROUP * LANES);
        let panels = &panels[first / LANES * size..][..n.div_ceil(LANES) * size];
        let w = Panels::new(n, k, Storage::Int8(panels, Digits::Two));
        let mut values = [0.0; GROUP * LANES];
        let part = Product { w, epilogue: Epilogue::Store, ..p };
        int8::product(isa, &Team::alone(), part, (panels, Digits::Two), &mut values, GROUP * LANES);
        for (column, value) in (first as u32..).zip(&values[..n]) {
            if apart.binary_search(&column).is_ok() {
                outputs.push((column, *value));
            } else if best.is_none_or(|best| is_before((column, *value), best)) && !value.is_nan() {
                best = Some((column, *value));
            }
        }
        best.map_or(f32::NEG_INFINITY, |(_, best)| best)
    };
    let top = highest(isa, uppers, GROUP * LANES, apart);
    let mut least = top.map_or(f32::NEG_INFINITY, &mut compute);
    for group in (0..n.div_ceil(GROUP * LANES)).filter(|group| Some(*group) != top) {
        // The outputs of columns apart are wanted whatever they are.
        let is_below = |upper: &f32| *upper < least && *upper > f32::NEG_INFINITY;
        if !uppers.get(group).is_some_and(is_below) || has_some_of(group, GROUP * LANES, apart) {
            least = compute(group);
        }
    }
    match best {
        Some(best) => outputs.push(best),
        None => outputs.clear(),
    }
    outputs.sort_unstable_by_key(|(column, _)| *column);
}

/// Whether a group of `size` rows has some of those `apart`, which ascend.
fn has_some_of(group: usize, size: usize, apart: &[u32]) -> bool {
    let before = |group: usize| apart.partition_point(|row| (*row as usize) < group * size);
    !apart.is_empty() && before(group) < before(group + 1)
}

/// The group that reaches highest, of groups of `size` rows without those `apart`, whose outputs may be the highest.
pub(crate) fn highest(isa: Isa, uppers: &[f32], size: usize, apart: &[u32]) -> Option<usize> {
    if apart.is_empty() {
        return (!uppers.is_empty()).then(|| first_max(isa, uppers));
    }
    let groups = (0..uppers.len()).filter(|group| !has_some_of(*group, size, apart));
    groups.max_by(|a, b| uppers[*a].total_cmp(&uppers[*b]))
}

/// Whether an output is larger, or as large and of a lower column.
fn is_before(a: (u32, f32), b: (u32, f32)) -> bool {
    a.1 > b.1 || (a.1 == b.1 && a.0 < b.0)
}

/// Steps of inputs, and scales of weights, from which products may leave f32: nothing is said of them.
const LARGE_STEP: f32 = 1e20;
const LARGE_SCALE: f32 = 1e6;

/// Words of a rounded row: its high digits, 4 inputs a word, in whole chunks of 16, the step of these digits, and what the norm of a
/// weight's row is multiplied with for the radius of its output.
fn words(k: usize) -> usize {
    k.div_ceil(LANES) * CHUNK + 2
}

/// Rounds rows: a tile of M rows after the other, as [`Layout`] says, then M steps and M radii.
struct Round<'a> {
    p: &'a Product<'a>,
    tiled: bool,
    out: &'a mut [u32],
}

impl Kernel for Round<'_> {
    type Out = ();
    const INTEGERS: bool = true;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Product { a, lda, w, .. } = *self.p;
        let mut rows = a.chunks(lda).take(self.p.m);
        let mut rest = self.out;
        while !rest.is_empty() {
            let at = Layout::of::<S>(self.tiled, rest.len() / words(w.k), Digits::One, 1, w.k);
            let (tile, after) = rest.split_at_mut(at.rows * words(w.k));
            rest = after;
            let (tile, behind) = tile.split_at_mut(tile.len() - 2 * at.rows);
            for (row, x) in rows.by_ref().take(at.rows).enumerate() {
                let x = &x[..w.k];
                let (scale, up) = scale_of(s, x, most(Digits::Two));
                let (mut squares, mut highs) = (s.splat(0.0), s.splat(0.0));
                let (registers, last) = x.as_chunks::<LANES>();
                let mut padded = [0.0; LANES];
                padded[..last.len()].copy_from_slice(last);
                let registers = registers.iter().chain((!last.is_empty()).then_some(&padded));
                for (i, x) in registers.enumerate() {
                    let whole = nearest(s, s.load_array(x), up, most(Digits::Two));
                    let high = s.sub(s.mul_add(whole, s.splat(1.0 / 128.0), s.splat(ROUND)), s.splat(ROUND));
                    let left = s.mul_add(high, s.splat(-128.0), whole);
                    squares = s.mul_add(left, left, squares);
                    highs = s.mul_add(high, high, highs);
                    store_digits(s, high, at.signed, &mut tile[i * at.chunk + row * at.row..]);
                }
                let step = if scale < LARGE_STEP { scale } else { f32::NAN };
                // Roundings of an output and of its bounds are a few times 2^-24 of its size, at most the product of the norms.
                let reach = s.sum(squares).sqrt() + 1e-6 * 128.0 * s.sum(highs).sqrt();
                behind[row] = (128.0 * step).to_bits();
                // Above zero, which times infinity would be no number. Where the step is none, the centre of every bound is none.
                behind[at.rows + row] = (reach * 1.0002 * step).max(1e-35).to_bits();
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Out(*mut f32);

// SAFETY: the chunks of `largest` write what they find of disjoint groups of an exclusively borrowed slice.
unsafe impl Sync for Out {}

/// Some groups, all rows.
struct Scan<'a> {
    p: &'a Product<'a>,
    panels: &'a [u8],
    inputs: &'a [u32],
    groups: usize,
    of: Range<usize>,
    out: Out,
}

impl Kernel for Scan<'_> {
    type Out = ();
    const INTEGERS: bool = true;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let m = self.p.m;
        for group in self.of.clone() {
            let mut row = 0;
            while row < m {
                // SAFETY: `largest` found the rows within the inputs, which `Round` made, and gives whole groups.
                row += unsafe {
                    match height::<S>(m - row, Digits::One, self.p.w.k) {
                        8 => self.group::<S, 8, 2>(s, row, group),
                        4 => self.group::<S, 4, 1>(s, row, group),
                        2 => self.group::<S, 2, 1>(s, row, group),
                        _ => self.group::<S, 1, 1>(s, row, group),
                    }
                };
            }
        }
    }
}

impl Scan<'_> {
    /// Returns M.
    ///
    /// # Safety
    /// Rows `row..row + M` and the panels of `group` are there.
    #[cfg_attr(not(unoptimised), inline(always))]
    unsafe fn group<S: Simd, const M: usize, const P: usize>(&self, s: S, row: usize, group: usize) -> usize {
        if (M > 1 && S::WIDEST < 4) || (M == 8 && S::PANELS < 2) {
            return M; // never asked for; no code is made for it
        }
        let k = self.p.w.k;
        let (fours, size) = (k.div_ceil(4), panel_bytes(k));
        let mut uppers = [s.splat(f32::NEG_INFINITY); M];
        // SAFETY: a panel is `size` bytes: groups of 64, the sums, the scales and the norms; a tile of the inputs is M rows of
        // `words`, the last two of each the steps and the radii.
        unsafe {
            let x = self.inputs.as_ptr().add(row * words(k));
            let steps = x.add(M * (words(k) - 2)).cast::<f32>();
            for panel in (group * GROUP..(group + 1) * GROUP).step_by(P) {
                let w = self.panels.as_ptr().add(panel * size).cast::<i8>();
                // Tiles in turn ask for a part of the next group each, those of one row or two for all of it, or nothing. An address
                // only: it may lie behind the last one.
                let part = (row / M * GROUP + panel % GROUP) / P * (fours / CHUNK) * LINE;
                let ahead = match M {
                    1 | 2 => S::LONE_ASK.then(|| (w.wrapping_add(GROUP * size), CHUNK)),
                    _ => Some((w.wrapping_add((GROUP - panel % GROUP) * size + part), 1)),
                };
                let sums = sums::<S, M, P, 1>(s, (x, w), size, 0..fours, ahead, false);
                let mut sizes = [[s.splat(0.0); 2]; P];
                unrolled!(P of 4, p => { sizes[p] = sizes_of(s, w.add(p * size + fours * 4 * LANES)); });
                unrolled!(M, m => {
                    let row = [s.splat(*steps.add(m)), s.splat(*steps.add(M + m))];
                    unrolled!(P of 4, p => {
                        let behind = w.add(p * size + fours * 4 * LANES);
                        let dot = s.int_to_f32(s.int_signed(sums[m][p][0], behind.cast()));
                        uppers[m] = raised(s, uppers[m], dot, sizes[p], row);
                    });
                });
            }
            unrolled!(M, m => {
                *self.out.0.add((row + m) * self.groups + group) = s.max_lane(uppers[m]);
            });
        }
        M
    }
}

/// The scales of a panel's 16 rows, and each times its norm, from what stands behind its weights.
///
/// # Safety
/// They are there: the sums of one block, the scales and the norms.
#[inline(always)]
unsafe fn sizes_of<S: Simd>(s: S, behind: *const i8) -> [S::F; 2] {
    // SAFETY: as the caller's.
    let [scale, norm] =
        unsafe { [s.load(behind.cast::<f32>().add(LANES)), s.load(behind.cast::<f32>().add(2 * LANES))] };
    // What is too large, or not a number, can be the largest, for all that is known here.
    let large = s.splat(LARGE_SCALE);
    [
        s.select_lt(scale, large, scale, s.splat(0.0)),
        s.select_lt(scale, large, s.mul(scale, norm), s.splat(f32::INFINITY)),
    ]
}

/// What no output of a lane exceeds, with one more output: its sum, the scale and size of its weights, and the step and radius of
/// its row.
#[inline(always)]
fn raised<S: Simd>(s: S, upper: S::F, dot: S::F, [scale, size]: [S::F; 2], [step, radius]: [S::F; 2]) -> S::F {
    let radius = s.mul_add(size, radius, s.splat(1e-30));
    // A row whose step is not a number leaves minus infinity: every group can have its largest.
    s.max(s.mul_add(dot, s.mul(scale, step), radius), upper)
}

/// A scan by [`Tiles`]: 32 rows and a group at a time, the same sums.
struct Tiled<'a>(Scan<'a>, Tiles);

impl Kernel for Tiled<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if !S::TILES {
            return; // never asked for; no code is made for it
        }
        let Tiled(Scan { p: Product { m, w, .. }, panels, inputs, groups, of, out }, tiles) = self;
        let (fours, size, tile) = (w.k / 4, panel_bytes(w.k), TILE * words(w.k));
        // SAFETY: no other of this thread's kernels runs meanwhile.
        let tiles = unsafe { tiles.products() };
        let mut sums = [TileSums::ZERO; GROUP / 2];
        for group in of {
            for first in (0..*m).step_by(2 * TILE) {
                let rows = (m - first).min(2 * TILE);
                // SAFETY: `largest` found the rows within the inputs, of which `Round` made whole tiles of `tile` words, the steps
                // and the radii last, and gives whole groups; a panel is as `Scan` says.
                unsafe {
                    let w = panels.as_ptr().add(group * GROUP * size).cast::<i8>();
                    let x = inputs.as_ptr().add(first / TILE * tile);
                    let second = (rows > TILE).then(|| x.add(tile).cast());
                    let mut sizes = [[s.splat(0.0); 2]; GROUP];
                    for (pair, sums) in sums.iter_mut().enumerate() {
                        let w = w.add(2 * pair * size);
                        tiles.sums((x.cast(), second), fours * 4, [w, w.add(size)], fours / TILE, sums);
                    }
                    unrolled!(GROUP of 4, p => { sizes[p] = sizes_of(s, w.add(p * size + fours * 4 * LANES)); });
                    for row in 0..rows {
                        ask_for(s, w.wrapping_add(GROUP * size), GROUP * size, first + row, *m);
                        let steps = x.add(row / TILE * tile + tile - 2 * TILE + row % TILE).cast::<f32>();
                        let of_row = [s.splat(*steps), s.splat(*steps.add(TILE))];
                        let mut uppers = s.splat(f32::NEG_INFINITY);
                        unrolled!(GROUP of 4, p => {
                            let dot = s.int_to_f32(s.int_load(sums[p / 2].of(row, p % 2)));
                            uppers = raised(s, uppers, dot, sizes[p], of_row);
                        });
                        *out.0.add((first + row) * groups + group) = s.max_lane(uppers);
                    }
                }
            }
        }
    }
}
