//! On a terminal there are colours and a progress bar; nowhere else. `script` makes the terminal.
#![cfg(target_os = "linux")]

use std::fs;
use std::process::{Command, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tiny-t5");
const ESCAPE: &str = "\x1b[";

/// What a command of the shell writes to its terminal, or none where this system has no `script`. `$T` is the program.
fn on_terminal(shell: &str, variables: &[(&str, &str)]) -> Option<String> {
    let mut script = Command::new("script");
    script.args(["-qec", shell, "/dev/null"]).env("T", PROGRAM).env("SHELL", "/bin/sh").stdin(Stdio::null());
    script.env_remove("NO_COLOR").env("TERM", "xterm").envs(variables.iter().copied());
    match script.output() {
        Ok(output) => Some(String::from_utf8(output.stdout).unwrap()),
        Err(error) => {
            println!("not tested: script: {error}");
            None
        }
    }
}

#[test]
fn headings_and_errors_are_coloured_on_a_terminal() {
    let Some(help) = on_terminal("$T generate --help", &[]) else { return };
    for heading in ["Usage:", "Arguments:", "Generation:"] {
        assert!(help.contains(&format!("\r\n\x1b[1m{heading}\x1b[0m")), "{heading}: {help}");
    }
    let error = on_terminal("$T --numbeams 3 a", &[]).unwrap();
    assert!(error.starts_with("\x1b[1;31merror:\x1b[0m unexpected argument"), "{error}");
    // An answer is the same everywhere.
    assert_eq!(on_terminal("$T photosynthesis", &[]).unwrap(), "ˌfoʊtoʊˈsɪnθəsəs\r\n");
}

#[test]
fn who_wants_no_colours_gets_none() {
    for variables in [[("NO_COLOR", "1")], [("TERM", "dumb")]] {
        for shell in ["$T generate --help", "$T --numbeams 3 a"] {
            let Some(text) = on_terminal(shell, &variables) else { return };
            assert!(!text.is_empty() && !text.contains(ESCAPE), "{variables:?} {shell}: {text}");
        }
    }
    // As https://no-color.org has it: set, and not empty.
    assert!(on_terminal("$T --help", &[("NO_COLOR", "")]).unwrap().contains(ESCAPE));
    // A pipe at one end, a terminal at the other.
    assert!(!on_terminal("$T --help | cat", &[]).unwrap().contains(ESCAPE));
    assert!(!on_terminal("$T --numbeams 3 a 2>&1 | cat", &[]).unwrap().contains(ESCAPE));
}

#[test]
fn the_progress_bar_is_for_terminals() {
    let folder = tempfile::tempdir().unwrap();
    let [sources, answers, errors] = ["sources", "answers", "errors"].map(|name| folder.path().join(name));
    fs::write(&sources, "hello\n".repeat(600)).unwrap();
    let run = format!("$T --max-new-tokens 20 --file {} >{}", sources.display(), answers.display());
    let Some(seen) = on_terminal(&run, &[]) else { return };
    assert!(seen.contains(" %  256 sources  "), "{seen}");
    assert_eq!(fs::read_to_string(&answers).unwrap(), "həˈloʊ\n".repeat(600));
    // It is gone at the end: the last thing is to clear its line.
    assert!(seen.trim_end().ends_with("\x1b[2K"), "{seen:?}");

    let seen = on_terminal(&format!("{run} 2>{}", errors.display()), &[]).unwrap();
    assert_eq!((seen.as_str(), fs::read_to_string(&errors).unwrap().as_str()), ("", ""));
}
