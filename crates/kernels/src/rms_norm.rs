//! RMSNorm: x / sqrt(mean(x^2) + epsilon) * weight, a row; no mean is taken away, no bias.
//!
//! The sum of squares runs in 16 lanes, index i in lane i mod 16, then the fixed tree. Source: transformers,
//! `T5LayerNorm.forward`.

use crate::region::Team;
use crate::simd::{Isa, Kernel, LANES, Simd, padded};

/// Rows of a chunk of a region.
const ROWS: usize = 64;

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    n: usize,
    epsilon: f32,
    out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.weight.len();
        let (weight, _) = self.weight.as_chunks::<LANES>();
        for (x, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            let (x, _) = x.as_chunks::<LANES>();
            let (out, _) = out.as_chunks_mut::<LANES>();
            let mut squares = s.splat(0.0);
            for lanes in x {
                let v = s.load_array(lanes);
                squares = s.mul_add(v, v, squares);
            }
            let scale = s.splat(1.0 / (s.sum(squares) / self.n as f32 + self.epsilon).sqrt());
            for ((lanes, w), o) in x.iter().zip(weight).zip(out) {
                s.write(s.mul(s.mul(s.load_array(lanes), scale), s.load_array(w)), o);
            }
        }
    }
}

/// Normalises rows.
///
/// `x` and `out` are `[rows, stride]`, row-major, with the stride `padded(n)`; `weight` is `[stride]`. The padding of `x`
/// and `weight` is zero, and stays so in `out`. `n` is d_model.
///
/// # Panics
/// Where the lengths do not fit together.
pub fn rms_norm(isa: Isa, team: &Team, x: &[f32], weight: &[f32], n: usize, epsilon: f32, out: &mut [f32]) {
    assert!(weight.len() == padded(n) && x.len() == out.len() && x.len().is_multiple_of(weight.len().max(1)));
    let piece = ROWS * weight.len();
    team.chunks_mut(out, piece, |i, out| {
        isa.run(RmsNorm { x: &x[i * piece..][..out.len()], weight, n, epsilon, out });
    });
}
