//! Greedy search of one sequence in fewer passes: tokens are guessed, and one pass of the decoder checks several at once.
//!
//! A pass over several tokens reads the weights once and computes at each position the bits that a step computes there, so the
//! ids are those of plain greedy search whatever is guessed: a wrong guess costs time, never a token.
//!
//! - Copies: where the last tokens stood before, in the source or in the output, what followed there is guessed. Guessing is
//!   free.
//! - Drafts: a copy of the decoder at 8 bits goes ahead. It reads a quarter of the bytes, attends to the exact keys and values
//!   of everything that was checked, and its own few go when they have been checked.
//!
//! How many tokens to guess follows from how many guesses held, from what rows and drafts cost, and from what guessing may lose
//! ([`Pace`](super::pace::Pace)); where it does not pay, steps are plain ones. No clock decides: what earlier calls of
//! the same buffers saw does.
//!
//! Sources: Leviathan et al., *Fast Inference from Transformers via Speculative Decoding* (arXiv:2211.17192), for the expected
//! number of tokens; Saxena, *Prompt Lookup Decoding* (2023), for copies.

use super::pace::{Costs, Way};
use super::processors::{Context, Rules};
use super::{Found, Search, Spare, Strategy};
use crate::decoder::Feed;
use crate::error::Result;
use crate::generate::Finish;
use crate::lm_head::Scores;

/// Most tokens that are guessed at once: further ones would seldom be reached.
const MOST: usize = 8;
/// The longest run of last tokens that is looked for, and the shortest.
const RUN: std::ops::RangeInclusive<usize> = 2..=4;
/// A row more in a pass that waits for memory, and where the decoder lies in the caches of a core.
const ROW: f64 = 0.1;
const ROW_IN_CACHE: f64 = 0.3;
/// What is assumed where the caller asks for a way of guessing, who knows that it pays.
const ASKED: Costs = Costs { row: ROW, draft: 0.33 };

/// A sequence whose next tokens are guessed.
pub(crate) struct Speculation {
    source: Vec<u32>,
    /// The prompt and what was generated; behind `len` of them, guesses.
    ids: Vec<u32>,
    len: usize,
    picked: Vec<u32>,
    found: Option<Found>,
    copies: bool,
    drafts: bool,
    costs: Costs,
}

/// The rows of a pass: the last token and the guesses behind it.
struct Guessed<'a> {
    ids: &'a [u32],
    /// Ids that row 0 has seen.
    first: usize,
    source: &'a [u32],
    rules: Rules<'a>,
    prompt: usize,
    index: usize,
}

impl Guessed<'_> {
    fn context(&self, row: usize) -> Context<'_> {
        Context { ids: &self.ids[..self.first + row], prompt: self.prompt, source: self.source, index: self.index }
    }
}

impl Scores for Guessed<'_> {
    fn touches(&self, row: usize, ids: &mut Vec<u32>) -> bool {
        self.rules.touches(&self.context(row), ids)
    }

    fn process(&self, row: usize, scores: &mut [f32]) {
        self.rules.process(&self.context(row), scores);
    }
}

impl Speculation {
    /// On the memory of an earlier one.
    pub(super) fn start(search: &mut Search<'_>, source: &[u32], copies: bool, drafts: bool) -> Box<Speculation> {
        search.begin([(0, 0)].into_iter());
        let settings = search.settings;
        let costs = match settings.speculation {
            crate::options::Speculation::Auto => Costs {
                row: if search.model.steps_wait_for_memory { ROW } else { ROW_IN_CACHE },
                draft: search.model.draft_cost,
            },
            _ => ASKED,
        };
        let mut this = search.state.spare.speculation.take().unwrap_or_else(|| {
            let (source, ids, picked) = Default::default();
            Box::new(Speculation { source, ids, len: 0, picked, found: None, copies, drafts, costs })
        });
        let Speculation { source: own, ids, .. } = &mut *this;
        own.clear();
        own.extend_from_slice(source);
        ids.clear();
        ids.reserve(settings.prompt.len() + settings.max_new_tokens.min(super::RESERVE) + MOST);
        ids.extend_from_slice(&settings.prompt);
        this.len = this.ids.len();
        (this.found, this.copies, this.drafts, this.costs) = (None, copies, drafts, costs);
        this
    }

    /// Appends guesses to `ids`.
    fn guess(&mut self, search: &mut Search<'_>) -> Result<Way> {
        let settings = search.settings;
        // The last token that may come needs no guess.
        let left = (settings.prompt.len() + settings.max_new_tokens).saturating_sub(self.len + 1).min(MOST);
        let copied = if self.copies { copy(&self.source, &self.ids) } else { &[] };
        let drafts = if self.drafts { left } else { 0 };
        let (way, n) = search.state.pace.best(left.min(copied.len()), drafts, self.costs);
        if way == Way::Copies {
            let mut guesses = [0; MOST];
            guesses[..n].copy_from_slice(&copied[..n]);
            self.ids.extend_from_slice(&guesses[..n]);
        }
        if way != Way::Drafts {
            return Ok(way);
        }
        for _ in 0..n {
            let last = self.ids.len() - 1;
            self.pass(search, last, true)?;
            self.ids.push(self.picked[0]);
        }
        search.state.decoder.caches[0].truncate(self.len - 1);
        Ok(way)
    }

    /// Decodes the ids from `from` on; `picked` has the best id behind each.
    fn pass(&mut self, search: &mut Search<'_>, from: usize, draft: bool) -> Result<()> {
        let settings = search.settings;
        let state = &mut *search.state;
        state.feeds.clear();
        state.feeds.push(Feed { cache: 0, source: 0, rows: 0..self.ids.len() - from });
        state.ids.clear();
        state.ids.extend_from_slice(&self.ids[from..]);
        let scores = Guessed {
            ids: &self.ids,
            first: from + 1,
            source: &self.source,
            rules: search.rules(),
            prompt: settings.prompt.len(),
            index: search.numbers[0],
        };
        match draft {
            true => search.draft(&scores, &mut self.picked),
            false => search.best(&scores, &mut self.picked),
        }
    }
}

impl Strategy for Speculation {
    fn step(&mut self, search: &mut Search<'_>) -> Result<()> {
        let settings = search.settings;
        let way = self.guess(search)?;
        self.pass(search, self.len - 1, false)?;
        let guessed = self.ids.len() - self.len;
        let held = self.picked.iter().zip(&self.ids[self.len..]).take_while(|(picked, guess)| picked == guess).count();
        self.ids.truncate(self.len);
        for id in &self.picked[..=held] {
            self.ids.push(*id);
            let (prompt, index) = (settings.prompt.len(), search.numbers[0]);
            let context = Context { ids: &self.ids, prompt, source: &self.source, index };
            if let Some(finish) = search.finish(&context) {
                self.found = Some(Found::new(self.ids.split_off(1), None, finish));
                break;
            }
        }
        let new = self.ids.len().saturating_sub(self.len);
        self.len = self.ids.len();
        search.state.decoder.caches[0].truncate(self.len.saturating_sub(1));

        search.state.pace.see(way, guessed, held, new, self.costs);
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.found.is_some()
    }

    fn stop(&mut self) {
        if self.found.is_none() {
            self.found = Some(Found::new(self.ids.split_off(1), None, Finish::Stopped));
        }
    }

    fn settled(&self, _: usize) -> &[u32] {
        match &self.found {
            Some(found) => &found.ids,
            None => &self.ids[1..],
        }
    }

    fn found(&mut self, found: &mut [Vec<Found>]) {
        found[0].extend(self.found.take());
    }

    fn put_back(self: Box<Self>, spare: &mut Spare) {
        spare.speculation = Some(self);
    }
}

/// What followed the last ids where they stood before: the longest run of them, in the output first, the latest place first.
fn copy<'a>(source: &'a [u32], ids: &'a [u32]) -> &'a [u32] {
    for run in RUN.rev() {
        let Some(last) = ids.len().checked_sub(run).map(|from| &ids[from..]) else { continue };
        for text in [&ids[..ids.len() - 1], source] {
            let place = text.windows(run).rposition(|window| window == last);
            if let Some(after) = place.map(|place| &text[place + run..]).filter(|after| !after.is_empty()) {
                return after;
            }
        }
    }
    &[]
}
