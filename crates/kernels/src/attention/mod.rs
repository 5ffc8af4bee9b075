//! Attention of the queries of one sequence over its keys and values: scores, softmax, weighted sum.
//!
//! ```text
//! for a head, all queries that see the same keys (`together`); for a query alone, some heads (`alone`):
//!     scores[q][t] = bias[t - q] + sum over d of query[q][d] key[t][d]     a chain from the bias, d ascending
//!     softmax over the keys that q may see
//!     out[q][d]    = sum over t of scores[q][t] value[t][d]                a chain from zero, t ascending
//! ```
//!
//! T5 does not divide scores by sqrt(d_kv). Both products are the tile of [`crate::matmul`]: keys lie in panels of 16
//! positions, values row-major. A causal query is computed alone, over exactly its own keys, so that prefill, cached steps
//! and verification of several tokens give the same bits.

mod alone;
mod keys;
mod together;

use crate::region::Team;
use crate::simd::{Isa, Kernel, LANES, Simd, padded};
use half::f16;
pub use keys::{KeyLayout, KeyStorage, Keys};
use std::cell::Cell;
use std::ops::Range;

/// The relative position bias of all heads.
#[derive(Clone, Copy, Debug)]
pub struct Bias<'a> {
    /// `[num_heads][stride]`: entry t - q + max_len - 1 for a key at t and a query at q.
    pub table: &'a [f32],
    /// Floats of a head: at least 2 max_len - 1 + 16.
    pub stride: usize,
    /// Positions that the table covers.
    pub max_len: usize,
}

/// Queries of one sequence.
#[derive(Clone, Debug)]
pub struct Attention<'a> {
    /// The rows of the query and output buffers that are this sequence's queries.
    pub rows: Range<usize>,
    /// The position of the first query.
    pub position: usize,
    /// What they look at.
    pub keys: Keys<'a>,
    /// The bias, if this attention has one.
    pub bias: Option<Bias<'a>>,
    /// A query at position p sees the keys 0..=p, instead of all.
    pub causal: bool,
}

/// The shape that all sequences of a call share.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Heads.
    pub heads: usize,
    /// Floats of a head.
    pub d_kv: usize,
}

/// Queries that a chunk of the region computes. 24 and 12, so that the scores of 4,096 and 8,192 keys stay in the L2 cache, took 4 heads
/// from 89 to 85 and from 84 to 79 GFLOP/s (AVX-512, Zen 4, one thread).
const ROWS: usize = 48;
/// Heads that a query alone goes through at a time: one has too few sums at work to keep the multipliers busy.
const SOME_HEADS: usize = 4;
/// Multiply-adds from which a call is worth a region of several threads.
const PARALLEL: usize = 96 * 1024;

/// Attention of many sequences.
///
/// `sequence(i)` gives the i-th of `count` sequences, several times; their rows ascend. `queries` is [rows, query_stride], `out`
/// [rows, num_heads * padded(d_kv)], head h at h * padded(d_kv). `scratch` has a buffer for each thread of the team, grown where it
/// is too short.
///
/// # Panics
/// Where a length does not fit, rows overlap, or a sequence that is asked for again has other rows.
#[allow(clippy::too_many_arguments)]
pub fn attention<'a>(
    isa: Isa,
    team: &Team,
    shape: Heads,
    (queries, query_stride): (&[f32], usize),
    count: usize,
    sequence: impl Fn(usize) -> Attention<'a> + Sync,
    out: &mut [f32],
    scratch: &mut [Vec<f32>],
) {
    let Heads { heads, d_kv } = shape;
    assert!(d_kv > 0, "heads of no numbers");
    let width = d_kv.checked_next_multiple_of(LANES).and_then(|d_kv| d_kv.checked_mul(heads)).expect("a row's length");
    let (floats, out_floats) = (queries.len(), out.len());
    // A sequence is asked for again where it is computed, and may have become another one.
    let mut checked = CHECKED.take();
    checked.clear();
    let (mut end, mut most, mut work) = (0, 0, 0usize);
    for i in 0..count {
        let a = sequence(i);
        check(shape, &a, floats, query_stride, out_floats);
        assert!(end <= a.rows.start && a.rows.start <= a.rows.end, "rows overlap");
        end = a.rows.end;
        most = most.max(a.rows.len());
        // `check` found both within buffers that are there, but not their product.
        work = work.saturating_add(a.rows.len().saturating_mul(a.keys.len).saturating_mul(width).saturating_mul(2));
        checked.push(a.rows);
    }
    let rows_of = &checked[..];
    let parallel = team.threads() > 1 && work >= PARALLEL;
    let row_chunks = most.div_ceil(ROWS);
    // Queries alone go through some heads at a time, but there are chunks for every thread.
    let together =
        if most > 1 || (parallel && count * heads < 2 * SOME_HEADS * team.threads()) { 1 } else { SOME_HEADS };
    let parts = heads.div_ceil(together);
    let out = Out(out.as_mut_ptr());
    let chunks = count * row_chunks * parts;
    // All queries of a head in turn, whose keys and values then stay in a core's cache: with the heads in turn 4 of them took 2,048 keys at
    // 61 GFLOP/s instead of 79, 16 at 45 instead of 78 (AVX-512, Zen 4, one thread).
    let chunk = |scratch: &mut Vec<f32>, chunk: usize| {
        let (rows, part, i) = (chunk % row_chunks, chunk / row_chunks % parts, chunk / row_chunks / parts);
        let a = sequence(i);
        check(shape, &a, floats, query_stride, out_floats);
        assert_eq!(a.rows, rows_of[i], "rows of sequence {i}");
        let first = a.rows.start + rows * ROWS;
        let rows = first..(first + ROWS).min(a.rows.end);
        if rows.is_empty() {
            return; // others have more
        }
        let next = (chunk + 1).min(chunks - 1);
        let next_head = next / row_chunks % parts * together;
        let of = part * together..((part + 1) * together).min(heads);
        let (read, next) = (a.keys.of_head(of.start), sequence(next / row_chunks / parts).keys.of_head(next_head));
        // Several queries take longer than the keys.
        let ahead = if rows.len() == 1 { [0, 1].map(|i| next[i].wrapping_sub(read[i])) } else { [0; 2] };
        compute(isa, Part { a: &a, d_kv, of, heads, rows, ahead, queries, query_stride, out: &out, scratch });
    };
    if parallel && chunks <= crate::MAX_CHUNKS {
        team.run_with(scratch, chunks, chunk);
    } else {
        (0..chunks).for_each(|i| chunk(&mut scratch[0], i));
    }
    CHECKED.set(checked);
}

thread_local! {
    /// The rows of each sequence of a call; the buffer is kept from call to call.
    static CHECKED: Cell<Vec<Range<usize>>> = const { Cell::new(Vec::new()) };
}

fn check(shape: Heads, a: &Attention<'_>, queries: usize, query_stride: usize, out: usize) {
    let Heads { heads, d_kv } = shape;
    let width = heads * padded(d_kv);
    let last = a.rows.end.saturating_sub(1).saturating_mul(query_stride);
    assert!(query_stride >= width && queries >= last.saturating_add(width), "queries");
    assert!(out >= a.rows.end.saturating_mul(width), "outputs");
    let Keys { stored, layout, value_head, value_stride, len } = a.keys;
    let (keys, values) = match stored {
        KeyStorage::F32(keys, values) => (keys.len(), values.len()),
        KeyStorage::F16(keys, values) => (keys.len(), values.len()),
    };
    let reach = |head: usize, floats: usize| heads.saturating_sub(1).saturating_mul(head).saturating_add(floats);
    let last = (len.div_ceil(LANES).max(1) - 1).saturating_mul(layout.panel).saturating_add(d_kv * LANES);
    assert!(len > 0 && keys >= reach(layout.head, last), "keys");
    let last = (len - 1).saturating_mul(value_stride).saturating_add(padded(d_kv));
    assert!(values >= reach(value_head, last), "values");
    let end = a.position.saturating_add(a.rows.len());
    assert!(!a.causal || a.keys.len >= end, "a causal query needs its own key");
    if let Some(bias) = a.bias {
        assert!(bias.max_len >= end.max(a.keys.len), "bias covers {} positions", bias.max_len);
        let entries = bias.max_len.saturating_mul(2).saturating_add(LANES - 1);
        assert!(bias.stride >= entries && bias.table.len() >= heads.saturating_mul(bias.stride), "bias");
    }
}

struct Out(*mut f32);

// SAFETY: the chunks of `attention` write disjoint (rows, heads) parts of an exclusively borrowed slice: it found that the rows of
// sequences do not overlap, and that those of a chunk are the ones it found.
unsafe impl Sync for Out {}

/// Runs the kernel. [`attention`] is generic, and so compiled in the crate of its caller, with that crate's settings: here the
/// kernel is compiled as all kernels are. Where a caller was built for size, it ran at half the speed.
#[inline(never)]
fn compute(isa: Isa, part: Part<'_>) {
    isa.run(part);
}

/// Some heads of some queries of one sequence.
struct Part<'a> {
    a: &'a Attention<'a>,
    d_kv: usize,
    of: Range<usize>,
    /// All heads.
    heads: usize,
    rows: Range<usize>,
    /// Bytes from these keys, and these values, to those that a query alone looks at next; 0: nothing is asked for.
    ahead: [usize; 2],
    queries: &'a [f32],
    query_stride: usize,
    out: &'a Out,
    /// Kept from call to call.
    scratch: &'a mut Vec<f32>,
}

impl Part<'_> {
    /// Gives the scratch `len` floats at least.
    fn make_room(&mut self, len: usize) {
        if self.scratch.len() < len {
            self.scratch.resize(len, 0.0);
        }
    }
}

impl Kernel for Part<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: the chunk called `check` for this very sequence, and the types are those of the numbers.
        unsafe {
            match (self.a.keys.stored, self.a.causal || self.rows.len() == 1) {
                (KeyStorage::F32(..), true) => alone::run::<S, f32>(s, self),
                (KeyStorage::F32(..), false) => together::run::<S, f32>(s, self),
                (KeyStorage::F16(..), true) => alone::run::<S, f16>(s, self),
                (KeyStorage::F16(..), false) => together::run::<S, f16>(s, self),
            }
        }
    }
}
