//! Pipelines that are not T5's, run by the `tokenizers` crate itself.

use super::error::{TokenizerError, one_line, quoted};
use serde::Deserialize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokenizers::{NormalizedString, Normalizer};

pub(super) struct Foreign {
    tokenizer: tokenizers::Tokenizer,
    unknown: Option<u32>,
    file: String,
}

/// What the crate does not tell about a model.
#[derive(Deserialize)]
struct File {
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    unk_id: Option<u32>,
    unk_token: Option<String>,
}

impl Foreign {
    /// `why` is what the own pipeline does not know.
    pub(super) fn new(json: &[u8], file: &str, why: &str) -> Result<Self, TokenizerError> {
        let tokenizer = guard(file, || tokenizers::Tokenizer::from_bytes(json));
        let tokenizer = tokenizer.map_err(|error| match error {
            TokenizerError::Crate { file, message } => TokenizerError::Crate {
                file,
                message: format!("{message} (T5's pipelines are read without it; this has {why})"),
            },
            other => other,
        })?;
        if let Some(token) = guard(file, || Ok(vanishing(&tokenizer)))? {
            return Err(TokenizerError::format(
                file,
                format!("the added token {}, which normalises to nothing", quoted(&token)),
                "one that can be found in a text",
            ));
        }
        let mut new = Self { tokenizer, unknown: None, file: file.to_owned() };
        // Both are for training; transformers applies them only where it is asked to.
        new.tokenizer.with_padding(None);
        guard(file, || new.tokenizer.with_truncation(None).map(drop))?;
        if let Ok(File { model }) = serde_json::from_slice(json) {
            let by_name = model.unk_token.and_then(|token| new.tokenizer.token_to_id(&token));
            new.unknown = model.unk_id.or(by_name);
        }
        Ok(new)
    }

    pub(super) fn encode(&self, text: &str, template: bool) -> Result<Vec<u32>, TokenizerError> {
        let encoding = guard(&self.file, || self.tokenizer.encode_fast(text, template))?;
        Ok(encoding.get_ids().to_vec())
    }

    pub(super) fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        guard(&self.file, || self.tokenizer.decode(ids, skip_special))
    }

    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    pub(super) fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        let added = self.tokenizer.get_added_vocabulary();
        (self.token(id)).is_some_and(|token| added.is_special_token(&token))
    }

    pub(super) fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    pub(super) fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }
}

/// An added token that normalises to nothing: looking for it, the crate never ends.
fn vanishing(tokenizer: &tokenizers::Tokenizer) -> Option<String> {
    let normalizer = tokenizer.get_normalizer()?;
    let tokens = tokenizer.get_added_tokens_decoder();
    let vanishes = |content: &str| {
        let mut text = NormalizedString::from(content);
        normalizer.normalize(&mut text).is_ok() && text.is_empty()
    };
    let mut normalized = tokens.values().filter(|token| token.normalized);
    normalized.find(|token| vanishes(&token.content)).map(|token| token.content.clone())
}

/// Runs code of the crate, which panics on some files that lie (a character map whose trie points
/// outside itself): nothing of it is used after that, so no broken state is seen.
fn guard<T>(file: &str, run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, TokenizerError> {
    let message = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => one_line(&error.to_string()),
        Err(_) => "a panic".to_owned(),
    };
    Err(TokenizerError::Crate { file: file.to_owned(), message })
}
