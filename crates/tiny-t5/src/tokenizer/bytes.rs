//! ByT5: a token is a byte. Padding 0, end 1, unknown 2, byte b at b + 3, sentinels after them.
//!
//! As transformers' `ByT5Tokenizer`: special tokens are cut out of a text (the first three with the
//! white space around them), an end token that the text brings along is not doubled, and bytes that
//! are not UTF-8 vanish from a decoded text.

use super::added::{AddedToken, AddedTokens, Span};
use super::config::{Config, Token};
use super::error::TokenizerError;
use super::spiece::sentinel;
use std::borrow::Cow;
use std::collections::HashSet;

const EOS: u32 = 1;
pub(super) const UNK: u32 = 2;
const OFFSET: u32 = 3;
const FIRST_EXTRA: u32 = OFFSET + 256;

/// Sentinels where tokenizer_config.json does not say: 384 rows in all.
const EXTRA_IDS: usize = 125;

pub(super) struct ByteTokens {
    added: AddedTokens,
}

impl ByteTokens {
    /// `file` names tokenizer_config.json in errors.
    pub(super) fn new(config: &Config, file: &str) -> Result<Self, TokenizerError> {
        let bad = |found: String| TokenizerError::format(file, found, "ByT5's added tokens");
        let mut tokens: Vec<(u32, AddedToken)> = Vec::new();
        let mut known = HashSet::new();
        let mut add = |id: u32, token: AddedToken| {
            let new = !token.content.is_empty() && known.insert(token.content.clone());
            if new {
                tokens.push((id, token));
            }
            new
        };
        // Nothing is normalized here.
        let plain = |token: &Token, strips| AddedToken { normalized: false, ..token.added(strips) };
        let given = config.added(file)?;
        for (id, token) in &given {
            add(*id, plain(token, (false, false)));
        }
        let listed: HashSet<u32> = given.iter().map(|(id, _)| *id).collect();
        for (id, token, default) in
            [(0, &config.pad_token, "<pad>"), (EOS, &config.eos_token, "</s>"), (UNK, &config.unk_token, "<unk>")]
        {
            // Given as a text, these three take the white space around them (transformers: "we
            // force left and right stripping for backward compatibility").
            let text = token.as_ref().map_or(default, |token| token.content.as_str());
            let token = Token {
                content: text.to_owned(),
                strips: token.as_ref().and_then(|token| token.strips),
                normalized: false,
                special: true,
            };
            if !listed.contains(&id) {
                add(id, token.added((true, true)));
            }
        }
        let mut next = FIRST_EXTRA + listed.iter().filter(|&&id| id >= FIRST_EXTRA).count() as u32;
        let mut append = |token: AddedToken| next += u32::from(add(next, token));
        if config.more_special().next().is_some() {
            (config.more_special()).for_each(|token| append(plain(token, (false, false))));
        } else {
            let sentinels = (0..config.extra_ids.unwrap_or(EXTRA_IDS)).map(sentinel);
            sentinels.map(AddedToken::special).for_each(append);
        }
        let added = AddedTokens::with_ids(tokens, FIRST_EXTRA, is_python_space).map_err(bad)?;
        Ok(Self { added })
    }

    pub(super) fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = self.encode_plain(text);
        if ids.last() != Some(&EOS) {
            ids.push(EOS);
        }
        ids
    }

    pub(super) fn encode_plain(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() + 1);
        self.added.split(text, false, |span| match span {
            Span::Token(id) => ids.push(id),
            Span::Text(part) => ids.extend(part.bytes().map(|byte| u32::from(byte) + OFFSET)),
        });
        ids
    }

    /// Appends the bytes of one id.
    pub(super) fn decode_one(&self, id: u32, skip_special: bool, out: &mut Vec<u8>) {
        match self.added.form(id) {
            Some(_) if skip_special && self.added.is_special(id) => {}
            Some(form) => out.extend_from_slice(form.as_bytes()),
            None => out.extend(byte(id)),
        }
    }

    pub(super) fn id(&self, token: &str) -> Option<u32> {
        // As transformers shows them, bytes are the characters of Latin 1.
        let byte = || {
            let mut characters = token.chars();
            let byte = u8::try_from(characters.next()?).ok()?;
            (characters.next().is_none()).then(|| u32::from(byte) + OFFSET)
        };
        self.added.id(token).or_else(byte)
    }

    pub(super) fn token(&self, id: u32) -> Option<Cow<'_, str>> {
        match self.added.form(id) {
            Some(form) => Some(Cow::Borrowed(form)),
            None => byte(id).map(|byte| Cow::Owned(char::from(byte).to_string())),
        }
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        self.added.is_special(id)
    }

    pub(super) fn end(&self) -> u32 {
        self.added.end()
    }
}

fn byte(id: u32) -> Option<u8> {
    u8::try_from(id.checked_sub(OFFSET)?).ok()
}

/// What Python's `str.strip` strips.
fn is_python_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// Moves the text that later bytes cannot change from `bytes` to the result; what is not UTF-8
/// vanishes.
pub(super) fn take_text(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut rest = bytes.as_slice();
    loop {
        match std::str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                bytes.clear();
                return text;
            }
            Err(error) => {
                let (valid, after) = rest.split_at(error.valid_up_to());
                text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                match error.error_len() {
                    Some(bad) => rest = &after[bad..],
                    None => {
                        *bytes = after.to_vec();
                        return text;
                    }
                }
            }
        }
    }
}
