//! The activation functions of T5's feed-forward layers.

use crate::math::{erf, exp, sigmoid};
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
    match activation {
        // NaN passes: the bound stands first.
        Activation::Relu => s.max(s.splat(0.0), x),
        // 0.5 (1 + tanh u) = sigmoid(2 u): one exp and one division
        Activation::GeluNew => {
            let x2 = s.mul(x, x);
            let inner = s.mul_add(s.mul(x2, s.splat(0.044_715)), x, x);
            s.mul(x, sigmoid(s, s.mul(inner, s.splat(1.595_769_1))))
        }
        Activation::Gelu => {
            let half = s.mul(x, s.splat(0.5));
            s.mul_add(half, erf(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2))), half)
        }
        Activation::Silu => s.mul(x, sigmoid(s, x)),
        // 1 - 2 / (1 + e^2x)
        Activation::Tanh => {
            let one = s.splat(1.0);
            let e = exp(s, s.add(x, x));
            s.sub(one, s.div(s.splat(2.0), s.add(one, e)))
        }
    }
}
