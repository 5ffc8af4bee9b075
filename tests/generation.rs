//! Ways of generating: streams, sampling, prefixes, limits of time, log-probabilities; on the embedded model, and where
//! the tokenizer matters, on random weights with T5's own and with bytes.

mod common;

use common::{Folder, Stored, data, many_words, noise, open, sources};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tiny_t5::{Context, Custom, EarlyStopping, Finish, Generate, Load, Sequence, Source, T5, TokenLogprob};

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

/// Steps of a stream, joined, are the whole; each step's text is of whole characters. How many steps brought text.
#[track_caller]
fn assert_stream_is_the_whole(t5: &T5, source: Source<'_>, options: &Generate) -> usize {
    let whole = t5.generate(source, options).unwrap().sequences.remove(0);
    let (mut ids, mut text, mut logprobs, mut finish, mut pieces) = (Vec::new(), String::new(), None, None, 0);
    for step in t5.stream(source, options).unwrap() {
        let step = step.unwrap();
        assert!(finish.is_none(), "a step behind the last");
        assert_eq!(step.logprobs.as_ref().map(Vec::len), whole.logprobs.as_ref().map(|_| step.ids.len()));
        if let Some(new) = step.logprobs {
            logprobs.get_or_insert_with(Vec::new).extend(new);
        }
        assert!(whole.ids.starts_with(&ids), "ids are final");
        ids.extend(step.ids);
        text += &step.text;
        pieces += usize::from(!step.text.is_empty());
        assert!(whole.text.as_ref().is_none_or(|whole| whole.starts_with(&text)), "text is final: {text:?} {whole:?}");
        assert_eq!(step.default_limit, step.finish.is_some() && whole.default_limit);
        finish = step.finish;
    }
    let Sequence { ids: all, text: whole_text, logprobs: all_logprobs, finish: end, .. } = whole;
    assert_eq!((ids, finish, logprobs), (all, Some(end), all_logprobs), "{options:?}");
    assert_eq!(text, whole_text.unwrap_or_default(), "{options:?}");
    pieces
}

#[test]
fn stream_joined_equals_generate() {
    let t5 = model();
    for options in options() {
        for word in WORDS {
            assert_stream_is_the_whole(&t5, word.into(), &options);
            let logprobs = Generate { top_logprobs: Some(2), ..options.clone() };
            assert_stream_is_the_whole(&t5, word.into(), &logprobs);
        }
    }
}

/// Characters of several bytes, bytes that are no characters, sentinels.
#[test]
fn stream_of_bytes_joined_equals_generate() {
    let t5 = open("goldens/byt5-shape");
    assert_eq!(t5.tokenizer().unwrap().kind(), "bytes");
    // Bytes of two- and three-byte characters come often, so that many are whole.
    let likely = |ids: std::ops::Range<u32>, bias: f32| ids.map(move |byte| (vec![byte + 3], bias));
    let biases: Vec<_> =
        likely(0x80..0xc0, 4.0).chain(likely(0xc3..0xc6, 4.0)).chain(likely(0xe2..0xe4, 3.0)).collect();
    let (mut pieces, mut steps, mut wide) = (0, 0, 0);
    for mut options in options() {
        options.max_new_tokens = Some(60);
        for biased in [false, true] {
            options.sequence_bias = biased.then(|| biases.clone());
            for (seed, word) in WORDS.iter().enumerate() {
                options.seed = Some(seed as u64);
                pieces += assert_stream_is_the_whole(&t5, (*word).into(), &options);
                let whole = t5.generate(*word, &options).unwrap();
                steps += whole.sequences[0].ids.len();
                wide += whole.text().chars().filter(|c| !c.is_ascii()).count();
            }
        }
    }
    assert!(wide > 100 && pieces > 100 && pieces < steps, "{wide} wide characters, {pieces} pieces in {steps} steps");
}

/// T5's own pieces, with their blanks, from a model of random weights.
#[test]
fn stream_of_pieces_joined_equals_generate() {
    const WORDS: usize = 32_128;
    let matrix = |seed| Stored::of(&[WORDS, 64], &noise(seed).take(WORDS * 64).collect::<Vec<_>>());
    let folder = Folder::of("goldens/v1_1-gated-gelu-untied").with("vocab_size", WORDS);
    let folder = folder.with_tensor("shared.weight", matrix(1)).with_tensor("lm_head.weight", matrix(2));
    std::fs::copy(data("vocab/t5/spiece.model"), folder.write().join("spiece.model")).unwrap();
    let t5 = folder.open().unwrap();
    let mut blanks = 0;
    for options in options() {
        for word in WORDS_OF_T5 {
            assert_stream_is_the_whole(&t5, word.into(), &options);
            blanks += t5.generate(word, &options).unwrap().text().matches(' ').count();
        }
    }
    assert!(blanks > 20, "{blanks} blanks");
}

const WORDS_OF_T5: [&str; 2] = ["The house is wonderful.", "a"];

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

/// A batch that is over does not begin sources that it has not come to.
#[test]
fn max_time_of_nothing_begins_no_further_sources() {
    let t5 = model();
    let sources: Vec<Source<'_>> = WORDS.iter().cycle().take(200).map(Source::from).collect();
    for (num_beams, returned) in [(1, 1), (3, 2)] {
        let options = Generate {
            max_time: Some(0.0),
            num_beams: Some(num_beams),
            num_return_sequences: Some(returned),
            top_logprobs: Some(2),
            ..Generate::default()
        };
        let answers = t5.generate_batch(&sources, &options).unwrap();
        assert_eq!(answers.len(), sources.len());
        let mut begun = 0;
        for answer in answers {
            assert_eq!(answer.sequences.len(), returned);
            for Sequence { ids, text, logprobs, finish, .. } in answer.sequences {
                assert_eq!((finish, ids.len(), text.is_some()), (Finish::Stopped, logprobs.unwrap().len(), true));
                begun += ids.len();
            }
            assert!(!answer.input_ids.is_empty());
        }
        assert!((1..=64).contains(&begun), "{begun} tokens of {} sources", sources.len());
    }
}

/// Beams that are stopped have scores as those that end have, and there are as many as were asked for.
#[test]
fn stopped_beams_are_scored_as_finished_ones() {
    let t5 = model();
    let whole = Generate {
        num_beams: Some(4),
        num_return_sequences: Some(4),
        length_penalty: Some(2.0),
        logprobs: Some(true),
        ..Generate::default()
    };
    let flag = Arc::new(AtomicBool::new(false));
    let mut session = t5.session();
    session.stop_when(Some(Arc::clone(&flag)));
    for steps in [2, 5] {
        flag.store(false, Ordering::Relaxed);
        let raises =
            |context: &Context<'_>, _: &mut [f32]| flag.store(context.new_ids().len() + 1 >= steps, Ordering::Relaxed);
        let custom = Custom::new().logits_processor(raises);
        let answer = session.generate_with("photosynthesis", &whole, &custom).unwrap();
        assert_eq!(answer.sequences.len(), 4);
        for Sequence { ids, score, logprobs, finish, .. } in &answer.sequences {
            assert_eq!((*finish, ids.len()), (Finish::Stopped, steps));
            let sum: f32 = logprobs.iter().flatten().map(|token| token.logprob).sum();
            let expected = sum / (steps as f32).powi(2);
            assert!((score.unwrap() - expected).abs() < 1e-4 * expected.abs(), "{score:?} instead of {expected}");
        }
        assert!(answer.sequences.is_sorted_by(|a, b| a.score >= b.score));
    }
}

/// Also where no beam is better than another: scores that are not numbers.
#[test]
fn stopped_beams_of_strange_numbers_are_as_many_as_asked_for() {
    let config =
        r#"{"model_type": "t5", "num_layers": 1, "d_model": 64, "d_ff": 64, "num_heads": 2, "vocab_size": 128}"#;
    let t5 = T5::random_with(config, 7, &Load::default(), |_, _, values| values.fill(f32::NAN)).unwrap();
    let options = Generate {
        num_beams: Some(3),
        num_return_sequences: Some(3),
        max_time: Some(0.0),
        suppress_tokens: Some((0..128).collect()),
        ..Generate::default()
    };
    for options in [options.clone(), Generate { suppress_tokens: None, ..options }] {
        let sequences = t5.generate(&[20, 31, 1], &options).unwrap().sequences;
        assert_eq!(sequences.iter().map(|sequence| sequence.ids.len()).collect::<Vec<_>>(), [1; 3]);
    }
}

/// What a program holds in memory, its own or taken over, is a model as the folder is.
#[test]
fn from_bytes_of_vectors_and_of_a_spiece_model() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models/g2p-ipa");
    let read = |name: &str| std::fs::read(format!("{folder}/{name}")).unwrap();
    let config = String::from_utf8(read("config.json")).unwrap();
    let tokenizer = Some(read("tokenizer.json").into());
    let t5 = T5::from_bytes(&config, None, read("model.safetensors"), tokenizer, &Load::default()).unwrap();
    let answer = |t5: &T5| t5.generate("photosynthesis", &Generate::default()).unwrap().sequences;
    assert_eq!(answer(&t5), answer(&model()));

    let spiece = std::fs::read(data("vocab/t5/spiece.model")).unwrap();
    let other = T5::from_bytes(&config, None, read("model.safetensors"), Some(spiece.clone().into()), &Load::default());
    let ids = |t5: &tiny_t5::tokenizer::Tokenizer| t5.encode("hello world").unwrap();
    let reference = tiny_t5::tokenizer::Tokenizer::from_spiece(&spiece, None).unwrap();
    assert_eq!(ids(other.unwrap().tokenizer().unwrap()), ids(&reference));
    let none = T5::from_bytes(&config, None, read("model.safetensors"), Some(b"neither".into()), &Load::default());
    assert!(none.unwrap_err().to_string().contains("spiece.model"));
}

/// An end that is forbidden and wished for stays forbidden: no score becomes a NaN.
#[test]
fn decay_of_a_forbidden_end_leaves_the_others_alone() {
    let t5 = model();
    let options = Generate {
        min_new_tokens: Some(12),
        exponential_decay_length_penalty: Some((3, 1.4)),
        max_new_tokens: Some(20),
        no_repeat_ngram_size: Some(1),
        ..Generate::default()
    };
    for options in [options.clone(), Generate { do_sample: Some(true), ..options }] {
        let ids = t5.generate("hello", &options).unwrap().sequences.remove(0).ids;
        assert!(ids.len() >= 12 && !ids.contains(&0), "{ids:?}");
    }
}

/// Options of a folder: an end past the vocabulary is none, and what is wrong with them names their file.
#[test]
fn options_of_a_folder_that_cannot_be_name_it() {
    let folder = Folder::of("goldens/v1_0-relu-tied").with("eos_token_id", vec![1, 250]);
    let answer = |t5: &T5| t5.generate(&[5, 8, 1], &Generate::default()).map(|answer| answer.sequences);
    let expected = answer(&open("goldens/v1_0-relu-tied")).unwrap();
    assert_eq!(answer(&T5::open(folder.write()).unwrap()).unwrap(), expected);
    let mut folder = Folder::of("goldens/v1_0-relu-tied");
    folder.generation_config = Some(r#"{"num_beams": 0}"#.to_owned());
    let t5 = T5::open(folder.write()).unwrap();
    assert!(answer(&t5).unwrap_err().to_string().starts_with("generation_config.json: num_beams: found 0"));
    let own = t5.generate(&[5, 1], &Generate { num_beams: Some(0), ..Generate::default() }).unwrap_err().to_string();
    assert!(own.starts_with("num_beams: found 0"), "{own}");
}

#[test]
fn decoder_starts_with_bos_where_no_start_is_named() {
    let config =
        r#"{"model_type": "t5", "num_layers": 2, "d_model": 64, "d_ff": 128, "num_heads": 2, "vocab_size": 512}"#;
    let t5 = T5::random(config, 7, &Load::default()).unwrap();
    let starting = |decoder_start_token_id, bos_token_id| {
        let options = Generate { decoder_start_token_id, bos_token_id, ..Generate::default() };
        t5.generate(&[20, 31, 1], &options).map(|answer| answer.sequences[0].ids.clone())
    };
    assert_eq!(starting(None, Some(9)).unwrap(), starting(Some(9), None).unwrap());
    assert_eq!(starting(Some(0), Some(9)).unwrap(), starting(None, None).unwrap());
    assert_ne!(starting(None, Some(9)).unwrap(), starting(None, None).unwrap());
    assert!(starting(None, Some(512)).unwrap_err().to_string().starts_with("bos_token_id: found 512"));
    // mT5's start is 0 whatever config.json calls the begin of a sequence.
    let mt5 = |bos: &str| {
        let config = config.replace("t5", "mt5").replace('}', &format!("{bos}}}"));
        T5::random(&config, 7, &Load::default()).unwrap()
    };
    let (with, without) = (mt5(r#", "bos_token_id": 9"#), mt5(""));
    let target = [4, 8, 15];
    let answer = |t5: &T5| t5.generate(&[20, 31, 1], &Generate::default()).unwrap().sequences;
    assert_eq!(answer(&with), answer(&without));
    assert_eq!(with.score(&[20, 31, 1], &target).unwrap(), without.score(&[20, 31, 1], &target).unwrap());
}

/// What a checkpoint says of sampling where it does not sample means nothing, and what a caller says is checked.
#[test]
fn numbers_of_sampling_in_a_checkpoint_that_does_not_sample_are_passed_over() {
    let folder = Folder::of("goldens/v1_0-relu-tied");
    let plain = folder.open().unwrap().generate(&[5, 8, 1], &Generate::default()).unwrap().sequences;
    let text = r#"{"temperature": 0, "top_p": 1.5, "typical_p": 2.0, "eos_token_id": 1}"#;
    let t5 = folder.with_generation_config(text).open().unwrap();
    assert_eq!(t5.generate(&[5, 8, 1], &Generate::default()).unwrap().sequences, plain);
    let sampled = Generate { do_sample: Some(true), ..Generate::default() };
    let error = t5.generate(&[5, 8, 1], &sampled).unwrap_err().to_string();
    assert!(error.contains("generation_config.json: t"), "{error}");
    let own = Generate { temperature: Some(0.0), ..Generate::default() };
    assert!(t5.generate(&[5, 8, 1], &own).is_err());
}

/// A session that serves models with different tokenizers keeps nothing of one for the other.
#[test]
fn with_tokenizer_texts_are_of_that_tokenizer() {
    let t5 = open("goldens/byt5-shape");
    let bytes = t5.with_tokenizer(tiny_t5::tokenizer::Tokenizer::bytes(0));
    let options = Generate { decoder_prefix: Some("a".into()), ..Generate::default() };
    let first = |t5: &T5| t5.generate(&[5, 1], &options).map(|answer| answer.sequences[0].ids[0]);
    let embedded = T5::embedded(&Load::default()).unwrap();
    let other = embedded.with_tokenizer(tiny_t5::tokenizer::Tokenizer::bytes(0));
    assert_eq!(first(&bytes).unwrap(), 100);
    let own = first(&embedded).unwrap();
    assert_eq!(own, embedded.tokenizer().unwrap().encode("a").unwrap()[0]);
    // 100 is none of its ids.
    assert!(first(&other).is_err() && first(&embedded).unwrap() == own);
}

/// Infinity takes away a checkpoint's own limit.
#[test]
fn max_time_may_be_without_end() {
    let t5 = T5::embedded(&Load::default()).unwrap();
    let of =
        |max_time| t5.generate("hello", &Generate { max_time, ..Generate::default() }).map(|answer| answer.sequences);
    assert_eq!(of(Some(f64::INFINITY)).unwrap(), of(None).unwrap());
    assert!(of(Some(f64::NEG_INFINITY)).is_err() && of(Some(f64::NAN)).is_err());
}

/// A prompt is decoded once for each source, by parts.
#[test]
fn long_prompts_give_what_a_sequence_of_them_gives() {
    let t5 = T5::embedded(&Load::default()).unwrap();
    let prompt: Vec<u32> = (0..150).map(|i| 3 + i * 7 % 30).collect();
    let options = |prompt: &[u32], rest: usize| Generate {
        decoder_input_ids: Some(prompt.to_vec()),
        max_new_tokens: Some(rest),
        min_new_tokens: Some(rest),
        ..Generate::default()
    };
    let whole = t5.generate("photosynthesis", &options(&prompt, 40)).unwrap().sequences.remove(0).ids;
    for given in [151, 170, 189] {
        let rest = options(&whole[..given], 190 - given);
        assert_eq!(t5.generate("photosynthesis", &rest).unwrap().sequences[0].ids, whole, "{given}");
    }
    // Beams and samples of a source begin with the same keys and values.
    let several = Generate { num_beams: Some(3), num_return_sequences: Some(3), ..options(&prompt, 5) };
    let batch = t5.generate_batch(&["a".into(), "photosynthesis".into(), "b".into()], &several).unwrap();
    for (source, found) in ["a", "photosynthesis", "b"].into_iter().zip(&batch) {
        assert_eq!(t5.generate(source, &several).unwrap().sequences, found.sequences, "{source}");
    }
    let drawn = |count| Generate { do_sample: Some(true), num_return_sequences: Some(count), ..options(&prompt, 5) };
    let [one, four] = [1, 4].map(|count| t5.generate("a", &drawn(count)).unwrap().sequences);
    assert_eq!(one[..], four[..1]);

    let short = T5::embedded(&Load { max_source_tokens: Some(100), ..Load::default() }).unwrap();
    let error = short.generate("a", &options(&prompt, 5)).unwrap_err().to_string();
    assert!(error.contains("decoder_input_ids") && error.contains("150 tokens") && error.contains("100"), "{error}");
}

#[test]
fn decoder_prefix_as_text_is_its_ids() {
    let t5 = model();
    let prefix = "ˌfoʊ";
    let ids = t5.tokenizer().unwrap().encode_plain(prefix).unwrap();
    for options in options() {
        let options = Generate { max_new_tokens: Some(20), ..options };
        let as_text = Generate { decoder_prefix: Some(prefix.into()), ..options.clone() };
        let as_ids = Generate { decoder_input_ids: Some(ids.clone()), ..options.clone() };
        let sequences = t5.generate("rhythm", &as_text).unwrap().sequences;
        assert_eq!(sequences, t5.generate("rhythm", &as_ids).unwrap().sequences);
        assert!(sequences[0].text.as_ref().unwrap().starts_with(prefix));
        assert_stream_is_the_whole(&t5, "rhythm".into(), &as_text);
        let (first, rest) = ids.split_at(2);
        let rest = t5.tokenizer().unwrap().decode(rest, true).unwrap();
        let both = Generate { decoder_input_ids: Some(first.to_vec()), decoder_prefix: Some(rest), ..options };
        assert_eq!(t5.generate("rhythm", &both).unwrap().sequences, sequences, "text behind ids");
    }
    let error = open("goldens/v1_0-relu-tied")
        .generate(&[5, 1], &Generate { decoder_prefix: Some("a".into()), ..Generate::default() })
        .unwrap_err();
    assert!(error.to_string().contains("tokenizer"), "{error}");
}

fn bits(logprobs: &[TokenLogprob]) -> Vec<u32> {
    logprobs.iter().map(|token| token.logprob.to_bits()).collect()
}

/// Log-probabilities are those that [`T5::score`] gives for the same ids, and change nothing else.
#[track_caller]
fn assert_logprobs(t5: &T5, batch: &[Source<'_>], options: &Generate) {
    let plain = t5.generate_batch(batch, options).unwrap();
    let asked = t5.generate_batch(batch, &Generate { logprobs: Some(true), ..options.clone() }).unwrap();
    let top = t5.generate_batch(batch, &Generate { top_logprobs: Some(3), ..options.clone() }).unwrap();
    for (i, (plain, (asked, top))) in plain.iter().zip(asked.iter().zip(&top)).enumerate() {
        for (j, sequence) in asked.sequences.iter().enumerate() {
            let (plain, top) = (&plain.sequences[j], &top.sequences[j]);
            assert_eq!((&sequence.ids, &top.ids), (&plain.ids, &plain.ids));
            assert!(plain.logprobs.is_none());
            let (logprobs, top) = (sequence.logprobs.as_ref().unwrap(), top.logprobs.as_ref().unwrap());
            let score = t5.score(batch[i], &sequence.ids).unwrap();
            let expected: Vec<u32> = score.token_logprobs.iter().map(|x| x.to_bits()).collect();
            assert_eq!((bits(logprobs), bits(top)), (expected.clone(), expected), "{options:?}");
            assert!(logprobs.iter().all(|token| token.top_logprobs.is_empty()));
            let logits = t5.logits(batch[i], &sequence.ids).unwrap();
            for (token, row) in top.iter().zip(logits.values.chunks_exact(logits.vocab_size)) {
                let mut order: Vec<u32> = (0..row.len() as u32).collect();
                order.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]));
                let best: Vec<u32> = token.top_logprobs.iter().map(|(id, _)| *id).collect();
                assert_eq!(best, order[..3]);
                let own = token.top_logprobs.iter().find(|(id, _)| *id == token.id);
                assert!(own.is_none_or(|(_, logprob)| *logprob == token.logprob));
            }
            let ids: Vec<u32> = logprobs.iter().map(|token| token.id).collect();
            assert_eq!(ids, sequence.ids);
            match plain.score {
                Some(score) => assert_eq!(sequence.score, Some(score), "beams have their own"),
                None => {
                    let given = options.decoder_input_ids.as_ref().map_or(0, Vec::len);
                    let sum = logprobs[given..].iter().fold(0.0, |sum, token| token.logprob + sum);
                    assert_eq!(sequence.score, Some(sum / (logprobs.len() - given) as f32));
                }
            }
        }
    }
}

#[test]
fn logprobs_equal_those_of_score() {
    let t5 = model();
    let batch: Vec<Source<'_>> = WORDS.iter().map(|word| (*word).into()).collect();
    let many = |options: Generate| Generate { num_return_sequences: Some(3), ..options };
    for options in options() {
        let several = options.num_beams.is_some() || options.do_sample == Some(true);
        assert_logprobs(&t5, &batch, &if several { many(options.clone()) } else { options.clone() });
        let prefix = Generate { decoder_input_ids: Some(vec![51, 29, 61]), no_repeat_ngram_size: Some(2), ..options };
        assert_logprobs(&t5, &batch[..2], &prefix);
    }
    let too_many = Generate { top_logprobs: Some(1000), ..Generate::default() };
    let error = t5.generate("a", &too_many).unwrap_err().to_string();
    assert!(error.starts_with("top_logprobs: found 1000, expected at most vocab_size"), "{error}");
}

/// Sequences longer than the 64 positions that are decoded together, and more of them than that.
#[test]
fn logprobs_of_long_and_of_many_sequences_equal_those_of_score() {
    let t5 = open("goldens/odd-sizes");
    let sources = sources("goldens/odd-sizes");
    let batch: Vec<Source<'_>> = sources.iter().filter(|ids| ids.len() < 40).map(Into::into).collect();
    let long = Generate { max_new_tokens: Some(150), min_new_tokens: Some(150), ..Generate::default() };
    assert_logprobs(&t5, &batch[..2], &long);
    assert_logprobs(&t5, &batch[..1], &Generate { num_beams: Some(3), num_return_sequences: Some(3), ..long });
    let many = Generate { do_sample: Some(true), num_return_sequences: Some(70), ..Generate::default() };
    assert_logprobs(&t5, &batch[..2], &many);
}

/// With many words greedy search screens the output matrix; its ids stay what they are where all scores are asked for.
#[test]
fn logprobs_of_many_words_equal_those_of_score() {
    let folder = many_words();
    let t5 = folder.open().unwrap();
    let sources = sources("goldens/v1_1-gated-gelu-untied");
    let batch: Vec<Source<'_>> = sources[..3].iter().map(Into::into).collect();
    assert_logprobs(&t5, &batch, &Generate::default());
    for source in &sources[..3] {
        assert_stream_is_the_whole(&t5, source.into(), &Generate { top_logprobs: Some(4), ..Generate::default() });
    }
}

/// Lists of what users have are batches, an error says which of them it is about, and a model may be caught.
#[test]
fn lists_are_batches_and_errors_name_their_source() {
    let t5 = model();
    let words: Vec<String> = WORDS.iter().map(|word| (*word).to_owned()).collect();
    let ids: Vec<Vec<u32>> = words.iter().map(|word| t5.tokenizer().unwrap().encode(word).unwrap()).collect();
    let options = Generate::default();
    let answers = t5.generate_batch(&Source::list(&WORDS), &options).unwrap();
    assert!(
        answers
            .iter()
            .zip(&WORDS)
            .all(|(answer, word)| answer.sequences == t5.generate(*word, &options).unwrap().sequences)
    );
    for list in [Source::list(&words), Source::list(&ids)] {
        let same = t5.generate_batch(&list, &options).unwrap();
        assert!(answers.iter().zip(&same).all(|(a, b)| a.sequences == b.sequences));
    }
    let error = t5.generate_batch(&["a".into(), Source::Ids(&[]), "b".into()], &options).unwrap_err().to_string();
    assert!(error.starts_with("source 2: found an empty list"), "{error}");
    let error = t5.generate(Source::Ids(&[]), &options).unwrap_err().to_string();
    assert!(error.starts_with("source: found an empty list"), "{error}");
    let wrong = ["a".into(), Source::Ids(&[99_999])];
    for error in [t5.embed_batch(&wrong).unwrap_err(), t5.answer_probability(&wrong, 5, 6).unwrap_err()] {
        assert!(error.to_string().starts_with("source 2: found id 99999"), "{error}");
    }
    // However many of them are in memory together.
    let many: Vec<Source<'_>> = std::iter::repeat_n("a".into(), 70).chain([Source::Ids(&[99_999])]).collect();
    let error = t5.embed_batch(&many).unwrap_err().to_string();
    assert!(error.starts_with("source 71: found id 99999"), "{error}");
    let caught = std::panic::catch_unwind(|| t5.generate("hello", &Generate::default()).unwrap());
    assert!(caught.is_ok());
    let error = t5.infill("The <extra_id_0> sat", &options).unwrap_err().to_string();
    assert!(error.contains("<extra_id_0>") && error.contains("tokenizer"), "{error}");
}

/// A pair whose first id is the start token counts in the first step; of a sequence given twice the last counts; an end token given
/// twice decays once; the number of new tokens goes before the length, whoever gives them. All as transformers 5.23 and 5.24 have it.
#[test]
fn options_count_as_in_transformers() {
    let folder = Folder::of("goldens/v1_0-relu-tied");
    let t5 = folder.open().unwrap();
    let start = t5.config().decoder_start_token_id;
    let default = || Generate { max_new_tokens: Some(4), ..Generate::default() };
    let first = |options: &Generate| t5.generate(&[5, 8, 1], options).unwrap().sequences[0].ids[0];
    let plain = first(&default());
    let other = if plain == 7 { 9 } else { 7 };
    let biased = |biases| Generate { sequence_bias: Some(biases), ..default() };
    for num_beams in [1, 3] {
        let beams = |options| Generate { num_beams: Some(num_beams), ..options };
        assert_eq!(first(&beams(biased(vec![(vec![start, other], 500.0)]))), other);
        assert_eq!(first(&beams(biased(vec![(vec![other], -500.0), (vec![other], 500.0)]))), other);
        assert_ne!(first(&beams(biased(vec![(vec![other], 500.0), (vec![other], -500.0)]))), other);
        let bad = Generate { bad_words_ids: Some(vec![vec![start, plain]]), ..default() };
        assert_ne!(first(&beams(bad)), plain);
    }
    let decay = |eos: &[u32], factor| {
        let options = Generate {
            exponential_decay_length_penalty: Some((0, factor)),
            eos_token_id: Some(eos.to_vec().into()),
            max_new_tokens: Some(60),
            ..default()
        };
        t5.generate(&[5, 8, 1], &options).unwrap().sequences.remove(0).ids.len()
    };
    let lengths = [1.01, 1.02, 1.05, 1.1, 1.2].map(|factor| [decay(&[1], factor), decay(&[1, 1], factor)]);
    assert!(lengths.iter().all(|[once, twice]| once == twice), "{lengths:?}");
    assert!(lengths[0][0] > lengths[4][0], "{lengths:?}");
    std::fs::write(folder.write().join("generation_config.json"), r#"{"max_new_tokens": 3, "eos_token_id": 1}"#)
        .unwrap();
    let limited = folder.open().unwrap();
    let options = Generate { max_length: Some(9), min_length: Some(9), ..Generate::default() };
    assert_eq!(limited.generate(&[5, 8, 1], &options).unwrap().sequences[0].ids.len(), 3);
    // Choices have room, whatever the checkpoint's limit.
    let choices = limited.choices(&[(&[5, 6, 7, 8, 9]).into()]).unwrap();
    let options = Generate { max_length: Some(100), ..Generate::default() };
    let chosen = limited.generate_with(&[5, 8, 1], &options, &Custom::new().choices(&choices)).unwrap();
    assert_eq!(chosen.sequences[0].ids, [5, 6, 7, 8, 9, 1]);
}

/// What a call gives can be handed on as JSON.
#[test]
fn results_are_serialised() {
    let t5 = model();
    let options = Generate { top_logprobs: Some(2), ..Generate::default() };
    let answer = t5.generate("photosynthesis", &options).unwrap();
    let json = serde_json::to_value(&answer).unwrap();
    let sequence = &json["sequences"][0];
    assert_eq!((&sequence["text"], &sequence["finish"]), (&answer.text().into(), &"eos".into()));
    assert_eq!(json["input_ids"].as_array().unwrap().len(), answer.input_ids.len());
    assert_eq!(sequence["logprobs"][0]["top_logprobs"].as_array().unwrap().len(), 2);
    assert!(json["timings"]["decode_ms"].as_f64().unwrap() > 0.0);
    let score = serde_json::to_value(t5.score("hello", "həˈloʊ").unwrap()).unwrap();
    assert!(score["loss"].is_number() && score["token_logprobs"].is_array());
    let steps: Vec<_> =
        t5.stream("hello", &options).unwrap().map(|step| serde_json::to_value(step.unwrap()).unwrap()).collect();
    assert_eq!(steps.last().unwrap()["finish"], "eos");
    let head = open("goldens/sequence-classification").classify(&[5, 8, 1]).unwrap();
    assert!(serde_json::to_value(head).unwrap()["label"].is_string());
}
