//! The command line's promises, through the binary.

mod common;
use assert_cmd::Command;
use serde_json::Value;
use std::path::PathBuf;

#[path = "cli/checkpoints.rs"]
mod checkpoints;

#[path = "cli/generate.rs"]
mod generate;

#[path = "cli/measuring.rs"]
mod measuring;

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
fn cli_text_alone_is_generate() {
    assert_eq!(answer(&["photosynthesis"]), "ˌfoʊtoʊˈsɪnθəsəs\n");
    assert_eq!(answer(&["generate", "photosynthesis"]), "ˌfoʊtoʊˈsɪnθəsəs\n");
    assert_eq!(answer(&["hello", "world"]), answer(&["hello"]) + &answer(&["world"]));
    // Behind `--` a command is a text.
    assert_eq!(answer(&["--", "score"]).lines().count(), 1);
}

#[test]
fn cli_usage_errors_exit_2() {
    fails(&["--num-beams", "many", "a"], 2, &["--num-beams", "many"]);
    fails(&["--threads", "0", "a"], 2, &["--threads"]);
    fails(&["--no-such-option", "a"], 2, &["--no-such-option"]);
    fails(&["--num-return-sequences", "4", "--num-beams", "2", "a"], 2, &["--num-return-sequences", "4", "2"]);
    fails(&["--input-ids", "5,x", "a"], 2, &["--input-ids"]);
    fails(&["--dtype", "f8", "a"], 2, &["--dtype"]);
    fails(&["--threads", "100000", "a"], 2, &["--threads", "100000", "1 to"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    let cache = file.path().display().to_string();
    fails(&["--cache", &cache, "a"], 2, &["--cache", &cache, "a folder"]);
}

/// Options of transformers' `generate()` that are not built, or have nothing to change here.
#[test]
fn cli_usage_options_that_are_not_built_are_refused_by_name() {
    for option in
        ["--stop-strings", "--num-beam-groups", "--diversity-penalty", "--guidance-scale", "--force-words-ids"]
    {
        fails(&[option, "2", "a"], 2, &[option, "not supported"]);
        assert!(!failure(tiny_t5(&[option, "2", "a"])).1.contains("similar"), "{option}");
    }
    fails(&["--use-cache", "a"], 2, &["--use-cache: nothing here depends on it"]);
}

#[test]
fn cli_other_errors_exit_1_with_one_line() {
    fails(&["--input-ids", ""], 1, &["empty"]);
    fails(&["--input-ids", "5,96,1"], 1, &["96"]);
    fails(&["--model", "no/such/folder", "a"], 1, &["no/such/folder"]);
    fails(&["--max-source-tokens", "3", "hello"], 1, &["at most 3"]);
    fails(&["--file", "no such file"], 1, &["no such file"]);
    let mut command = tiny_t5(&["hello"]);
    command.env("TINY_T5_ISA", "");
    assert_eq!(run(command).1, answer(&["hello"]));
    let mut command = tiny_t5(&["a"]);
    command.env("TINY_T5_ISA", "mmx");
    let (code, error) = failure(command);
    assert!(code == 1 && error.contains("mmx") && error.contains("portable"), "{error}");
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
