//! Sessions: many threads, early ends, and whose threads are used.

use rayon::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, mpsc};
use std::time::{Duration, Instant};
use tiny_t5::{Custom, Finish, Generate, Generated, Load, Source, T5};

static T5_IPA: LazyLock<T5> = LazyLock::new(|| T5::embedded(&Load::default()).unwrap());

const WORDS: [&str; 10] =
    ["photosynthesis", "hello", "a", "colonel", "through", "enough", "pneumonia", "queue", "world", "rhythm"];

/// What a caller sees of an answer.
fn seen(answer: &Generated) -> (Vec<u32>, String, Option<u32>, Finish) {
    let best = &answer.sequences[0];
    (best.ids.clone(), best.text.clone().unwrap(), best.score.map(f32::to_bits), best.finish)
}

/// Options of request `i`: greedy, beams, a short limit in turn, so that a session's settings change.
fn options(i: usize) -> Generate {
    match i % 3 {
        0 => Generate::default(),
        1 => Generate { num_beams: Some(3), ..Generate::default() },
        _ => Generate { max_new_tokens: Some(4), ..Generate::default() },
    }
}

#[test]
fn eight_threads_answer_a_thousand_requests_each_with_equal_bits() {
    const REQUESTS: usize = 1000; // of each thread
    let alone = T5_IPA.with_threads(1);
    let request = |i: usize| (WORDS[i % WORDS.len()], options(i));
    // 10 words, 3 options: 30 different requests.
    let expected: Vec<_> = (0..30).map(request).map(|(w, o)| seen(&alone.generate(w, &o).unwrap())).collect();
    let hidden = alone.encode(WORDS[0]).unwrap();
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let mut session = T5_IPA.with_threads(1 + thread % 2).session();
            let (answered, expected, hidden) = (&answered, &expected, &hidden);
            scope.spawn(move || {
                // Each begins elsewhere.
                for i in 4 * thread..4 * thread + REQUESTS {
                    let (word, options) = request(i);
                    assert_eq!(
                        seen(&session.generate(word, &options).unwrap()),
                        expected[i % 30],
                        "{word} {options:?}"
                    );
                    if i % 50 == 0 {
                        assert_eq!(session.encode(WORDS[0]).unwrap(), *hidden);
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(answered.into_inner(), 8 * REQUESTS);
}

#[test]
fn session_gives_what_the_model_gives() {
    let sources = WORDS.map(Source::from);
    let mut session = T5_IPA.session();
    for options in (0..3).map(options) {
        let expected: Vec<_> = T5_IPA.generate_batch(&sources, &options).unwrap().iter().map(seen).collect();
        assert_eq!(session.generate_batch(&sources, &options).unwrap().iter().map(seen).collect::<Vec<_>>(), expected);
        for (word, expected) in WORDS.iter().zip(&expected) {
            let steps: Vec<_> = session.stream(*word, &options).unwrap().collect::<Result<_, _>>().unwrap();
            let text: String = steps.iter().map(|step| step.text.as_str()).collect();
            assert_eq!(text, expected.1);
        }
    }
    assert_eq!(session.encode_batch(&sources).unwrap(), T5_IPA.encode_batch(&sources).unwrap());
    assert_eq!(session.embed("hello").unwrap(), T5_IPA.embed("hello").unwrap());
    assert_eq!(session.embed_batch(&sources).unwrap(), T5_IPA.embed_batch(&sources).unwrap());
    assert_eq!(session.score("hello", "həˈloʊ").unwrap(), T5_IPA.score("hello", "həˈloʊ").unwrap());
    // Rules of the caller's own, and none behind them.
    let custom = Custom::new().stopping_criteria(|context| context.new_ids().len() == 3);
    let options = Generate::default();
    let expected = seen(&T5_IPA.generate_with("photosynthesis", &options, &custom).unwrap());
    assert_eq!(expected.3, Finish::Stopped);
    assert_eq!(seen(&session.generate_with("photosynthesis", &options, &custom).unwrap()), expected);
    assert_eq!(session.stream_with("photosynthesis", &options, &custom).unwrap().count(), 3);
    assert_eq!(session.generate("hello", &options).unwrap().text(), "həˈloʊ");
}

/// A stream that is left in its middle, and calls that fail, leave the session as good as new.
#[test]
fn session_goes_on_behind_a_stream_that_was_dropped_and_behind_errors() {
    let options = Generate::default();
    let expected = seen(&T5_IPA.generate("rhythm", &options).unwrap());
    let mut session = T5_IPA.session();
    for beams in [1, 3] {
        let some = Generate { num_beams: Some(beams), ..Generate::default() };
        assert!(session.stream("photosynthesis", &some).unwrap().nth(2).is_some());
        assert_eq!(seen(&session.generate("rhythm", &options).unwrap()), expected);
    }
    let none: [u32; 0] = [];
    assert!(session.generate(&none, &options).is_err());
    assert!(session.encode_batch(&[Source::from("a"), Source::from(&none)]).is_err());
    assert!(session.stream(&none, &options).is_err());
    assert!(session.generate("a", &Generate { num_beams: Some(0), ..Generate::default() }).is_err());
    assert_eq!(seen(&session.generate("rhythm", &options).unwrap()), expected);
    assert_eq!(session.encode_batch(&[Source::from("a")]).unwrap().len(), 1);
}

/// A call that would take minutes.
fn endless(num_beams: usize) -> Generate {
    Generate {
        max_new_tokens: Some(200_000),
        min_new_tokens: Some(200_000),
        num_beams: Some(num_beams),
        ..Generate::default()
    }
}

#[test]
fn flag_ends_a_call_of_another_thread() {
    for num_beams in [1, 2] {
        let flag = Arc::new(AtomicBool::new(false));
        let mut session = T5_IPA.with_threads(1).session();
        session.stop_when(Some(Arc::clone(&flag)));
        let (begun, wait) = mpsc::channel();
        let worker = std::thread::spawn(move || {
            begun.send(()).unwrap();
            let batch = session.generate_batch(&["hello".into(), "world".into()], &endless(num_beams)).unwrap();
            (session, batch)
        });
        wait.recv().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        flag.store(true, Ordering::Relaxed);
        let (mut session, batch) = worker.join().unwrap();
        for answer in &batch {
            assert_eq!(answer.sequences[0].finish, Finish::Stopped);
            assert!(!answer.sequences[0].ids.is_empty());
        }
        // As long as the flag is up every call ends after a step, a stream as well; without it none does.
        assert_eq!(session.stream("hello", &endless(1)).unwrap().count(), 1);
        flag.store(false, Ordering::Relaxed);
        assert_eq!(session.generate("hello", &Generate::default()).unwrap().sequences[0].finish, Finish::Eos);
        flag.store(true, Ordering::Relaxed);
        session.stop_when(None);
        assert_eq!(session.generate("hello", &Generate::default()).unwrap().sequences[0].finish, Finish::Eos);
    }
}

/// Whatever becomes of a stream, its session can still be told to end.
#[test]
fn stream_whose_rule_panics_leaves_its_session_the_flag() {
    let flag = Arc::new(AtomicBool::new(true));
    let mut session = T5_IPA.session();
    session.stop_when(Some(Arc::clone(&flag)));
    let custom = Custom::new().logits_processor(|_, _| panic!("on purpose"));
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let mut stream = session.stream_with("hello", &Generate::default(), &custom).unwrap();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| stream.next().is_some()));
    std::panic::set_hook(hook);
    assert!(result.is_err() && stream.next().is_none());
    drop(stream);
    assert_eq!(session.generate("hello", &endless(1)).unwrap().sequences[0].finish, Finish::Stopped);
}

/// A flag that is up ends a batch behind the first sources, not behind a step of each.
#[test]
fn flag_ends_a_batch_of_many_sources() {
    let mut session = T5_IPA.session();
    session.stop_when(Some(Arc::new(AtomicBool::new(true))));
    let sources: Vec<Source<'_>> = WORDS.iter().cycle().take(300).map(Source::from).collect();
    let answers = session.generate_batch(&sources, &Generate::default()).unwrap();
    assert_eq!(answers.len(), 300);
    assert!(answers.iter().all(|answer| answer.sequences[0].finish == Finish::Stopped));
    assert!((1..=64).contains(&answers.iter().map(|answer| answer.sequences[0].ids.len()).sum::<usize>()));
}

#[test]
fn max_time_ends_a_call() {
    let mut session = T5_IPA.with_threads(1).session();
    let options = Generate { max_time: Some(0.05), ..endless(1) };
    let start = Instant::now();
    let answer = session.generate("hello", &options).unwrap();
    assert_eq!(answer.sequences[0].finish, Finish::Stopped);
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert!(!answer.sequences[0].ids.is_empty());
    // A step is about a millisecond; the rest is for a machine with much else to do.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

/// Calls from inside a pool of the caller's, of one thread or more, end with the same answers.
#[test]
fn calls_nested_in_the_callers_pool_do_not_deadlock() {
    let expected: Vec<_> = WORDS.map(|word| seen(&T5_IPA.generate(word, &Generate::default()).unwrap())).into();
    for workers in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(workers).build().unwrap();
        let wide = T5_IPA.with_threads(4);
        let found: Vec<_> = pool.install(|| {
            let nested = |word: &&str| seen(&wide.generate(*word, &Generate::default()).unwrap());
            let each: Vec<_> = WORDS.par_iter().map(nested).collect();
            // A session a task, and joins inside joins.
            let (a, b) = rayon::join(
                || wide.session().generate_batch(&WORDS.map(Source::from), &Generate::default()).unwrap(),
                || rayon::join(|| nested(&WORDS[0]), || nested(&WORDS[1])),
            );
            assert_eq!(a.iter().map(seen).collect::<Vec<_>>(), each);
            assert_eq!((&b.0, &b.1), (&each[0], &each[1]));
            each
        });
        assert_eq!(found, expected);
    }
}

#[test]
fn types_can_go_to_other_threads() {
    fn both<T: Send + Sync>() {}
    fn send<T: Send>() {}
    macro_rules! both {
        ($($kind:ty),* $(,)?) => {
            $(both::<$kind>();)*
        };
    }
    both!(T5, Source<'_>, Generated, tiny_t5::Sequence, tiny_t5::Step, Finish, tiny_t5::Timings, tiny_t5::TokenLogprob);
    both!(Load, tiny_t5::Dtype, Generate, tiny_t5::OneOrMany, tiny_t5::EarlyStopping, tiny_t5::Speculation);
    both!(Custom<'_>, tiny_t5::Choices, tiny_t5::Chosen, tiny_t5::Context<'_>);
    both!(tiny_t5::Encoding, tiny_t5::Score, tiny_t5::Logits, tiny_t5::Classification, tiny_t5::Infilled);
    both!(tiny_t5::Error, tiny_t5::CheckpointError, tiny_t5::UnknownIsa, tiny_t5::tokenizer::TokenizerError);
    both!(tiny_t5::Config, tiny_t5::Architecture, tiny_t5::Activation, tiny_t5::ModelType, tiny_t5::Shape);
    both!(tiny_t5::Parameters, tiny_t5::Flops, tiny_t5::DecodedToken, tiny_t5::StepBytes);
    both!(tiny_t5::Machine, tiny_t5::Memory, tiny_t5::Calibration, tiny_t5::Prediction);
    both!(tiny_t5::lowlevel::Decoder, tiny_t5::tokenizer::Tokenizer, tiny_t5::tokenizer::TextStream<'_>);
    // Of one thread at a time.
    send::<tiny_t5::Session>();
    send::<tiny_t5::Stream<'_>>();
}
