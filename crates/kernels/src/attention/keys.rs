//! The keys and values that queries look at: where they lie, and how keys come into their panels.

use super::Heads;
use crate::elementwise::to_f16;
use crate::matmul::Turn;
use crate::simd::{Isa, LANES, padded};
use half::f16;

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
    pub(super) fn pointers<W>(self) -> (*const W, *const W) {
        match self {
            KeyStorage::F32(keys, values) => (keys.as_ptr().cast(), values.as_ptr().cast()),
            KeyStorage::F16(keys, values) => (keys.as_ptr().cast(), values.as_ptr().cast()),
        }
    }
}

impl Keys<'_> {
    /// Where the keys and the values of a head begin: for asking only, of a sequence that nobody has checked.
    pub(super) fn of_head(&self, head: usize) -> [usize; 2] {
        let (keys, values) = self.stored.pointers::<u8>();
        let size = match self.stored {
            KeyStorage::F32(..) => size_of::<f32>(),
            KeyStorage::F16(..) => size_of::<f16>(),
        };
        [(keys, self.layout.head), (values, self.value_head)]
            .map(|(first, of_head)| first.addr().wrapping_add(head.wrapping_mul(of_head).wrapping_mul(size)))
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
