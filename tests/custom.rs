//! A caller's own rules: processors, stop rules, allowed tokens and choices, in every way of generating.

mod common;

use common::{many_words, open, sources};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, OnceLock};
use tiny_t5::{Choices, Context, Custom, Finish, Generate, Load, Sequence, Source, T5};

fn model() -> &'static T5 {
    static MODEL: OnceLock<T5> = OnceLock::new();
    MODEL.get_or_init(|| T5::embedded(&Load::default()).unwrap())
}

const WORDS: [&str; 6] = ["photosynthesis", "a", "hello world", "rhythm", "thermodynamics", "one two three"];

fn greedy() -> Generate {
    Generate { max_new_tokens: Some(40), ..Generate::default() }
}

fn beams(num_beams: usize) -> Generate {
    Generate { num_beams: Some(num_beams), num_return_sequences: Some(num_beams), ..greedy() }
}

fn sampling() -> Generate {
    Generate { do_sample: Some(true), temperature: Some(1.6), seed: Some(3), num_return_sequences: Some(3), ..greedy() }
}

/// Choices are of the model that made them: another one that has not their ids says so.
#[test]
fn choices_of_a_larger_vocabulary_are_refused() {
    let config =
        r#"{"model_type": "t5", "num_layers": 1, "d_model": 16, "d_ff": 16, "num_heads": 1, "vocab_size": 20}"#;
    let small = T5::random(config, 1, &Load::default()).unwrap();
    let choices = model().choices(&["ˈwɝld".into(), "həˈloʊ".into()]).unwrap();
    for (way, options) in ways() {
        let options = Generate { num_return_sequences: None, ..options };
        let error = small.generate_with(&[5, 1], &options, &Custom::new().choices(&choices)).unwrap_err().to_string();
        assert!(error.contains("choices") && error.contains("vocab_size 20"), "{way}: {error}");
    }
}

/// Every way of searching.
fn ways() -> [(&'static str, Generate); 4] {
    [("greedy", greedy()), ("3 beams", beams(3)), ("5 beams", beams(5)), ("sampling", sampling())]
}

fn texts() -> Vec<Source<'static>> {
    WORDS.iter().map(|word| (*word).into()).collect()
}

/// What is compared: ids, the bits of the score, why it ended.
fn said(sequences: &[Sequence]) -> Vec<(Vec<u32>, Option<u32>, Finish)> {
    sequences.iter().map(|s| (s.ids.clone(), s.score.map(f32::to_bits), s.finish)).collect()
}

/// The answers with `custom`: in one batch, each alone, and as streams, which must all say the same.
#[track_caller]
fn answers(t5: &T5, sources: &[Source<'_>], options: &Generate, custom: &Custom<'_>) -> Vec<Vec<Sequence>> {
    let batch: Vec<_> = t5.generate_batch_with(sources, options, custom).unwrap();
    let sampled = options.do_sample == Some(true);
    for (i, (source, whole)) in sources.iter().zip(&batch).enumerate() {
        if i == 0 || !sampled {
            let alone = t5.generate_with(*source, options, custom).unwrap();
            assert_eq!(said(&alone.sequences), said(&whole.sequences), "source {i} alone");
            let one = Generate { num_return_sequences: None, ..options.clone() };
            let (mut ids, mut finish) = (Vec::new(), None);
            for step in t5.stream_with(*source, &one, custom).unwrap() {
                let step = step.unwrap();
                ids.extend(step.ids);
                finish = step.finish;
            }
            assert_eq!(
                (&ids, finish),
                (&whole.sequences[0].ids, Some(whole.sequences[0].finish)),
                "source {i} streamed"
            );
        }
    }
    batch.into_iter().map(|generated| generated.sequences).collect()
}

fn every_third(context: &Context<'_>, scores: &mut [f32]) {
    assert!(!context.ids.is_empty());
    scores.iter_mut().skip(2).step_by(3).for_each(|score| *score = f32::NEG_INFINITY);
}

#[test]
fn own_processor_equals_the_built_in_one_of_its_kind() {
    let t5 = model();
    let third: Vec<u32> = (2..t5.config().vocab_size as u32).step_by(3).collect();
    let custom = Custom::new().logits_processor(every_third);
    for (name, options) in ways() {
        let own = answers(t5, &texts(), &options, &custom);
        let suppressed = Generate { suppress_tokens: Some(third.clone()), ..options.clone() };
        let built_in = t5.generate_batch(&texts(), &suppressed).unwrap();
        let plain = t5.generate_batch(&texts(), &options).unwrap();
        for (i, own) in own.iter().enumerate() {
            assert_eq!(said(own), said(&built_in[i].sequences), "{name} {}", WORDS[i]);
        }
        assert!(own.iter().zip(&plain).any(|(own, plain)| said(own) != said(&plain.sequences)), "{name}: no effect");
    }
}

/// Greedy search over many words computes few of the scores; a processor of one's own sees and changes all of them.
#[test]
fn own_processor_sees_every_score_of_many_words() {
    let folder = many_words();
    let t5 = folder.open().unwrap();
    let third: Vec<u32> = (2..20_000).step_by(3).collect();
    let custom = Custom::new()
        .logits_processor(|_, scores| assert!(scores.len() == 20_000 && scores.iter().all(|score| score.is_finite())))
        .logits_processor(every_third);
    let suppressed = Generate { suppress_tokens: Some(third), ..greedy() };
    for source in &sources("goldens/v1_1-gated-gelu-untied")[..3] {
        let own = t5.generate_with(source, &greedy(), &custom).unwrap();
        assert_eq!(said(&own.sequences), said(&t5.generate(source, &suppressed).unwrap().sequences));
    }
}

#[test]
fn context_is_that_of_the_row() {
    let t5 = model();
    let ids: Vec<Vec<u32>> = WORDS.iter().map(|word| t5.tokenizer().unwrap().encode(word).unwrap()).collect();
    let prefix = vec![51, 29];
    let check = |context: &Context<'_>| {
        assert_eq!(context.source, ids[context.index]);
        assert_eq!((context.prompt, &context.ids[1..3]), (3, &prefix[..]));
        assert_eq!(context.new_ids(), &context.ids[3..]);
    };
    let custom = Custom::new().logits_processor(|context, _| check(context)).stopping_criteria(|context| {
        check(context);
        false
    });
    for (name, options) in ways() {
        let options = Generate { decoder_input_ids: Some(prefix.clone()), ..options };
        let own = t5.generate_batch_with(&texts(), &options, &custom).unwrap();
        assert_eq!(own, untimed(t5.generate_batch(&texts(), &options).unwrap(), &own), "{name}");
    }
}

/// `of` with the timings of `like`.
fn untimed(mut of: Vec<tiny_t5::Generated>, like: &[tiny_t5::Generated]) -> Vec<tiny_t5::Generated> {
    of.iter_mut().zip(like).for_each(|(of, like)| of.timings = like.timings);
    of
}

/// A row is computed as long as its sequence grows: finished ones leave the batch.
#[test]
fn finished_sequences_leave_the_batch() {
    let t5 = model();
    let rows: Mutex<BTreeMap<usize, usize>> = Mutex::new(BTreeMap::new());
    let custom =
        Custom::new().logits_processor(|context, _| *rows.lock().unwrap().entry(context.index).or_default() += 1);
    for (name, options) in ways() {
        rows.lock().unwrap().clear();
        let all = t5.generate_batch_with(&texts(), &options, &custom).unwrap();
        let in_batch = std::mem::take(&mut *rows.lock().unwrap());
        if options.num_beams.is_none() {
            for (i, generated) in all.iter().enumerate() {
                let tokens: usize = generated.sequences.iter().map(|s| s.ids.len()).sum();
                assert_eq!(in_batch[&i], tokens, "{name}: {} has a row for each of its tokens", WORDS[i]);
            }
            continue;
        }
        for (i, source) in texts().into_iter().enumerate() {
            t5.generate_with(source, &options, &custom).unwrap();
            let alone = std::mem::take(&mut *rows.lock().unwrap());
            assert_eq!(alone[&0], in_batch[&i], "{name}: {} has as many rows as alone", WORDS[i]);
        }
        let (least, most) = (in_batch.values().min().unwrap(), in_batch.values().max().unwrap());
        assert!(least * 2 < *most, "{name}: some end early, {in_batch:?}");
    }
}

#[test]
fn own_stop_rule_ends_sequences() {
    let t5 = model();
    for (name, options) in ways() {
        let plain = t5.generate_batch(&texts(), &options).unwrap();
        let three = Custom::new().stopping_criteria(|context| context.new_ids().len() == 3);
        for (i, stopped) in answers(t5, &texts(), &options, &three).iter().enumerate() {
            for (j, sequence) in stopped.iter().enumerate() {
                let ended = if sequence.finish == Finish::Eos { 1..=3 } else { 3..=3 };
                assert!(ended.contains(&sequence.ids.len()), "{name}: {sequence:?}");
                assert!([Finish::Stopped, Finish::Eos].contains(&sequence.finish), "{name}: {sequence:?}");
                if options.num_beams.is_none() {
                    let whole = &plain[i].sequences[j].ids;
                    assert_eq!(sequence.ids[..], whole[..sequence.ids.len()], "{name}: the beginning of the whole");
                }
            }
            assert!(WORDS[i].len() < 4 || stopped[0].finish == Finish::Stopped, "{name}");
        }
        let never = Custom::new().stopping_criteria(|_| false).stopping_criteria(|context| context.ids.len() > 1000);
        for (plain, own) in plain.iter().zip(answers(t5, &texts(), &options, &never)) {
            assert_eq!(said(&own), said(&plain.sequences), "{name}");
        }
    }
}

/// A rule that stops at a token makes of it an end token.
#[test]
fn own_stop_rule_at_a_token_equals_an_end_token() {
    let t5 = model();
    let eos = t5.config().eos_token_id[0];
    let whole = t5.generate("photosynthesis", &greedy()).unwrap().sequences.remove(0);
    let stop = whole.ids[whole.ids.len() / 2];
    let custom = Custom::new().stopping_criteria(|context| context.ids.last() == Some(&stop));
    let ends = Generate { eos_token_id: Some(vec![eos, stop].into()), ..greedy() };
    for num_beams in [1, 4] {
        let own = Generate { num_beams: Some(num_beams), ..greedy() };
        let built_in = Generate { num_beams: Some(num_beams), ..ends.clone() };
        let (own, built_in) = (
            t5.generate_with("photosynthesis", &own, &custom).unwrap().sequences.remove(0),
            t5.generate("photosynthesis", &built_in).unwrap().sequences.remove(0),
        );
        assert_eq!((&own.ids, own.score), (&built_in.ids, built_in.score), "{num_beams} beams");
        let expected = if own.ids.last() == Some(&stop) { Finish::Stopped } else { Finish::Eos };
        assert_eq!(own.finish, expected);
    }
}

#[test]
fn panic_of_an_own_rule_leaves_the_model_usable() {
    let t5 = model();
    let before = t5.generate_batch(&texts(), &greedy()).unwrap();
    let custom = [
        Custom::new().logits_processor(|context, _| assert!(context.new_ids().len() < 4, "on purpose")),
        Custom::new().stopping_criteria(|context| {
            assert!(context.new_ids().len() < 4, "on purpose");
            false
        }),
        Custom::new().prefix_allowed_tokens(|context| {
            assert!(context.new_ids().len() < 4, "on purpose");
            (0..50).collect()
        }),
    ];
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let mut results = Vec::new();
    for custom in &custom {
        for threads in [1, 3] {
            let t5 = t5.with_threads(threads);
            for (_, options) in ways() {
                let call = || t5.generate_batch_with(&texts(), &options, custom).map(drop);
                results.push(catch_unwind(AssertUnwindSafe(call)).is_err());
                let one = Generate { num_return_sequences: None, ..options };
                let mut stream = t5.stream_with("photosynthesis", &one, custom).unwrap();
                results.push(catch_unwind(AssertUnwindSafe(|| stream.by_ref().count())).is_err());
                results.push(stream.next().is_none());
                drop(stream);
                let after = t5.generate_batch(&texts(), &greedy()).unwrap();
                results.push(after == untimed(before.clone(), &after));
            }
        }
    }
    std::panic::set_hook(hook);
    assert!(results.iter().all(|ok| *ok), "{results:?}");
}

#[test]
fn own_rules_serve_several_threads() {
    let t5 = model();
    let custom = Custom::new().logits_processor(every_third).stopping_criteria(|context| context.ids.len() > 9);
    let expected: Vec<_> = ways().iter().map(|(_, o)| t5.generate_batch_with(&texts(), o, &custom).unwrap()).collect();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for ((name, options), expected) in ways().iter().zip(&expected) {
                    let got = t5.generate_batch_with(&texts(), options, &custom).unwrap();
                    assert_eq!(got, untimed(expected.clone(), &got), "{name}");
                }
            });
        }
    });
}

#[test]
fn allowed_tokens_are_all_that_comes() {
    let t5 = model();
    let words: Vec<Vec<u32>> =
        WORDS.iter().map(|w| t5.generate(*w, &greedy()).unwrap().sequences.remove(0).ids).collect();
    // The next source's answer, and nothing else.
    let other = |context: &Context<'_>| vec![words[(context.index + 1) % WORDS.len()][context.new_ids().len()]];
    let custom = Custom::new().prefix_allowed_tokens(other);
    for (name, options) in ways() {
        for (i, generated) in t5.generate_batch_with(&texts(), &options, &custom).unwrap().iter().enumerate() {
            let expected = &words[(i + 1) % WORDS.len()];
            assert!(generated.sequences.iter().all(|s| s.ids == *expected && s.finish == Finish::Eos), "{name}");
            // Beams have one way to go, so there is one sequence.
            let count = options.num_return_sequences.filter(|_| options.num_beams.is_none()).unwrap_or(1);
            assert_eq!(generated.sequences.len(), count, "{name}");
        }
    }
}

/// Where many tokens are allowed, the search is the one in which the others are suppressed.
#[test]
fn allowed_tokens_equal_suppressed_others() {
    let t5 = model();
    let all = 0..t5.config().vocab_size as u32;
    let (allowed, others): (Vec<u32>, Vec<u32>) = all.partition(|id| id % 3 != 2);
    let custom = Custom::new().prefix_allowed_tokens(|_| allowed.clone());
    for (name, options) in ways() {
        let suppressed = Generate { suppress_tokens: Some(others.clone()), ..options.clone() };
        let expected = t5.generate_batch(&texts(), &suppressed).unwrap();
        for (own, expected) in answers(t5, &texts(), &options, &custom).iter().zip(&expected) {
            assert_eq!(said(own), said(&expected.sequences), "{name}");
        }
    }
}

#[test]
fn allowed_tokens_that_cannot_be_are_an_error() {
    let t5 = model();
    let eos = t5.config().eos_token_id[0];
    let error = |custom: &Custom<'_>, options: &Generate| {
        let error = t5.generate_with("rhythm", options, custom).unwrap_err().to_string();
        let one = Generate { num_return_sequences: None, ..options.clone() };
        let mut stream = t5.stream_with("rhythm", &one, custom).unwrap();
        assert_eq!(stream.next().unwrap().unwrap_err().to_string(), error);
        assert!(stream.next().is_none());
        error
    };
    for (name, options) in ways() {
        let empty = error(&Custom::new().prefix_allowed_tokens(|_| vec![]), &options);
        assert_eq!(empty, "prefix_allowed_tokens: found an empty list, expected at least one id", "{name}");
        let past = error(&Custom::new().prefix_allowed_tokens(|_| vec![5, 100_000]), &options);
        assert!(past.contains("prefix_allowed_tokens: found 100000, expected ids below vocab_size"), "{name}: {past}");
        let long = Generate { min_new_tokens: Some(4), ..options };
        let conflict = error(&Custom::new().prefix_allowed_tokens(|_| vec![eos]), &long);
        assert!(
            conflict.starts_with("prefix_allowed_tokens: found no id that the other rules allow"),
            "{name}: {conflict}"
        );
    }
    assert!(t5.generate("rhythm", &greedy()).is_ok());
}

/// What the choices are in the tests: one begins with another.
const CHOICES: [&str; 6] = ["ˈɹɪðəm", "ˈɹɪð", "həˈloʊ", "ˈeɪ", "ˌfoʊtoʊˈsɪnθəsəs", "ˌfoʊtoʊˈsɪnθəsɪs"];

fn choices(t5: &T5) -> Choices {
    t5.choices(&CHOICES.map(Source::Text)).unwrap()
}

/// The choices' log-probabilities by [`T5::score`], and their probabilities.
fn scored(t5: &T5, word: &str) -> Vec<(f32, f64)> {
    let sum = |choice: &str| t5.score(word, choice).unwrap().token_logprobs.iter().fold(0.0, |sum, x| x + sum);
    let sums: Vec<f32> = CHOICES.iter().map(|choice| sum(choice)).collect();
    let all: f64 = sums.iter().map(|sum| f64::from(*sum).exp()).sum();
    sums.iter().map(|sum| (*sum, f64::from(*sum).exp() / all)).collect()
}

#[test]
fn choices_are_ranked_by_their_exact_probabilities() {
    let t5 = model();
    let choices = choices(t5);
    assert_eq!(choices.len(), 6);
    let custom = Custom::new().choices(&choices);
    let all = Generate { num_return_sequences: Some(6), length_penalty: Some(0.0), ..Generate::default() };
    for threads in [1, 3] {
        let t5 = t5.with_threads(threads);
        for (word, ranked) in WORDS.iter().zip(answers(&t5, &texts(), &all, &custom)) {
            let expected = scored(&t5, word);
            let mut seen = BTreeSet::new();
            for sequence in &ranked {
                let chosen = sequence.chosen.unwrap();
                assert_eq!(sequence.text.as_deref(), Some(CHOICES[chosen.index]));
                let (sum, probability) = expected[chosen.index];
                assert_eq!(sequence.score.unwrap().to_bits(), sum.to_bits(), "{word} {}", CHOICES[chosen.index]);
                assert!(
                    (f64::from(chosen.probability) - probability).abs() < 1e-6,
                    "{chosen:?}, expected {probability}"
                );
                assert_eq!(sequence.finish, Finish::Eos);
                seen.insert(chosen.index);
            }
            assert_eq!(seen.len(), 6);
            assert!(ranked.is_sorted_by(|a, b| a.score >= b.score));
            let one = t5.generate_with(*word, &Generate::default(), &custom).unwrap();
            assert_eq!(one.sequences.len(), 1);
            assert_eq!(one.sequences[0].ids, ranked[0].ids);
        }
    }
    assert_eq!(t5.generate_with("rhythm", &Generate::default(), &custom).unwrap().text(), "ˈɹɪðəm");
}

#[test]
fn choices_hold_in_every_search_and_against_every_rule() {
    let t5 = model();
    let choices = choices(t5);
    let custom = Custom::new().choices(&choices);
    let eos = t5.config().eos_token_id[0];
    let rules = [
        Generate::default(),
        Generate { min_new_tokens: Some(30), ..Generate::default() },
        Generate { suppress_tokens: Some((1..60).collect()), renormalize_logits: Some(true), ..Generate::default() },
        Generate { forced_bos_token_id: Some(77), forced_eos_token_id: Some(40.into()), ..Generate::default() },
        Generate { no_repeat_ngram_size: Some(1), repetition_penalty: Some(3.0), ..Generate::default() },
        Generate { decoder_input_ids: Some(vec![51, 29]), ..Generate::default() },
    ];
    for (name, options) in ways() {
        for rule in &rules {
            let mut options = rule.or(&options);
            options.num_return_sequences = options.num_return_sequences.map(|n| n.min(3));
            for (word, sequences) in WORDS.iter().zip(answers(t5, &texts(), &options, &custom)) {
                assert!(!sequences.is_empty());
                let given = rule.decoder_input_ids.as_ref().map_or(0, Vec::len);
                let mut seen = BTreeSet::new();
                for sequence in &sequences {
                    let chosen = sequence.chosen.unwrap_or_else(|| panic!("{name} {word} {rule:?}: {sequence:?}"));
                    let mut ids = t5.tokenizer().unwrap().encode_plain(CHOICES[chosen.index]).unwrap();
                    ids.push(eos);
                    assert_eq!(sequence.ids[given..], ids, "{name} {word}");
                    assert!((0.0..=1.0).contains(&chosen.probability));
                    seen.insert(chosen.index);
                }
                assert!(name == "sampling" || seen.len() == sequences.len(), "{name}: each once");
            }
        }
    }
}

/// The probability does not depend on the search; beams as many as choices find the most probable one.
#[test]
fn choices_have_the_same_probability_in_every_search() {
    let t5 = model();
    let choices = choices(t5);
    let custom = Custom::new().choices(&choices);
    for word in WORDS {
        let expected = scored(t5, word);
        let ranked = t5.generate_with(word, &Generate::default(), &custom).unwrap().sequences.remove(0);
        for (name, options) in ways() {
            let options = Generate { length_penalty: Some(0.0), num_return_sequences: None, ..options };
            let sequence = t5.generate_with(word, &options, &custom).unwrap().sequences.remove(0);
            let chosen = sequence.chosen.unwrap();
            let (sum, probability) = expected[chosen.index];
            assert!((f64::from(chosen.probability) - probability).abs() < 1e-6, "{name} {word}");
            if options.num_beams == Some(5) {
                assert_eq!((&sequence.ids, sequence.score.unwrap().to_bits()), (&ranked.ids, sum.to_bits()), "{word}");
            }
        }
    }
}

/// Several chunks of positions, more choices than are decoded together, a model without a tokenizer.
#[test]
fn choices_may_be_many_and_long_and_ids() {
    let t5 = open("goldens/v1_0-relu-tied");
    let eos = t5.config().eos_token_id[0];
    let vocab = t5.config().vocab_size as u32;
    let list: Vec<Vec<u32>> = (0..150u32)
        .map(|i| (0..1 + i % 90).map(|j| 2 + (i * 7 + j * (3 + i % 5)) % (vocab - 2)).filter(|id| *id != eos).collect())
        .collect();
    let list: Vec<Vec<u32>> = list.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    assert!(list.len() > 128);
    let views: Vec<Source<'_>> = list.iter().map(Into::into).collect();
    let choices = t5.choices(&views).unwrap();
    let custom = Custom::new().choices(&choices);
    let options = Generate { num_return_sequences: Some(list.len()), length_penalty: Some(0.0), ..Generate::default() };
    let sources = sources("goldens/v1_0-relu-tied");
    let batch: Vec<Source<'_>> = sources[..2].iter().map(Into::into).collect();
    for (source, generated) in sources.iter().zip(t5.generate_batch_with(&batch, &options, &custom).unwrap()) {
        assert_eq!(generated.sequences.len(), list.len());
        for sequence in &generated.sequences {
            let expected = t5.score(source, &sequence.ids).unwrap().token_logprobs.iter().fold(0.0, |sum, x| x + sum);
            assert_eq!(sequence.score.unwrap().to_bits(), expected.to_bits(), "{:?}", sequence.ids);
            let chosen = &list[sequence.chosen.unwrap().index];
            assert_eq!(sequence.ids[..sequence.ids.len() - 1], chosen[..]);
        }
        let sum: f64 = generated.sequences.iter().map(|s| f64::from(s.chosen.unwrap().probability)).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    }
}

#[test]
fn choices_that_cannot_be_are_an_error() {
    let t5 = model();
    let error = |choices: &[Source<'_>]| t5.choices(choices).unwrap_err().to_string();
    let eos = t5.config().eos_token_id[0];
    assert_eq!(error(&[]), "choices: found an empty list, expected at least one");
    assert_eq!(error(&["ˈeɪ".into(), "".into()]), "choice 2: found nothing, expected a text or ids");
    let twice = error(&["ˈeɪ".into(), "h".into(), "ˈeɪ".into()]);
    assert_eq!(twice, "choice 3: found the ids of choice 1, expected choices of different ids");
    assert!(error(&[Source::Ids(&[5, 100_000])]).starts_with("choice 1: found id 100000"));
    assert!(error(&[Source::Ids(&[5, eos, 6])]).contains("end token before the end"));
    let choices = choices(t5);
    let custom = Custom::new().choices(&choices);
    let error = |options: Generate| t5.generate_with("a", &options, &custom).unwrap_err().to_string();
    let many = error(Generate { num_return_sequences: Some(7), ..Generate::default() });
    assert_eq!(many, "num_return_sequences: found 7, expected 1 to 6 (choices)");
    let short = error(Generate { max_new_tokens: Some(4), ..Generate::default() });
    assert!(short.starts_with("max_new_tokens: found 4, expected room for the "), "{short}");
    let other = error(Generate { eos_token_id: Some(7.into()), ..Generate::default() });
    assert!(other.starts_with("eos_token_id: found [7], expected 1 among them"), "{other}");
}

/// A job that is cut into calls has the samples of the whole.
#[test]
fn first_index_makes_calls_parts_of_a_job() {
    let t5 = model();
    let whole: Vec<_> = t5.generate_batch(&texts(), &sampling()).unwrap();
    for cut in 0..=WORDS.len() {
        let (first, second) = (&texts()[..cut], &texts()[cut..]);
        let mut parts = t5.generate_batch(first, &sampling()).unwrap();
        let places = Custom::new().first_index(cut).logits_processor(|context, _| assert!(context.index >= cut));
        parts.extend(t5.generate_batch_with(second, &sampling(), &places).unwrap());
        assert_eq!(parts, untimed(whole.clone(), &parts), "cut at {cut}");
    }
    let one = Generate { num_return_sequences: None, ..sampling() };
    for (i, whole) in whole.iter().enumerate() {
        let custom = Custom::new().first_index(i);
        let steps = t5.stream_with(WORDS[i], &one, &custom).unwrap();
        let ids: Vec<u32> = steps.flat_map(|step| step.unwrap().ids).collect();
        assert_eq!(ids, whole.sequences[0].ids, "{} streamed", WORDS[i]);
    }
}

/// Rules of a caller's hold where choices are ranked, too, which are scored along ways that the rules have closed; and a choice has a score
/// in every search.
/// Choices are asked for by some rows at a time, and between them the time may be over.
#[test]
fn choices_end_where_the_time_is_over() {
    let t5 = model();
    let lists: Vec<Vec<u32>> = (3..40).flat_map(|a| (3..40).map(move |b| vec![a, b, a, b, a])).collect();
    let choices = t5.choices(&lists.iter().map(Source::from).collect::<Vec<_>>()).unwrap();
    let custom = Custom::new().choices(&choices);
    for (way, options) in ways() {
        let late = Generate { max_time: Some(0.0), ..options.clone() };
        for sequence in &t5.generate_with("hello", &late, &custom).unwrap().sequences {
            assert_eq!((sequence.finish, sequence.chosen.is_none()), (Finish::Stopped, true), "{way}");
        }
        // Nothing of it is left to the next call.
        let whole = t5.generate_with("hello", &options, &custom).unwrap();
        assert!(whole.sequences.iter().all(|sequence| sequence.chosen.is_some()), "{way}");
    }
    let few = Generate { max_time: Some(0.0), ..greedy() };
    let answer = t5.generate_with("hello", &few, &Custom::new().choices(&self::choices(t5))).unwrap();
    assert!(answer.sequences[0].chosen.is_some(), "one step is enough");
}

/// What goes wrong while choices get their probabilities is an error, as in the search.
#[test]
fn choices_whose_allowed_tokens_cannot_be_are_an_error_in_every_search() {
    let t5 = model();
    let choices = choices(t5);
    for (way, options) in ways() {
        // The first of the choices is never searched for.
        let allowed = |context: &Context<'_>| match context.new_ids() {
            [] => (0..40).collect(),
            _ => vec![u32::MAX],
        };
        let custom = Custom::new().choices(&choices).prefix_allowed_tokens(allowed);
        assert!(t5.generate_with("hello", &options, &custom).is_err(), "{way}");
    }
}

#[test]
fn choices_behind_a_forbidden_token_are_asked_for_nothing_more() {
    let t5 = model();
    let (hello, world) = ("həˈloʊ", "ˈwɝld");
    let choices = t5.choices(&[hello.into(), world.into()]).unwrap();
    let ids = [t5.tokenizer().unwrap().encode_plain(hello).unwrap(), t5.config().eos_token_id.clone()].concat();
    let along = |context: &Context<'_>| match ids.strip_prefix(context.new_ids()) {
        Some([next, ..]) => vec![*next],
        _ => Vec::new(),
    };
    for (way, options) in ways() {
        let options = Generate { num_return_sequences: None, ..options };
        let custom = Custom::new().prefix_allowed_tokens(along).choices(&choices);
        let answer = t5.generate_with("world", &options, &custom).unwrap();
        let Sequence { chosen, score, .. } = &answer.sequences[0];
        assert_eq!(chosen.map(|chosen| (chosen.index, chosen.probability)), Some((0, 1.0)), "{way}");
        assert!(score.is_some_and(f32::is_finite), "{way}: {score:?}");
    }
}
