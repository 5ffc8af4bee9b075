//! The `tiny-t5` command: text to arguments, arguments to the library's options, one call, a writer. No computing here.
//!
//! | file | subject |
//! |---|---|
//! | `args` | what the command line may say, and which command it means |
//! | `options` | the options of generation, one for each key of the library's list |
//! | `input` | sources: texts, ids, lines of a file; progress |
//! | `colour` | colours, on terminals alone |
//! | `output` | lines on standard output, notes on standard error |
//! | `failure` | what went wrong, and the exit code that says so |
//! | `generate`, `score`, `encode`, `classify`, `infill`, `info`, `family`, `report`, `bench` | a command each |
//! | `fit` | `family --fit`: shapes that fit a budget |

#![forbid(unsafe_code)]

mod args;
mod bench;
mod classify;
mod colour;
mod encode;
mod failure;
mod family;
mod fit;
mod generate;
mod infill;
mod info;
mod input;
mod options;
mod output;
mod report;
mod score;

use args::Command;
use failure::Failure;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

fn main() -> ExitCode {
    // A panic is told by the one error line, if it gets here: the library catches those of the tokenizers crate itself.
    static PANIC: Mutex<String> = Mutex::new(String::new());
    std::panic::set_hook(Box::new(|panic| *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = panic.to_string()));
    let result = std::panic::catch_unwind(run).unwrap_or_else(|_| {
        let panic = PANIC.lock().unwrap_or_else(PoisonError::into_inner);
        Err(Failure::Other(format!("a bug in tiny-t5: {panic}")))
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run() -> Result<(), Failure> {
    match args::parse(std::env::args_os())? {
        Command::Generate(args) => generate::run(args),
        Command::Score(args) => score::run(args),
        Command::Encode(args) => encode::run(args),
        Command::Classify(args) => classify::run(args),
        Command::Infill(args) => infill::run(args),
        Command::Info(args) => info::run(args),
        Command::Family(args) => family::run(args),
        Command::Report(args) => report::run(args),
        Command::ReportChild(args) => report::measure::run_child(&args),
        Command::Bench(args) => bench::run(args),
    }
}
