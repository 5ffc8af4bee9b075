//! The inputs of a product, laid out for its tiles.
//!
//! Rows of a tile lie interleaved, input by input, so that a step of the inner loop finds all of them in one line of the
//! cache and at constant distances: with row-major inputs the address of each row is an addition, 11 for 24 fused
//! multiply-adds, rows a multiple of 4 KB apart evict one another, and each row holds a line of the L1 cache that a
//! panel wants.
//!
//! ```text
//! row-major:    row 0: 0 1 2 .. k-1 | row 1: 0 1 2 .. k-1 | ...
//! interleaved:  input 0: row 0 1 .. H-1 | input 1: row 0 1 .. H-1 | ... | input 0: row H H+1 .. | ...
//! ```

use crate::region::Team;
use crate::simd::{Isa, Kernel, Simd, unrolled};
use wide::f32x4;

/// Rows are dealt out in multiples of it: whole tiles on every instruction set.
pub(super) const ROWS: usize = 12;
/// Floats from which several threads lay them out.
const PARALLEL: usize = 32 * 1024;

/// Where the inputs of a tile are: input k of row m at `k * step + m * row`.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    at: *const f32,
    row: usize,
    step: usize,
}

impl Rows {
    /// Rows of a row-major matrix.
    #[inline(always)]
    pub(crate) fn apart(at: *const f32, stride: usize) -> Rows {
        Rows { at, row: stride, step: 1 }
    }

    /// Rows from `row` on, of those that [`interleave`] laid out on this instruction set, from input `from` on.
    ///
    /// # Safety
    /// They are there.
    #[inline(always)]
    pub(super) unsafe fn interleaved<S: Simd>(at: *const f32, k: usize, row: usize, from: usize) -> Rows {
        let within = row % S::ROWS;
        // SAFETY: as the caller's.
        let at = unsafe { at.add((row - within) * k + from * S::ROWS + within) };
        Rows { at, row: 1, step: S::ROWS }
    }

    /// Input `k` of row `m`.
    ///
    /// # Safety
    /// It is there.
    #[inline(always)]
    pub(super) unsafe fn get(self, k: usize, m: usize) -> f32 {
        // SAFETY: as the caller's.
        unsafe { *self.at.add(k * self.step + m * self.row) }
    }
}

/// Floats of `m` rows laid out: whole tiles.
pub(super) fn floats(m: usize, k: usize) -> usize {
    m.next_multiple_of(ROWS) * k
}

/// Lays out `m` rows of `k` inputs, `lda` apart, for [`Rows::interleaved`]; `out` has [`floats`]. The rows that fill up
/// the last tile are copies of the last row.
pub(super) fn interleave(isa: Isa, team: &Team, a: &[f32], (m, lda): (usize, usize), k: usize, out: &mut [f32]) {
    let size = ROWS * k;
    let part = |i: usize, out: &mut [f32]| isa.run(Interleave { a, lda, first: i * ROWS, last: m - 1, k, out });
    if out.len() >= PARALLEL {
        team.chunks_mut(out, size, part);
    } else {
        out.chunks_mut(size).enumerate().for_each(|(i, out)| part(i, out));
    }
}

struct Interleave<'a> {
    a: &'a [f32],
    lda: usize,
    /// The first row of `out`.
    first: usize,
    /// The last row that there is.
    last: usize,
    k: usize,
    out: &'a mut [f32],
}

impl Kernel for Interleave<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Interleave { a, lda, mut first, last, k, out } = self;
        for tile in out.chunks_exact_mut(S::ROWS * k) {
            let rows: [&[f32]; ROWS] = std::array::from_fn(|m| &a[(first + m).min(last) * lda..][..k]);
            let fours = rows.map(|row| row.as_chunks::<4>().0);
            let (whole, rest) = tile.split_at_mut(k / 4 * 4 * S::ROWS);
            for (i, steps) in whole.chunks_exact_mut(4 * S::ROWS).enumerate() {
                unrolled!(FOURS of 4, four => {
                    let m = 4 * four;
                    if m < S::ROWS {
                        let together = (S::ROWS - m).min(4);
                        let inputs = f32x4::transpose(std::array::from_fn(|j| f32x4::new(fours[m + j][i])));
                        unrolled!(STEPS of 4, j => {
                            let to = &mut steps[j * S::ROWS + m..][..together];
                            to.copy_from_slice(&inputs[j].to_array()[..together]);
                        });
                    }
                });
            }
            for (step, i) in rest.chunks_exact_mut(S::ROWS).zip(k / 4 * 4..) {
                step.iter_mut().zip(rows).for_each(|(to, row)| *to = row[i]);
            }
            first += S::ROWS;
        }
    }
}

/// Rows and steps that are transposed at a time: 4 by 4.
const FOURS: usize = ROWS / 4;
const STEPS: usize = 4;
