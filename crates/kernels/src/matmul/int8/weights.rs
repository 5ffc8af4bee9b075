//! Sixteen rows of weights, quantised into a panel.

use super::inputs::{nearest, scale_of};
use super::{BLOCK, panel_bytes};
use crate::simd::{Isa, Kernel, LANES, Simd, padded};
use crate::turn::{ROWS, turn};

/// How much of 16 rows is lost in 8 bits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loss {
    /// The sum of the squared errors.
    pub error: f64,
    /// The sum of the squared weights.
    pub norm: f64,
}

/// Quantises 16 rows [k] (zeros where absent) into a panel of `panel_bytes(k)`; tells the loss.
///
/// Weights that are not finite make their row's scale, and so its outputs, not a number.
///
/// # Panics
/// Where the lengths do not fit together.
pub(in crate::matmul) fn pack(isa: Isa, rows: &[Option<&[f32]>; LANES], k: usize, panel: &mut [u8]) -> Loss {
    assert_eq!(panel.len(), panel_bytes(k), "bytes of a panel of {k} inputs");
    assert!(rows.iter().flatten().all(|row| row.len() == k), "inputs of a row");
    isa.run(Pack { rows, k, panel })
}

struct Pack<'a> {
    rows: &'a [Option<&'a [f32]>; LANES],
    k: usize,
    panel: &'a mut [u8],
}

impl Kernel for Pack<'_> {
    type Out = Loss;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Loss {
        let groups = self.k.div_ceil(4);
        let (weights, behind) = self.panel.split_at_mut(groups * 4 * LANES);
        let (sums, behind) = behind.split_at_mut(behind.len() - 2 * LANES * 4);
        let (scales, sizes) = behind.split_at_mut(LANES * 4);
        let stride = padded(self.k) / LANES;
        let mut quantised = ROWS.take();
        quantised.resize(LANES * stride, [0; LANES]);
        let mut loss = Loss::default();
        for (lane, row) in self.rows.iter().enumerate() {
            let quantised = &mut quantised[lane * stride..][..stride];
            if row.is_none() {
                quantised.fill([0; LANES]);
            }
            let row = row.unwrap_or_default();
            let (scale, up) = scale_of(s, row, 127.0);
            scales[lane * 4..][..4].copy_from_slice(&scale.to_le_bytes());
            let (mut errors, mut norms, mut squares) = (s.splat(0.0), s.splat(0.0), s.splat(0.0));
            // Blocks hold whole registers.
            let blocks = quantised.chunks_mut(BLOCK * 4 / LANES).zip(sums.chunks_exact_mut(LANES * 4));
            for (i, (quantised, sums)) in blocks.enumerate() {
                let mut sum = s.splat(0.0);
                let row = &row[(i * BLOCK * 4).min(row.len())..((i + 1) * BLOCK * 4).min(row.len())];
                let (registers, last) = row.as_chunks::<LANES>();
                let mut padded = [0.0; LANES];
                padded[..last.len()].copy_from_slice(last);
                let registers = registers.iter().chain((!last.is_empty()).then_some(&padded));
                for (quantised, x) in quantised.iter_mut().zip(registers) {
                    let x = s.load_array(x);
                    let q = nearest(s, x, up, 127.0);
                    let error = s.mul_add(q, s.splat(-scale), x);
                    errors = s.mul_add(error, error, errors);
                    norms = s.mul_add(x, x, norms);
                    sum = s.add(sum, q);
                    squares = s.mul_add(q, q, squares);
                    // SAFETY: `quantised` is 16 bytes.
                    unsafe { s.store_i8(quantised.as_mut_ptr(), q) };
                }
                sums[lane * 4..][..4].copy_from_slice(&(s.sum(sum) as i32).to_le_bytes());
            }
            sizes[lane * 4..][..4].copy_from_slice(&(s.sum(squares).sqrt() * 1.0001).to_le_bytes());
            loss.error += f64::from(s.sum(errors));
            loss.norm += f64::from(s.sum(norms));
        }
        let bytes: &[u8] = bytemuck::cast_slice(&quantised);
        turn(s, &std::array::from_fn(|lane| &bytes[lane * stride * LANES..][..groups * 4]), weights);
        ROWS.set(quantised);
        loss
    }
}
