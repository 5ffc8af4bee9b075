//! What calls are given, and what it may be made of.

/// What a call works on: a text, or ids exactly as given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source<'a> {
    /// A text; the tokenizer appends its end token.
    Text(&'a str),
    /// Ids; nothing is appended.
    Ids(&'a [u32]),
}

impl<'a> Source<'a> {
    /// A list of texts, or of lists of ids, for the calls that take a batch.
    ///
    /// ```
    /// let words: Vec<String> = vec!["hello".into(), "world".into()];
    /// assert_eq!(tiny_t5::Source::list(&words).len(), 2);
    /// ```
    pub fn list<T>(sources: &'a [T]) -> Vec<Source<'a>>
    where
        Source<'a>: From<&'a T>,
    {
        sources.iter().map(Source::from).collect()
    }
}

impl<'a> From<&'a str> for Source<'a> {
    fn from(text: &'a str) -> Self {
        Source::Text(text)
    }
}

/// What iterating over a list of texts gives.
impl<'a> From<&&'a str> for Source<'a> {
    fn from(text: &&'a str) -> Self {
        Source::Text(text)
    }
}

impl<'a> From<&'a String> for Source<'a> {
    fn from(text: &'a String) -> Self {
        Source::Text(text)
    }
}

impl<'a> From<&'a [u32]> for Source<'a> {
    fn from(ids: &'a [u32]) -> Self {
        Source::Ids(ids)
    }
}

impl<'a> From<&'a Vec<u32>> for Source<'a> {
    fn from(ids: &'a Vec<u32>) -> Self {
        Source::Ids(ids)
    }
}

impl<'a, const N: usize> From<&'a [u32; N]> for Source<'a> {
    fn from(ids: &'a [u32; N]) -> Self {
        Source::Ids(ids)
    }
}
