//! Checkpoints of every variant against what transformers computes with them (see `data/goldens/README.md`, `tools/`).

mod common;

use common::{data, ids, json};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tiny_t5::{Classification, Finish, Generate, T5};

const CLOSE: f64 = 5e-4;

/// Relative to the larger of the number and 1.
fn assert_close(got: &[f32], expected: &Value, what: &str) {
    let expected: Vec<f64> = serde_json::from_value(expected.clone()).unwrap();
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
        let off = (f64::from(*got) - expected).abs();
        assert!(off <= CLOSE * expected.abs().max(1.0), "{what}[{i}]: {got}, expected {expected}");
    }
}

/// A reference's sequence as ours are: without the start token, cut at the first end token.
fn cut(sequence: &Value, eos: &[u32]) -> Vec<u32> {
    let ids = ids(sequence);
    let end = ids.iter().skip(1).position(|id| eos.contains(id)).map_or(ids.len(), |i| i + 2);
    ids[1..end].to_vec()
}

struct Golden {
    t5: T5,
    eos: Vec<u32>,
    name: String,
}

impl Golden {
    fn greedy(&self, case: &Value, key: &str, options: &Generate) {
        let got = self.t5.generate(&ids(&case["input_ids"]), options).unwrap();
        assert_eq!(got.sequences[0].ids, cut(&case[key], &self.eos), "{} {key} {}", self.name, case["input_ids"]);
    }

    fn sequences(&self, case: &Value, expected: &Value, options: &Generate, eos: &[u32], what: &str) {
        let got = self.t5.generate(&ids(&case["input_ids"]), options).unwrap();
        let expected = expected.as_array().unwrap();
        assert_eq!(got.sequences.len(), expected.len(), "{} {what}", self.name);
        for (got, expected) in got.sequences.iter().zip(expected) {
            assert_eq!(got.ids, cut(&expected["ids"], eos), "{} {what} {}", self.name, case["input_ids"]);
            if !expected["score"].is_null() {
                assert_close(&[got.score.unwrap()], &Value::from(vec![expected["score"].clone()]), what);
            }
            let ended = got.ids.last().is_some_and(|id| eos.contains(id));
            assert_eq!(got.finish, if ended { Finish::Eos } else { Finish::Length });
        }
    }

    fn generate(&self, file: &Value) {
        let cases = file["cases"].as_array().unwrap();
        let plain = Generate { max_new_tokens: Some(24), ..Generate::default() };
        for case in cases {
            let source = ids(&case["input_ids"]);
            let what = |key: &str| format!("{} {key}, a source of {}", self.name, source.len());
            let hidden = self.t5.encode(&source).unwrap();
            assert_close(&hidden.hidden[..hidden.d_model], &case["encoder_first_row"], &what("encoder"));
            let last = hidden.hidden.len() - hidden.d_model;
            assert_close(&hidden.hidden[last..], &case["encoder_last_row"], &what("encoder"));
            let labels = ids(&case["labels"]);
            let score = self.t5.score(&source, &labels).unwrap();
            assert_close(&[score.loss], &Value::from(vec![case["loss"].clone()]), &what("loss"));
            let logits = self.t5.logits(&source, &labels).unwrap();
            assert_close(&logits.values[..logits.vocab_size], &case["first_step_logits"], &what("first logits"));
            let last = logits.values.len() - logits.vocab_size;
            assert_close(&logits.values[last..], &case["last_step_logits"], &what("last logits"));

            self.greedy(case, "greedy_24", &plain);
            self.greedy(case, "greedy_24_no_eos", &Generate { min_new_tokens: Some(24), ..plain.clone() });
            let penalised = Generate { repetition_penalty: Some(1.3), no_repeat_ngram_size: Some(3), ..plain.clone() };
            self.greedy(case, "greedy_24_rep1.3_ngram3", &penalised);
            for key in case.as_object().unwrap().keys().filter(|key| key.starts_with("beam")) {
                // beam4_lp0.6_early-True
                let mut parts = key.split('_');
                let mut number = |prefix: &str| parts.next().unwrap().strip_prefix(prefix).unwrap().to_owned();
                let (beams, penalty, early) = (number("beam"), number("lp"), number("early-"));
                let early = match early.as_str() {
                    "never" => Value::from("never"),
                    early => Value::from(early == "True"),
                };
                let options = Generate {
                    max_new_tokens: Some(16),
                    num_beams: Some(beams.parse().unwrap()),
                    length_penalty: Some(penalty.parse().unwrap()),
                    early_stopping: Some(early.try_into().unwrap()),
                    num_return_sequences: Some(2),
                    ..Generate::default()
                };
                self.sequences(case, &case[key], &options, &self.eos, key);
            }
        }
        let sources: Vec<Vec<u32>> = cases.iter().take(5).map(|case| ids(&case["input_ids"])).collect();
        let batch: Vec<_> = sources.iter().map(Into::into).collect();
        let answers = self.t5.generate_batch(&batch, &plain).unwrap();
        for (answer, expected) in answers.iter().zip(file["batch_of_first_five_greedy_24"].as_array().unwrap()) {
            assert_eq!(answer.sequences[0].ids, cut(expected, &self.eos), "{} batch", self.name);
        }
    }

    fn encoder(&self, case: &Value) {
        let encoding = self.t5.encode(&ids(&case["input_ids"])).unwrap();
        let sum: f32 = encoding.hidden.iter().map(|x| x.abs()).sum();
        assert_close(&[sum], &Value::from(vec![case["encoder_last_hidden_state_sum_abs"].clone()]), "sum");
        assert_close(&encoding.hidden[..encoding.d_model], &case["encoder_first_row"], "encoder");
        let last = encoding.hidden.len() - encoding.d_model;
        assert_close(&encoding.hidden[last..], &case["encoder_last_row"], "encoder");
        assert_close(&encoding.mean(), &case["mean_pooled"], "mean");
    }

    fn classify(&self, case: &Value) {
        match self.t5.classify(&ids(&case["input_ids"])).unwrap() {
            Classification::Sequence { logits, label, .. } => {
                assert_close(&logits, &case["logits"], "logits");
                assert!(label.starts_with("LABEL_"));
            }
            Classification::Tokens { logits, labels, .. } => {
                assert_eq!((logits.len(), labels.len()), (ids(&case["input_ids"]).len(), logits.len()));
                assert_close(&logits.concat(), &case["logits"], "logits");
            }
            Classification::Answer { start_logits, end_logits, .. } => {
                assert_close(&start_logits, &case["start_logits"], "start");
                assert_close(&end_logits, &case["end_logits"], "end");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// `generate with --max-new-tokens 12 --num-beams 2`, or with no options.
fn options_of(what: &str) -> Generate {
    let mut options = Generate::default();
    let mut words = what.split_whitespace().skip_while(|word| !word.starts_with("--"));
    while let Some(name) = words.next().filter(|word| word.starts_with("--")) {
        let value = words.next().unwrap();
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        options.set(&name[2..].replace('-', "_"), &value).unwrap();
    }
    options
}

fn folder(path: &Path) {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let t5 = T5::open(path).unwrap_or_else(|e| panic!("{e}"));
    let eos = t5.config().eos_token_id.clone();
    let golden = Golden { t5, eos, name };
    let file = json(&path.join("cases.json"));
    let cases = file["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    match file["kind"].as_str().unwrap() {
        "generate" => golden.generate(&file),
        "encoder" => cases.iter().for_each(|case| golden.encoder(case)),
        "sequence" | "token" | "qa" => cases.iter().for_each(|case| golden.classify(case)),
        "defaults" => {
            let options = options_of(file["what"].as_str().unwrap());
            for case in cases {
                golden.sequences(case, &case["sequences"], &options, &golden.eos, "defaults");
            }
        }
        kind => panic!("{}: unknown kind {kind}", golden.name),
    }
}

fn folders(of: &str) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(data(of)).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|path| path.join("cases.json").is_file());
    all.sort();
    all
}

/// Every folder, then the names of those that failed: one broken variant does not hide another.
fn each_folder(of: &str) {
    let all = folders(of);
    assert!(all.len() > 20, "{} folders in {of}", all.len());
    let fails = |path: &&PathBuf| std::panic::catch_unwind(|| folder(path)).is_err();
    let failed: Vec<_> = all.iter().filter(fails).map(|path| path.file_name().unwrap()).collect();
    assert!(failed.is_empty(), "failed: {failed:?} of {}", all.len());
}

#[test]
fn golden_checkpoints_of_every_variant() {
    each_folder("goldens");
}

#[test]
fn golden_checkpoints_of_our_own() {
    each_folder("cases");
}

/// Option sets, given by the caller and as generation_config.json.
fn option_sets(path: &Path) -> usize {
    let t5 = T5::open(path).unwrap();
    let file = json(&path.join("options.json"));
    let sets = file["options"].as_array().unwrap();
    for set in sets {
        let config = set["generation_config"].as_object().unwrap();
        let mut options = Generate::default();
        for (key, value) in config {
            options.set(key, value).unwrap();
        }
        let eos = options.eos_token_id.as_ref().map_or(t5.config().eos_token_id.clone(), |ids| ids.as_slice().to_vec());
        let given = Golden { t5: t5.clone(), eos: eos.clone(), name: format!("given {config:?}") };
        let beside = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(path.join(file), beside.path().join(file)).unwrap();
        }
        std::fs::write(beside.path().join("generation_config.json"), serde_json::to_vec(config).unwrap()).unwrap();
        let t5 = T5::open(beside.path()).unwrap();
        let found = Golden { t5, eos: eos.clone(), name: format!("beside {config:?}") };
        for case in set["cases"].as_array().unwrap() {
            given.sequences(case, &case["sequences"], &options, &eos, "given");
            found.sequences(case, &case["sequences"], &Generate::default(), &eos, "beside");
        }
    }
    sets.len()
}

#[test]
fn golden_option_sets() {
    assert_eq!(option_sets(&data("goldens-options")), 33);
    for path in folders("cases").iter().filter(|path| path.join("options.json").is_file()) {
        assert!(option_sets(path) > 0);
    }
}
