//! Weights in the order in which the products read them.
//!
//! A matrix [N, K] (N outputs, K inputs, row-major as checkpoints have it) is packed to `[N / 16][K][16]`: a panel holds
//! 16 outputs, and a step of the product reads the 16 weights of one input as one register. N is padded with zero
//! columns. All instruction sets read the same panels.

use super::int8::{self, Digits, Loss};
use crate::simd::{Isa, Kernel, LANES, Simd};
use crate::turn::turn;
use bytemuck::Pod;
use half::{bf16, f16};
use std::ops::Range;

/// How weights are stored; products widen floats to f32 exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightType {
    /// 4 bytes.
    F32,
    /// 2 bytes: the upper half of an f32.
    Bf16,
    /// 2 bytes: IEEE half precision.
    F16,
    /// 1 byte, and a scale a row: not exact. The inputs of a product are quantised, too: to so many digits.
    Int8(Digits),
}

impl WeightType {
    /// Bytes of one weight; what int8 has beside its weights is not counted.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            WeightType::F32 => 4,
            WeightType::Bf16 | WeightType::F16 => 2,
            WeightType::Int8(_) => 1,
        }
    }

    /// Bytes of a packed panel: 16 rows of `k` weights.
    #[must_use]
    pub fn panel_bytes(self, k: usize) -> usize {
        match self {
            WeightType::Int8(_) => int8::panel_bytes(k),
            _ => LANES * k * self.size(),
        }
    }
}

/// Weights of one type.
#[derive(Clone, Copy, Debug)]
pub enum Storage<'a> {
    /// f32
    F32(&'a [f32]),
    /// bfloat16
    Bf16(&'a [bf16]),
    /// IEEE half precision
    F16(&'a [f16]),
    /// Whole numbers, of [`crate::Near`].
    I16(&'a [i16]),
    /// 8 bits and scales, and how inputs are quantised.
    Int8(&'a [u8], Digits),
    /// f32 that are not packed. For a product or two; packed weights give the same bits in less time.
    Rows(&'a dyn RowMajor),
}

/// A matrix [n, k] of f32, row-major, of whole panels, that lies somewhere else.
pub trait RowMajor: Sync + std::fmt::Debug {
    /// So many of its floats, where they lie or in `buffer`: whole panels from the first on, at least one, fewer than asked for where
    /// others lie elsewhere. Products panic where it gives none, or parts of panels.
    fn read<'b>(&'b self, floats: Range<usize>, buffer: &'b mut Vec<f32>) -> &'b [f32];
}

/// A matrix [n, k], packed as `[n / 16][k][16]`, or in rows: [`Storage::Rows`].
#[derive(Clone, Copy, Debug)]
pub struct Panels<'a> {
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) data: Storage<'a>,
}

impl<'a> Panels<'a> {
    /// Weights of a packed matrix [n, k], padding included.
    ///
    /// # Panics
    /// Where there are more than can be counted.
    #[must_use]
    pub fn len(n: usize, k: usize) -> usize {
        let whole =
            n.checked_next_multiple_of(LANES).and_then(|n| n.checked_mul(k)).filter(|n| *n <= isize::MAX as usize);
        whole.unwrap_or_else(|| panic!("a matrix [{n}, {k}] has more weights than can be counted"))
    }

    /// A view of weights.
    ///
    /// # Panics
    /// Where `data` does not hold [`Panels::len`] weights, or of int8 a panel's bytes for each 16 outputs; of rows, where panels are not
    /// whole or have no input.
    #[must_use]
    pub fn new(n: usize, k: usize, data: Storage<'a>) -> Panels<'a> {
        let (len, expected) = match data {
            Storage::F32(w) => (w.len(), Self::len(n, k)),
            Storage::Bf16(w) => (w.len(), Self::len(n, k)),
            Storage::F16(w) => (w.len(), Self::len(n, k)),
            Storage::I16(w) => (w.len(), Self::len(n, k)),
            Storage::Int8(w, _) => {
                let _ = Self::len(n, k); // so that the bytes of one panel, at least, can be counted
                (w.len(), n.div_ceil(LANES).saturating_mul(int8::panel_bytes(k)))
            }
            Storage::Rows(_) => {
                assert!(
                    k > 0 && n.is_multiple_of(LANES),
                    "rows of a matrix [{n}, {k}]: whole panels of one input or more"
                );
                (n * k, Self::len(n, k))
            }
        };
        assert_eq!(len, expected, "weights of a matrix [{n}, {k}]");
        Panels { n, k, data }
    }

    /// The first `n` outputs: without some of those that fill up the last panel.
    ///
    /// # Panics
    /// Where that leaves another number of panels.
    #[must_use]
    pub fn first(self, n: usize) -> Panels<'a> {
        assert!(n <= self.n && n.div_ceil(LANES) == self.n.div_ceil(LANES), "{n} of {} outputs", self.n);
        Panels { n, ..self }
    }

    /// Outputs, without the padding.
    #[must_use]
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    #[must_use]
    pub fn k(&self) -> usize {
        self.k
    }

    /// Bytes that a product reads.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self.data {
            Storage::F32(w) => size_of_val(w),
            Storage::Bf16(w) => size_of_val(w),
            Storage::F16(w) => size_of_val(w),
            Storage::I16(w) => size_of_val(w),
            Storage::Int8(w, _) => w.len(),
            Storage::Rows(_) => self.n * self.k * size_of::<f32>(),
        }
    }
}

/// Packs 16 rows of a matrix, stored as `from`, into one panel of weights `to`: `panel[i][lane] = rows[lane][i]`, zero for a row that
/// is absent. A narrower `to` rounds to nearest.
///
/// `rows` are little-endian and `[k]` each, at any alignment; `panel` is `[k][16]`, aligned for its weights.
///
/// # Panics
/// Where the lengths do not fit together, `panel` is not aligned (f32 that stay f32 need not be), or a type is int8: see [`pack_int8`].
pub fn pack_panel(isa: Isa, from: WeightType, rows: &[Option<&[u8]>; LANES], to: WeightType, panel: &mut [u8]) {
    match (from, to) {
        (WeightType::F32, WeightType::F32) if rows.iter().all(Option::is_some) => {
            isa.run(Turn { rows: &rows.map(Option::unwrap_or_default), panel });
        }
        // One compilation for all instruction sets: these are seldom.
        (WeightType::F32, WeightType::F32) => pack(rows, panel, f32::from_le_bytes),
        (WeightType::Bf16, WeightType::Bf16) | (WeightType::F16, WeightType::F16) => {
            pack(rows, panel, u16::from_le_bytes);
        }
        (WeightType::F32, WeightType::Bf16) => pack(rows, panel, |b| bf16::from_f32(f32::from_le_bytes(b)).to_bits()),
        (WeightType::F32, WeightType::F16) => pack(rows, panel, |b| f16::from_f32(f32::from_le_bytes(b)).to_bits()),
        (WeightType::Bf16, WeightType::F32) => pack(rows, panel, |b| bf16::from_le_bytes(b).to_f32()),
        (WeightType::F16, WeightType::F32) => pack(rows, panel, |b| f16::from_le_bytes(b).to_f32()),
        (WeightType::Bf16, WeightType::F16) => {
            pack(rows, panel, |b| f16::from_f32(bf16::from_le_bytes(b).to_f32()).to_bits());
        }
        (WeightType::F16, WeightType::Bf16) => {
            pack(rows, panel, |b| bf16::from_f32(f16::from_le_bytes(b).to_f32()).to_bits());
        }
        (WeightType::Int8(_), _) | (_, WeightType::Int8(_)) => panic!("int8 is packed by `pack_int8`"),
    }
}

/// The 16 rows `[k]` of a packed panel as f32, which [`pack_panel`] packed.
///
/// # Panics
/// Where the lengths do not fit together, or the type is int8.
pub fn unpack_panel(from: WeightType, panel: &[u8], rows: &mut [f32]) {
    let k = rows.len() / LANES;
    let mut step = [0f32; LANES];
    for (i, weights) in panel.chunks_exact(LANES * from.size()).enumerate() {
        widen(from, weights, &mut step);
        for (lane, x) in step.iter().enumerate() {
            rows[lane * k + i] = *x;
        }
    }
}

/// Quantises 16 rows of `k` weights, zeros where absent, into a panel of [`WeightType::panel_bytes`]; tells the loss.
///
/// # Panics
/// Where the lengths do not fit together.
pub fn pack_int8(isa: Isa, rows: &[Option<&[f32]>; LANES], k: usize, panel: &mut [u8]) -> Loss {
    int8::pack(isa, rows, k, panel)
}

/// Packs 16 rows of f32 as they are.
pub(crate) struct Turn<'a> {
    pub(crate) rows: &'a [&'a [u8]; LANES],
    pub(crate) panel: &'a mut [u8],
}

impl Kernel for Turn<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        turn(s, self.rows, self.panel);
    }
}

fn pack<T: Pod, const B: usize>(rows: &[Option<&[u8]>; LANES], panel: &mut [u8], convert: impl Fn([u8; B]) -> T) {
    let (steps, rest) = bytemuck::cast_slice_mut::<u8, T>(panel).as_chunks_mut::<LANES>();
    assert!(rest.is_empty());
    for (lane, row) in rows.iter().enumerate() {
        match row {
            Some(row) => {
                let (weights, _) = row.as_chunks::<B>();
                assert_eq!(weights.len(), steps.len(), "weights of a row");
                steps.iter_mut().zip(weights).for_each(|(step, w)| step[lane] = convert(*w));
            }
            None => steps.iter_mut().for_each(|step| step[lane] = T::zeroed()),
        }
    }
}

/// Little-endian weights, at any alignment, as f32: exactly.
///
/// # Panics
/// Where the lengths differ, or the type is int8.
pub fn widen(from: WeightType, weights: &[u8], out: &mut [f32]) {
    assert_eq!(weights.len(), out.len() * from.size());
    let (twos, _) = weights.as_chunks::<2>();
    match from {
        WeightType::F32 => {
            let (fours, _) = weights.as_chunks::<4>();
            out.iter_mut().zip(fours).for_each(|(x, b)| *x = f32::from_le_bytes(*b));
        }
        WeightType::Bf16 => out.iter_mut().zip(twos).for_each(|(x, b)| *x = bf16::from_le_bytes(*b).to_f32()),
        WeightType::F16 => out.iter_mut().zip(twos).for_each(|(x, b)| *x = f16::from_le_bytes(*b).to_f32()),
        WeightType::Int8(_) => panic!("int8 weights have scales"),
    }
}
