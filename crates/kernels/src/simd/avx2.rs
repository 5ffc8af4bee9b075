//! AVX2 with FMA and F16C: two `ymm` a virtual register. With AVX-VNNI (Intel's cores since Alder Lake, which have no AVX-512) integer
//! products are one instruction instead of three or four.

use super::{Kernel, Simd};
use std::arch::x86_64::*;

/// Proof of AVX2, FMA and F16C, and of AVX-VNNI where so said.
#[derive(Clone, Copy)]
pub(super) struct Avx2<const VNNI: bool>(());

pub(super) fn probe() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// # Safety
/// [`probe`] was true.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Avx2::<false>(()))
}

pub(super) fn probe_vnni() -> bool {
    is_x86_feature_detected!("avxvnni") && probe()
}

/// # Safety
/// [`probe_vnni`] was true.
#[target_feature(enable = "avxvnni,avx2,fma,f16c")]
pub(super) unsafe fn run_vnni<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Avx2::<true>(()))
}

type F = (__m256, __m256);

/// Words of [`Simd::dot16`].
const WORDS: usize = 4;

/// Intrinsics that touch registers only.
macro_rules! registers {
    ($intrinsics:expr) => {{
        // SAFETY: used in methods of the proof, which exists only inside `run` and `run_vnni`, whose caller vouches for the features.
        unsafe { $intrinsics }
    }};
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type F = F;
    // 6 x 1 panel: 12 accumulators, 2 weights and 1 broadcast of the 16 registers.
    const ROWS: usize = 6;
    const PANELS: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        let v = registers!(_mm256_set1_ps(x));
        (v, v)
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> F {
        // SAFETY: the caller vouches for reading 16 values at `p`, the proof for the features.
        unsafe { (_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> F {
        // SAFETY: the caller vouches for reading 16 values at `p`, the proof for the features.
        unsafe {
            let widen = |v| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(v)));
            (widen(_mm_loadu_si128(p.cast())), widen(_mm_loadu_si128(p.add(8).cast())))
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> F {
        // SAFETY: the caller vouches for reading 16 values at `p`, the proof for the features.
        unsafe { (_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast()))) }
    }
    #[inline(always)]
    unsafe fn load_i16(self, p: *const i16) -> F {
        // SAFETY: the caller vouches for reading 16 values at `p`, the proof for the features.
        unsafe {
            let widen = |v| _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(v));
            (widen(_mm_loadu_si128(p.cast())), widen(_mm_loadu_si128(p.add(8).cast())))
        }
    }
    #[inline(always)]
    unsafe fn load_quarters(self, p: [*const f32; 4]) -> F {
        // SAFETY: the caller vouches for reading 4 values at each of `p`, the proof for the features.
        unsafe { (_mm256_loadu2_m128(p[1], p[0]), _mm256_loadu2_m128(p[3], p[2])) }
    }
    #[inline(always)]
    fn turn_quarters(self, [a, b, c, d]: [F; 4]) -> [F; 4] {
        // No closures: of this size they stay functions of their own, which have not the instruction set.
        macro_rules! pairs {
            ($unpack:ident, $a:expr, $b:expr) => {
                (_mm256_castps_pd($unpack($a.0, $b.0)), _mm256_castps_pd($unpack($a.1, $b.1)))
            };
        }
        macro_rules! fours {
            ($unpack:ident, $a:expr, $b:expr) => {
                (_mm256_castpd_ps($unpack($a.0, $b.0)), _mm256_castpd_ps($unpack($a.1, $b.1)))
            };
        }
        registers!({
            let (ab, ab_high) = (pairs!(_mm256_unpacklo_ps, a, b), pairs!(_mm256_unpackhi_ps, a, b));
            let (cd, cd_high) = (pairs!(_mm256_unpacklo_ps, c, d), pairs!(_mm256_unpackhi_ps, c, d));
            [
                fours!(_mm256_unpacklo_pd, ab, cd),
                fours!(_mm256_unpackhi_pd, ab, cd),
                fours!(_mm256_unpacklo_pd, ab_high, cd_high),
                fours!(_mm256_unpackhi_pd, ab_high, cd_high),
            ]
        })
    }
    #[inline(always)]
    unsafe fn weave(self, [a, b, ..]: [*const f32; 4], to: *mut f32) {
        // SAFETY: the caller vouches for reading 8 values of two rows and for writing 16 at `to`, the proof for the features.
        unsafe {
            let (a, b) = (_mm256_loadu_ps(a), _mm256_loadu_ps(b));
            let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            self.store(to, (_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high)));
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: F) {
        // SAFETY: the caller vouches for writing 16 values at `p`, the proof for the features.
        unsafe {
            _mm256_storeu_ps(p, v.0);
            _mm256_storeu_ps(p.add(8), v.1);
        }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, v: F) {
        // SAFETY: the caller vouches for writing 16 values at `p`, the proof for the features.
        unsafe {
            _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v.0));
            _mm_storeu_si128(p.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v.1));
        }
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        registers!((_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        registers!((_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        registers!((_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        registers!((_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn mul_add(self, a: F, b: F, c: F) -> F {
        registers!((_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)))
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        registers!((_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        registers!((_mm256_min_ps(a.0, b.0), _mm256_min_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn select_lt(self, a: F, b: F, yes: F, no: F) -> F {
        registers!({
            (
                _mm256_blendv_ps(no.0, yes.0, _mm256_cmp_ps::<_CMP_LT_OQ>(a.0, b.0)),
                _mm256_blendv_ps(no.1, yes.1, _mm256_cmp_ps::<_CMP_LT_OQ>(a.1, b.1)),
            )
        })
    }
    #[inline(always)]
    fn sum_pairs(self, a: F, b: F) -> F {
        macro_rules! sum {
            ($a:expr, $b:expr) => {
                _mm256_add_ps(_mm256_shuffle_ps::<0b10_00_10_00>($a, $b), _mm256_shuffle_ps::<0b11_01_11_01>($a, $b))
            };
        }
        registers!((sum!(a.0, b.0), sum!(a.1, b.1)))
    }
    #[inline(always)]
    fn pow2(self, n: F) -> F {
        registers!({
            let bias = _mm256_set1_epi32(127);
            let pow = |n| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), bias)));
            (pow(n.0), pow(n.1))
        })
    }

    // A scan of the screen of 32128 x 256 for one query and two: 731 and 966 us without, 610 and 677 with; a step of int8 layers takes
    // 14 % less (Zen 1, in turn). On Zen 3 A takes 31.4 ms instead of 35.9, in int8 17.0 instead of 20.9. Zen 4 loses by it, and has
    // AVX-512; processors of others with AVX2 alone were not measured.
    const LONE_ASK: bool = !VNNI;
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        registers!(_mm_prefetch::<_MM_HINT_T1>(p.cast()))
    }

    type I = (__m256i, __m256i);

    #[inline(always)]
    fn int_zero(self) -> Self::I {
        registers!((_mm256_setzero_si256(), _mm256_setzero_si256()))
    }
    #[inline(always)]
    unsafe fn dot4(self, sum: Self::I, a: u32, w: *const i8) -> Self::I {
        // SAFETY: the caller vouches for reading 64 bytes at `w`, the proof for the features.
        unsafe {
            let a = _mm256_set1_epi32(a as i32);
            if VNNI {
                let (first, second) = (_mm256_loadu_si256(w.cast()), _mm256_loadu_si256(w.add(32).cast()));
                return (_mm256_dpbusd_avx_epi32(sum.0, a, first), _mm256_dpbusd_avx_epi32(sum.1, a, second));
            }
            // Pairs of products are at most 2 * 128 * 127: no i16 saturates.
            let ones = _mm256_set1_epi16(1);
            let quads = |w: *const i8| _mm256_madd_epi16(_mm256_maddubs_epi16(a, _mm256_loadu_si256(w.cast())), ones);
            (_mm256_add_epi32(sum.0, quads(w)), _mm256_add_epi32(sum.1, quads(w.add(32))))
        }
    }
    // `vpmaddubsw` and `vpmaddwd` share units that other instructions do not need (one of the four of Zen 1, two of Zen 3): five of them
    // instead of eight.
    const SIXTEENS: bool = !VNNI;
    #[inline(always)]
    unsafe fn dot16<const M: usize>(self, mut sums: [Self::I; M], a: [*const u32; M], w: *const i8) -> [Self::I; M] {
        // SAFETY: the caller vouches for reading 832 bytes at `w` and 25 words at each of `a`, the proof for the features.
        unsafe {
            let (zero, ones) = (_mm256_setzero_si256(), _mm256_set1_epi16(1));
            // For M of 2 thirteen of 16 registers: 4 sums, 4 numbers of 16 bits, 2 weights, a broadcast, a product and the ones.
            let mut pairs = [(zero, zero); M];
            unrolled!(WORDS of 4, i => {
                let (first, second) = (_mm256_loadu_si256(w.add(i * 256).cast()), _mm256_loadu_si256(w.add(i * 256 + 32).cast()));
                unrolled!(M of 4, m => {
                    let a = _mm256_set1_epi32(*a[m].add(i * 8) as i32);
                    let products = (_mm256_maddubs_epi16(a, first), _mm256_maddubs_epi16(a, second));
                    pairs[m] = (_mm256_add_epi16(pairs[m].0, products.0), _mm256_add_epi16(pairs[m].1, products.1));
                });
            });
            unrolled!(M of 4, m => {
                sums[m].0 = _mm256_add_epi32(sums[m].0, _mm256_madd_epi16(pairs[m].0, ones));
                sums[m].1 = _mm256_add_epi32(sums[m].1, _mm256_madd_epi16(pairs[m].1, ones));
            });
        }
        sums
    }
    /// Both instructions take unsigned bytes: 128 more than the signed ones, or 64 more, each byte added for itself, so that no sum of
    /// two products overflows 16 bits.
    #[inline(always)]
    fn signed(bytes: u32) -> u32 {
        if VNNI { bytes ^ 0x8080_8080 } else { ((bytes & 0x7f7f_7f7f) + 0x4040_4040) ^ (bytes & 0x8080_8080) }
    }
    #[inline(always)]
    unsafe fn dot4_signed(self, sum: Self::I, a: u32, w: *const i8) -> Self::I {
        // SAFETY: as the caller's.
        unsafe { self.dot4(sum, a, w) }
    }
    // Without VNNI, bytes of 8 bits and a sign would overflow 16 bits. With signs moved to the weights (`vpsignb`) 8 bits a number took as
    // long as 16: 137 and 148 GOP/s in registers, where bytes below 128 reach 199 (Zen 3).
    const PAIRS: bool = !VNNI;
    #[inline(always)]
    unsafe fn dot4_pairs(self, sum: Self::I, a: u32, b: u32, w: *const i8) -> Self::I {
        // SAFETY: the caller vouches for reading 64 bytes at `w`, the proof for the features.
        unsafe {
            let (a, b) = (_mm256_set1_epi32(a as i32), _mm256_set1_epi32(b as i32));
            let add = |sum, w: *const i8| {
                let w = _mm256_loadu_si256(w.cast());
                // The bytes of each word, the lower and the upper, in 16 bits; several rows share them.
                let (lower, upper) = (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(w)), _mm256_srai_epi16::<8>(w));
                _mm256_add_epi32(_mm256_add_epi32(sum, _mm256_madd_epi16(a, lower)), _mm256_madd_epi16(b, upper))
            };
            (add(sum.0, w), add(sum.1, w.add(32)))
        }
    }
    #[inline(always)]
    unsafe fn store_pairs(self, p: *mut u32, v: F) {
        // SAFETY: the caller vouches for writing 8 words at `p`, the proof for the features.
        unsafe {
            let exchanged = |v| _mm256_shuffle_epi32::<0b11_01_10_00>(_mm256_cvtps_epi32(v));
            let words = _mm256_packs_epi32(exchanged(v.0), exchanged(v.1));
            // `packs` works in halves: 0-3 8-11 4-7 12-15.
            _mm256_storeu_si256(p.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(words));
        }
    }
    #[inline(always)]
    unsafe fn int_signed(self, sum: Self::I, sub: *const i32) -> Self::I {
        if !VNNI {
            // SAFETY: as the caller's.
            return unsafe { self.int_less(sum, sub) };
        }
        // SAFETY: as the caller's.
        let sub = unsafe { self.int_load(sub) };
        let less = |sum, sub| registers!(_mm256_sub_epi32(sum, _mm256_slli_epi32::<7>(sub)));
        (less(sum.0, sub.0), less(sum.1, sub.1))
    }
    #[inline(always)]
    unsafe fn int_less(self, sum: Self::I, sub: *const i32) -> Self::I {
        // SAFETY: as the caller's.
        let sub = unsafe { self.int_load(sub) };
        let less = |sum, sub| registers!(_mm256_sub_epi32(sum, _mm256_slli_epi32::<6>(sub)));
        (less(sum.0, sub.0), less(sum.1, sub.1))
    }
    #[inline(always)]
    fn int_add(self, a: Self::I, b: Self::I) -> Self::I {
        registers!((_mm256_add_epi32(a.0, b.0), _mm256_add_epi32(a.1, b.1)))
    }
    #[inline(always)]
    fn int_join(self, high: Self::I, low: Self::I) -> Self::I {
        let join = |high, low| registers!(_mm256_add_epi32(_mm256_slli_epi32::<7>(high), low));
        (join(high.0, low.0), join(high.1, low.1))
    }
    #[inline(always)]
    unsafe fn int_load(self, p: *const i32) -> Self::I {
        // SAFETY: the caller vouches for reading 16 i32 at `p`, the proof for the features.
        unsafe { (_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(8).cast())) }
    }
    #[inline(always)]
    fn int_to_f32(self, v: Self::I) -> F {
        registers!((_mm256_cvtepi32_ps(v.0), _mm256_cvtepi32_ps(v.1)))
    }
    #[inline(always)]
    unsafe fn store_i8(self, p: *mut i8, v: F) {
        // SAFETY: the caller vouches for writing 16 bytes at `p`, the proof for the features.
        unsafe {
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(v.0), _mm256_cvtps_epi32(v.1));
            // `packs` works in halves: 0-3 8-11 4-7 12-15.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(p.cast(), bytes);
        }
    }
}
