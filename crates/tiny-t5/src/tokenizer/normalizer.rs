//! Normalisation: the steps that a text goes through before it is cut into words.

use super::charsmap::Charsmap;
use std::borrow::Cow;

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
    pub(super) fn apply<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for step in &self.steps {
            if let Some(new) = step.apply(&text) {
                text = Cow::Owned(new);
            }
        }
        text
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
    /// The new text; `None` where nothing changes.
    fn apply(&self, text: &str) -> Option<String> {
        match self {
            Self::Charsmap(map) => {
                let mut out = String::with_capacity(text.len());
                map.apply(text, &mut out);
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
            Self::Replace { from, to } => text.contains(from).then(|| text.replace(from, to)),
            Self::ReplaceBlanks { to } => text.contains("  ").then(|| replace_blanks(text, to)),
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
