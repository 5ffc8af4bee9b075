//! The inputs of a product, laid out for its tiles.
//!
//! Rows of a tile lie interleaved, 16 inputs of each at a time, so that the inner loop finds every row at a constant
//! distance: with row-major inputs the address of each row is an addition, 11 for 24 fused multiply-adds, and rows a
//! multiple of 4 KB apart evict one another.
//!
//! ```text
//! row-major:    row 0: 0 1 2 .. k-1 | row 1: 0 1 2 .. k-1 | ...
//! interleaved:  row 0: 0..16 | row 1: 0..16 | .. | row H-1: 0..16 | row 0: 16..32 | row 1: 16..32 | ...
//! ```

use crate::region::Team;
use crate::simd::{Isa, Kernel, LANES, Simd, padded};

/// Rows are dealt out in multiples of it: whole tiles on every instruction set.
pub(super) const ROWS: usize = 12;
/// Floats from which several threads lay them out.
const PARALLEL: usize = 32 * 1024;

/// Where the inputs of a tile are: input k of row m at `k / 16 * chunk + m * row + k % 16`.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    at: *const f32,
    row: usize,
    chunk: usize,
}

impl Rows {
    /// Rows of a row-major matrix.
    #[inline(always)]
    pub(crate) fn apart(at: *const f32, stride: usize) -> Rows {
        Rows { at, row: stride, chunk: LANES }
    }

    /// Rows from `row` on, of `m` that [`interleave`] laid out on this instruction set, from input `from` (whole chunks) on.
    ///
    /// # Safety
    /// They are there.
    #[inline(always)]
    pub(super) unsafe fn interleaved<S: Simd>(at: *const f32, m: usize, k: usize, row: usize, from: usize) -> Rows {
        let first = row / S::ROWS * S::ROWS;
        let chunk = S::ROWS.min(m - first) * LANES;
        // SAFETY: as the caller's.
        let at = unsafe { at.add(first * padded(k) + from / LANES * chunk + (row - first) * LANES) };
        Rows { at, row: LANES, chunk }
    }

    /// Inputs that follow one another.
    #[inline(always)]
    pub(super) fn together(self, k: usize) -> usize {
        if self.chunk == LANES { k.max(1) } else { LANES }
    }

    /// Input `k` of the first row, at the beginning of a chunk.
    ///
    /// # Safety
    /// It is there.
    #[inline(always)]
    pub(super) unsafe fn chunk(self, k: usize) -> *const f32 {
        // SAFETY: as the caller's.
        unsafe { self.at.add(k / LANES * self.chunk) }
    }

    /// From a row to the next.
    #[inline(always)]
    pub(super) fn stride(self) -> usize {
        self.row
    }
}

/// Lays out `m` rows of `k` inputs, `lda` apart, for [`Rows::interleaved`]; `out` is [m, padded(k)].
pub(super) fn interleave(isa: Isa, team: &Team, a: &[f32], lda: usize, k: usize, out: &mut [f32]) {
    let size = ROWS * padded(k);
    let part = |i: usize, out: &mut [f32]| isa.run(Interleave { a: &a[i * ROWS * lda..], lda, k, out });
    if out.len() >= PARALLEL {
        team.chunks_mut(out, size, part);
    } else {
        out.chunks_mut(size).enumerate().for_each(|(i, out)| part(i, out));
    }
}

struct Interleave<'a> {
    a: &'a [f32],
    lda: usize,
    k: usize,
    out: &'a mut [f32],
}

impl Kernel for Interleave<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Interleave { a, lda, k, out } = self;
        let mut rows = a.chunks(lda);
        for tile in out.chunks_mut(S::ROWS * padded(k)) {
            let together = tile.len() / padded(k);
            let (tile, _) = tile.as_chunks_mut::<LANES>();
            for (m, row) in rows.by_ref().take(together).enumerate() {
                let (whole, rest) = row[..k].as_chunks::<LANES>();
                let mut to = tile[m..].iter_mut().step_by(together);
                for (x, to) in whole.iter().zip(&mut to) {
                    s.write(s.load_array(x), to);
                }
                if let Some(to) = to.next() {
                    to[..rest.len()].copy_from_slice(rest);
                }
            }
        }
    }
}
