//! Models with random weights: every shape that config.json can say, the same weights everywhere, transformers' scales.

mod common;

use common::{data, open};
use std::collections::BTreeMap;
use tiny_t5::{Load, T5};

/// The shape of T5-Efficient-TINY, with fewer words.
const TINY: &str = r#"{"model_type": "t5", "vocab_size": 1000, "d_model": 256, "d_kv": 64, "d_ff": 1024, "num_heads": 4, "num_layers": 2}"#;

fn threads(threads: usize) -> Load {
    Load { threads: Some(threads), ..Load::default() }
}

/// The tensors that a model was made of.
fn tensors(config: &str, seed: u64) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let mut all = BTreeMap::new();
    T5::random_with(config, seed, &threads(2), |name, shape, values| {
        assert!(all.insert(name.to_owned(), (shape.to_owned(), values.to_owned())).is_none(), "{name} is there twice");
    })
    .unwrap();
    all
}

fn logits(t5: &T5) -> Vec<u32> {
    t5.logits(&[5, 9, 7, 1], &[0, 3]).unwrap().values.iter().map(|x| x.to_bits()).collect()
}

/// Every folder of reference cases, by its name below `tests/data`.
fn folders() -> Vec<String> {
    let of = |group: &str| {
        let entries = std::fs::read_dir(data(group)).unwrap().map(|entry| entry.unwrap());
        let folders = entries.filter(|entry| entry.path().is_dir());
        folders.map(|entry| format!("{group}/{}", entry.file_name().to_str().unwrap())).collect::<Vec<_>>()
    };
    [of("goldens"), of("cases")].concat()
}

#[test]
fn every_reference_config_gives_a_model_with_as_many_parameters_as_its_checkpoint() {
    let folders = folders();
    assert!(folders.len() > 40, "{folders:?}");
    for folder in folders {
        let config = std::fs::read_to_string(data(&folder).join("config.json")).unwrap();
        let mut elements = 0;
        let random = T5::random_with(&config, 1, &threads(1), |_, shape, values| {
            assert_eq!(shape.iter().product::<usize>(), values.len(), "{folder}");
            elements += values.len() as u64;
        })
        .unwrap_or_else(|e| panic!("{folder}: {e}"));
        assert_eq!(random.unused_tensors(), [""; 0], "{folder}");
        assert_eq!(elements, random.parameters().total(), "{folder}");
        let checkpoint = open(&folder);
        assert_eq!(random.parameters(), checkpoint.parameters(), "{folder}");
        assert_eq!(random.config().architecture, checkpoint.config().architecture, "{folder}");
    }
}

#[test]
fn a_seed_gives_the_same_bits_on_any_threads_and_another_seed_others() {
    let of = |seed, n| logits(&T5::random(TINY, seed, &threads(n)).unwrap());
    assert_eq!(of(7, 1), of(7, 1));
    assert_eq!(of(7, 1), of(7, 3));
    assert_ne!(of(7, 1), of(8, 1));
}

#[test]
fn weights_are_those_of_an_independent_computation() {
    let all = tensors(TINY, 7);
    let bits = |name: &str| all[name].1.iter().take(4).map(|x| x.to_bits()).collect::<Vec<_>>();
    // By SplitMix64 in Python.
    assert_eq!(bits("shared.weight"), [0x3f406a38, 0x3dacb8d2, 0xbf2f7711, 0x3fc38a3a]);
    // The embedding's 256,000 numbers come before it; a std of (256 * 64)^-0.5.
    assert_eq!(
        bits("encoder.block.0.layer.0.SelfAttention.q.weight"),
        [0x3c388fc0, 0xbba2002a, 0xbb5fe3f5, 0xbbde9650]
    );
}

#[test]
fn scales_are_those_of_a_new_model_in_transformers() {
    let untied = TINY.replace('}', r#", "tie_word_embeddings": false, "feed_forward_proj": "gated-gelu"}"#);
    let all = tensors(&untied, 3);
    for (part, variance) in [
        ("shared", 1.0),
        ("lm_head", 1.0),
        (".q.", 1.0 / (256.0 * 64.0)),
        (".k.", 1.0 / 256.0),
        (".v.", 1.0 / 256.0),
        (".o.", 1.0 / 256.0), // 4 heads * d_kv 64
        (".wi_0.", 1.0 / 256.0),
        (".wi_1.", 1.0 / 256.0),
        (".wo.", 1.0 / 1024.0),
        ("relative_attention_bias", 1.0 / 256.0),
    ] {
        let found: Vec<f64> =
            all.iter().filter(|(name, _)| name.contains(part)).flat_map(|(_, t)| &t.1).map(|x| f64::from(*x)).collect();
        let n = found.len() as f64;
        let (mean, square) = (found.iter().sum::<f64>() / n, found.iter().map(|x| x * x).sum::<f64>() / n);
        // Of n uniform numbers: six standard errors of the mean, and of the mean square (std 0.9 of its value).
        let error = 6.0 / n.sqrt();
        assert!(mean.abs() < error * f64::sqrt(variance), "{part}: mean {mean}");
        assert!((square / variance - 1.0).abs() < 0.9 * error, "{part}: {square}, expected {variance}");
    }
    for (name, (_, values)) in all.iter().filter(|(name, _)| name.contains("norm")) {
        assert!(values.iter().all(|x| *x == 1.0), "{name}");
    }
}

#[test]
fn a_changed_tensor_is_what_the_model_computes_with() {
    let zero_embedding = T5::random_with(TINY, 7, &threads(1), |name, shape, values| {
        if name == "shared.weight" {
            assert_eq!(shape, [1000, 256]);
            values.fill(0.0);
        }
    });
    assert!(logits(&zero_embedding.unwrap()).iter().all(|bits| f32::from_bits(*bits) == 0.0));
}

#[test]
fn a_model_that_no_memory_holds_is_an_error() {
    let error =
        |config: &str| T5::random(config, 1, &threads(2)).err().unwrap_or_else(|| panic!("{config}")).to_string();
    // 4.4 TB, most of it the embedding: below what an address space holds.
    let embedding = error(r#"{"vocab_size": 16777216, "d_model": 65536}"#);
    assert!(embedding.starts_with("random weights: 4420") && embedding.contains("bytes of memory"), "{embedding}");
    let layers = error(r#"{"num_layers": 1024, "d_model": 65536, "d_ff": 65536}"#);
    assert!(layers.contains("bytes of memory"), "{layers}");
    let labels = error(
        r#"{"architectures": ["T5ForTokenClassification"], "vocab_size": 16777216, "d_model": 65536, "num_labels": 65536}"#,
    );
    assert!(labels.contains("bytes of memory"), "{labels}");
    let beyond = error(r#"{"num_layers": 1024, "d_model": 65536, "d_ff": 1048576, "num_heads": 4096, "d_kv": 65536}"#);
    assert!(beyond.contains("the model's size in bytes"), "{beyond}");
    assert!(error(r#"{"d_model": -1}"#).contains("d_model"));
    assert!(error("{").contains("config.json"));
}
