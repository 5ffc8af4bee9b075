//! tokenizer_config.json: the few keys that change ids or text.

use super::added::AddedToken;
use super::error::{TokenizerError, one_line, quoted};
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::collections::{BTreeMap, HashSet};
use std::fmt;

/// Name in errors where no path is known.
pub(super) const NAME: &str = "tokenizer_config.json";
/// Where older folders have their added tokens. What they say in special_tokens_map.json counts for nothing beside a spiece.model
/// (transformers 5.24).
pub(super) const ADDED: &str = "added_tokens.json";

/// Real ones have 1 to 100 KB; parsed, a file takes up to ten times its size.
const MAX_BYTES: usize = 4 << 20;

/// More sentinels than any model has rows for.
pub(super) const MAX_EXTRA_IDS: usize = 1 << 16;

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Config {
    pub tokenizer_class: Option<String>,
    pub extra_ids: Option<usize>,
    pub eos_token: Option<Token>,
    pub pad_token: Option<Token>,
    pub unk_token: Option<Token>,
    pub additional_special_tokens: Option<Tokens>,
    pub extra_special_tokens: Option<Tokens>,
    pub added_tokens_decoder: Option<BTreeMap<String, Token>>,
    pub clean_up_tokenization_spaces: Option<bool>,
}

impl Config {
    /// Parses a tokenizer_config.json; without one, everything has its default.
    pub(super) fn parse(json: Option<&[u8]>, file: &str) -> Result<Self, TokenizerError> {
        let Some(json) = json else { return Ok(Self::default()) };
        if json.len() > MAX_BYTES {
            let found = format!("{} bytes", json.len());
            return Err(TokenizerError::format(file, found, "at most 4 MiB"));
        }
        // To serde a list of the same values would do as well.
        if !json.trim_ascii_start().starts_with(b"{") {
            return Err(TokenizerError::format(file, "no JSON object", "a tokenizer's settings"));
        }
        let config: Self = serde_json::from_slice(json)
            .map_err(|error| TokenizerError::format(file, one_line(&error.to_string()), "a tokenizer's settings"))?;
        match config.extra_ids {
            Some(count) if count > MAX_EXTRA_IDS => {
                Err(TokenizerError::format(file, format!("extra_ids {count}"), "at most 65536"))
            }
            _ => Ok(config),
        }
    }

    /// Adds the tokens of an added_tokens.json, where older versions of transformers wrote them: `{"<token>": 32100}`.
    pub(super) fn add(&mut self, json: &[u8], file: &str) -> Result<(), TokenizerError> {
        let bad = |found: String| TokenizerError::format(file, found, "added tokens and their ids");
        if json.len() > MAX_BYTES {
            return Err(bad(format!("{} bytes", json.len())));
        }
        let ids: BTreeMap<String, u32> =
            serde_json::from_slice(json).map_err(|error| bad(one_line(&error.to_string())))?;
        let named = [&self.eos_token, &self.pad_token, &self.unk_token].into_iter().flatten();
        let special: HashSet<&str> = named.chain(self.more_special()).map(|token| token.content.as_str()).collect();
        let mut tokens = BTreeMap::new();
        for (content, id) in ids {
            let special = special.contains(content.as_str());
            let token = Token { content, strips: Some((false, false)), normalized: !special, special };
            if let Some(other) = tokens.insert(id.to_string(), token) {
                return Err(bad(format!("the id {id} of {} and of another", quoted(&other.content))));
            }
        }
        self.added_tokens_decoder = Some(tokens);
        Ok(())
    }

    /// The added tokens that have ids, in the order of these.
    pub(super) fn added(&self, file: &str) -> Result<Vec<(u32, &Token)>, TokenizerError> {
        let id = |text: &String| {
            text.parse().map_err(|_| TokenizerError::format(file, format!("the id {text:?}"), "ids of added tokens"))
        };
        let all = self.added_tokens_decoder.iter().flatten().map(|(text, token)| Ok((id(text)?, token)));
        let mut all = all.collect::<Result<Vec<_>, _>>()?;
        all.sort_by_key(|(id, _)| *id);
        Ok(all)
    }

    /// Special tokens beyond end, padding and unknown, in the file's order.
    pub(super) fn more_special(&self) -> impl Iterator<Item = &Token> {
        let lists = [&self.additional_special_tokens, &self.extra_special_tokens];
        lists.into_iter().flatten().flat_map(|tokens| &tokens.0)
    }
}

/// A token: its text, or an object with its text and how it is looked for.
pub(super) struct Token {
    pub content: String,
    /// `None` where only the text is given.
    pub strips: Option<(bool, bool)>,
    /// It is looked for in the normalized text.
    pub normalized: bool,
    pub special: bool,
}

impl Token {
    /// `strips` is what a token class does where the file gives only a text.
    pub(super) fn added(&self, strips: (bool, bool)) -> AddedToken {
        let (lstrip, rstrip) = self.strips.unwrap_or(strips);
        let (content, normalized, special) = (self.content.clone(), self.normalized, self.special);
        AddedToken { content, lstrip, rstrip, normalized, special }
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Token;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a token")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Token, E> {
                Ok(Token { content: text.to_owned(), strips: None, normalized: false, special: true })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Token, A::Error> {
                let (mut content, mut left, mut right, mut normalized, mut special) = (None, false, false, false, true);
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "content" => content = Some(map.next_value()?),
                        "lstrip" => left = map.next_value()?,
                        "rstrip" => right = map.next_value()?,
                        "normalized" => normalized = map.next_value()?,
                        "special" => special = map.next_value()?,
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(Token {
                    content: content.ok_or_else(|| A::Error::missing_field("content"))?,
                    strips: Some((left, right)),
                    normalized,
                    special,
                })
            }
        }
        deserializer.deserialize_any(Text)
    }
}

/// A list of tokens; transformers 5 also writes a map of named ones.
#[derive(Default)]
pub(super) struct Tokens(Vec<Token>);

impl<'de> Deserialize<'de> for Tokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Tokens;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of tokens")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tokens, A::Error> {
                let mut tokens = Vec::new();
                while let Some(token) = seq.next_element()? {
                    tokens.push(token);
                }
                Ok(Tokens(tokens))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tokens, A::Error> {
                let mut tokens = Vec::new();
                while let Some((_, token)) = map.next_entry::<IgnoredAny, _>()? {
                    tokens.push(token);
                }
                Ok(Tokens(tokens))
            }
        }
        deserializer.deserialize_any(List)
    }
}
