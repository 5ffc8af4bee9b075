//! Ways of generating, on the embedded model: streams, sampling, prefixes, limits of time.

use tiny_t5::{EarlyStopping, Finish, Generate, Load, Source, T5};

fn model() -> T5 {
    T5::embedded(&Load::default()).unwrap()
}

const WORDS: [&str; 6] =
    ["photosynthesis", "a", "hello world", "My phone number is 42 and 7.", "naïve ☃ text", "rhythm"];

fn options() -> Vec<Generate> {
    let sampled = Generate { do_sample: Some(true), seed: Some(7), ..Generate::default() };
    vec![
        Generate::default(),
        Generate { num_beams: Some(4), ..Generate::default() },
        Generate { num_beams: Some(3), early_stopping: Some(EarlyStopping::Yes), ..Generate::default() },
        Generate { temperature: Some(1.5), top_k: Some(5), ..sampled.clone() },
        Generate { top_p: Some(0.8), no_repeat_ngram_size: Some(2), ..sampled },
        Generate { max_new_tokens: Some(3), ..Generate::default() },
    ]
}

#[test]
fn stream_joined_equals_generate() {
    let t5 = model();
    for options in options() {
        for word in WORDS {
            let whole = t5.generate(word, &options).unwrap().sequences.remove(0);
            let (mut ids, mut text, mut finish) = (Vec::new(), String::new(), None);
            for step in t5.stream(word, &options).unwrap() {
                let step = step.unwrap();
                assert!(finish.is_none(), "a step behind the last");
                ids.extend(step.ids);
                text += &step.text;
                finish = step.finish;
            }
            assert_eq!((ids, Some(text), finish), (whole.ids, whole.text, Some(whole.finish)), "{word} {options:?}");
        }
    }
}

#[test]
fn stream_dropped_half_way_leaves_the_model_usable() {
    let t5 = model();
    let before = t5.generate("photosynthesis", &Generate::default()).unwrap().sequences;
    for steps in 0..5 {
        assert_eq!(t5.stream("thermodynamics", &Generate::default()).unwrap().take(steps).count(), steps);
        assert_eq!(t5.generate("photosynthesis", &Generate::default()).unwrap().sequences, before);
    }
}

#[test]
fn sampling_same_seed_gives_the_same_everywhere() {
    let t5 = model();
    let options = Generate {
        do_sample: Some(true),
        seed: Some(3),
        temperature: Some(1.7),
        num_return_sequences: Some(3),
        ..Generate::default()
    };
    let sources: Vec<Source<'_>> = WORDS.iter().map(|w| (*w).into()).collect();
    let ids = |t5: &T5, sources: &[Source<'_>]| -> Vec<Vec<Vec<u32>>> {
        let all = t5.generate_batch(sources, &options).unwrap();
        all.into_iter().map(|g| g.sequences.into_iter().map(|s| s.ids).collect()).collect()
    };
    let all = ids(&t5, &sources);
    assert!(all.iter().all(|sequences| sequences.len() == 3));
    assert!(all.iter().any(|s| s[0] != s[1]), "samples differ");
    for isa in T5::available_isas() {
        for threads in [1, 2] {
            assert_eq!(ids(&t5.with_isa(isa).unwrap().with_threads(threads), &sources), all, "{isa} {threads}");
        }
    }
    // A source alone is source number 0 of its call.
    assert_eq!(ids(&t5, &sources[..1])[0], all[0]);
    let other = Generate { seed: Some(4), ..options.clone() };
    assert_ne!(t5.generate(WORDS[3], &other).unwrap().sequences[0].ids, all[3][0]);
    // The best of one is greedy.
    let best = Generate { top_k: Some(1), num_return_sequences: None, ..options.clone() };
    let greedy = t5.generate("rhythm", &Generate::default()).unwrap().sequences.remove(0).ids;
    assert_eq!(t5.generate("rhythm", &best).unwrap().sequences[0].ids, greedy);
}

#[test]
fn sampling_with_beams_is_an_error_that_says_so() {
    let options = Generate { do_sample: Some(true), num_beams: Some(2), ..Generate::default() };
    let error = model().generate("a", &options).unwrap_err().to_string();
    assert!(error.contains("do_sample") && error.contains("num_beams"), "{error}");
}

#[test]
fn decoder_prefix_forces_the_beginning() {
    let t5 = model();
    let whole = t5.generate("photosynthesis", &Generate::default()).unwrap().sequences.remove(0);
    let beams = Generate { num_beams: Some(4), ..Generate::default() };
    for cut in 1..whole.ids.len() {
        let prefix = whole.ids[..cut].to_vec();
        let forced = Generate { decoder_input_ids: Some(prefix.clone()), ..Generate::default() };
        assert_eq!(
            t5.generate("photosynthesis", &forced).unwrap().sequences[0].ids,
            whole.ids,
            "greedy continues itself"
        );
        let other =
            t5.generate("rhythm", &Generate { decoder_input_ids: Some(prefix.clone()), ..beams.clone() }).unwrap();
        assert_eq!(other.sequences[0].ids[..cut], prefix);
    }
    let short =
        Generate { decoder_input_ids: Some(whole.ids[..4].to_vec()), max_new_tokens: Some(2), ..Generate::default() };
    assert_eq!(t5.generate("photosynthesis", &short).unwrap().sequences[0].ids, whole.ids[..6]);
}

#[test]
fn max_time_of_nothing_stops_after_a_step() {
    let t5 = model();
    for num_beams in [1, 3] {
        let options = Generate { max_time: Some(0.0), num_beams: Some(num_beams), ..Generate::default() };
        let sequence = t5.generate("photosynthesis", &options).unwrap().sequences.remove(0);
        assert_eq!((sequence.finish, sequence.ids.len()), (Finish::Stopped, 1));
    }
}
