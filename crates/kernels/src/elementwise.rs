//! What is done to every number of a row alone.

use crate::activation::{Activation, activate};
use crate::region::Team;
use crate::simd::{Isa, Kernel, LANES, Simd};
use half::f16;

/// Floats of a chunk of a region.
const CHUNK: usize = 16 * 1024;

struct Activate<'a> {
    activation: Activation,
    x: &'a mut [f32],
}

impl Kernel for Activate<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (lanes, _) = self.x.as_chunks_mut::<LANES>();
        for x in lanes {
            s.write(activate(s, self.activation, s.load_array(x)), x);
        }
    }
}

/// x = activation(x). The length is a multiple of 16.
///
/// # Panics
/// Where it is not.
pub fn activate_rows(isa: Isa, team: &Team, activation: Activation, x: &mut [f32]) {
    assert!(x.len().is_multiple_of(LANES));
    team.chunks_mut(x, CHUNK, |_, x| isa.run(Activate { activation, x }));
}

struct Multiply<'a> {
    by: &'a [f32],
    x: &'a mut [f32],
}

impl Kernel for Multiply<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let ((by, _), (x, _)) = (self.by.as_chunks::<LANES>(), self.x.as_chunks_mut::<LANES>());
        for (by, x) in by.iter().zip(x) {
            s.write(s.mul(s.load_array(x), s.load_array(by)), x);
        }
    }
}

/// out = activation(left half) * right half, a row: the gated feed-forward.
///
/// `hidden` is [rows, 2 width], `out` [rows, width]; `width` is a multiple of 16.
///
/// # Panics
/// Where the lengths do not fit together.
pub fn gate_rows(isa: Isa, team: &Team, activation: Activation, hidden: &[f32], width: usize, out: &mut [f32]) {
    assert!(
        width > 0 && width.is_multiple_of(LANES) && hidden.len() == 2 * out.len() && out.len().is_multiple_of(width)
    );
    let rows = (CHUNK / width).max(1);
    team.chunks_mut(out, rows * width, |chunk, out| {
        let hidden = &hidden[chunk * rows * width * 2..][..2 * out.len()];
        // The activation's code is large and compiled once, for `activate_rows`; the rows are in the L1 cache.
        for (hidden, out) in hidden.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
            let (active, linear) = hidden.split_at(width);
            out.copy_from_slice(active);
            isa.run(Activate { activation, x: &mut *out });
            isa.run(Multiply { by: linear, x: out });
        }
    });
}

struct ToF16<'a> {
    x: &'a [f32],
    to: &'a mut [f16],
}

impl Kernel for ToF16<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let most = s.splat(f16::MAX.to_f32_const());
        for (x, to) in self.x.as_chunks::<LANES>().0.iter().zip(self.to.as_chunks_mut::<LANES>().0) {
            let x = s.max(s.sub(s.splat(0.0), most), s.min(most, s.load_array(x)));
            // SAFETY: `to` holds 16; f16 is a transparent u16.
            unsafe { s.store_f16(to.as_mut_ptr().cast(), x) };
        }
    }
}

/// Rounds to half precision, to nearest; what is beyond it becomes its largest number. The lengths are the same multiple of 16.
///
/// # Panics
/// Where they are not.
pub fn to_f16(isa: Isa, x: &[f32], to: &mut [f16]) {
    assert!(x.len().is_multiple_of(LANES) && x.len() == to.len());
    isa.run(ToF16 { x, to });
}

struct Narrows<'a>(&'a [[u8; 4]]);

impl Kernel for Narrows<'_> {
    type Out = (bool, bool);
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> (bool, bool) {
        // Plain integer code: the compiler turns it into vectors of the instruction set it is compiled for.
        let (mut low, mut not_f16) = (0u32, 0u32);
        for bytes in self.0 {
            let bits = u32::from_le_bytes(*bytes);
            low |= bits & 0xffff;
            // f16 keeps 10 bits of fraction and the exponents -14 to 15; its subnormal numbers are left out here.
            let exponent = bits >> 23 & 0xff;
            let fits = (bits & 0x1fff == 0) & ((exponent.wrapping_sub(113) <= 29) | (bits & 0x7fff_ffff == 0));
            not_f16 |= u32::from(!fits);
        }
        (low == 0, not_f16 == 0)
    }
}

/// Whether every one of these little-endian f32 is exactly (a bfloat16, a normal or zero f16) number.
#[must_use]
pub fn narrows(isa: Isa, values: &[[u8; 4]]) -> (bool, bool) {
    isa.run(Narrows(values))
}
