//! Sentence vectors and re-ranking, against their formulas in f64.

mod common;

use common::{Folder, Stored, noise, open, sources};
use serde_json::{Value, json};
use std::path::Path;
use tiny_t5::{Source, T5};

const FOLDER: &str = "goldens/encoder-only";
const D_MODEL: usize = 64;
const OUT: usize = 48;

/// A safetensors file of f32 tensors.
fn write_weights(path: &Path, tensors: &[(&str, Stored)]) {
    let (mut header, mut content) = (serde_json::Map::new(), Vec::new());
    for (name, Stored { dtype, shape, bytes }) in tensors {
        let offsets = [content.len(), content.len() + bytes.len()];
        header.insert((*name).to_owned(), json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
        content.extend_from_slice(bytes);
    }
    let header = serde_json::to_vec(&header).unwrap();
    std::fs::write(path, [&(header.len() as u64).to_le_bytes()[..], &header, &content].concat()).unwrap();
}

fn write_json(dir: &Path, file: &str, value: &Value) {
    let path = dir.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, serde_json::to_vec(value).unwrap()).unwrap();
}

fn modules(kinds: &[(&str, &str)]) -> Value {
    let module = |(i, (path, kind)): (usize, &(&str, &str))| json!({"idx": i, "name": i.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}")});
    kinds.iter().enumerate().map(module).collect()
}

const GTR: &[(&str, &str)] =
    &[("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"), ("3_Normalize", "Normalize")];

/// A folder as Sentence-T5's and GTR's are.
fn gtr(activation: &str, bias: bool) -> Folder {
    let folder = Folder::of(FOLDER);
    let dir = folder.write();
    write_json(dir, "modules.json", &modules(GTR));
    write_json(dir, "sentence_bert_config.json", &json!({"max_seq_length": 8, "do_lower_case": false}));
    let pooling = json!({"word_embedding_dimension": D_MODEL, "pooling_mode_cls_token": false,
        "pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": false, "pooling_mode_mean_sqrt_len_tokens": false});
    write_json(dir, "1_Pooling/config.json", &pooling);
    let dense = json!({"in_features": D_MODEL, "out_features": OUT, "bias": bias,
        "activation_function": format!("torch.nn.modules.{activation}")});
    write_json(dir, "2_Dense/config.json", &dense);
    let weight = ("linear.weight", Stored::of(&[OUT, D_MODEL], &weight()));
    let mut tensors = vec![weight];
    if bias {
        tensors.push(("linear.bias", Stored::of(&[OUT], &noise(4).take(OUT).collect::<Vec<_>>())));
    }
    write_weights(&dir.join("2_Dense/model.safetensors"), &tensors);
    folder
}

fn weight() -> Vec<f32> {
    noise(3).take(OUT * D_MODEL).collect()
}

#[track_caller]
fn assert_near(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((f64::from(*found) - expected).abs() < 2e-6, "{found}, expected {expected}");
    }
}

fn mean(hidden: &[f32]) -> Vec<f64> {
    let rows = hidden.len() / D_MODEL;
    (0..D_MODEL)
        .map(|i| hidden.iter().skip(i).step_by(D_MODEL).map(|x| f64::from(*x)).sum::<f64>() / rows as f64)
        .collect()
}

#[test]
fn embed_with_modules_is_mean_dense_and_norm() {
    let ids = sources(FOLDER);
    let plain = open(FOLDER);
    for (activation, bias) in [("linear.Identity", false), ("activation.Tanh", true)] {
        let folder = gtr(activation, bias);
        let t5 = T5::open(folder.path()).unwrap();
        let batch: Vec<Source<'_>> = ids.iter().map(Source::from).collect();
        let vectors = t5.embed_batch(&batch).unwrap();
        for (ids, vector) in ids.iter().zip(&vectors) {
            let mean = mean(&plain.encode(ids).unwrap().hidden);
            let weight = weight();
            let biases: Vec<f32> = noise(4).take(OUT).collect();
            let mut expected: Vec<f64> = weight
                .chunks_exact(D_MODEL)
                .zip(biases)
                .map(|(row, b)| {
                    let x: f64 = row.iter().zip(&mean).map(|(w, x)| f64::from(*w) * x).sum();
                    if bias { (x + f64::from(b)).tanh() } else { x }
                })
                .collect();
            let length = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
            expected.iter_mut().for_each(|x| *x /= length);
            assert_near(vector, &expected);
            assert_eq!(t5.embed(ids).unwrap(), *vector, "alone as in the batch");
        }
    }
}

/// A tokenizer that appends no end has none to keep.
#[test]
fn embed_cuts_a_text_without_an_end() {
    let folder = gtr("linear.Identity", false);
    let vocab: Vec<_> = std::iter::once(json!(["<unk>", 0.0])).chain(('a'..='z').map(|c| json!([c, -1.0]))).collect();
    let model = json!({"type": "Unigram", "unk_id": 0, "vocab": vocab});
    write_json(
        folder.path(),
        "tokenizer.json",
        &json!({"added_tokens": [], "decoder": {"type": "Fuse"}, "model": model}),
    );
    let t5 = T5::open(folder.path()).unwrap();
    let ids = t5.tokenizer().unwrap().encode("abcdefghijkl").unwrap();
    assert_eq!(ids.len(), 12);
    assert_eq!(t5.embed("abcdefghijkl").unwrap(), t5.embed(&ids[..8]).unwrap());
}

#[test]
fn embed_without_modules_is_the_mean() {
    let t5 = open(FOLDER);
    for ids in sources(FOLDER) {
        assert_near(&t5.embed(&ids).unwrap(), &mean(&t5.encode(&ids).unwrap().hidden));
    }
}

/// A text is cut to max_seq_length, its end token kept.
#[test]
fn embed_cuts_a_text_and_not_ids() {
    let folder = gtr("linear.Identity", false);
    write_json(folder.path(), "tokenizer_config.json", &json!({"tokenizer_class": "ByT5Tokenizer", "extra_ids": 0}));
    // The vocabulary of the folder is below ByT5's bytes of letters with accents: plain ones have ids to 125.
    let t5 = T5::open(folder.path()).unwrap();
    let text = "abcdefghijkl";
    let ids = t5.tokenizer().unwrap().encode(text).unwrap();
    assert_eq!(ids.len(), 13);
    let cut: Vec<u32> = ids[..7].iter().chain(&ids[12..]).copied().collect();
    assert_eq!(t5.embed(text).unwrap(), t5.embed(&cut).unwrap());
    assert_ne!(t5.embed(text).unwrap(), t5.embed(&ids).unwrap());
    assert_eq!(
        t5.embed("abcdefg").unwrap(),
        t5.embed(&ids[..7].iter().chain(&[1]).copied().collect::<Vec<_>>()).unwrap()
    );
}

#[test]
fn embed_bad_modules_are_errors_that_name_file_found_and_expected() {
    let cases: &[(&str, Value, &str)] = &[
        ("modules.json", json!({}), "modules.json: its content is {}, expected a list of modules"),
        ("modules.json", json!([]), "modules.json: its content is [], expected a Pooling behind the Transformer"),
        ("modules.json", json!([1]), "modules.json: [0].type is null, expected a text"),
        ("modules.json", modules(&[("", "Transformer"), ("../x", "Pooling")]), "modules.json: [1] is"),
        (
            "modules.json",
            modules(&[("", "Transformer"), ("1_Pooling", "Pooling"), ("", "CNN")]),
            "modules.json: [2] is",
        ),
        // An empty path would lead to the root of all files.
        (
            "modules.json",
            modules(&[("", "Transformer"), ("1_Pooling", "Pooling"), ("", "Dense")]),
            "modules.json: [2] is",
        ),
        (
            "modules.json",
            modules(&[&[("", "Transformer"), ("1_Pooling", "Pooling")][..], &[("2_Dense", "Dense"); 400]].concat()),
            "modules.json: the number of modules is 402",
        ),
        (
            "2_Dense/config.json",
            json!({"in_features": 64, "out_features": 48, "bias": "x"}),
            "2_Dense/config.json: bias is \"x\", expected true or false",
        ),
        (
            "2_Dense/config.json",
            json!({"in_features": 64, "out_features": 48, "activation_function": 5}),
            "2_Dense/config.json: activation_function is 5, expected torch's Identity or Tanh",
        ),
        (
            "1_Pooling/config.json",
            json!({"pooling_mode_cls_token": true}),
            "1_Pooling/config.json: pooling_mode_cls_token",
        ),
        ("1_Pooling/config.json", json!({"pooling_mode": "max"}), "1_Pooling/config.json: pooling_mode is \"max\""),
        ("2_Dense/config.json", json!({"in_features": 64}), "2_Dense/config.json: out_features is null"),
        (
            "2_Dense/config.json",
            json!({"in_features": 64, "out_features": 0}),
            "2_Dense/config.json: out_features is 0",
        ),
        (
            "2_Dense/config.json",
            json!({"in_features": 64, "out_features": 48, "activation_function": "x.GELU"}),
            "2_Dense/config.json: activation_function is \"x.GELU\", expected torch's Identity or Tanh",
        ),
        (
            "2_Dense/config.json",
            json!({"in_features": 64, "out_features": 32}),
            "2_Dense/model.safetensors: linear.weight has shape [48, 64], expected [32, 64]",
        ),
        (
            "2_Dense/config.json",
            json!({"in_features": 64, "out_features": 48, "activation_function": "x.Identity"}),
            "2_Dense/model.safetensors: has no tensor linear.bias",
        ),
        ("sentence_bert_config.json", json!({"max_seq_length": -1}), "sentence_bert_config.json: max_seq_length is -1"),
    ];
    for (file, value, expected) in cases {
        let folder = gtr("linear.Identity", false);
        write_json(folder.path(), file, value);
        let t5 = T5::open(folder.path()).unwrap();
        let error = t5.embed(&[5, 1]).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{file} {value}: {error}");
        assert!(!error.contains('\n'));
        // What does not need the modules works.
        assert!(t5.encode(&[5, 1]).is_ok());
    }
    let folder = gtr("linear.Identity", false);
    std::fs::remove_file(folder.path().join("2_Dense/model.safetensors")).unwrap();
    let error = T5::open(folder.path()).unwrap().embed(&[5, 1]).unwrap_err().to_string();
    assert!(error.contains("2_Dense: no weights"), "{error}");
}

#[test]
fn answer_probability_is_the_softmax_of_two_logits() {
    for folder in ["goldens/v1_1-gated-gelu-untied", "goldens/f16", "goldens/odd-sizes"] {
        let t5 = open(folder);
        let ids = sources(folder);
        let batch: Vec<Source<'_>> = ids.iter().map(Source::from).collect();
        let (answer, against) = (7, 12);
        let found = t5.answer_probability(&batch, answer, against).unwrap();
        let reverse = t5.answer_probability(&batch, against, answer).unwrap();
        for ((ids, p), q) in ids.iter().zip(&found).zip(reverse) {
            let logits = t5.logits(ids, &[answer]).unwrap();
            let [yes, no] = [answer, against].map(|id| f64::from(logits.values[id as usize]).exp());
            assert!((f64::from(*p) - yes / (yes + no)).abs() < 1e-6, "{folder}: {p}");
            assert!((p + q - 1.0).abs() < 1e-6);
            assert_eq!(t5.answer_probability(&[ids.into()], answer, against).unwrap(), [*p], "alone as in the batch");
        }
    }
}

#[test]
fn answers_that_cannot_be_are_errors() {
    let t5 = open("goldens/f16");
    let error = t5.answer_probability(&[Source::Ids(&[5, 1])], 1 << 20, 3).unwrap_err().to_string();
    assert!(error.starts_with("answer: found id 1048576, expected ids below vocab_size"), "{error}");
    assert!(t5.answer_token("true").unwrap_err().to_string().contains("a tokenizer"));
    let error = open(FOLDER).answer_probability(&[Source::Ids(&[5, 1])], 3, 4).unwrap_err().to_string();
    assert!(error.starts_with("answer_probability needs a model for conditional generation"), "{error}");
    assert!(t5.answer_probability(&[], 3, 4).unwrap().is_empty());
}

/// What else sentence-transformers' files say about texts: case, a prompt, and where there is no max_seq_length the tokenizer's limit.
#[test]
fn embed_changes_a_text_as_the_folder_says() {
    let folder = gtr("linear.Identity", false);
    let tokenizer = json!({"tokenizer_class": "ByT5Tokenizer", "extra_ids": 0, "model_max_length": 6});
    write_json(folder.path(), "tokenizer_config.json", &tokenizer);
    let plain = T5::open(folder.path()).unwrap();
    let ids = |text: &str| plain.tokenizer().unwrap().encode(text).unwrap();
    let open = |sentence: Value, prompts: Value| {
        write_json(folder.path(), "sentence_bert_config.json", &sentence);
        write_json(folder.path(), "config_sentence_transformers.json", &prompts);
        T5::open(folder.path()).unwrap()
    };
    let prompts = |name: Value| json!({"prompts": {"query": "Q: ", "document": ""}, "default_prompt_name": name});
    let lower = open(json!({"do_lower_case": true, "max_seq_length": 20}), prompts(Value::Null));
    assert_eq!(lower.embed("HELLO You").unwrap(), plain.embed(&ids("hello you")).unwrap());
    let prompted = open(json!({"max_seq_length": 20}), prompts("query".into()));
    assert_eq!(prompted.embed("Hello").unwrap(), plain.embed(&ids("Q: Hello")).unwrap());
    assert_eq!(prompted.embed(&ids("Hello")).unwrap(), plain.embed(&ids("Hello")).unwrap());
    let cut = open(json!({"max_seq_length": null}), prompts("document".into()));
    assert_eq!(cut.embed("abcdefghij").unwrap(), plain.embed(&ids("abcde")).unwrap());
    let error = open(json!({}), prompts("passage".into())).embed("a").unwrap_err().to_string();
    assert!(error.starts_with("config_sentence_transformers.json: prompts.passage is null"), "{error}");
    let pooling = json!({"pooling_mode_mean_tokens": true, "include_prompt": false});
    write_json(folder.path(), "1_Pooling/config.json", &pooling);
    let error = open(json!({}), prompts("query".into())).embed("a").unwrap_err().to_string();
    assert!(error.starts_with("1_Pooling/config.json: include_prompt is false"), "{error}");
    assert!(open(json!({}), prompts("document".into())).embed("a").is_ok());
    let error = open(json!({"do_lower_case": 1}), json!({})).embed("a").unwrap_err().to_string();
    assert!(error.starts_with("sentence_bert_config.json: do_lower_case is 1"), "{error}");
}
