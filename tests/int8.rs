//! What `--dtype int8` costs, beside f32: words wrong, loss, ids, logits. The bounds are checked on a part of it at each run; the
//! whole report is one command:
//!
//! ```text
//! cargo test -p tiny-t5 --features embedded --test int8 -- --ignored --nocapture
//! ```

#[path = "../benches/shapes.rs"]
mod shapes;

mod common;

use common::data;
use tiny_t5::{Custom, Dtype, Generate, Generated, Load, Source, T5};

fn int8() -> Load {
    Load { dtype: Dtype::Int8, ..Load::default() }
}

/// Words, each with its pronunciations.
fn words(step: usize) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(data("g2p-ipa/test.tsv")).unwrap();
    text.lines().step_by(step).map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

/// The share of words whose text is none of their pronunciations, and the mean loss of their first pronunciation's ids.
fn pronounce(t5: &T5, words: &[Vec<String>]) -> (f64, f64) {
    let sources: Vec<Source<'_>> = words.iter().map(|word| Source::from(&word[0])).collect();
    let answers = t5.generate_batch(&sources, &Generate::default()).unwrap();
    let wrong =
        words.iter().zip(&answers).filter(|(word, answer)| !word[1..].iter().any(|p| p == answer.text())).count();
    let loss = |word: &Vec<String>| f64::from(t5.score(&word[0], &word[1]).unwrap().loss);
    let count = words.len() as f64;
    (wrong as f64 / count, words.iter().map(loss).sum::<f64>() / count)
}

/// A random model with an output matrix of its own: one whose matrix is the embedding repeats a token, whatever is rounded.
fn random(shape: &str, load: &Load) -> T5 {
    let config = shape.replacen('{', r#"{"tie_word_embeddings": false, "#, 1);
    T5::random(&config, 1, load).unwrap()
}

/// Of `sources` made-up sources, over `tokens` greedy tokens each: ids equal at their place, ids before the first
/// difference, all; and the largest difference of a logit over f32's ids, with the size (root of the mean square) of logits.
fn compare(f32: &T5, int8: &T5, sources: u32, tokens: usize) -> ([usize; 3], f32, f32) {
    let (mut counts, mut off, mut squares, mut logits) = ([0; 3], 0f32, 0f64, 0usize);
    for seed in 0..sources {
        let source = shapes::source(8 + seed % 57, seed);
        let ids = |t5: &T5| t5.generate(&source, &shapes::greedy(tokens)).unwrap().sequences.swap_remove(0).ids;
        let (expected, got) = (ids(f32), ids(int8));
        let same = expected.iter().zip(&got);
        counts[0] += same.clone().filter(|(a, b)| a == b).count();
        counts[1] += same.take_while(|(a, b)| a == b).count();
        counts[2] += expected.len();
        if seed % 20 == 0 {
            let [expected, got] = [f32, int8].map(|t5| t5.logits(&source, &expected).unwrap().values);
            logits += expected.len();
            squares += expected.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
            off = expected.iter().zip(&got).fold(off, |off, (a, b)| off.max((a - b).abs()));
        }
    }
    (counts, off, (squares / logits as f64).sqrt() as f32)
}

/// Matrices of few rows are looked at, too: two labels with weights that 8 bits would make zeros.
#[test]
fn int8_keeps_a_small_head_that_would_lose_too_much() {
    let config = r#"{"model_type": "t5", "architectures": ["T5ForTokenClassification"], "num_labels": 2, "num_layers": 1, "d_model": 256, "d_ff": 64, "num_heads": 2, "vocab_size": 128}"#;
    let [exact, narrow] = [Load::default(), int8()].map(|load| {
        let t5 = T5::random_with(config, 3, &load, |name, _, values| {
            if name == "classifier.weight" {
                values.iter_mut().for_each(|x| *x = 0.3 * x.signum());
                [values[0], values[256]] = [100.0, -100.0];
            }
        });
        t5.unwrap().classify(&[5, 9, 7, 1]).unwrap()
    });
    let (tiny_t5::Classification::Tokens { logits: exact, .. }, tiny_t5::Classification::Tokens { logits: narrow, .. }) =
        (exact, narrow)
    else {
        panic!("labels of tokens")
    };
    let [mut error, mut size] = [0.0f32; 2];
    for (exact, narrow) in exact.iter().flatten().zip(narrow.iter().flatten()) {
        (error, size) = (error + (exact - narrow).powi(2), size + exact.powi(2));
    }
    assert!(error.sqrt() < 0.02 * size.sqrt(), "{} of {}", error.sqrt(), size.sqrt());
}

#[test]
fn int8_pronounces_as_well_as_f32() {
    let words = words(16);
    let [(exact, loss), (narrow, narrow_loss)] =
        [Load::default(), int8()].map(|load| pronounce(&T5::embedded(&load).unwrap(), &words));
    assert!((narrow - exact).abs() < 0.01, "{exact} of the words are wrong in f32, {narrow} in int8");
    assert!((narrow_loss - loss).abs() < 0.005 * loss, "loss {loss} in f32, {narrow_loss} in int8");
}

#[test]
fn int8_logits_are_near_those_of_f32() {
    let (f32, int8) = (random(shapes::TINY, &Load::default()), random(shapes::TINY, &int8()));
    let (counts, off, size) = compare(&f32, &int8, 20, 8);
    assert!(off < 0.2 * size, "{off} beside logits of {size}");
    assert!(counts[0] * 3 > counts[2], "{counts:?} ids");
}

/// Where processors change few scores, greedy search computes few: the ids are those of all scores, which a processor of the
/// caller's own, that changes none, asks for.
#[test]
fn int8_few_scores_decide_as_all_of_them() {
    let models = [("embedded", T5::embedded(&int8()).unwrap()), ("random", random(shapes::TINY, &int8()))];
    for (name, t5) in &models {
        let sources: Vec<Vec<u32>> = (0..6).map(|seed| shapes::source(9 + seed, seed)).collect();
        let vocab = t5.config().vocab_size as u32;
        let sources: Vec<Vec<u32>> =
            sources.into_iter().map(|s| s.into_iter().map(|id| id % vocab).collect()).collect();
        let sources: Vec<Source<'_>> = sources.iter().map(Source::from).collect();
        let plain = t5.generate_batch(&sources, &shapes::greedy(12)).unwrap();
        let rules = [
            Generate { suppress_tokens: Some(plain[0].sequences[0].ids[..3].to_vec()), ..shapes::greedy(12) },
            Generate { repetition_penalty: Some(1.4), ..shapes::greedy(12) },
            Generate {
                no_repeat_ngram_size: Some(1),
                bad_words_ids: Some(vec![vec![7], vec![9, 3]]),
                ..shapes::greedy(12)
            },
        ];
        for (i, rule) in rules.iter().enumerate() {
            let all = Custom::new().logits_processor(|_, scores| assert_eq!(scores.len(), vocab as usize));
            let ids = |answers: Vec<Generated>| -> Vec<Vec<u32>> {
                answers.into_iter().map(|mut answer| answer.sequences.swap_remove(0).ids).collect()
            };
            let few = ids(t5.generate_batch(&sources, rule).unwrap());
            assert_eq!(few, ids(t5.generate_batch_with(&sources, rule, &all).unwrap()), "{name}, rule {i}");
            assert_ne!(few, ids(plain.clone()), "{name}, rule {i} has no effect");
        }
    }
}

/// What fills up the last panel of the output matrix has logits of zero, and is no id.
#[test]
fn int8_ids_are_in_the_vocabulary_where_it_ends_inside_a_panel() {
    let folders = ["cases/below-one-vector", "cases/beams-over-half-the-vocabulary", "cases/vocab-104-untied"];
    for folder in folders {
        let t5 = T5::open_with(data(folder), &int8()).unwrap();
        let vocab = t5.config().vocab_size as u32;
        assert_ne!(vocab % 16, 0, "{folder}");
        let all = Custom::new().logits_processor(|_, _| {});
        // Of two ids both logits are often below zero.
        let two = Generate { suppress_tokens: Some((0..vocab - 2).collect()), ..shapes::greedy(8) };
        for seed in 0..200 {
            let source: Vec<u32> = (0..1 + seed % 7).map(|i| (seed * 31 + i * 7) % vocab).collect();
            let few = t5.generate(&source, &two).unwrap();
            let full = t5.generate_with(&source, &two, &all).unwrap();
            assert_eq!(few.sequences[0].ids, full.sequences[0].ids, "{folder} {source:?}");
            assert!(few.sequences[0].ids.iter().all(|id| *id < vocab), "{folder} {source:?}");
        }
    }
}

#[test]
#[ignore = "minutes; the command is at the top"]
fn report() {
    let words = words(1);
    for (name, load) in [("f32", Load::default()), ("int8", int8())] {
        let (wrong, loss) = pronounce(&T5::embedded(&load).unwrap(), &words);
        println!("{name}: {:.2} % of {} words wrong, loss {loss:.5}", 100.0 * wrong, words.len());
    }
    for (name, shape) in [("tiny", shapes::TINY), ("small", shapes::SMALL)] {
        let (f32, int8) = (random(shape, &Load::default()), random(shape, &int8()));
        let ([places, prefix, all], off, size) = compare(&f32, &int8, 1000, 16);
        println!(
            "{name}, random weights, 1,000 sources: {places} of {all} ids at their places, {prefix} before the first \
             difference; largest logit difference {off:.4}, logits {size:.3}"
        );
    }
}
