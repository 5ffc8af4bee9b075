//! Tokens as they come.

use crate::error::{Error, Result};
use crate::generate::{Custom, Finish, Search, Settings, State, Strategy, TokenLogprob};
use crate::kv_cache::KvCache;
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
    /// How likely each of the ids was, where [`Generate::logprobs`] asks for it.
    pub logprobs: Option<Vec<TokenLogprob>>,
    /// Why the sequence ended, in its last step.
    pub finish: Option<Finish>,
    /// It ended at a limit that nobody asked for: transformers' default of 20 tokens.
    pub default_limit: bool,
}

/// An iterator of steps: see [`T5::stream`].
pub struct Stream<'a> {
    t5: &'a T5,
    parts: (&'a Stack, &'a LmHead),
    settings: Settings<'a>,
    /// Goes back to the model when the stream is dropped.
    state: State,
    team: Team,
    source: Vec<u32>,
    strategy: Option<Box<dyn Strategy>>,
    text: Option<TextStream<'a>>,
    /// Ids that were handed out.
    given: Vec<u32>,
    /// The decoder's cache of `given`, for their log-probabilities.
    followed: Vec<KvCache>,
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
        static NOTHING: Custom<'static> = Custom::new();
        self.stream_with(source, options, &NOTHING)
    }

    /// [`T5::stream`] with rules of the caller's own.
    ///
    /// # Errors
    /// As [`T5::stream`].
    pub fn stream_with<'a, 'm>(
        &'m self,
        source: impl Into<Source<'a>>,
        options: &Generate,
        custom: &'m Custom<'m>,
    ) -> Result<Stream<'m>> {
        let parts = self.generator("stream")?;
        let settings = self.settings(options, custom)?;
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
            followed: Vec::new(),
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

    fn step(&mut self, state: &mut State) -> Result<Step> {
        let (decoder, head) = self.parts;
        let exec = Exec { isa: self.t5.isa_value(), team: &self.team };
        let parts = (self.t5.model(), decoder, head);
        let number = [self.settings.custom.index(0)];
        let mut search = Search::new(parts, exec, &self.settings, state, &number, self.begun);
        let strategy = self.strategy.get_or_insert_with(|| search.start(&[&self.source]));
        search.step(&mut **strategy)?;
        let mut finish = None;
        self.done = strategy.is_done();
        let ids: Vec<u32> = if self.done {
            let best = strategy.found().into_iter().flatten().next();
            finish = best.as_ref().map(|found| found.finish);
            best.map(|found| found.ids[self.given.len()..].to_vec()).unwrap_or_default()
        } else {
            strategy.settled(0).get(self.given.len()..).unwrap_or_default().to_vec()
        };
        let done = self.given.len();
        self.given.extend_from_slice(&ids);
        let follow = |top| search.follow(&mut self.followed, &self.given, done, top);
        let logprobs = self.settings.top_logprobs.map(follow).transpose()?;
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
        let default_limit = self.settings.limit_was_default && finish == Some(Finish::Length);
        Ok(Step { ids, text, logprobs, finish, default_limit })
    }
}

impl Iterator for Stream<'_> {
    type Item = Result<Step>;

    fn next(&mut self) -> Option<Result<Step>> {
        if self.done {
            return None;
        }
        // Where a caller's rule panics, the stream has ended and its buffers are gone.
        let mut state = std::mem::take(&mut self.state);
        self.done = true;
        let step = self.step(&mut state);
        self.state = state;
        Some(step)
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        self.t5.states().push(std::mem::take(&mut self.state));
    }
}
