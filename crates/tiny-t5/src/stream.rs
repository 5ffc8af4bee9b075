//! Tokens as they come.

use crate::desk::{Desk, Kept};
use crate::error::{Error, Result};
use crate::generate::{Custom, Finish, NO_RULES, Search, Strategy, TokenLogprob};
use crate::input::Source;
use crate::kv_cache::KvCache;
use crate::lm_head::LmHead;
use crate::options::Generate;
use crate::stack::Stack;
use crate::t5::T5;
use crate::tokenizer::{TextStream, Tokenizer};
use serde::Serialize;
use std::time::Instant;

/// What a step of a [`Stream`] brings.
#[derive(Debug, Clone, PartialEq, Serialize)]
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

/// An iterator of steps: see [`T5::stream`]. Behind an error or the last step it gives nothing more.
pub struct Stream<'a> {
    t5: &'a T5,
    parts: (&'a Stack, &'a LmHead),
    /// None when the stream is dropped.
    settings: Option<Box<Kept>>,
    custom: &'a Custom<'a>,
    /// Goes back to its place when the stream is dropped.
    desk: Desk,
    /// The session that the desk is of; none where it is one of the model's.
    session: Option<&'a mut Desk>,
    source: Vec<u32>,
    strategy: Option<Box<dyn Strategy>>,
    text: Option<TextStream<'a>>,
    /// Ids that were handed out.
    given: Vec<u32>,
    /// The decoder's caches of `given`, for their log-probabilities.
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
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// let t5 = tiny_t5::T5::embedded(&tiny_t5::Load::default())?;
    /// let mut text = String::new();
    /// for step in t5.stream("hello", &Default::default())? {
    ///     text += &step?.text; // or print it; `break` ends the work
    /// }
    /// assert_eq!(text, "həˈloʊ");
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`T5::generate`]; and where more than one sequence is asked for.
    pub fn stream<'a>(&self, source: impl Into<Source<'a>>, options: &Generate) -> Result<Stream<'_>> {
        Stream::new(self, None, source.into(), options, &NO_RULES)
    }

    /// [`T5::stream`] with rules of the caller's own: see [`Custom`].
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// use tiny_t5::{Custom, Generate, Load, T5};
    ///
    /// let t5 = T5::embedded(&Load::default())?;
    /// let custom = Custom::new().stopping_criteria(|context| context.new_ids().len() == 3);
    /// assert_eq!(t5.stream_with("photosynthesis", &Generate::default(), &custom)?.count(), 3);
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`T5::stream`].
    pub fn stream_with<'a, 'm>(
        &'m self,
        source: impl Into<Source<'a>>,
        options: &Generate,
        custom: &'m Custom<'m>,
    ) -> Result<Stream<'m>> {
        Stream::new(self, None, source.into(), options, custom)
    }
}

impl<'a> Stream<'a> {
    pub(crate) fn new(
        t5: &'a T5,
        session: Option<&'a mut Desk>,
        source: Source<'_>,
        options: &Generate,
        custom: &'a Custom<'a>,
    ) -> Result<Stream<'a>> {
        let parts = t5.generator("stream")?;
        let mut session = session;
        let mut desk = match &mut session {
            Some(desk) => std::mem::take(*desk),
            None => t5.desks().pop().unwrap_or_default(),
        };
        let (mut ids, given) = (std::mem::take(&mut desk.source), std::mem::take(&mut desk.given));
        let followed = std::mem::take(&mut desk.followed);
        let checked = desk.settings(t5, options, custom).and_then(|settings| {
            let found = settings.settings.num_return_sequences;
            match found {
                1 => t5.ids_into("source", source, &mut ids).map(|()| settings),
                _ => Err(Error::option("num_return_sequences", found, "1: a stream is of one sequence")),
            }
        });
        let (settings, error) = match checked {
            Ok(settings) => (Some(settings), None),
            Err(error) => (None, Some(error)),
        };
        let stream = Stream {
            t5,
            parts,
            settings,
            custom,
            desk,
            session,
            source: ids,
            strategy: None,
            text: t5.tokenizer().map(Tokenizer::stream),
            given,
            followed,
            begun: Instant::now(),
            done: false,
        };
        // A stream that does not begin is dropped here, and gives its desk back.
        error.map_or(Ok(stream), Err)
    }

    /// The source's ids.
    #[must_use]
    pub fn input_ids(&self) -> &[u32] {
        &self.source
    }

    fn step(&mut self, desk: &mut Desk) -> Result<Step> {
        let settings = &self.settings.as_ref().expect("a stream that began has settings").settings;
        let (decoder, head) = self.parts;
        let parts = (self.t5.model(), decoder, head);
        let (exec, state) = desk.exec_and_state(self.t5);
        let number = [self.custom.index(0)];
        let mut search = Search::new(parts, exec, (settings, self.custom), state, &number, self.begun);
        let mut strategy = self.strategy.take().unwrap_or_else(|| search.start(&[&self.source]));
        search.step(&mut *strategy)?;
        let mut finish = None;
        self.done = strategy.is_done();
        let ids: Vec<u32> = if self.done {
            let best = search.best_found(strategy);
            finish = best.as_ref().map(|found| found.finish);
            let mut ids = best.map(|found| found.ids).unwrap_or_default();
            ids.drain(..self.given.len().min(ids.len()));
            ids
        } else {
            let settled = strategy.settled(0).get(self.given.len()..).unwrap_or_default().to_vec();
            self.strategy = Some(strategy);
            settled
        };
        let done = self.given.len();
        self.given.extend_from_slice(&ids);
        let follow = |top| search.follow(&mut self.followed, &self.given, done, top);
        let logprobs = settings.top_logprobs.map(follow).transpose()?;
        let mut text = String::new();
        if let Some(stream) = &mut self.text {
            for id in &ids {
                stream.push_into(*id, &mut text)?;
            }
        }
        if self.done
            && let Some(stream) = self.text.take()
        {
            text += &stream.finish()?;
        }
        let default_limit = settings.limit_was_default && finish == Some(Finish::Length);
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
        let mut desk = std::mem::take(&mut self.desk);
        self.desk.stop.clone_from(&desk.stop);
        self.done = true;
        let step = self.step(&mut desk);
        self.done |= step.is_err();
        self.desk = desk;
        Some(step)
    }
}

impl std::fmt::Debug for Stream<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("source", &self.source).field("given", &self.given).finish_non_exhaustive()
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        let mut desk = std::mem::take(&mut self.desk);
        desk.rest();
        if let Some(settings) = self.settings.take() {
            desk.keep(settings);
        }
        if let Some(strategy) = self.strategy.take() {
            strategy.put_back(&mut desk.state.spare);
        }
        (desk.source, desk.given) = (std::mem::take(&mut self.source), std::mem::take(&mut self.given));
        desk.given.clear();
        desk.followed = std::mem::take(&mut self.followed);
        match &mut self.session {
            Some(home) => **home = desk,
            None => self.t5.desks().push(desk),
        }
    }
}
