//! Greedy search: the best token, step by step; the first of equals.

use super::processors::{Context, Processor};
use super::{Finish, Found, Search};
use crate::decoder::Feed;
use crate::error::Result;
use crate::lm_head::Scores;

struct Row<'a> {
    /// The start token and what was generated.
    ids: Vec<u32>,
    source: &'a [u32],
    /// Its place among the sources, and of its cache.
    index: usize,
}

/// Generates one sequence for each source. The sources' cross-attention is in place.
pub(crate) fn greedy(search: &mut Search<'_>, sources: &[&[u32]]) -> Result<Vec<Vec<Found>>> {
    let settings = search.settings;
    search.begin(sources.len());
    let mut found: Vec<Vec<Found>> = sources.iter().map(|_| Vec::new()).collect();
    let mut rows: Vec<Row<'_>> = Vec::with_capacity(sources.len());
    for (index, source) in sources.iter().enumerate() {
        let mut ids = Vec::with_capacity(settings.max_new_tokens.min(super::RESERVE) + 1);
        ids.push(settings.start);
        rows.push(Row { ids, source, index });
    }
    let mut best = Vec::with_capacity(rows.len());
    while !rows.is_empty() {
        search.feed(rows.iter().map(|row| (row.index, row.index, *row.ids.last().unwrap_or(&settings.start))));
        search.best(&Rows { rows: &rows, processors: &settings.processors }, &mut best)?;
        let mut ids = best.iter();
        // Finished rows leave the batch; the others keep their order.
        rows.retain_mut(|row| {
            let id = *ids.next().unwrap_or(&settings.start);
            row.ids.push(id);
            let finish = match settings.eos.contains(&id) {
                true => Finish::Eos,
                false if row.ids.len() > settings.max_new_tokens => Finish::Length,
                false => return true,
            };
            let ids = row.ids.split_off(1);
            found[row.index].push(Found { ids, score: None, finish });
            false
        });
    }
    Ok(found)
}

/// The rows of a step, with the processors that change their scores.
struct Rows<'a> {
    rows: &'a [Row<'a>],
    processors: &'a [Box<dyn Processor>],
}

impl Rows<'_> {
    fn context(&self, row: usize) -> Context<'_> {
        let Row { ids, source, .. } = &self.rows[row];
        Context { ids, source }
    }
}

impl Scores for Rows<'_> {
    fn touches(&self, row: usize, ids: &mut Vec<u32>) -> bool {
        self.processors.iter().all(|processor| processor.touches(&self.context(row), ids))
    }

    fn process(&self, row: usize, scores: &mut [f32]) {
        self.processors.iter().for_each(|processor| processor.process(&self.context(row), scores));
    }
}

impl Search<'_> {
    /// Names the tokens of the next step: (cache, source, id), one a sequence.
    pub(crate) fn feed(&mut self, tokens: impl Iterator<Item = (usize, usize, u32)>) {
        let state = &mut *self.state;
        state.feeds.clear();
        state.ids.clear();
        for (row, (cache, source, id)) in tokens.enumerate() {
            state.feeds.push(Feed { cache, source, rows: row..row + 1 });
            state.ids.push(id);
        }
    }
}
