//! Attention of the queries of one sequence over its keys and values: scores, softmax, weighted sum.
//!
//! ```text
//! for a head, for a tile of queries; for a query alone, for some heads:
//!     scores[q][t] = bias[t - q] + sum over d of query[q][d] key[t][d]     a chain from the bias, d ascending
//!     softmax over the keys that q may see
//!     out[q][d]    = sum over t of scores[q][t] value[t][d]                a chain from zero, t ascending
//! ```
//!
//! T5 does not divide scores by sqrt(d_kv). Both products are the tile of [`crate::matmul`]: keys lie in panels of 16
//! positions, values row-major. A causal query is computed alone, over exactly its own keys, so that prefill, cached steps
//! and verification of several tokens give the same bits.

use crate::elementwise::to_f16;
use crate::matmul::{Ahead, Rows, Turn, Weight, tile};
use crate::region::Team;
use crate::simd::{Isa, Kernel, LANES, Simd, padded, unrolled};
use crate::softmax::softmax;
use half::f16;
use std::ops::Range;

/// The keys and values of one sequence, all heads.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a> {
    /// The numbers.
    pub stored: KeyStorage<'a>,
    /// Where the keys of a head and a panel are.
    pub layout: KeyLayout,
    /// Numbers from a head's values to the next one's.
    pub value_head: usize,
    /// Numbers from a position's values to the next one's.
    pub value_stride: usize,
    /// Positions.
    pub len: usize,
}

/// How the panels of keys lie, each `[d_kv][16]`: the keys of one head at 16 positions.
#[derive(Clone, Copy, Debug)]
pub struct KeyLayout {
    /// Numbers from a head's panel to the next head's.
    pub head: usize,
    /// Numbers from a panel to the next one of its head.
    pub panel: usize,
}

impl KeyLayout {
    /// A head's panels together, with room for `len` positions: one stream for who reads a head.
    #[must_use]
    pub fn by_head(shape: Heads, len: usize) -> KeyLayout {
        KeyLayout { head: padded(len) * shape.d_kv, panel: LANES * shape.d_kv }
    }

    /// All heads of 16 positions together: a range of positions is a range of numbers.
    #[must_use]
    pub fn by_position(shape: Heads) -> KeyLayout {
        KeyLayout { head: LANES * shape.d_kv, panel: LANES * shape.d_kv * shape.heads }
    }
}

/// Keys and values. A head's keys are panels, see [`KeyLayout`] and [`Keys::write`]; its values `[positions, value_stride]`, of
/// which the first d_kv are the values and up to padded(d_kv) are there.
#[derive(Clone, Copy, Debug)]
pub enum KeyStorage<'a> {
    /// f32
    F32(&'a [f32], &'a [f32]),
    /// IEEE half precision: half the bytes, which many sequences together wait for. Not exact, see [`crate::to_f16`].
    F16(&'a [f16], &'a [f16]),
}

impl KeyStorage<'_> {
    /// Where the keys and the values are.
    #[inline(always)]
    fn pointers<W>(self) -> (*const W, *const W) {
        match self {
            KeyStorage::F32(keys, values) => (keys.as_ptr().cast(), values.as_ptr().cast()),
            KeyStorage::F16(keys, values) => (keys.as_ptr().cast(), values.as_ptr().cast()),
        }
    }
}

impl Keys<'_> {
    /// Where the keys and the values of a head begin.
    fn of_head(&self, head: usize) -> [usize; 2] {
        let (keys, values) = self.stored.pointers::<u8>();
        let size = match self.stored {
            KeyStorage::F32(..) => size_of::<f32>(),
            KeyStorage::F16(..) => size_of::<f16>(),
        };
        [keys.addr() + head * self.layout.head * size, values.addr() + head * self.value_head * size]
    }

    /// Numbers that the keys of a head take for `len` positions.
    #[must_use]
    pub fn key_floats(len: usize, d_kv: usize) -> usize {
        padded(len) * d_kv
    }

    /// Writes the keys of positions `first..` into their panels.
    ///
    /// `rows` is [positions, stride]; head h of a row begins at h * padded(d_kv). `keys` must reach to the last position.
    ///
    /// # Panics
    /// Where a length does not fit.
    pub fn write(
        isa: Isa,
        keys: &mut [f32],
        shape: Heads,
        layout: KeyLayout,
        first: usize,
        rows: &[f32],
        stride: usize,
    ) {
        let d_kv = shape.d_kv;
        for part in parts(first, rows, stride) {
            for head in 0..shape.heads {
                let keys = &mut keys[head * layout.head + part.block * layout.panel..][..d_kv * LANES];
                write_panel(isa, keys, &part, head * padded(d_kv), stride, d_kv);
            }
        }
    }

    /// [`Keys::write`] in half precision, rounded as [`crate::to_f16`] does. Where the first position of a panel is among them, nothing
    /// may stand in that panel yet.
    ///
    /// # Panics
    /// Where a length does not fit.
    pub fn write_f16(
        isa: Isa,
        keys: &mut [f16],
        shape: Heads,
        layout: KeyLayout,
        first: usize,
        rows: &[f32],
        stride: usize,
    ) {
        let d_kv = shape.d_kv;
        for part in parts(first, rows, stride) {
            for head in 0..shape.heads {
                let keys = &mut keys[head * layout.head + part.block * layout.panel..];
                let (steps, _) = keys[..d_kv * LANES].as_chunks_mut::<LANES>();
                for (i, steps) in steps.chunks_mut(LANES).enumerate() {
                    let at = head * padded(d_kv) + i * LANES;
                    if part.lane == 0 {
                        let mut wide = [0.0; LANES * LANES];
                        let wide = &mut wide[..steps.len() * LANES];
                        write_panel(isa, wide, &part, at, stride, steps.len());
                        to_f16(isa, wide, steps.as_flattened_mut());
                        continue;
                    }
                    let rows = &part.rows[at..];
                    for (lane, row) in (part.lane..).zip(rows.chunks(stride)) {
                        let mut key = [f16::ZERO; LANES];
                        to_f16(isa, &row[..LANES], &mut key);
                        steps.iter_mut().zip(key).for_each(|(step, x)| step[lane] = x);
                    }
                }
            }
        }
    }
}

/// Positions that fall into one panel.
struct KeyRows<'a> {
    block: usize,
    /// The first one's lane.
    lane: usize,
    /// [positions, stride]
    rows: &'a [f32],
}

/// All rows panel by panel, so that 4 KB of a head's panel stay in the cache while 16 rows pass.
fn parts(first: usize, rows: &[f32], stride: usize) -> impl Iterator<Item = KeyRows<'_>> {
    let (mut position, mut left) = (first, rows);
    std::iter::from_fn(move || {
        let (block, lane) = (position / LANES, position % LANES);
        let count = (LANES - lane).min(left.len().div_ceil(stride));
        let (rows, after) = left.split_at(left.len().min(count * stride));
        (position, left) = (position + count, after);
        (count > 0).then_some(KeyRows { block, lane, rows })
    })
}

/// Writes the `d_kv` numbers from `at` on of each row into a panel `[d_kv][16]`.
fn write_panel(isa: Isa, panel: &mut [f32], part: &KeyRows<'_>, at: usize, stride: usize, d_kv: usize) {
    let rows = part.rows.chunks(stride).map(|row| &row[at..][..d_kv]);
    if rows.len() == LANES {
        let mut rows = rows.map(bytemuck::cast_slice);
        let rows = std::array::from_fn(|_| rows.next().unwrap_or_default());
        return isa.run(Turn { rows: &rows, panel: bytemuck::cast_slice_mut(panel) });
    }
    let (steps, _) = panel.as_chunks_mut::<LANES>();
    for (lane, key) in (part.lane..).zip(rows) {
        steps.iter_mut().zip(key).for_each(|(step, x)| step[lane] = *x);
    }
}

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

/// Queries that a chunk of the region computes.
const ROWS: usize = 48;
/// Heads that a query alone goes through at a time: one has too few sums at work to keep the multipliers busy.
const SOME_HEADS: usize = 4;
/// Multiply-adds from which a call is worth a region of several threads.
const PARALLEL: usize = 96 * 1024;

/// Attention of many sequences.
///
/// `sequence(i)` gives the i-th of `count` sequences; their rows ascend. `queries` is [rows, query_stride], `out` [rows, num_heads *
/// padded(d_kv)], head h at h * padded(d_kv). `scratch` has a buffer for each thread of the team, grown where it is too
/// short.
///
/// # Panics
/// Where a length does not fit, or rows overlap.
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
    let width = heads * padded(d_kv);
    let (mut end, mut most, mut work) = (0, 0, 0);
    for i in 0..count {
        let a = sequence(i);
        check(shape, &a, queries.len(), query_stride, out.len());
        assert!(a.rows.start >= end, "rows overlap");
        end = a.rows.end;
        most = most.max(a.rows.len());
        work += a.rows.len() * a.keys.len * width * 2;
    }
    let parallel = team.threads() > 1 && work >= PARALLEL;
    let row_chunks = most.div_ceil(ROWS);
    // Queries alone go through some heads at a time, but there are chunks for every thread.
    let together =
        if most > 1 || (parallel && count * heads < 2 * SOME_HEADS * team.threads()) { 1 } else { SOME_HEADS };
    let parts = heads.div_ceil(together);
    let out = Out(out.as_mut_ptr());
    let chunks = count * row_chunks * parts;
    let chunk = |scores: &mut Vec<f32>, chunk: usize| {
        let (part, i) = (chunk % parts, chunk / parts);
        let a = sequence(i / row_chunks);
        let first = a.rows.start + i % row_chunks * ROWS;
        let rows = first..(first + ROWS).min(a.rows.end);
        let next = (chunk + 1).min(chunks - 1);
        let next_head = next % parts * together;
        let of = part * together..((part + 1) * together).min(heads);
        let (read, next) = (a.keys.of_head(of.start), sequence(next / parts / row_chunks).keys.of_head(next_head));
        let ahead = [next[0].wrapping_sub(read[0]), next[1].wrapping_sub(read[1])];
        compute(isa, Part { a: &a, d_kv, of, heads, rows, ahead, queries, query_stride, out: &out, scores });
    };
    if parallel && chunks <= crate::MAX_CHUNKS {
        team.run_with(scratch, chunks, chunk);
    } else {
        (0..chunks).for_each(|i| chunk(&mut scratch[0], i));
    }
}

fn check(shape: Heads, a: &Attention<'_>, queries: usize, query_stride: usize, out: usize) {
    let Heads { heads, d_kv } = shape;
    let width = heads * padded(d_kv);
    assert!(query_stride >= width && queries >= a.rows.end.saturating_sub(1) * query_stride + width, "queries");
    assert!(out >= a.rows.end * width, "outputs");
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
    let end = a.position + a.rows.len();
    assert!(!a.causal || a.keys.len >= end, "a causal query needs its own key");
    if let Some(bias) = a.bias {
        assert!(bias.max_len >= end.max(a.keys.len), "bias covers {} positions", bias.max_len);
        assert!(bias.stride >= 2 * bias.max_len - 1 + LANES && bias.table.len() >= heads * bias.stride, "bias");
    }
}

struct Out(*mut f32);

// SAFETY: the chunks of `attention` write disjoint (rows, heads) parts of an exclusively borrowed slice.
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
    /// Bytes from these keys, and these values, to those that are looked at next.
    ahead: [usize; 2],
    queries: &'a [f32],
    query_stride: usize,
    out: &'a Out,
    scores: &'a mut Vec<f32>,
}

impl Kernel for Part<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: the types are those of the numbers.
        unsafe {
            match self.a.keys.stored {
                KeyStorage::F32(..) => self.tiles::<S, f32>(s),
                KeyStorage::F16(..) => self.tiles::<S, f16>(s),
            }
        }
    }
}

/// The M sums of a tile are those of M queries of a head, which share each load of keys and values, or, `HEADS`, those of M heads of a
/// query.
///
/// A query alone is done with a head's keys before they have come, where many sequences have more of them than the caches hold; while it
/// looks at them it asks for those that come next. Layers of E 161 to 139 ms, in int8 84 to 65 (Zen 4, medians in turn). Several
/// queries take longer than the keys.
impl Part<'_> {
    /// # Safety
    /// The keys and values are W.
    #[inline(always)]
    unsafe fn tiles<S: Simd, W: Weight>(mut self, s: S) {
        let (rows, heads) = (self.rows.clone(), self.of.clone());
        // SAFETY: as the caller's; `check` found every row, key, value and bias of the sequence within its slice.
        unsafe {
            if self.a.causal || rows.len() == 1 {
                for row in rows {
                    let mut head = heads.start;
                    while head < heads.end {
                        head += match heads.end - head {
                            4.. if S::WIDEST == 4 && S::PANELS == 2 => self.tile::<S, W, 4, 2, true>(s, row, head),
                            4.. if S::WIDEST == 4 => self.tile::<S, W, 4, 1, true>(s, row, head),
                            _ if S::WIDEST < 4 => self.tile::<S, W, 1, 1, false>(s, row, head),
                            _ => self.tile::<S, W, 1, 4, false>(s, row, head),
                        };
                    }
                }
                return;
            }
            for head in heads {
                let mut row = rows.start;
                while row < rows.end {
                    // Fewer heights than `matmul` has: a shorter last tile costs little here. The last of many rows are computed again
                    // rather than alone.
                    if rows.end - row < 4 && rows.len() >= 4 && S::ROWS >= 4 {
                        row = rows.end - 4;
                    }
                    row += match S::ROWS.min(rows.end - row) {
                        12.. => self.tile::<S, W, 12, 2, false>(s, row, head),
                        8..12 => self.tile::<S, W, 8, 2, false>(s, row, head),
                        6..8 if S::PANELS < 2 => self.tile::<S, W, 6, 1, false>(s, row, head),
                        4..8 if S::PANELS < 2 => self.tile::<S, W, 4, 1, false>(s, row, head),
                        4..8 => self.tile::<S, W, 4, 2, false>(s, row, head),
                        _ if S::WIDEST < 4 => self.tile::<S, W, 1, 1, false>(s, row, head),
                        _ => self.tile::<S, W, 1, 4, false>(s, row, head),
                    };
                }
            }
        }
    }

    /// Returns M.
    ///
    /// # Safety
    /// Rows `row..row + M` are this part's, or, `HEADS`, heads `head..head + M`; `check` passed, and the keys and values are W.
    #[inline(always)]
    unsafe fn tile<S: Simd, W: Weight, const M: usize, const P: usize, const HEADS: bool>(
        &mut self,
        s: S,
        row: usize,
        head: usize,
    ) -> usize {
        if P > S::WIDEST || (M > 1 && P != S::PANELS) || if HEADS { S::WIDEST < 4 } else { M > S::ROWS } {
            return M; // never asked for; no code is made for it
        }
        let query = self.a.position + (row - self.a.rows.start);
        let len = if self.a.causal { query + 1 } else { self.a.keys.len };
        let stride = padded(len);
        if self.scores.len() < M * stride {
            self.scores.resize(M * stride, 0.0);
        }
        let (panels, columns) = (stride / LANES, padded(self.d_kv) / LANES);
        let at = At { row, head, query, len, stride };
        // SAFETY: as the caller's; the tiles write M rows of `stride` scores, and M rows of this head's outputs, or a row of M heads'.
        unsafe {
            for block in (0..panels / P * P).step_by(P) {
                self.scores_at::<S, W, M, P, HEADS>(s, at, block);
            }
            for block in panels / P * P..panels {
                self.scores_at::<S, W, M, 1, HEADS>(s, at, block);
            }
            for scores in self.scores[..M * stride].chunks_exact_mut(stride) {
                softmax(s, scores, len);
            }
            for column in (0..columns / P * P).step_by(P) {
                self.sum_at::<S, W, M, P, HEADS>(s, at, column * LANES);
            }
            for column in columns / P * P..columns {
                self.sum_at::<S, W, M, 1, HEADS>(s, at, column * LANES);
            }
        }
        M
    }

    /// The scores of P panels of keys from `block` on.
    ///
    /// # Safety
    /// As [`Part::tile`]; the panels hold keys, and `self.scores` has M rows of `stride`.
    #[inline(always)]
    unsafe fn scores_at<S: Simd, W: Weight, const M: usize, const P: usize, const HEADS: bool>(
        &mut self,
        s: S,
        at: At,
        block: usize,
    ) {
        let (d_kv, KeyLayout { head, panel }) = (self.d_kv, self.a.keys.layout);
        let mut acc = [[s.splat(0.0); P]; M];
        // SAFETY: the bias of key t and query q lies at t - q + max_len - 1, and 16 floats past the last are there.
        unsafe {
            if let Some(bias) = self.a.bias {
                let zero = at.head * bias.stride + bias.max_len - 1 + block * LANES - at.query;
                let zero = bias.table.as_ptr().add(zero);
                unrolled!(M, m => {
                    let bias = if HEADS { zero.add(m * bias.stride) } else { zero.sub(m) };
                    unrolled!(P of 4, p => { acc[m][p] = s.load(bias.add(p * LANES)); });
                });
            }
            let q = self.queries.as_ptr().add(at.row * self.query_stride + at.head * padded(d_kv));
            let k = self.a.keys.stored.pointers::<W>().0.add(at.head * head + block * panel);
            let (k, ahead) = ((k, panel, LANES), self.ahead[0]);
            let sums = match HEADS {
                true => apart::<S, W, M, P>(s, d_kv, (q, padded(d_kv)), k, head, ahead, acc),
                false => self.one_head(s, d_kv, Rows::apart(q, self.query_stride), k, ahead, acc),
            };
            let to = self.scores.as_mut_ptr().add(block * LANES);
            unrolled!(M, m => {
                unrolled!(P of 4, p => { s.store(to.add(m * at.stride + p * LANES), sums[m][p]); });
            });
        }
    }

    /// The weighted sums of P registers of values from `column` on.
    ///
    /// # Safety
    /// As [`Part::tile`]; the columns are a head's, and `self.scores` has M rows of `stride`, of which `len` count.
    #[inline(always)]
    unsafe fn sum_at<S: Simd, W: Weight, const M: usize, const P: usize, const HEADS: bool>(
        &mut self,
        s: S,
        at: At,
        column: usize,
    ) {
        let (width, d_head) = (self.heads * padded(self.d_kv), padded(self.d_kv));
        let Keys { stored, value_head, value_stride, .. } = self.a.keys;
        // SAFETY: `len` rows of values are there, each padded(d_kv) floats; so are M rows of scores and of the output.
        unsafe {
            let v = stored.pointers::<W>().1.add(at.head * value_head + column);
            let zero = [[s.splat(0.0); P]; M];
            let (v, ahead) = ((v, LANES, value_stride), self.ahead[1]);
            let scores = self.scores.as_ptr();
            let sums = match HEADS {
                true => apart::<S, W, M, P>(s, at.len, (scores, at.stride), v, value_head, ahead, zero),
                false => self.one_head(s, at.len, Rows::apart(scores, at.stride), v, ahead, zero),
            };
            let to = self.out.0.add(at.row * width + at.head * d_head + column);
            unrolled!(M, m => {
                let to = to.add(m * if HEADS { d_head } else { width });
                unrolled!(P of 4, p => { s.store(to.add(p * LANES), sums[m][p]); });
            });
        }
    }

    /// The sums of M queries, of one head.
    ///
    /// # Safety
    /// As [`tile`].
    #[inline(always)]
    unsafe fn one_head<S: Simd, W: Weight, const M: usize, const P: usize>(
        &self,
        s: S,
        k: usize,
        rows: Rows,
        w: (*const W, usize, usize),
        ahead: usize,
        acc: [[S::F; P]; M],
    ) -> [[S::F; P]; M] {
        // SAFETY: as the caller's.
        unsafe {
            match M {
                1 if self.rows.len() == 1 => tile::<S, W, M, P>(s, k, rows, w, Ahead::Each(ahead), acc),
                _ => tile::<S, W, M, P>(s, k, rows, w, Ahead::Nothing, acc),
            }
        }
    }
}

/// Where a tile is: its first query, at which position that is, its first head, how many keys it looks at, and how many scores a row
/// has.
#[derive(Clone, Copy)]
struct At {
    row: usize,
    query: usize,
    head: usize,
    len: usize,
    stride: usize,
}

/// [`tile`] for M rows that have panels of their own each, `head` numbers apart; rows are `x.1` apart. Asks for what lies `ahead` bytes
/// behind every register that is read, unless that is nothing else.
///
/// # Safety
/// All of these are valid for reading: `k` inputs of each row, 16 weights at each step of each panel.
#[inline(always)]
unsafe fn apart<S: Simd, W: Weight, const M: usize, const P: usize>(
    s: S,
    k: usize,
    x: (*const f32, usize),
    (w, panel, step): (*const W, usize, usize),
    head: usize,
    ahead: usize,
    mut acc: [[S::F; P]; M],
) -> [[S::F; P]; M] {
    for i in 0..k {
        // SAFETY: i < k, m < M, p < P: within what the caller vouches for.
        unsafe {
            let w = w.add(i * step);
            if ahead > 0 {
                unrolled!(M of 4, m => {
                    unrolled!(P of 4, p => { s.prefetch(w.add(m * head + p * panel).wrapping_byte_add(ahead).cast()); });
                });
            }
            unrolled!(M of 4, m => {
                let x = s.splat(*x.0.add(m * x.1 + i));
                unrolled!(P of 4, p => { acc[m][p] = s.mul_add(x, W::load(s, w.add(m * head + p * panel)), acc[m][p]); });
            });
        }
    }
    acc
}
