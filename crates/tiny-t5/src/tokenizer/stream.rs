//! Text while ids are still coming.

use super::bytes::take_text;
use super::{Inner, Tokenizer, TokenizerError, cleanup};

/// Turns ids into text piece by piece: what [`push`](Self::push) returns is final, and all pieces
/// with that of [`finish`](Self::finish) are together what [`Tokenizer::decode`] makes of all ids.
///
/// A blank comes with the word behind it, as SentencePiece has it, so a stream does not end in one;
/// bytes wait until they are a character, byte tokens of other tokenizers until their run ends; where
/// the checkpoint asks for `clean_up_tokenization_spaces`, a word waits for the next one.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    state: State,
    /// Text that cleaning up may still change.
    unclean: String,
}

impl std::fmt::Debug for TextStream<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextStream").finish_non_exhaustive()
    }
}

enum State {
    /// Tokens so far.
    Tokens(usize),
    /// Bytes that are no character yet.
    Bytes(Vec<u8>),
    /// All ids, and the text that is out.
    #[cfg(feature = "tokenizer")]
    Crate { ids: Vec<u32>, done: String },
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        Self {
            tokenizer,
            skip_special,
            state: match &tokenizer.inner {
                Inner::Pipeline(_) => State::Tokens(0),
                Inner::Bytes(_) => State::Bytes(Vec::new()),
                #[cfg(feature = "tokenizer")]
                Inner::Crate(_) => State::Crate { ids: Vec::new(), done: String::new() },
            },
            unclean: String::new(),
        }
    }

    /// Takes the next id; returns the text that is final since, which may be empty.
    ///
    /// # Errors
    /// If the `tokenizers` crate cannot decode.
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        let mut text = String::new();
        self.push_into(id, &mut text)?;
        Ok(text)
    }

    /// [`push`](Self::push) that appends to a text.
    pub(crate) fn push_into(&mut self, id: u32, out: &mut String) -> Result<(), TokenizerError> {
        if !self.tokenizer.cleanup {
            return self.decoded(id, out);
        }
        let mut text = std::mem::take(&mut self.unclean);
        self.decoded(id, &mut text)?;
        self.unclean = text.split_off(cleanup::settled(&text));
        out.push_str(&cleanup::clean(&text));
        Ok(())
    }

    /// Ends the stream; returns the text that was held back.
    ///
    /// # Errors
    /// If the `tokenizers` crate cannot decode.
    pub fn finish(self) -> Result<String, TokenizerError> {
        let text = self.unclean + &held(self.tokenizer, &self.state, self.skip_special)?;
        Ok(match self.tokenizer.cleanup {
            true => cleanup::clean(&text),
            false => text,
        })
    }

    fn decoded(&mut self, id: u32, out: &mut String) -> Result<(), TokenizerError> {
        match (&self.tokenizer.inner, &mut self.state) {
            (Inner::Pipeline(pipeline), State::Tokens(tokens)) => {
                pipeline.decode_one(id, self.skip_special, tokens, out);
            }
            (Inner::Bytes(tokens), State::Bytes(bytes)) => {
                tokens.decode_one(id, self.skip_special, bytes);
                out.push_str(&take_text(bytes));
            }
            // Decoders that are not ours may look back as far as they like: decode everything, and
            // let out what the last id left as it was. A character cut in two shows as U+FFFD.
            #[cfg(feature = "tokenizer")]
            (Inner::Crate(inner), State::Crate { ids, done }) => {
                ids.push(id);
                // A run of bytes that are no character in the end shows as U+FFFD from its beginning. What is left out does not end it.
                let goes_on = inner.token(id).is_none_or(|token| is_byte(&token));
                if goes_on || self.skip_special && inner.is_special(id) {
                    return Ok(());
                }
                let text = inner.decode(ids, self.skip_special)?;
                let whole = text.trim_end_matches('\u{fffd}');
                let new = whole.strip_prefix(done.as_str()).unwrap_or_default();
                out.push_str(new);
                done.push_str(new);
            }
            // `new` pairs them.
            #[allow(unreachable_patterns)]
            _ => {}
        }
        Ok(())
    }
}

/// Whether a token stands for a byte, as `<0x0A>` does.
#[cfg(feature = "tokenizer")]
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// Text that waited for an id which did not come.
#[cfg_attr(not(feature = "tokenizer"), expect(unused_variables))]
fn held(tokenizer: &Tokenizer, state: &State, skip_special: bool) -> Result<String, TokenizerError> {
    match (&tokenizer.inner, state) {
        #[cfg(feature = "tokenizer")]
        (Inner::Crate(inner), State::Crate { ids, done }) => {
            let text = inner.decode(ids, skip_special)?;
            let same = std::iter::zip(text.chars(), done.chars()).take_while(|(a, b)| a == b);
            let out: usize = same.map(|(a, _)| a.len_utf8()).sum();
            Ok(text[out..].to_owned())
        }
        // A token is out at once; bytes that are no character vanish.
        _ => Ok(String::new()),
    }
}
