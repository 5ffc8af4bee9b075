//! Normalisation: the steps that a text goes through before it is cut into words.

use super::charsmap::Charsmap;
use super::error::TokenizerError;
use std::borrow::Cow;

/// How many times as long a text may become; T5's own steps make the longest of one character, 33 bytes of 3.
const MOST_GROWTH: usize = 256;

/// A text would become longer than it may.
pub(super) struct TooLong;

pub(super) enum Step {
    Charsmap(Charsmap),
    Lowercase,
    Strip {
        left: bool,
        right: bool,
    },
    /// Every occurrence of a string, which is not empty.
    Replace {
        from: String,
        to: String,
    },
    /// Every run of two or more blanks (the regular expression ` {2,}`).
    ReplaceBlanks {
        to: String,
    },
}

/// Steps, in order.
#[derive(Default)]
pub(super) struct Normalizer {
    pub steps: Vec<Step>,
}

impl Normalizer {
    /// The text behind all steps.
    ///
    /// # Errors
    /// Where it becomes [`MOST_GROWTH`] times as long: a few steps that each double it would take all memory.
    pub(super) fn apply<'a>(&self, text: &'a str) -> Result<Cow<'a, str>, TokenizerError> {
        let most = text.len().saturating_mul(MOST_GROWTH);
        let mut text = Cow::Borrowed(text);
        for step in &self.steps {
            match step.apply(&text, most) {
                Ok(Some(new)) => text = Cow::Owned(new),
                Ok(None) => {}
                Err(TooLong) => {
                    let found = format!("a text that its steps make longer than {most} bytes");
                    return Err(TokenizerError::format("normalizer", found, "less growth"));
                }
            }
        }
        Ok(text)
    }

    /// Whether the first character of a text that is not empty afterwards stands, as the
    /// `tokenizers` crate counts, where the text began: what `prepend_scheme: first` asks for.
    /// True of the steps that T5's files have; of the others nothing is claimed.
    pub(super) fn keeps_the_beginning(&self, blank: char) -> bool {
        self.steps.iter().all(|step| match step {
            Step::Charsmap(_) | Step::Lowercase => true,
            Step::Strip { left, .. } => !left,
            Step::Replace { .. } => false,
            // At the beginning it leaves a blank there, and then nothing is prepended anyway.
            Step::ReplaceBlanks { to } => to.starts_with([blank, ' ']),
        })
    }
}

impl Step {
    /// The new text of at most `most` bytes; `None` where nothing changes.
    fn apply(&self, text: &str, most: usize) -> Result<Option<String>, TooLong> {
        let new = match self {
            Self::Charsmap(map) => {
                let mut out = String::with_capacity(text.len());
                map.apply(text, &mut out, most)?;
                Some(out)
            }
            // Character by character: `str::to_lowercase` knows a final sigma, the crate does not.
            Self::Lowercase => Some(text.chars().flat_map(char::to_lowercase).collect()),
            Self::Strip { left, right } => {
                let mut kept = text;
                if *left {
                    kept = kept.trim_start();
                }
                if *right {
                    kept = kept.trim_end();
                }
                (kept.len() < text.len()).then(|| kept.to_owned())
            }
            Self::Replace { from, to } => match text.matches(from).count() {
                0 => None,
                count => {
                    let added = to.len().saturating_sub(from.len()).saturating_mul(count);
                    if text.len().saturating_add(added) > most {
                        return Err(TooLong);
                    }
                    Some(text.replace(from, to))
                }
            },
            Self::ReplaceBlanks { to } => {
                let runs = text.contains("  ");
                // One for every two bytes, at most.
                if runs && (text.len() / 2).saturating_mul(to.len()) > most {
                    return Err(TooLong);
                }
                runs.then(|| replace_blanks(text, to))
            }
        };
        match new {
            Some(new) if new.len() > most => Err(TooLong),
            new => Ok(new),
        }
    }
}

fn replace_blanks(text: &str, to: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("  ") {
        out.push_str(&rest[..at]);
        out.push_str(to);
        rest = rest[at..].trim_start_matches(' ');
    }
    out.push_str(rest);
    out
}
