//! Writes the man pages and the shells' completions of `tiny-t5` into a folder:
//!
//!     cargo run -p tiny-t5-cli --example assets -- target/assets
//!
//! They are made from the binary's own arguments, so they say what `--help` says; the binary carries none of it.

#![allow(dead_code)] // the commands themselves

#[path = "../src/args.rs"]
mod args;
#[path = "../src/bench.rs"]
mod bench;
#[path = "../src/classify.rs"]
mod classify;
#[path = "../src/colour.rs"]
mod colour;
#[path = "../src/encode.rs"]
mod encode;
#[path = "../src/failure.rs"]
mod failure;
#[path = "../src/family.rs"]
mod family;
#[path = "../src/fit.rs"]
mod fit;
#[path = "../src/generate.rs"]
mod generate;
#[path = "../src/infill.rs"]
mod infill;
#[path = "../src/info.rs"]
mod info;
#[path = "../src/input.rs"]
mod input;
#[path = "../src/options.rs"]
mod options;
#[path = "../src/output.rs"]
mod output;
#[path = "../src/report/mod.rs"]
mod report;
#[path = "../src/score.rs"]
mod score;

use clap_complete::Shell;
use std::path::{Path, PathBuf};

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("target/assets"), PathBuf::from);
    write(&folder)
}

fn write(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    // A page for the program and one for each command: tiny-t5.1, tiny-t5-generate.1, ...
    clap_mangen::generate_to(args::command(), folder)?;
    for shell in [Shell::Bash, Shell::Elvish, Shell::Fish, Shell::PowerShell, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut completed(), "tiny-t5", folder)?;
    }
    // clap_complete gives a hyphen in the program's name one spelling where bash sets the command and another where it looks for it.
    let bash = folder.join("tiny-t5.bash");
    std::fs::write(&bash, std::fs::read_to_string(&bash)?.replace("tiny__subcmd__t5", "tiny__t5"))
}

/// What shells complete: the commands that people use.
fn completed() -> clap::Command {
    let all = args::command();
    let commands = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    clap::Command::new("tiny-t5").version(env!("CARGO_PKG_VERSION")).subcommands(commands)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiny_t5::Generate;

    #[test]
    fn pages_and_completions_know_every_command_and_option() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let commands = args::command();
        for command in commands.get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_name();
            assert!(read("tiny-t5.1").contains(name), "{name}");
            assert!(
                read(&format!("tiny-t5-{name}.1")).contains(&command.get_about().unwrap().to_string()[..10]),
                "{name}"
            );
            for file in ["tiny-t5.bash", "_tiny-t5", "tiny-t5.fish", "_tiny-t5.ps1", "tiny-t5.elv"] {
                assert!(read(file).contains(name), "{file}: {name}");
            }
        }
        for file in ["tiny-t5.bash", "_tiny-t5", "tiny-t5.fish", "_tiny-t5.ps1", "tiny-t5.elv"] {
            assert!(!read(file).contains("report-child"), "{file}");
        }
        // bash sets a command by one name and looks for it by the same.
        let bash = read("tiny-t5.bash");
        assert!(bash.contains("cmd=\"tiny__t5__subcmd__score\"") && bash.contains(" tiny__t5__subcmd__score)"));
        // roff writes a hyphen as \- and an apostrophe as \*(Aq.
        let page = read("tiny-t5-generate.1").replace("\\*(Aq", "'").replace('\\', "");
        for (name, _, doc) in Generate::OPTIONS {
            let long = name.replace('_', "-");
            assert!(page.contains(&format!("--{long}")), "{name}");
            let doc = options::in_kebab(doc.trim());
            assert!(page.contains(doc.split(['.', ';', ':']).next().unwrap()), "{name}: {doc}");
            assert!(read("tiny-t5.fish").contains(&format!("-l {long} ")), "{name}");
        }
    }
}
