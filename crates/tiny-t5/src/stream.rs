//! Tokens as they come.

use crate::error::{Error, Result};
use crate::generate::{Finish, Search, Settings, State, Strategy};
use crate::lm_head::LmHead;
use crate::options::Generate;
use crate::stack::{Exec, Stack};
use crate::t5::{Source, T5};
use crate::tokenizer::{TextStream, Tokenizer};
use std::time::Instant;
use tiny_t5_kernels::Team;

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
    source: Vec<u32>,
    strategy: Option<Box<dyn Strategy>>,
    text: Option<TextStream<'a>>,
    /// Ids that were handed out.
    given: Vec<u32>,
    begun: Instant,
    done: bool,
}

impl T5 {
    /// Tokens as they come: an iterator of steps. To stop, drop it.
    ///
    /// The text of a step is final: it never shows half a character, and the steps' texts joined are the whole text. With
    /// beams a step brings what all beams that may still win begin with.
    ///
    /// # Errors
    /// As [`T5::generate`]; and where more than one sequence is asked for.
    pub fn stream<'a>(&self, source: impl Into<Source<'a>>, options: &Generate) -> Result<Stream<'_>> {
        let parts = self.generator("stream")?;
        let settings = Settings::new(options, self.generation_defaults(), self.config())?;
        if settings.num_return_sequences > 1 {
            let found = settings.num_return_sequences;
            return Err(Error::option("num_return_sequences", found, "1: a stream is of one sequence"));
        }
        Ok(Stream {
            t5: self,
            parts,
            settings,
            source: self.ids_of("source", source.into())?,
            state: self.states().pop().unwrap_or_default(),
            team: Team::new(self.threads()),
            strategy: None,
            text: self.tokenizer().map(Tokenizer::stream),
            given: Vec::new(),
            begun: Instant::now(),
            done: false,
        })
    }
}

impl Stream<'_> {
    /// The source's ids.
    #[must_use]
    pub fn input_ids(&self) -> &[u32] {
        &self.source
    }

    fn step(&mut self) -> Result<Step> {
        let (decoder, head) = self.parts;
        let exec = Exec { isa: self.t5.isa_value(), team: &self.team };
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
        Ok(Step { ids, text, finish })
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
        Some(step)
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        self.t5.states().push(std::mem::take(&mut self.state));
    }
}
