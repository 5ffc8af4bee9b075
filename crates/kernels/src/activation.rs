//! The activation functions of T5's feed-forward layers.

use crate::math::{erf, sigmoid};
use crate::simd::Simd;

/// The function between a feed-forward layer's two products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x, or 0 where x is negative.
    Relu,
    /// 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))): `gelu_new`, `gelu_pytorch_tanh`.
    GeluNew,
    /// 0.5 x (1 + erf(x / sqrt 2)): `gelu`.
    Gelu,
    /// x / (1 + e^-x): `silu`, `swish`.
    Silu,
    /// tanh(x): in the head of sequence classification.
    Tanh,
}

#[inline(always)]
pub(crate) fn activate<S: Simd>(s: S, activation: Activation, x: S::F) -> S::F {
    let one = s.splat(1.0);
    match activation {
        // NaN passes: the bound stands first.
        Activation::Relu => s.max(s.splat(0.0), x),
        Activation::Gelu => {
            let half = s.mul(x, s.splat(0.5));
            s.mul_add(half, erf(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2))), half)
        }
        // x sigmoid(u): 0.5 (1 + tanh v) is sigmoid(2 v), so that one exp and one division serve the tanh form too; and
        // tanh x itself is 2 sigmoid(2 x) - 1.
        Activation::GeluNew | Activation::Silu | Activation::Tanh => {
            let (times, u) = match activation {
                Activation::GeluNew => {
                    let inner = s.mul_add(s.mul(s.mul(x, x), s.splat(0.044_715)), x, x);
                    (x, s.mul(inner, s.splat(1.595_769)))
                }
                Activation::Tanh => (one, s.add(x, x)),
                _ => (x, x),
            };
            let y = s.mul(times, sigmoid(s, u));
            if activation == Activation::Tanh { s.sub(s.add(y, y), one) } else { y }
        }
    }
}
