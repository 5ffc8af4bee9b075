//! AVX-512 F, BW, DQ, VL and VNNI (Ice Lake, Zen 4 and later): one `zmm` a virtual register.
//!
//! Earlier processors with AVX-512 but without VNNI take AVX2: they clock down for wide registers.

use super::{Kernel, Simd};
use std::arch::x86_64::*;

/// Proof of the features that [`probe`] asks for.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

pub(super) fn probe() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
        && super::avx2::probe()
}

/// # Safety
/// [`probe`] was true.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Avx512(()))
}

/// Intrinsics that touch registers only.
macro_rules! registers {
    ($intrinsics:expr) => {{
        // SAFETY: used in methods of the proof, which exists only inside `run`, whose caller vouches for the features.
        unsafe { $intrinsics }
    }};
}

/// The lanes combined as [`Simd::sum`] says, in registers.
macro_rules! tree {
    ($v:expr, $combine8:ident, $combine4:ident) => {
        registers!({
            let v = $combine8(_mm512_castps512_ps256($v), _mm512_extractf32x8_ps::<1>($v));
            let v = $combine4(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = $combine4(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32($combine4(v, _mm_movehdup_ps(v)))
        })
    };
}

impl Simd for Avx512 {
    type F = __m512;
    const ROWS: usize = 12;
    const PANELS: usize = 2;
    const TOGETHER: usize = 4;
    const TILES: bool = true;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        registers!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: the caller vouches for reading 16 values at `p`, the proof for the features.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> __m512 {
        // SAFETY: the caller vouches for reading 16 values at `p`, the proof for the features.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())))) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> __m512 {
        // SAFETY: the caller vouches for reading 16 values at `p`, the proof for the features.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_i16(self, p: *const i16) -> __m512 {
        // SAFETY: the caller vouches for reading 16 values at `p`, the proof for the features.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_quarters(self, p: [*const f32; 4]) -> __m512 {
        // SAFETY: the caller vouches for reading 4 values at each of `p`, the proof for the features.
        unsafe {
            let v = _mm512_castps128_ps512(_mm_loadu_ps(p[0]));
            let v = _mm512_insertf32x4::<1>(v, _mm_loadu_ps(p[1]));
            let v = _mm512_insertf32x4::<2>(v, _mm_loadu_ps(p[2]));
            _mm512_insertf32x4::<3>(v, _mm_loadu_ps(p[3]))
        }
    }
    #[inline(always)]
    fn turn_quarters(self, [a, b, c, d]: [__m512; 4]) -> [__m512; 4] {
        registers!({
            let pairs = |a, b| (_mm512_castps_pd(_mm512_unpacklo_ps(a, b)), _mm512_castps_pd(_mm512_unpackhi_ps(a, b)));
            let ((ab, ab_high), (cd, cd_high)) = (pairs(a, b), pairs(c, d));
            [
                _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)),
                _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)),
                _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high)),
                _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high)),
            ]
        })
    }
    #[inline(always)]
    unsafe fn weave(self, rows: [*const f32; 4], to: *mut f32) {
        // SAFETY: the caller vouches for reading 4 values of each row and for writing 16 at `to`, the proof for the features.
        unsafe {
            let turned = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            self.store(to, _mm512_permutexvar_ps(turned, self.load_quarters(rows)));
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: the caller vouches for writing 16 values at `p`, the proof for the features.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, v: __m512) {
        // SAFETY: the caller vouches for writing 16 values at `p`, the proof for the features.
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        registers!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        registers!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        registers!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        registers!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        registers!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        registers!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        registers!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn select_lt(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        registers!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes))
    }
    #[inline(always)]
    fn sum_pairs(self, a: __m512, b: __m512) -> __m512 {
        registers!(_mm512_add_ps(_mm512_shuffle_ps::<0b10_00_10_00>(a, b), _mm512_shuffle_ps::<0b11_01_11_01>(a, b)))
    }
    #[inline(always)]
    fn pow2(self, n: __m512) -> __m512 {
        registers!({
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        })
    }

    #[inline(always)]
    fn scale(self, x: __m512, n: __m512) -> __m512 {
        registers!(_mm512_scalef_ps(x, n))
    }

    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        registers!(_mm_prefetch::<_MM_HINT_T1>(p.cast()))
    }

    type I = __m512i;

    #[inline(always)]
    fn int_zero(self) -> __m512i {
        registers!(_mm512_setzero_si512())
    }
    #[inline(always)]
    unsafe fn dot4(self, sum: __m512i, a: u32, w: *const i8) -> __m512i {
        // SAFETY: the caller vouches for reading 64 bytes at `w`, the proof for the features.
        unsafe { _mm512_dpbusd_epi32(sum, _mm512_set1_epi32(a as i32), _mm512_loadu_si512(w.cast())) }
    }
    /// `vpdpbusd` takes unsigned bytes: 128 more than the signed ones.
    #[inline(always)]
    fn signed(bytes: u32) -> u32 {
        bytes ^ 0x8080_8080
    }
    #[inline(always)]
    unsafe fn dot4_signed(self, sum: __m512i, a: u32, w: *const i8) -> __m512i {
        // SAFETY: as the caller's.
        unsafe { self.dot4(sum, a, w) }
    }
    #[inline(always)]
    unsafe fn int_signed(self, sum: __m512i, sub: *const i32) -> __m512i {
        // SAFETY: the caller vouches for reading 16 i32 at `sub`, the proof for the features.
        unsafe { _mm512_sub_epi32(sum, _mm512_slli_epi32::<7>(_mm512_loadu_si512(sub.cast()))) }
    }
    #[inline(always)]
    fn int_add(self, a: __m512i, b: __m512i) -> __m512i {
        registers!(_mm512_add_epi32(a, b))
    }
    #[inline(always)]
    unsafe fn int_less(self, sum: __m512i, sub: *const i32) -> __m512i {
        // SAFETY: the caller vouches for reading 16 i32 at `sub`, the proof for the features.
        unsafe { _mm512_sub_epi32(sum, _mm512_slli_epi32::<6>(_mm512_loadu_si512(sub.cast()))) }
    }
    #[inline(always)]
    fn int_join(self, high: __m512i, low: __m512i) -> __m512i {
        registers!(_mm512_add_epi32(_mm512_slli_epi32::<7>(high), low))
    }
    #[inline(always)]
    unsafe fn int_load(self, p: *const i32) -> __m512i {
        // SAFETY: the caller vouches for reading 16 i32 at `p`, the proof for the features.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    fn int_to_f32(self, v: __m512i) -> __m512 {
        registers!(_mm512_cvtepi32_ps(v))
    }
    #[inline(always)]
    unsafe fn store_i8(self, p: *mut i8, v: __m512) {
        // SAFETY: the caller vouches for writing 16 bytes at `p`, the proof for the features.
        unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v))) }
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        tree!(v, _mm256_add_ps, _mm_add_ps)
    }
    #[inline(always)]
    fn max_lane(self, v: __m512) -> f32 {
        tree!(v, _mm256_max_ps, _mm_max_ps)
    }
}
