//! Weights in the order in which the products read them.
//!
//! A matrix [N, K] (N outputs, K inputs, row-major as checkpoints have it) is packed to `[N / 16][K][16]`: a panel holds
//! 16 outputs, and a step of the product reads the 16 weights of one input as one register. N is padded with zero
//! columns. All instruction sets read the same panels.

use crate::simd::{LANES, padded};
use half::{bf16, f16};

/// How weights are stored; products widen them to f32 exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightType {
    /// 4 bytes.
    F32,
    /// 2 bytes: the upper half of an f32.
    Bf16,
    /// 2 bytes: IEEE half precision.
    F16,
}

impl WeightType {
    /// Bytes of one weight.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            WeightType::F32 => 4,
            WeightType::Bf16 | WeightType::F16 => 2,
        }
    }
}

/// Packed weights of one type.
#[derive(Clone, Copy, Debug)]
pub enum Storage<'a> {
    /// f32
    F32(&'a [f32]),
    /// bfloat16
    Bf16(&'a [bf16]),
    /// IEEE half precision
    F16(&'a [f16]),
}

/// A packed matrix [n, k], `[n / 16][k][16]`.
#[derive(Clone, Copy, Debug)]
pub struct Panels<'a> {
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) data: Storage<'a>,
}

impl<'a> Panels<'a> {
    /// Weights of a packed matrix [n, k], padding included.
    #[must_use]
    pub fn len(n: usize, k: usize) -> usize {
        padded(n) * k
    }

    /// A view of packed weights.
    ///
    /// # Panics
    /// Where `data` does not hold [`Panels::len`] weights.
    #[must_use]
    pub fn new(n: usize, k: usize, data: Storage<'a>) -> Panels<'a> {
        let len = match data {
            Storage::F32(w) => w.len(),
            Storage::Bf16(w) => w.len(),
            Storage::F16(w) => w.len(),
        };
        assert_eq!(len, Self::len(n, k), "packed weights of a matrix [{n}, {k}]");
        Panels { n, k, data }
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
        let size = match self.data {
            Storage::F32(_) => 4,
            Storage::Bf16(_) | Storage::F16(_) => 2,
        };
        Self::len(self.n, self.k) * size
    }
}

/// Packs 16 rows of a matrix into one panel: `panel[i][lane] = rows[lane][i]`, zero for a row that is absent.
///
/// `panel` is [k][16]; every row has at least `k` weights.
///
/// # Panics
/// Where the lengths do not fit together.
pub fn pack_panel<T: Copy + Default, U>(rows: &[Option<&[U]>; LANES], panel: &mut [T], convert: impl Fn(&U) -> T) {
    let (steps, rest) = panel.as_chunks_mut::<LANES>();
    assert!(rest.is_empty());
    for (lane, row) in rows.iter().enumerate() {
        match row {
            Some(row) => steps.iter_mut().zip(&row[..]).for_each(|(step, w)| step[lane] = convert(w)),
            None => steps.iter_mut().for_each(|step| step[lane] = T::default()),
        }
    }
}
