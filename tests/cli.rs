//! The command line's promises, through the binary.

use assert_cmd::Command;
use serde_json::Value;
use std::path::PathBuf;

fn tiny_t5(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tiny-t5"));
    command.args(args).env_remove("TINY_T5_ISA");
    command
}

fn data(name: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(name).display().to_string()
}

/// Standard output of a run that succeeds.
#[track_caller]
fn answer(args: &[&str]) -> String {
    let output = tiny_t5(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn lines(args: &[&str]) -> Vec<Value> {
    answer(args).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Exit code and the one error line of a run that fails.
#[track_caller]
fn failure(mut command: Command) -> (i32, String) {
    let output = command.output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    let error: Vec<&str> = errors.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(error.len(), 1, "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    (output.status.code().unwrap(), error[0].to_owned())
}

#[track_caller]
fn fails(args: &[&str], code: i32, parts: &[&str]) {
    let (found, error) = failure(tiny_t5(args));
    assert_eq!(found, code, "{error}");
    assert!(parts.iter().all(|part| error.contains(part)), "{error:?} does not name {parts:?}");
}

#[test]
fn cli_text_alone_is_generate() {
    assert_eq!(answer(&["photosynthesis"]), "ˌfoʊtoʊˈsɪnθəsəs\n");
    assert_eq!(answer(&["generate", "photosynthesis"]), "ˌfoʊtoʊˈsɪnθəsəs\n");
    assert_eq!(answer(&["hello", "world"]), answer(&["hello"]) + &answer(&["world"]));
    // Behind `--` a command is a text.
    assert_eq!(answer(&["--", "score"]).lines().count(), 1);
}

#[test]
fn cli_generate_json_has_the_promised_keys_in_order() {
    let v4 = data("goldens/v1_0-relu-tied");
    let all =
        lines(&["--model", &v4, "--json", "--input-ids", "5,8,1", "--input-ids", "7,9,3,4,1", "--max-new-tokens", "6"]);
    assert_eq!(all.len(), 2);
    assert_eq!(all[0]["input_ids"], serde_json::json!([5, 8, 1]));
    assert_eq!(all[1]["input_ids"], serde_json::json!([7, 9, 3, 4, 1]));
    for line in &all {
        let sequence = &line["sequences"][0];
        assert!(sequence["text"].is_null(), "no tokenizer, no text");
        assert!(sequence.get("score").is_none(), "greedy has no score");
        assert!(["eos", "length"].contains(&sequence["finish"].as_str().unwrap()));
        for key in ["load_ms", "encode_ms", "decode_ms"] {
            assert!(line["timings"][key].is_number());
        }
        assert_eq!(line["timings"]["new_tokens"], sequence["ids"].as_array().unwrap().len());
        let ids = &line["input_ids"].to_string().replace(['[', ']'], "");
        let alone = lines(&["--model", &v4, "--json", "--input-ids", ids, "--max-new-tokens", "6"]);
        assert_eq!(alone[0]["sequences"], line["sequences"], "a batch is the same as each alone");
    }
}

#[test]
fn cli_generate_beams_have_scores_that_parse_back() {
    let all = lines(&["--json", "--num-beams", "4", "--num-return-sequences", "4", "haymarket"]);
    let sequences = all[0]["sequences"].as_array().unwrap();
    assert_eq!(sequences.len(), 4);
    let t5 = tiny_t5::T5::embedded(&tiny_t5::Load::default()).unwrap();
    let options =
        tiny_t5::Generate { num_beams: Some(4), num_return_sequences: Some(4), ..tiny_t5::Generate::default() };
    let generated = t5.generate("haymarket", &options).unwrap();
    for (json, sequence) in sequences.iter().zip(&generated.sequences) {
        let score: f32 = json["score"].to_string().parse().unwrap();
        assert_eq!(score.to_bits(), sequence.score.unwrap().to_bits());
        assert_eq!(json["text"], *sequence.text.as_ref().unwrap());
    }
}

#[test]
fn cli_generate_options_have_transformers_names() {
    let golden = data("goldens-options");
    let file: Value =
        serde_json::from_str(&std::fs::read_to_string(format!("{golden}/options.json")).unwrap()).unwrap();
    for set in file["options"].as_array().unwrap().iter().step_by(4) {
        let mut args = vec!["--model".to_owned(), golden.clone(), "--json".into()];
        for (key, value) in set["generation_config"].as_object().unwrap() {
            args.extend([format!("--{}", key.replace('_', "-")), value.to_string()]);
        }
        let case = &set["cases"][1];
        args.extend(["--input-ids".into(), case["input_ids"].to_string().replace(['[', ']'], "")]);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let got = &lines(&args)[0]["sequences"];
        for (got, expected) in got.as_array().unwrap().iter().zip(case["sequences"].as_array().unwrap()) {
            let (got, expected) = (got["ids"].as_array().unwrap(), expected["ids"].as_array().unwrap());
            assert_eq!(got[..], expected[1..=got.len()], "{args:?}");
        }
    }
}

#[test]
fn cli_generate_reads_lines_in_order() {
    let words = "photosynthesis\nhello world\n\na\n";
    let one_by_one: String = ["photosynthesis", "hello world", "", "a"].iter().map(|w| answer(&["--", w])).collect();
    let output = tiny_t5(&["generate"]).write_stdin(words).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), one_by_one);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), words.replace('\n', "\r\n")).unwrap();
    assert_eq!(answer(&["--file", &file.path().display().to_string()]), one_by_one);
}

#[test]
fn cli_generate_many_lines_keep_their_order() {
    let words: Vec<String> = (0..600).map(|i| format!("word {}", "x".repeat(i % 7 + 1))).collect();
    let output = tiny_t5(&["--max-new-tokens", "4"]).write_stdin(words.join("\n")).output().unwrap();
    let answers = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<&str> = answers.lines().collect();
    assert_eq!(answers.len(), 600);
    assert!((7..600).all(|i| answers[i] == answers[i - 7]));
}

#[test]
fn cli_generate_stream_prints_the_same_text() {
    assert_eq!(answer(&["--stream", "photosynthesis"]), answer(&["photosynthesis"]));
    assert_eq!(
        answer(&["--stream", "--num-beams", "3", "hello", "world"]),
        answer(&["--num-beams", "3", "hello", "world"])
    );
}

#[test]
fn cli_generate_samples_by_seed() {
    let sampled =
        |seed: &str| answer(&["--do-sample", "--temperature", "1.8", "--seed", seed, "My phone number is 42."]);
    assert_eq!(sampled("5"), sampled("5"));
    assert_ne!(sampled("5"), sampled("6"));
}

#[test]
fn cli_notes_say_what_cut_the_text_and_what_was_unknown() {
    let folder = data("goldens/v1_0-relu-tied");
    let output = tiny_t5(&["--model", &folder, "--input-ids", "58,1"]).output().unwrap();
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(notes.contains("--max-new-tokens"), "{notes}");
    let output = tiny_t5(&["☃"]).output().unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("unknown"));
}

#[test]
fn cli_score_gives_loss_and_logprobs() {
    let line = &lines(&["score", "--json", "--target", "ˈeɪ", "a"])[0];
    let logprobs: Vec<f32> = serde_json::from_value(line["token_logprobs"].clone()).unwrap();
    let loss: f32 = serde_json::from_value(line["loss"].clone()).unwrap();
    assert!((loss + logprobs.iter().sum::<f32>() / logprobs.len() as f32).abs() < 1e-6);
    let ids = &lines(&["score", "--json", "--target-ids", "51,29,61,1", "--input-ids", "25,1"])[0];
    assert_eq!(ids["token_logprobs"].as_array().unwrap().len(), 4);
}

#[test]
fn cli_encode_gives_hidden_states_or_a_vector() {
    let hidden = &lines(&["encode", "--json", "hello"])[0]["hidden"];
    assert_eq!((hidden.as_array().unwrap().len(), hidden[0].as_array().unwrap().len()), (6, 192));
    let vector = &lines(&["encode", "--json", "--pool", "mean", "--normalize", "hello"])[0]["embedding"];
    let vector: Vec<f64> = serde_json::from_value(vector.clone()).unwrap();
    assert!((vector.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-5);
}

#[test]
fn cli_classify_gives_logits_and_labels() {
    let of = |name: &str| lines(&["classify", "--json", "--model", &data(name), "--input-ids", "5,8,1"]).remove(0);
    assert!(of("goldens/sequence-classification")["label"].as_str().unwrap().starts_with("LABEL_"));
    assert_eq!(of("goldens/token-classification")["labels"].as_array().unwrap().len(), 3);
    assert_eq!(of("goldens/question-answering")["start_logits"].as_array().unwrap().len(), 3);
}

#[test]
fn cli_info_json_says_isa_and_parameters() {
    let info = &lines(&["info", "--json"])[0];
    assert_eq!(info["parameters"]["total"], 3_856_512);
    assert!(["avx512", "avx2", "portable"].contains(&info["isa"].as_str().unwrap()));
    let mut forced = tiny_t5(&["info", "--json"]);
    let output = forced.env("TINY_T5_ISA", "portable").output().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["isa"], "portable");
}

#[test]
fn cli_bench_speaks_the_protocol() {
    let folder = data("goldens/v1_0-relu-tied");
    let work = tempfile::NamedTempFile::new().unwrap();
    let path = work.path().display().to_string();
    let write = |new_tokens: usize, beams: usize| {
        let text = format!(
            r#"{{"input_ids": [[5, 8, 1], [7, 1]], "new_tokens": {new_tokens}, "beams": {beams}, "eos_id": 1, "start_id": 0, "suppress_eos": true}}"#
        );
        std::fs::write(work.path(), text).unwrap();
    };
    let bench = ["bench", "--model", &folder, "--workload", &path, "--threads", "1", "--repeats", "3", "--warmup", "1"];
    write(9, 1);
    let line = lines(&[&bench[..], &["--variant", "fp32"]].concat()).remove(0);
    assert_eq!((&line["peer"], &line["variant"]), (&Value::from("tiny-t5"), &Value::from("fp32")));
    assert_eq!(line["total_ms"].as_array().unwrap().len(), 3);
    assert!(line["ids"].as_array().unwrap().iter().all(|ids| ids.as_array().unwrap().len() == 9));
    assert!(line["breakdown_ms"]["layers"].is_number());
    write(5, 3);
    let shot = lines(&[&bench[..5], &["--one-shot"]].concat()).remove(0);
    assert_eq!(shot["ids"][1].as_array().unwrap().len(), 5);
    write(0, 1);
    assert!(lines(&bench)[0]["ids"].is_null());
}

#[test]
fn cli_usage_errors_exit_2() {
    fails(&["--num-beams", "many", "a"], 2, &["--num-beams", "many"]);
    fails(&["--threads", "0", "a"], 2, &["--threads"]);
    fails(&["--no-such-option", "a"], 2, &["--no-such-option"]);
    fails(&["--num-return-sequences", "4", "--num-beams", "2", "a"], 2, &["--num-return-sequences", "4", "2"]);
    fails(&["--input-ids", "5,x", "a"], 2, &["--input-ids"]);
    fails(&["--dtype", "f8", "a"], 2, &["--dtype"]);
}

#[test]
fn cli_other_errors_exit_1_with_one_line() {
    fails(&["--input-ids", ""], 1, &["empty"]);
    fails(&["--input-ids", "5,96,1"], 1, &["96"]);
    fails(&["--model", "no/such/folder", "a"], 1, &["no/such/folder"]);
    fails(&["--max-source-tokens", "3", "hello"], 1, &["at most 3"]);
    fails(&["--file", "no such file"], 1, &["no such file"]);
    let mut command = tiny_t5(&["a"]);
    command.env("TINY_T5_ISA", "mmx");
    let (code, error) = failure(command);
    assert!(code == 1 && error.contains("mmx") && error.contains("portable"), "{error}");
}

#[test]
fn cli_model_looks_into_the_hubs_cache() {
    let cache = tempfile::tempdir().unwrap();
    let repo = cache.path().join("models--somebody--tiny");
    let snapshot = repo.join("snapshots/0123abc");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(repo.join("refs")).unwrap();
    std::fs::write(repo.join("refs/main"), "0123abc").unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(format!("{}/{file}", data("goldens/v1_0-relu-tied")), snapshot.join(file)).unwrap();
    }
    let mut command = tiny_t5(&["--model", "somebody/tiny", "--input-ids", "5,1"]);
    assert!(command.env("HF_HUB_CACHE", cache.path()).output().unwrap().status.success());
    let mut command = tiny_t5(&["--model", "somebody/else", "--input-ids", "5,1"]);
    command.env("HF_HUB_CACHE", cache.path());
    let (code, error) = failure(command);
    let cache = cache.path().display().to_string();
    assert!(code == 1 && error.contains("somebody/else") && error.contains(&cache), "{error}");
}
