//! Why a tokenizer could not be read, or a text not be encoded.

use std::path::Path;

/// What went wrong with a tokenizer file or with a text. Displays as one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file is there and cannot be read.
    #[error("{file}: cannot be read: {source}")]
    #[non_exhaustive]
    Io {
        /// Path of the file.
        file: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not what its name promises.
    #[error("{file}: found {found}; expected {expected}")]
    #[non_exhaustive]
    Format {
        /// Path or name of the file.
        file: String,
        /// What is there.
        found: String,
        /// What should be there.
        expected: String,
    },
    /// The file is sound, but its pipeline is not one that this build can run.
    #[error("{file}: found {found}; expected a T5 pipeline, or a build with the feature `tokenizer`")]
    #[non_exhaustive]
    NeedsFeature {
        /// Path or name of the file.
        file: String,
        /// The part of the pipeline that needs the `tokenizers` crate.
        found: String,
    },
    /// The `tokenizers` crate refuses the file or the text.
    #[error("{file}: the tokenizers crate says: {message}")]
    #[non_exhaustive]
    Crate {
        /// Path or name of the file.
        file: String,
        /// Its message.
        message: String,
    },
    /// A character has no token and the vocabulary names no unknown token.
    #[error("found {found}, which no token covers; expected a vocabulary with an unknown token (unk_id is null)")]
    #[non_exhaustive]
    NoUnknown {
        /// The text around the character, shortened.
        found: String,
    },
    /// The text has a word that is longer than a segmentation can index.
    #[error("found a word of {bytes} bytes; expected at most 4294967295")]
    #[non_exhaustive]
    TooLong {
        /// Bytes of the word after normalisation.
        bytes: usize,
    },
}

impl TokenizerError {
    pub(super) fn format(file: &str, found: impl Into<String>, expected: &str) -> Self {
        Self::Format { file: file.to_owned(), found: found.into(), expected: expected.to_owned() }
    }
}

/// `text` quoted, escaped and shortened, so that a message stays one line.
pub(super) fn quoted(text: &str) -> String {
    const LIMIT: usize = 60;
    match text.char_indices().nth(LIMIT) {
        None => format!("{text:?}"),
        Some((at, _)) => format!("{:?}...", &text[..at]),
    }
}

/// A foreign message on one line.
pub(super) fn one_line(message: &str) -> String {
    const LIMIT: usize = 300;
    message.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(LIMIT).collect()
}

/// What a file holds; `None` if there is none.
pub(super) fn found<B>(read: std::io::Result<B>, path: &Path) -> Result<Option<B>, TokenizerError> {
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TokenizerError::Io { file: path.display().to_string(), source }),
    }
}
