//! exp, the logarithm, sigmoid and erf over 16 lanes, in one fixed order of operations.
//!
//! Written in fused form over the virtual width, so that every instruction set gives the same bits; no library's libm
//! takes part. Errors are bounds that the tests hold them to.

use crate::simd::Simd;

/// Below it [`exp`] gives 0: e^x is then smaller than the smallest normal number.
const EXP_LOW: f32 = -87.336_54;
/// Above it [`exp`] gives infinity.
const EXP_HIGH: f32 = 88.722_83;

/// e^x within 1 ulp where the result is a normal number; 0 below, infinity above, NaN for NaN.
///
/// n = round(x / ln 2), r = x - n ln 2 in two fused steps (Cody and Waite), a polynomial of degree 6 on
/// [-ln 2 / 2, ln 2 / 2], times 2^n.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    let (low, high) = (s.splat(EXP_LOW), s.splat(EXP_HIGH));
    // The bound stands first, so that NaN passes through.
    let clamped = s.min(high, s.max(low, x));
    // Adding 1.5 * 2^23 leaves no room for a fraction: the sum is rounded to a whole number.
    let magic = s.splat(12_582_912.0);
    let n = s.sub(s.mul_add(clamped, s.splat(std::f32::consts::LOG2_E), magic), magic);
    let r = s.mul_add(n, s.splat(-0.693_145_75), clamped);
    let r = s.mul_add(n, s.splat(-1.428_606_8e-6), r);
    let mut p = s.splat(1.378_059_4e-3);
    for c in [8.373_124e-3, 4.166_953e-2, 1.666_647_2e-1, 4.999_999e-1, 1.0, 1.0] {
        p = s.mul_add(p, r, s.splat(c));
    }
    let y = s.select_lt(x, low, s.splat(0.0), s.scale(p, n));
    s.select_lt(high, x, s.splat(f32::INFINITY), y)
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

/// The error function, within 2 ulp.
///
/// Source of the two polynomials: N. Juffa's `my_erff` (answer 35148199 on Stack Overflow, BSD 2-clause), which is
/// faithfully rounded over a faithfully rounded exp.
#[inline(always)]
pub(crate) fn erf<S: Simd>(s: S, x: S::F) -> S::F {
    let zero = s.splat(0.0);
    let t = s.select_lt(x, zero, s.sub(zero, x), x);
    let x2 = s.mul(x, x);
    let fma = |a, b, c: f32| s.mul_add(a, b, s.splat(c));
    // |x| > 0.927734375: 1 - e^p(t)
    let r = fma(s.splat(-1.728_534_7e-5), t, 3.831_971_3e-4);
    let u = fma(s.splat(-3.883_964_4e-3), t, 2.425_462_2e-2);
    let r = s.mul_add(r, x2, u);
    let r = fma(r, t, -1.067_778_8e-1);
    let r = fma(r, t, -6.348_467e-1);
    let r = fma(r, t, -1.287_175_1e-1);
    let r = s.mul_add(r, t, s.sub(zero, t));
    let large = s.sub(s.splat(1.0), exp(s, r));
    let large = s.select_lt(x, zero, s.sub(zero, large), large);
    // The rest: x + x p(x^2)
    let mut p = s.splat(-5.967_617e-4);
    for c in [4.991_194_2e-3, -2.676_813_5e-2, 1.128_199_25e-1, -3.761_253_4e-1, 1.283_791_7e-1] {
        p = fma(p, x2, c);
    }
    let small = s.mul_add(p, x, x);
    s.select_lt(s.splat(0.927_734_4), t, large, small)
}

/// The natural logarithm of a positive finite number, within 1e-15 relative; the same bits on every machine.
///
/// x = 2^e m with m in [sqrt 1/2, sqrt 2); ln m = 2 artanh((m - 1) / (m + 1)) as a series.
#[must_use]
pub fn ln(x: f64) -> f64 {
    if x.is_nan() || x <= 0.0 || x == f64::INFINITY {
        return if x == 0.0 {
            f64::NEG_INFINITY
        } else if x == f64::INFINITY {
            x
        } else {
            f64::NAN
        };
    }
    let (x, shift) = if x < f64::MIN_POSITIVE { (x * 18_014_398_509_481_984.0, 54) } else { (x, 0) };
    let bits = x.to_bits();
    let mut e = ((bits >> 52) as i64) - 1023 - shift;
    let mut m = f64::from_bits(bits & 0x000f_ffff_ffff_ffff | 0x3ff0_0000_0000_0000);
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        e += 1;
    }
    let t = (m - 1.0) / (m + 1.0);
    let t2 = t * t;
    // t2 <= 0.0295: 11 terms leave less than 1e-17.
    let mut series = 0.0;
    for k in (1..=11).rev() {
        series = series * t2 + 1.0 / f64::from(2 * k + 1);
    }
    let e = e as f64;
    e * std::f64::consts::LN_2 + 2.0 * (t + t * t2 * series)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, Kernel, LANES};

    #[derive(Clone, Copy)]
    enum F {
        Exp,
        Erf,
        Sigmoid,
    }
    struct Apply([f32; LANES], F);
    impl Kernel for Apply {
        type Out = [f32; LANES];
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> [f32; LANES] {
            let x = s.load_array(&self.0);
            s.to_array(match self.1 {
                F::Exp => exp(s, x),
                F::Erf => erf(s, x),
                F::Sigmoid => sigmoid(s, x),
            })
        }
    }

    fn ulps(got: f32, exact: f64) -> f64 {
        let near = exact as f32;
        let ulp = f64::from(f32::from_bits(near.abs().to_bits() + 1)) - f64::from(near.abs());
        (f64::from(got) - exact).abs() / ulp
    }

    /// Largest error in ulp over every `step`-th f32, after checking that every instruction set agrees.
    fn worst(f: F, step: usize, exact: impl Fn(f64) -> f64, applies: impl Fn(f32) -> bool) -> f64 {
        let mut worst = 0f64;
        let mut block = [0f32; LANES];
        let mut filled = 0;
        for bits in (0..=u32::MAX).step_by(step) {
            block[filled] = f32::from_bits(bits);
            filled += 1;
            if filled < LANES {
                continue;
            }
            filled = 0;
            let all: Vec<_> = Isa::available().iter().map(|isa| isa.run(Apply(block, f))).collect();
            for y in &all {
                for (a, b) in y.iter().zip(&all[0]) {
                    assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "{block:?}: {all:?}");
                }
            }
            for (x, y) in block.iter().zip(all[0]) {
                if applies(*x) {
                    worst = worst.max(ulps(y, exact(f64::from(*x))));
                }
            }
        }
        worst
    }

    /// erf as its Taylor series and, from 3 on, its continued fraction.
    fn erf_f64(x: f64) -> f64 {
        let a = x.abs();
        let y = if a < 3.0 {
            let (mut term, mut sum, mut n) = (a, a, 0.0);
            while term.abs() > 1e-18 * sum.abs() {
                n += 1.0;
                term *= -a * a / n;
                sum += term / (2.0 * n + 1.0);
            }
            sum * 2.0 / std::f64::consts::PI.sqrt()
        } else {
            let mut f = a;
            for k in (1..60).rev() {
                f = a + f64::from(k) * 0.5 / f;
            }
            1.0 - (-a * a).exp() / (f * std::f64::consts::PI.sqrt())
        };
        y.copysign(x)
    }

    #[test]
    fn exp_is_within_one_ulp() {
        let normal = |x: f32| (EXP_LOW..=EXP_HIGH).contains(&x);
        assert!(worst(F::Exp, 9973, f64::exp, normal) <= 1.0);
    }

    #[test]
    #[ignore = "all 2^32 inputs: minutes"]
    fn exp_is_within_one_ulp_everywhere() {
        let normal = |x: f32| (EXP_LOW..=EXP_HIGH).contains(&x);
        assert!(worst(F::Exp, 1, f64::exp, normal) <= 1.0);
    }

    #[test]
    fn exp_edges() {
        let mut x = [0.0; LANES];
        x[..9].copy_from_slice(&[0.0, -0.0, f32::NEG_INFINITY, f32::INFINITY, f32::NAN, 88.8, -87.5, 1.0, -1e30]);
        for isa in Isa::available() {
            let y = isa.run(Apply(x, F::Exp));
            assert_eq!(
                (y[0], y[1], y[2], y[3], y[5], y[6], y[8]),
                (1.0, 1.0, 0.0, f32::INFINITY, f32::INFINITY, 0.0, 0.0)
            );
            assert!(y[4].is_nan());
        }
    }

    #[test]
    fn erf_is_within_two_ulp() {
        let applies = |x: f32| x.is_finite() && x.abs() > 1e-30;
        assert!(worst(F::Erf, 99_991, erf_f64, applies) <= 2.0);
    }

    #[test]
    fn sigmoid_is_within_four_ulp() {
        let applies = |x: f32| x.abs() < 80.0;
        assert!(worst(F::Sigmoid, 99_991, |x| 1.0 / (1.0 + (-x).exp()), applies) <= 4.0);
    }

    #[test]
    fn ln_is_near_the_library() {
        for i in 1..20_000u32 {
            let x = f64::from(i) * 0.013;
            assert!((ln(x) - x.ln()).abs() <= 2e-15 * x.ln().abs().max(1.0), "{x}");
        }
        assert_eq!(ln(0.0), f64::NEG_INFINITY);
        assert!(ln(-1.0).is_nan());
        assert!((ln(1e-310) - 1e-310f64.ln()).abs() < 1e-12);
    }
}
