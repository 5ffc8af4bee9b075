//! Makes the compact form of bfloat16 weights; `tiny_t5_kernels::expand`, where the form is described, is the way back.

use std::ops::Range;

const BLOCK: usize = 4096;
/// The distance that marks an exception.
const EXCEPTION: u8 = 7;

/// The compact form of `bytes`: those of `weights` are bfloat16, the others stand before them.
pub fn compact(bytes: &[u8], weights: Range<usize>) -> Vec<u8> {
    assert!(weights.end == bytes.len() && weights.len().is_multiple_of(2), "weights from a place to the end");
    let (lower, upper): (Vec<u8>, Vec<u8>) = bytes[weights.clone()].chunks_exact(2).map(|b| (b[0], b[1])).unzip();
    let bases: Vec<u8> = upper.chunks(BLOCK).map(base).collect();
    let distances: Vec<u8> = upper.iter().enumerate().map(|(i, u)| distance(*u, bases[i / BLOCK])).collect();
    let exceptions: Vec<usize> = (0..upper.len()).filter(|i| distances[*i] == EXCEPTION).collect();

    let mut out = Vec::new();
    for count in [weights.start, upper.len(), exceptions.len()] {
        out.extend(u32::try_from(count).expect("fewer than 2^32 of each").to_le_bytes());
    }
    out.extend(&bytes[..weights.start]);
    out.extend(&bases);
    for i in exceptions {
        out.extend((i as u32).to_le_bytes());
        out.push(upper[i]);
    }
    out.extend(&lower);
    let codes: Vec<u8> = upper.iter().zip(&distances).map(|(upper, distance)| upper >> 4 & 8 | distance).collect();
    for block in codes.chunks(BLOCK) {
        let (low, high) = block.split_at(block.len().div_ceil(2));
        out.extend(low.iter().enumerate().map(|(i, low)| low | high.get(i).unwrap_or(&0) << 4));
    }
    out
}

fn distance(upper: u8, base: u8) -> u8 {
    (base.wrapping_sub(upper) & 0x7f).min(EXCEPTION)
}

/// The base that makes the fewest exceptions.
fn base(block: &[u8]) -> u8 {
    let mut of_exponent = [0usize; 0x80];
    block.iter().for_each(|upper| of_exponent[usize::from(upper & 0x7f)] += 1);
    let told = |base: &u8| (0..EXCEPTION).map(|d| of_exponent[usize::from(base.wrapping_sub(d) & 0x7f)]).sum::<usize>();
    (0..0x80).max_by_key(told).expect("there are 128 bases")
}
