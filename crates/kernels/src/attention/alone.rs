//! A query alone: a step of the decoder, or a causal query, which sees keys that others do not.
//!
//! The sums of a tile are those of some heads of the query. It is done with a head's keys before they have come, where many
//! sequences have more of them than the caches hold; while it looks at them it asks for those that come next. Layers of E
//! 161 to 139 ms, in int8 84 to 65 (Zen 4, medians in turn).

use super::{Keys, Part};
use crate::matmul::{Ahead, Rows, Weight, tile};
use crate::simd::{LANES, Simd, padded, unrolled};
use crate::softmax::softmax;

/// All queries of a part, one after the other.
///
/// # Safety
/// [`super::check`] passed, and the keys and values are W.
#[inline(always)]
pub(super) unsafe fn run<S: Simd, W: Weight>(s: S, mut part: Part<'_>) {
    let (rows, heads) = (part.rows.clone(), part.of.clone());
    // SAFETY: as the caller's; the rows and heads are the part's.
    unsafe {
        for row in rows {
            let mut head = heads.start;
            while head < heads.end {
                head += match heads.end - head {
                    4.. if S::WIDEST == 4 && S::PANELS == 2 => query::<S, W, 4, 2>(s, &mut part, row, head),
                    4.. if S::WIDEST == 4 => query::<S, W, 4, 1>(s, &mut part, row, head),
                    _ if S::WIDEST < 4 => query::<S, W, 1, 1>(s, &mut part, row, head),
                    _ => query::<S, W, 1, 4>(s, &mut part, row, head),
                };
            }
        }
    }
}

/// M heads of a query. Returns M.
///
/// # Safety
/// As [`run`]; the row is the part's, and so are heads `head..head + M`.
#[cfg_attr(not(unoptimised), inline(always))]
unsafe fn query<S: Simd, W: Weight, const M: usize, const P: usize>(
    s: S,
    part: &mut Part<'_>,
    row: usize,
    head: usize,
) -> usize {
    if P > S::WIDEST || (M > 1 && (P != S::PANELS || S::WIDEST < 4)) {
        return M; // never asked for; no code is made for it
    }
    let position = part.a.position + (row - part.a.rows.start);
    let len = if part.a.causal { position + 1 } else { part.a.keys.len };
    let stride = padded(len);
    part.make_room(M * stride);
    let scores = part.scratch.as_mut_ptr();
    let at = At { row, position, head, len, scores, stride };
    let (panels, columns) = (stride / LANES, padded(part.d_kv) / LANES);
    // SAFETY: as the caller's; there are M rows of `stride` scores, and of each the softmax has one.
    unsafe {
        for block in (0..panels / P * P).step_by(P) {
            at.scores::<S, W, M, P>(s, part, block);
        }
        for block in panels / P * P..panels {
            at.scores::<S, W, M, 1>(s, part, block);
        }
        for m in 0..M {
            softmax(s, std::slice::from_raw_parts_mut(scores.add(m * stride), stride), len);
        }
        for column in (0..columns / P * P).step_by(P) {
            at.sums::<S, W, M, P>(s, part, column * LANES);
        }
        for column in columns / P * P..columns {
            at.sums::<S, W, M, 1>(s, part, column * LANES);
        }
    }
    M
}

/// A query, its position, the first head of a tile, how many keys it sees, and its scores: a row of `stride` for each head.
#[derive(Clone, Copy)]
struct At {
    row: usize,
    position: usize,
    head: usize,
    len: usize,
    scores: *mut f32,
    stride: usize,
}

impl At {
    /// The scores of P panels of keys from `block` on.
    ///
    /// # Safety
    /// As [`query`]; the panels hold keys, and `self.scores` has M rows.
    #[inline(always)]
    unsafe fn scores<S: Simd, W: Weight, const M: usize, const P: usize>(self, s: S, part: &Part<'_>, block: usize) {
        let Keys { stored, layout, .. } = part.a.keys;
        let mut acc = [[s.splat(0.0); P]; M];
        // SAFETY: the bias of key t and query q lies at t - q + max_len - 1, and 16 floats past the last are there.
        unsafe {
            if let Some(bias) = part.a.bias {
                let zero = self.head * bias.stride + bias.max_len - 1 + block * LANES - self.position;
                let zero = bias.table.as_ptr().add(zero);
                unrolled!(M, m => {
                    unrolled!(P of 4, p => { acc[m][p] = s.load(zero.add(m * bias.stride + p * LANES)); });
                });
            }
            let q = part.queries.as_ptr().add(self.row * part.query_stride + self.head * padded(part.d_kv));
            let k = stored.pointers::<W>().0.add(self.head * layout.head + block * layout.panel);
            let (x, w) = ((q, padded(part.d_kv)), (k, layout.panel, LANES));
            let sums = apart::<S, W, M, P>(s, part.d_kv, x, w, layout.head, part.ahead[0], acc);
            let to = self.scores.add(block * LANES);
            unrolled!(M, m => {
                unrolled!(P of 4, p => { s.store(to.add(m * self.stride + p * LANES), sums[m][p]); });
            });
        }
    }

    /// The weighted sums of P registers of values from `column` on.
    ///
    /// # Safety
    /// As [`query`]; the columns are a head's, and `self.scores` has M rows, of which `self.len` count.
    #[inline(always)]
    unsafe fn sums<S: Simd, W: Weight, const M: usize, const P: usize>(self, s: S, part: &Part<'_>, column: usize) {
        let (width, d_head) = (part.heads * padded(part.d_kv), padded(part.d_kv));
        let Keys { stored, value_head, value_stride, .. } = part.a.keys;
        // SAFETY: `len` rows of values are there, each padded(d_kv) numbers; so are M rows of scores, and of the output M heads.
        unsafe {
            let v = stored.pointers::<W>().1.add(self.head * value_head + column);
            let (x, w, zero) =
                ((self.scores.cast_const(), self.stride), (v, LANES, value_stride), [[s.splat(0.0); P]; M]);
            let sums = apart::<S, W, M, P>(s, self.len, x, w, value_head, part.ahead[1], zero);
            let to = part.out.0.add(self.row * width + self.head * d_head + column);
            unrolled!(M, m => {
                unrolled!(P of 4, p => { s.store(to.add(m * d_head + p * LANES), sums[m][p]); });
            });
        }
    }
}

/// [`tile`] for M rows that have panels of their own each, `head` numbers apart; rows are `x.1` apart. Asks for what lies `ahead` bytes
/// behind every register that is read, unless that is nothing else.
///
/// # Safety
/// All of these are valid for reading: `k` inputs of each row, 16 weights at each step of each panel.
#[cfg_attr(not(unoptimised), inline(always))]
unsafe fn apart<S: Simd, W: Weight, const M: usize, const P: usize>(
    s: S,
    k: usize,
    x: (*const f32, usize),
    (w, panel, step): (*const W, usize, usize),
    head: usize,
    ahead: usize,
    mut acc: [[S::F; P]; M],
) -> [[S::F; P]; M] {
    if M == 1 {
        let each = Ahead::Each { bytes: ahead, apart: panel.wrapping_mul(size_of::<W>()) };
        let (rows, w) = (Rows::apart(x.0, x.1), (w, panel, step));
        // SAFETY: as the caller's.
        return unsafe {
            match ahead {
                0 => tile::<S, W, M, P>(s, k, rows, w, Ahead::Nothing, acc),
                _ => tile::<S, W, M, P>(s, k, rows, w, each, acc),
            }
        };
    }
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
