//! Bad input to a model: checkpoints whose parts do not fit together, sources, targets and options that cannot be.
//!
//! Every refusal is one line that names the file, the tensor or the option, what was found and what was expected; it takes
//! less than a second, and nothing panics. What the readers of files do with spoilt bytes is in `checkpoint.rs` and
//! `tokenizer/hostile.rs`.

mod common;

use common::{Folder, Stored, open};
use serde_json::{Value, json};
use std::fmt::Debug;
use std::time::{Duration, Instant};
use tiny_t5::{Classification, Generate, Load, Result, Source, T5};

const RELU: &str = "goldens/v1_0-relu-tied";
const GATED: &str = "goldens/v1_1-gated-gelu-untied";
const SOURCE: &[u32] = &[5, 9, 7, 1];

/// The message of a call that is refused: one line, within a second, and with all of `parts`.
#[track_caller]
fn assert_refused<T: Debug>(call: impl FnOnce() -> Result<T>, parts: &[&str]) {
    let start = Instant::now();
    let result = call();
    let took = start.elapsed();
    let message = match result {
        Ok(answer) => panic!("accepted: {:.200}; expected an error with {parts:?}", format!("{answer:?}")),
        Err(error) => error.to_string(),
    };
    assert!(took < Duration::from_secs(1), "{message}: took {took:?}");
    assert_one_line(&message);
    for part in parts {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[track_caller]
fn assert_one_line(message: &str) {
    assert!(!message.chars().any(char::is_control), "more than one line: {message:.500?}");
    assert!(message.chars().count() < 500, "{} characters: {message:.500}", message.chars().count());
}

#[track_caller]
fn assert_option_refused(t5: &T5, options: &Generate, parts: &[&str]) {
    assert_refused(|| t5.generate(SOURCE, options), parts);
    assert_refused(|| t5.generate_batch(&[SOURCE.into(), SOURCE.into()], options), parts);
    assert_refused(|| t5.stream(SOURCE, options).map(|_| ()), parts);
}

fn embedded() -> T5 {
    T5::embedded(&Load::default()).unwrap()
}

// Checkpoints

#[test]
fn open_sizes_that_the_tensors_do_not_have_names_the_tensor_and_the_keys() {
    let q = "encoder.block.0.layer.0.SelfAttention.q.weight";
    let wi = "encoder.block.0.layer.1.DenseReluDense.wi.weight";
    let bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    for (key, value, parts) in [
        ("d_kv", 8, &[q, "[64, 64]", "[32, 64]", "num_heads 4 * d_kv 8"][..]),
        ("d_kv", 65536, &[q, "[64, 64]", "[262144, 64]"]),
        ("num_heads", 5, &[q, "[64, 64]", "[80, 64]", "num_heads 5"]),
        ("d_ff", 127, &[wi, "[128, 64]", "[127, 64]", "d_ff"]),
        ("d_ff", 1 << 20, &[wi, "[1048576, 64]"]),
        ("d_model", 63, &["shared.weight", "[199, 64]", "[199, 63]", "d_model"]),
        ("vocab_size", 200, &["shared.weight", "[199, 64]", "[200, 64]", "vocab_size"]),
        ("relative_attention_num_buckets", 64, &[bias, "[32, 4]", "[64, 4]", "relative_attention_num_buckets"]),
    ] {
        let folder = Folder::of(RELU).with(key, value);
        assert_refused(|| folder.open(), &[&["model.safetensors", "config.json"], parts].concat());
    }
}

#[test]
fn open_numbers_and_names_out_of_range_names_the_key() {
    for (key, value) in [
        ("d_kv", json!(0)),
        ("d_model", json!(-1)),
        ("num_layers", json!(1e12)),
        ("num_heads", json!("four")),
        ("num_heads", json!(2.5)),
        ("vocab_size", json!(u64::MAX)),
        ("vocab_size", json!([199])),
        ("layer_norm_epsilon", json!("small")),
        ("decoder_start_token_id", json!(199)),
        ("relative_attention_num_buckets", json!(1)),
        ("eos_token_id", json!(-1)),
        ("feed_forward_proj", json!("gated-tanh")),
        ("model_type", json!("bart")),
        ("architectures", json!(["BartModel\n"])),
    ] {
        let folder = Folder::of(RELU).with(key, value);
        assert_refused(|| folder.open(), &["config.json", key, "expected"]);
    }
}

#[test]
fn open_fewer_layers_than_the_tensors_have_names_the_block() {
    for (key, stack) in [("num_layers", "encoder"), ("num_decoder_layers", "decoder")] {
        let folder = Folder::of(RELU).with(key, 1);
        let block = format!("{stack}.block.1.");
        assert_refused(|| folder.open(), &["model.safetensors", &block, "of block 1", "below 1", key, "config.json"]);
    }
}

/// Wrappers put names of their own before the model's: the error says so.
#[test]
fn open_tensor_under_a_longer_name_names_it() {
    let name = "encoder.final_layer_norm.weight";
    let folder = Folder::of(RELU).without(name).with_tensor(&format!("module.{name}"), Stored::of(&[64], &[1.0; 64]));
    assert_refused(
        || folder.open(),
        &["has no tensor encoder.final", "there is module.encoder.final_layer_norm.weight"],
    );
}

#[test]
fn open_more_layers_than_the_tensors_have_names_the_missing_tensor() {
    for (key, stack) in [("num_layers", "encoder"), ("num_decoder_layers", "decoder")] {
        let folder = Folder::of(RELU).with(key, 3);
        let tensor = format!("{stack}.block.2.layer.0.layer_norm.weight");
        assert_refused(|| folder.open(), &["model.safetensors", "has no tensor", &tensor, "[64]"]);
    }
}

#[test]
fn open_without_any_of_its_tensors_names_it() {
    let all: Vec<String> = Folder::of(GATED).tensors.into_keys().collect();
    assert!(all.len() > 40);
    // Without an output matrix of its own the output is the embedding, as where the two are tied.
    for name in all.iter().filter(|name| *name != "lm_head.weight") {
        // Where only one of k and v is there, keys and values are tied: another kind of checkpoint.
        let tied = name.strip_suffix(".k.weight").or(name.strip_suffix(".v.weight"));
        let parts = [tied.unwrap_or(name), if tied.is_some() { "skv" } else { "has no tensor" }];
        let folder = Folder::of(GATED).without(name);
        // The embedding has other names, and the first of them is what is found.
        match name.as_str() {
            "shared.weight" => assert!(folder.open().is_ok()),
            _ => assert_refused(|| folder.open(), &[&["model.safetensors"], &parts[..]].concat()),
        }
    }
}

#[test]
fn open_wrong_shape_of_any_tensor_names_both_shapes() {
    for (name, tensor) in Folder::of(GATED).tensors {
        let found = [tensor.shape.clone(), vec![1]].concat();
        let folder = Folder::of(GATED).with_tensor(&name, Stored { shape: found.clone(), ..tensor.clone() });
        let (found, expected) = (format!("{found:?}"), format!("{:?}", tensor.shape));
        assert_refused(|| folder.open(), &["model.safetensors", &name, &found, &expected]);
    }
}

#[test]
fn open_transposed_matrix_names_both_shapes() {
    let wo = "decoder.block.1.layer.2.DenseReluDense.wo.weight";
    let mut folder = Folder::of(RELU);
    folder.tensors.get_mut(wo).unwrap().shape.reverse();
    assert_refused(|| folder.open(), &["model.safetensors", wo, "[128, 64]", "[64, 128]", "d_ff"]);
}

#[test]
fn open_weights_of_integers_names_tensor_and_type() {
    let wo = "decoder.block.1.layer.2.DenseReluDense.wo.weight";
    let bytes = Stored { dtype: "I8".to_owned(), shape: vec![64, 128], bytes: vec![1; 64 * 128] };
    let folder = Folder::of(RELU).with_tensor(wo, bytes);
    assert_refused(|| folder.open(), &["model.safetensors", wo, "I8", "F32"]);
}

#[test]
fn open_gated_config_on_weights_that_are_not_names_the_missing_tensor() {
    let folder = Folder::of(RELU).with("feed_forward_proj", "gated-gelu");
    assert_refused(|| folder.open(), &["has no tensor", "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", "d_ff"]);
    let folder = Folder::of(GATED).with("feed_forward_proj", "gelu");
    assert_refused(|| folder.open(), &["has no tensor", "encoder.block.0.layer.1.DenseReluDense.wi.weight", "d_ff"]);
}

#[test]
fn open_classification_without_its_head_names_the_missing_tensor() {
    for (architecture, tensor) in [
        ("T5ForSequenceClassification", "classification_head.dense.weight"),
        ("T5ForTokenClassification", "classifier.weight"),
        ("T5ForQuestionAnswering", "qa_outputs.weight"),
    ] {
        let folder = Folder::of(RELU).with("architectures", json!([architecture]));
        assert_refused(|| folder.open(), &["model.safetensors", "has no tensor", tensor]);
    }
    let labels: Value = (0..7).map(|i| (i.to_string(), json!(format!("L{i}")))).collect();
    let folder = Folder::of("goldens/token-classification").with("id2label", labels);
    assert_refused(|| folder.open(), &["classifier.weight", "[7, 64]", "id2label"]);
}

#[test]
fn open_classification_without_labels_names_the_keys() {
    for (folder, head) in [
        ("goldens/token-classification", "classifier"),
        ("goldens/sequence-classification", "classification_head.out_proj"),
    ] {
        let none = |shape: &[usize]| Stored::of(shape, &[]);
        let folder = Folder::of(folder).with("num_labels", 0).with("id2label", Value::Null);
        let width = folder.config["d_model"].as_u64().unwrap() as usize;
        let (weight, bias) = (format!("{head}.weight"), format!("{head}.bias"));
        let folder = folder.with_tensor(&weight, none(&[0, width])).with_tensor(&bias, none(&[0]));
        assert_refused(|| folder.open(), &["config.json", "id2label", "num_labels", "no label"]);
    }
}

#[test]
fn open_unused_tensors_get_one_note() {
    let more = Stored::of(&[2], &[1.0, 2.0]);
    let folder = Folder::of(RELU).with_tensor("a.stranger", more.clone());
    assert_eq!(folder.open().unwrap().notes(), ["tensors that this model does not use: a.stranger"]);
    let folder = folder.with_tensor("encoder.block.0.lora_A.weight", more.clone()).with_tensor("z.bias", more);
    assert_eq!(folder.open().unwrap().notes(), ["tensors that this model does not use: a.stranger and 2 more"]);
    // As released: a copy of the embedding.
    let embedding = folder.tensors["shared.weight"].clone();
    let folder = Folder::of(RELU).with_tensor("encoder.embed_tokens.weight", embedding);
    assert_eq!(folder.open().unwrap().notes(), [""; 0]);
}

#[test]
fn open_hostile_names_of_tensors_stay_in_one_line() {
    let hostile = format!("\u{1b}[2J\r\n{}", "x".repeat(100_000));
    let more = Stored::of(&[1], &[1.0]);
    let folder = Folder::of(RELU).with_tensor(&hostile, more.clone());
    let t5 = folder.open().unwrap();
    assert_eq!(t5.notes().len(), 1);
    assert_one_line(&t5.notes()[0]);
    let folder = Folder::of(RELU).with_tensor(&format!("encoder.block.7.{hostile}"), more);
    assert_refused(|| folder.open(), &["model.safetensors", "encoder.block.7.", "expected"]);
}

#[test]
fn open_weights_that_are_no_numbers_answers_without_a_panic() {
    let mut folder = Folder::of(RELU);
    folder.tensors.values_mut().for_each(|tensor| tensor.bytes.fill(0xff));
    let t5 = folder.open().unwrap();
    for num_beams in [1, 4] {
        let options = Generate { num_beams: Some(num_beams), ..Generate::default() };
        let answer = t5.generate(SOURCE, &options).unwrap();
        assert!(answer.sequences[0].ids.iter().all(|id| *id < 199));
    }
    t5.generate(SOURCE, &Generate { do_sample: Some(true), ..Generate::default() }).unwrap();
    assert!(t5.encode(SOURCE).unwrap().hidden.iter().all(|x| x.is_nan()));
    assert!(t5.score(SOURCE, SOURCE).unwrap().loss.is_nan());
}

#[test]
fn open_files_that_are_cut_or_absent_names_the_file() {
    let folder = Folder::of(RELU);
    let path = folder.write().join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    for len in [0, 4, 8, 100, 5000, whole.len() - 1] {
        std::fs::write(&path, &whole[..len]).unwrap();
        assert_refused(|| T5::open(path.parent().unwrap()), &["model.safetensors", "expected"]);
    }
    for name in ["model.safetensors", "config.json"] {
        std::fs::remove_file(path.with_file_name(name)).unwrap();
        assert_refused(|| T5::open(path.parent().unwrap()), &[name]);
    }
    assert_refused(|| T5::open("no/such/folder/at-all"), &["no/such/folder/at-all", "no such folder"]);
}

// generation_config.json

#[test]
fn open_generation_config_keys_that_matter_not_are_ignored_with_a_note() {
    let notes = |config: Value| {
        let t5 = Folder::of(RELU).with_generation_config(config.to_string()).open().unwrap();
        assert_eq!(t5.generation_defaults().max_new_tokens, Some(3));
        t5.notes().to_vec()
    };
    let known =
        json!({"max_new_tokens": 3, "transformers_version": "5.23.0", "use_cache": true, "penalty_alpha": null});
    assert_eq!(notes(known), [""; 0]);
    let neutral = json!({"max_new_tokens": 3, "num_beam_groups": 1, "diversity_penalty": 0.0, "guidance_scale": 1.0});
    assert_eq!(notes(neutral), [""; 0]);
    assert_eq!(notes(json!({"max_new_tokens": 3, "my_key": [1, 2]})), ["generation_config.json: my_key is ignored"]);
    let hostile = notes(json!({"max_new_tokens": 3, format!("a\n\u{1b}{}", "x".repeat(100_000)): 1}));
    assert_eq!(hostile.len(), 1);
    assert_one_line(&hostile[0]);
}

#[test]
fn open_generation_config_keys_that_change_the_ids_names_them() {
    for (key, value) in [
        ("penalty_alpha", json!(0.6)),
        ("num_beam_groups", json!(2)),
        ("diversity_penalty", json!(0.5)),
        ("guidance_scale", json!(1.5)),
        ("force_words_ids", json!([[5]])),
        ("constraints", json!([])),
        ("dola_layers", json!("high")),
        ("stop_strings", json!(["x"])),
        ("token_healing", json!(true)),
        ("watermarking_config", json!({})),
    ] {
        let folder = Folder::of(RELU).with_generation_config(json!({ key: value }).to_string());
        assert_refused(|| folder.open(), &["generation_config.json", key, &value.to_string(), "expected"]);
        // Old fine-tunes have such keys in config.json.
        let folder = Folder::of(RELU).with(key, value);
        assert_refused(|| folder.open(), &["config.json", key, "expected"]);
    }
}

#[test]
fn open_generation_config_values_of_other_types_names_the_key() {
    for (key, value) in [
        ("num_beams", json!("four")),
        ("num_beams", json!(-4)),
        ("num_beams", json!(2.5)),
        ("max_new_tokens", json!(1e30)),
        ("max_length", json!([20])),
        ("length_penalty", json!("long")),
        ("early_stopping", json!("sometimes")),
        ("bad_words_ids", json!([5])),
        ("bad_words_ids", json!("x\n".repeat(100_000))),
        ("suppress_tokens", json!({"5": 1})),
        ("do_sample", json!(1)),
        ("exponential_decay_length_penalty", json!([1])),
        ("sequence_bias", json!({"5": 1.0})),
        ("forced_bos_token_id", json!(u64::MAX)),
        ("forced_eos_token_id", json!([1, -1])),
        ("seed", json!("x\n")),
    ] {
        let folder = Folder::of(RELU).with_generation_config(json!({ key: value }).to_string());
        assert_refused(|| folder.open(), &["generation_config.json", key, "expected"]);
        let folder = Folder::of(RELU).with(key, value);
        assert_refused(|| folder.open(), &["config.json", key, "expected"]);
    }
}

#[test]
fn open_generation_config_that_is_no_object_names_the_file() {
    for text in ["", "[]", "3", "{", "null", "{\"num_beams\": 2,}", "\u{feff}{}", "{\"a\": 1, \"a\"", "\n\n[[[["] {
        let folder = Folder::of(RELU).with_generation_config(text);
        assert_refused(|| folder.open(), &["generation_config.json", "expected"]);
    }
    let folder = Folder::of(RELU).with_generation_config(format!("{{\"bad_words_ids\": {}", "[".repeat(200_000)));
    assert_refused(|| folder.open(), &["generation_config.json"]);
}

// Loading

#[test]
fn open_absurd_numbers_of_threads_are_refused_or_bounded() {
    for threads in [0, 1_000_000_000, usize::MAX] {
        let load = Load { threads: Some(threads), ..Load::default() };
        assert_refused(|| T5::embedded(&load), &["threads", &threads.to_string(), "expected"]);
    }
    assert_eq!(embedded().with_threads(0).threads(), 1);
    let t5 = embedded().with_threads(usize::MAX);
    assert!(t5.threads() <= 1024, "{}", t5.threads());
}

#[test]
fn with_isa_unknown_names_those_that_are_there() {
    assert_refused(|| embedded().with_isa("sse9\n"), &["instruction set", "sse9", "portable"]);
}

// Sources and targets

/// Every call that takes a source, and needs no head.
#[track_caller]
fn assert_source_refused(t5: &T5, source: Source<'_>, parts: &[&str]) {
    let parts = &[&["source", "expected"], parts].concat();
    assert_refused(|| t5.generate(source, &Generate::default()), parts);
    assert_refused(|| t5.generate_batch(&[SOURCE.into(), source], &Generate::default()), parts);
    assert_refused(|| t5.stream(source, &Generate::default()).map(|_| ()), parts);
    assert_refused(|| t5.score(source, SOURCE), parts);
    assert_refused(|| t5.logits(source, SOURCE), parts);
    assert_refused(|| t5.encode(source), parts);
    assert_refused(|| t5.encode_batch(&[SOURCE.into(), source]), parts);
}

#[test]
fn source_with_an_unknown_id_names_the_id_and_the_vocabulary() {
    let t5 = open(RELU);
    for id in [199, 200, u32::MAX] {
        assert_source_refused(&t5, (&[5, id, 1]).into(), &[&format!("id {id}"), "vocab_size, 199"]);
    }
    assert!(t5.generate(&[198], &Generate::default()).is_ok());
}

#[test]
fn source_of_no_ids_is_refused() {
    assert_source_refused(&open(RELU), (&[]).into(), &["an empty list of ids", "at least one"]);
}

#[test]
fn batch_of_no_sources_has_no_answers() {
    let t5 = open(RELU);
    assert!(t5.generate_batch(&[], &Generate::default()).unwrap().is_empty());
    assert!(t5.encode_batch(&[]).unwrap().is_empty());
}

#[test]
fn source_over_max_source_tokens_names_both_lengths() {
    let t5 = open(RELU);
    assert_source_refused(&t5, (&vec![5; 16_385]).into(), &["16385 tokens", "16384", "max_source_tokens"]);
    assert_source_refused(&t5, (&vec![5; 20_000_000]).into(), &["20000000 tokens", "max_source_tokens"]);
    let load = Load { max_source_tokens: Some(5), ..Load::default() };
    let t5 = T5::embedded(&load).unwrap();
    assert_source_refused(&t5, "photosynthesis".into(), &["15 tokens", "at most 5", "max_source_tokens"]);
    assert_source_refused(&t5, (&[5; 6]).into(), &["6 tokens", "at most 5"]);
    assert!(t5.generate("abcd", &Generate::default()).is_ok());
    assert!(t5.generate(&[5; 5], &Generate::default()).is_ok());
}

#[test]
fn source_of_text_without_a_tokenizer_says_what_is_missing() {
    let t5 = open(RELU);
    let parts = &["needs a tokenizer", "tokenizer.json", "ids"];
    assert_refused(|| t5.generate("a text", &Generate::default()), parts);
    assert_refused(|| t5.score(SOURCE, "a text"), parts);
    assert_refused(|| t5.encode("a text"), parts);
}

#[test]
fn source_of_strange_text_is_answered() {
    let (t5, long) = (embedded(), "x".repeat(500));
    let options = Generate { max_new_tokens: Some(8), ..Generate::default() };
    for text in ["", " ", "\0", "\n\t\r", "☃", "\u{feff}", "\u{202e}abc", "e\u{301}\u{301}", "</s>", "<unk>", &long] {
        let answer = t5.generate(text, &options).unwrap_or_else(|e| panic!("{text:?}: {e}"));
        assert_eq!(answer.input_ids.last(), Some(&1), "{text:?}");
    }
}

#[test]
fn target_that_is_not_valid_is_refused() {
    let t5 = open(RELU);
    for (target, parts) in [
        (&[][..], &["target", "an empty list of ids", "at least one"][..]),
        (&[3, 199], &["target", "id 199", "vocab_size, 199"]),
        (&[3; 16_385], &["target", "16385 tokens", "16384"]),
    ] {
        assert_refused(|| t5.score(SOURCE, target), parts);
        assert_refused(|| t5.logits(SOURCE, target), parts);
    }
}

#[test]
fn infill_of_a_text_without_gaps_is_refused() {
    let several = Generate { num_beams: Some(2), num_return_sequences: Some(2), ..Generate::default() };
    assert_refused(|| open("goldens/byt5-shape").infill("a <extra_id_0>", &several), &["num_return_sequences", "2"]);
    assert_refused(|| open("goldens/byt5-shape").infill("no gap", &Generate::default()), &["gap"]);
    assert_refused(|| embedded().infill("The <extra_id_0>", &Generate::default()), &["<extra_id_0>", "tokenizer"]);
}

// Calls that a checkpoint has no part for

#[test]
fn generate_on_another_kind_of_model_says_what_it_is() {
    for (folder, is) in [
        ("goldens/encoder-only", "Encoder"),
        ("goldens/token-classification", "TokenClassification"),
        ("goldens/sequence-classification", "SequenceClassification"),
        ("goldens/question-answering", "QuestionAnswering"),
    ] {
        let t5 = open(folder);
        let parts = |call| ["a model for conditional generation", is, call];
        assert_refused(|| t5.generate(SOURCE, &Generate::default()), &parts("generate needs"));
        assert_refused(|| t5.stream(SOURCE, &Generate::default()).map(|_| ()), &parts("stream needs"));
        assert_refused(|| t5.score(SOURCE, SOURCE), &parts("score needs"));
        assert_refused(|| t5.logits(SOURCE, SOURCE), &parts("logits needs"));
        assert!(t5.encode(SOURCE).is_ok());
    }
}

#[test]
fn classify_on_another_kind_of_model_says_what_it_is() {
    for (folder, is) in [(RELU, "ConditionalGeneration"), ("goldens/encoder-only", "Encoder")] {
        assert_refused(|| open(folder).classify(SOURCE), &["classify needs", "a head for classification", is]);
    }
}

#[test]
fn classify_bad_source_is_refused() {
    for folder in ["goldens/sequence-classification", "goldens/token-classification", "goldens/question-answering"] {
        let t5 = open(folder);
        assert_refused(|| t5.classify(&[5, 199, 1]), &["source", "id 199", "vocab_size, 199"]);
        assert_refused(|| t5.classify(&[]), &["source", "an empty list of ids"]);
        assert_refused(|| t5.classify(&vec![5; 16_385]), &["source", "16385 tokens", "16384"]);
        assert_refused(|| t5.classify("text"), &["needs a tokenizer"]);
    }
}

#[test]
fn classify_sequence_without_end_token_names_it() {
    let t5 = open("goldens/sequence-classification");
    assert_refused(|| t5.classify(&[5, 9, 7]), &["source", "no end token", "[1]"]);
    assert!(matches!(t5.classify(SOURCE), Ok(Classification::Sequence { .. })));
}

// Options

#[test]
fn generate_absurd_numbers_names_the_option_and_its_range() {
    let (t5, limited) = (open(RELU), embedded());
    let default = Generate::default;
    for n in [0, 1_000_000_000, usize::MAX] {
        let found = n.to_string();
        let options = Generate { num_beams: Some(n), ..default() };
        assert_option_refused(&t5, &options, &["num_beams", &found, "expected 1 to"]);
        let options = Generate { num_return_sequences: Some(n), num_beams: Some(2), ..default() };
        assert_option_refused(&t5, &options, &["num_return_sequences", &found, "1 to 2 (num_beams)"]);
        let options = Generate { num_return_sequences: Some(n), do_sample: Some(true), ..default() };
        assert_option_refused(&t5, &options, &["num_return_sequences", &found, "expected 1 to"]);
    }
    for n in [0, 1_000_000_000_000, usize::MAX] {
        let found = n.to_string();
        let options = Generate { max_new_tokens: Some(n), ..default() };
        assert_option_refused(&t5, &options, &["max_new_tokens", &found, "expected 1 to"]);
        let options = Generate { max_length: Some(n), ..default() };
        assert_option_refused(&t5, &options, &["max_length", &found, "expected 2 to"]);
        // Here the checkpoint's own limit is of the other kind.
        assert_option_refused(&limited, &options, &["max_length", &found, "expected 2 to"]);
    }
    for (beams, sequences) in [(1, 2), (2, 3)] {
        let options = Generate { num_return_sequences: Some(sequences), num_beams: Some(beams), ..default() };
        let expected = format!("1 to {beams} (num_beams)");
        assert_option_refused(&t5, &options, &["num_return_sequences", &sequences.to_string(), &expected]);
    }
}

#[test]
fn generate_numbers_that_a_formula_cannot_take_names_the_option() {
    let t5 = open(RELU);
    let default = Generate::default;
    for x in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 0.0] {
        let decay = Some((1, x));
        for (option, options) in [
            ("repetition_penalty", Generate { repetition_penalty: Some(x), ..default() }),
            ("encoder_repetition_penalty", Generate { encoder_repetition_penalty: Some(x), ..default() }),
            ("exponential_decay_length_penalty", Generate { exponential_decay_length_penalty: decay, ..default() }),
            ("temperature", Generate { temperature: Some(x), do_sample: Some(true), ..default() }),
        ] {
            assert_option_refused(&t5, &options, &[option, &x.to_string(), "expected"]);
        }
    }
    for x in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let options = Generate { length_penalty: Some(x), num_beams: Some(2), ..default() };
        assert_option_refused(&t5, &options, &["length_penalty", &x.to_string(), "expected a finite number"]);
    }
    for x in [f64::NAN, 1.5, -0.5] {
        for (option, options) in [
            ("top_p", Generate { top_p: Some(x), ..default() }),
            ("min_p", Generate { min_p: Some(x), ..default() }),
            ("typical_p", Generate { typical_p: Some(x), ..default() }),
            ("epsilon_cutoff", Generate { epsilon_cutoff: Some(x), ..default() }),
            ("eta_cutoff", Generate { eta_cutoff: Some(x), ..default() }),
        ] {
            let options = Generate { do_sample: Some(true), ..options };
            assert_option_refused(&t5, &options, &[option, &x.to_string(), "expected 0 to"]);
        }
    }
    for x in [f64::NAN, f64::NEG_INFINITY, -1.0] {
        let options = Generate { max_time: Some(x), ..default() };
        assert_option_refused(&t5, &options, &["max_time", &x.to_string(), "expected"]);
    }
    let options = Generate { sequence_bias: Some(vec![(vec![5], f32::NAN)]), ..default() };
    assert_option_refused(&t5, &options, &["sequence_bias", "NaN", "expected"]);
}

#[test]
fn generate_ids_out_of_the_vocabulary_names_the_option() {
    let t5 = open(RELU);
    let default = Generate::default;
    for id in [199, u32::MAX] {
        for (option, options) in [
            ("eos_token_id", Generate { eos_token_id: Some(vec![1, id].into()), ..default() }),
            ("decoder_start_token_id", Generate { decoder_start_token_id: Some(id), ..default() }),
            ("decoder_input_ids", Generate { decoder_input_ids: Some(vec![5, id]), ..default() }),
            ("forced_bos_token_id", Generate { forced_bos_token_id: Some(id), ..default() }),
            ("forced_eos_token_id", Generate { forced_eos_token_id: Some(id.into()), ..default() }),
            ("suppress_tokens", Generate { suppress_tokens: Some(vec![5, id]), ..default() }),
            ("begin_suppress_tokens", Generate { begin_suppress_tokens: Some(vec![id]), ..default() }),
            ("bad_words_ids", Generate { bad_words_ids: Some(vec![vec![5], vec![6, id]]), ..default() }),
            ("sequence_bias", Generate { sequence_bias: Some(vec![(vec![id], 1.0)]), ..default() }),
        ] {
            assert_option_refused(&t5, &options, &[option, &id.to_string(), "vocab_size, 199"]);
        }
    }
}

#[test]
fn generate_empty_words_names_the_option() {
    let t5 = open(RELU);
    let options = Generate { bad_words_ids: Some(vec![vec![5], vec![]]), ..Generate::default() };
    assert_option_refused(&t5, &options, &["bad_words_ids", "an empty sequence", "at least one id"]);
    let options = Generate { sequence_bias: Some(vec![(vec![], 1.0)]), ..Generate::default() };
    assert_option_refused(&t5, &options, &["sequence_bias", "an empty sequence", "at least one id"]);
}

#[test]
fn set_unknown_or_of_another_type_names_the_option() {
    for (option, value) in [
        ("num_beam", json!(2)),
        ("", json!(2)),
        ("x\ny", json!("\n".repeat(100_000))),
        ("num_beams", json!("four")),
        ("bad_words_ids", json!(vec![7; 100_000])),
        ("early_stopping", json!("sometimes")),
        ("seed", json!(-1)),
    ] {
        let name = option.split('\n').next().unwrap();
        assert_refused(|| Generate::default().set(option, &value), &[name, "expected"]);
    }
}

/// Options that are unusual, and valid: any answer will do, with ids of the vocabulary and no more than were asked for.
/// A start of a folder's own that is not of the vocabulary, in every call that begins with it.
#[test]
fn start_token_of_a_folder_past_the_vocabulary_is_refused() {
    for key in ["decoder_start_token_id", "bos_token_id"] {
        let mut folder = common::Folder::of("goldens/v1_0-relu-tied");
        folder.generation_config = Some(format!(r#"{{"{key}": 99999999}}"#));
        let t5 = T5::open(folder.write()).unwrap();
        assert_refused(|| t5.generate(SOURCE, &Generate::default()), &[key, "99999999"]);
        assert_refused(|| t5.answer_probability(&[SOURCE.into()], 5, 6), &["99999999"]);
        assert!(t5.logits(SOURCE, &[1]).is_ok(), "as transformers' loss: it begins with config.json's");
    }
}

#[test]
fn generate_extreme_but_valid_options_answers() {
    let t5 = open("cases/below-one-vector");
    let vocab_size = t5.config().vocab_size as u32;
    let every: Vec<u32> = (0..vocab_size).collect();
    let default = || Generate { max_new_tokens: Some(5), ..Generate::default() };
    let huge = Some(usize::MAX);
    let sets = [
        Generate { min_new_tokens: huge, min_length: huge, ..default() },
        Generate { no_repeat_ngram_size: huge, encoder_no_repeat_ngram_size: huge, ..default() },
        Generate { no_repeat_ngram_size: Some(1), encoder_no_repeat_ngram_size: Some(1), ..default() },
        Generate { repetition_penalty: Some(1e300), encoder_repetition_penalty: Some(1e-300), ..default() },
        Generate { repetition_penalty: Some(1e-300), encoder_repetition_penalty: Some(1e300), ..default() },
        Generate { exponential_decay_length_penalty: Some((0, 1e300)), ..default() },
        Generate { exponential_decay_length_penalty: Some((usize::MAX, 1e-300)), ..default() },
        Generate { suppress_tokens: Some(every.clone()), ..default() },
        Generate { begin_suppress_tokens: Some(every.clone()), forced_bos_token_id: Some(3), ..default() },
        Generate { bad_words_ids: Some(every.iter().map(|id| vec![*id]).collect()), ..default() },
        Generate { eos_token_id: Some(every.clone().into()), ..default() },
        Generate { eos_token_id: Some(vec![].into()), ..default() },
        Generate { forced_eos_token_id: Some(vec![].into()), ..default() },
        Generate { sequence_bias: Some(vec![(vec![4], f32::INFINITY), (vec![4], f32::NEG_INFINITY)]), ..default() },
        Generate { length_penalty: Some(1e300), ..default() },
        Generate { length_penalty: Some(-1e300), renormalize_logits: Some(true), ..default() },
        Generate { max_time: Some(0.0), ..default() },
        Generate { max_time: Some(1e300), ..default() },
    ];
    for set in &sets {
        let beams = [1, 2, 40].map(|n| Generate { num_beams: Some(n), num_return_sequences: Some(n), ..set.clone() });
        let sampled = [(1e-300, huge, 0.0), (1e300, Some(1), 0.0), (1.0, Some(0), 1.0)];
        let sampled = sampled.map(|(temperature, top_k, top_p)| Generate {
            do_sample: Some(true),
            temperature: Some(temperature),
            top_k,
            top_p: Some(top_p),
            min_p: Some(1.0),
            typical_p: Some(1.0),
            ..set.clone()
        });
        for options in beams.iter().chain(&sampled) {
            for sequence in t5.generate(SOURCE, options).unwrap().sequences {
                let ids = &sequence.ids;
                assert!(ids.len() <= 5 && ids.iter().all(|id| *id < vocab_size), "{options:?}: {ids:?}");
            }
        }
    }
}
