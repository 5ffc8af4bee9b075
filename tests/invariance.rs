//! The same bits always: one source has one answer, whatever computes it.
//!
//! Everything that the library says about a source (hidden states, logits, ids, beams, scores) is compared as bits with
//! what one thread says about the source alone, on the best instruction set: cached and uncached, on 1, 2 and 5 threads,
//! on every instruction set, at any place among any neighbours. All calls on a model share its buffers, so each also
//! runs on what calls of other lengths left there.
//!
//! Products below 48K multiply-adds, and attention below 96K, stay on one thread. Those of the small folders do unless
//! many rows come together; the embedded model (d_model 192, d_ff 768) is over it in each product of 40 tokens, or of 8
//! sequences in a step. So parallel regions are tested on that one, and `wide()` says when a batch is large enough.

mod common;

use common::{data, many_words, open, sources};
use proptest::prelude::*;
use std::sync::OnceLock;
use tiny_t5::{Dtype, Finish, Generate, Load, Source, Speculation, T5};

/// Folders of different kinds: each says which path through the code it is here for.
const FOLDERS: [&str; 14] = [
    "goldens/v1_0-relu-tied",
    "goldens/v1_1-gated-gelu-untied",
    "goldens/odd-sizes", // no size a multiple of a register
    "goldens/f16",
    "goldens/bf16",
    "goldens/decoder-deeper",
    "goldens/umt5-bias-in-every-layer", // a bias table a block
    "goldens/buckets-64-distance-256",  // a source of 700 tokens: several blocks of rows
    "goldens/start-id-2",
    "cases/below-one-vector", // every size below a register
    "cases/one-layer",
    "cases/encoder-5-decoder-1",
    "cases/wide-attention", // heads wider than the model
    "cases/gelu-erf",       // a function that is not fused to a product
];

/// Sizes so small that the portable row, slow where the processor has no better one to offer, takes milliseconds.
const SMALL: [&str; 5] = [
    "goldens/odd-sizes",
    "goldens/f16",
    "goldens/umt5-bias-in-every-layer",
    "cases/below-one-vector",
    "cases/gelu-erf",
];

const THREADS: [usize; 3] = [1, 2, 5];

fn embedded() -> &'static T5 {
    static EMBEDDED: OnceLock<T5> = OnceLock::new();
    EMBEDDED.get_or_init(|| T5::embedded(&Load::default()).unwrap())
}

/// The model on every instruction set that this machine has, best first; what it lacks is said.
fn on_every_isa(t5: &T5) -> Vec<T5> {
    let known: &[&str] =
        if cfg!(target_arch = "x86_64") { &["amx", "avx512", "avxvnni", "avx2", "portable"] } else { &["portable"] };
    let (there, missing): (Vec<&str>, Vec<&str>) = known.iter().partition(|name| t5.with_isa(name).is_ok());
    missing.iter().for_each(|name| eprintln!("not run: this machine lacks {name}"));
    assert_eq!(there, T5::available_isas(), "the test knows every instruction set");
    there.into_iter().map(|name| t5.with_isa(name).unwrap()).collect()
}

fn greedy(tokens: usize) -> Generate {
    Generate { max_new_tokens: Some(tokens), ..Generate::default() }
}

fn beams(tokens: usize) -> Generate {
    let early_stopping = serde_json::json!("never").try_into().ok();
    Generate { num_beams: Some(3), num_return_sequences: Some(3), early_stopping, ..greedy(tokens) }
}

/// All that is said about one source; floats are bits, so that `==` tells -0 from 0 and finds a NaN equal to itself.
#[derive(Debug, PartialEq)]
struct Answer {
    hidden: Vec<u32>,
    greedy: Vec<u32>,
    beams: Vec<(Vec<u32>, u32, Finish)>,
}

fn bits(floats: &[f32]) -> Vec<u32> {
    floats.iter().map(|x| x.to_bits()).collect()
}

fn batched(t5: &T5, sources: &[Vec<u32>], tokens: usize) -> Vec<Answer> {
    let batch: Vec<Source<'_>> = sources.iter().map(Into::into).collect();
    let encoded = t5.encode_batch(&batch).unwrap();
    let greedy = t5.generate_batch(&batch, &greedy(tokens)).unwrap();
    let beams = t5.generate_batch(&batch, &beams(tokens)).unwrap();
    assert_eq!([encoded.len(), greedy.len(), beams.len()], [sources.len(); 3]);
    let answers = encoded.iter().zip(greedy).zip(beams).zip(sources);
    answers
        .map(|(((encoded, mut greedy), beams), source)| {
            assert_eq!([&encoded.input_ids, &greedy.input_ids, &beams.input_ids], [source; 3]);
            let beam = |s: tiny_t5::Sequence| (s.ids, s.score.unwrap().to_bits(), s.finish);
            Answer {
                hidden: bits(&encoded.hidden),
                greedy: greedy.sequences.remove(0).ids,
                beams: beams.sequences.into_iter().map(beam).collect(),
            }
        })
        .collect()
}

fn alone(t5: &T5, sources: &[Vec<u32>], tokens: usize) -> Vec<Answer> {
    sources.iter().flat_map(|source| batched(t5, std::slice::from_ref(source), tokens)).collect()
}

#[track_caller]
fn assert_same(got: &[Answer], expected: &[Answer], what: impl std::fmt::Display) {
    assert_eq!(got.len(), expected.len());
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let differs = got.hidden.iter().zip(&expected.hidden).position(|(a, b)| a != b);
        assert_eq!((differs, got.hidden.len()), (None, expected.hidden.len()), "{what}, source {i}: hidden states");
        assert_eq!(got.greedy, expected.greedy, "{what}, source {i}: greedy ids");
        assert_eq!(got.beams, expected.beams, "{what}, source {i}: beams");
    }
}

/// Sources for the embedded model, of `lens` tokens, the same for each seed.
fn made_up(lens: impl IntoIterator<Item = usize>, seed: u64) -> Vec<Vec<u32>> {
    let mut state = seed;
    let mut id = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        3 + (state >> 33) as u32 % 87
    };
    lens.into_iter().map(|len| (1..len).map(|_| id()).chain([1]).collect()).collect()
}

/// Nine sources of 40 and more tokens, so that the products of every phase are above the bound for one thread.
fn wide() -> Vec<Vec<u32>> {
    made_up([40, 44, 64, 97, 50, 48, 130, 47, 59], 7)
}

/// Not the numbers of f32, but the same ones everywhere: whole numbers have no order of accumulation.
#[test]
fn int8_answers_are_the_same_everywhere() {
    let load = Load { dtype: Dtype::Int8, ..Load::default() };
    let embedded = T5::embedded(&load).unwrap();
    let mut small = SMALL.map(|folder| (T5::open_with(data(folder), &load).unwrap(), sources(folder))).to_vec();
    small.push((embedded, made_up([40, 12], 7)));
    for (t5, sources) in small {
        let expected = alone(&t5.with_threads(1), &sources, 8);
        for isa in on_every_isa(&t5) {
            for threads in THREADS {
                assert_same(&batched(&isa.with_threads(threads), &sources, 8), &expected, isa.isa());
            }
        }
    }
}

/// Weights where the checkpoint has them: mapped and read, in one file and in several.
#[test]
fn answers_in_place_equal_those_of_packed_weights() {
    let files = ["goldens/pytorch-bin", "goldens/legacy-bin", "goldens/sharded-bin", "goldens/sharded-safetensors"];
    let mut not_packed = 0;
    for folder in FOLDERS.into_iter().chain(files) {
        let (packed, sources) = (open(folder), sources(folder));
        let expected = alone(&packed.with_threads(1), &sources, 8);
        for no_mmap in [false, true] {
            let load = Load { in_place: true, no_mmap, ..Load::default() };
            let t5 = T5::open_with(data(folder), &load).unwrap();
            not_packed += usize::from(t5.packed_bytes() < packed.packed_bytes());
            for threads in THREADS {
                assert_same(&batched(&t5.with_threads(threads), &sources, 8), &expected, folder);
            }
            let drafts = Generate { speculation: Some(Speculation::Draft), ..greedy(8) };
            let drafted = t5.generate(&sources[0], &drafts).unwrap().sequences.remove(0).ids;
            assert_eq!(drafted, expected[0].greedy, "{folder}");
        }
    }
    assert!(not_packed >= 10, "{not_packed} models whose encoders read rows");
}

#[test]
fn answers_in_a_batch_equal_those_alone() {
    for folder in FOLDERS {
        let (t5, sources) = (open(folder).with_threads(1), sources(folder));
        let expected = alone(&t5, &sources, 12);
        for threads in THREADS {
            assert_same(&batched(&t5.with_threads(threads), &sources, 12), &expected, folder);
        }
    }
}

#[test]
fn answers_on_other_threads_equal_those_on_one() {
    for folder in FOLDERS {
        let (t5, mut sources) = (open(folder), sources(folder));
        sources.sort_by_key(|source| std::cmp::Reverse(source.len()));
        sources.truncate(2);
        let expected = alone(&t5.with_threads(1), &sources, 12);
        for threads in [2, 5] {
            assert_same(&alone(&t5.with_threads(threads), &sources, 12), &expected, folder);
        }
    }
}

#[test]
fn answers_at_any_place_of_a_batch_equal_those_alone() {
    let folder = "goldens/v1_1-gated-gelu-untied";
    let (t5, mut sources) = (open(folder), sources(folder));
    sources.truncate(5);
    let mut expected = alone(&t5.with_threads(1), &sources, 12);
    for place in 0..sources.len() {
        sources.rotate_left(1);
        expected.rotate_left(1);
        assert_same(&batched(&t5, &sources, 12), &expected, format!("rotated by {}", place + 1));
        let twice = [&sources[..], &sources[..1]].concat();
        assert_same(&batched(&t5, &twice, 12)[5..], &expected[..1], "a second time in one batch");
    }
}

#[test]
fn answers_on_every_isa_and_thread_count_are_the_same_bits() {
    for folder in SMALL {
        let (t5, mut sources) = (open(folder), sources(folder));
        sources.retain(|source| source.len() <= 40);
        let expected = alone(&t5.with_threads(1), &sources, 8);
        for t5 in on_every_isa(&t5) {
            for threads in THREADS {
                let what = format!("{folder} on {} with {threads} threads", t5.isa());
                assert_same(&batched(&t5.with_threads(threads), &sources, 8), &expected, what);
            }
        }
    }
}

/// Parallel regions in every phase: see the top.
#[test]
fn answers_of_a_wide_batch_on_every_isa_and_thread_count_are_the_same_bits() {
    let (t5, sources) = (embedded(), wide());
    let expected = alone(&t5.with_threads(1), &sources, 16);
    for t5 in on_every_isa(t5) {
        // Without the instructions that its build may not use, the portable row is many times slower: two sources.
        let portable = t5.isa() == "portable";
        let (threads, count) = if portable { (&[2][..], 2) } else { (&THREADS[..], sources.len()) };
        for threads in threads {
            let what = format!("{} with {threads} threads", t5.isa());
            assert_same(&batched(&t5.with_threads(*threads), &sources[..count], 16), &expected[..count], what);
        }
    }
}

/// 75 sequences are more than one group of 64, and their 4,600 tokens more than the 4,096 whose
/// keys and values are held at a time; the encoder takes 128 of them a thread, or 256 together.
#[test]
fn answers_of_a_batch_in_several_groups_equal_those_alone() {
    let t5 = open("goldens/v1_0-relu-tied");
    let sources = made_up((0..75).map(|i| 40 + i * 31 % 45), 8);
    assert!(sources.iter().map(Vec::len).sum::<usize>() > 4096);
    let expected = alone(&t5.with_threads(1), &sources, 4);
    // On two or three threads each takes some sequences through all blocks, on five they share the products.
    for threads in [1, 2, 3, 5] {
        let batch = batched(&t5.with_threads(threads), &sources, 4);
        assert_same(&batch, &expected, format!("75 sources, {threads} threads"));
    }
}

#[test]
fn answers_of_calls_at_the_same_time_equal_those_of_one() {
    let (t5, sources) = (embedded().with_threads(2), wide());
    let expected = alone(&t5.with_threads(1), &sources, 8);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..2).for_each(|_| assert_same(&batched(&t5, &sources, 8), &expected, "at once")));
        }
    });
}

/// The first calls on a model find no buffers; later ones find those of longer and of shorter texts.
#[test]
fn answers_of_a_fresh_model_equal_those_of_a_used_one() {
    let folder = "cases/buckets-8-distance-20";
    let (used, sources) = (open(folder), sources(folder));
    let (down, up) = (alone(&used, &sources, 12), alone(&used, &sources, 12));
    for (i, source) in sources.iter().enumerate() {
        let fresh = alone(&open(folder), std::slice::from_ref(source), 12);
        assert_same(&fresh, &down[i..=i], "after shorter ones");
        assert_same(&fresh, &up[i..=i], "after the longest");
    }
}

/// Row i of the logits depends on the target's first i ids alone: computed with any number of ids behind it, or none.
#[track_caller]
fn assert_prefixes_equal_the_whole(t5: &T5, source: &[u32], target: &[u32], lens: impl IntoIterator<Item = usize>) {
    let whole = t5.logits(source, target).unwrap();
    assert_eq!(whole.values.len(), target.len() * whole.vocab_size);
    for len in lens {
        let prefix = t5.logits(source, &target[..len]).unwrap();
        assert_eq!(prefix.values.len(), len * whole.vocab_size);
        assert!(bits(&prefix.values) == bits(&whole.values[..prefix.values.len()]), "{len} of {} ids", target.len());
    }
}

#[test]
fn logits_of_every_prefix_equal_those_of_the_whole() {
    for folder in FOLDERS {
        let t5 = open(folder);
        let sources = sources(folder);
        let vocab_size = t5.config().vocab_size as u32;
        let target: Vec<u32> = (0..21).map(|i| (i * 7 + 3) % vocab_size).collect();
        for threads in THREADS {
            let t5 = t5.with_threads(threads);
            for source in &sources[1..4] {
                assert_prefixes_equal_the_whole(&t5, source, &target, 1..=target.len());
            }
        }
    }
}

/// Beyond 64 the positions of a target are computed in several passes over the cache.
#[test]
fn logits_of_a_long_targets_prefixes_equal_those_of_the_whole() {
    let source = &wide()[3];
    let target = &made_up([200], 9)[0];
    let expected = bits(&embedded().with_threads(1).logits(source, target).unwrap().values);
    for t5 in on_every_isa(embedded()).into_iter().filter(|t5| t5.isa() != "portable") {
        for threads in THREADS {
            let t5 = t5.with_threads(threads);
            assert_prefixes_equal_the_whole(&t5, source, target, [1, 2, 63, 64, 65, 127, 128, 129, 199]);
            assert!(bits(&t5.logits(source, target).unwrap().values) == expected, "{t5:?}");
        }
    }
}

/// The first of the largest.
fn best(row: &[f32]) -> u32 {
    let better = |best: usize, i: usize| if row[i] > row[best] { i } else { best };
    (0..row.len()).fold(0, better) as u32
}

/// Steps over the cache choose what the logits of their own output, computed at once, say.
#[track_caller]
fn assert_greedy_is_the_best_of_forced(t5: &T5, source: &[u32], options: &Generate, allowed: impl Fn(u32) -> bool) {
    let ids = t5.generate(source, options).unwrap().sequences.remove(0).ids;
    let logits = t5.logits(source, &ids).unwrap();
    for (i, (id, row)) in ids.iter().zip(logits.values.chunks_exact(logits.vocab_size)).enumerate() {
        let mut row = row.to_vec();
        (0..).zip(&mut row).filter(|(id, _)| !allowed(*id)).for_each(|(_, x)| *x = f32::NEG_INFINITY);
        assert_eq!(*id, best(&row), "token {i} of {}", ids.len());
    }
}

#[test]
fn greedy_ids_equal_the_best_of_forced_logits() {
    for folder in FOLDERS {
        let t5 = open(folder);
        for source in sources(folder) {
            assert_greedy_is_the_best_of_forced(&t5, &source, &greedy(24), |_| true);
        }
    }
    for source in wide() {
        assert_greedy_is_the_best_of_forced(embedded(), &source, &greedy(140), |_| true);
    }
}

/// Past the 128 positions of the first bias table, and the 512 for which the cache has room from the start.
#[test]
fn greedy_ids_of_600_steps_equal_the_best_of_forced_logits() {
    for folder in ["cases/one-layer", "goldens/odd-sizes"] {
        let t5 = open(folder);
        let eos = t5.config().eos_token_id.clone();
        let options = Generate { min_new_tokens: Some(600), ..greedy(600) };
        assert_greedy_is_the_best_of_forced(&t5, &[5, 9, 7, 1], &options, |id| !eos.contains(&id));
    }
}

/// Greedy search over many words screens the output matrix in int8 first, and computes only the logits that can win: its
/// ids are those of the full product, ties and all.
#[test]
fn greedy_ids_through_the_screen_equal_the_best_of_forced_logits() {
    let folder = many_words();
    let t5 = folder.open().unwrap();
    let sources = sources("goldens/v1_1-gated-gelu-untied");
    let forbidden: Vec<u32> = (0..20_000).step_by(3).collect();
    let allowed_only = Generate { suppress_tokens: Some(forbidden.clone()), ..greedy(40) };
    let eos = t5.config().eos_token_id.clone();
    let long = Generate { min_new_tokens: Some(40), ..greedy(40) };
    let expected = alone(&t5.with_threads(1), &sources, 40);
    let screened = |source| t5.generate(source, &greedy(40)).unwrap().timings.screened;
    assert!(sources.iter().map(screened).sum::<usize>() > 0, "the screen decides nothing");
    for t5 in on_every_isa(&t5) {
        let portable = t5.isa() == "portable"; // slow
        let count = if portable { 1 } else { sources.len() };
        for threads in if portable { &[1][..] } else { &THREADS } {
            let t5 = t5.with_threads(*threads);
            assert_same(&batched(&t5, &sources[..count], 40), &expected[..count], format!("{t5:?}"));
            for source in &sources[..count] {
                assert_greedy_is_the_best_of_forced(&t5, source, &greedy(40), |_| true);
                assert_greedy_is_the_best_of_forced(&t5, source, &long, |id| !eos.contains(&id));
                assert_greedy_is_the_best_of_forced(&t5, source, &allowed_only, |id| id % 3 != 0);
            }
        }
    }
}

/// Beams share and copy caches; their scores are sums of the very log-probabilities that `score` gives for their ids.
#[track_caller]
fn assert_beams_equal_forced_scores(t5: &T5, source: &[u32], options: &Generate) {
    for sequence in t5.generate(source, options).unwrap().sequences {
        let forced = t5.score(source, &sequence.ids).unwrap();
        let sum: f32 = forced.token_logprobs.iter().fold(0.0, |sum, x| x + sum);
        let expected = sum / sequence.ids.len() as f32;
        assert_eq!(sequence.score.unwrap().to_bits(), expected.to_bits(), "{:?}", sequence.ids);
    }
}

#[test]
fn beam_scores_equal_the_sums_of_forced_logprobs() {
    for folder in FOLDERS {
        let t5 = open(folder);
        for source in sources(folder) {
            for num_beams in [2, 3, 5] {
                let options = Generate { num_beams: Some(num_beams), ..beams(20) };
                assert_beams_equal_forced_scores(
                    &t5,
                    &source,
                    &Generate { num_return_sequences: Some(num_beams), ..options },
                );
            }
        }
    }
    for source in wide() {
        assert_beams_equal_forced_scores(embedded(), &source, &beams(40));
    }
}

/// Where the embedded model stands among [`models`].
const EMBEDDED: usize = 3;

/// What a random batch runs on.
fn models() -> &'static [T5] {
    static MODELS: OnceLock<Vec<T5>> = OnceLock::new();
    MODELS.get_or_init(|| {
        let small = ["goldens/odd-sizes", "cases/below-one-vector", "goldens/umt5-bias-in-every-layer"].map(open);
        small.into_iter().chain([embedded().clone()]).collect()
    })
}

/// A model, sources of it, the threads and the instruction set of the batch.
fn batches() -> impl Strategy<Value = (usize, Vec<Vec<u32>>, usize, usize)> {
    (0..models().len()).prop_flat_map(|model| {
        let ids = 0..models()[model].config().vocab_size as u32;
        let source = prop_oneof![3 => 1..20usize, 1 => 20..70usize]
            .prop_flat_map(move |len| prop::collection::vec(ids.clone(), len));
        // The last one is the portable row: too slow for the embedded model.
        let isas = T5::available_isas().len();
        let isas = if model == EMBEDDED { 0..(isas - 1).max(1) } else { 0..isas };
        (Just(model), prop::collection::vec(source, 1..12), 1..=8usize, isas)
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 40,
        rng_seed: prop::test_runner::RngSeed::Fixed(20),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// The invariant as one property: cached = uncached = batched with any neighbours = 1 to 8 threads = every
    /// instruction set.
    #[test]
    fn any_batch_on_any_threads_and_isa_has_the_same_bits((model, sources, threads, isa) in batches()) {
        let t5 = &models()[model];
        let other = t5.with_isa(T5::available_isas()[isa]).unwrap().with_threads(threads);
        let expected = alone(&t5.with_threads(1), &sources, 6);
        assert_same(&batched(&other, &sources, 6), &expected, format!("{other:?}"));
        for (source, answer) in sources.iter().zip(&expected).take(3) {
            assert_greedy_is_the_best_of_forced(&other, source, &greedy(6), |_| true);
            assert_prefixes_equal_the_whole(&other, source, &answer.greedy, 1..=answer.greedy.len());
            assert_beams_equal_forced_scores(&other, source, &beams(6));
        }
    }
}
