//! tokenizer.json: its schema, as far as T5's pipelines go.
//!
//! Written for speed and for files that lie: the 32,100 pieces go straight from the text into one
//! string, everything else is typed, bounded, and skipped where it does not matter.

use super::pieces::Strings;
use super::scan;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// A string that is borrowed from the file where it has no escapes.
#[derive(Default)]
pub(super) struct Str<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Str<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Str<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Str(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Str(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// The whole file.
#[derive(Deserialize)]
pub(super) struct File<'a> {
    #[serde(borrow)]
    pub version: Option<Str<'a>>,
    #[serde(borrow, default, deserialize_with = "at_most::<65536, _, _>")]
    pub added_tokens: Vec<Added<'a>>,
    #[serde(borrow)]
    pub normalizer: Option<Stage<'a>>,
    #[serde(borrow)]
    pub pre_tokenizer: Option<Stage<'a>>,
    #[serde(borrow)]
    pub post_processor: Option<Post<'a>>,
    #[serde(borrow)]
    pub decoder: Option<Stage<'a>>,
    #[serde(borrow)]
    pub model: Model<'a>,
}

/// An entry of `added_tokens`.
#[derive(Deserialize)]
pub(super) struct Added<'a> {
    #[serde(borrow)]
    pub content: Str<'a>,
    pub single_word: bool,
    pub lstrip: bool,
    pub rstrip: bool,
    pub normalized: bool,
    pub special: bool,
}

/// A normalizer, pre-tokenizer or decoder: the fields of all that we know, each optional.
#[derive(Deserialize)]
pub(super) struct Stage<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Str<'a>,
    // Sequence
    #[serde(borrow, default, deserialize_with = "at_most::<256, _, _>")]
    pub normalizers: Vec<Stage<'a>>,
    #[serde(borrow, default, deserialize_with = "at_most::<256, _, _>")]
    pub pretokenizers: Vec<Stage<'a>>,
    // Precompiled
    #[serde(borrow)]
    pub precompiled_charsmap: Option<Str<'a>>,
    // Strip
    pub strip_left: Option<bool>,
    pub strip_right: Option<bool>,
    // Replace
    #[serde(borrow)]
    pub pattern: Option<Pattern<'a>>,
    #[serde(borrow)]
    pub content: Option<Str<'a>>,
    // Metaspace
    pub replacement: Option<char>,
    pub add_prefix_space: Option<bool>,
    #[serde(borrow)]
    pub prepend_scheme: Option<Str<'a>>,
    pub split: Option<bool>,
}

#[derive(Deserialize)]
pub(super) enum Pattern<'a> {
    #[serde(borrow)]
    String(Str<'a>),
    #[serde(borrow)]
    Regex(Str<'a>),
}

/// A post-processor.
#[derive(Deserialize)]
pub(super) struct Post<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Str<'a>,
    #[serde(borrow, default, deserialize_with = "at_most::<256, _, _>")]
    pub single: Vec<Part<'a>>,
    #[serde(borrow, default, deserialize_with = "pairs")]
    pub special_tokens: Vec<(Str<'a>, Ids)>,
}

/// A part of a template.
#[derive(Deserialize)]
pub(super) enum Part<'a> {
    #[serde(borrow)]
    Sequence(PartId<'a>),
    #[serde(borrow)]
    SpecialToken(PartId<'a>),
}

#[derive(Deserialize)]
pub(super) struct PartId<'a> {
    #[serde(borrow)]
    pub id: Str<'a>,
}

#[derive(Deserialize)]
pub(super) struct Ids {
    #[serde(deserialize_with = "at_most::<256, _, _>")]
    pub ids: Vec<u32>,
}

/// The model; only Unigram is read, of others the type.
#[derive(Deserialize)]
pub(super) struct Model<'a> {
    #[serde(borrow, default, rename = "type")]
    pub kind: Str<'a>,
    pub unk_id: Option<usize>,
    #[serde(default)]
    pub byte_fallback: bool,
    #[serde(default)]
    pub vocab: Vocab,
}

/// `[["piece", score], ...]`; the `tokenizers` crate's numbers, bit for bit, since serde_json reads
/// them for both.
#[derive(Default)]
pub(super) struct Vocab {
    pub kind: VocabKind,
    pub strings: Strings,
    pub scores: Vec<f64>,
}

/// What stands as the vocabulary.
#[derive(Default, PartialEq)]
pub(super) enum VocabKind {
    /// Something that is no Unigram's.
    #[default]
    Other,
    List,
    /// It was taken out of the text before.
    ReadAhead,
}

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Vocab;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of pieces with scores")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vocab, A::Error> {
                let mut vocab = Vocab {
                    kind: VocabKind::List,
                    strings: Strings::with_capacity(32_768, 512 << 10),
                    scores: Vec::with_capacity(32_768),
                };
                while seq.next_element_seed(Entry(&mut vocab))?.is_some() {}
                Ok(vocab)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Vocab, E> {
                let kind = match text {
                    scan::MARK => VocabKind::ReadAhead,
                    _ => VocabKind::Other,
                };
                Ok(Vocab { kind, ..Vocab::default() })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Vocab::default())
            }
        }
        deserializer.deserialize_any(List)
    }
}

/// One `["piece", score]`.
struct Entry<'v>(&'v mut Vocab);

impl<'de> DeserializeSeed<'de> for Entry<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_tuple(2, self)
    }
}

impl<'de> Visitor<'de> for Entry<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[piece, score]")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Vocab { strings, scores, .. } = self.0;
        seq.next_element_seed(Piece(strings))?.ok_or_else(|| A::Error::invalid_length(0, &"[piece, score]"))?;
        let score = seq.next_element()?;
        scores.push(score.ok_or_else(|| A::Error::invalid_length(1, &"[piece, score]"))?);
        match seq.next_element::<IgnoredAny>()? {
            None => Ok(()),
            Some(_) => Err(A::Error::invalid_length(3, &"[piece, score]")),
        }
    }
}

/// The string of an entry, which needs no allocation of its own.
struct Piece<'v>(&'v mut Strings);

impl<'de> DeserializeSeed<'de> for Piece<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Piece<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a piece")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.push(text).map_err(|limit| E::custom(format_args!("{LIMIT} {limit}")))
    }
}

/// How the messages of what is too much begin.
const LIMIT: &str = "more than";

/// Whether an error is about a limit: then the file is refused, not handed on to the `tokenizers`
/// crate, which would take many times its size in memory.
pub(super) fn is_limit(error: &str) -> bool {
    error.starts_with(LIMIT)
}

/// A list of at most `N`; longer ones do not arise, and would cost far more memory than text.
fn at_most<'de, const N: usize, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct List<const N: usize, T>(PhantomData<T>);
    impl<'de, const N: usize, T: Deserialize<'de>> Visitor<'de> for List<N, T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = seq.next_element()? {
                if list.len() == N {
                    return Err(A::Error::custom(format_args!("{LIMIT} {N} entries")));
                }
                list.push(item);
            }
            Ok(list)
        }
    }
    deserializer.deserialize_seq(List::<N, T>(PhantomData))
}

/// A map of at most 256 entries, as pairs.
fn pairs<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(Str<'a>, Ids)>, D::Error> {
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = Vec<(Str<'de>, Ids)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut list = Vec::new();
            while let Some(entry) = map.next_entry()? {
                if list.len() == 256 {
                    return Err(A::Error::custom(format_args!("{LIMIT} 256 entries")));
                }
                list.push(entry);
            }
            Ok(list)
        }
    }
    deserializer.deserialize_map(Pairs)
}
