//! Several queries of one sequence, which all see the same keys.
//!
//! ```text
//! for a head:
//!     for a block of keys, for a tile of queries:    scores
//!     softmax, a query
//!     for a block of keys, for a tile of queries:    weighted sums, which wait from block to block
//! ```
//!
//! Measured on a Zen 4 (AVX-512, one thread, GFLOP/s of attention alone, medians in turn with a tile of queries that goes through
//! all keys before the next one): blocks of keys took 4 heads from 66 to 80 at 1,024 keys and from 56 to 75 at 2,048, and cost
//! nothing at 128 to 512. Queries laid out as the inputs of a product are took 16 heads, whose rows of queries, keys and values
//! are 12 KB apart and so evict one another, from 68 to 87 at 128 keys; 4 heads lose 2 to 5 % at 64 to 256. Scores laid out so,
//! too, cost 4 % more than they gave, and values copied to one place 2 to 5 %.

use super::{Keys, Part};
use crate::matmul::{Ahead, INPUT_ROWS, Interleave, Rows, Weight, height, tile};
use crate::simd::{Kernel, LANES, Simd, padded, unrolled};
use crate::softmax::softmax;
use std::ops::Range;

/// Keys of a block: theirs of a head, and their values, stay in the caches while all queries of a part pass.
const KEYS: usize = 128;
/// Queries of the lowest tile, but for the portable row's: one or two take as long, as each sum waits for itself.
const LOWEST: usize = 4;

/// All queries of a part.
///
/// # Safety
/// [`super::check`] passed, and the keys and values are W.
#[inline(always)]
pub(super) unsafe fn run<S: Simd, W: Weight>(s: S, mut part: Part<'_>) {
    let (rows, len, d_kv) = (part.rows.len(), part.a.keys.len, part.d_kv);
    let (lda, first) = (part.query_stride, part.rows.start * part.query_stride);
    const { assert!(INPUT_ROWS.is_multiple_of(S::ROWS) && S::ROWS.is_multiple_of(S::TOGETHER)) };
    // Whole tiles: those that are filled up read copies of the last query, and write where nobody looks.
    let room = rows.next_multiple_of(INPUT_ROWS);
    let stride = score_stride(len);
    let waiting = if len > KEYS { room * padded(d_kv) } else { 0 };
    part.make_room(room * (stride + d_kv) + waiting);
    let mut scratch = std::mem::take(part.scratch);
    let (scores, rest) = scratch.split_at_mut(room * stride);
    let (queries, waiting) = rest.split_at_mut(room * d_kv);
    for head in part.of.clone() {
        let a = &part.queries[first + head * padded(d_kv)..];
        let out = &mut queries[..rows.next_multiple_of(LOWEST) * d_kv];
        Interleave { a, lda, first: 0, last: rows - 1, k: d_kv, out }.run(s);
        for what in [What::Scores, What::Sums] {
            for from in (0..len).step_by(KEYS) {
                let keys = from..len.min(from + KEYS);
                let mut tiles = Tiles { part: &part, head, rows, keys, scores, stride, queries, waiting };
                // SAFETY: as the caller's; the buffers have room for whole tiles of all rows.
                unsafe { tiles.run::<S, W>(s, what) };
            }
            if let What::Scores = what {
                for scores in scores[..rows * stride].chunks_exact_mut(stride) {
                    softmax(s, &mut scores[..padded(len)], len);
                }
            }
        }
    }
    *part.scratch = scratch;
}

/// Floats from a query's scores to the next one's: not a multiple of 2 KB, whose lines evict one another.
fn score_stride(len: usize) -> usize {
    let stride = padded(len);
    if stride.is_multiple_of(512) { stride + LANES } else { stride }
}

/// What is computed of a block of keys.
#[derive(Clone, Copy)]
enum What {
    Scores,
    Sums,
}

/// All queries of a part, of one head, and a block of its keys.
struct Tiles<'a, 'b> {
    part: &'a Part<'b>,
    head: usize,
    rows: usize,
    /// Which keys: from a panel on.
    keys: Range<usize>,
    /// [rows, stride]; behind the softmax what it made of them.
    scores: &'a mut [f32],
    stride: usize,
    /// Laid out.
    queries: &'a [f32],
    /// The sums over the keys before these [rows, padded(d_kv)].
    waiting: &'a mut [f32],
}

impl Tiles<'_, '_> {
    /// # Safety
    /// [`super::check`] passed, and the keys and values are W; the buffers have room for whole tiles.
    #[inline(always)]
    unsafe fn run<S: Simd, W: Weight>(&mut self, s: S, what: What) {
        let mut row = 0;
        while row < self.rows {
            let m = height::<S>(S::ROWS, self.rows - row);
            // SAFETY: as the caller's; the rows are the part's.
            unsafe {
                match m {
                    _ if S::ROWS < 4 => self.tile::<S, W, 2, 1>(s, row, m, what),
                    1..=LOWEST if S::PANELS < 2 => self.tile::<S, W, 4, 1>(s, row, m, what),
                    _ if S::PANELS < 2 => self.tile::<S, W, 6, 1>(s, row, m, what),
                    1..=LOWEST => self.tile::<S, W, 4, 2>(s, row, m, what),
                    5..=8 => self.tile::<S, W, 8, 2>(s, row, m, what),
                    _ => self.tile::<S, W, 12, 2>(s, row, m, what),
                }
            }
            row += m;
        }
    }

    /// A tile of M queries, of which `m` are there.
    ///
    /// # Safety
    /// As [`Tiles::run`]; rows `row..row + m` are there.
    #[inline(always)]
    unsafe fn tile<S: Simd, W: Weight, const M: usize, const P: usize>(
        &mut self,
        s: S,
        row: usize,
        m: usize,
        what: What,
    ) {
        if P != S::PANELS || M > S::ROWS {
            return; // never asked for; no code is made for it
        }
        debug_assert!((row + M) * self.stride <= self.scores.len() && (row + M) * self.part.d_kv <= self.queries.len());
        let count = match what {
            What::Scores => self.keys.len().div_ceil(LANES),
            What::Sums => padded(self.part.d_kv) / LANES,
        };
        // SAFETY: as the caller's; so many panels of keys are there, or registers of values.
        unsafe {
            let mut panel = 0;
            while panel + P <= count {
                match what {
                    What::Scores => self.scores::<S, W, M, P>(s, row, m, panel),
                    What::Sums => self.sums::<S, W, M, P>(s, row, m, panel),
                }
                panel += P;
            }
            if panel < count {
                match what {
                    What::Scores => self.scores::<S, W, M, 1>(s, row, m, panel),
                    What::Sums => self.sums::<S, W, M, 1>(s, row, m, panel),
                }
            }
        }
    }

    /// The scores of P panels of keys.
    ///
    /// # Safety
    /// As [`Tiles::tile`]; the panels hold keys.
    #[cfg_attr(not(unoptimised), inline(always))]
    unsafe fn scores<S: Simd, W: Weight, const M: usize, const P: usize>(
        &mut self,
        s: S,
        row: usize,
        m: usize,
        panel: usize,
    ) {
        let Part { a, d_kv, rows, .. } = self.part;
        let Keys { stored, layout, .. } = a.keys;
        let (first, query) = (self.keys.start / LANES + panel, a.position + (rows.start - a.rows.start) + row);
        let mut acc = [[s.splat(0.0); P]; M];
        // SAFETY: the bias of key t and query q lies at t - q + max_len - 1, and 16 floats past the last are there. The laid out queries
        // and the scores have room for whole tiles.
        unsafe {
            if let Some(bias) = a.bias {
                let zero = self.head * bias.stride + bias.max_len - 1 + first * LANES - query;
                let zero = bias.table.as_ptr().add(zero);
                unrolled!(M, i => {
                    if i < m {
                        let bias = zero.sub(i);
                        unrolled!(P of 4, p => { acc[i][p] = s.load(bias.add(p * LANES)); });
                    }
                });
            }
            let k = stored.pointers::<W>().0.add(self.head * layout.head + first * layout.panel);
            let x = Rows::interleaved::<S>(self.queries.as_ptr(), *d_kv, row, 0);
            let sums = tile::<S, W, M, P>(s, *d_kv, x, (k, layout.panel, LANES), Ahead::Nothing, acc);
            let to = self.scores.as_mut_ptr().add(row * self.stride + first * LANES);
            unrolled!(M, i => {
                unrolled!(P of 4, p => { s.store(to.add(i * self.stride + p * LANES), sums[i][p]); });
            });
        }
    }

    /// The weighted sums of P registers of values.
    ///
    /// # Safety
    /// As [`Tiles::tile`]; the registers are a head's.
    #[cfg_attr(not(unoptimised), inline(always))]
    unsafe fn sums<S: Simd, W: Weight, const M: usize, const P: usize>(
        &mut self,
        s: S,
        row: usize,
        m: usize,
        register: usize,
    ) {
        let Part { a, d_kv, rows, heads, out, .. } = self.part;
        let Keys { stored, value_head, value_stride, len, .. } = a.keys;
        let (d_head, column, keys) = (padded(*d_kv), register * LANES, &self.keys);
        let width = heads * d_head;
        let mut acc = [[s.splat(0.0); P]; M];
        // SAFETY: these rows of values are there, each padded(d_kv) numbers; so are the rows of the output that are written. The scores, and
        // where there are other keys the sums that wait, have room for whole tiles.
        unsafe {
            let waiting = self.waiting.as_mut_ptr().wrapping_add(row * d_head + column);
            if keys.start > 0 {
                unrolled!(M, i => {
                    unrolled!(P of 4, p => { acc[i][p] = s.load(waiting.add(i * d_head + p * LANES)); });
                });
            }
            let v = stored.pointers::<W>().1.add(self.head * value_head + keys.start * value_stride + column);
            let x = Rows::apart(self.scores.as_ptr().add(row * self.stride + keys.start), self.stride);
            let sums = tile::<S, W, M, P>(s, keys.len(), x, (v, LANES, value_stride), Ahead::Nothing, acc);
            if keys.end < len {
                unrolled!(M, i => {
                    unrolled!(P of 4, p => { s.store(waiting.add(i * d_head + p * LANES), sums[i][p]); });
                });
                return;
            }
            let to = out.0.add((rows.start + row) * width + self.head * d_head + column);
            unrolled!(M, i => {
                if i < m {
                    unrolled!(P of 4, p => { s.store(to.add(i * width + p * LANES), sums[i][p]); });
                }
            });
        }
    }
}
