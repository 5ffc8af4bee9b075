//! The heads of fine-tunes that do not generate: sequence and token classification, question answering.

use crate::desk::Desk;
use crate::encoder;
use crate::error::{Error, Result};
use crate::generate::State;
use crate::input::Source;
use crate::model::{Head, Linear};
use crate::score::shift_right;
use crate::stack::{Exec, room};
use crate::t5::T5;
use serde::Serialize;
use tiny_t5_kernels::{Activation, Epilogue, activate_rows, padded};

/// What a head says about one source. Labels are those of `id2label`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Classification {
    /// Of the whole.
    #[non_exhaustive]
    Sequence {
        /// `[labels]`
        logits: Vec<f32>,
        /// The label of the largest logit; of equals the first.
        label: String,
    },
    /// Of every token.
    #[non_exhaustive]
    Tokens {
        /// `[ids][labels]`
        logits: Vec<Vec<f32>>,
        /// The label of each token's largest logit.
        labels: Vec<String>,
    },
    /// Where an answer begins and ends, in places of the source's ids.
    #[non_exhaustive]
    Answer {
        /// `[ids]`
        start_logits: Vec<f32>,
        /// `[ids]`
        end_logits: Vec<f32>,
    },
}

impl T5 {
    /// Classifies one source with the head that the checkpoint has.
    ///
    /// ```
    /// use tiny_t5::{Classification, T5};
    ///
    /// // let t5 = T5::open("path/to/a/fine-tune")?; here one with random weights:
    /// # let t5 = T5::random(r#"{"model_type": "t5", "architectures": ["T5ForSequenceClassification"], "num_layers": 1,
    /// #     "d_model": 16, "d_ff": 16, "num_heads": 1, "d_kv": 16, "vocab_size": 64, "eos_token_id": 1,
    /// #     "id2label": {"0": "bad", "1": "good"}}"#, 1, &tiny_t5::Load::default())?;
    /// match t5.classify(&[20, 31, 1])? {
    ///     Classification::Sequence { label, .. } => assert!(label == "good" || label == "bad"),
    ///     Classification::Tokens { labels, .. } => println!("{labels:?}"),
    ///     other => println!("{other:?}"),
    /// }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// Where the source is not valid, or the checkpoint has no such head; for sequence classification also where the source has no
    /// end token.
    pub fn classify<'a>(&self, source: impl Into<Source<'a>>) -> Result<Classification> {
        self.at_desk(|desk| self.classify_at(desk, source.into()))
    }

    pub(crate) fn classify_at(&self, desk: &mut Desk, source: Source<'_>) -> Result<Classification> {
        let (mut ids, mut decoder_ids) = (std::mem::take(&mut desk.source), std::mem::take(&mut desk.given));
        self.ids_into("source", source, &mut ids)?;
        shift_right(self.config().decoder_start_token_id, &ids, &mut decoder_ids);
        let result = desk.run(self, |exec, state| {
            let (mut states, mut out) = (std::mem::take(&mut state.vector), std::mem::take(&mut state.logits));
            let result = self.classified(exec, state, &ids, &decoder_ids, (&mut states, &mut out));
            (state.vector, state.logits) = (states, out);
            result
        });
        decoder_ids.clear();
        (desk.source, desk.given) = (ids, decoder_ids);
        result
    }

    fn classified(
        &self,
        exec: Exec<'_>,
        state: &mut State,
        ids: &[u32],
        decoder_ids: &[u32],
        (states, out): (&mut Vec<f32>, &mut Vec<f32>),
    ) -> Result<Classification> {
        let model = self.model();
        let stride = model.shape.stride();
        states.clear();
        match (&model.head, &model.decoder) {
            (Head::Token(linear), _) => {
                encoder::encode(model, exec, &mut state.scratch, &mut state.encoder, &[ids]);
                let rows = self.linear(exec, linear, &state.encoder.hidden, ids.len(), out);
                let logits: Vec<Vec<f32>> = rows.map(<[f32]>::to_vec).collect();
                let labels = logits.iter().map(|row| self.label(row)).collect();
                Ok(Classification::Tokens { logits, labels })
            }
            (Head::Sequence { dense, out: last }, Some(decoder)) => {
                let eos = &self.config().eos_token_id;
                let end = ids.iter().rposition(|id| eos.contains(id)).ok_or_else(|| {
                    Error::input("source", "no end token", format!("a sequence with the end token, one of {eos:?}"))
                })?;
                let mut position = 0;
                self.decoder_states(decoder, exec, state, ids, decoder_ids, |hidden, rows| {
                    if (position..position + rows).contains(&end) {
                        states.extend_from_slice(&hidden[(end - position) * stride..][..stride]);
                    }
                    position += rows;
                    Ok(())
                })?;
                let pooled = self.linear(exec, dense, states, 1, out).next().unwrap_or_default();
                states.clear();
                states.extend_from_slice(pooled);
                states.resize(stride, 0.0);
                activate_rows(exec.isa, exec.team, Activation::Tanh, states);
                let logits = self.linear(exec, last, states, 1, out).next().unwrap_or_default().to_vec();
                let label = self.label(&logits);
                Ok(Classification::Sequence { logits, label })
            }
            (Head::Answer(linear), Some(decoder)) => {
                self.decoder_states(decoder, exec, state, ids, decoder_ids, |hidden, _| {
                    states.extend_from_slice(hidden);
                    Ok(())
                })?;
                let (mut start_logits, mut end_logits) = (Vec::with_capacity(ids.len()), Vec::with_capacity(ids.len()));
                for row in self.linear(exec, linear, states, ids.len(), out) {
                    start_logits.push(row[0]);
                    end_logits.push(row[1]);
                }
                Ok(Classification::Answer { start_logits, end_logits })
            }
            _ => Err(Error::Unsupported {
                call: "classify",
                needs: "a head for classification or question answering",
                has: format!("is one for {:?}", self.config().architecture),
            }),
        }
    }

    /// Rows of weight x + bias: [n] each.
    fn linear<'o>(
        &self,
        exec: Exec<'_>,
        linear: &Linear,
        x: &[f32],
        rows: usize,
        out: &'o mut Vec<f32>,
    ) -> impl ExactSizeIterator<Item = &'o [f32]> + use<'o> {
        let (n, stride) = (linear.n, padded(linear.n));
        let out = room(out, rows * stride);
        exec.product(x, rows, self.model().packed.panels(&linear.weight), Epilogue::Store, out);
        for row in out.chunks_exact_mut(stride) {
            row.iter_mut().zip(&linear.bias).take(n).for_each(|(x, b)| *x += b);
        }
        out.chunks_exact(stride).map(move |row| &row[..n])
    }

    fn label(&self, logits: &[f32]) -> String {
        let best = tiny_t5_kernels::first_max(self.isa_value(), logits);
        self.config().labels.get(best).cloned().unwrap_or_else(|| format!("LABEL_{best}"))
    }
}
