//! Numbers at the edge: NaN and infinities in weights, activations beyond what f16 holds, denormals.

mod common;

use common::{Folder, Stored, many_words, noise, sources};
use half::f16;
use std::time::{Duration, Instant};
use tiny_t5::{Dtype, Generate, Generated, Load, T5};

const GATED: &str = "goldens/v1_1-gated-gelu-untied";
const SOURCE: &[u32] = &[5, 9, 7, 1];

fn searches() -> [Generate; 6] {
    let base = Generate { max_new_tokens: Some(4), ..Generate::default() };
    [
        base.clone(),
        Generate { logprobs: Some(true), top_logprobs: Some(3), ..base.clone() },
        Generate { num_beams: Some(3), ..base.clone() },
        Generate { do_sample: Some(true), top_p: Some(0.9), typical_p: Some(0.9), ..base.clone() },
        Generate { do_sample: Some(true), eta_cutoff: Some(0.01), num_return_sequences: Some(2), ..base.clone() },
        Generate { remove_invalid_values: Some(true), repetition_penalty: Some(1.3), ..base },
    ]
}

/// A matrix with a number that f16 does not reach is kept as it is by everything that reads it: a few logits are those of all.
#[test]
fn f16_keeps_a_matrix_with_a_large_number_as_it_is() {
    let config = r#"{"model_type": "t5", "num_layers": 1, "d_model": 256, "d_ff": 64, "num_heads": 2, "vocab_size": 4096, "tie_word_embeddings": false}"#;
    let load = Load { dtype: Dtype::F16, ..Load::default() };
    let t5 = T5::random_with(config, 3, &load, |name, _, values| {
        if name == "lm_head.weight" {
            values.iter_mut().for_each(|x| *x *= 0.0371);
            values[5 * 256] = 1e5;
        }
    })
    .unwrap();
    let logits = t5.logits(SOURCE, &[1]).unwrap().values;
    let (answer, against) = (7, 12);
    let found = t5.answer_probability(&[SOURCE.into()], answer, against).unwrap()[0];
    let expected = 1.0 / (1.0 + (f64::from(logits[12]) - f64::from(logits[7])).exp());
    assert!((f64::from(found) - expected).abs() < 1e-6, "{found} instead of {expected}");
    let first = t5.generate(SOURCE, &Generate { max_new_tokens: Some(1), ..Generate::default() }).unwrap();
    let best = (0..logits.len()).reduce(|best, i| if logits[i] > logits[best] { i } else { best }).unwrap();
    assert_eq!(first.sequences[0].ids, [best as u32]);
}

/// One number of one tensor is no number, or as large as numbers are: every search ends, with ids that exist, twice the same.
#[test]
fn one_strange_weight_anywhere_gives_defined_answers() {
    for (name, tensor) in Folder::of(GATED).tensors {
        for strange in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
            let mut changed = tensor.clone();
            let middle = changed.bytes.len() / 8 * 4;
            changed.bytes[middle..middle + 4].copy_from_slice(&strange.to_le_bytes());
            let t5 = Folder::of(GATED).with_tensor(&name, changed).open().unwrap();
            for options in searches() {
                let answer = t5.generate(SOURCE, &options).unwrap();
                let known = |id: &u32| (*id as usize) < t5.config().vocab_size;
                assert!(answer.sequences.iter().all(|s| s.ids.iter().all(known)), "{name} {strange} {options:?}");
                let ids = |answer: Generated| answer.sequences.into_iter().map(|s| s.ids).collect::<Vec<_>>();
                assert_eq!(ids(t5.generate(SOURCE, &options).unwrap()), ids(answer), "{name} {strange} {options:?}");
            }
            t5.encode(SOURCE).unwrap();
            t5.score(SOURCE, SOURCE).unwrap();
        }
    }
}

/// The screen of the output matrix cannot bound such rows: the ids are those of the full product all the same.
#[test]
fn strange_rows_of_a_large_output_matrix_leave_the_ids_of_the_full_product() {
    for strange in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-45] {
        let mut folder = many_words();
        let matrix = folder.tensors.get_mut("lm_head.weight").unwrap();
        matrix.bytes[4 * 64 * 777..][..4].copy_from_slice(&strange.to_le_bytes());
        let t5 = folder.open().unwrap();
        let screened = Generate { max_new_tokens: Some(6), ..Generate::default() };
        let full = Generate { logprobs: Some(true), ..screened.clone() };
        let ids = |options| t5.generate(SOURCE, options).unwrap().sequences.swap_remove(0).ids;
        assert_eq!(ids(&screened), ids(&full), "{strange}");
    }
}

/// Weights in f16 whose residual stream goes far beyond 65,504, the largest f16: computed as with the same weights in f32.
#[test]
fn f16_weights_with_activations_beyond_f16_are_those_in_f32() {
    let folder = |wide: bool| {
        let mut folder = Folder::of("goldens/f16");
        for (name, tensor) in &mut folder.tensors {
            let large = name.ends_with("wo.weight") || name.ends_with(".o.weight");
            let halves = tensor.bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32());
            // 2^15: the sum of a few products is beyond 65,504, each weight within it.
            let numbers: Vec<f32> =
                halves.map(|x| if large { (x * 32768.0).clamp(-65504.0, 65504.0) } else { x }).collect();
            let shape = tensor.shape.clone();
            *tensor = match wide {
                true => Stored::of(&shape, &numbers),
                false => {
                    let bytes = numbers.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
                    Stored { dtype: "F16".to_owned(), shape, bytes }
                }
            };
        }
        folder
    };
    let (narrow, wide) = (folder(false), folder(true));
    let (narrow, wide) = (narrow.open().unwrap(), wide.open().unwrap());
    for source in sources("goldens/f16") {
        let (a, b) = (narrow.encode(&source).unwrap(), wide.encode(&source).unwrap());
        assert!(a.hidden.iter().all(|x| x.is_finite()));
        assert_eq!(a, b);
        let (a, b) = (narrow.logits(&source, &source).unwrap(), wide.logits(&source, &source).unwrap());
        assert!(a.values.iter().all(|x| x.is_finite()));
        assert_eq!(a.values, b.values);
    }
}

/// The least time of some runs.
fn least_time(run: impl Fn()) -> Duration {
    let timed = |_| {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    (0..20).map(timed).min().unwrap()
}

#[test]
fn denormals_make_neither_a_pass_nor_steps_ten_times_slower() {
    const MODEL: &str = "../../crates/tiny-t5/models/g2p-ipa";
    let source: Vec<u32> = (0..64).map(|i| i % 30).collect();
    let open = |scale: f32| {
        let mut folder = Folder::of(MODEL);
        for (i, tensor) in folder.tensors.values_mut().enumerate() {
            let count = tensor.shape.iter().product();
            let numbers: Vec<f32> = noise(i as u64).take(count).map(|x| x * scale).collect();
            *tensor = Stored::of(&tensor.shape.clone(), &numbers);
        }
        T5::open_with(folder.write(), &Load { threads: Some(1), dtype: Dtype::F32, ..Load::default() }).unwrap()
    };
    // Norms of 1e-3 of a residual stream of 1e-37: all products are denormal.
    let (normal, denormal) = (open(0.05), open(1e-37));
    let hidden = denormal.encode(&source).unwrap().hidden;
    assert!(hidden.iter().all(|x| x.abs() < 1e-30), "{:?}", hidden.iter().copied().fold(0.0, f32::max));
    let pass = |t5: &T5| least_time(|| drop(std::hint::black_box(t5.encode(&source[..]).unwrap())));
    let options = Generate { max_new_tokens: Some(8), min_new_tokens: Some(8), ..Generate::default() };
    let steps = |t5: &T5| least_time(|| drop(std::hint::black_box(t5.generate(SOURCE, &options).unwrap())));
    for (what, time) in [("an encoder pass", &pass as &dyn Fn(&T5) -> Duration), ("eight steps", &steps)] {
        let (normal, denormal) = (time(&normal), time(&denormal));
        println!("{what}: {normal:?}, with denormals {denormal:?}");
        assert!(denormal < 10 * normal, "{what}: {normal:?}, with denormals {denormal:?}");
    }
}
