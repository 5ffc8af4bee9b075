//! What can be wrong with a checkpoint: one line an error, with the file, the thing in it, what was found and what was expected.

use std::io;

/// Why a checkpoint could not be read.
///
/// Text that comes from the files is escaped and shortened, so that a message stays one line whatever a file holds.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file; usually it is absent or may not be read.
    #[error("{path}: {source}")]
    #[non_exhaustive]
    Io {
        /// The file's path.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The path names no folder.
    #[error("{path}: {found}, expected a checkpoint folder (config.json, weights, tokenizer)")]
    #[non_exhaustive]
    NoFolder {
        /// The path as given.
        path: String,
        /// What is there instead.
        found: &'static str,
    },
    /// A hub name whose files are not in the local cache.
    #[error(
        "{name}: no such folder, and {found} in the Hugging Face cache {cache}; get the files with `hf download {name}`, or give a folder"
    )]
    #[non_exhaustive]
    NotCached {
        /// The hub name, `organisation/model`.
        name: String,
        /// What is missing where.
        found: String,
        /// The cache's folder, and which variable chose it.
        cache: String,
    },
    /// The folder has no weight file that this crate reads.
    #[error("{dir}: no weights: looked for {looked_for}{also}")]
    #[non_exhaustive]
    NoWeights {
        /// The checkpoint folder.
        dir: String,
        /// The names tried, in order.
        looked_for: String,
        /// Weight files of other kinds that are there, as `; found a, b, which are not supported`, or empty.
        also: String,
    },
    /// A text file that is not the JSON it should be.
    #[error("{file}: is not valid JSON of the expected form: {reason}")]
    #[non_exhaustive]
    Json {
        /// The file.
        file: String,
        /// The parser's words, with line and column.
        reason: String,
    },
    /// A key of config.json with a value of the wrong type, or outside its limits.
    #[error("{file}: {key} is {found}, expected {expected}")]
    #[non_exhaustive]
    Config {
        /// The file, `config.json`.
        file: String,
        /// The key, or an expression of keys.
        key: String,
        /// The value found.
        found: String,
        /// The values that are possible.
        expected: String,
    },
    /// A file, or a count in it, beyond what any real checkpoint has.
    #[error("{file}: {what} is {found}, expected at most {limit}")]
    #[non_exhaustive]
    TooLarge {
        /// The file.
        file: String,
        /// What is too large, with its unit.
        what: &'static str,
        /// Its size.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// A weight file that is truncated, damaged or hostile.
    #[error("{file}: {what} is {found}, expected {expected}")]
    #[non_exhaustive]
    Malformed {
        /// The file.
        file: String,
        /// The part of it, with the tensor's or entry's name where there is one.
        what: String,
        /// What the file says.
        found: String,
        /// What it would have to say.
        expected: String,
    },
    /// A pickle asks for a Python name that is not one of the few that hold weights. Nothing of it was run.
    #[error(
        "{file}: the pickle asks for the Python name `{name}`, expected only names that tensors need (OrderedDict, torch's storages and rebuild functions); refused, nothing was run"
    )]
    #[non_exhaustive]
    Refused {
        /// The weight file.
        file: String,
        /// The name refused, `module.name`.
        name: String,
    },
    /// No weight file holds a tensor that the shape needs.
    #[error("{file}: has no tensor {tensor}, expected one of shape {expected:?}{}", in_brackets(.why))]
    #[non_exhaustive]
    Missing {
        /// The weight file, or the index of its shards.
        file: String,
        /// The tensor's canonical name.
        tensor: String,
        /// The shape it should have.
        expected: Vec<usize>,
        /// What the shape comes from.
        why: String,
    },
    /// A tensor has another shape than config.json implies.
    #[error("{file}: {tensor} has shape {found:?}, expected {expected:?}{}", in_brackets(.why))]
    #[non_exhaustive]
    Shape {
        /// The weight file.
        file: String,
        /// The tensor's canonical name.
        tensor: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape it should have.
        expected: Vec<usize>,
        /// What the shape comes from.
        why: String,
    },
    /// A weight is stored in a type that T5 weights do not have.
    #[error("{file}: {tensor} is stored as {found}, expected F32, F16 or BF16")]
    #[non_exhaustive]
    Dtype {
        /// The weight file.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// The type in the file.
        found: String,
    },
    /// Two weight files, or two spellings of a name, give the same tensor.
    #[error("{file}: {tensor} is a second time in {other}, expected each tensor once")]
    #[non_exhaustive]
    Duplicate {
        /// The weight file read first.
        file: String,
        /// The tensor's canonical name.
        tensor: String,
        /// The weight file read second.
        other: String,
    },
}

impl Error {
    /// [`Error::Json`], for who reads one of the folder's text files himself: `reason` is the parser's words.
    pub fn json(file: &str, reason: impl ToString) -> Error {
        Error::Json { file: file.to_owned(), reason: shown(&reason.to_string()) }
    }

    /// A damaged part of a weight file.
    pub(crate) fn malformed(
        file: &str,
        what: impl Into<String>,
        found: impl ToString,
        expected: impl ToString,
    ) -> Error {
        Error::Malformed {
            file: file.to_owned(),
            what: what.into(),
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }

    /// A count or size in `file` that is over its limit.
    pub(crate) fn too_large(file: &str, what: &'static str, found: u64, limit: u64) -> Error {
        Error::TooLarge { file: file.to_owned(), what, found, limit }
    }
}

fn in_brackets(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(" ({why})") }
}

/// Text from a file as it may stand in a message: escaped, and cut after 120 characters.
pub(crate) fn shown(text: &str) -> String {
    const LONGEST: usize = 120;
    let mut out: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        out.push_str("...");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_control_characters_and_length_stays_one_short_line() {
        assert_eq!(shown("a\nb"), "a\\nb");
        assert!(shown(&"\u{1b}".repeat(10_000)).len() < 1000);
    }
}
