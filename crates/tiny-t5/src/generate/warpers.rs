//! What transformers calls logits warpers: sampling's last changes of the scores, in transformers' order.
//!
//! Source: transformers, `generation/logits_process.py`. Each keeps at least one token.

use crate::options::Generate;
use tiny_t5_kernels::{Isa, log_sum_exp, softmax_row};

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Warper {
    Temperature(f32),
    TopK(usize),
    TopP(f64),
    MinP(f32),
    TypicalP(f64),
    EpsilonCutoff(f32),
    EtaCutoff(f64),
}

/// Those that options ask for.
pub(crate) fn of(o: &Generate) -> Vec<Warper> {
    let mut all = Vec::new();
    // What is divided by it stays finite: at either end one token is sure, or all are alike.
    let temperature = |t: f64| Warper::Temperature(t.clamp(1e-30, 1e30) as f32);
    all.extend(o.temperature.filter(|t| *t != 1.0).map(temperature));
    all.extend(Some(o.top_k.unwrap_or(50)).filter(|k| *k > 0).map(Warper::TopK));
    all.extend(o.top_p.filter(|p| *p < 1.0).map(Warper::TopP));
    all.extend(o.min_p.map(|p| Warper::MinP(p as f32)));
    all.extend(o.typical_p.filter(|p| *p < 1.0).map(Warper::TypicalP));
    all.extend(o.epsilon_cutoff.filter(|e| *e > 0.0).map(|e| Warper::EpsilonCutoff(e as f32)));
    all.extend(o.eta_cutoff.filter(|e| *e > 0.0).map(Warper::EtaCutoff));
    all
}

/// Buffers: numbers and places, one a token of the vocabulary.
#[derive(Default)]
pub(crate) struct Warped {
    probabilities: Vec<f32>,
    surprise: Vec<f32>,
    order: Vec<u32>,
}

/// Applies them to the scores [vocab_size] of one token.
pub(crate) fn warp(isa: Isa, warpers: &[Warper], scores: &mut [f32], buffers: &mut Warped) {
    let p = &mut buffers.probabilities;
    for warper in warpers {
        match *warper {
            Warper::Temperature(t) => scores.iter_mut().for_each(|x| *x /= t),
            Warper::TopK(k) => {
                // All that tie with the k-th stay.
                let least = nth_largest(scores, k, p);
                drop_where(scores, |_, x| x < least);
            }
            Warper::TopP(mass) => top_p(isa, mass, scores, p, &mut buffers.order),
            Warper::MinP(share) => {
                probabilities(isa, scores, p);
                let least = p.iter().copied().fold(0.0, f32::max) * share;
                drop_where(scores, |i, _| p[i] < least);
            }
            Warper::TypicalP(mass) => {
                typical_p(isa, mass, scores, p, &mut buffers.surprise, &mut buffers.order);
            }
            Warper::EpsilonCutoff(epsilon) => {
                probabilities(isa, scores, p);
                cutoff(epsilon, scores, p);
            }
            Warper::EtaCutoff(epsilon) => {
                probabilities(isa, scores, p);
                let entropy = entropy(scores, log_sum_exp(isa, scores), p);
                let eta = epsilon.min(epsilon.sqrt() * (-entropy).exp());
                cutoff(eta as f32, scores, p);
            }
        }
    }
}

fn drop_where(scores: &mut [f32], drop: impl Fn(usize, f32) -> bool) {
    for (i, x) in scores.iter_mut().enumerate() {
        if drop(i, *x) {
            *x = f32::NEG_INFINITY;
        }
    }
}

/// The k-th largest, or the smallest where there are fewer.
fn nth_largest(scores: &[f32], k: usize, sorted: &mut Vec<f32>) -> f32 {
    sorted.clear();
    sorted.extend_from_slice(scores);
    let k = k.clamp(1, sorted.len());
    *sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
}

fn probabilities(isa: Isa, scores: &[f32], p: &mut Vec<f32>) {
    p.clear();
    p.extend_from_slice(scores);
    softmax_row(isa, p);
}

/// Of probabilities `p`; `sum` is the log-sum-exp of the scores.
fn entropy(scores: &[f32], sum: f32, p: &[f32]) -> f64 {
    let terms = scores.iter().zip(p).filter(|(_, p)| **p > 0.0).map(|(x, p)| f64::from(x - sum) * f64::from(*p));
    -terms.sum::<f64>()
}

/// Ids from the least score to the greatest; of equal scores the lower id first.
fn ascending(scores: &[f32], order: &mut Vec<u32>) {
    order.clear();
    order.extend(0..scores.len() as u32);
    order.sort_unstable_by(|a, b| scores[*a as usize].total_cmp(&scores[*b as usize]).then(a.cmp(b)));
}

/// Drops, from the least on, as long as what is dropped has at most 1 - mass of the probability.
fn top_p(isa: Isa, mass: f64, scores: &mut [f32], p: &mut Vec<f32>, order: &mut Vec<u32>) {
    probabilities(isa, scores, p);
    ascending(scores, order);
    // As torch adds them: in doubles, each sum rounded.
    let mut sum = 0f64;
    for id in &order[..order.len() - 1] {
        sum += f64::from(p[*id as usize]);
        if sum as f32 > (1.0 - mass) as f32 {
            break;
        }
        scores[*id as usize] = f32::NEG_INFINITY;
    }
}

/// Keeps the tokens whose surprise is nearest to the entropy, until they have `mass` of the probability.
fn typical_p(isa: Isa, mass: f64, scores: &mut [f32], p: &mut Vec<f32>, shift: &mut Vec<f32>, order: &mut Vec<u32>) {
    probabilities(isa, scores, p);
    let log_sum = log_sum_exp(isa, scores);
    let entropy = entropy(scores, log_sum, p);
    shift.clear();
    shift.extend(scores.iter().map(|x| (-(x - log_sum) - entropy as f32).abs()));
    ascending(shift, order);
    let mut sum = 0f64;
    let below = order.iter().take_while(|id| {
        sum += f64::from(p[**id as usize]);
        (sum as f32) < mass as f32
    });
    let last = below.count().min(order.len() - 1);
    let most = shift[order[last] as usize];
    let first = order[0] as usize;
    drop_where(scores, |i, _| shift[i] > most && i != first);
}

/// Drops what is less probable than a bound, but for the best.
fn cutoff(least: f32, scores: &mut [f32], p: &[f32]) {
    let best = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    drop_where(scores, |i, x| p[i] < least && x < best);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Single warpers against what transformers computes.
    #[test]
    fn golden_warpers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/goldens-options/processors.json");
        let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let mut checked = 0;
        for case in file["cases"].as_array().unwrap() {
            let name = case["processor"].as_str().unwrap();
            let mut options = Generate { top_k: Some(0), ..Generate::default() };
            options.set(name, &case["params"][name]).unwrap();
            let warpers = of(&options);
            if warpers.is_empty() {
                continue; // a processor
            }
            let scores: Vec<f32> = serde_json::from_value(case["scores"].clone()).unwrap();
            for isa in Isa::available() {
                let mut scores = scores.clone();
                warp(isa, &warpers, &mut scores, &mut Warped::default());
                for (i, (got, expected)) in scores.iter().zip(case["out"].as_array().unwrap()).enumerate() {
                    match expected.as_f64() {
                        Some(expected) => {
                            assert!(
                                (f64::from(*got) - expected).abs() < 1e-4,
                                "{name} {i}: {got}, expected {expected}"
                            );
                        }
                        None => assert_eq!(*got, f32::NEG_INFINITY, "{name} {i}"),
                    }
                }
            }
            checked += 1;
        }
        assert_eq!(checked, 23);
    }
}
