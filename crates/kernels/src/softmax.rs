//! Softmax over one row, in three passes: maximum, exp and sum, scale.
//!
//! Sums run in 16 lanes, index i in lane i mod 16, then the fixed tree; lanes past the end add exact zeros, so the
//! result does not depend on how far a row is padded.

use crate::math::{exp, ln};
use crate::simd::{Isa, Kernel, LANES, Simd};

/// Turns the first `n` of `row` into probabilities and the rest into zeros.
#[inline(always)]
pub(crate) fn softmax<S: Simd>(s: S, row: &mut [f32], n: usize) {
    row[n..].fill(f32::NEG_INFINITY);
    let (lanes, _) = row.as_chunks_mut::<LANES>();
    let mut top = s.splat(f32::NEG_INFINITY);
    for x in lanes.iter() {
        top = s.max(s.load_array(x), top);
    }
    let top = s.splat(s.max_lane(top));
    let mut sum = s.splat(0.0);
    for x in lanes.iter_mut() {
        let e = exp(s, s.sub(s.load_array(x), top));
        sum = s.add(sum, e);
        s.write(e, x);
    }
    let scale = s.splat(1.0 / s.sum(sum));
    for x in lanes.iter_mut() {
        s.write(s.mul(s.load_array(x), scale), x);
    }
}

struct SoftmaxRow<'a> {
    logits: &'a mut [f32],
    sum: f32,
}

impl Kernel for SoftmaxRow<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (lanes, rest) = self.logits.as_chunks_mut::<LANES>();
        let mut last = [f32::NEG_INFINITY; LANES];
        last[..rest.len()].copy_from_slice(rest);
        let sum = s.splat(self.sum);
        for x in lanes.iter_mut().chain([&mut last]) {
            s.write(exp(s, s.sub(s.load_array(x), sum)), x);
        }
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

/// Turns logits of any number into probabilities.
pub fn softmax_row(isa: Isa, logits: &mut [f32]) {
    let sum = log_sum_exp(isa, logits);
    isa.run(SoftmaxRow { logits, sum });
}

struct LogSumExp<'a>(&'a [f32]);

impl Kernel for LogSumExp<'_> {
    type Out = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let (lanes, rest) = self.0.as_chunks::<LANES>();
        let mut last = [f32::NEG_INFINITY; LANES];
        last[..rest.len()].copy_from_slice(rest);
        let mut top = s.load_array(&last);
        for x in lanes {
            top = s.max(s.load_array(x), top);
        }
        let top = s.max_lane(top);
        if top == f32::NEG_INFINITY {
            return top;
        }
        let shift = s.splat(top);
        let mut sum = s.splat(0.0);
        for x in lanes.iter().chain([&last]) {
            sum = s.add(sum, exp(s, s.sub(s.load_array(x), shift)));
        }
        top + ln(f64::from(s.sum(sum))) as f32
    }
}

/// ln(sum of e^x): what a log-softmax takes away from each logit. Minus infinity where all are.
#[must_use]
pub fn log_sum_exp(isa: Isa, logits: &[f32]) -> f32 {
    isa.run(LogSumExp(logits))
}

struct LogSoftmaxRow<'a>(&'a mut [f32]);

impl Kernel for LogSoftmaxRow<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let sum = LogSumExp(self.0).run(s);
        let (lanes, rest) = self.0.as_chunks_mut::<LANES>();
        for x in lanes {
            s.write(s.sub(s.load_array(x), s.splat(sum)), x);
        }
        rest.iter_mut().for_each(|x| *x -= sum);
    }
}

/// Turns logits into log-probabilities: takes [`log_sum_exp`] away from each.
pub fn log_softmax_row(isa: Isa, logits: &mut [f32]) {
    isa.run(LogSoftmaxRow(logits));
}

/// Scores of which [`block_maxima`] tells the largest.
pub const BLOCK: usize = 8 * LANES;

struct BlockMaxima<'a> {
    scores: &'a [f32],
    maxima: &'a mut Vec<f32>,
}

impl Kernel for BlockMaxima<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let infinity = s.splat(f32::INFINITY);
        self.maxima.clear();
        for block in self.scores.chunks(BLOCK) {
            let (lanes, rest) = block.as_chunks::<LANES>();
            let mut last = [f32::NEG_INFINITY; LANES];
            last[..rest.len()].copy_from_slice(rest);
            let mut top = s.splat(f32::NEG_INFINITY);
            for x in lanes.iter().chain([&last]) {
                // What is not at most infinity is no number.
                let x = s.load_array(x);
                top = s.max(s.select_lt(x, infinity, x, infinity), top);
            }
            self.maxima.push(s.max_lane(top));
        }
    }
}

/// The largest of each [`BLOCK`] scores, infinity where one is not a number: so that a search for the best passes over the others.
pub fn block_maxima(isa: Isa, scores: &[f32], maxima: &mut Vec<f32>) {
    isa.run(BlockMaxima { scores, maxima });
}

struct FirstMax<'a>(&'a [f32]);

impl Kernel for FirstMax<'_> {
    type Out = usize;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        let scores = self.0;
        let mut best = 0;
        for (i, block) in scores.chunks(BLOCK).enumerate() {
            let (lanes, _) = block.as_chunks::<LANES>();
            let top = lanes.iter().fold(s.splat(f32::NEG_INFINITY), |top, x| s.max(s.load_array(x), top));
            // Few blocks have a better one.
            if lanes.len() == BLOCK / LANES && s.max_lane(top) <= scores[best] {
                continue;
            }
            for (j, score) in block.iter().enumerate() {
                if *score > scores[best] || scores[best].is_nan() && !score.is_nan() {
                    best = i * BLOCK + j;
                }
            }
        }
        best
    }
}

/// The index of the largest score, the first of equals; 0 where none is a number.
#[must_use]
pub fn first_max(isa: Isa, scores: &[f32]) -> usize {
    isa.run(FirstMax(scores))
}
