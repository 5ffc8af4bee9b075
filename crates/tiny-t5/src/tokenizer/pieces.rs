//! A set of strings that answers "which of them does this text begin with", built in a millisecond.
//!
//! The strings are sorted, and each knows the longest other one that it begins with (its parent).
//! Take the last string `q` that is not greater than the text. Every string `x` that the text
//! begins with satisfies `x <= q <= text`, so `q` begins with `x` too: the answers are exactly
//! those of `q` and its ancestors that are no longer than what `q` and the text share. One binary
//! search finds them all, and the time does not depend on the longest string. A trie answers the
//! same question a little faster and takes several times as long to build, which is what a
//! process that encodes one text and exits would pay for.

use std::cmp::Ordering;

const NONE: u32 = u32::MAX;

/// Bounds on what a file may make us allocate; mT5, the largest T5 vocabulary, has 250,112 pieces
/// and 3 MB of text.
const MAX_PIECES: usize = 1 << 19;
const MAX_TEXT: usize = 16 << 20;

/// Strings by number, in one allocation.
#[derive(Default)]
pub(super) struct Strings {
    text: String,
    ends: Vec<u32>,
}

impl Strings {
    pub(super) fn with_capacity(strings: usize, bytes: usize) -> Self {
        Self { text: String::with_capacity(bytes), ends: Vec::with_capacity(strings) }
    }

    /// Appends a string; an error names the limit that there would be more than.
    pub(super) fn push(&mut self, string: &str) -> Result<(), String> {
        if self.ends.len() >= MAX_PIECES {
            return Err(format!("{MAX_PIECES} pieces"));
        }
        if self.text.len() + string.len() > MAX_TEXT {
            return Err(format!("{MAX_TEXT} bytes of pieces"));
        }
        self.text.push_str(string);
        self.ends.push(self.text.len() as u32);
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn get(&self, number: u32) -> Option<&str> {
        self.range(number).map(|(start, end)| &self.text[start..end])
    }

    #[inline(always)] // here and below: the binary builds this crate for size, and reads 32,100 pieces at its start
    fn range(&self, number: u32) -> Option<(usize, usize)> {
        let at = number as usize;
        let end = *self.ends.get(at)? as usize;
        Some((if at == 0 { 0 } else { self.ends[at - 1] as usize }, end))
    }

    #[inline(always)]
    fn length(&self, number: u32) -> usize {
        self.range(number).map_or(0, |(start, end)| end - start)
    }

    /// `prefix` of a string.
    #[inline(always)]
    fn prefix(&self, number: u32) -> u128 {
        let (start, end) = self.range(number).unwrap_or_default();
        let length = end - start;
        match self.text.as_bytes()[start..].first_chunk::<16>() {
            // What lies behind the string is loaded too, and cut off.
            Some(chunk) if length < 12 => (u128::from_be_bytes(*chunk) & LEADING[length]) >> 32,
            _ => prefix(self.bytes(number)),
        }
    }

    /// Bytes of a string that is known to be there.
    fn bytes(&self, number: u32) -> &[u8] {
        self.range(number).map_or(&[], |(start, end)| &self.text.as_bytes()[start..end])
    }
}

/// The leading bytes of sixteen, by how many.
const LEADING: [u128; 12] = {
    let mut leading = [0; 12];
    let mut count = 1;
    while count < leading.len() {
        leading[count] = u128::MAX << (128 - 8 * count);
        count += 1;
    }
    leading
};

/// The first twelve bytes as a number that sorts as they do, in the lower 96 bits.
fn prefix(bytes: &[u8]) -> u128 {
    match bytes.first_chunk::<16>() {
        Some(chunk) => u128::from_be_bytes(*chunk) >> 32,
        None => {
            let mut chunk = [0; 16];
            chunk[..bytes.len()].copy_from_slice(bytes);
            u128::from_be_bytes(chunk) >> 32
        }
    }
}

/// Whether the string of a sorted entry begins with that of one before it.
#[inline(always)]
fn begins_with(strings: &Strings, entry: u128, above: u128) -> bool {
    let length = strings.length(above as u32);
    if length > 12 {
        return strings.bytes(entry as u32).starts_with(strings.bytes(above as u32));
    }
    // Zero bytes at the end do not show in the numbers, but the entry that has fewer sorts first.
    match LEADING.get(length) {
        Some(leading) => (entry ^ above) & leading == 0,
        None => entry >> 32 == above >> 32,
    }
}

/// Distinct strings and the order that finds prefixes among them.
pub(super) struct Pieces {
    strings: Strings,
    /// In sorted order: the first twelve bytes, above the number.
    sorted: Vec<u128>,
    /// Rank in that order of the parent.
    parents: Vec<u32>,
}

impl Pieces {
    /// Sorts `strings`; a string that is there twice is an error, and is returned.
    pub(super) fn new(strings: Strings) -> Result<Self, String> {
        let count = strings.len();
        // Integers sort three times as fast as strings, and leave few runs to sort by what follows
        // the twelfth byte.
        let mut sorted: Vec<u128> =
            (0..count as u32).map(|number| strings.prefix(number) << 32 | u128::from(number)).collect();
        sorted.sort_unstable();
        let number = |entry: u128| entry as u32;
        for run in sorted.chunk_by_mut(|a, b| a >> 32 == b >> 32) {
            if run.len() > 1 {
                run.sort_unstable_by_key(|&entry| strings.bytes(number(entry)));
            }
        }

        let mut parents = vec![NONE; count];
        // Ranks of the strings that the one before begins with, itself included.
        let mut open: Vec<u32> = Vec::new();
        for (rank, &entry) in sorted.iter().enumerate() {
            while let Some(&top) = open.last() {
                let above = sorted[top as usize];
                if begins_with(&strings, entry, above) {
                    parents[rank] = top;
                    break;
                }
                open.pop();
            }
            let parent = parents[rank];
            if parent != NONE {
                let (own, above) = (number(entry), number(sorted[parent as usize]));
                if strings.length(own) == strings.length(above) {
                    return Err(strings.get(own).unwrap_or_default().to_owned());
                }
            }
            open.push(rank as u32);
        }
        Ok(Self { sorted, parents, strings })
    }

    pub(super) fn len(&self) -> usize {
        self.strings.len()
    }

    pub(super) fn get(&self, number: u32) -> Option<&str> {
        self.strings.get(number)
    }

    /// Number of the string that equals `text`.
    pub(super) fn find(&self, text: &str) -> Option<u32> {
        let number = self.number(self.last_not_after(text.as_bytes())?);
        (self.strings.bytes(number) == text.as_bytes()).then_some(number)
    }

    /// Number and length of every string that `text` begins with, longest first; never the empty one.
    pub(super) fn prefixes<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (u32, usize)> + 'a {
        let mut rank = self.last_not_after(text).unwrap_or(NONE);
        let mut shared = 0;
        if rank != NONE {
            let bytes = self.strings.bytes(self.number(rank));
            shared = std::iter::zip(bytes, text).take_while(|(a, b)| a == b).count();
        }
        std::iter::from_fn(move || {
            while rank != NONE {
                let number = self.number(rank);
                let length = self.strings.bytes(number).len();
                rank = self.parents[rank as usize];
                if length == 0 {
                    return None;
                }
                if length <= shared {
                    return Some((number, length));
                }
            }
            None
        })
    }

    fn number(&self, rank: u32) -> u32 {
        self.sorted[rank as usize] as u32
    }

    /// Rank of the last string in sorted order that is not greater than `text`.
    fn last_not_after(&self, text: &[u8]) -> Option<u32> {
        let wanted = prefix(text);
        let mut low = 0;
        let mut high = self.sorted.len();
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = self.sorted[middle];
            let not_after = match (entry >> 32).cmp(&wanted) {
                Ordering::Less => true,
                Ordering::Greater => false,
                Ordering::Equal => self.strings.bytes(entry as u32) <= text,
            };
            if not_after {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low.checked_sub(1).map(|rank| rank as u32)
    }
}
