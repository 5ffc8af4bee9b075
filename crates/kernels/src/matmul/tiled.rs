//! Parts of int8 products by [`Tiles`]: the same sums, 32 rows and two panels at a time.

use super::int8::{BLOCK, Part, panel_bytes};
use super::product::Product;
use crate::simd::{Kernel, LANES, LINE, Simd, TILE, TileSums, Tiles};

/// Asks for part `i` of `parts` of `bytes`, which need not be there: rows in turn ask for what comes next, since all at once would wait
/// for the memory.
#[inline(always)]
pub(crate) fn ask_for<S: Simd>(s: S, next: *const i8, bytes: usize, i: usize, parts: usize) {
    let lines = bytes.div_ceil(LINE);
    for line in i * lines / parts..(i + 1) * lines / parts {
        s.prefetch(next.wrapping_add(line * LINE).cast());
    }
}

/// A part of a product by [`Tiles`]: 32 rows and two panels at a time, the same sums.
pub(super) struct Tiled<'a, const D: usize>(pub(super) Part<'a, D>, pub(super) Tiles);

impl<const D: usize> Kernel for Tiled<'_, D> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if !S::TILES {
            return; // never asked for; no code is made for it
        }
        let Tiled(Part { p: Product { m, w, epilogue, .. }, panels, inputs, out, of }, tiles) = self;
        let (groups, size) = (w.k / 4, panel_bytes(w.k));
        let tile = TILE * (groups * D + 1);
        // SAFETY: no other of this thread's kernels runs meanwhile.
        let tiles = unsafe { tiles.products() };
        let mut sums = [TileSums::ZERO; D];
        // Sums of blocks of inputs but the last.
        let mut dots = [[[0.0; LANES]; 2]; 2 * TILE];
        for panel in of.clone().step_by(2) {
            let pair = (of.end - panel).min(2);
            for first in (0..m).step_by(2 * TILE) {
                let rows = (m - first).min(2 * TILE);
                // SAFETY: `product` found every panel within the weights, and every row within the outputs; `Quantise` filled whole
                // tiles of rows, each `tile` words: the digits `[D][16][k]`, then the scales.
                unsafe {
                    let w = panels.as_ptr().add(panel * size).cast::<i8>();
                    let x = inputs.as_ptr().add(first / TILE * tile);
                    let next = w.wrapping_add(2 * size);
                    for block in 0..groups.div_ceil(BLOCK) {
                        let steps = (groups - block * BLOCK).min(BLOCK) / TILE;
                        let w = w.add(block * BLOCK * 4 * LANES);
                        for (digit, sums) in sums.iter_mut().enumerate() {
                            let x = x.add(digit * TILE * groups + block * BLOCK);
                            let second = (rows > TILE).then(|| x.add(tile).cast());
                            tiles.sums((x.cast(), second), groups * 4, [w, w.add((pair - 1) * size)], steps, sums);
                        }
                        let last = (block + 1) * BLOCK >= groups;
                        for (row, dots) in dots.iter_mut().enumerate().take(rows) {
                            if last {
                                ask_for(s, next, 2 * size, first + row, m);
                            }
                            let scale = s.splat(*x.add(row / TILE * tile + tile - TILE + row % TILE).cast::<f32>());
                            for (p, dots) in dots.iter_mut().enumerate().take(pair) {
                                let behind = panels.as_ptr().add((panel + p) * size + groups * 4 * LANES);
                                let sum = s.int_load(sums[0].of(row, p));
                                let sum = match D {
                                    1 => sum,
                                    _ => {
                                        let of_weights = behind.cast::<i32>().add(block * LANES);
                                        s.int_join(s.int_less(sum, of_weights), s.int_load(sums[D - 1].of(row, p)))
                                    }
                                };
                                let before = if block == 0 { s.splat(0.0) } else { s.load_array(dots) };
                                let dot = s.add(before, s.int_to_f32(sum));
                                if !last {
                                    s.write(dot, dots);
                                    continue;
                                }
                                let scales = panels.as_ptr().add((panel + p + 1) * size - 2 * LANES * 4).cast::<f32>();
                                let value = s.mul(s.mul(s.load(scales), scale), dot);
                                out.put(s, epilogue, first + row, panel + p, value);
                            }
                        }
                    }
                }
            }
        }
    }
}
