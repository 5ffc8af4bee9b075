//! Products with weights that are not packed: f32 rows, as checkpoints have them.
//!
//! Packing pays for weights that are used again and again: it reads a matrix and writes as much new memory, which the system clears
//! first. What is used once is better turned on the way: four panels at a time, into a buffer that an L2 cache holds (1 MB for 4,096
//! inputs), where the product finds them as if they had been packed. So the bits are those of packed weights.

use super::panels::{Panels, Storage, Turn};
use super::product::Block;
use crate::simd::{Isa, LANES};
use std::cell::Cell;

/// Panels that are turned at a time: the widest tile of a product.
const GROUP: usize = 4;

thread_local! {
    /// The panels at work, kept from call to call.
    static PANELS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// A part of a product whose weights are `parts`, one under the other; its rows in so many blocks.
pub(super) fn run(isa: Isa, part: Block<'_>, parts: &[&[f32]], row_blocks: usize) {
    let k = part.p.w.k;
    let mut packed = PANELS.take();
    if packed.len() < GROUP * LANES * k {
        packed.resize(GROUP * LANES * k, 0.0);
    }
    let mut rows = parts.iter().flat_map(|part| part.chunks_exact(LANES * k)).skip(part.panels.start);
    for first in part.panels.clone().step_by(GROUP) {
        let count = GROUP.min(part.panels.end - first);
        let packed = &mut packed[..count * LANES * k];
        for (panel, rows) in packed.chunks_exact_mut(LANES * k).zip(&mut rows) {
            let rows = std::array::from_fn(|lane| bytemuck::cast_slice(&rows[lane * k..][..k]));
            isa.run(Turn { rows: &rows, panel: bytemuck::cast_slice_mut(panel) });
        }
        let group = part.of_panels(first, Panels::new(count * LANES, k, Storage::F32(packed)));
        (0..row_blocks).for_each(|i| isa.run(group.part(i, row_blocks, 0, 1)));
    }
    PANELS.set(packed);
}
