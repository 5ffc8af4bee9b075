//! Products with a few rows that are not packed, one chain of fused multiply-adds an output.

use crate::simd::{Isa, Kernel, Simd};

struct Chains<'a> {
    x: &'a [f32],
    rows: &'a [f32],
    stride: usize,
    out: &'a mut [f32],
}

impl Kernel for Chains<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        /// Chains at a time: more than the latency of an FMA.
        const TOGETHER: usize = 8;
        let k = self.x.len();
        let mut rows = self.rows.chunks(self.stride);
        for out in self.out.chunks_mut(TOGETHER) {
            let group: [&[f32]; TOGETHER] =
                std::array::from_fn(|i| if i < out.len() { &rows.next().unwrap_or(self.x)[..k] } else { self.x });
            let mut sums = [0f32; TOGETHER];
            for (i, x) in self.x.iter().enumerate() {
                for (sum, row) in sums.iter_mut().zip(group) {
                    *sum = x.mul_add(row[i], *sum);
                }
            }
            out.copy_from_slice(&sums[..out.len()]);
        }
    }
}

/// `out[i] = sum over k of x[k] rows[i][k]`, each the chain of [`crate::matmul`]: for a few rows that are not packed.
///
/// `rows` is `[out, stride]`, of which the first k of a row count; `x` is `[k]`.
///
/// # Panics
/// Where the lengths do not fit together.
pub fn chains(isa: Isa, x: &[f32], rows: &[f32], stride: usize, out: &mut [f32]) {
    assert!(stride >= x.len() && stride > 0 && rows.len() >= out.len() * stride);
    isa.run(Chains { x, rows, stride, out });
}
