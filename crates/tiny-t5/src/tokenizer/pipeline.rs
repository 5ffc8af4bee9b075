//! The pipeline of a T5 tokenizer, from text to ids and back:
//!
//! ```text
//! text -> added tokens cut out -> normalised -> (added tokens cut out of that) -> words
//!      -> Unigram -> template (`</s>` at the end)
//! ids  -> tokens -> blanks put back
//! ```
//! Each stage does what the `tokenizers` crate does, where it does something odd too.

use super::added::{AddedTokens, Span};
use super::error::TokenizerError;
use super::normalizer::Normalizer;
use super::unigram::{Lattice, Unigram};

/// When a blank is put before a stretch of text that does not begin with one.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Prepend {
    Always,
    /// Only at the beginning of the whole text.
    First,
    Never,
}

/// Blanks become visible characters, and words begin with them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Metaspace {
    pub blank: char,
    pub prepend: Prepend,
    pub split: bool,
}

/// How normalised text is cut into words.
#[derive(Clone, Copy)]
pub(super) struct Words {
    /// First at white space, which disappears.
    pub at_whitespace: bool,
    pub metaspace: Option<Metaspace>,
}

/// How tokens become text.
#[derive(Clone, Copy)]
pub(super) enum Decoder {
    /// Blanks come back; those of the first token go, unless none are ever prepended.
    Metaspace(Metaspace),
    /// Tokens are joined as they are.
    Fuse,
}

pub(super) struct Pipeline {
    pub normalizer: Normalizer,
    pub words: Words,
    pub model: Unigram,
    pub added: AddedTokens,
    /// Ids that the template puts before and after.
    pub before: Vec<u32>,
    pub after: Vec<u32>,
    pub decoder: Decoder,
}

impl Pipeline {
    /// Why this combination is left to the `tokenizers` crate, if it is.
    pub(super) fn unsupported(&self) -> Option<&'static str> {
        let metaspace = self.words.metaspace?;
        let shifts = self.words.at_whitespace
            || self.added.any_normalized()
            || !self.normalizer.keeps_the_beginning(metaspace.blank);
        (metaspace.prepend == Prepend::First && shifts)
            .then_some("prepend_scheme \"first\" after steps that shift the beginning of a text")
    }

    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        // About four characters a token in English.
        let mut ids = Vec::with_capacity(self.before.len() + self.after.len() + text.len() / 4 + 2);
        ids.extend_from_slice(&self.before);
        self.encode_into(text, &mut ids)?;
        ids.extend_from_slice(&self.after);
        Ok(ids)
    }

    /// Appends the ids of `text` without the template's.
    pub(super) fn encode_into(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let mut job = Job { pipeline: self, lattice: Lattice::default(), word: String::new(), ids, error: None };
        self.added.split(text, false, |span| match span {
            Span::Token(id) => job.ids.push(id),
            Span::Text(part) => {
                let begins = part.as_ptr() == text.as_ptr();
                let part = match self.normalizer.apply(part) {
                    Ok(part) => part,
                    Err(error) => {
                        job.error = Some(error);
                        return;
                    }
                };
                self.added.split(&part, true, |span| match span {
                    Span::Token(id) => job.ids.push(id),
                    Span::Text(part) => job.stretch(part, begins),
                });
            }
        });
        job.error.map_or(Ok(()), Err)
    }

    pub(super) fn token(&self, id: u32) -> Option<&str> {
        self.added.form(id).or_else(|| self.model.piece(id))
    }

    /// Appends what one id adds to a text that has `tokens` tokens so far.
    pub(super) fn decode_one(&self, id: u32, skip_special: bool, tokens: &mut usize, out: &mut String) {
        if skip_special && self.added.is_special(id) {
            return;
        }
        let Some(token) = self.token(id) else { return };
        let first = *tokens == 0;
        *tokens += 1;
        match self.decoder {
            Decoder::Fuse => out.push_str(token),
            Decoder::Metaspace(metaspace) => {
                let dropped = first && metaspace.prepend != Prepend::Never;
                let mut parts = token.split(metaspace.blank);
                out.push_str(parts.next().unwrap_or_default());
                for part in parts {
                    if !dropped {
                        out.push(' ');
                    }
                    out.push_str(part);
                }
            }
        }
    }

    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.added.id(token).or_else(|| self.model.id(token))
    }
}

/// One call of `encode_into`.
struct Job<'a> {
    pipeline: &'a Pipeline,
    lattice: Lattice,
    word: String,
    ids: &'a mut Vec<u32>,
    error: Option<TokenizerError>,
}

impl Job<'_> {
    /// A stretch of normalised text; `begins` says that it stands at the very beginning.
    fn stretch(&mut self, text: &str, begins: bool) {
        let words = self.pipeline.words;
        if words.at_whitespace {
            for part in text.split(char::is_whitespace) {
                self.metaspace(part, words.metaspace, begins);
            }
        } else {
            self.metaspace(text, words.metaspace, begins);
        }
    }

    fn metaspace(&mut self, text: &str, metaspace: Option<Metaspace>, begins: bool) {
        if text.is_empty() {
            return;
        }
        let Some(Metaspace { blank, prepend, split }) = metaspace else {
            return self.model(text);
        };
        let mut word = std::mem::take(&mut self.word);
        word.clear();
        if !text.starts_with([blank, ' ']) && (prepend == Prepend::Always || prepend == Prepend::First && begins) {
            word.push(blank);
        }
        for (number, part) in text.split([blank, ' ']).enumerate() {
            if number > 0 {
                if split && !word.is_empty() {
                    self.model(&word);
                    word.clear();
                }
                word.push(blank);
            }
            word.push_str(part);
        }
        self.model(&word);
        self.word = word;
    }

    fn model(&mut self, word: &str) {
        if self.error.is_none() {
            let Self { lattice, ids, .. } = self;
            self.error = self.pipeline.model.encode(word, lattice, ids).err();
        }
    }
}
