//! Beams on a vocabulary that is large enough for the near copy of the LM head, against beams on all logits.

#[path = "../benches/shapes.rs"]
mod shapes;

use tiny_t5::{Custom, Generate, Load, Sequence, Source, T5};

/// With an output matrix of its own: one whose matrix is the embedding repeats a token.
fn tiny(threads: usize) -> T5 {
    let config = shapes::TINY.replacen('{', r#"{"tie_word_embeddings": false, "#, 1);
    T5::random(&config, 1, &Load { threads: Some(threads), ..Load::default() }).unwrap()
}

fn sources() -> Vec<Vec<u32>> {
    (0..12).map(|seed| shapes::source(5 + seed * 3, seed)).collect()
}

/// The sequences of each source, and of how many rows not all logits were computed.
fn beams(t5: &T5, sources: &[Vec<u32>], options: &Generate, custom: &Custom<'_>) -> (Vec<Vec<Sequence>>, usize) {
    let sources: Vec<Source<'_>> = sources.iter().map(Source::from).collect();
    let answers = t5.generate_batch_with(&sources, options, custom).unwrap();
    let screened = answers[0].timings.screened;
    (answers.into_iter().map(|answer| answer.sequences).collect(), screened)
}

fn options() -> [Generate; 4] {
    let four =
        Generate { num_beams: Some(4), num_return_sequences: Some(4), max_new_tokens: Some(12), ..Generate::default() };
    [
        Generate { num_beams: Some(2), num_return_sequences: Some(2), min_new_tokens: Some(6), ..four.clone() },
        Generate { repetition_penalty: Some(1.4), no_repeat_ngram_size: Some(2), ..four.clone() },
        Generate {
            sequence_bias: Some(vec![(vec![77], 9.0), (vec![5, 9], -3.0)]),
            length_penalty: Some(-0.5),
            ..four.clone()
        },
        Generate { num_beams: Some(7), num_return_sequences: Some(7), bad_words_ids: Some(vec![vec![11]]), ..four },
    ]
}

#[test]
fn beams_find_what_all_logits_give() {
    let t5 = tiny(2);
    for options in options() {
        // A rule that changes nothing, and might change every score: all logits are computed.
        let (all, none) = beams(&t5, &sources(), &options, &Custom::new().logits_processor(|_, _| {}));
        let (near, screened) = beams(&t5, &sources(), &options, &Custom::new());
        assert!(none == 0 && screened > 200, "{none}, {screened} rows");
        for (near, all) in near.iter().flatten().zip(all.iter().flatten()) {
            assert_eq!((&near.ids, near.finish), (&all.ids, all.finish), "{options:?}");
            let (near, all) = (near.score.unwrap(), all.score.unwrap());
            // Twelve log-probabilities near -10; with the length penalty below 0 three and a half times their sum.
            assert!((near - all).abs() <= 5e-5, "{near} instead of {all}: {options:?}");
        }
    }
}

#[test]
fn beams_are_the_same_alone_and_on_any_number_of_threads() {
    let options = &options()[1];
    let (together, _) = beams(&tiny(1), &sources(), options, &Custom::new());
    for threads in [1, 2, 3] {
        let t5 = tiny(threads);
        for (source, expected) in sources().into_iter().zip(&together) {
            assert_eq!(&beams(&t5, &[source], options, &Custom::new()).0[0], expected, "{threads} threads");
        }
    }
}
