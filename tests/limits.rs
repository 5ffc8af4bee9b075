//! A process that the system keeps short: of memory, of processors. It works, or ends with an error of one line.
#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Output};

const WORD: &str = "photosynthesis";
const ANSWER: &str = "ˌfoʊtoʊˈsɪnθəsəs\n";

/// A shell that runs what it is given behind something that limits it.
fn shell(limit: &str, program: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{limit} \"$0\" \"$@\""), program]);
    command
}

/// Runs the binary behind a limit.
fn limited(limit: &str, args: &[&str]) -> Output {
    shell(limit, env!("CARGO_BIN_EXE_tiny-t5")).args(args).output().unwrap()
}

/// Whether this system has such a limit; says so where it has not.
fn has(limit: &str) -> bool {
    let has = shell(limit, "true").status().is_ok_and(|status| status.success());
    if !has {
        println!("not tested: `{limit}` does not work here");
    }
    has
}

/// `taskset` to the first processor that this process may use.
fn one_processor() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or("0").trim();
    format!("exec taskset -c {}", allowed.split([',', '-']).next().unwrap_or("0"))
}

#[track_caller]
fn assert_error(output: &Output, what: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{what}: {:?} {stderr}", output.status);
    assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{what}: {stderr}");
}

#[test]
fn one_processor_is_enough() {
    let limit = one_processor();
    if !has(&limit) {
        return;
    }
    for args in [&[WORD][..], &["--threads", "4", WORD]] {
        let output = limited(&limit, args);
        assert_eq!(String::from_utf8_lossy(&output.stdout), ANSWER, "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// From little more than the program needs to begin, up to more than a model with its threads takes.
#[test]
fn little_memory_gives_the_answer_or_an_error() {
    if !has("ulimit -v 1048576; exec") {
        return;
    }
    for megabytes in (48..=160).step_by(8).chain([1024]) {
        for threads in ["1", "2"] {
            let output = limited(&format!("ulimit -v {}; exec", megabytes * 1024), &["--threads", threads, WORD]);
            match output.status.success() || megabytes == 1024 {
                true => assert_eq!(String::from_utf8_lossy(&output.stdout), ANSWER),
                false => assert_error(&output, &format!("{megabytes} MB, {threads} threads")),
            }
        }
    }
}

/// Weights of two gigabytes, in a file without blocks, in a process that may have half of one.
#[test]
fn weights_that_do_not_fit_the_memory_are_an_error() {
    if !has("ulimit -v 500000; exec") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    let header = br#"{"shared.weight":{"dtype":"F32","shape":[536870912],"data_offsets":[0,2147483648]}}"#;
    let mut file = File::create(dir.path().join("model.safetensors")).unwrap();
    file.write_all(&[&(header.len() as u64).to_le_bytes(), &header[..]].concat()).unwrap();
    file.set_len(8 + header.len() as u64 + (2 << 30)).unwrap();
    let model = dir.path().to_str().unwrap();
    for args in [&["--model", model, WORD][..], &["--no-mmap", "--model", model, WORD]] {
        let output = limited("ulimit -v 500000; exec", args);
        assert_error(&output, "2 GB");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("model.safetensors") && stderr.contains("memory"), "{stderr}");
    }
}
