//! What a call works with beside the model: buffers, threads, settings. Kept from call to call, so that a warm call takes
//! memory for what it returns alone.

use crate::embed::Encoding;
use crate::encoder;
use crate::error::{Error, Result};
use crate::generate::{self, Answer, Choices, Closed, Custom, Finish, Settings, State, Timings, emptied};
use crate::input::Source;
use crate::kv_cache::KvCache;
use crate::options::Generate;
use crate::stack::Exec;
use crate::t5::{Generated, Sequence, T5};
use crate::tokenizer::Tokenizer;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tiny_t5_kernels::Team;

/// The place of one call at a time.
#[derive(Default)]
pub(crate) struct Desk {
    pub(crate) state: State,
    /// Made by the first call, or by loading the model; its helpers go home between calls.
    team: Option<Team>,
    /// Of the last call that generated: most calls come with the options of the one before.
    settings: Option<Box<Kept>>,
    /// Ends calls while it is true.
    pub(crate) stop: Option<Arc<AtomicBool>>,
    /// The sources' ids: those that the answers take along, and those that stay.
    ids: Vec<Vec<u32>>,
    kept: Vec<Vec<u32>>,
    slices: Vec<&'static [u32]>,
    text: String,
    /// The ids of one source, and those of the decoder: in a stream those that were handed out.
    pub(crate) source: Vec<u32>,
    pub(crate) given: Vec<u32>,
    /// The decoder's caches of those that a stream handed out.
    pub(crate) followed: Vec<KvCache>,
}

/// The settings of a call, with what they come from.
pub(crate) struct Kept {
    options: Generate,
    closed: Option<Closed>,
    /// Which made ids of texts among the options.
    tokenizer: Option<Arc<Tokenizer>>,
    pub(crate) settings: Settings,
}

impl Kept {
    /// Whether these options ask for them again.
    fn are_of(&self, t5: &T5, options: &Generate, closed: Option<Closed>) -> bool {
        let tokenizers = [self.tokenizer.as_ref(), t5.shared_tokenizer()].map(|tokenizer| tokenizer.map(Arc::as_ptr));
        self.options == *options && self.closed == closed && tokenizers[0] == tokenizers[1]
    }
}

impl Desk {
    /// The first one, with the team that loaded the model: its helpers are still there for a call that comes at once.
    pub(crate) fn of(team: Team) -> Desk {
        Desk { team: Some(team), ..Desk::default() }
    }

    /// Runs a call on the buffers, with a team of threads.
    pub(crate) fn run<R>(&mut self, t5: &T5, call: impl FnOnce(Exec<'_>, &mut State) -> R) -> R {
        // Whatever a call that panics leaves behind goes with it.
        let mut state = std::mem::take(&mut self.state);
        let result = call(self.exec(t5), &mut state);
        self.state = state;
        self.rest();
        result
    }

    /// What computes, with the team that the model's number of threads asks for.
    pub(crate) fn exec(&mut self, t5: &T5) -> Exec<'_> {
        if self.team.as_ref().is_some_and(|team| team.threads() != t5.threads()) {
            self.team = None;
        }
        let team = self.team.get_or_insert_with(|| Team::new(t5.threads()));
        Exec { isa: t5.isa_value(), team, stop: self.stop.as_deref(), upcoming: None }
    }

    /// As [`Desk::exec`], beside the buffers.
    pub(crate) fn exec_and_state(&mut self, t5: &T5) -> (Exec<'_>, &mut State) {
        self.exec(t5);
        let Desk { state, team, stop, .. } = self;
        let team = team.as_ref().expect("`exec` made it");
        (Exec { isa: t5.isa_value(), team, stop: stop.as_deref(), upcoming: None }, state)
    }

    /// Between calls no helper waits.
    pub(crate) fn rest(&self) {
        if let Some(team) = &self.team {
            team.rest();
        }
    }

    /// The settings that options ask for; to be given back with [`Desk::keep`].
    pub(crate) fn settings(&mut self, t5: &T5, options: &Generate, custom: &Custom<'_>) -> Result<Box<Kept>> {
        let closed = custom.chosen_from().map(Choices::closed);
        if let Some(last) = self.settings.take().filter(|last| last.are_of(t5, options, closed)) {
            // Nothing of a call before.
            let _ = last.settings.failure.check();
            return Ok(last);
        }
        let (tokenizer, settings) = (t5.shared_tokenizer().cloned(), t5.settings(options, closed)?);
        Ok(Box::new(Kept { options: options.clone(), closed, tokenizer, settings }))
    }

    pub(crate) fn keep(&mut self, settings: Box<Kept>) {
        self.settings = Some(settings);
    }

    /// Generates; answers are appended to `all` in the order of the sources.
    pub(crate) fn generate(
        &mut self,
        t5: &T5,
        sources: &[Source<'_>],
        options: &Generate,
        custom: &Custom<'_>,
        all: &mut Vec<Generated>,
    ) -> Result<()> {
        let (decoder, head) = t5.generator("generate")?;
        let held = self.settings(t5, options, custom)?;
        let settings = &held.settings;
        let from = all.len();
        all.reserve_exact(sources.len());
        all.extend(sources.iter().map(|_| Generated {
            input_ids: Vec::new(),
            sequences: Vec::new(),
            timings: Timings::default(),
        }));
        let mut text = std::mem::take(&mut self.text);
        let mut each = |place: usize, Answer { found, timings }: Answer<'_>| {
            let Generated { sequences, timings: own, .. } = &mut all[from + place];
            *own = Timings { load_ms: t5.load_ms(), ..timings };
            sequences.reserve_exact(found.len());
            for found in found.drain(..) {
                sequences.push(Sequence {
                    text: text_of(t5, &found.ids, &mut text)?,
                    score: found.score,
                    logprobs: found.logprobs,
                    chosen: found.chosen,
                    finish: found.finish,
                    default_limit: settings.limit_was_default && found.finish == Finish::Length,
                    ids: found.ids,
                });
            }
            Ok(())
        };
        self.with_ids(t5, sources, |desk, ids| {
            let parts = (t5.model(), decoder, head);
            desk.run(t5, |exec, state| generate::generate(parts, exec, state, (settings, custom), ids, &mut each))
        })?;
        for (generated, ids) in all[from..].iter_mut().zip(self.ids.drain(..)) {
            generated.input_ids = ids;
        }
        self.text = text;
        self.keep(held);
        Ok(())
    }

    /// Calls with the sources' ids, which stay in `self.ids`.
    fn with_ids<R>(
        &mut self,
        t5: &T5,
        sources: &[Source<'_>],
        call: impl FnOnce(&mut Desk, &[&[u32]]) -> Result<R>,
    ) -> Result<R> {
        let mut ids = std::mem::take(&mut self.ids);
        ids.clear();
        for (i, source) in sources.iter().enumerate() {
            ids.push(t5.ids_of("source", *source).map_err(|error| of_source(error, i, sources.len()))?);
        }
        let result = self.with_slices(&ids, call);
        self.ids = ids;
        result
    }

    /// Calls with the sources' ids, in lists that stay here; `(first, count)` is the place of the first of them among all of the call.
    pub(crate) fn with_kept_ids<R>(
        &mut self,
        sources: &[Source<'_>],
        (first, count): (usize, usize),
        ids_into: impl Fn(Source<'_>, &mut Vec<u32>) -> Result<()>,
        call: impl FnOnce(&mut Desk, &[&[u32]]) -> R,
    ) -> Result<R> {
        let mut kept = std::mem::take(&mut self.kept);
        if kept.len() < sources.len() {
            kept.resize_with(sources.len(), Vec::new);
        }
        let ids = &mut kept[..sources.len()];
        let mut pairs = sources.iter().zip(&mut *ids).enumerate();
        let read = pairs.try_for_each(|(i, (source, ids))| {
            ids_into(*source, ids).map_err(|error| of_source(error, first + i, count))
        });
        let result = read.map(|()| self.with_slices(ids, call));
        self.kept = kept;
        result
    }

    fn with_slices<R>(&mut self, ids: &[Vec<u32>], call: impl FnOnce(&mut Desk, &[&[u32]]) -> R) -> R {
        let mut slices = emptied(std::mem::take(&mut self.slices));
        slices.extend(ids.iter().map(Vec::as_slice));
        let result = call(self, &slices);
        self.slices = emptied(slices);
        result
    }

    /// Encodes; encodings are appended to `all` in the order of the sources.
    pub(crate) fn encode(&mut self, t5: &T5, sources: &[Source<'_>], all: &mut Vec<Encoding>) -> Result<()> {
        let d_model = t5.config().d_model;
        all.reserve_exact(sources.len());
        self.with_ids(t5, sources, |desk, ids| {
            desk.run(t5, |exec, state| {
                encode_each(t5, exec, state, ids, |rows, count| {
                    let mut hidden = Vec::with_capacity(count * d_model);
                    rows.for_each(|row| hidden.extend_from_slice(row));
                    all.push(Encoding { input_ids: Vec::new(), hidden, d_model });
                });
            });
            Ok::<_, Error>(())
        })?;
        let from = all.len() - sources.len();
        for (encoding, ids) in all[from..].iter_mut().zip(self.ids.drain(..)) {
            encoding.input_ids = ids;
        }
        Ok(())
    }
}

/// Encodes sources; `each` gets the hidden states [d_model] of one after the other, and how many these are.
pub(crate) fn encode_each(
    t5: &T5,
    exec: Exec<'_>,
    state: &mut State,
    sources: &[&[u32]],
    mut each: impl FnMut(&mut dyn Iterator<Item = &[f32]>, usize),
) {
    let (model, d_model) = (t5.model(), t5.config().d_model);
    // Enough for every thread to take some alone, and no more hidden states than 4,096 tokens'.
    for batch in encoder::groups(sources, encoder::BATCH_TOKENS * exec.team.threads().min(16)) {
        let batch = &sources[batch];
        encoder::encode(model, exec, &mut state.scratch, &mut state.encoder, batch);
        let mut rows = state.encoder.hidden.chunks_exact(model.shape.stride()).map(|row| &row[..d_model]);
        batch.iter().for_each(|ids| each(&mut rows.by_ref().take(ids.len()), ids.len()));
    }
}

/// The text of ids; `buffer` is kept from one to the next.
fn text_of(t5: &T5, ids: &[u32], buffer: &mut String) -> Result<Option<String>> {
    let Some(tokenizer) = t5.tokenizer() else { return Ok(None) };
    tokenizer.decode_into(ids, true, buffer)?;
    Ok(Some(buffer.clone()))
}

/// An error that is about one source of several says which.
fn of_source(error: Error, index: usize, count: usize) -> Error {
    match error {
        Error::Input { what, found, expected } if count > 1 => {
            Error::Input { what: format!("{what} {}", index + 1), found, expected }
        }
        error => error,
    }
}
