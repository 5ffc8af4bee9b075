//! Tokens as they come.

use crate::error::Result;
use crate::generate::{Finish, Search, Settings, State, Strategy};
use crate::lm_head::LmHead;
use crate::stack::{Exec, Stack};
use crate::t5::T5;
use crate::tokenizer::TextStream;
use std::time::Instant;
use tiny_t5_kernels::{Isa, Team};

/// What a step of a [`Stream`] brings.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Step {
    /// Ids that are final now: one, or with beams none or several.
    pub ids: Vec<u32>,
    /// Text that is final now; empty where the ids complete no character, or there is no tokenizer.
    pub text: String,
    /// Why the sequence ended, in its last step.
    pub finish: Option<Finish>,
}

/// An iterator of steps: see [`T5::stream`].
pub struct Stream<'a> {
    t5: &'a T5,
    parts: (&'a Stack, &'a LmHead),
    settings: Settings,
    /// Goes back to the model when the stream is dropped.
    state: State,
    team: Team,
    isa: Isa,
    source: Vec<u32>,
    strategy: Option<Box<dyn Strategy>>,
    text: Option<TextStream<'a>>,
    /// Ids that were handed out.
    given: Vec<u32>,
    begun: Instant,
    done: bool,
}

impl<'a> Stream<'a> {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        t5: &'a T5,
        parts: (&'a Stack, &'a LmHead),
        settings: Settings,
        state: State,
        team: Team,
        isa: Isa,
        source: Vec<u32>,
        text: Option<TextStream<'a>>,
    ) -> Stream<'a> {
        let (strategy, given, begun) = (None, Vec::new(), Instant::now());
        Stream { t5, parts, settings, state, team, isa, source, strategy, text, given, begun, done: false }
    }

    /// The source's ids.
    #[must_use]
    pub fn input_ids(&self) -> &[u32] {
        &self.source
    }

    fn step(&mut self) -> Result<Option<Step>> {
        let (decoder, head) = self.parts;
        let exec = Exec { isa: self.isa, team: &self.team };
        let parts = (self.t5.model(), decoder, head);
        let mut search = Search::new(parts, exec, &self.settings, &mut self.state, &[0], self.begun);
        let strategy = self.strategy.get_or_insert_with(|| search.start(&[&self.source]));
        strategy.step(&mut search)?;
        if search.is_late() {
            strategy.stop();
        }
        let mut finish = None;
        let ids: Vec<u32> = if strategy.is_done() {
            self.done = true;
            let best = strategy.found().into_iter().flatten().next();
            finish = best.as_ref().map(|found| found.finish);
            best.map(|found| found.ids[self.given.len()..].to_vec()).unwrap_or_default()
        } else {
            strategy.settled(0).get(self.given.len()..).unwrap_or_default().to_vec()
        };
        self.given.extend_from_slice(&ids);
        let mut text = String::new();
        if let Some(stream) = &mut self.text {
            for id in &ids {
                text += &stream.push(*id)?;
            }
        }
        if self.done
            && let Some(stream) = self.text.take()
        {
            text += &stream.finish()?;
        }
        Ok(Some(Step { ids, text, finish }))
    }
}

impl Iterator for Stream<'_> {
    type Item = Result<Step>;

    fn next(&mut self) -> Option<Result<Step>> {
        if self.done {
            return None;
        }
        let step = self.step();
        if step.is_err() {
            self.done = true;
        }
        step.transpose()
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        self.t5.states().push(std::mem::take(&mut self.state));
    }
}
