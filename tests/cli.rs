//! The command line's promises, through the binary.

mod common;

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

/// Lines are numbered through, however many of them come at a time, and whether their answers are streamed.
#[test]
fn cli_generate_samples_do_not_depend_on_how_lines_come() {
    use std::io::{BufRead, BufReader, Write};
    const ARGS: [&str; 4] = ["--do-sample", "--temperature=2.0", "--seed=9", "--threads=1"];
    let words: Vec<&str> = ["a b c", "hello", "rhythm"].into_iter().cycle().take(300).collect();
    let all = tiny_t5(&ARGS).write_stdin(words.join("\n")).output().unwrap();
    let all = String::from_utf8(all.stdout).unwrap();
    let all: Vec<&str> = all.lines().collect();
    assert_eq!(all.len(), 300);
    assert!((3..300).any(|i| all[i] != all[i - 3]), "the same text has another sample elsewhere");
    let few = &words[..5];
    assert_eq!(answer(&[&ARGS[..], few].concat()).lines().collect::<Vec<_>>(), all[..5], "as arguments");
    assert_eq!(answer(&[&ARGS[..], &["--stream"], few].concat()).lines().collect::<Vec<_>>(), all[..5], "streamed");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_tiny-t5"))
        .args(ARGS)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut stdout = BufReader::new(stdout);
    for (word, expected) in few.iter().zip(&all) {
        writeln!(stdin, "{word}").unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), *expected, "one by one");
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
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
fn cli_bench_says_what_the_screen_left_and_null_where_there_is_none() {
    let work = tempfile::NamedTempFile::new().unwrap();
    let path = work.path().display().to_string();
    let screen = |folder: &str, beams: usize, dtype: &str| {
        let text = serde_json::json!({
            "input_ids": [[5, 8, 1], [7, 1]], "new_tokens": 4, "beams": beams, "eos_id": 1, "suppress_eos": true,
        });
        std::fs::write(work.path(), text.to_string()).unwrap();
        let args =
            ["bench", "--model", folder, "--workload", &path, "--repeats", "2", "--warmup", "0", "--dtype", dtype];
        let mut line = lines(&args).remove(0);
        assert!(keys(&line).contains(&"screen"));
        line["screen"].take()
    };
    let many_words = common::many_words();
    let many_words = many_words.write().to_str().unwrap();
    let found = screen(many_words, 1, "f32");
    assert_eq!(found["tokens"], 8, "{found}");
    let decided = found["decided"].as_u64().unwrap();
    assert!((1..=8).contains(&decided), "{found}");
    let survivors = found["survivors_per_token"].as_f64().unwrap();
    assert!((1.0..=512.0).contains(&survivors), "{found}");
    assert!(found["head_ms_per_token"].as_f64().unwrap() > 0.0, "{found}");
    // Beams need every logit, 8 bits are as narrow as the screen, and a small vocabulary has none.
    assert_eq!(screen(many_words, 3, "f32"), Value::Null);
    assert_eq!(screen(many_words, 1, "int8"), Value::Null);
    assert_eq!(screen(&data("goldens/v1_0-relu-tied"), 1, "f32"), Value::Null);
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

/// A command with the golden `name` as its model.
fn with_golden(name: &str, args: &[&str]) -> Command {
    let mut command = tiny_t5(args);
    command.args(["--model", &data(&format!("goldens/{name}"))]);
    command
}

/// The one JSON line of a run that succeeds.
#[track_caller]
fn json_of(mut command: Command) -> Value {
    let output = command.arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Exit code, standard output and standard error.
fn run(mut command: Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn read_json(path: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"))).unwrap()
}

fn cases(golden: &str) -> Vec<Value> {
    read_json(&data(&format!("goldens/{golden}/cases.json")))["cases"].as_array().unwrap().clone()
}

/// Ids as the command line has them.
fn ids_arg(ids: &Value) -> String {
    ids.to_string().replace(['[', ']'], "")
}

/// Numbers, row after row, each read from its text as an f32.
fn floats(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(values) => values.iter().flat_map(floats).collect(),
        number => vec![number.to_string().parse().unwrap()],
    }
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn cli_generate_gives_the_reference_texts_of_the_embedded_model() {
    let file = read_json(&data("g2p-ipa/cases.json"));
    let cases = file["cases"].as_array().unwrap();
    let texts: String = cases.iter().map(|case| case["text"].as_str().unwrap().to_owned() + "\n").collect();
    let output = tiny_t5(&["--file", "-", "--json"]).write_stdin(texts).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), cases.len());
    for (line, case) in text.lines().zip(cases) {
        let answer: Value = serde_json::from_str(line).unwrap();
        assert_eq!(answer["input_ids"], case["input_ids"]);
        assert_eq!(answer["sequences"][0]["ids"], case["greedy"]["ids"]);
        assert_eq!(answer["sequences"][0]["text"], case["greedy"]["text"]);
        assert_eq!(answer["sequences"][0]["finish"], "eos");
    }
}

#[test]
fn cli_generate_has_every_option_of_the_library_with_its_words() {
    // Lines are broken where the terminal ends.
    let help = answer(&["generate", "--help"]).split_whitespace().collect::<Vec<_>>().join(" ");
    for (name, doc) in tiny_t5::Generate::OPTIONS {
        let long = format!("--{}", name.replace('_', "-"));
        assert!(help.contains(&format!("{long} <")) || help.contains(&format!("{long}[=<BOOL>]")), "{name}");
        // Other options have their names of the command line.
        let word = |word: &str| match word.contains('_') {
            true => format!("--{}", word.replace('_', "-")),
            false => word.to_owned(),
        };
        let doc = doc.trim().trim_end_matches('.').split(' ').map(word).collect::<Vec<_>>().join(" ");
        assert!(help.contains(&doc), "{name}: {doc}");
    }
}

#[test]
fn cli_generate_lists_may_stand_without_brackets() {
    let input = ["--input-ids", "5,8,1", "--json"];
    let ids = |options: &[&str]| {
        let line: Value = serde_json::from_str(&answer(&[&input[..], options].concat())).unwrap();
        line["sequences"][0]["ids"].clone()
    };
    for [bare, json] in [
        ["--suppress-tokens=40,41", "--suppress-tokens=[40,41]"],
        ["--suppress-tokens=40", "--suppress-tokens=[40]"],
        ["--bad-words-ids=[40],[41,42]", "--bad-words-ids=[[40],[41,42]]"],
        ["--exponential-decay-length-penalty=2,1.5", "--exponential-decay-length-penalty=[2,1.5]"],
    ] {
        assert_eq!(ids(&[bare]), ids(&[json]), "{bare}");
    }
    // A text that is a number is a text.
    assert!(tiny_t5(&["--decoder-prefix", "5", "hello"]).output().unwrap().status.success());
}

#[test]
fn cli_generate_flags_stand_alone_or_with_a_value() {
    let plain = answer(&["hello"]);
    let alike: [&[&str]; 6] = [
        &["--remove-invalid-values"],
        &["--remove-invalid-values", "true"],
        &["--remove-invalid-values=true"],
        &["--do-sample", "false"],
        &["--do-sample=false"],
        &["--do-sample", "--top-k", "1"],
    ];
    for flag in alike {
        assert_eq!(answer(&[flag, &["hello"]].concat()), plain, "{flag:?}");
    }
}

#[test]
fn cli_generate_first_word_that_is_a_command_is_the_command() {
    assert!(answer(&["--threads", "1", "info"]).starts_with("model "), "also behind options");
    assert_eq!(answer(&["hello", "info"]), answer(&["generate", "hello", "info"]), "only the first word");
    assert_eq!(answer(&["--", "--threads"]).lines().count(), 1, "behind `--` nothing is an option");
}

#[test]
fn cli_generate_empty_text_is_its_end_token_alone() {
    assert_eq!(json_of(tiny_t5(&["generate", ""]))["input_ids"], serde_json::json!([1]));
    let mut nothing = tiny_t5(&["generate"]);
    nothing.write_stdin("");
    assert_eq!(run(nothing), (0, String::new(), String::new()), "no line, no source");
}

#[test]
fn cli_generate_answers_each_line_while_the_writer_waits() {
    use std::io::{BufRead, BufReader, Write};
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_tiny-t5"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut stdout = BufReader::new(stdout);
    for _ in 0..3 {
        writeln!(stdin, "photosynthesis").unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "ˌfoʊtoʊˈsɪnθəsəs\n");
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

/// The most memory that a process has had, in KB.
#[cfg(target_os = "linux")]
fn peak_memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Lines come as fast as they are taken, answers go as they are made: the memory of 20,000 is that of the first 1,000.
#[cfg(target_os = "linux")]
#[test]
fn cli_generate_over_a_pipe_takes_constant_memory() {
    use std::io::{BufRead, BufReader, Write};
    const LINES: usize = 20_000;
    let line = |i: usize| ["hello", "a", "one two three", "rhythm and blues"][i % 4];
    let expected: Vec<String> = (0..4).map(|i| answer(&["--max-new-tokens", "1", line(i)])).collect();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_tiny-t5"))
        .args(["--max-new-tokens", "1", "--threads", "1"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let writer = std::thread::spawn(move || {
        (0..LINES).for_each(|i| writeln!(stdin, "{}", line(i)).unwrap());
        stdin // open until the memory is read
    });
    let (mut early, mut late) = (0, 0);
    let mut stdout = BufReader::new(stdout);
    for i in 0..LINES {
        let mut text = String::new();
        stdout.read_line(&mut text).unwrap();
        assert_eq!(text, expected[i % 4], "line {i}");
        if i + 1 == 1_000 {
            early = peak_memory(child.id());
        }
        if i + 1 == LINES {
            late = peak_memory(child.id());
        }
    }
    drop(writer.join().unwrap());
    assert!(child.wait().unwrap().success());
    assert!(late <= early + 2_048, "{early} KB after 1,000 lines, {late} KB after {LINES}");
    assert!(late < 160 * 1024, "{late} KB");
}

#[test]
fn cli_generate_logprobs_stand_in_json_where_asked_for() {
    let t5 = tiny_t5::T5::embedded(&tiny_t5::Load::default()).unwrap();
    let none = &lines(&["--json", "hello"])[0]["sequences"][0];
    assert_eq!(keys(none), ["finish", "ids", "text"]);
    for more in [&["--num-beams", "1"][..], &["--num-beams", "3"], &["--do-sample", "--seed", "4"]] {
        let line = &lines(&[&["--json", "--logprobs", "hello"], more].concat())[0];
        let sequence = &line["sequences"][0];
        assert_eq!(
            keys(sequence),
            ["finish", "ids", "logprobs", "score", "text"],
            "greedy has a score too where asked for"
        );
        let ids: Vec<u32> = serde_json::from_value(sequence["ids"].clone()).unwrap();
        let score = t5.score("hello", &ids).unwrap();
        for ((token, id), logprob) in
            sequence["logprobs"].as_array().unwrap().iter().zip(&ids).zip(&score.token_logprobs)
        {
            assert_eq!(keys(token), ["id", "logprob", "token"]);
            assert_eq!(token["id"], *id);
            assert_eq!(token["token"], *t5.tokenizer().unwrap().id_to_token(*id).unwrap());
            assert_eq!(token["logprob"].to_string().parse::<f32>().unwrap().to_bits(), logprob.to_bits());
        }
    }
    let top = &lines(&["--json", "--top-logprobs", "3", "hello"])[0]["sequences"][0]["logprobs"];
    for token in top.as_array().unwrap() {
        let best = token["top_logprobs"].as_array().unwrap();
        assert_eq!((best.len(), keys(&best[0])), (3, vec!["id", "logprob", "token"]));
        assert_eq!((&best[0]["id"], &best[0]["logprob"]), (&token["id"], &token["logprob"]), "greedy takes the best");
    }
    let ids = json_of(with_golden("v1_0-relu-tied", &["--logprobs", "--input-ids", "5,8,1"]));
    assert_eq!(keys(&ids["sequences"][0]["logprobs"][0]), ["id", "logprob"], "no tokenizer, no token");
}

#[test]
fn cli_generate_choices_answer_with_one_of_them() {
    let choices = ["--choices", "ˈɹɪðəm,həˈloʊ,ˈeɪ"];
    let of = |more: &[&str]| answer(&[&choices, more].concat());
    let both = of(&["rhythm", "hello"]);
    let (text, probability): (Vec<&str>, Vec<f64>) = both
        .lines()
        .map(|line| line.split_once('\t').unwrap())
        .map(|(text, p)| (text, p.parse::<f64>().unwrap()))
        .unzip();
    assert_eq!(text, ["ˈɹɪðəm", "həˈloʊ"]);
    assert!(probability.iter().all(|p| *p > 0.9 && *p <= 1.0), "{both}");
    assert_eq!(of(&["--stream", "rhythm", "hello"]), both);
    let list = r#"["ˈɹɪðəm", "həˈloʊ", "ˈeɪ"]"#;
    assert_eq!(answer(&["--choices", list, "rhythm", "hello"]), both);
    for more in [&["--num-beams", "2"][..], &["--do-sample", "--seed", "7"], &["--min-new-tokens", "15"]] {
        let all = of(&[&["hello", "no such word"], more].concat());
        let texts: Vec<&str> = all.lines().filter_map(|line| line.split('\t').next()).collect();
        assert!(texts.iter().all(|text| ["ˈɹɪðəm", "həˈloʊ", "ˈeɪ"].contains(text)), "{all}");
    }
    let ranked = &lines(&[&choices[..], &["--json", "--num-return-sequences", "3", "hello"]].concat())[0]["sequences"];
    let sum: f64 = ranked.as_array().unwrap().iter().map(|s| s["probability"].as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-6);
    assert_eq!((&ranked[0]["choice"], &ranked[0]["text"]), (&1.into(), &"həˈloʊ".into()));
    assert_eq!(keys(&ranked[0]), ["choice", "finish", "ids", "probability", "score", "text"]);
    let ids = json_of(with_golden("v1_0-relu-tied", &["--choices", "[[5,8],[5],[7,9,3]]", "--input-ids", "5,8,1"]));
    let chosen = ids["sequences"][0]["choice"].as_u64().unwrap() as usize;
    assert_eq!(
        ids["sequences"][0]["ids"],
        [serde_json::json!([5, 8, 1]), serde_json::json!([5, 1]), serde_json::json!([7, 9, 3, 1])][chosen]
    );
    fails(&["--choices", "a,b,a", "x"], 2, &["--choices", "choice 3", "choice 1"]);
    fails(&["--choices", "a,,b", "x"], 2, &["--choices", "choice 2", "nothing"]);
    fails(&["--choices", "[1,2]", "x"], 2, &["--choices", "[1,2]", "expected texts"]);
    fails(&["--choices", "a,b", "--num-return-sequences", "3", "x"], 2, &["--num-return-sequences", "1 to 2"]);
}

#[test]
fn cli_generate_decoder_prefix_begins_every_text() {
    let text = answer(&["--decoder-prefix", "ˌfoʊ", "rhythm", "hello"]);
    assert!(text.lines().all(|line| line.starts_with("ˌfoʊ")), "{text}");
}

#[cfg(unix)]
#[test]
fn cli_generate_broken_pipe_is_success() {
    use std::io::Write;
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_tiny-t5"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    // It may be gone before it has read all.
    let _ = child.stdin.take().unwrap().write_all("hello\n".repeat(1000).as_bytes());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn cli_generate_answers_what_stands_before_a_bad_source() {
    let mut long = tiny_t5(&["--max-source-tokens", "5"]);
    long.write_stdin("one\ntwo\nphotosynthesis\nthree\n");
    let (code, out, err) = run(long);
    assert_eq!((code, out.as_str(), err.lines().count()), (1, "ˈwʌn\nˈtu\n", 1));
    assert!(err.starts_with("error: standard input, line 3: "), "{err}");

    let mut bytes = tiny_t5(&["generate"]);
    bytes.write_stdin(&b"one\ntwo\n\xff\nthree\n"[..]);
    let message = "error: standard input, line 3: found bytes that are not UTF-8\n";
    assert_eq!(run(bytes), (1, "ˈwʌn\nˈtu\n".into(), message.into()));

    let (code, out, err) = run(tiny_t5(&["--input-ids", "5,1", "--input-ids", "500,1"]));
    assert_eq!((code, out.lines().count()), (1, 1));
    assert!(err.starts_with("error: source 2: "), "{err}");
}

#[test]
fn cli_notes_are_one_line_for_all_sources() {
    let two = ["--input-ids", "1", "--input-ids", "152,1"];
    for more in [&[][..], &["--stream"]] {
        let (code, _, err) = run(with_golden("v1_0-relu-tied", &[&two, more].concat()));
        assert_eq!((code, err.lines().count()), (0, 1), "{err}");
        assert!(err.starts_with("note: 2 sequences ended at the default limit of 20 new tokens"), "{err}");
    }
    let (_, _, err) = run(with_golden("v1_0-relu-tied", &["--input-ids", "1", "--max-new-tokens", "20"]));
    assert_eq!(err, "", "a limit that was asked for is no news");
    let (code, _, err) = run(tiny_t5(&["日本", "a日", "plain"]));
    assert_eq!((code, err.lines().count()), (0, 1), "{err}");
    assert!(err.starts_with("note: 2 sources have characters"), "{err}");
    assert_eq!(run(tiny_t5(&["--input-ids", "2,1"])).2, "", "ids are what was asked for");
    let gaps = ["infill", "a <extra_id_0> walks"];
    let (_, _, err) = run(with_golden("byt5-shape", &gaps));
    assert!(err.starts_with("note: 1 sequence ended at the default limit of 20 new tokens"), "{err}");
    assert_eq!(run(with_golden("byt5-shape", &[&gaps[..], &["--max-new-tokens", "20"]].concat())).2, "");
}

#[test]
fn cli_usage_errors_name_option_and_value() {
    let table: [(&[&str], &[&str]); 11] = [
        (&["--threads", "-1", "a"], &["--threads", "-1", "at least 1"]),
        (&["--early-stopping", "sometimes", "a"], &["--early-stopping", "sometimes", "never"]),
        (&["--bad-words-ids", "[[5],[7", "a"], &["--bad-words-ids", "[[5],[7"]),
        (&["--repetition-penalty", "-1", "a"], &["--repetition-penalty", "-1"]),
        (&["--suppress-tokens", "[96]", "a"], &["--suppress-tokens", "96"]),
        (&["--input-ids", "5,99999999999"], &["--input-ids", "99999999999"]),
        (&["--max-source-tokens", "0", "a"], &["--max-source-tokens", "0"]),
        (&["--numbeams", "3", "a"], &["--numbeams"]),
        (&["encode", "--pool", "max", "a"], &["--pool", "max", "mean"]),
        (&["info", "--source", "-1"], &["--source", "-1"]),
        (&["bench"], &["--workload"]),
    ];
    for (args, words) in table {
        fails(args, 2, words);
        assert_eq!(run(tiny_t5(args)).2.lines().count(), 1, "{args:?}");
    }
}

/// A copy of a golden with one of its files changed.
fn changed(golden: &str, file: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(data(&format!("goldens/{golden}"))).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = copy.path().join(file);
    std::fs::write(&path, change(std::fs::read(&path).unwrap_or_default())).unwrap();
    copy
}

#[test]
fn cli_model_bad_checkpoints_are_one_line() {
    let fails = |folder: tempfile::TempDir, parts: &[&str]| {
        let begun = std::time::Instant::now();
        let path = folder.path().display().to_string();
        let (code, out, err) = run(tiny_t5(&["--model", &path, "--input-ids", "5,1"]));
        assert_eq!((code, out.as_str(), err.lines().count()), (1, "", 1), "{err}");
        assert!(err.starts_with("error: ") && parts.iter().all(|part| err.contains(part)), "{err} lacks {parts:?}");
        assert!(begun.elapsed().as_secs() < 5);
    };
    let half = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
    let relu = "v1_0-relu-tied";
    fails(changed(relu, "model.safetensors", half), &["model.safetensors"]);
    fails(changed(relu, "model.safetensors", |_| vec![0xff; 16]), &["model.safetensors"]);
    fails(changed(relu, "model.safetensors", |_| Vec::new()), &["model.safetensors"]);
    fails(changed("pytorch-bin", "pytorch_model.bin", half), &["pytorch_model.bin"]);
    fails(changed(relu, "config.json", half), &["config.json"]);
    let with = |key: &'static str, value: Value| {
        move |bytes: Vec<u8>| {
            let mut config: Value = serde_json::from_slice(&bytes).unwrap();
            config[key] = value;
            config.to_string().into_bytes()
        }
    };
    for (key, value) in [
        ("d_model", Value::from(4_000_000_000_u64)),
        ("num_layers", Value::from(-1)),
        ("num_heads", Value::from("four")),
        ("vocab_size", Value::from(1e300)),
    ] {
        fails(changed(relu, "config.json", with(key, value)), &["config.json", key]);
    }
    let narrow = changed(relu, "config.json", with("d_ff", Value::from(64)));
    fails(narrow, &["model.safetensors", "DenseReluDense", "128", "64"]);
    let shallow = changed(relu, "config.json", with("num_layers", Value::from(1)));
    fails(shallow, &["encoder.block.1", "num_layers"]);
    let options = |_| br#"{"num_beams": "many"}"#.to_vec();
    fails(changed(relu, "generation_config.json", options), &["generation_config.json", "num_beams", "many"]);
}

#[test]
fn cli_score_floats_parse_back_to_the_same_f32() {
    let t5 = tiny_t5::T5::open(data("goldens/v1_0-relu-tied")).unwrap();
    for case in &cases("v1_0-relu-tied")[..4] {
        let [source, target] = ["input_ids", "labels"].map(|key| ids_arg(&case[key]));
        let args = ["score", "--input-ids", &source, "--target-ids", &target];
        let line = json_of(with_golden("v1_0-relu-tied", &args));
        assert_eq!(keys(&line), ["loss", "token_logprobs"]);
        let ids = |key: &str| serde_json::from_value::<Vec<u32>>(case[key].clone()).unwrap();
        let score = t5.score(&ids("input_ids"), &ids("labels")).unwrap();
        assert_eq!(floats(&line["loss"])[0].to_bits(), score.loss.to_bits());
        assert_eq!(floats(&line["token_logprobs"]), score.token_logprobs);
        assert_eq!(run(with_golden("v1_0-relu-tied", &args)).1, format!("{}\n", score.loss));
    }
}

#[test]
fn cli_score_takes_one_target_or_one_for_each_source() {
    let one = |source: &str, target: &str| answer(&["score", source, "--target", target]);
    assert_eq!(answer(&["score", "a", "b", "--target", "ə"]), one("a", "ə") + &one("b", "ə"));
    assert_eq!(answer(&["score", "a", "b", "--target", "ə", "--target", "ɪ"]), one("a", "ə") + &one("b", "ɪ"));
    fails(&["score", "a", "--target", "b", "--target", "c"], 2, &["2 targets", "1 source"]);
    fails(&["score", "a"], 2, &["--target"]);
    fails(&["score", "a", "--target-ids", ""], 1, &["target", "empty"]);
}

#[test]
fn cli_encode_prints_the_librarys_bits() {
    let t5 = tiny_t5::T5::open(data("goldens/encoder-only")).unwrap();
    let encoding = t5.encode(&[5u32, 6, 1]).unwrap();
    let of = |pool: &str| json_of(with_golden("encoder-only", &["encode", "--input-ids", "5,6,1", "--pool", pool]));
    let (hidden, mean) = (of("none"), of("mean"));
    assert_eq!((keys(&hidden), keys(&mean)), (vec!["hidden"], vec!["embedding"]));
    assert_eq!(hidden["hidden"].as_array().unwrap().len(), 3, "a row a position");
    assert_eq!(floats(&hidden["hidden"]), encoding.hidden);
    assert_eq!(floats(&mean["embedding"]), encoding.mean());
    // A folder without modules.json: the mean.
    assert_eq!(floats(&of("sentence")["embedding"]), t5.embed(&[5u32, 6, 1]).unwrap());
}

#[test]
fn cli_classify_gives_the_references_logits() {
    for (golden, logits, expected) in [
        ("sequence-classification", "logits", ["label", "logits"]),
        ("token-classification", "logits", ["labels", "logits"]),
        ("question-answering", "start_logits", ["end_logits", "start_logits"]),
    ] {
        let case = &cases(golden)[1];
        let line = json_of(with_golden(golden, &["classify", "--input-ids", &ids_arg(&case["input_ids"])]));
        assert_eq!(keys(&line), expected);
        let (found, reference) = (floats(&line[logits]), floats(&case[logits]));
        assert_eq!(found.len(), reference.len());
        assert!(found.iter().zip(&reference).all(|(x, y)| (x - y).abs() < 1e-3), "{golden}");
    }
    fails(&["classify", "a"], 1, &["classify", "ConditionalGeneration"]);
}

#[test]
fn cli_infill_puts_spans_in_place_of_sentinels() {
    // Bytes, with sentinels behind them; the weights are random, so the spans are what the library finds.
    let text = "a <extra_id_0> walks in <extra_id_1> park";
    let line = json_of(with_golden("byt5-shape", &["infill", "--max-new-tokens", "12", text]));
    let options = tiny_t5::Generate { max_new_tokens: Some(12), ..tiny_t5::Generate::default() };
    let filled = tiny_t5::T5::open(data("goldens/byt5-shape")).unwrap().infill(text, &options).unwrap();
    assert_eq!(
        line,
        serde_json::json!({"text": filled.text, "spans": filled.spans, "ids": filled.ids, "finish": "length"})
    );
    assert_eq!(line["spans"].as_array().unwrap().len(), 2);
    let bytes = data("goldens/byt5-shape");
    fails(&["infill", "--model", &bytes, "nothing"], 1, &["source", "no gap"]);
    fails(&["infill", "--model", &bytes, "--input-ids", "5,1"], 2, &["--input-ids"]);
}

/// Numbers in the tensors of a safetensors file.
fn numbers(path: &std::path::Path) -> u64 {
    let bytes = std::fs::read(path).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
    let tensors = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    let size = |shape: &Value| shape.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product::<u64>();
    tensors.map(|(_, tensor)| size(&tensor["shape"])).sum()
}

#[test]
fn cli_info_parameters_equal_the_tensors() {
    let mut counted = 0;
    for entry in std::fs::read_dir(data("goldens")).unwrap() {
        let folder = entry.unwrap().path();
        let file = folder.join("model.safetensors");
        if !file.exists() {
            continue;
        }
        let info = json_of(tiny_t5(&["info", "--model", &folder.display().to_string()]));
        let p = &info["parameters"];
        assert_eq!(p["total"], numbers(&file), "{}", folder.display());
        let part = |part: &str| p[part].as_u64().unwrap();
        assert_eq!(part("total"), part("embedding") + part("encoder") + part("decoder") + part("head"));
        assert_eq!(info["bytes"]["f32"], part("total") * 4);
        assert_eq!(info["bytes"]["on_disk"], file.metadata().unwrap().len());
        counted += 1;
    }
    assert!(counted > 15, "{counted}");
}

#[test]
fn cli_info_tells_variant_tokenizer_and_what_was_ignored() {
    let info = |golden: &str| json_of(with_golden(golden, &["info"]));
    for (golden, variant, gated, activation) in [
        ("v1_0-relu-tied", "t5", false, "relu"),
        ("v1_1-gated-gelu-untied", "t5", true, "gelu_new"),
        ("gated-silu", "t5", true, "silu"),
        ("mt5", "mt5", true, "gelu_new"),
        ("umt5-bias-in-every-layer", "umt5", true, "gelu_new"),
        ("byt5-shape", "byt5", true, "gelu_new"),
    ] {
        let info = info(golden);
        let found = (&info["variant"], &info["gated"], &info["activation"]);
        assert_eq!(found, (&variant.into(), &gated.into(), &activation.into()), "{golden}");
        let tokenizer = if variant == "byt5" { "bytes".into() } else { Value::Null };
        assert_eq!(info["tokenizer"], tokenizer, "{golden}");
    }
    let spurious = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";
    assert_eq!(info("hub-like-bin")["tensors_ignored"], serde_json::json!([spurious]));
    assert_eq!(info("encoder-only")["parameters"]["decoder"], 0);
    let table = answer(&["info"]);
    assert!(table.contains("\nparameters       3,856,512\n"), "{table}");
}

#[test]
fn cli_info_counts_flops_for_the_lengths_given() {
    let flops = |source, target| json_of(tiny_t5(&["info", "--source", source, "--target", target]))["flops"].clone();
    // 6 layers, d_model 192, 192 wide attention, d_ff 768: 2 FLOPs a weight, and one pair of positions.
    assert_eq!(flops("1", "1")["encoder"], 2 * 6 * (4 * 192 * 192 + 2 * 192 * 768 + 2 * 192));
    let more = flops("100", "50");
    assert_eq!(more["head"], 50 * 2 * 96 * 192);
    assert_eq!((&more["source"], &more["target"]), (&100.into(), &50.into()));
}

#[test]
fn cli_info_names_every_instruction_set_of_this_machine() {
    let (available, missing) = (tiny_t5::T5::available_isas(), tiny_t5::T5::missing_isas());
    for isa in &available {
        let mut command = tiny_t5(&["info"]);
        command.env("TINY_T5_ISA", isa);
        let info = json_of(command);
        assert_eq!(info["isa"], *isa);
        assert_eq!(
            (&info["isas"], &info["isas_missing"]),
            (&serde_json::json!(available), &serde_json::json!(missing))
        );
        let best = available[0] == *isa && missing.is_empty();
        assert_eq!(info["why_not_better"].is_null(), best);
        let mut command = tiny_t5(&["photosynthesis"]);
        command.env("TINY_T5_ISA", isa);
        assert_eq!(run(command).1, "ˌfoʊtoʊˈsɪnθəsəs\n", "{isa}");
    }
    for isa in &missing {
        let mut command = tiny_t5(&["info"]);
        command.env("TINY_T5_ISA", isa);
        let (code, error) = failure(command);
        assert!(code == 1 && error.contains(isa) && error.contains("portable"), "{error}");
        println!("not run, this processor lacks it: {isa}");
    }
}

#[test]
fn cli_bench_gives_transformers_ids_with_the_end_token_suppressed() {
    let cases = &cases("v1_0-relu-tied")[..4];
    let rows: Vec<&Value> = cases.iter().map(|case| &case["input_ids"]).collect();
    let expected: Vec<&[Value]> = cases.iter().map(|case| &case["greedy_24_no_eos"].as_array().unwrap()[1..]).collect();
    let work = tempfile::NamedTempFile::new().unwrap();
    let text = serde_json::json!({
        "input_ids": rows, "new_tokens": 24, "beams": 1, "eos_id": 1, "start_id": 0, "suppress_eos": true,
    });
    std::fs::write(work.path(), text.to_string()).unwrap();
    let path = work.path().display().to_string();
    let line =
        json_of(with_golden("v1_0-relu-tied", &["bench", "--workload", &path, "--repeats", "2", "--warmup", "0"]));
    assert_eq!(line["ids"], serde_json::json!(expected));
    assert_eq!(line["version"], env!("CARGO_PKG_VERSION"));
    let first = |key: &str| line[key][0].as_f64().unwrap();
    assert!(0.0 < first("encode_ms") && first("encode_ms") < first("total_ms"));
    assert!(line["load_ms"].as_f64().unwrap() > 0.0);
    assert!(cfg!(not(target_os = "linux")) || line["peak_rss_kb"].as_u64().unwrap() > 1000);

    for (text, parts) in [
        (r#"{"input_ids": []}"#, ["--workload", "new_tokens"]),
        (r#"{"input_ids": [], "new_tokens": 1}"#, ["--workload", "input_ids"]),
        (r#"{"input_ids": [[500]], "new_tokens": 1}"#, ["source", "500"]),
    ] {
        std::fs::write(work.path(), text).unwrap();
        fails(&["bench", "--workload", &path], 1, &parts);
    }
}

#[test]
fn cli_help_names_every_command() {
    assert_eq!(answer(&["--version"]), format!("tiny-t5 {}\n", env!("CARGO_PKG_VERSION")));
    let help = answer(&["--help"]);
    for name in ["generate", "score", "encode", "classify", "infill", "info", "bench"] {
        assert!(help.contains(&format!("  {name} ")), "{name}");
        assert!(answer(&[name, "--help"]).contains("--threads"), "{name}");
    }
}

/// Whatever the environment asks for; terminals are in `terminal.rs`.
#[test]
fn cli_prints_no_colours_into_pipes() {
    for variables in [[("NO_COLOR", "1"), ("TERM", "xterm")], [("CLICOLOR_FORCE", "1"), ("FORCE_COLOR", "1")]] {
        for args in [&["--help"][..], &["generate", "--help"], &["--no-such-option", "a"], &["hello"]] {
            let output = tiny_t5(args).envs(variables).output().unwrap();
            let all = [output.stdout, output.stderr].concat();
            assert!(!all.is_empty() && !all.contains(&0x1b), "{args:?}");
        }
    }
}

/// A line of a shell as words, without its comment; "quotes" keep blanks.
fn words(line: &str) -> Vec<String> {
    let line = line.split(" # ").next().unwrap();
    let quoted = line.split('"').enumerate();
    quoted
        .flat_map(|(i, part)| match i % 2 {
            1 => vec![part.to_owned()],
            _ => part.split_whitespace().map(str::to_owned).collect(),
        })
        .collect()
}

/// README shows commands as `    $ COMMAND` with their output below: it is that.
#[test]
fn cli_readme_shows_what_the_binary_prints() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let mut lines = readme.lines().peekable();
    let mut shown = 0;
    while let Some(line) = lines.next() {
        let Some(line) = line.strip_prefix("    $ ") else { continue };
        let line = line.strip_prefix("cargo run --release --").or(line.strip_prefix("tiny-t5"));
        let mut expected = String::new();
        while let Some(out) = lines.next_if(|line| line.starts_with("    ") && !line.starts_with("    $ ")) {
            expected += out.trim_start();
            expected.push('\n');
        }
        if let Some(line) = line {
            let args = words(line);
            assert_eq!(answer(&args.iter().map(String::as_str).collect::<Vec<_>>()), expected, "{line}");
            shown += 1;
        }
    }
    assert!(shown >= 4, "{shown} commands");
}

#[test]
fn cli_tokenizer_that_makes_its_crate_panic_is_one_error_line() {
    // The crate panics at a decoder that is neither of its kinds and holds half of a surrogate pair.
    let json = r#"{"version": "1.0", "decoder": {"type": "Sequence", "decoders": [{"type": "Strip", "content": "\ud800",
        "start": 1, "stop": 0}]}, "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#;
    let folder = changed("v1_0-relu-tied", "tokenizer.json", |_| json.into());
    let path = folder.path().display().to_string();
    let output = tiny_t5(&["--model", &path, "a"]).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), errors.lines().count()), (Some(1), 1), "{errors}");
    assert!(errors.contains("tokenizer.json"), "{errors}");
}

#[test]
fn cli_family_tells_shapes_without_weights() {
    let family = |args: &[&str]| json_of(tiny_t5(&[&["family"], args].concat()));
    let two = family(&["t5-efficient-tiny-nl32", "google/t5-large", "--source", "512", "--target", "128"]);
    let [tiny, large] = &two.as_array().unwrap()[..] else { panic!("{two}") };
    assert_eq!(tiny["name"], "t5-efficient-tiny-nl32");
    assert_eq!(
        (&tiny["parameters"]["total"], &large["parameters"]["total"]),
        (&66_986_752.into(), &737_668_096.into())
    );
    assert_eq!(
        (&tiny["shape"]["num_layers"], &tiny["card_d_kv"], &large["card_d_kv"]),
        (&32.into(), &32.into(), &Value::Null)
    );
    assert_eq!(tiny["bytes"]["16bit"], 2 * 66_986_752u64);
    assert_eq!((&large["flops"]["source"], &large["flops"]["target"]), (&512.into(), &128.into()));
    let (flops, bytes) = (&large["decoded_token"]["flops"], &large["decoded_token"]["bytes"]["int8"]);
    let intensity = flops.as_f64().unwrap() / bytes.as_f64().unwrap();
    assert_eq!(large["decoded_token"]["intensity"]["int8"], intensity);
    let (sizes, all) = (family(&[]), family(&["--all"]));
    assert!(sizes.as_array().unwrap().len() > 20 && all.as_array().unwrap().len() > 150);
}

#[test]
fn cli_family_prints_a_table_that_is_at_most_100_columns_wide() {
    for args in [
        &["family"][..],
        &["family", "--all"],
        &["family", "--source", "1048576", "--target", "1048576"],
        &["family", "--explain"],
    ] {
        let text = answer(args);
        assert!(text.lines().count() > 25, "{text}");
        text.lines().for_each(|line| assert!(line.chars().count() <= 100, "{args:?}: {line}"));
    }
    let table = answer(&["family"]);
    let tiny = table.lines().find(|line| line.starts_with("t5-efficient-tiny ")).unwrap();
    assert!(tiny.contains(" 64/32 ") && tiny.contains(" 15,570,688 "), "{tiny}");
    let one = answer(&["family", "t5-efficient-tiny"]);
    assert!(
        one.contains("\nparameters       15,570,688\n") && one.contains("\nnote             published cards of tiny"),
        "{one}"
    );
    assert!(answer(&["family", "--explain"]).contains("counted causally"));
    let explained = answer(&["family", "t5-efficient-tiny", "--explain"]);
    assert!(explained.starts_with(&one) && explained.ends_with(&answer(&["family", "--explain"])), "{explained}");
    // Known for certain, and not.
    assert!(table.contains("\numt5-base ") && table.contains("\numt5-xl?"), "{table}");
}

#[test]
fn cli_family_refuses_names_that_are_none() {
    let (code, error) = failure(tiny_t5(&["family", "t5-small", "t5-enormous"]));
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("t5-enormous") && error.contains("small, base, large, 3b, 11b"), "{error}");
    assert_eq!(failure(tiny_t5(&["family", "--all", "t5-small"])).0, 2);
    assert_eq!(failure(tiny_t5(&["family", "--source", "-1"])).0, 2);
}

/// A shape whose measurement takes a moment.
const QUICK: &str = "t5-efficient-tiny-nl1-dm64-ff64-nh1";

#[test]
fn cli_report_measures_a_shape_beside_the_machines_limits() {
    let args =
        ["report", QUICK, "--budget", "1s", "--threads", "1", "--batch", "1,3", "--source", "8", "--target", "4"];
    let report = json_of(tiny_t5(&args));
    assert_eq!(
        (&report["source"], &report["target"], &report["skipped"]),
        (&8.into(), &4.into(), &Value::Array(vec![]))
    );
    assert!(report["machine"]["processor"].is_string() && report["machine"]["load_average"].is_array());
    let [row] = &report["shapes"].as_array().unwrap()[..] else { panic!("{report}") };
    assert_eq!((&row["name"], &row["dtype"], &row["threads"]), (&QUICK.into(), &"f32".into(), &1.into()));
    assert_eq!(row["parameters"]["total"], json_of(tiny_t5(&["family", QUICK]))[0]["parameters"]["total"]);
    for key in ["encode_ms", "first_token_ms", "token_ms", "total_ms"] {
        let at = |part: &str| row[key][part].as_f64().unwrap();
        assert!(0.0 < at("low") && at("low") <= at("median") && at("median") <= at("high"), "{key}: {row}");
        assert!(row[key]["runs"].as_u64().unwrap() >= 2, "{key}: {row}");
    }
    let sizes: Vec<_> = row["batches"].as_array().unwrap().iter().map(|batch| batch["size"].clone()).collect();
    assert_eq!(sizes, [1, 3]);
    // The head reads an int8 screen of 32128 x 64, the block 4 bytes a weight.
    let limits = &row["roofline"];
    let bytes = limits["step_bytes"].as_u64().unwrap();
    assert!((32_128 * 64..32_128 * 64 * 2).contains(&bytes), "{limits}");
    for key in ["fma_peak", "read_bandwidth", "encode_share", "token_share"] {
        assert!(limits[key].as_f64().unwrap() > 0.0, "{key}: {limits}");
    }
    assert!(row["encode_ms"]["median"].as_f64() < row["total_ms"]["median"].as_f64(), "{row}");

    let csv = answer(&[&args[..], &["--csv"]].concat());
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((lines.len(), lines[0].len(), lines[1][0]), (2, lines[1].len(), QUICK));
    let table = answer(&args);
    assert!(table.lines().any(|line| line.starts_with(QUICK) && line.contains(" 2.1M ")), "{table}");
}

#[test]
fn cli_report_writes_one_page_that_loads_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("report.html");
    let out = page.display().to_string();
    answer(&[
        "report",
        QUICK,
        "t5-efficient-tiny-nl2-dm64-ff64-nh1",
        "--budget",
        "2s",
        "--source",
        "8",
        "--target",
        "4",
        "--out",
        &out,
    ]);
    let html = std::fs::read_to_string(&page).unwrap();
    for outside in ["src=", "@import", "url(", "<link rel=\"stylesheet", "fetch("] {
        assert!(!html.contains(outside), "{outside}");
    }
    // The name of SVG's elements is no address that anything is loaded from.
    let without = html.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    assert!(!without.contains("http:") && !without.contains("https:"));
    for figure in ["legend", "flops", "time", "roofline", "breakdown"] {
        let at = html.find(&format!("<figure id=\"{figure}\">")).unwrap();
        let end = at + html[at..].find("</figure>").unwrap();
        assert_eq!(html[at..end].matches("<svg ").count(), 2, "{figure}: wide and narrow");
    }
    assert_eq!(html.matches("<tr><td>tiny-nl").count(), 2, "a row a shape");
    assert!(html.contains(env!("CARGO_PKG_VERSION")) && !html.contains("NaN"));
    fails(&["report", QUICK, "--budget", "1s", "--out", "no/such/folder/report.html"], 1, &["--out no/such/folder"]);
}

#[test]
fn cli_report_leaves_out_what_has_no_room() {
    let args = ["report", QUICK, "t5-11b", "t5-efficient-tiny-skv", "--budget", "1s"];
    let report = json_of(tiny_t5(&args));
    let why = |i: usize| report["skipped"][i]["why"].as_str().unwrap().to_owned();
    assert!(why(0).contains("--memory-limit is 4000 MB"), "{report}");
    assert!(why(1).contains("cannot be loaded"), "{report}");
    fails(&["report", QUICK, "--memory-limit", "1MB"], 1, &["nothing was measured", QUICK, "--memory-limit is 1 MB"]);
    fails(&["report", "t5-enormous"], 1, &["t5-enormous"]);
    fails(&["report", "--model", "no/such/folder", "--budget", "1s"], 1, &["no/such/folder"]);
    for (option, value) in
        [("--budget", "5h"), ("--memory-limit", "much"), ("--batch", "0"), ("--dtype", "f8"), ("--source", "0")]
    {
        fails(&["report", QUICK, option, value], 2, &[option, value]);
    }
}

#[test]
fn cli_family_fit_lists_what_fits_and_keeps_its_calibration() {
    let cache = tempfile::tempdir().unwrap();
    let fit = |terms: &str, args: &[&str]| {
        let mut command = tiny_t5(&[&["family", "--fit", terms], args].concat());
        command.env("XDG_CACHE_HOME", cache.path());
        json_of(command)
    };
    let terms = "parameters<20M,threads=1,source=32,target=8";
    let found = fit(terms, &[]);
    let totals: Vec<u64> =
        found["shapes"].as_array().unwrap().iter().map(|shape| shape["parameters"].as_u64().unwrap()).collect();
    assert!(
        totals.len() > 5 && totals.iter().all(|n| *n < 20_000_000) && totals.is_sorted_by(|a, b| a >= b),
        "{totals:?}"
    );
    assert_eq!(found["calibration"]["bandwidth"].as_array().unwrap().len(), 10);
    assert_eq!((&found["source"], &found["target"]), (&32.into(), &8.into()));
    let file = cache.path().join("tiny-t5/calibration-1-f32.json");
    assert!(file.is_file());
    assert_eq!(fit(terms, &[]), found, "from the kept calibration, the same again");
    // One of another version is made again.
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(&format!("\"version\":\"{}\"", env!("CARGO_PKG_VERSION")), "\"version\":\"0\""))
        .unwrap();
    assert_eq!(fit(terms, &[])["calibration"]["version"], env!("CARGO_PKG_VERSION"));
    // Of two limits both hold, and deeper stacks take longer.
    let two = fit("parameters<20M,latency<1000s,threads=1", &["t5-efficient-tiny-nl8", "t5-efficient-tiny"]);
    assert_eq!(two["shapes"].as_array().unwrap().len(), 1, "{two}");
    let (code, error) = failure(tiny_t5(&["family", "--fit", "depth<5"]));
    assert!(code == 2 && error.contains("depth<5"), "{error}");
}
