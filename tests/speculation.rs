//! Guessed tokens change no id: greedy search with copies and with drafts against greedy search without, by `==`.

mod common;

use common::{data, many_words, open, sources};
use serde_json::json;
use tiny_t5::{Generate, Load, Source, Speculation, T5};

const WAYS: [Speculation; 3] = [Speculation::Copy, Speculation::Draft, Speculation::Auto];

fn greedy(tokens: usize, speculation: Speculation) -> Generate {
    Generate { max_new_tokens: Some(tokens), speculation: Some(speculation), ..Generate::default() }
}

/// The answer, and how many tokens were guessed and held.
fn answer<'a>(t5: &T5, source: impl Into<Source<'a>>, options: &Generate) -> (tiny_t5::Sequence, [usize; 2]) {
    let mut generated = t5.generate(source, options).unwrap();
    let held = [generated.timings.guessed, generated.timings.accepted];
    (generated.sequences.remove(0), held)
}

/// Answers with every way of guessing, each equal to the one without; the guesses, and those that held, of each way.
fn assert_same_ids(t5: &T5, sources: &[Vec<u32>], options: &Generate) -> [[usize; 2]; 3] {
    let with = |speculation| Generate { speculation: Some(speculation), ..options.clone() };
    let mut all = [[0; 2]; 3];
    for source in sources {
        let (expected, guessed) = answer(t5, source, &with(Speculation::Off));
        assert_eq!(guessed, [0, 0]);
        for (way, all) in WAYS.into_iter().zip(&mut all) {
            let (got, [guessed, held]) = answer(t5, source, &with(way));
            assert_eq!(got, expected, "{way:?}: {source:?}");
            assert!(held <= guessed);
            *all = [all[0] + guessed, all[1] + held];
        }
    }
    all
}

#[test]
fn two_thousand_words_have_the_same_pronunciation_however_it_is_guessed() {
    let words = std::fs::read_to_string(data("g2p-ipa/test.tsv")).unwrap();
    let words: Vec<&str> = words.lines().filter_map(|line| line.split('\t').next()).step_by(3).take(2000).collect();
    assert_eq!(words.len(), 2000);
    let t5 = T5::embedded(&Load::default()).unwrap().with_threads(1);
    let guessed = std::thread::scope(|scope| {
        let part = |words: &[&str]| {
            let sources: Vec<Vec<u32>> =
                words.iter().map(|word| t5.tokenizer().unwrap().encode(word).unwrap()).collect();
            assert_same_ids(&t5, &sources, &greedy(40, Speculation::Off))
        };
        let (first, second) = words.split_at(1000);
        let other = scope.spawn(move || part(second));
        [part(first), other.join().unwrap()]
    });
    for [copies, drafts, _] in guessed {
        assert!(copies[0] > 0 && drafts[0] > 1000, "{guessed:?}");
        assert!(drafts[1] * 10 > drafts[0] * 8, "most drafts of a trained model hold: {guessed:?}");
    }
}

#[test]
fn every_variant_has_the_same_ids() {
    for folder in
        ["v1_0-relu-tied", "v1_1-gated-gelu-untied", "odd-sizes", "bf16", "decoder-deeper", "umt5-bias-in-every-layer"]
    {
        let folder = format!("goldens/{folder}");
        assert_same_ids(&open(&folder), &sources(&folder), &greedy(40, Speculation::Off));
    }
    // Through the screen of the LM head, where many logits are equal.
    let sources: Vec<Vec<u32>> = (0..30).map(|i| vec![5 + i, 9, 7 * i + 4, 1]).collect();
    let [_, drafts, _] = assert_same_ids(&many_words().open().unwrap(), &sources, &greedy(30, Speculation::Off));
    assert!(drafts[0] > 100 && drafts[1] > 10, "{drafts:?}");
}

/// Rules look at the ids so far, of which a pass has those that were guessed; ends come in the middle of what held.
#[test]
fn rules_and_ends_hold_inside_a_pass() {
    let folder = "goldens/v1_0-relu-tied";
    let (t5, sources) = (open(folder), sources(folder));
    let rules = [
        json!({"repetition_penalty": 1.7}),
        json!({"no_repeat_ngram_size": 2}),
        json!({"bad_words_ids": [[5], [7, 8]], "min_new_tokens": 12}),
        json!({"encoder_no_repeat_ngram_size": 1, "suppress_tokens": [3, 4]}),
        json!({"forced_eos_token_id": 1, "exponential_decay_length_penalty": [4, 1.3]}),
        json!({"decoder_input_ids": [5, 9, 5, 9, 5], "max_length": 17}),
        json!({"eos_token_id": [1, 9, 20, 31, 42, 57]}),
    ];
    for rule in rules {
        for tokens in [1, 2, 5, 24] {
            let mut options: Generate = serde_json::from_value(rule.clone()).unwrap();
            if options.max_length.is_none() {
                options.max_new_tokens = Some(tokens);
            }
            assert_same_ids(&t5, &sources, &options);
        }
    }
}

/// A model that repeats itself: what it said last is what it says next.
#[test]
fn copies_hold_where_a_text_repeats_itself() {
    let folder = "goldens/v1_0-relu-tied";
    let sources = sources(folder);
    let [copies, ..] = assert_same_ids(&open(folder), &sources, &greedy(120, Speculation::Off));
    assert!(copies[1] > 10, "{copies:?}");
}

#[test]
fn streams_and_batches_have_the_same_ids() {
    let t5 = T5::embedded(&Load::default()).unwrap();
    for word in ["photosynthesis", "mississippi", "aaaaaaaaaaaa", "banana banana banana"] {
        let (expected, _) = answer(&t5, word, &greedy(60, Speculation::Off));
        for way in WAYS {
            let steps: Vec<_> = t5.stream(word, &greedy(60, way)).unwrap().map(Result::unwrap).collect();
            assert_eq!(steps.iter().flat_map(|step| step.ids.clone()).collect::<Vec<_>>(), expected.ids, "{way:?}");
            let text: String = steps.iter().map(|step| step.text.as_str()).collect();
            assert_eq!(Some(text), expected.text, "{way:?}");
            let batch = t5.generate_batch(&[word.into(), "other".into()], &greedy(60, way)).unwrap();
            assert_eq!(batch[0].sequences[0].ids, expected.ids);
        }
    }
}
