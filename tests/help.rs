//! What the command line tells a person: its help, and what it makes of slips.

use std::process::{Command, Output};

const COMMANDS: [&str; 9] = ["generate", "score", "encode", "classify", "infill", "info", "family", "report", "bench"];

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tiny-t5")).args(args).output().unwrap()
}

fn help(command: &str) -> String {
    let output = run(&[command, "--help"]);
    assert!(output.status.success(), "{command}");
    String::from_utf8(output.stdout).unwrap()
}

/// The one line about a slip.
#[track_caller]
fn slip(args: &[&str]) -> String {
    let output = run(args);
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), line.lines().count(), output.stdout.len()), (Some(2), 1, 0), "{args:?}: {line}");
    line
}

#[test]
fn a_misspelt_option_gets_a_suggestion() {
    for (args, meant) in [
        (&["--max-new-token", "5", "hello"][..], "--max-new-tokens"),
        (&["--max_new_tokens", "5", "hello"], "--max-new-tokens"),
        (&["--numbeams=3", "hello"], "--num-beams"),
        (&["score", "--targets", "x", "hello"], "--target"),
        (&["encode", "--normalise", "hello"], "--normalize"),
        (&["info", "--jsn"], "--json"),
    ] {
        let line = slip(args);
        assert!(line.ends_with(&format!("; a similar argument exists: '{meant}'\n")), "{args:?}: {line}");
    }
    assert!(!slip(&["--zzzzzz", "hello"]).contains("similar"));
}

#[test]
fn an_option_of_another_command_is_told_with_its_commands() {
    for (args, option, owners) in [
        (&["--target", "x", "hello"][..], "--target", "score, family, report, info"),
        (&["--pool=mean", "hello"], "--pool", "encode"),
        (&["score", "--target", "x", "--num-beams", "3", "hello"], "--num-beams", "generate, infill"),
        (&["info", "--workload", "x"], "--workload", "bench"),
    ] {
        let expected = format!("error: unexpected argument '{option}' found; it is an option of {owners}\n");
        assert_eq!(slip(args), expected, "{args:?}");
    }
    // A short option is no command's, whatever stands without a name in each.
    assert!(slip(&["-n", "5", "hello"]).ends_with("; to pass '-n' as a value, use '-- -n'\n"));
}

#[test]
fn texts_stand_before_options_in_help() {
    for command in ["generate", "score", "encode", "classify", "infill"] {
        let help = help(command);
        let place = |part: &str| help.find(part).unwrap_or_else(|| panic!("{command}: no {part:?} in {help}"));
        assert!(place("\n  [TEXT]...") < place("--input-ids <IDS>"), "{help}");
        assert!(place("--input-ids <IDS>") < place("--file <PATH>"), "{help}");
    }
}

#[test]
fn help_lists_the_values_of_an_option_once() {
    for command in COMMANDS {
        let help = help(command);
        let count = help.matches("int8").count() - help.matches("as in f32,int8").count();
        // One list for --dtype; `bench` has --variant besides, and --speculation speaks of no width.
        let lists = match command {
            "family" => 0,
            "bench" => 2,
            _ => 1,
        };
        assert_eq!(count, lists, "{command}: {help}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn help_that_cannot_be_written_is_an_error_but_for_a_reader_that_has_gone() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tiny-t5")).arg("--help").stdout(full).output().unwrap();
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(line.starts_with("error: standard output: ") && line.lines().count() == 1, "{line}");

    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_tiny-t5")).arg("--help").stdout(writer).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
}

#[test]
fn no_line_of_help_is_wider_than_a_hundred_columns() {
    for command in COMMANDS {
        for line in help(command).lines() {
            assert!(line.chars().count() <= 100, "{command}: {line}");
        }
    }
}
