//! Sixteen rows turned into steps of sixteen lanes: what packing is, but for arithmetic.

use crate::simd::{LANES, Simd, unrolled};
use std::cell::Cell;

thread_local! {
    /// 16 rows of bytes that are to be turned, kept from panel to panel.
    pub(crate) static ROWS: Cell<Vec<[i8; LANES]>> = const { Cell::new(Vec::new()) };
}

/// Bytes of a word.
const WORD: usize = 4;

/// `to[i][lane] = rows[lane][i]` for words of 4 bytes, whatever they mean.
///
/// # Panics
/// Where the lengths do not fit together.
#[inline(always)]
pub(crate) fn turn<S: Simd>(s: S, rows: &[&[u8]; LANES], to: &mut [u8]) {
    /// Words of a row at a time.
    const WIDTH: usize = 4;
    let words = to.len() / (LANES * WORD);
    assert!(to.len().is_multiple_of(LANES * WORD) && rows.iter().all(|row| row.len() == words * WORD));
    // What often follows the last row, the next panel's first. An address only.
    let next = rows[LANES - 1].as_ptr().wrapping_add(words * WORD);
    let whole = words / WIDTH * WIDTH;
    for i in (0..whole).step_by(WIDTH) {
        unrolled!(WIDTH of 4, j => { s.prefetch(next.wrapping_add((i + j) * LANES * WORD)); });
        // Rows r, r + 4, r + 8 and r + 12 share a register, so that turning four by four gives whole steps.
        let mut four = [s.splat(0.0); WIDTH];
        // SAFETY: i + 4 words are in each row, and as many steps of 16 in `to`: asserted. Loads and stores ask for no alignment.
        unsafe {
            unrolled!(WIDTH of 4, r => {
                let at = |quarter: usize| rows[r + WIDTH * quarter].as_ptr().add(i * WORD).cast::<f32>();
                four[r] = s.load_quarters([at(0), at(1), at(2), at(3)]);
            });
            let four = s.turn_quarters(four);
            unrolled!(WIDTH of 4, j => { s.store(to.as_mut_ptr().add((i + j) * LANES * WORD).cast(), four[j]); });
        }
    }
    for (i, step) in to.chunks_exact_mut(LANES * WORD).enumerate().skip(whole) {
        for (word, row) in step.chunks_exact_mut(WORD).zip(rows) {
            word.copy_from_slice(&row[i * WORD..][..WORD]);
        }
    }
}
