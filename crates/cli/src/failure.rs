//! What went wrong, as one line on standard error, and the exit code that says so.

use std::io::ErrorKind;
use std::process::ExitCode;

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line: an option or value that cannot be. Exit code 2.
    Usage(String),
    /// clap's word on the command line; also what `--help` and `--version` print.
    Clap(clap::Error),
    /// The library's word on the checkpoint, or on all sources alike. Exit code 1.
    Library(tiny_t5::Error),
    /// Anything else. Exit code 1.
    Other(String),
    /// The reader of standard output has gone, which is its right: success.
    OutputClosed,
}

impl From<tiny_t5::Error> for Failure {
    fn from(error: tiny_t5::Error) -> Failure {
        Failure::Library(error)
    }
}

impl From<clap::Error> for Failure {
    fn from(error: clap::Error) -> Failure {
        Failure::Clap(error)
    }
}

impl Failure {
    /// A failure to write to standard output.
    pub(crate) fn output(error: &std::io::Error) -> Failure {
        match error.kind() {
            ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::Other(format!("standard output: {error}")),
        }
    }

    /// Prints the one line, and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        let (code, line) = match self {
            Failure::OutputClosed => return ExitCode::SUCCESS,
            Failure::Clap(error) if !error.use_stderr() => {
                // Help and version.
                let printed = crate::output::print_help(&error.render().to_string());
                return printed.map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS);
            }
            Failure::Clap(error) => (2, clap_line(&error.render().to_string())),
            Failure::Usage(line) => (2, line.clone()),
            Failure::Library(error) => (1, error.to_string()),
            Failure::Other(line) => (1, line.clone()),
        };
        crate::output::say("error", &line);
        ExitCode::from(code)
    }
}

/// clap's message without its usage and its hint at `--help`.
fn clap_line(message: &str) -> String {
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let end = ["\n\nUsage:", "\n\nFor more information"].iter().filter_map(|mark| message.find(mark)).min();
    message[..end.unwrap_or(message.len())].replace("\n\n  tip: ", "; ")
}
