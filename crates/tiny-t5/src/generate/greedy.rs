//! Greedy search: the best token, step by step; the first of equals.

use super::Search;
use super::rows::{Rows, Step};
use crate::error::Result;

pub(super) fn greedy(search: &mut Search<'_>, sources: &[&[u32]]) -> Box<Rows> {
    Rows::start(search, sources, 1, pick)
}

/// The best id of each row, through the LM head's screen where it serves.
fn pick(search: &mut Search<'_>, step: &Step<'_>, picked: &mut Vec<u32>) -> Result<()> {
    search.best(step, picked)
}
