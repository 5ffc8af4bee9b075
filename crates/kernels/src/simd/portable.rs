//! Any processor: `wide` for sums, products and comparisons, `f32::mul_add` a lane where one rounding is promised.
//!
//! `wide`'s own `mul_add` rounds twice unless the build says at compile time that the processor has FMA, so it is not
//! used. Without the hardware `f32::mul_add` is a slow library call: this row is for correctness, not for speed.

use super::{Kernel, LANES, Simd};
use std::array::from_fn;
use wide::f32x8;

#[derive(Clone, Copy)]
pub(super) struct Portable;

pub(super) fn run<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Portable)
}

type F = [f32x8; 2];

#[inline(always)]
fn lanes(v: F) -> [f32; LANES] {
    let (low, high) = (v[0].to_array(), v[1].to_array());
    from_fn(|i| if i < 8 { low[i] } else { high[i - 8] })
}

#[inline(always)]
fn from_lanes(v: [f32; LANES]) -> F {
    [f32x8::new(from_fn(|i| v[i])), f32x8::new(from_fn(|i| v[i + 8]))]
}

#[inline(always)]
fn each(a: F, b: F, f: impl Fn(f32x8, f32x8) -> f32x8) -> F {
    [f(a[0], b[0]), f(a[1], b[1])]
}

/// Not inlined: 16 library calls at every place would be a quarter of a megabyte of a binary.
#[inline(never)]
fn fma(a: F, b: F, c: F) -> F {
    let (a, b, c) = (lanes(a), lanes(b), lanes(c));
    from_lanes(from_fn(|i| a[i].mul_add(b[i], c[i])))
}

#[inline(never)]
fn from_f16(bits: [u16; LANES]) -> F {
    from_lanes(bits.map(|b| half::f16::from_bits(b).to_f32_const()))
}

#[inline(never)]
fn pow2(n: F) -> F {
    from_lanes(lanes(n).map(|n| f32::from_bits((n as i32).wrapping_add(127).wrapping_shl(23) as u32)))
}

#[inline(never)]
fn dot4(sum: [i32; LANES], a: [i32; 4], w: [[i8; 4]; LANES]) -> [i32; LANES] {
    from_fn(|i| (0..4).fold(sum[i], |sum, j| sum + a[j] * i32::from(w[i][j])))
}

impl Simd for Portable {
    type F = F;
    const ROWS: usize = 2;
    const PANELS: usize = 1;
    const WIDEST: usize = 1; // every operation is many instructions: wider tiles would be code, not speed

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        [f32x8::splat(x); 2]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> F {
        // SAFETY: the caller vouches for 16 readable f32; the read does not ask for alignment.
        from_lanes(unsafe { p.cast::<[f32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> F {
        // SAFETY: the caller vouches for 16 readable u16.
        let bits = unsafe { p.cast::<[u16; LANES]>().read_unaligned() };
        from_lanes(bits.map(|b| f32::from_bits(u32::from(b) << 16)))
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> F {
        // SAFETY: the caller vouches for 16 readable u16.
        let bits = unsafe { p.cast::<[u16; LANES]>().read_unaligned() };
        from_f16(bits)
    }
    #[inline(always)]
    unsafe fn load_i16(self, p: *const i16) -> F {
        // SAFETY: the caller vouches for 16 readable i16.
        from_lanes(unsafe { p.cast::<[i16; LANES]>().read_unaligned() }.map(f32::from))
    }
    #[inline(always)]
    unsafe fn load_quarters(self, p: [*const f32; 4]) -> F {
        // SAFETY: the caller vouches for 4 readable f32 at each of `p`.
        let quarters = p.map(|p| unsafe { p.cast::<[f32; 4]>().read_unaligned() });
        from_lanes(from_fn(|i| quarters[i / 4][i % 4]))
    }
    #[inline(always)]
    fn turn_quarters(self, v: [F; 4]) -> [F; 4] {
        let v = v.map(lanes);
        from_fn(|j| from_lanes(from_fn(|i| v[i % 4][i / 4 * 4 + j])))
    }
    #[inline(always)]
    unsafe fn weave(self, [a, b, ..]: [*const f32; 4], to: *mut f32) {
        // SAFETY: the caller vouches for 8 readable f32 of two rows and for 16 writable ones.
        unsafe {
            let rows = [a, b].map(|row| row.cast::<[f32; LANES / 2]>().read_unaligned());
            self.store(to, from_lanes(from_fn(|i| rows[i % 2][i / 2])));
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: F) {
        // SAFETY: the caller vouches for 16 writable f32.
        unsafe { p.cast::<[f32; LANES]>().write_unaligned(lanes(v)) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, v: F) {
        let bits = lanes(v).map(|x| half::f16::from_f32_const(x).to_bits());
        // SAFETY: the caller vouches for 16 writable u16; the write does not ask for alignment.
        unsafe { p.cast::<[u16; LANES]>().write_unaligned(bits) }
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        each(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        each(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        each(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        each(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn mul_add(self, a: F, b: F, c: F) -> F {
        fma(a, b, c)
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        self.select_lt(b, a, a, b)
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        self.select_lt(a, b, a, b)
    }
    #[inline(always)]
    fn select_lt(self, a: F, b: F, yes: F, no: F) -> F {
        from_fn(|i| a[i].simd_lt(b[i]).select(yes[i], no[i]))
    }
    #[inline(always)]
    fn sum_pairs(self, a: F, b: F) -> F {
        let (a, b) = (lanes(a), lanes(b));
        from_lanes(from_fn(|i| {
            if i < LANES / 2 { a[2 * i] + a[2 * i + 1] } else { b[2 * i - LANES] + b[2 * i - LANES + 1] }
        }))
    }
    #[inline(always)]
    fn pow2(self, n: F) -> F {
        pow2(n)
    }

    type I = [i32; LANES];

    #[inline(always)]
    fn int_zero(self) -> Self::I {
        [0; LANES]
    }
    #[inline(always)]
    unsafe fn dot4(self, sum: Self::I, a: u32, w: *const i8) -> Self::I {
        // SAFETY: the caller vouches for 64 readable bytes.
        let w = unsafe { w.cast::<[[i8; 4]; LANES]>().read_unaligned() };
        dot4(sum, a.to_le_bytes().map(i32::from), w)
    }
    #[inline(always)]
    unsafe fn dot4_signed(self, sum: Self::I, a: u32, w: *const i8) -> Self::I {
        // SAFETY: the caller vouches for 64 readable bytes.
        let w = unsafe { w.cast::<[[i8; 4]; LANES]>().read_unaligned() };
        dot4(sum, a.to_le_bytes().map(|a| i32::from(a as i8)), w)
    }
    #[inline(always)]
    unsafe fn int_signed(self, sum: Self::I, _: *const i32) -> Self::I {
        sum
    }
    #[inline(always)]
    fn int_add(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    unsafe fn int_less(self, sum: Self::I, sub: *const i32) -> Self::I {
        // SAFETY: as the caller's.
        let sub = unsafe { self.int_load(sub) };
        from_fn(|i| sum[i].wrapping_sub(sub[i] << 6))
    }
    #[inline(always)]
    fn int_join(self, high: Self::I, low: Self::I) -> Self::I {
        from_fn(|i| (high[i] << 7).wrapping_add(low[i]))
    }
    #[inline(always)]
    unsafe fn int_load(self, p: *const i32) -> Self::I {
        // SAFETY: the caller vouches for 16 readable i32.
        unsafe { p.cast::<[i32; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    fn int_to_f32(self, v: Self::I) -> F {
        from_lanes(v.map(|x| x as f32))
    }
    #[inline(always)]
    unsafe fn store_i8(self, p: *mut i8, v: F) {
        // SAFETY: the caller vouches for 16 writable bytes.
        unsafe { p.cast::<[i8; LANES]>().write_unaligned(lanes(v).map(|x| x as i8)) }
    }
}
