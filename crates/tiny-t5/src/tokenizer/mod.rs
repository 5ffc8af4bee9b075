//! Text to ids and back.
//!
//! A checkpoint folder says how in one of three ways: tokenizer.json (obeyed as it stands),
//! spiece.model with tokenizer_config.json, or nothing, where a token is a byte (ByT5). The Unigram
//! pipelines that T5's files describe run here, on structures that are built in a few milliseconds;
//! every other tokenizer.json goes through the `tokenizers` crate (feature `tokenizer`), which takes
//! 45 ms for T5's. The ids are the same whichever way they are made.
//!
//! | file | subject |
//! |---|---|
//! | `pipeline` | the stages of a text, in order; `normalizer`, `charsmap`, `added`, `unigram` are one each |
//! | `pieces` | which pieces a text begins with |
//! | `recognise`, `json`, `scan` | tokenizer.json; `base64` for its character map |
//! | `spiece`, `protobuf` | spiece.model |
//! | `config` | tokenizer_config.json |
//! | `bytes` | ByT5 |
//! | `stream`, `cleanup` | decoding while ids come; blanks before punctuation |
//! | `fallback` | the `tokenizers` crate |

mod added;
mod base64;
mod bytes;
mod charsmap;
mod cleanup;
mod config;
mod error;
#[cfg(feature = "tokenizer")]
mod fallback;
mod json;
mod normalizer;
mod pieces;
mod pipeline;
mod protobuf;
mod recognise;
mod scan;
mod spiece;
mod stream;
mod unigram;

pub use error::TokenizerError;
pub use stream::TextStream;

use config::Config;
use error::found;
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// What a checkpoint's config.json tells about a tokenizer that has no file: ByT5's.
///
/// More fields may come: end a literal with `..Hint::default()`, and it stays valid.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hint<'a> {
    /// `tokenizer_class`, where it stands there.
    pub tokenizer_class: Option<&'a str>,
    /// `vocab_size`.
    pub vocab_size: usize,
}

/// ByT5's rows: 3 special tokens, 256 bytes, 125 sentinels.
const BYT5_VOCAB_SIZE: usize = 384;

/// A tokenizer, ready: immutable, so that threads may share it.
///
/// ```
/// let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/g2p-ipa/tokenizer.json"));
/// let tokenizer = tiny_t5::tokenizer::Tokenizer::from_json(file, None)?;
/// let ids = tokenizer.encode("hello")?;
/// assert_eq!(tokenizer.decode(&ids, true)?, "hello");
/// assert_eq!(ids.last().copied(), tokenizer.token_to_id("</s>"));
/// # Ok::<_, tiny_t5::Error>(())
/// ```
pub struct Tokenizer {
    inner: Inner,
    kind: &'static str,
    /// `clean_up_tokenization_spaces`.
    cleanup: bool,
}

enum Inner {
    Pipeline(Box<pipeline::Pipeline>),
    Bytes(Box<bytes::ByteTokens>),
    #[cfg(feature = "tokenizer")]
    Crate(Box<fallback::Foreign>),
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("kind", &self.kind)
            .field("vocab_size", &self.vocab_size())
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// The tokenizer of a checkpoint folder; `None` if it has none.
    ///
    /// In this order: `tokenizer.json`; `spiece.model`; bytes, if `tokenizer_class` is
    /// `ByT5Tokenizer` in tokenizer_config.json or else in `hint`, or if no class is named and the
    /// vocabulary has ByT5's 384 rows (ByT5 is released without a tokenizer file).
    ///
    /// # Errors
    /// If a file cannot be read, or is not what its name promises: a file that is there is never
    /// passed over.
    pub fn open(dir: &Path, hint: Hint<'_>) -> Result<Option<Self>, TokenizerError> {
        Self::open_with(dir, hint, |path| tiny_t5_checkpoint::file_beside(path, false))
    }

    /// [`open`](Self::open) with files from `read`: mapped ones, which spare a process that
    /// encodes one text the copy.
    ///
    /// # Errors
    /// As [`open`](Self::open); `NotFound` from `read` means that there is no such file.
    pub fn open_with<B: AsRef<[u8]>>(
        dir: &Path,
        hint: Hint<'_>,
        mut read: impl FnMut(&Path) -> std::io::Result<B>,
    ) -> Result<Option<Self>, TokenizerError> {
        let mut read = |path: PathBuf| found(read(&path), &path);
        let path = |name: &str| dir.join(name);
        let shown = |name: &str| path(name).display().to_string();
        let config = read(path(config::NAME))?;
        let mut config = Config::parse(config.as_ref().map(AsRef::as_ref), &shown(config::NAME))?;
        if let Some(json) = read(path("tokenizer.json"))? {
            return Self::json(json.as_ref(), &config, &shown("tokenizer.json")).map(Some);
        }
        if let Some(model) = read(path("spiece.model"))? {
            if config.added_tokens_decoder.is_none()
                && let Some(json) = read(path(config::ADDED))?
            {
                config.add(json.as_ref(), &shown(config::ADDED))?;
            }
            return Self::spiece(model.as_ref(), &config, &shown("spiece.model")).map(Some);
        }
        let is_byt5 = match (config.tokenizer_class.as_deref()).or(hint.tokenizer_class) {
            Some(class) => class == "ByT5Tokenizer",
            None => hint.vocab_size == BYT5_VOCAB_SIZE,
        };
        match is_byt5 {
            true => Self::of_bytes(&config, &shown(config::NAME)).map(Some),
            false => Ok(None),
        }
    }

    /// From the bytes of a tokenizer.json and, if there is one, of a tokenizer_config.json (which
    /// only says whether to clean up blanks before punctuation).
    ///
    /// # Errors
    /// If either is not what it should be, or asks for the `tokenizers` crate in a build without it.
    pub fn from_json(json: &[u8], config: Option<&[u8]>) -> Result<Self, TokenizerError> {
        let config = Config::parse(config, config::NAME)?;
        Self::json(json, &config, "tokenizer.json")
    }

    /// From the bytes of a spiece.model and, if there is one, of a tokenizer_config.json
    /// (`extra_ids`, names of special tokens, further special tokens).
    ///
    /// # Errors
    /// If either is not what it should be, or the model is not a Unigram.
    pub fn from_spiece(model: &[u8], config: Option<&[u8]>) -> Result<Self, TokenizerError> {
        let config = Config::parse(config, config::NAME)?;
        Self::spiece(model, &config, "spiece.model")
    }

    /// ByT5's: bytes, with `extra_ids` sentinels behind them (125 in the released models; at most
    /// 65,536 are made).
    pub fn bytes(extra_ids: usize) -> Self {
        let config = Config { extra_ids: Some(extra_ids.min(config::MAX_EXTRA_IDS)), ..Config::default() };
        Self::of_bytes(&config, config::NAME).expect("sentinels are few and distinct")
    }

    fn json(json: &[u8], config: &Config, file: &str) -> Result<Self, TokenizerError> {
        let (inner, kind) = match recognise::pipeline(json, file) {
            Ok(own) => (Inner::Pipeline(Box::new(own)), "tokenizer.json (own Unigram)"),
            Err(recognise::No::Broken(error)) => return Err(error),
            #[cfg(feature = "tokenizer")]
            Err(recognise::No::Foreign(found)) => {
                let foreign = fallback::Foreign::new(json, file, &found)?;
                (Inner::Crate(Box::new(foreign)), "tokenizer.json (tokenizers crate)")
            }
            #[cfg(not(feature = "tokenizer"))]
            Err(recognise::No::Foreign(found)) => {
                let file = file.to_owned();
                return Err(TokenizerError::NeedsFeature { file, found });
            }
        };
        Ok(Self::new(inner, kind, config))
    }

    fn spiece(model: &[u8], config: &Config, file: &str) -> Result<Self, TokenizerError> {
        let own = spiece::pipeline(model, config, file)?;
        Ok(Self::new(Inner::Pipeline(Box::new(own)), "spiece.model", config))
    }

    fn of_bytes(config: &Config, file: &str) -> Result<Self, TokenizerError> {
        let tokens = bytes::ByteTokens::new(config, file)?;
        Ok(Self::new(Inner::Bytes(Box::new(tokens)), "bytes", config))
    }

    fn new(inner: Inner, kind: &'static str, config: &Config) -> Self {
        Self { inner, kind, cleanup: config.clean_up_tokenization_spaces == Some(true) }
    }

    /// The ids of a text, with what the template adds: `</s>` at the end. Never truncated or
    /// padded, whatever the file says of either (so transformers, unless asked).
    ///
    /// # Errors
    /// If a character has no token and the vocabulary names no unknown token.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        match &self.inner {
            Inner::Pipeline(own) => own.encode(text),
            Inner::Bytes(tokens) => Ok(tokens.encode(text)),
            #[cfg(feature = "tokenizer")]
            Inner::Crate(foreign) => foreign.encode(text, true),
        }
    }

    /// The ids of a text alone, as the beginning of a target or an answer of a list needs them.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        match &self.inner {
            Inner::Pipeline(own) => {
                let mut ids = Vec::new();
                own.encode_into(text, &mut ids)?;
                Ok(ids)
            }
            Inner::Bytes(tokens) => Ok(tokens.encode_plain(text)),
            #[cfg(feature = "tokenizer")]
            Inner::Crate(foreign) => foreign.encode(text, false),
        }
    }

    /// The text of ids, special tokens left out or kept. An id without a token adds nothing.
    ///
    /// # Errors
    /// If the `tokenizers` crate cannot decode.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        let mut text = String::new();
        self.decode_into(ids, skip_special, &mut text)?;
        Ok(text)
    }

    /// [`decode`](Self::decode) into a string whose memory is used again; what it held is gone.
    pub(crate) fn decode_into(&self, ids: &[u32], skip_special: bool, text: &mut String) -> Result<(), TokenizerError> {
        text.clear();
        match &self.inner {
            Inner::Pipeline(own) => {
                let mut tokens = 0;
                for &id in ids {
                    own.decode_one(id, skip_special, &mut tokens, text);
                }
            }
            Inner::Bytes(tokens) => {
                let mut bytes = std::mem::take(text).into_bytes();
                for &id in ids {
                    tokens.decode_one(id, skip_special, &mut bytes);
                }
                *text = String::from_utf8(bytes).unwrap_or_else(|e| bytes::take_text(&mut e.into_bytes()));
            }
            #[cfg(feature = "tokenizer")]
            Inner::Crate(foreign) => *text = foreign.decode(ids, skip_special)?,
        }
        if self.cleanup {
            *text = cleanup::clean(text);
        }
        Ok(())
    }

    /// Decodes ids as they come, special tokens left out.
    ///
    /// ```
    /// let bytes = tiny_t5::tokenizer::Tokenizer::bytes(125);
    /// let (mut stream, mut text) = (bytes.stream(), String::new());
    /// for id in bytes.encode("Käse")? {
    ///     text += &stream.push(id)?; // nothing, while a character is not whole
    /// }
    /// text += &stream.finish()?;
    /// assert_eq!(text, "Käse");
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    pub fn stream(&self) -> TextStream<'_> {
        self.stream_with(true)
    }

    /// Decodes ids as they come, special tokens left out or kept.
    pub fn stream_with(&self, skip_special: bool) -> TextStream<'_> {
        TextStream::new(self, skip_special)
    }

    /// How many ids the tokenizer knows; the model may have more rows (T5: 32,128 for 32,100).
    pub fn vocab_size(&self) -> usize {
        match &self.inner {
            Inner::Pipeline(own) => own.added.end() as usize,
            Inner::Bytes(tokens) => tokens.end() as usize,
            #[cfg(feature = "tokenizer")]
            Inner::Crate(foreign) => foreign.vocab_size(),
        }
    }

    /// Where the tokenizer comes from: "tokenizer.json (own Unigram)", "tokenizer.json (tokenizers
    /// crate)", "spiece.model" or "bytes".
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The id of a token, written as the vocabulary has it (`▁Hello`, `</s>`).
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        match &self.inner {
            Inner::Pipeline(own) => own.id(token),
            Inner::Bytes(tokens) => tokens.id(token),
            #[cfg(feature = "tokenizer")]
            Inner::Crate(foreign) => foreign.id(token),
        }
    }

    /// The token of an id, as the vocabulary has it.
    pub fn id_to_token(&self, id: u32) -> Option<Cow<'_, str>> {
        match &self.inner {
            Inner::Pipeline(own) => own.token(id).map(Cow::Borrowed),
            Inner::Bytes(tokens) => tokens.token(id),
            #[cfg(feature = "tokenizer")]
            Inner::Crate(foreign) => foreign.token(id).map(Cow::Owned),
        }
    }

    /// The id of `<extra_id_i>`; in mT5's vocabulary it is a piece with a blank before it.
    pub fn sentinel(&self, i: usize) -> Option<u32> {
        let token = spiece::sentinel(i);
        self.token_to_id(&token).or_else(|| self.token_to_id(&format!("▁{token}")))
    }

    /// The id that stands for characters without a token.
    pub fn unk_id(&self) -> Option<u32> {
        match &self.inner {
            Inner::Pipeline(own) => own.model.unknown(),
            Inner::Bytes(_) => Some(bytes::UNK),
            #[cfg(feature = "tokenizer")]
            Inner::Crate(foreign) => foreign.unknown(),
        }
    }

    /// Whether [`decode`](Self::decode) leaves the id out when special tokens are skipped.
    pub fn is_special(&self, id: u32) -> bool {
        match &self.inner {
            Inner::Pipeline(own) => own.added.is_special(id),
            Inner::Bytes(tokens) => tokens.is_special(id),
            #[cfg(feature = "tokenizer")]
            Inner::Crate(foreign) => foreign.is_special(id),
        }
    }
}
