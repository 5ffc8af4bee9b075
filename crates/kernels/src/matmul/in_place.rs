//! Products with weights that are not packed: f32 rows, as checkpoints have them.
//!
//! Packing pays for weights that are used again and again: it reads a matrix and writes as much new memory, which the system clears
//! first. What is used once is better turned on the way: a few panels at a time, into a buffer that an L2 cache holds up to some thousand
//! inputs, where the product finds them as if they had been packed. So the bits are those of packed weights.

use super::panels::{Panels, RowMajor, Storage, Turn};
use super::product::Block;
use crate::simd::{Isa, LANES};
use std::cell::Cell;

/// Floats that are turned at a time, about. The buffers are new memory in a one-shot run, where each 4 KB cost more than a microsecond.
const GROUP_FLOATS: usize = 32 << 10;

thread_local! {
    /// Rows that were read, and the panels at work, kept from call to call.
    static BUFFERS: Cell<[Vec<f32>; 2]> = const { Cell::new([const { Vec::new() }; 2]) };
}

/// A part of a product whose weights are `rows`; its own rows in so many blocks.
pub(super) fn run(isa: Isa, part: Block<'_>, rows: &dyn RowMajor, row_blocks: usize) {
    let k = part.p.w.k;
    let panel = LANES * k;
    // As wide as tiles of one row are, or of more.
    let together = if 4 * panel <= GROUP_FLOATS { 4 } else { 2 };
    let [mut stored, mut packed] = BUFFERS.take();
    if packed.len() < together * panel {
        packed = vec![0.0; together * panel];
    }
    let mut first = part.panels.start;
    while first < part.panels.end {
        let asked = together.min(part.panels.end - first);
        let read = rows.read(first * panel..(first + asked) * panel, &mut stored);
        let count = read.len() / panel;
        assert!((1..=asked).contains(&count) && read.len() == count * panel, "{} floats of {asked} panels", read.len());
        let packed = &mut packed[..read.len()];
        for (panel, rows) in packed.chunks_exact_mut(panel).zip(read.chunks_exact(panel)) {
            let rows = std::array::from_fn(|lane| bytemuck::cast_slice(&rows[lane * k..][..k]));
            isa.run(Turn { rows: &rows, panel: bytemuck::cast_slice_mut(panel) });
        }
        let group = part.of_panels(first, Panels::new(count * LANES, k, Storage::F32(packed)));
        (0..row_blocks).for_each(|i| isa.run(group.part(i, row_blocks, 0, 1)));
        first += count;
    }
    BUFFERS.set([stored, packed]);
}
