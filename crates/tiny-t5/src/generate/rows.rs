//! One token at a time for every sequence: what greedy search and sampling share. They differ in how a token is picked.

use super::processors::{Context, Rules};
use super::{Finish, Found, Search, Spare, Strategy};
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

/// Picks the next id of each row.
type Pick = fn(&mut Search<'_>, &Step<'_>, &mut Vec<u32>) -> Result<()>;

/// Sequences that grow token by token.
pub(crate) struct Rows {
    sources: Texts,
    rows: Vec<Row>,
    /// With the source and which of its sequences it is.
    found: Vec<(usize, usize, Found)>,
    picked: Vec<u32>,
    pick: Pick,
    /// Lists of ids that no row has.
    free: Vec<Vec<u32>>,
}

/// Lists of ids, one behind the other: of the sources, or of sequences that are known.
#[derive(Default)]
pub(super) struct Texts {
    ids: Vec<u32>,
    ends: Vec<usize>,
}

impl Texts {
    pub(super) fn clear(&mut self) {
        self.ids.clear();
        self.ends.clear();
    }

    /// Appends a list, which is given in parts.
    pub(super) fn push(&mut self, parts: &[&[u32]]) {
        parts.iter().for_each(|part| self.ids.extend_from_slice(part));
        self.ends.push(self.ids.len());
    }

    pub(super) fn set(&mut self, texts: &[&[u32]]) {
        self.clear();
        texts.iter().for_each(|text| self.push(&[text]));
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn get(&self, text: usize) -> &[u32] {
        let first = if text == 0 { 0 } else { self.ends[text - 1] };
        &self.ids[first..self.ends[text]]
    }
}

/// The rows of a step, with the processors that change their scores.
pub(super) struct Step<'a> {
    pub(super) rows: &'a [Row],
    sources: &'a Texts,
    rules: Rules<'a>,
    prompt: usize,
    numbers: &'a [usize],
}

impl Step<'_> {
    fn context(&self, row: usize) -> Context<'_> {
        let Row { ids, source, .. } = &self.rows[row];
        Context { ids, prompt: self.prompt, source: self.sources.get(*source), index: self.numbers[*source] }
    }
}

impl Scores for Step<'_> {
    fn touches(&self, row: usize, ids: &mut Vec<u32>) -> bool {
        self.rules.touches(&self.context(row), ids)
    }

    fn process(&self, row: usize, scores: &mut [f32]) {
        self.rules.process(&self.context(row), scores);
    }
}

impl Rows {
    /// `samples` sequences for each source, on the memory of an earlier search.
    pub(super) fn start(search: &mut Search<'_>, sources: &[&[u32]], samples: usize, pick: Pick) -> Box<Rows> {
        let settings = search.settings;
        let count = sources.len() * samples;
        search.begin((0..count).map(|cache| (cache, cache / samples)));
        let mut this = search.state.spare.rows.take().unwrap_or_else(|| {
            let (sources, rows, found, picked, free) = Default::default();
            Box::new(Rows { sources, rows, found, picked, pick, free })
        });
        let Rows { sources: own, rows, found, free, .. } = &mut *this;
        own.set(sources);
        found.clear();
        free.extend(rows.drain(..).map(|row| row.ids));
        rows.extend((0..count).map(|cache| {
            let mut ids = free.pop().unwrap_or_default();
            ids.clear();
            ids.reserve(settings.prompt.len() + settings.max_new_tokens.min(super::RESERVE));
            ids.extend_from_slice(&settings.prompt);
            Row { ids, source: cache / samples, sample: cache % samples, cache }
        }));
        this.pick = pick;
        this
    }
}

impl Strategy for Rows {
    fn step(&mut self, search: &mut Search<'_>) -> Result<()> {
        let prompt = search.settings.prompt.len();
        search.feed(self.rows.iter().map(|row| (row.cache, row.source, row.ids[row.ids.len() - 1])));
        let (sources, numbers) = (&self.sources, search.numbers);
        let step = Step { rows: &self.rows, sources, rules: search.rules(), prompt, numbers };
        (self.pick)(search, &step, &mut self.picked)?;
        let mut picked = self.picked.iter();
        let Rows { found, free, .. } = self;
        // Finished rows leave the batch; the others keep their order.
        self.rows.retain_mut(|row| {
            row.ids.extend(picked.next());
            let source = row.source;
            let context = Context { ids: &row.ids, prompt, source: sources.get(source), index: numbers[source] };
            let Some(finish) = search.finish(&context) else { return true };
            let ids = row.ids.split_off(1);
            found.push((row.source, row.sample, Found::new(ids, None, finish)));
            free.push(std::mem::take(&mut row.ids));
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
            self.found.push((row.source, row.sample, Found::new(ids, None, Finish::Stopped)));
            self.free.push(row.ids);
        }
    }

    fn settled(&self, source: usize) -> &[u32] {
        match self.rows.iter().find(|row| row.source == source) {
            Some(row) => &row.ids[1..],
            None => self.found.iter().find(|(of, ..)| *of == source).map_or(&[], |(.., found)| &found.ids),
        }
    }

    fn found(&mut self, found: &mut [Vec<Found>]) {
        self.found.sort_unstable_by_key(|(source, sample, _)| (*source, *sample));
        self.found.drain(..).for_each(|(source, _, one)| found[source].push(one));
    }

    fn put_back(self: Box<Self>, spare: &mut Spare) {
        spare.rows = Some(self);
    }
}
