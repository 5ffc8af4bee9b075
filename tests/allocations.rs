//! A warm decoder step allocates nothing.
//!
//! A counting allocator stands before the system's. Generating N and N + 16 tokens with the same warm model must take
//! the same number of allocations: what a call takes is for the call, not for its steps. Counts are of the whole
//! process, all threads; since others (the harness, a helper that a busy machine sent home and a region calls again) only
//! ever add to them, the least of several runs is compared.

#![allow(unsafe_code)] // the allocator that counts

mod common;

use common::{data, json, many_words};
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use tiny_t5::{Choices, Custom, Generate, Load, Source, T5};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller's.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Tests of this program run one after the other: they share the counter.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const STEPS: usize = 24;
const MORE: usize = 16;
/// Runs after which a count that does not grow is believed, and one that does.
const RUNS: usize = 4;
const MOST_RUNS: usize = 100;
/// What a call on more than one thread may take for the pool: a busy machine sends helpers home, and a region calls them again.
/// Less than one a step of `MORE`.
const POOL: usize = 8;

fn pool(threads: usize) -> usize {
    if threads == 1 { 0 } else { POOL }
}

/// The English-to-IPA model without its tokenizer: ids in, ids out. Wide enough that two threads share each product of a
/// step; the golden folders are not.
fn model() -> T5 {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("models/g2p-ipa"));
    static WEIGHTS: LazyLock<Vec<u8>> = LazyLock::new(|| std::fs::read(FOLDER.join("model.safetensors")).unwrap());
    let config = json(&FOLDER.join("config.json")).to_string();
    T5::from_bytes(&config, None, WEIGHTS.as_slice(), None, &Load::default()).unwrap()
}

fn exactly(tokens: usize, options: &Generate) -> Generate {
    Generate { max_new_tokens: Some(tokens), min_new_tokens: Some(tokens), ..options.clone() }
}

/// Allocations of a call that generates exactly `tokens` tokens for each source.
fn allocations(t5: &T5, sources: &[Source<'_>], tokens: usize, options: &Generate) -> usize {
    let options = exactly(tokens, options);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let answers = t5.generate_batch(sources, &options).unwrap();
    let count = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert!(answers.iter().all(|answer| answer.sequences[0].ids.len() == tokens));
    count
}

/// Allocations of a warm call, and how many more it takes for `MORE` more steps.
fn measure(t5: &T5, count: usize, options: &Generate) -> (usize, usize) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let source: Vec<u32> = (3..45).chain([1]).collect();
    let sources = vec![Source::from(&source); count];
    allocations(t5, &sources, STEPS + MORE, options);
    let (mut call, mut longer) = (usize::MAX, usize::MAX);
    for run in 0..MOST_RUNS {
        call = call.min(allocations(t5, &sources, STEPS, options));
        longer = longer.min(allocations(t5, &sources, STEPS + MORE, options));
        if run >= RUNS && longer <= call + pool(t5.threads()) {
            break;
        }
    }
    (call, longer.saturating_sub(call))
}

fn assert_greedy_allocates_nothing(threads: usize) {
    let t5 = model().with_threads(threads);
    // Of 40 sources two threads take a share each.
    for count in [1, 8, 40] {
        let (call, more) = measure(&t5, count, &Generate::default());
        println!("greedy, {count} sources, {threads} threads: {call} allocations a call, {more} for {MORE} more steps");
        assert!(more <= pool(threads), "{count} sources: {more}");
    }
}

#[test]
fn greedy_step_on_one_thread_allocates_nothing() {
    assert_greedy_allocates_nothing(1);
}

#[test]
fn greedy_step_on_two_threads_allocates_nothing() {
    assert_greedy_allocates_nothing(2);
}

#[test]
fn greedy_step_with_every_rule_allocates_nothing() {
    let t5 = model().with_threads(1);
    let options = Generate {
        repetition_penalty: Some(1.3),
        encoder_repetition_penalty: Some(1.1),
        no_repeat_ngram_size: Some(3),
        encoder_no_repeat_ngram_size: Some(3),
        bad_words_ids: Some(vec![vec![9], vec![7, 8]]),
        sequence_bias: Some(vec![(vec![5, 6], 0.5)]),
        forced_bos_token_id: Some(40),
        suppress_tokens: Some(vec![11, 12]),
        begin_suppress_tokens: Some(vec![13]),
        exponential_decay_length_penalty: Some((4, 1.1)),
        remove_invalid_values: Some(true),
        renormalize_logits: Some(true),
        ..Generate::default()
    };
    assert_eq!(measure(&t5, 1, &options).1, 0);
}

/// Of every shape of block: gated, deeper, odd sizes, 16-bit weights, a bias table a block.
#[test]
fn greedy_step_of_every_variant_allocates_nothing() {
    for folder in ["v1_1-gated-gelu-untied", "decoder-deeper", "odd-sizes", "f16", "umt5-bias-in-every-layer"] {
        let t5 = T5::open(data("goldens").join(folder)).unwrap().with_threads(1);
        assert_eq!(measure(&t5, 2, &Generate::default()).1, 0, "{folder}");
    }
}

/// Over a vocabulary so large that greedy search screens it first.
#[test]
fn greedy_step_over_many_words_allocates_nothing() {
    let folder = many_words();
    for threads in [1, 2] {
        let t5 = folder.open().unwrap().with_threads(threads);
        for count in [1, 8] {
            let (call, more) = measure(&t5, count, &Generate::default());
            println!("many words, {count} sources, {threads} threads: {call} a call, {more} for {MORE} more steps");
            assert!(more <= pool(threads), "{count} sources, {threads} threads: {more}");
        }
    }
}

/// Nor do beams: their lists of ids go from step to step.
#[test]
fn beam_step_allocates_nothing() {
    for (threads, num_beams) in [(1, 2), (1, 4), (2, 4)] {
        let t5 = model().with_threads(threads);
        let options = Generate { num_beams: Some(num_beams), ..Generate::default() };
        for count in [1, 3] {
            let (call, more) = measure(&t5, count, &options);
            println!(
                "{num_beams} beams, {count} sources, {threads} threads: {call} a call, {more} for {MORE} more steps"
            );
            assert!(more <= pool(threads), "{num_beams} beams, {count} sources: {more}");
        }
    }
}

/// Every warper of sampling.
fn sampling() -> Generate {
    Generate {
        do_sample: Some(true),
        temperature: Some(1.3),
        top_k: Some(40),
        top_p: Some(0.95),
        min_p: Some(0.001),
        typical_p: Some(0.95),
        epsilon_cutoff: Some(1e-5),
        eta_cutoff: Some(1e-5),
        ..Generate::default()
    }
}

#[test]
fn sampling_step_allocates_nothing() {
    for (threads, num_return_sequences) in [(1, 1), (1, 3), (2, 3)] {
        let t5 = model().with_threads(threads);
        let options = Generate { num_return_sequences: Some(num_return_sequences), ..sampling() };
        let (call, more) = measure(&t5, 2, &options);
        println!("{num_return_sequences} samples, {threads} threads: {call} a call, {more} for {MORE} more steps");
        assert!(more <= pool(threads), "{num_return_sequences} samples: {more}");
    }
}

/// Allocations of a warm call of a session, which may be `most`: the least of several runs.
fn warm(most: usize, mut call: impl FnMut()) -> usize {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    (0..=RUNS).for_each(|_| call());
    let count = |call: &mut dyn FnMut()| {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        call();
        ALLOCATIONS.load(Ordering::Relaxed) - before
    };
    let mut least = usize::MAX;
    for _ in 0..MOST_RUNS {
        least = least.min(count(&mut call));
        if least <= most {
            break;
        }
    }
    least
}

/// A warm session takes memory for what it returns and nothing else; with a pool, where helpers may be called, a few pieces
/// more a call.
#[test]
fn session_allocates_what_it_returns() {
    let long: Vec<u32> = (3..45).chain([1]).collect();
    let short: Vec<u32> = (9..20).chain([1]).collect();
    let sources: Vec<Source<'_>> = [&long, &short, &long, &short].map(Source::from).to_vec();
    let options = exactly(STEPS, &Generate::default());
    for (threads, pool) in [(1, 0), (2, POOL)] {
        let mut session = model().with_threads(threads).session();
        // Ids of the source, list of sequences, ids of each.
        let generate = warm(3 + pool, || drop(session.generate(&long, &options).unwrap()));
        // The same for each source, and their list.
        let batch = warm(1 + 3 * 4 + pool, || drop(session.generate_batch(&sources, &options).unwrap()));
        // The ids of each step.
        let stream = warm(STEPS + pool, || assert_eq!(session.stream(&long, &options).unwrap().count(), STEPS));
        // Ids and numbers.
        let encode = warm(2 + pool, || drop(session.encode(&long).unwrap()));
        let encode_batch = warm(1 + 2 * 4 + pool, || drop(session.encode_batch(&sources).unwrap()));
        println!(
            "{threads} threads: generate {generate}, batch of 4 {batch}, stream {stream}, encode {encode}, batch of 4 {encode_batch}"
        );
        assert!(generate <= 3 + pool, "{generate}");
        assert!(batch <= 1 + 3 * 4 + pool, "{batch}");
        assert!(stream <= STEPS + pool, "{stream}");
        assert!(encode <= 2 + pool, "{encode}");
        assert!(encode_batch <= 1 + 2 * 4 + pool, "{encode_batch}");
    }
}

/// Beams and samples too: of each source its ids and the list of its sequences, of each sequence its ids.
#[test]
fn session_allocates_the_sequences_that_it_returns() {
    let long: Vec<u32> = (3..45).chain([1]).collect();
    let short: Vec<u32> = (9..20).chain([1]).collect();
    let sources: Vec<Source<'_>> = [&long, &short, &long].map(Source::from).to_vec();
    let beams = |num_return_sequences| Generate {
        num_beams: Some(4),
        num_return_sequences: Some(num_return_sequences),
        ..Generate::default()
    };
    let samples = Generate { num_return_sequences: Some(3), ..sampling() };
    for (threads, pool) in [(1, 0), (2, POOL)] {
        let mut session = model().with_threads(threads).session();
        for (options, returned) in [(beams(1), 1), (beams(3), 3), (sampling(), 1), (samples.clone(), 3)] {
            let options = exactly(STEPS, &options);
            let generate = warm(2 + returned + pool, || drop(session.generate(&long, &options).unwrap()));
            let batch =
                warm(1 + 3 * (2 + returned) + pool, || drop(session.generate_batch(&sources, &options).unwrap()));
            println!("{threads} threads, {returned} sequences: generate {generate}, batch of 3 {batch}");
            assert!(generate <= 2 + returned + pool, "{generate}");
            assert!(batch <= 1 + 3 * (2 + returned) + pool, "{batch}");
        }
        // Of a stream the ids of each step that has some.
        for options in [exactly(STEPS, &beams(1)), exactly(STEPS, &sampling())] {
            let stream = warm(STEPS + pool, || assert_eq!(session.stream(&long, &options).unwrap().count(), STEPS));
            println!("{threads} threads: stream {stream}");
            assert!(stream <= STEPS + pool, "{stream}");
        }
    }
}

#[test]
fn session_allocates_its_vectors_scores_and_labels_alone() {
    let long: Vec<u32> = (3..45).chain([1]).collect();
    let short: Vec<u32> = (9..20).chain([1]).collect();
    let sources: Vec<Source<'_>> = [&long, &short, &long].map(Source::from).to_vec();
    for (threads, pool) in [(1, 0), (2, POOL)] {
        let mut session = model().with_threads(threads).session();
        let embed = warm(1 + pool, || drop(session.embed(&long).unwrap()));
        let embed_batch = warm(1 + 3 + pool, || drop(session.embed_batch(&sources).unwrap()));
        // The target's ids and their log-probabilities.
        let score = warm(2 + pool, || drop(session.score(&long, &short).unwrap()));
        let logits = warm(2 + pool, || drop(session.logits(&long, &short).unwrap()));
        let rank = warm(1 + pool, || drop(session.answer_probability(&sources, 5, 6).unwrap()));
        println!("{threads} threads: embed {embed}, {embed_batch}, score {score}, logits {logits}, rank {rank}");
        assert!(embed <= 1 + pool, "{embed}");
        assert!(embed_batch <= 1 + 3 + pool, "{embed_batch}");
        assert!(score <= 2 + pool, "{score}");
        assert!(logits <= 2 + pool, "{logits}");
        assert!(rank <= 1 + pool, "{rank}");
    }
    // Of a whole the numbers and the label; of each token these, and two lists; of an answer its two columns.
    let ids: Vec<u32> = (5..15).chain([1]).collect();
    for (folder, expected) in
        [("sequence-classification", 2), ("token-classification", 2 + 2 * ids.len()), ("question-answering", 2)]
    {
        let mut session = T5::open(data("goldens").join(folder)).unwrap().with_threads(1).session();
        let classify = warm(expected, || drop(session.classify(&ids).unwrap()));
        println!("{folder}: classify {classify}");
        assert_eq!(classify, expected, "{folder}");
    }
}

/// Lists of `tokens` ids each, to choose from.
fn choices(t5: &T5, tokens: u32) -> Choices {
    let lists: Vec<Vec<u32>> = (0..30).map(|i| (0..tokens).map(|k| 5 + (i + k) % 35).collect()).collect();
    t5.choices(&lists.iter().map(Source::from).collect::<Vec<_>>()).unwrap()
}

/// Choices take what is returned and nothing else, whatever their number and their length, ranked, in beams and in samples.
#[test]
fn session_allocates_the_choices_that_it_returns() {
    let long: Vec<u32> = (3..45).chain([1]).collect();
    let short: Vec<u32> = (9..20).chain([1]).collect();
    let sources: Vec<Source<'_>> = [&long, &short, &long].map(Source::from).to_vec();
    let several = |options| Generate { num_return_sequences: Some(3), ..options };
    let beams = Generate { num_beams: Some(3), ..Generate::default() };
    let t5 = model().with_threads(1);
    let mut session = t5.session();
    for choices in [choices(&t5, 4), choices(&t5, 30)] {
        let custom = Custom::new().choices(&choices);
        for (options, returned) in [
            (Generate::default(), 1),
            (several(Generate::default()), 3),
            (beams.clone(), 1),
            (several(beams.clone()), 3),
            (sampling(), 1),
        ] {
            // Ids of the source, list of sequences, ids of each; for several sources the same for each, and their list.
            let (one, all) = (2 + returned, 1 + 3 * (2 + returned));
            let generate = warm(one, || {
                let answer = session.generate_with(&long, &options, &custom).unwrap();
                assert!(answer.sequences.iter().all(|sequence| sequence.chosen.is_some()));
            });
            let batch = warm(all, || drop(session.generate_batch_with(&sources, &options, &custom).unwrap()));
            println!("among choices, {returned} sequences: generate {generate}, batch of 3 {batch}");
            assert_eq!((generate, batch), (one, all));
        }
        // All of the best choice in one step.
        let stream =
            warm(1, || assert_eq!(session.stream_with(&long, &Generate::default(), &custom).unwrap().count(), 1));
        assert_eq!(stream, 1);
    }
}

/// Rules of the caller's own take what they take themselves: here nothing but the list of allowed ids, one a step.
#[test]
fn session_allocates_nothing_for_rules_of_the_callers_own() {
    let source: Vec<u32> = (3..45).chain([1]).collect();
    let own = || {
        let rules = Custom::new().logits_processor(|_, scores| scores[7] = f32::NEG_INFINITY);
        rules.logits_processor(|context, scores| scores[8] -= context.ids.len() as f32).stopping_criteria(|_| false)
    };
    let beams = Generate { num_beams: Some(3), ..Generate::default() };
    let mut session = model().with_threads(1).session();
    for (options, sequences) in [(Generate::default(), 1), (sampling(), 1), (beams, 3)] {
        let options = exactly(STEPS, &options);
        let custom = own();
        let generate = warm(3, || drop(session.generate_with(&source, &options, &custom).unwrap()));
        // The ids of each step that has some.
        let stream = warm(STEPS, || assert!(session.stream_with(&source, &options, &custom).unwrap().count() <= STEPS));
        let custom = own().prefix_allowed_tokens(|_| (1..40).collect());
        // One beam goes first, then all of them.
        let most = 3 + 1 + (STEPS - 1) * sequences;
        let allowed = warm(most, || drop(session.generate_with(&source, &options, &custom).unwrap()));
        println!("own rules, {sequences} at work: generate {generate}, stream {stream}, allowed tokens {allowed}");
        assert_eq!(generate, 3);
        assert!(stream <= STEPS, "{stream}");
        assert_eq!(allowed, most);
    }
}

/// Log-probabilities: a list a sequence, and where alternatives are asked for a list a token.
#[test]
fn session_allocates_the_log_probabilities_that_it_returns() {
    let long: Vec<u32> = (3..45).chain([1]).collect();
    let short: Vec<u32> = (9..20).chain([1]).collect();
    let sources: Vec<Source<'_>> = [&long, &short, &long].map(Source::from).to_vec();
    let beams = Generate { num_beams: Some(3), num_return_sequences: Some(2), ..Generate::default() };
    let mut session = model().with_threads(1).session();
    for (options, returned) in [(Generate::default(), 1), (sampling(), 1), (beams, 2)] {
        for (top, lists) in [(0, 0), (3, STEPS)] {
            let options = exactly(STEPS, &Generate { top_logprobs: Some(top), ..options.clone() });
            // Of each sequence its ids, their log-probabilities and the alternatives of each.
            let (one, all) = (2 + returned * (2 + lists), 1 + 3 * (2 + returned * (2 + lists)));
            let generate = warm(one, || drop(session.generate(&long, &options).unwrap()));
            let batch = warm(all, || drop(session.generate_batch(&sources, &options).unwrap()));
            println!("{top} alternatives, {returned} sequences: generate {generate}, batch of 3 {batch}");
            assert_eq!((generate, batch), (one, all));
            if returned == 1 {
                // Of each step its ids and their log-probabilities.
                let most = 2 * STEPS + lists;
                let stream = warm(most, || assert_eq!(session.stream(&long, &options).unwrap().count(), STEPS));
                println!("{top} alternatives: stream {stream}");
                assert_eq!(stream, most);
            }
        }
    }
}
