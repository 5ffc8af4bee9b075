//! bfloat16 weights at 12 bits each, without loss: for models that are part of a program.
//!
//! The upper byte of a bfloat16 is its sign and 7 bits of its exponent. Trained weights of one matrix differ little in magnitude,
//! so that 4 bits tell that byte: the sign, and the distance of the exponent below the block's base. All integers are
//! little-endian; `B`, `W` and `X` are counts:
//!
//! ```text
//! B: u32   W: u32   X: u32
//! B bytes                    what stands before the weights, as it is
//! W.div_ceil(BLOCK) bytes    the base of each block of weights
//! X * 5 bytes                exceptions, ascending: the weight's index (u32), its upper byte
//! W bytes                    the lower bytes
//! W.div_ceil(2) bytes        codes: a block's first half (of an odd number the larger) in the low 4 bits, the second in the high
//! ```
//!
//! The upper 7 bits of the exponent are base - (code & 7) (modulo 128), the sign is code & 8; a code & 7 of 7 means that the
//! weight is among the exceptions. Whatever the 16 bits are, zeros, NaN and all, they come back.

use crate::arena::Arena;
use crate::region::Team;
use wide::u8x16;

/// Weights that share a base.
const BLOCK: usize = 4096;
/// Bytes of weights that a thread takes: a huge page, so that no two threads wait for the same one.
const CHUNK: usize = 2 << 20;

/// The parts of the compact form.
struct Compact<'a> {
    before: &'a [u8],
    bases: &'a [u8],
    exceptions: &'a [[u8; 5]],
    lower: &'a [u8],
    codes: &'a [u8],
}

impl<'a> Compact<'a> {
    fn of(bytes: &'a [u8]) -> Option<Compact<'a>> {
        let (counts, rest) = bytes.split_first_chunk::<12>()?;
        let [before, weights, exceptions] =
            [0, 4, 8].map(|at| u32::from_le_bytes(std::array::from_fn(|i| counts[at + i])) as usize);
        let (before, rest) = rest.split_at_checked(before)?;
        let (bases, rest) = rest.split_at_checked(weights.div_ceil(BLOCK))?;
        let (exceptions, rest) = rest.split_at_checked(exceptions.checked_mul(5)?)?;
        let (lower, codes) = rest.split_at_checked(weights)?;
        let whole = codes.len() == weights.div_ceil(2);
        whole.then_some(Compact { before, bases, exceptions: exceptions.as_chunks().0, lower, codes })
    }

    /// Writes the weights from number `first` on, the start of a block.
    fn expand(&self, first: usize, out: &mut [[u8; 2]]) {
        for (i, out) in out.chunks_mut(BLOCK).enumerate() {
            let start = first + i * BLOCK;
            let (base, half) = (self.bases[start / BLOCK], out.len().div_ceil(2));
            let (lower, codes) = (&self.lower[start..][..out.len()], &self.codes[start / 2..][..half]);
            half_block(base, &lower[..half], codes, |c| c, &mut out[..half]);
            half_block(base, &lower[half..], codes, |c| c.unbounded_shr_scalar(4), &mut out[half..]);
        }
        let index = |e: &[u8; 5]| u32::from_le_bytes([e[0], e[1], e[2], e[3]]) as usize;
        let [from, to] = [first, first + out.len()].map(|end| self.exceptions.partition_point(|e| index(e) < end));
        for exception in &self.exceptions[from..to] {
            out[index(exception) - first][1] = exception[4];
        }
    }
}

/// Half of a block's weights, all as if they were no exceptions; `code` moves a code to the low 4 bits of its byte.
fn half_block(base: u8, lower: &[u8], codes: &[u8], code: impl Fn(u8x16) -> u8x16, out: &mut [[u8; 2]]) {
    let [base, distance, sign, exponent] = [base, 7, 8, 0x7f].map(u8x16::splat);
    // Explicit vectors: the compiler makes none of its own where the program around is built for size.
    let sixteen = |lower, codes| {
        let (lower, codes) = (u8x16::new(lower), code(u8x16::new(codes)));
        let upper = (base - (codes & distance)) & exponent | (codes & sign).unbounded_shl_scalar(4);
        [u8x16::unpack_low(lower, upper), u8x16::unpack_high(lower, upper)]
    };
    let (out, out_rest) = out.as_chunks_mut::<16>();
    let (lower, lower_rest) = lower.as_chunks::<16>();
    let (codes, codes_rest) = codes.as_chunks::<16>();
    for ((out, lower), codes) in out.iter_mut().zip(lower).zip(codes) {
        *out = bytemuck::cast(sixteen(*lower, *codes));
    }
    let mut rest = [[0; 16]; 2];
    rest[0][..lower_rest.len()].copy_from_slice(lower_rest);
    let codes_rest = codes.get(lower.len()).map_or(codes_rest, |codes| codes);
    rest[1][..codes_rest.len()].copy_from_slice(codes_rest);
    let rest: [[u8; 2]; 16] = bytemuck::cast(sixteen(rest[0], rest[1]));
    out_rest.copy_from_slice(&rest[..out_rest.len()]);
}

/// What a compact form stands for, in memory of its own.
///
/// # Errors
/// Where the system does not give the memory.
///
/// # Panics
/// Where `compact` is not of the form above: it is part of the program, not input.
pub fn expand(team: &Team, compact: &[u8]) -> std::io::Result<Arena> {
    let compact = Compact::of(compact).expect("the compact form is whole");
    let before = compact.before.len();
    let mut arena = Arena::new(before + compact.lower.len() * 2)?;
    let (head, weights) = arena.bytes_mut().split_at_mut(before);
    head.copy_from_slice(compact.before);
    let (weights, _) = weights.as_chunks_mut::<2>();
    team.chunks_mut(weights, CHUNK / 2, |i, out| compact.expand(i * (CHUNK / 2), out));
    Ok(arena)
}
