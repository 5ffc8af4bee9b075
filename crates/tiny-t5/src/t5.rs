//! The model as its users see it.

use crate::cache::Cache;
use crate::decoder::DecoderState;
use crate::desk::Desk;
use crate::error::{Error, Result, one_line};
use crate::generate::{Chosen, Closed, Custom, Finish, NO_RULES, Settings, State, Timings, TokenLogprob};
use crate::input::Source;
use crate::lm_head::LmHead;
use crate::load::{Load, MAX_SOURCE_TOKENS};
use crate::model::{Head, Model};
use crate::options::Generate;
use crate::sentence::Sentence;
use crate::stack::{Exec, Stack};
use crate::tokenizer::Tokenizer;
use serde::Serialize;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;
use tiny_t5_checkpoint::{Checkpoint, Config};
use tiny_t5_kernels::{Isa, Team};

/// Threads beyond which a number is surely a mistake.
pub(crate) const MAX_THREADS: usize = 1024;

/// Gives the checkpoint; large work is for the team.
pub(crate) type OpenCheckpoint<'a> = Box<dyn FnOnce(&Team) -> Result<Checkpoint> + 'a>;

/// A loaded T5. One serves any number of threads; a clone is the same model.
#[derive(Clone)]
pub struct T5 {
    inner: Arc<Inner>,
    tokenizer: Option<Arc<Tokenizer>>,
    threads: usize,
    isa: Isa,
}

struct Inner {
    model: Model,
    defaults: Generate,
    notes: Vec<String>,
    load_ms: f64,
    max_source_tokens: usize,
    /// Read on first use.
    sentence: OnceLock<Sentence>,
    /// Desks of calls that ended, for those that come.
    desks: Mutex<Vec<Desk>>,
}

/// What was generated from one source.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Generated {
    /// The source's ids.
    pub input_ids: Vec<u32>,
    /// The sequences, best first: `num_return_sequences` of them.
    pub sequences: Vec<Sequence>,
    /// Where the time went: of the batch that the source was computed in.
    pub timings: Timings,
}

impl Generated {
    /// The best sequence's text; empty where the checkpoint has no tokenizer.
    #[must_use]
    pub fn text(&self) -> &str {
        self.sequences.first().and_then(|s| s.text.as_deref()).unwrap_or_default()
    }
}

/// A generated sequence.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Sequence {
    /// The generated ids: without the start token, up to and including the first end token. Of a source that a batch was stopped before,
    /// what was given of them: none, or `decoder_input_ids`.
    pub ids: Vec<u32>,
    /// Their text, special tokens left out; none where the checkpoint has no tokenizer.
    pub text: Option<String>,
    /// Beam search, and where log-probabilities or choices are asked for: the sum of the log-probabilities over
    /// length ^ length_penalty; none of a source that a batch was stopped before. Beam search over a large vocabulary knows each to about
    /// seven digits.
    pub score: Option<f32>,
    /// How likely each of the ids was, where [`Generate::logprobs`] asks for it.
    pub logprobs: Option<Vec<TokenLogprob>>,
    /// Which of the caller's choices it is; none where something else ended it, and where the time was over before that was known.
    pub chosen: Option<Chosen>,
    /// Why it ended.
    pub finish: Finish,
    /// It ended at a limit that nobody asked for: transformers' default of 20 tokens.
    pub default_limit: bool,
}

impl T5 {
    /// Makes a model of a checkpoint and a tokenizer, which are opened side by side; loading began at `start`.
    pub(crate) fn assemble(
        checkpoint: OpenCheckpoint<'_>,
        load: &Load,
        start: Instant,
        open_tokenizer: Box<dyn FnOnce() -> Result<Option<Tokenizer>> + Send>,
    ) -> Result<T5> {
        let isa = Isa::from_env()?;
        let threads = match load.threads {
            Some(threads) if (1..=MAX_THREADS).contains(&threads) => threads,
            Some(threads) => return Err(Error::option("threads", threads, format!("1 to {MAX_THREADS}"))),
            None => std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS),
        };
        let threads = if cfg!(feature = "rayon") { threads } else { 1 };
        let team = Team::new(threads);
        let (model, tokenizer) = team.beside(open_tokenizer, || Model::load(checkpoint(&team)?, isa, &team, load));
        let (model, tokenizer) = (model?, tokenizer?);
        let (mut defaults, mut notes) = match model.checkpoint.generation_config() {
            Some(text) => Generate::from_generation_config(text)?,
            None => Generate::from_config(&model.config().raw)?,
        };
        // An end token past the vocabulary can never come; released configs have such.
        if let Some(ids) = defaults.eos_token_id.take() {
            let vocab_size = model.config().vocab_size;
            let ids: Vec<u32> = ids.as_slice().iter().copied().filter(|id| (*id as usize) < vocab_size).collect();
            defaults.eos_token_id = Some(ids.into());
        }
        if let Some(first) = model.unused.first() {
            let others = match model.unused.len() - 1 {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            notes.push(format!("tensors that this model does not use: {}{others}", one_line(first)));
        }
        if let Some(failure) = model.cache.as_ref().and_then(Cache::failure) {
            notes.push(format!("the panel cache was not written: {failure}"));
        }
        let inner = Inner {
            model,
            defaults,
            notes,
            load_ms: start.elapsed().as_secs_f64() * 1e3,
            max_source_tokens: load.max_source_tokens.unwrap_or(MAX_SOURCE_TOKENS),
            sentence: OnceLock::new(),
            desks: Mutex::new(vec![Desk::of(team)]),
        };
        Ok(T5 { inner: Arc::new(inner), tokenizer: tokenizer.map(Arc::new), threads, isa })
    }

    /// The same model with another number of threads a call, 1 to 1024; without the feature `rayon` it is 1.
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// let t5 = tiny_t5::T5::embedded(&tiny_t5::Load::default())?;
    /// assert_eq!(t5.with_threads(1).threads(), 1);
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    #[must_use]
    pub fn with_threads(&self, threads: usize) -> T5 {
        let most = if cfg!(feature = "rayon") { MAX_THREADS } else { 1 };
        T5 { threads: threads.clamp(1, most), ..self.clone() }
    }

    /// The same model with another tokenizer, as for a model that came from memory or has random weights.
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// use tiny_t5::{Load, T5, tokenizer::Tokenizer};
    ///
    /// let t5 = T5::embedded(&Load::default())?;
    /// let bytes = Tokenizer::bytes(0); // ByT5's, without its extra ids
    /// assert_eq!(t5.with_tokenizer(bytes).tokenizer().unwrap().encode("a")?, [100, 1]);
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    #[must_use]
    pub fn with_tokenizer(&self, tokenizer: Tokenizer) -> T5 {
        T5 { tokenizer: Some(Arc::new(tokenizer)), ..self.clone() }
    }

    /// Gives the system back what calls keep for later calls: the buffers of the largest so far, for as many calls as ran at once. They
    /// hold keys and values of sources, gigabytes after long ones. Sessions keep their own.
    pub fn release_buffers(&self) {
        self.desks().clear();
    }

    /// The same model on another instruction set that this processor has: `portable`, `avx2`, `avxvnni`, `avx512`, `amx`.
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// let t5 = tiny_t5::T5::embedded(&tiny_t5::Load::default())?;
    /// let portable = t5.with_isa("portable")?;
    /// assert_eq!(portable.encode("hello")?, t5.encode("hello")?); // every bit
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// Where the name is unknown or this processor lacks it.
    pub fn with_isa(&self, name: &str) -> Result<T5> {
        let available = Isa::available();
        match available.iter().find(|isa| isa.name() == name) {
            Some(isa) => Ok(T5 { isa: *isa, ..self.clone() }),
            None => {
                let names: Vec<_> = available.iter().map(|isa| isa.name()).collect();
                Err(Error::input("instruction set", name, names.join(", ")))
            }
        }
    }

    /// The instruction sets that this processor has, best first.
    #[must_use]
    pub fn available_isas() -> Vec<&'static str> {
        Isa::available().iter().map(|isa| isa.name()).collect()
    }

    /// The instruction set in use: `portable`, `avx2`, `avxvnni`, `avx512` or `amx`.
    #[must_use]
    pub fn isa(&self) -> &'static str {
        self.isa.name()
    }

    /// Threads of a call.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// What config.json says.
    #[must_use]
    pub fn config(&self) -> &Config {
        self.inner.model.config()
    }

    /// The tokenizer, if the checkpoint has one.
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// let t5 = tiny_t5::T5::embedded(&tiny_t5::Load::default())?;
    /// let tokenizer = t5.tokenizer().expect("this model has one");
    /// let ids = tokenizer.encode("hello")?;
    /// assert_eq!(tokenizer.decode(&ids, true)?, "hello");
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    #[must_use]
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_deref()
    }

    /// The tokenizer with its owners.
    pub(crate) fn shared_tokenizer(&self) -> Option<&Arc<Tokenizer>> {
        self.tokenizer.as_ref()
    }

    /// What the checkpoint itself says about generation: options that a call leaves out.
    #[must_use]
    pub fn generation_defaults(&self) -> &Generate {
        &self.inner.defaults
    }

    /// What was noticed while loading and does not matter: keys and tensors that nothing uses.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.inner.notes
    }

    /// Milliseconds that loading took: weights and tokenizer.
    #[must_use]
    pub fn load_ms(&self) -> f64 {
        self.inner.load_ms
    }

    /// Bytes of packed weights in memory; the embedding stays in its file's mapping, and so do weights in place ([`Load::in_place`]).
    #[must_use]
    pub fn packed_bytes(&self) -> usize {
        self.inner.model.packed.bytes()
    }

    /// Bytes of the weight files.
    #[must_use]
    pub fn bytes_on_disk(&self) -> u64 {
        self.inner.model.checkpoint.bytes_on_disk()
    }

    /// Generates from one source.
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// use tiny_t5::{Finish, Generate, Load, T5};
    ///
    /// let t5 = T5::embedded(&Load::default())?;
    /// let answer = t5.generate("hello world", &Generate::default())?;
    /// assert_eq!(answer.text(), "həˈloʊ ˈwɝld");
    /// assert_eq!(answer.sequences[0].finish, Finish::Eos);
    ///
    /// let beams = Generate { num_beams: Some(3), num_return_sequences: Some(3), ..Generate::default() };
    /// for sequence in t5.generate("hello world", &beams)?.sequences {
    ///     println!("{:?} {:?}", sequence.score, sequence.text);
    /// }
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// Where an option or the source is not valid, or the checkpoint has no decoder or (for a text) no tokenizer.
    pub fn generate<'a>(&self, source: impl Into<Source<'a>>, options: &Generate) -> Result<Generated> {
        let mut all = self.generate_batch(&[source.into()], options)?;
        Ok(all.pop().expect("one source has one answer"))
    }

    /// [`T5::generate`] with rules of the caller's own: see [`Custom`].
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// use tiny_t5::{Custom, Finish, Generate, Load, T5};
    ///
    /// let t5 = T5::embedded(&Load::default())?;
    /// let custom = Custom::new().stopping_criteria(|context| context.new_ids().len() == 3);
    /// let answer = t5.generate_with("photosynthesis", &Generate::default(), &custom)?;
    /// assert_eq!((answer.sequences[0].ids.len(), answer.sequences[0].finish), (3, Finish::Stopped));
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`T5::generate`].
    pub fn generate_with<'a>(
        &self,
        source: impl Into<Source<'a>>,
        options: &Generate,
        custom: &Custom<'_>,
    ) -> Result<Generated> {
        let mut all = self.generate_batch_with(&[source.into()], options, custom)?;
        Ok(all.pop().expect("one source has one answer"))
    }

    /// Generates from many sources, of any lengths: the same as one by one, to the bit, and faster (samples depend on a source's
    /// place, which [`Custom::first_index`] tells for one alone). Answers come in the order of the sources;
    /// [`Source::list`] makes them of a list of texts.
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// let t5 = tiny_t5::T5::embedded(&tiny_t5::Load::default())?;
    /// let answers = t5.generate_batch(&["hello".into(), "world".into()], &Default::default())?;
    /// assert_eq!(answers[1].text(), "ˈwɝld");
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`T5::generate`].
    pub fn generate_batch(&self, sources: &[Source<'_>], options: &Generate) -> Result<Vec<Generated>> {
        let mut all = Vec::new();
        self.at_desk(|desk| desk.generate(self, sources, options, &NO_RULES, &mut all))?;
        Ok(all)
    }

    /// [`T5::generate_batch`] with rules of the caller's own: see [`Custom`]. They hold for each of the sources.
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// use tiny_t5::{Custom, Generate, Load, T5};
    ///
    /// let t5 = T5::embedded(&Load::default())?;
    /// let choices = t5.choices(&["ˈwɝld".into(), "həˈloʊ".into()])?;
    /// let custom = Custom::new().choices(&choices);
    /// let answers = t5.generate_batch_with(&["hello".into(), "world".into()], &Generate::default(), &custom)?;
    /// assert_eq!([answers[0].text(), answers[1].text()], ["həˈloʊ", "ˈwɝld"]);
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`T5::generate`].
    pub fn generate_batch_with(
        &self,
        sources: &[Source<'_>],
        options: &Generate,
        custom: &Custom<'_>,
    ) -> Result<Vec<Generated>> {
        let mut all = Vec::new();
        self.at_desk(|desk| desk.generate(self, sources, options, custom, &mut all))?;
        Ok(all)
    }

    /// What a search runs with.
    pub(crate) fn settings(&self, options: &Generate, closed: Option<Closed>) -> Result<Settings> {
        let (config, defaults) = (self.config(), &self.inner.defaults);
        let prefix = match (options.decoder_prefix.as_ref().or(defaults.decoder_prefix.as_ref()), self.tokenizer()) {
            (None, _) => Ok(Vec::new()),
            (Some(text), Some(tokenizer)) => tokenizer.encode_plain(text).map_err(Error::from),
            (Some(text), None) => {
                Err(Error::option("decoder_prefix", format!("{text:?}"), "a model that has a tokenizer"))
            }
        };
        let settings = prefix.and_then(|prefix| Settings::new(options, defaults, &prefix, closed, config));
        let settings = settings.map_err(|error| self.whose(options, error))?;
        let (given, most) = (settings.prompt.len() - 1, self.inner.max_source_tokens);
        if given > most {
            let expected = format!("at most {most} (max_source_tokens), with decoder_prefix");
            return Err(self.whose(options, Error::option("decoder_input_ids", format!("{given} tokens"), expected)));
        }
        Ok(settings)
    }

    /// What is wrong with an option that the caller did not give is wrong with the file that did.
    fn whose(&self, options: &Generate, error: Error) -> Error {
        match error {
            Error::Option { option, found, expected } if !options.has(&option) && self.inner.defaults.has(&option) => {
                let is_own = self.inner.model.checkpoint.generation_config().is_some();
                let file = if is_own { "generation_config.json" } else { "config.json" };
                Error::Option { option: format!("{file}: {option}"), found, expected }
            }
            error => error,
        }
    }

    /// The decoder and the output matrix, for the calls that need them.
    pub(crate) fn generator(&self, call: &'static str) -> Result<(&Stack, &LmHead)> {
        let model = &self.inner.model;
        match (&model.decoder, &model.head) {
            (Some(decoder), Head::Lm(head)) => Ok((decoder, head)),
            _ => Err(Error::Unsupported {
                call,
                needs: "a model for conditional generation",
                has: format!("is one for {:?}", model.config().architecture),
            }),
        }
    }

    /// Desks that no call is at.
    pub(crate) fn desks(&self) -> std::sync::MutexGuard<'_, Vec<Desk>> {
        self.inner.desks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn isa_value(&self) -> Isa {
        self.isa
    }

    pub(crate) fn model(&self) -> &Model {
        &self.inner.model
    }

    /// What the folder puts behind the encoder.
    pub(crate) fn sentence(&self) -> Result<&Sentence> {
        match self.inner.sentence.get() {
            Some(sentence) => Ok(sentence),
            None => {
                let sentence = Sentence::open(self)?;
                Ok(self.inner.sentence.get_or_init(|| sentence))
            }
        }
    }

    /// The ids of a source, checked.
    pub(crate) fn ids_of(&self, what: &str, source: Source<'_>) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        self.ids_into(what, source, &mut ids)?;
        Ok(ids)
    }

    /// [`T5::ids_of`] in place of what `ids` held.
    pub(crate) fn ids_into(&self, what: &str, source: Source<'_>, ids: &mut Vec<u32>) -> Result<()> {
        match source {
            Source::Ids(given) => {
                ids.clear();
                ids.extend_from_slice(given);
            }
            Source::Text(text) => *ids = self.need_tokenizer()?.encode(text)?,
        }
        self.check_ids(what, ids)
    }

    /// Some ids, all of the vocabulary, and not too many.
    pub(crate) fn check_ids(&self, what: &str, ids: &[u32]) -> Result<()> {
        let vocab_size = self.config().vocab_size;
        if ids.is_empty() {
            return Err(Error::input(what, "an empty list of ids", "at least one id"));
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocab_size) {
            return Err(Error::input(what, format!("id {id}"), format!("ids below vocab_size, {vocab_size}")));
        }
        if ids.len() > self.inner.max_source_tokens {
            let most = self.inner.max_source_tokens;
            return Err(Error::input(
                what,
                format!("{} tokens", ids.len()),
                format!("at most {most} (max_source_tokens)"),
            ));
        }
        Ok(())
    }

    pub(crate) fn need_tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer().ok_or(Error::Unsupported {
            call: "a text",
            needs: "a tokenizer (tokenizer.json or spiece.model in the folder)",
            has: "has none; give ids".into(),
        })
    }

    /// Runs a call at the desk of an earlier one.
    pub(crate) fn at_desk<R>(&self, call: impl FnOnce(&mut Desk) -> R) -> R {
        let mut desk = self.desks().pop().unwrap_or_default();
        let result = call(&mut desk);
        self.desks().push(desk);
        result
    }

    /// Runs a call on buffers of an earlier one, with a team of threads.
    pub(crate) fn with_state<R>(&self, call: impl FnOnce(Exec<'_>, &mut State) -> R) -> R {
        self.at_desk(|desk| desk.run(self, call))
    }

    /// The decoder's hidden states for given decoder ids: all at once, each sees itself and those before it.
    pub(crate) fn decoder_states(
        &self,
        decoder: &Stack,
        exec: Exec<'_>,
        state: &mut State,
        source: &[u32],
        decoder_ids: &[u32],
        mut each: impl FnMut(&[f32], usize) -> Result<()>,
    ) -> Result<()> {
        let model = self.model();
        let State { scratch, encoder, decoder: decoding, .. } = state;
        crate::sources::attend_to(model, exec, scratch, (encoder, decoding), decoder, &[source]);
        crate::decoder::begin(model, decoding, decoder, 1, decoder_ids.len());
        for ids in decoder_ids.chunks(crate::decoder::TOGETHER) {
            let feed = crate::decoder::Feed { cache: 0, source: 0, rows: 0..ids.len() };
            crate::decoder::decode(model, exec, scratch, decoding, (decoder, &model.packed), &[feed], ids);
            let DecoderState { hidden, .. } = &*decoding;
            each(&hidden[..ids.len() * model.shape.stride()], ids.len())?;
        }
        Ok(())
    }
}

// A call that panicked (a caller's own rule) leaves nothing half-done that a later one looks at.
impl std::panic::UnwindSafe for T5 {}
impl std::panic::RefUnwindSafe for T5 {}

impl std::fmt::Debug for T5 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("T5").field("isa", &self.isa()).field("threads", &self.threads).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What calls keep can be given back, and the next ones are the same.
    #[test]
    fn released_buffers_are_gone_and_change_nothing() {
        let t5 = T5::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/goldens/v1_0-relu-tied")).unwrap();
        let answer = || t5.generate(&[5, 8, 1], &Generate::default()).unwrap().sequences;
        let before = answer();
        assert!(!t5.desks().is_empty());
        t5.release_buffers();
        assert!(t5.desks().is_empty());
        assert_eq!(answer(), before);
    }
}
