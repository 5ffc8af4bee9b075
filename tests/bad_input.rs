//! Input that cannot be: one line that names the file, the tensor or the option, what was found and what was expected. Never a
//! panic. What the readers of files do with spoilt bytes is in `checkpoint.rs` and `tokenizer/hostile.rs`.

mod common;

use common::data;
use serde_json::{Value, json};
use std::path::Path;
use tiny_t5::{Generate, Load, OneOrMany, T5};

/// A golden's folder, changed.
fn changed(folder: &str, change: impl FnOnce(&Path)) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(data("goldens").join(folder)).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    change(copy.path());
    copy
}

/// config.json with other values for some keys.
fn with_config(folder: &str, keys: Value) -> tempfile::TempDir {
    changed(folder, |path| {
        let path = path.join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for (key, value) in keys.as_object().unwrap() {
            config[key] = value.clone();
        }
        std::fs::write(path, config.to_string()).unwrap();
    })
}

/// model.safetensors with a changed header; offsets stay as they are.
fn with_header(folder: &str, change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> tempfile::TempDir {
    changed(folder, |path| {
        let path = path.join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let (len, rest) = bytes.split_at(8);
        let (header, weights) = rest.split_at(u64::from_le_bytes(len.try_into().unwrap()) as usize);
        let mut header: Value = serde_json::from_slice(header).unwrap();
        change(header.as_object_mut().unwrap());
        let header = header.to_string();
        let new = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), weights].concat();
        std::fs::write(path, new).unwrap();
    })
}

#[track_caller]
fn assert_names(error: &dyn std::fmt::Display, parts: &[&str]) {
    let error = error.to_string();
    assert!(!error.contains('\n'), "more than a line: {error}");
    for part in parts {
        assert!(error.contains(part), "{error:?} does not name {part:?}");
    }
}

#[track_caller]
fn open_fails(folder: &tempfile::TempDir, parts: &[&str]) {
    let start = std::time::Instant::now();
    assert_names(&T5::open(folder.path()).expect_err("opened"), parts);
    assert!(start.elapsed().as_secs_f64() < 1.0);
}

#[test]
fn shapes_that_differ_from_config_name_the_tensor_and_both_shapes() {
    let attention = "SelfAttention.q.weight";
    open_fails(
        &with_config("v1_0-relu-tied", json!({"d_kv": 8})),
        &["model.safetensors", attention, "[64, 64]", "[32, 64]"],
    );
    open_fails(&with_config("v1_0-relu-tied", json!({"d_ff": 100})), &["DenseReluDense.wi", "[128, 64]", "[100, 64]"]);
    open_fails(
        &with_config("v1_0-relu-tied", json!({"vocab_size": 200})),
        &["shared.weight", "[199, 64]", "[200, 64]"],
    );
    open_fails(&with_config("v1_0-relu-tied", json!({"num_heads": 2})), &[attention, "num_heads"]);
    let buckets = json!({"relative_attention_num_buckets": 16});
    open_fails(&with_config("v1_0-relu-tied", buckets), &["relative_attention_bias", "[32, 4]", "[16, 4]"]);
}

#[test]
fn blocks_that_differ_from_config_name_the_block() {
    open_fails(&with_config("v1_0-relu-tied", json!({"num_layers": 1})), &["encoder.block.1.", "num_layers"]);
    open_fails(
        &with_config("v1_0-relu-tied", json!({"num_decoder_layers": 1})),
        &["decoder.block.1.", "num_decoder_layers"],
    );
    open_fails(&with_config("v1_0-relu-tied", json!({"num_layers": 3})), &["encoder.block.2.layer.0"]);
}

#[test]
fn config_numbers_that_are_absurd_name_the_key() {
    for (key, value) in [
        ("d_kv", json!(0)),
        ("num_layers", json!(1_000_000_000_000_000_000u64)),
        ("d_model", json!(-5)),
        ("num_heads", json!(2.5)),
        ("layer_norm_epsilon", json!("small")),
        ("vocab_size", json!([199])),
    ] {
        open_fails(&with_config("v1_0-relu-tied", json!({ key: value })), &["config.json", key]);
    }
    open_fails(&with_config("v1_0-relu-tied", json!({"feed_forward_proj": "maxout"})), &["config.json", "maxout"]);
    open_fails(&with_config("v1_0-relu-tied", json!({"model_type": "bart"})), &["config.json", "bart"]);
}

#[test]
fn tensors_that_are_missing_are_named() {
    let name = "decoder.block.1.layer.2.DenseReluDense.wo.weight";
    let gone = with_header("v1_0-relu-tied", |header| {
        let tensor = header.remove(name).unwrap();
        header.insert("somebody.else".into(), tensor);
    });
    open_fails(&gone, &["model.safetensors", name]);
    open_fails(
        &with_config("v1_0-relu-tied", json!({"feed_forward_proj": "gated-gelu"})),
        &["DenseReluDense.wi_0.weight"],
    );
    let tied = with_header("v1_0-relu-tied", |header| {
        let tensor = header.remove("encoder.block.0.layer.0.SelfAttention.v.weight").unwrap();
        header.insert("somebody.else".into(), tensor);
    });
    open_fails(&tied, &["SelfAttention", "skv"]);
}

#[test]
fn tensors_that_nothing_uses_get_one_note() {
    let more = with_header("v1_1-gated-gelu-untied", |header| {
        let tensor = header["lm_head.weight"].clone();
        header.remove("lm_head.weight");
        header.insert("adapter.weight".into(), tensor);
    });
    let t5 = T5::open(more.path()).unwrap();
    assert_eq!(t5.notes().iter().filter(|note| note.contains("adapter.weight")).count(), 1, "{:?}", t5.notes());
}

#[test]
fn files_that_are_cut_or_absent_name_the_file() {
    for len in [0, 4, 8, 100, 5000] {
        let cut = changed("v1_0-relu-tied", |path| {
            let path = path.join("model.safetensors");
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(path, &bytes[..len]).unwrap();
        });
        open_fails(&cut, &["model.safetensors"]);
    }
    open_fails(
        &changed("v1_0-relu-tied", |path| std::fs::remove_file(path.join("config.json")).unwrap()),
        &["config.json"],
    );
    open_fails(
        &changed("v1_0-relu-tied", |path| std::fs::remove_file(path.join("model.safetensors")).unwrap()),
        &["model.safetensors"],
    );
    assert_names(&T5::open("no/such folder").unwrap_err(), &["no/such folder"]);
}

fn model() -> T5 {
    T5::open(data("goldens/v1_0-relu-tied")).unwrap()
}

#[test]
fn ids_that_cannot_be_are_named() {
    let (t5, options) = (model(), Generate::default());
    assert_names(&t5.generate(&[5, 199, 1], &options).unwrap_err(), &["199", "vocab_size"]);
    assert_names(&t5.encode(&[u32::MAX]).unwrap_err(), &["4294967295"]);
    assert_names(&t5.generate(&[], &options).unwrap_err(), &["empty"]);
    assert_names(&t5.score(&[5, 1], &[]).unwrap_err(), &["target", "empty"]);
    assert_names(&t5.score(&[5, 1], &[777]).unwrap_err(), &["target", "777"]);
    assert_names(&t5.generate("a text", &options).unwrap_err(), &["tokenizer"]);
    let mut load = Load::default();
    load.max_source_tokens = Some(4);
    let t5 = T5::open_with(data("goldens/v1_0-relu-tied"), &load).unwrap();
    assert_names(&t5.generate(&[5; 5], &options).unwrap_err(), &["5 tokens", "at most 4"]);
    assert!(t5.generate(&[5; 4], &options).is_ok());
}

#[test]
fn options_that_cannot_be_are_named() {
    let t5 = model();
    let d = Generate::default;
    let cases: Vec<(Generate, &[&str])> = vec![
        (Generate { num_beams: Some(0), ..d() }, &["num_beams", "0"]),
        (Generate { num_beams: Some(1_000_000_000), ..d() }, &["num_beams", "1000000000"]),
        (Generate { num_return_sequences: Some(3), num_beams: Some(2), ..d() }, &["num_return_sequences", "3", "2"]),
        (Generate { num_return_sequences: Some(2), ..d() }, &["num_return_sequences"]),
        (Generate { max_new_tokens: Some(0), ..d() }, &["max_new_tokens", "0"]),
        (Generate { max_new_tokens: Some(1_000_000_000_000), ..d() }, &["max_new_tokens"]),
        (Generate { max_length: Some(1), ..d() }, &["max_length", "1"]),
        (Generate { repetition_penalty: Some(0.0), ..d() }, &["repetition_penalty", "0"]),
        (Generate { repetition_penalty: Some(f64::NAN), ..d() }, &["repetition_penalty", "NaN"]),
        (Generate { encoder_repetition_penalty: Some(-1.0), ..d() }, &["encoder_repetition_penalty"]),
        (Generate { length_penalty: Some(f64::INFINITY), ..d() }, &["length_penalty", "inf"]),
        (Generate { bad_words_ids: Some(vec![vec![]]), ..d() }, &["bad_words_ids", "empty"]),
        (Generate { bad_words_ids: Some(vec![vec![3, 999]]), ..d() }, &["bad_words_ids", "999"]),
        (Generate { suppress_tokens: Some(vec![199]), ..d() }, &["suppress_tokens", "199"]),
        (Generate { forced_bos_token_id: Some(500), ..d() }, &["forced_bos_token_id", "500"]),
        (Generate { forced_eos_token_id: Some(OneOrMany::Many(vec![1, 500])), ..d() }, &["forced_eos_token_id", "500"]),
        (Generate { eos_token_id: Some(OneOrMany::One(500)), ..d() }, &["eos_token_id", "500"]),
        (Generate { decoder_start_token_id: Some(199), ..d() }, &["decoder_start_token_id", "199"]),
        (Generate { decoder_input_ids: Some(vec![199]), ..d() }, &["decoder_input_ids", "199"]),
        (Generate { temperature: Some(0.0), do_sample: Some(true), ..d() }, &["temperature", "0"]),
        (Generate { top_p: Some(1.5), do_sample: Some(true), ..d() }, &["top_p", "1.5"]),
        (Generate { max_time: Some(-1.0), ..d() }, &["max_time"]),
    ];
    for (options, parts) in cases {
        assert_names(&t5.generate(&[5, 1], &options).expect_err("generated"), parts);
    }
    let mut options = d();
    assert_names(&options.set("num_beams", &json!("many")).unwrap_err(), &["num_beams", "many"]);
    assert_names(&options.set("no_such_option", &json!(1)).unwrap_err(), &["no_such_option"]);
}

fn with_generation_config(config: Value) -> tempfile::TempDir {
    changed("v1_0-relu-tied", |path| std::fs::write(path.join("generation_config.json"), config.to_string()).unwrap())
}

#[test]
fn generation_config_keys_that_would_change_the_ids_are_errors() {
    for (key, value) in [
        ("penalty_alpha", json!(0.6)),
        ("num_beam_groups", json!(2)),
        ("diversity_penalty", json!(0.5)),
        ("guidance_scale", json!(1.5)),
        ("stop_strings", json!(["."])),
        ("force_words_ids", json!([[5]])),
    ] {
        open_fails(&with_generation_config(json!({ key: value })), &["generation_config.json", key]);
    }
    open_fails(&with_generation_config(json!({"num_beams": "four"})), &["generation_config.json", "num_beams", "four"]);
    open_fails(&with_generation_config(json!([1, 2])), &["generation_config.json"]);
}

#[test]
fn generation_config_keys_that_do_not_matter_get_one_note_at_most() {
    let config = json!({
        "transformers_version": "4.40", "use_cache": true, "num_beam_groups": 1, "diversity_penalty": 0.0,
        "penalty_alpha": null, "my_own_remark": "hello", "max_length": 7
    });
    let folder = with_generation_config(config);
    let t5 = T5::open(folder.path()).unwrap();
    assert_eq!(t5.notes().len(), 1, "{:?}", t5.notes());
    assert!(t5.notes()[0].contains("my_own_remark"));
    assert_eq!(t5.generation_defaults().max_length, Some(7));
}

#[test]
fn calls_that_the_checkpoint_cannot_serve_say_what_it_is() {
    let encoder = T5::open(data("goldens/encoder-only")).unwrap();
    assert_names(&encoder.generate(&[5, 1], &Generate::default()).unwrap_err(), &["generate", "Encoder"]);
    assert_names(&encoder.score(&[5, 1], &[5]).unwrap_err(), &["score", "Encoder"]);
    assert_names(&model().classify(&[5, 1]).unwrap_err(), &["classify", "ConditionalGeneration"]);
    let classifier = T5::open(data("goldens/sequence-classification")).unwrap();
    assert_names(&classifier.classify(&[5, 9]).unwrap_err(), &["end token"]);
    let embedded = T5::embedded(&Load::default()).unwrap();
    assert_names(&embedded.infill("no gap", &Generate::default()).unwrap_err(), &["gap"]);
}
