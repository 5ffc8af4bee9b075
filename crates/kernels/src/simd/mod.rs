//! The 16-lane f32 register as a trait, one file an instruction set that implements it, and the choice between them.
//!
//! Every kernel of this crate is written once, generic over [`Simd`], and compiled once for each instruction set:
//! a kernel is a struct of its arguments with one `#[inline(always)]` method ([`Kernel::run`]), and each instruction
//! set calls that method inside a function that carries its `#[target_feature]`s. The virtual width is 16 lanes
//! everywhere (one `zmm`, two `ymm`, two `wide::f32x8`), and every operation of the trait is exact or rounds once, so
//! all instruction sets give the same bits.
//!
//! A new instruction set is one file here, and an arm in [`Isa`]'s list, `probe` and `run`. One that adds an operation to another is that
//! one's file with a constant (AVX-VNNI).

/// A loop over `i` below a constant of at most 12, written out: accumulators that a loop indexes stay in registers only as
/// long as the compiler chooses to unroll it, and whether it does depends on what else stands around it.
macro_rules! unrolled {
    ($n:ident, $i:ident => $body:block) => {
        unrolled!(@ $n, $i, $body, 0 1 2 3 4 5 6 7 8 9 10 11)
    };
    ($n:ident of 4, $i:ident => $body:block) => {
        unrolled!(@ $n, $i, $body, 0 1 2 3)
    };
    (@ $n:ident, $i:ident, $body:block, $($k:literal)*) => {
        $(if $k < $n {
            let $i: usize = $k;
            $body
        })*
    };
}
pub(crate) use unrolled;

mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

pub(crate) use amx::{TILE, TileSums, Tiles};

use std::sync::OnceLock;

/// Lanes of the virtual register.
pub const LANES: usize = 16;

/// Bytes of a line of the caches, as far as [`Simd::prefetch`] is concerned.
pub(crate) const LINE: usize = 64;

/// `n` rounded up to whole registers: the row stride of every buffer that kernels read or write.
#[must_use]
pub const fn padded(n: usize) -> usize {
    n.div_ceil(LANES) * LANES
}

/// One virtual register of 16 f32 lanes, and how an instruction set computes on it.
///
/// A value of an implementing type is the proof that this processor has the instruction set, so its methods are safe
/// but for those that take pointers. `mul_add` rounds once, always.
pub trait Simd: Copy {
    /// 16 lanes.
    type F: Copy;
    /// Rows of the product tile (see `matmul::product`); a matter of speed only.
    const ROWS: usize;
    /// Panels of the product tile for more than two rows: what is in flight at once.
    const PANELS: usize;
    /// Most panels of any tile: 4 where registers hold them, for one row.
    const WIDEST: usize = 4;
    /// Rows whose inputs lie together (see `matmul::inputs`), 2 or 4: what [`Simd::weave`] takes, and tiles begin at multiples of.
    const TOGETHER: usize = 2;
    /// Code for [`Tiles`] is made.
    const TILES: bool = false;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::F;
    /// # Safety
    /// `p` is valid for reading 16 f32; no alignment is asked for.
    unsafe fn load(self, p: *const f32) -> Self::F;
    /// Widens bfloat16, exactly.
    /// # Safety
    /// `p` is valid for reading 16 u16.
    unsafe fn load_bf16(self, p: *const u16) -> Self::F;
    /// Widens IEEE half precision, exactly.
    /// # Safety
    /// `p` is valid for reading 16 u16.
    unsafe fn load_f16(self, p: *const u16) -> Self::F;
    /// Whole numbers as f32, exactly.
    /// # Safety
    /// `p` is valid for reading 16 i16.
    unsafe fn load_i16(self, p: *const i16) -> Self::F;
    /// Four lanes from each of four places.
    /// # Safety
    /// Each is valid for reading 4 f32; no alignment is asked for.
    unsafe fn load_quarters(self, p: [*const f32; 4]) -> Self::F;
    /// In each quarter of the lanes, four lanes of four registers change places: lane j of register i for lane i of register j.
    fn turn_quarters(self, v: [Self::F; 4]) -> [Self::F; 4];
    /// Interleaves `16 / TOGETHER` numbers of `TOGETHER` rows: `to[i * TOGETHER + m] = rows[m][i]`.
    /// # Safety
    /// So many of `rows` are valid for reading so many f32, and `to` for writing 16; no alignment is asked for.
    unsafe fn weave(self, rows: [*const f32; 4], to: *mut f32);
    /// # Safety
    /// `p` is valid for writing 16 f32.
    unsafe fn store(self, p: *mut f32, v: Self::F);
    /// Rounds to IEEE half precision, to nearest, ties to even.
    /// # Safety
    /// `p` is valid for writing 16 u16.
    unsafe fn store_f16(self, p: *mut u16, v: Self::F);
    /// a + b
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// a - b
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// a * b
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// a / b
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// a * b + c, rounded once.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`: where either is NaN, `b`.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`: where either is NaN, `b`.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a < b { yes } else { no }`, a lane.
    fn select_lt(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F;
    /// The sums of lanes 0 and 1 of `a`, of 2 and 3 and so on, and of `b`, in some order.
    fn sum_pairs(self, a: Self::F, b: Self::F) -> Self::F;
    /// 2^n for whole n in -126..=127.
    fn pow2(self, n: Self::F) -> Self::F;
    /// x 2^n for whole n in -126..=128, where the product is a normal number; in two steps where there is no better way.
    #[inline(always)]
    fn scale(self, x: Self::F, n: Self::F) -> Self::F {
        // 2^n = 2^(n - h) 2^h with h near n / 2: n may be 128, whose power is no f32.
        let magic = self.splat(12_582_912.0);
        let h = self.sub(self.mul_add(n, self.splat(0.5), magic), magic);
        self.mul(self.mul(x, self.pow2(h)), self.pow2(self.sub(n, h)))
    }

    /// Tiles of one or two rows ask for the weights of 8 bits that come next: where the processor's own prefetching brings less than
    /// memory gives.
    const LONE_ASK: bool = false;
    /// Asks for the line of `p` in the caches, which need not be valid.
    #[inline(always)]
    fn prefetch(self, _p: *const u8) {}

    /// 16 i32 lanes.
    type I: Copy;
    /// Zeros.
    fn int_zero(self) -> Self::I;
    /// lane i += the four products of `a`'s bytes, unsigned and, where `PAIRS`, at most 128, and the bytes `4 i..` at `w`, signed and above
    /// -128: exact, also where an instruction set adds in pairs of 16 bits.
    /// # Safety
    /// `w` is valid for reading 64 bytes.
    unsafe fn dot4(self, sum: Self::I, a: u32, w: *const i8) -> Self::I;
    /// [`Simd::dot16`] takes less than four times [`Simd::dot4`].
    const SIXTEENS: bool = false;
    /// As [`Simd::dot4`] four times, for M sums: of the words `8 i` at each of `a`, of bytes below 128, and the 64 bytes at `w + 256 i`.
    /// Of the eight of these that lie in the same half of a lane's four bytes, the positive ones sum up to 258 at most, and the
    /// negative ones to -258 at least: so that 16 bits hold their products' sum.
    /// # Safety
    /// `w` is valid for reading 832 bytes, each of `a` for 25 words.
    #[inline(always)]
    unsafe fn dot16<const M: usize>(self, sums: [Self::I; M], _a: [*const u32; M], _w: *const i8) -> [Self::I; M] {
        sums // only where `SIXTEENS`
    }
    /// Inputs of products with int8 weights are numbers of 16 bits, for [`Simd::dot4_pairs`]: where bytes would need more instructions.
    const PAIRS: bool = false;
    /// lane i += the four products of two pairs of numbers of 16 bits, of size at most 8191, and the bytes `4 i..` at `w`, as
    /// [`Simd::store_pairs`] made them: `a` the first and the third, `b` the second and the fourth.
    /// # Safety
    /// `w` is valid for reading 64 bytes.
    #[inline(always)]
    unsafe fn dot4_pairs(self, sum: Self::I, _a: u32, _b: u32, _w: *const i8) -> Self::I {
        sum // only where `PAIRS`
    }
    /// Stores whole numbers in -8191..=8191 as numbers of 16 bits, the middle two of each four exchanged.
    /// # Safety
    /// `p` is valid for writing 8 words.
    #[inline(always)]
    unsafe fn store_pairs(self, _p: *mut u32, _v: Self::F) {} // only where `PAIRS`
    /// What four signed bytes are as the `a` of [`Simd::dot4_signed`].
    #[inline(always)]
    fn signed(bytes: u32) -> u32 {
        bytes
    }
    /// As [`Simd::dot4`] of [`Simd::signed`] bytes, above -128 and, where `PAIRS`, of size at most 64; the sum is
    /// [`Simd::int_signed`]'s.
    /// # Safety
    /// `w` is valid for reading 64 bytes.
    unsafe fn dot4_signed(self, sum: Self::I, a: u32, w: *const i8) -> Self::I;
    /// The sum that [`Simd::dot4_signed`] made, `sub` being the sums of the weights alone.
    /// # Safety
    /// `sub` is valid for reading 16 i32.
    unsafe fn int_signed(self, sum: Self::I, sub: *const i32) -> Self::I;
    /// lane i of `a` + lane i of `b`, wrapping.
    fn int_add(self, a: Self::I, b: Self::I) -> Self::I;
    /// The sum of products with the digits of x + 8192 or x + 64 made into that with those of x: sum - 64 sub, wrapping.
    /// # Safety
    /// `sub`, the sums of the weights alone, is valid for reading 16 i32.
    unsafe fn int_less(self, sum: Self::I, sub: *const i32) -> Self::I;
    /// 128 high + low, wrapping.
    fn int_join(self, high: Self::I, low: Self::I) -> Self::I;
    /// # Safety
    /// `p` is valid for reading 16 i32.
    unsafe fn int_load(self, p: *const i32) -> Self::I;
    /// As f32, rounded to nearest.
    fn int_to_f32(self, v: Self::I) -> Self::F;
    /// Stores whole numbers in -127..=127 as bytes.
    /// # Safety
    /// `p` is valid for writing 16 bytes.
    unsafe fn store_i8(self, p: *mut i8, v: Self::F);

    /// The lanes as an array.
    #[inline(always)]
    fn to_array(self, v: Self::F) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        // SAFETY: `lanes` holds 16 f32.
        unsafe { self.store(lanes.as_mut_ptr(), v) };
        lanes
    }
    /// An array as lanes.
    #[inline(always)]
    fn load_array(self, lanes: &[f32; LANES]) -> Self::F {
        // SAFETY: `lanes` holds 16 f32.
        unsafe { self.load(lanes.as_ptr()) }
    }
    /// Writes the lanes to an array.
    #[inline(always)]
    fn write(self, v: Self::F, lanes: &mut [f32; LANES]) {
        // SAFETY: `lanes` holds 16 f32.
        unsafe { self.store(lanes.as_mut_ptr(), v) }
    }
    /// The sum of the lanes by one fixed tree: lane i + lane i+8, then +4, +2, +1.
    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        tree(self.to_array(v), |a, b| a + b)
    }
    /// The largest lane, by the same tree.
    #[inline(always)]
    fn max_lane(self, v: Self::F) -> f32 {
        tree(self.to_array(v), |a, b| if a > b { a } else { b })
    }
}

#[inline(always)]
fn tree(mut v: [f32; LANES], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            v[i] = combine(v[i], v[i + half]);
        }
        half /= 2;
    }
    v[0]
}

/// A computation that is compiled for every instruction set.
pub trait Kernel {
    /// What it returns.
    type Out;
    /// It uses [`Simd::dot4`], [`Simd::dot16`], [`Simd::dot4_signed`], [`Simd::int_signed`], [`Simd::signed`], [`Simd::PAIRS`] or
    /// [`Simd::LONE_ASK`], or what another kernel laid out by these: it is compiled for instruction sets that differ in them alone, too.
    const INTEGERS: bool = false;
    /// The computation; must be `#[inline(always)]`, so that it takes on its caller's instruction set.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    /// AVX-512 with [`Tiles`].
    #[cfg(target_arch = "x86_64")]
    Amx,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 with AVX-VNNI.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

/// An instruction set that this processor has.
///
/// A value can only be had from [`Isa::best`], [`Isa::available`] and [`Isa::from_env`], which ask the processor: it is
/// the proof on which the `unsafe` calls of the kernels rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Set);

/// Every instruction set that this build knows, best first: the only list.
const ALL: &[(Set, &str)] = &[
    #[cfg(target_arch = "x86_64")]
    (Set::Amx, "amx"),
    #[cfg(target_arch = "x86_64")]
    (Set::Avx512, "avx512"),
    #[cfg(target_arch = "x86_64")]
    (Set::AvxVnni, "avxvnni"),
    #[cfg(target_arch = "x86_64")]
    (Set::Avx2, "avx2"),
    (Set::Portable, "portable"),
];

impl Isa {
    /// Whether this processor has it.
    fn probe(set: Set) -> bool {
        match set {
            #[cfg(target_arch = "x86_64")]
            Set::Amx => avx512::probe() && Tiles::probe(),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => avx512::probe(),
            #[cfg(target_arch = "x86_64")]
            Set::AvxVnni => avx2::probe_vnni(),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => avx2::probe(),
            Set::Portable => true,
        }
    }

    /// Runs a kernel compiled for this instruction set.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Out {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Amx | Set::Avx512 => {
                // SAFETY: an `Isa` holds only what `probe` found.
                unsafe { avx512::run(kernel) }
            }
            #[cfg(target_arch = "x86_64")]
            Set::AvxVnni if K::INTEGERS => {
                // SAFETY: an `Isa` holds only what `probe` found.
                unsafe { avx2::run_vnni(kernel) }
            }
            #[cfg(target_arch = "x86_64")]
            Set::AvxVnni | Set::Avx2 => {
                // SAFETY: an `Isa` holds only what `probe` found.
                unsafe { avx2::run(kernel) }
            }
            Set::Portable => portable::run(kernel),
        }
    }

    /// Products of whole tiles, where this instruction set has them and the system gives them.
    pub(crate) fn tiles(self) -> Option<Tiles> {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Amx => Tiles::ask(),
            _ => None,
        }
    }

    /// Those that this processor has, best first.
    #[must_use]
    pub fn available() -> Vec<Isa> {
        ALL.iter().filter(|(set, _)| Self::probe(*set)).map(|(set, _)| Isa(*set)).collect()
    }

    /// The names of those that this build knows and this processor lacks.
    #[must_use]
    pub fn missing() -> Vec<&'static str> {
        ALL.iter().filter(|(set, _)| !Self::probe(*set)).map(|(_, name)| *name).collect()
    }

    /// The names of all that this build knows, best first.
    pub fn known() -> impl Iterator<Item = &'static str> {
        ALL.iter().map(|(_, name)| *name)
    }

    /// The best that this processor has; found once.
    #[must_use]
    pub fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| {
            ALL.iter().find(|(set, _)| Self::probe(*set)).map_or(Isa(Set::Portable), |(set, _)| Isa(*set))
        })
    }

    /// The one that the environment variable `TINY_T5_ISA` names, or else, and where that is empty, the best.
    ///
    /// # Errors
    /// [`UnknownIsa`] where the name is not known or this processor lacks it; it lists those it has.
    pub fn from_env() -> Result<Isa, UnknownIsa> {
        match std::env::var_os("TINY_T5_ISA").filter(|name| !name.is_empty()) {
            None => Ok(Self::best()),
            Some(name) => Self::available().into_iter().find(|isa| name == *isa.name()).ok_or_else(|| UnknownIsa {
                found: name.to_string_lossy().into_owned(),
                available: Self::available().iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// `amx`, `avx512`, `avxvnni`, `avx2` or `portable`.
    #[must_use]
    pub fn name(self) -> &'static str {
        ALL.iter().find(|(set, _)| *set == self.0).map_or("", |(_, name)| name)
    }
}

/// `TINY_T5_ISA` names an instruction set that cannot be used here.
#[derive(Debug, Clone, thiserror::Error)]
#[error("TINY_T5_ISA: found \"{found}\", expected one that this processor has: {available}")]
#[non_exhaustive]
pub struct UnknownIsa {
    /// The name found.
    pub found: String,
    /// The names that would do, best first.
    pub available: String,
}
