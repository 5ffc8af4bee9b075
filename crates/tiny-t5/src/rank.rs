//! Re-ranking in monoT5's way: how probable one answer token is against another.
//!
//! monoT5 is given `Query: ... Document: ... Relevant:` and answers `true` or `false`. The relevance of the document is the
//! softmax over these two logits of the first position, and no further token is computed: of the output matrix two rows
//! are read.
//!
//! Source: Nogueira, Jiang, Pradeep, Lin, "Document Ranking with a Pretrained Sequence-to-Sequence Model" (2020),
//! arXiv:2003.06713.

use crate::decoder::{self, Feed};
use crate::desk::Desk;
use crate::encoder::{BATCH_TOKENS, groups};
use crate::error::{Error, Result};
use crate::generate::State;
use crate::input::Source;
use crate::sources;
use crate::t5::T5;

impl T5 {
    /// For each source the probability, 0 to 1, that its first token is `answer` and not `against`, if it is one of these two.
    /// The same as one by one, to the bit.
    ///
    /// ```no_run
    /// # fn main() -> tiny_t5::Result<()> {
    /// let t5 = tiny_t5::T5::open("castorini/monot5-base-msmarco")?;
    /// let (yes, no) = (t5.answer_token("true")?, t5.answer_token("false")?);
    /// let documents = ["Cats sleep most of the day.", "The bank raised its rates."];
    /// let texts = documents.map(|document| format!("Query: do cats sleep? Document: {document} Relevant:"));
    /// let relevance = t5.answer_probability(&[(&texts[0]).into(), (&texts[1]).into()], yes, no)?;
    /// assert!(relevance[0] > relevance[1]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// With int8 weights the two answers' rows are the checkpoint's own, so that the probabilities are nearer to f32's than those of
    /// [`T5::logits`].
    ///
    /// # Errors
    /// Where a source or an answer is not valid, or the checkpoint is not for conditional generation.
    pub fn answer_probability(&self, sources: &[Source<'_>], answer: u32, against: u32) -> Result<Vec<f32>> {
        self.at_desk(|desk| self.answer_probability_at(desk, sources, answer, against))
    }

    pub(crate) fn answer_probability_at(
        &self,
        desk: &mut Desk,
        sources: &[Source<'_>],
        answer: u32,
        against: u32,
    ) -> Result<Vec<f32>> {
        let (model, (decoder, head)) = (self.model(), self.generator("answer_probability")?);
        self.check_ids("answer", &[answer])?;
        self.check_ids("against", &[against])?;
        if answer == against {
            return Err(Error::input("against", format!("id {against}"), "another id than the answer"));
        }
        let defaults = self.generation_defaults();
        let start = defaults.start(self.config());
        let whose = match defaults.decoder_start_token_id.or(defaults.bos_token_id) {
            Some(_) => "generation_config.json: decoder_start_token_id",
            None => "config.json: decoder_start_token_id",
        };
        self.check_ids(whose, &[start])?;
        let mut probabilities = Vec::with_capacity(sources.len());
        let ids_into = |source: Source<'_>, ids: &mut Vec<u32>| self.ids_into("source", source, ids);
        desk.with_kept_ids(sources, (0, sources.len()), ids_into, |desk, ids| {
            desk.run(self, |exec, state| {
                let State { scratch, encoder, decoder: decoding, feeds, ids: starts, vector, .. } = state;
                for batch in groups(ids, BATCH_TOKENS) {
                    let batch = &ids[batch];
                    feeds.clear();
                    feeds.extend((0..batch.len()).map(|i| Feed { cache: i, source: i, rows: i..i + 1 }));
                    starts.clear();
                    starts.resize(batch.len(), start);
                    sources::attend_to(model, exec, scratch, (encoder, decoding), decoder, batch);
                    decoder::begin(model, decoding, decoder, batch.len(), 1);
                    decoder::decode(model, exec, scratch, decoding, (decoder, &model.packed), feeds, starts);
                    for hidden in decoding.hidden.chunks_exact(model.shape.stride()).take(batch.len()) {
                        let [yes, no] = head.logits_of(model, exec, hidden, [answer, against], vector);
                        probabilities.push((1.0 / (1.0 + (f64::from(no) - f64::from(yes)).exp())) as f32);
                    }
                }
            });
        })?;
        Ok(probabilities)
    }

    /// The one token that a word is, for [`T5::answer_probability`].
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// let t5 = tiny_t5::T5::embedded(&tiny_t5::Load::default())?;
    /// let (f, p) = (t5.answer_token("f")?, t5.answer_token("p")?);
    /// assert!(t5.answer_probability(&["photography".into()], f, p)?[0] > 0.9); // it begins with the sound f
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// Where the checkpoint has no tokenizer, or the word is more than one token.
    pub fn answer_token(&self, word: &str) -> Result<u32> {
        match self.need_tokenizer()?.encode_plain(word)?[..] {
            [id] => Ok(id),
            ref ids => Err(Error::input("answer", format!("{word:?}, {} tokens", ids.len()), "a word of one token")),
        }
    }
}
