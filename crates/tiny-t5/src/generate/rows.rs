//! One token at a time for every sequence: what greedy search and sampling share. They differ in how a token is picked.

use super::processors::{Context, Processor};
use super::{Finish, Found, Search, Strategy};
use crate::error::Result;
use crate::lm_head::Scores;

/// A sequence at work.
pub(super) struct Row {
    /// The prompt (start token and prefix) and what was generated.
    pub(super) ids: Vec<u32>,
    /// Which source, and which of its sequences.
    pub(super) source: usize,
    pub(super) sample: usize,
    cache: usize,
}

/// Sequences that grow token by token.
pub(super) struct Rows {
    sources: Vec<Vec<u32>>,
    rows: Vec<Row>,
    found: Vec<Vec<(usize, Found)>>,
    picked: Vec<u32>,
    /// Picks the next id of each row.
    pick: fn(&mut Search<'_>, &Step<'_>, &mut Vec<u32>) -> Result<()>,
}

/// The rows of a step, with the processors that change their scores.
pub(super) struct Step<'a> {
    pub(super) rows: &'a [Row],
    sources: &'a [Vec<u32>],
    processors: &'a [Box<dyn Processor + 'a>],
    prompt: usize,
    numbers: &'a [usize],
}

impl Step<'_> {
    fn context(&self, row: usize) -> Context<'_> {
        let Row { ids, source, .. } = &self.rows[row];
        Context { ids, prompt: self.prompt, source: &self.sources[*source], index: self.numbers[*source] }
    }
}

impl Scores for Step<'_> {
    fn touches(&self, row: usize, ids: &mut Vec<u32>) -> bool {
        self.processors.iter().all(|processor| processor.touches(&self.context(row), ids))
    }

    fn process(&self, row: usize, scores: &mut [f32]) {
        self.processors.iter().for_each(|processor| processor.process(&self.context(row), scores));
    }
}

impl Rows {
    /// `samples` sequences for each source.
    pub(super) fn new(
        search: &mut Search<'_>,
        sources: &[&[u32]],
        samples: usize,
        pick: fn(&mut Search<'_>, &Step<'_>, &mut Vec<u32>) -> Result<()>,
    ) -> Rows {
        let settings = search.settings;
        let count = sources.len() * samples;
        search.begin((0..count).map(|cache| (cache, cache / samples)));
        let row = |cache| {
            let mut ids = Vec::with_capacity(settings.prompt.len() + settings.max_new_tokens.min(super::RESERVE));
            ids.extend_from_slice(&settings.prompt);
            Row { ids, source: cache / samples, sample: cache % samples, cache }
        };
        Rows {
            sources: sources.iter().map(|ids| ids.to_vec()).collect(),
            rows: (0..count).map(row).collect(),
            found: sources.iter().map(|_| Vec::new()).collect(),
            picked: Vec::with_capacity(count),
            pick,
        }
    }
}

impl Strategy for Rows {
    fn step(&mut self, search: &mut Search<'_>) -> Result<()> {
        let settings = search.settings;
        let prompt = settings.prompt.len();
        search.feed(self.rows.iter().map(|row| (row.cache, row.source, row.ids[row.ids.len() - 1])));
        let (sources, numbers) = (&self.sources, search.numbers);
        let step = Step { rows: &self.rows, sources, processors: &settings.processors, prompt, numbers };
        (self.pick)(search, &step, &mut self.picked)?;
        let mut picked = self.picked.iter();
        let found = &mut self.found;
        // Finished rows leave the batch; the others keep their order.
        self.rows.retain_mut(|row| {
            row.ids.extend(picked.next());
            let source = row.source;
            let context = Context { ids: &row.ids, prompt, source: &sources[source], index: numbers[source] };
            let Some(finish) = settings.finish(&context) else { return true };
            let ids = row.ids.split_off(1);
            found[row.source].push((row.sample, Found { ids, score: None, finish }));
            false
        });
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.rows.is_empty()
    }

    fn stop(&mut self) {
        for mut row in self.rows.drain(..) {
            let ids = row.ids.split_off(1);
            self.found[row.source].push((row.sample, Found { ids, score: None, finish: Finish::Stopped }));
        }
    }

    fn settled(&self, source: usize) -> &[u32] {
        match self.rows.iter().find(|row| row.source == source) {
            Some(row) => &row.ids[1..],
            None => self.found[source].first().map_or(&[], |(_, found)| &found.ids),
        }
    }

    fn found(&mut self) -> Vec<Vec<Found>> {
        let in_order = |mut found: Vec<(usize, Found)>| {
            found.sort_by_key(|(sample, _)| *sample);
            found.into_iter().map(|(_, found)| found).collect()
        };
        self.found.drain(..).map(in_order).collect()
    }
}
