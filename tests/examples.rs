//! Every example runs, and says what it should.

mod common;

use common::open;
use std::sync::LazyLock;
use tiny_t5::{Load, T5};

#[allow(dead_code)] // its `main`
#[path = "../crates/tiny-t5/examples/beams.rs"]
mod beams;
#[allow(dead_code)] // its `main`
#[path = "../crates/tiny-t5/examples/custom_processor.rs"]
mod custom_processor;
#[allow(dead_code)] // its `main`
#[path = "../crates/tiny-t5/examples/embed_model.rs"]
mod embed_model;
#[allow(dead_code)] // its `main`
#[path = "../crates/tiny-t5/examples/infilling.rs"]
mod infilling;
#[allow(dead_code)] // its `main`
#[path = "../crates/tiny-t5/examples/line_filter.rs"]
mod line_filter;
#[allow(dead_code)] // its `main`
#[path = "../crates/tiny-t5/examples/rerank.rs"]
mod rerank;
#[allow(dead_code)] // its `main`
#[path = "../crates/tiny-t5/examples/sentence_search.rs"]
mod sentence_search;
#[allow(dead_code)] // its `main`
#[path = "../crates/tiny-t5/examples/streaming.rs"]
mod streaming;
#[allow(dead_code)] // its `main`
#[path = "../crates/tiny-t5/examples/worker_pool.rs"]
mod worker_pool;

static T5_IPA: LazyLock<T5> = LazyLock::new(|| T5::embedded(&Load::default()).unwrap());

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// No example is left out here.
#[test]
fn every_example_has_a_test() {
    let this = include_str!("examples.rs");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(this.contains(&format!("fn {name}_")), "{name}");
    }
}

/// `həˈloʊ ˈwɝld`, but for the sound o and the second word.
#[test]
fn custom_processor_changes_the_answer() {
    let answer = custom_processor::answer(&T5_IPA, "hello world", "o").unwrap();
    assert!(answer.starts_with("həˈl") && !answer.contains(['o', ' ']), "{answer}");
}

#[test]
fn embed_model_answers() {
    let answer = embed_model::model().unwrap().generate("photosynthesis", &Default::default()).unwrap();
    assert_eq!(answer.text(), "ˌfoʊtoʊˈsɪnθəsəs");
}

#[test]
fn line_filter_keeps_the_order() {
    let mut out = Vec::new();
    line_filter::filter(&T5_IPA, "hello\nworld\n".repeat(50).as_bytes(), &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "həˈloʊ\nˈwɝld\n".repeat(50));
}

#[test]
fn streaming_stops_when_it_has_enough() {
    for (enough, expected) in [(100, "həˈloʊ ˈwɝld\n"), (4, "həˈl\n")] {
        let mut out = Vec::new();
        streaming::stream(&T5_IPA, "hello world", enough, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

#[test]
fn beams_come_best_first() {
    let answers = beams::answers(&T5_IPA, "hello world").unwrap();
    assert_eq!(answers.len(), 3);
    assert_eq!(answers[0].1, "həˈloʊ ˈwɝld");
    assert!(answers.is_sorted_by(|a, b| a.0 >= b.0));
}

/// A speller's notion of nearness: the vectors of the English-to-IPA model.
#[test]
fn sentence_search_finds_a_document_by_itself() {
    let documents = owned(&["enough", "photosynthesis", "colonel"]);
    let index = sentence_search::Index::new(&T5_IPA, documents).unwrap();
    let found = index.search(&T5_IPA, "photosynthesis").unwrap();
    assert_eq!(found[0].1, "photosynthesis");
    assert!((found[0].0 - 1.0).abs() < 1e-5 && found[1].0 < 0.99);
}

/// Words by whether they begin with the sound f and not with p.
#[test]
fn rerank_puts_the_likely_answer_first() {
    // A stressed syllable begins with its mark: the first syllable of these is not stressed.
    let documents = owned(&["potato", "forget", "police", "photography"]);
    let ranked = rerank::rerank(&T5_IPA, str::to_owned, &documents, ("f", "p")).unwrap();
    let words: Vec<_> = ranked.iter().map(|(_, word)| *word).collect();
    assert!(words[..2].contains(&"forget") && words[..2].contains(&"photography"), "{ranked:?}");
    assert!(
        ranked.iter().all(|(p, _)| (0.0..=1.0).contains(p)) && ranked[1].0 > 0.5 && ranked[2].0 < 0.5,
        "{ranked:?}"
    );
}

/// A folder of random weights: what it fills in is noise, but every gap is one.
#[test]
fn infilling_has_a_span_a_gap() {
    let filled = infilling::fill(&open("goldens/byt5-shape"), "The <extra_id_0> sat on the <extra_id_1>.").unwrap();
    assert_eq!(filled.spans.len(), 2);
    assert!(filled.text.starts_with("The ") && filled.text.contains(" sat on the "), "{}", filled.text);
}

#[test]
fn worker_pool_answers_in_order_and_cuts_what_takes_too_long() {
    let requests = owned(&["hello", "world"].repeat(10));
    let answers = worker_pool::serve(&T5_IPA, &requests, 3, 60.0).unwrap();
    let texts: Vec<_> = answers.iter().map(|answer| answer.text.as_str()).collect();
    assert_eq!(texts, ["həˈloʊ", "ˈwɝld"].repeat(10));
    assert!(answers.iter().all(|answer| answer.in_time));
    assert!(worker_pool::serve(&T5_IPA, &requests, 2, 0.0).unwrap().iter().all(|answer| !answer.in_time));
}
