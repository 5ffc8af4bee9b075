//! The inputs of a product, laid out for its tiles.
//!
//! A few rows ([`Simd::TOGETHER`], here T) lie interleaved, input by input, so that a step of the inner loop finds its rows at constant
//! distances from a few places: with row-major inputs the address of each row is an addition, 11 for 24 fused
//! multiply-adds, rows a multiple of 4 KB apart evict one another, and each row holds a line of the L1 cache that a
//! panel wants. A tile may begin with any such group, and is as high as it likes.
//!
//! ```text
//! row-major:    row 0: 0 1 2 .. k-1 | row 1: 0 1 2 .. k-1 | ...
//! interleaved:  input 0: row 0 .. T-1 | input 1: row 0 .. T-1 | ... | input 0: row T .. 2T-1 | ...
//! ```

use crate::region::Team;
use crate::simd::{Isa, Kernel, LANES, Simd};

/// Rows are dealt out in multiples of it: whole tiles on every instruction set.
pub(crate) const ROWS: usize = 12;
/// Floats from which several threads lay them out.
const PARALLEL: usize = 32 * 1024;

/// Where the inputs of a tile are: input k of row m at `k * step + m / together * group + m % together`.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    at: *const f32,
    step: usize,
    together: usize,
    group: usize,
}

impl Rows {
    /// Rows of a row-major matrix.
    #[inline(always)]
    pub(crate) fn apart(at: *const f32, stride: usize) -> Rows {
        Rows { at, step: 1, together: 1, group: stride }
    }

    /// Rows from `row` on, of those that [`Interleave`] laid out on this instruction set, from input `from` on.
    ///
    /// # Safety
    /// They are there, and `row` is the first of a group.
    #[inline(always)]
    pub(crate) unsafe fn interleaved<S: Simd>(at: *const f32, k: usize, row: usize, from: usize) -> Rows {
        debug_assert!(row.is_multiple_of(S::TOGETHER));
        // SAFETY: as the caller's.
        let at = unsafe { at.add(row * k + from * S::TOGETHER) };
        Rows { at, step: S::TOGETHER, together: S::TOGETHER, group: S::TOGETHER * k }
    }

    /// Input `k` of row `m`.
    ///
    /// # Safety
    /// It is there.
    #[inline(always)]
    pub(super) unsafe fn get(self, k: usize, m: usize) -> f32 {
        // SAFETY: as the caller's.
        unsafe { *self.at.add(k * self.step + m / self.together * self.group + m % self.together) }
    }
}

/// Floats of `m` rows laid out: whole tiles.
pub(super) fn floats(m: usize, k: usize) -> usize {
    m.next_multiple_of(ROWS) * k
}

/// Lays out `m` rows of `k` inputs, `lda` apart, for [`Rows::interleaved`]; `out` has [`floats`]. The rows that fill up
/// the last tile are copies of the last row.
pub(super) fn interleave(isa: Isa, team: &Team, a: &[f32], (m, lda): (usize, usize), k: usize, out: &mut [f32]) {
    let size = (ROWS * k).max(1);
    let part = |i: usize, out: &mut [f32]| isa.run(Interleave { a, lda, first: i * ROWS, last: m - 1, k, out });
    if out.len() >= PARALLEL {
        team.chunks_mut(out, size, part);
    } else {
        out.chunks_mut(size).enumerate().for_each(|(i, out)| part(i, out));
    }
}

/// Some groups of rows.
pub(crate) struct Interleave<'a> {
    pub(crate) a: &'a [f32],
    pub(crate) lda: usize,
    /// The first row of `out`.
    pub(crate) first: usize,
    /// The last row that there is.
    pub(crate) last: usize,
    pub(crate) k: usize,
    pub(crate) out: &'a mut [f32],
}

impl Kernel for Interleave<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Interleave { a, lda, first, last, k, out } = self;
        let inputs = LANES / S::TOGETHER;
        for (i, group) in out.chunks_exact_mut(S::TOGETHER * k).enumerate() {
            let row = |m: usize| &a[(first + i * S::TOGETHER + m % S::TOGETHER).min(last) * lda..][..k];
            let rows = [row(0), row(1), row(2), row(3)];
            let whole = k / inputs * inputs;
            for (from, to) in (0..whole).step_by(inputs).zip(group.as_chunks_mut::<LANES>().0) {
                let at = |m: usize| rows[m][from..][..inputs].as_ptr();
                // SAFETY: so many inputs of each row are there, and 16 floats are written.
                unsafe { s.weave([at(0), at(1), at(2), at(3)], to.as_mut_ptr()) };
            }
            for (from, to) in (whole..k).zip(group[whole * S::TOGETHER..].chunks_exact_mut(S::TOGETHER)) {
                to.iter_mut().zip(rows).for_each(|(to, row)| *to = row[from]);
            }
        }
    }
}
