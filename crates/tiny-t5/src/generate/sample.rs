//! Sampling: tokens drawn by their probability, from what the warpers leave.
//!
//! The same everywhere: the random number of a token is a hash of (seed, place of the source in the call, counted from
//! `Custom::first_index` on, number of the sequence, position), so it depends neither on the batch, nor on threads, nor on what
//! else is drawn; and probabilities are computed by the kernels' own exp. The hash is two rounds of SplitMix64's finaliser (Steele, Lea and Flood, *Fast splittable pseudorandom
//! number generators*, 2014) over the parts.

use super::Search;
use super::rows::{Rows, Step};
use super::warpers;
use crate::error::Result;
use crate::lm_head::Scores;
use tiny_t5_kernels::softmax_row;

pub(super) fn sample(search: &mut Search<'_>, sources: &[&[u32]]) -> Box<Rows> {
    Rows::start(search, sources, search.settings.num_return_sequences, pick)
}

fn pick(search: &mut Search<'_>, step: &Step<'_>, picked: &mut Vec<u32>) -> Result<()> {
    let (settings, isa) = (search.settings, search.exec.isa);
    let numbers = search.numbers;
    search.logits()?;
    let mut buffers = std::mem::take(&mut search.state.warped);
    let mut logits = search.last_logits();
    picked.clear();
    for (i, row) in step.rows.iter().enumerate() {
        let scores = logits.row(i);
        step.process(i, scores);
        warpers::warp(isa, &settings.warpers, scores, &mut buffers);
        softmax_row(isa, scores);
        let number = numbers.get(row.source).copied().unwrap_or(row.source) as u64;
        let uniform = uniform(settings.seed, [number, row.sample as u64, row.ids.len() as u64]);
        picked.push(draw(scores, uniform));
    }
    search.state.warped = buffers;
    Ok(())
}

/// The first id up to which the probabilities reach `uniform` of their sum.
fn draw(probabilities: &[f32], uniform: f64) -> u32 {
    let total: f64 = probabilities.iter().map(|p| f64::from(*p)).sum();
    let mut rest = uniform * total;
    let mut last = 0;
    for (id, p) in probabilities.iter().enumerate().filter(|(_, p)| **p > 0.0) {
        last = id;
        rest -= f64::from(*p);
        if rest < 0.0 {
            break;
        }
    }
    last as u32
}

/// A number in [0, 1) that is a function of its arguments alone.
fn uniform(seed: u64, parts: [u64; 3]) -> f64 {
    let mix = |mut z: u64| {
        z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let hash = parts.into_iter().fold(mix(mix(seed)), |hash, part| mix(mix(hash ^ part)));
    (hash >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_is_even_and_fixed() {
        let numbers: Vec<f64> = (0..10_000).map(|i| uniform(7, [0, 0, i])).collect();
        let mean = numbers.iter().sum::<f64>() / 1e4;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        for tenth in 0..10 {
            let count = numbers.iter().filter(|x| (**x * 10.0) as usize == tenth).count();
            assert!((900..1100).contains(&count), "{count} of 10000 in tenth {tenth}");
        }
        // Part of the promise: the same seed gives the same text in every version.
        assert_eq!(uniform(0, [0, 0, 1]).to_bits(), uniform(0, [0, 0, 1]).to_bits());
        assert!(uniform(0, [0, 0, 1]) != uniform(0, [0, 1, 1]) && uniform(0, [1, 0, 1]) != uniform(0, [0, 1, 1]));
    }

    #[test]
    fn draw_takes_each_by_its_share() {
        assert_eq!(draw(&[0.0, 0.25, 0.0, 0.75], 0.0), 1);
        assert_eq!(draw(&[0.0, 0.25, 0.0, 0.75], 0.2499), 1);
        assert_eq!(draw(&[0.0, 0.25, 0.0, 0.75], 0.25), 3);
        assert_eq!(draw(&[0.0, 0.25, 0.0, 0.75], 0.999_999), 3);
        assert_eq!(draw(&[f32::NAN, f32::NAN], 0.5), 0);
    }
}
