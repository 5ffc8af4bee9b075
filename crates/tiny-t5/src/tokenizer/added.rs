//! Added tokens: strings such as `</s>` and `<extra_id_0>` that are cut out of a text before the
//! model sees it. Leftmost first, of those the longest.

use super::error::quoted;
use super::normalizer::Normalizer;
use super::pieces::{Pieces, Strings};
use super::unigram::Unigram;

/// One entry of `added_tokens`, as a file or a tokenizer class describes it.
#[derive(Clone, Default)]
pub(super) struct AddedToken {
    pub content: String,
    /// Takes the white space on its left, on its right, with it.
    pub lstrip: bool,
    pub rstrip: bool,
    /// Looked for after normalisation, in its normalised form.
    pub normalized: bool,
    /// Left out of a decoded text on request.
    pub special: bool,
}

impl AddedToken {
    pub(super) fn special(content: impl Into<String>) -> Self {
        Self { content: content.into(), special: true, ..Self::default() }
    }
}

/// An added token in its place.
struct Entry {
    token: AddedToken,
    id: u32,
    /// What it looks like in a text, and decodes to: the content, normalised if it asks for that.
    form: String,
    /// Whether `form` is the content of a special token.
    special: bool,
}

/// All added tokens of a vocabulary.
pub(super) struct AddedTokens {
    entries: Vec<Entry>,
    /// (id, place in `entries`), sorted.
    by_id: Vec<(u32, u32)>,
    raw: Matcher,
    normalized: Matcher,
    /// Ids of the model and of the added tokens are below this.
    end: u32,
    /// What is stripped beside a token that asks for it.
    blank: fn(char) -> bool,
}

/// A piece of a text: a token found in it, or what lies between tokens.
pub(super) enum Span<'a> {
    Token(u32),
    Text(&'a str),
}

impl AddedTokens {
    /// Gives every token its id: the model's where it has the string, else the next one after the
    /// model's (an id written in the file counts for nothing, as in the `tokenizers` crate). What
    /// is returned as an error is a shape whose meaning is the crate's own.
    pub(super) fn new(tokens: Vec<AddedToken>, model: &Unigram, normalizer: &Normalizer) -> Result<Self, String> {
        let mut entries: Vec<Entry> = Vec::with_capacity(tokens.len());
        let mut end = model.len() as u32;
        for token in tokens.into_iter().filter(|token| !token.content.is_empty()) {
            let id = model.id(&token.content).unwrap_or_else(|| {
                end += 1;
                end - 1
            });
            let form = match token.normalized.then(|| normalizer.apply(&token.content)) {
                Some(Ok(form)) => form.into_owned(),
                _ => token.content.clone(),
            };
            entries.push(Entry { token, id, form, special: false });
        }

        Self::from_entries(entries, end, char::is_whitespace)
    }

    /// Tokens whose ids are known; ids of the model are below `end`.
    pub(super) fn with_ids(tokens: Vec<(u32, AddedToken)>, end: u32, blank: fn(char) -> bool) -> Result<Self, String> {
        let end = tokens.iter().map(|(id, _)| id.saturating_add(1)).fold(end, u32::max);
        let entries =
            tokens.into_iter().map(|(id, token)| Entry { id, form: token.content.clone(), token, special: false });
        Self::from_entries(entries.collect(), end, blank)
    }

    fn from_entries(mut entries: Vec<Entry>, end: u32, blank: fn(char) -> bool) -> Result<Self, String> {
        // Repeated contents would share an id and be searched for twice.
        let mut contents = Strings::default();
        for entry in &entries {
            contents.push(&entry.token.content).map_err(too_many)?;
        }
        let contents = Pieces::new(contents).map_err(|twice| format!("the added token {} twice", quoted(&twice)))?;
        let special = |form: &str| (contents.find(form)).is_some_and(|at| entries[at as usize].token.special);
        let special: Vec<bool> = entries.iter().map(|entry| special(&entry.form)).collect();
        std::iter::zip(&mut entries, special).for_each(|(entry, special)| entry.special = special);

        let strips = entries.iter().any(|e| e.token.lstrip || e.token.rstrip);
        if strips && entries.iter().any(|e| e.form.starts_with(blank)) {
            return Err("added tokens that begin with white space beside others that strip it".into());
        }
        let mut by_id: Vec<(u32, u32)> = std::iter::zip(entries.iter().map(|e| e.id), 0..).collect();
        by_id.sort_unstable();
        Ok(Self {
            raw: Matcher::new(&entries, false)?,
            normalized: Matcher::new(&entries, true)?,
            entries,
            by_id,
            end,
            blank,
        })
    }

    /// One more than the greatest id.
    pub(super) fn end(&self) -> u32 {
        self.end
    }

    fn entry(&self, id: u32) -> Option<&Entry> {
        let at = self.by_id.binary_search_by_key(&id, |&(id, _)| id).ok()?;
        self.entries.get(self.by_id[at].1 as usize)
    }

    /// What an added token decodes to.
    pub(super) fn form(&self, id: u32) -> Option<&str> {
        self.entry(id).map(|entry| entry.form.as_str())
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        self.entry(id).is_some_and(|entry| entry.special)
    }

    pub(super) fn id(&self, content: &str) -> Option<u32> {
        (self.entries.iter()).find(|e| e.token.content == content).map(|e| e.id)
    }

    pub(super) fn any_normalized(&self) -> bool {
        self.normalized.pieces.len() > 0
    }

    /// Cuts the tokens that are looked for before (or after) normalisation out of `text`.
    pub(super) fn split<'a>(&self, text: &'a str, normalized: bool, mut take: impl FnMut(Span<'a>)) {
        let matcher = if normalized { &self.normalized } else { &self.raw };
        // `done` is the end of what was taken, `from` where the search goes on: a token may have
        // taken white space behind it.
        let (mut done, mut from) = (0, 0);
        while let Some((at, length, entry)) = matcher.next(text, from) {
            let Entry { token, id, .. } = &self.entries[entry as usize];
            let (mut start, mut end) = (at, at + length);
            from = end;
            if token.lstrip {
                start = text[..start].trim_end_matches(self.blank).len();
            }
            if token.rstrip {
                end = text.len() - text[end..].trim_start_matches(self.blank).len();
            }
            if done < start {
                take(Span::Text(&text[done..start]));
            }
            take(Span::Token(*id));
            done = end;
        }
        if done < text.len() {
            take(Span::Text(&text[done..]));
        }
    }
}

fn too_many(limit: String) -> String {
    format!("added tokens of more than {limit}")
}

/// Finds the leftmost, then longest, of a set of strings.
struct Matcher {
    pieces: Pieces,
    /// Place in `entries` of each.
    entries: Vec<u32>,
    first: [bool; 256],
}

impl Matcher {
    fn new(all: &[Entry], normalized: bool) -> Result<Self, String> {
        let mut strings = Strings::default();
        let mut entries = Vec::new();
        let mut first = [false; 256];
        for (place, entry) in (0..).zip(all) {
            if entry.token.normalized != normalized {
                continue;
            }
            let Some(&byte) = entry.form.as_bytes().first() else {
                return Err("an added token that normalises to nothing".into());
            };
            first[byte as usize] = true;
            strings.push(&entry.form).map_err(too_many)?;
            entries.push(place);
        }
        let pieces = Pieces::new(strings).map_err(|twice| format!("added tokens that are both {}", quoted(&twice)))?;
        Ok(Self { pieces, entries, first })
    }

    /// Place, length and entry of the first match at or after `from`.
    fn next(&self, text: &str, from: usize) -> Option<(usize, usize, u32)> {
        let bytes = text.as_bytes();
        let mut at = from;
        loop {
            at += bytes.get(at..)?.iter().position(|b| self.first[*b as usize])?;
            if let Some((number, length)) = self.pieces.prefixes(&bytes[at..]).next() {
                return Some((at, length, self.entries[number as usize]));
            }
            at += 1;
        }
    }
}
