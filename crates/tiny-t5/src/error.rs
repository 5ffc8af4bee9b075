//! What can go wrong, one line each: what was wrong with what, what was found and what was expected.

/// Why a call failed: one line, without an end of line.
///
/// ```
/// use tiny_t5::{Error, Load, T5};
///
/// match T5::open_with(".", &Load { threads: Some(0), ..Load::default() }) {
///     Err(Error::Option { option, expected, .. }) => println!("{option}: {expected}"),
///     Err(error) => println!("{error}"), // here: no config.json
///     Ok(t5) => println!("{t5:?}"),
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The checkpoint folder: a file, a tensor, a key of config.json.
    #[error(transparent)]
    Checkpoint(#[from] tiny_t5_checkpoint::Error),
    /// The tokenizer's files, or a text that it cannot take.
    #[error(transparent)]
    Tokenizer(#[from] crate::tokenizer::TokenizerError),
    /// The environment variable `TINY_T5_ISA`.
    #[error(transparent)]
    Isa(#[from] tiny_t5_kernels::UnknownIsa),
    /// The system gives no memory for the weights.
    #[error("{what}: {bytes} bytes of memory: {source}")]
    #[non_exhaustive]
    Memory {
        /// What it was for.
        what: &'static str,
        /// How much was asked for.
        bytes: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// The checkpoint lacks what the call needs.
    #[error("{call} needs {needs}; this checkpoint {has}")]
    #[non_exhaustive]
    Unsupported {
        /// The call.
        call: &'static str,
        /// What it needs.
        needs: &'static str,
        /// What the checkpoint is instead.
        has: String,
    },
    /// A key of config.json or a tensor that the engine does not compute.
    #[error("{file}: {what}")]
    #[non_exhaustive]
    Variant {
        /// The file.
        file: String,
        /// What it is and what is expected.
        what: String,
    },
    /// An option.
    #[error("{option}: found {found}, expected {expected}")]
    #[non_exhaustive]
    Option {
        /// The option's name, as transformers has it.
        option: String,
        /// Its value.
        found: String,
        /// What would do.
        expected: String,
    },
    /// A text or a list of ids given to a call.
    #[error("{what}: found {found}, expected {expected}")]
    #[non_exhaustive]
    Input {
        /// Which of the inputs.
        what: String,
        /// What it is.
        found: String,
        /// What would do.
        expected: String,
    },
}

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn option(option: impl Into<String>, found: impl ToString, expected: impl ToString) -> Error {
        let (option, found) = (one_line(&option.into()), one_line(&found.to_string()));
        Error::Option { option, found, expected: expected.to_string() }
    }

    pub(crate) fn input(what: impl Into<String>, found: impl ToString, expected: impl ToString) -> Error {
        Error::Input { what: what.into(), found: one_line(&found.to_string()), expected: expected.to_string() }
    }
}

/// Text from outside as it may stand in a message: control characters escaped, and cut after 120 characters.
pub(crate) fn one_line(text: &str) -> String {
    const LONGEST: usize = 120;
    let mut line = String::new();
    for c in text.chars().take(LONGEST) {
        match c.is_control() {
            true => line.extend(c.escape_debug()),
            false => line.push(c),
        }
    }
    if text.chars().nth(LONGEST).is_some() {
        line.push_str("...");
    }
    line
}
