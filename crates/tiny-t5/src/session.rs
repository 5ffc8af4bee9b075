//! A model with its own buffers: what a worker thread holds.

use crate::classify::Classification;
use crate::desk::Desk;
use crate::embed::Encoding;
use crate::error::Result;
use crate::generate::{Custom, NO_RULES};
use crate::input::Source;
use crate::options::Generate;
use crate::score::{Logits, Score};
use crate::stream::Stream;
use crate::t5::{Generated, T5};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A model with buffers, caches and a team of threads of its own, for one thread that makes many calls.
///
/// The answers are those of the [`T5`] that it was made from, bit for bit. Once warm (a call of the same options with
/// sources and answers at least as long was made before), a call on ids asks the system for no memory but what it returns: greedy
/// search, sampling and beams, of one source, of a batch and in a stream; encoding, sentence vectors, scores, classification and
/// re-ranking; with log-probabilities and their alternatives, with choices and with rules of the caller's own. With more than one
/// thread there may be a few pieces a call for the pool. What remains: a text costs what its tokenizer takes; a caller's closures take
/// what they take, and [`Custom::prefix_allowed_tokens`]'s returns a list, so that is one a step and sequence.
///
/// A session is `Send`: make one a worker. The model itself is shared.
///
/// ```
/// # #[cfg(feature = "embedded")] {
/// use tiny_t5::{Generate, Load, T5};
///
/// let t5 = T5::embedded(&Load::default())?;
/// let mut session = t5.session();
/// for word in ["hello", "world"] {
///     println!("{}", session.generate(word, &Generate::default())?.text());
/// }
/// assert_eq!(session.encode("hello")?, t5.encode("hello")?);
///
/// // One for each thread:
/// let words = ["hello", "world"];
/// std::thread::scope(|scope| {
///     for word in words {
///         let mut session = t5.session();
///         scope.spawn(move || session.generate(word, &Generate::default()));
///     }
/// });
/// # }
/// # Ok::<_, tiny_t5::Error>(())
/// ```
pub struct Session {
    t5: T5,
    desk: Desk,
    generated: Vec<Generated>,
    encoded: Vec<Encoding>,
    embedded: Vec<Vec<f32>>,
}

impl T5 {
    /// A session of this model, with its threads and instruction set. It is cheap to make; its buffers grow with use.
    #[must_use]
    pub fn session(&self) -> Session {
        let (generated, encoded, embedded) = Default::default();
        // One that a call has left, or the loading of the model, whose helpers may still be there.
        let desk = self.desks().pop().unwrap_or_default();
        Session { t5: self.clone(), desk, generated, encoded, embedded }
    }
}

impl Session {
    /// The model.
    #[must_use]
    pub fn t5(&self) -> &T5 {
        &self.t5
    }

    /// As [`T5::generate`].
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// use tiny_t5::{Generate, Load, T5};
    ///
    /// let mut session = T5::embedded(&Load::default())?.session();
    /// let answer = session.generate("hello", &Generate::default())?;
    /// assert_eq!(answer.text(), "həˈloʊ");
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`T5::generate`].
    pub fn generate<'a>(&mut self, source: impl Into<Source<'a>>, options: &Generate) -> Result<Generated> {
        self.generate_one(source.into(), options, &NO_RULES)
    }

    fn generate_one(&mut self, source: Source<'_>, options: &Generate, custom: &Custom<'_>) -> Result<Generated> {
        let mut all = std::mem::take(&mut self.generated);
        all.clear();
        self.desk.generate(&self.t5, &[source], options, custom, &mut all)?;
        let one = all.pop().expect("one source has one answer");
        self.generated = all;
        Ok(one)
    }

    /// As [`T5::generate_with`].
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// use tiny_t5::{Custom, Generate, Load, T5};
    ///
    /// let mut session = T5::embedded(&Load::default())?.session();
    /// let custom = Custom::new().stopping_criteria(|context| context.new_ids().len() == 3);
    /// let answer = session.generate_with("photosynthesis", &Generate::default(), &custom)?;
    /// assert_eq!(answer.sequences[0].ids.len(), 3);
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`T5::generate`].
    pub fn generate_with<'a>(
        &mut self,
        source: impl Into<Source<'a>>,
        options: &Generate,
        custom: &Custom<'_>,
    ) -> Result<Generated> {
        self.generate_one(source.into(), options, custom)
    }

    /// As [`T5::generate_batch`].
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// use tiny_t5::{Generate, Load, T5};
    ///
    /// let mut session = T5::embedded(&Load::default())?.session();
    /// let answers = session.generate_batch(&["hello".into(), "world".into()], &Generate::default())?;
    /// assert_eq!(answers.iter().map(|answer| answer.text()).collect::<Vec<_>>(), ["həˈloʊ", "ˈwɝld"]);
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`T5::generate`].
    pub fn generate_batch(&mut self, sources: &[Source<'_>], options: &Generate) -> Result<Vec<Generated>> {
        let mut all = Vec::new();
        self.desk.generate(&self.t5, sources, options, &NO_RULES, &mut all)?;
        Ok(all)
    }

    /// As [`T5::generate_batch_with`].
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// use tiny_t5::{Custom, Generate, Load, T5};
    ///
    /// let mut session = T5::embedded(&Load::default())?.session();
    /// let choices = session.t5().choices(&["həˈloʊ".into(), "ˈwɝld".into()])?;
    /// let custom = Custom::new().choices(&choices);
    /// let answers = session.generate_batch_with(&["hello".into(), "world".into()], &Generate::default(), &custom)?;
    /// assert_eq!(answers[1].sequences[0].chosen.map(|chosen| chosen.index), Some(1));
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`T5::generate`].
    pub fn generate_batch_with(
        &mut self,
        sources: &[Source<'_>],
        options: &Generate,
        custom: &Custom<'_>,
    ) -> Result<Vec<Generated>> {
        let mut all = Vec::new();
        self.desk.generate(&self.t5, sources, options, custom, &mut all)?;
        Ok(all)
    }

    /// As [`T5::stream`]. The session is free again when the stream is dropped.
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// let mut session = tiny_t5::T5::embedded(&tiny_t5::Load::default())?.session();
    /// let first = session.stream("hello", &Default::default())?.next();
    /// assert_eq!(first.transpose()?.map(|step| step.text), Some("h".to_owned()));
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`T5::stream`].
    pub fn stream<'a>(&mut self, source: impl Into<Source<'a>>, options: &Generate) -> Result<Stream<'_>> {
        Stream::new(&self.t5, Some(&mut self.desk), source.into(), options, &NO_RULES)
    }

    /// As [`T5::stream_with`]. The session is free again when the stream is dropped.
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// use tiny_t5::{Custom, Generate, Load, T5};
    ///
    /// let mut session = T5::embedded(&Load::default())?.session();
    /// let custom = Custom::new().stopping_criteria(|context| context.new_ids().len() == 3);
    /// assert_eq!(session.stream_with("photosynthesis", &Generate::default(), &custom)?.count(), 3);
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`T5::stream`].
    pub fn stream_with<'a, 'm>(
        &'m mut self,
        source: impl Into<Source<'a>>,
        options: &Generate,
        custom: &'m Custom<'m>,
    ) -> Result<Stream<'m>> {
        Stream::new(&self.t5, Some(&mut self.desk), source.into(), options, custom)
    }

    /// As [`T5::score`].
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// use tiny_t5::{Load, T5};
    ///
    /// let mut session = T5::embedded(&Load::default())?.session();
    /// assert!(session.score("hello", "həˈloʊ")?.loss < session.score("hello", "ˈwɝld")?.loss);
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`T5::score`].
    pub fn score<'a>(&mut self, source: impl Into<Source<'a>>, target: impl Into<Source<'a>>) -> Result<Score> {
        self.t5.score_at(&mut self.desk, source.into(), target.into())
    }

    /// As [`T5::logits`].
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// use tiny_t5::{Load, T5};
    ///
    /// let mut session = T5::embedded(&Load::default())?.session();
    /// let logits = session.logits("hello", "həˈloʊ")?;
    /// assert_eq!(logits.values.len() % logits.vocab_size, 0); // a row for each id of the target
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`T5::score`].
    pub fn logits<'a>(&mut self, source: impl Into<Source<'a>>, target: impl Into<Source<'a>>) -> Result<Logits> {
        self.t5.logits_at(&mut self.desk, source.into(), target.into())
    }

    /// As [`T5::embed`].
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// use tiny_t5::{Load, T5};
    ///
    /// let mut session = T5::embedded(&Load::default())?.session();
    /// let vector = session.embed("hello")?;
    /// assert_eq!(vector.len(), session.t5().config().d_model);
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`T5::embed_batch`].
    pub fn embed<'a>(&mut self, source: impl Into<Source<'a>>) -> Result<Vec<f32>> {
        let mut all = std::mem::take(&mut self.embedded);
        all.clear();
        self.t5.embed_at(&mut self.desk, &[source.into()], &mut all)?;
        let one = all.pop().expect("one source has one vector");
        self.embedded = all;
        Ok(one)
    }

    /// As [`T5::embed_batch`].
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// use tiny_t5::{Load, T5};
    ///
    /// let mut session = T5::embedded(&Load::default())?.session();
    /// let vectors = session.embed_batch(&["hello".into(), "world".into()])?;
    /// assert_eq!(vectors[1], session.embed("world")?);
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`T5::embed_batch`].
    pub fn embed_batch(&mut self, sources: &[Source<'_>]) -> Result<Vec<Vec<f32>>> {
        let mut all = Vec::new();
        self.t5.embed_at(&mut self.desk, sources, &mut all)?;
        Ok(all)
    }

    /// As [`T5::classify`].
    ///
    /// ```
    /// use tiny_t5::{Classification, T5};
    ///
    /// # let t5 = T5::random(r#"{"model_type": "t5", "architectures": ["T5ForSequenceClassification"], "num_layers": 1,
    /// #     "d_model": 16, "d_ff": 16, "num_heads": 1, "d_kv": 16, "vocab_size": 64, "eos_token_id": 1,
    /// #     "id2label": {"0": "bad", "1": "good"}}"#, 1, &tiny_t5::Load::default())?;
    /// let mut session = t5.session(); // `t5` is a fine-tune with a head
    /// assert!(matches!(session.classify(&[20, 31, 1])?, Classification::Sequence { logits, .. } if logits.len() == 2));
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`T5::classify`].
    pub fn classify<'a>(&mut self, source: impl Into<Source<'a>>) -> Result<Classification> {
        self.t5.classify_at(&mut self.desk, source.into())
    }

    /// As [`T5::answer_probability`].
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// use tiny_t5::{Load, T5};
    ///
    /// let mut session = T5::embedded(&Load::default())?.session();
    /// let (f, p) = (session.t5().answer_token("f")?, session.t5().answer_token("p")?);
    /// assert!(session.answer_probability(&["photography".into()], f, p)?[0] > 0.9);
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`T5::answer_probability`].
    pub fn answer_probability(&mut self, sources: &[Source<'_>], answer: u32, against: u32) -> Result<Vec<f32>> {
        self.t5.answer_probability_at(&mut self.desk, sources, answer, against)
    }

    /// As [`T5::encode`].
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// use tiny_t5::{Load, T5};
    ///
    /// let mut session = T5::embedded(&Load::default())?.session();
    /// let encoding = session.encode("hello")?;
    /// assert_eq!(encoding.hidden.len(), encoding.input_ids.len() * encoding.d_model);
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`T5::encode`].
    pub fn encode<'a>(&mut self, source: impl Into<Source<'a>>) -> Result<Encoding> {
        let mut all = std::mem::take(&mut self.encoded);
        all.clear();
        self.desk.encode(&self.t5, &[source.into()], &mut all)?;
        let one = all.pop().expect("one source has one encoding");
        self.encoded = all;
        Ok(one)
    }

    /// As [`T5::encode_batch`].
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// use tiny_t5::{Load, T5};
    ///
    /// let mut session = T5::embedded(&Load::default())?.session();
    /// let encodings = session.encode_batch(&["hello".into(), "world".into()])?;
    /// assert_eq!(encodings[1], session.encode("world")?);
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`T5::encode`].
    pub fn encode_batch(&mut self, sources: &[Source<'_>]) -> Result<Vec<Encoding>> {
        let mut all = Vec::new();
        self.desk.encode(&self.t5, sources, &mut all)?;
        Ok(all)
    }

    /// Lets another thread end this session's calls: as long as `flag` is true, a call that generates ends after the step that it is
    /// at, with [`Finish::Stopped`](crate::Finish::Stopped) and the tokens that it has: of the sources of a batch that it has not come to
    /// none. The encoder is not interrupted: [`Load::max_source_tokens`](crate::Load::max_source_tokens) bounds it. `None` takes the flag
    /// away. For a limit of time see [`Generate::max_time`].
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// use std::sync::{Arc, atomic::{AtomicBool, Ordering}};
    /// use tiny_t5::{Finish, Generate, Load, T5};
    ///
    /// let mut session = T5::embedded(&Load::default())?.session();
    /// let cancelled = Arc::new(AtomicBool::new(false));
    /// session.stop_when(Some(Arc::clone(&cancelled)));
    /// cancelled.store(true, Ordering::Relaxed); // as another thread would
    /// let answer = session.generate("photosynthesis", &Generate::default())?;
    /// assert_eq!((answer.sequences[0].ids.len(), answer.sequences[0].finish), (1, Finish::Stopped));
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    pub fn stop_when(&mut self, flag: Option<Arc<AtomicBool>>) {
        self.desk.stop = flag;
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("t5", &self.t5).finish_non_exhaustive()
    }
}
