//! The Unigram model: the segmentation of a word with the greatest sum of scores.
//!
//! ```text
//! best[0] = 0
//! for every character position p of the word:
//!     for every piece that begins at p:   best[p + length] = max(best[p] + score)
//!     if none is that one character:      best[p + 1 char] = max(best[p] + lowest score - 10), unknown
//! walk back from the end; unknowns in a row become one
//! ```
//! Sums are f64, left to right, and the first of equals stays: the choices of the `tokenizers`
//! crate, so that ties fall the same way.

use super::error::{TokenizerError, quoted};
use super::pieces::Pieces;

/// What an unknown character costs below the worst piece.
const UNKNOWN_PENALTY: f64 = 10.0;

const NO_START: u32 = u32::MAX;

/// Pieces with their scores.
pub(super) struct Unigram {
    pieces: Pieces,
    scores: Vec<f64>,
    unknown: Option<u32>,
    unknown_score: f64,
}

/// The best way to reach a byte position.
#[derive(Clone, Copy)]
struct Node {
    score: f64,
    start: u32,
    id: u32,
}

/// Memory that one text's words share.
#[derive(Default)]
pub(super) struct Lattice {
    nodes: Vec<Node>,
}

impl Unigram {
    /// `scores` has one number a piece, `unknown` is below their count.
    pub(super) fn new(pieces: Pieces, scores: Vec<f64>, unknown: Option<u32>) -> Self {
        let lowest = scores.iter().fold(f64::INFINITY, |low, &s| if s < low { s } else { low });
        Self { pieces, scores, unknown, unknown_score: lowest - UNKNOWN_PENALTY }
    }

    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    pub(super) fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    pub(super) fn piece(&self, id: u32) -> Option<&str> {
        self.pieces.get(id)
    }

    pub(super) fn id(&self, piece: &str) -> Option<u32> {
        self.pieces.find(piece)
    }

    /// Appends the ids of a word.
    pub(super) fn encode(&self, word: &str, lattice: &mut Lattice, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let no_unknown = || TokenizerError::NoUnknown { found: quoted(word) };
        let bytes = word.as_bytes();
        if u32::try_from(bytes.len()).is_err() {
            return Err(TokenizerError::TooLong { bytes: bytes.len() });
        }
        let nodes = &mut lattice.nodes;
        nodes.clear();
        let unreached = Node { score: 0.0, start: NO_START, id: 0 };
        nodes.resize(bytes.len() + 1, unreached);

        for (start, character) in word.char_indices() {
            let here = nodes[start].score;
            let one = character.len_utf8();
            let mut has_single = false;
            let mut reach = |length: usize, score: f64, id: Option<u32>| {
                let node = &mut nodes[start + length];
                let score = score + here;
                if node.start == NO_START || score > node.score {
                    *node = Node { score, start: start as u32, id: id? };
                }
                Some(())
            };
            for (id, length) in self.pieces.prefixes(&bytes[start..]) {
                has_single |= length == one;
                reach(length, self.scores[id as usize], Some(id));
            }
            if !has_single {
                reach(one, self.unknown_score, self.unknown).ok_or_else(no_unknown)?;
            }
        }

        let first = ids.len();
        let mut end = bytes.len();
        while end > 0 {
            let mut node = nodes[end];
            let mut start = node.start as usize;
            if Some(node.id) == self.unknown {
                while start > 0 && Some(nodes[start].id) == self.unknown {
                    start = nodes[start].start as usize;
                }
                // The run as a whole may be a piece: it lost against its parts, yet its name wins.
                if let Some(id) = self.pieces.find(&word[start..end]) {
                    node.id = id;
                }
            }
            ids.push(node.id);
            end = start;
        }
        ids[first..].reverse();
        Ok(())
    }
}
