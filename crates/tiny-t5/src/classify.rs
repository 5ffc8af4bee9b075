//! The heads of fine-tunes that do not generate: sequence and token classification, question answering.

use crate::error::{Error, Result};
use crate::model::{Head, Linear};
use crate::stack::{Exec, Stack, room};
use crate::t5::{Source, T5};
use tiny_t5_kernels::{Activation, Epilogue, activate_rows, padded};

/// What a head says about one source. Labels are those of `id2label`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Classification {
    /// Of the whole.
    Sequence {
        /// A number a label.
        logits: Vec<f32>,
        /// The label of the largest.
        label: String,
    },
    /// Of every token.
    Tokens {
        /// A row a token, a number a label.
        logits: Vec<Vec<f32>>,
        /// Each token's label.
        labels: Vec<String>,
    },
    /// Where an answer begins and ends.
    Answer {
        /// A number a token.
        start_logits: Vec<f32>,
        /// A number a token.
        end_logits: Vec<f32>,
    },
}

impl T5 {
    /// Classifies one source with the head that the checkpoint has.
    ///
    /// ```no_run
    /// # fn main() -> tiny_t5::Result<()> {
    /// use tiny_t5::{Classification, T5};
    ///
    /// let t5 = T5::open("path/to/a/fine-tune")?;
    /// match t5.classify("I like it.")? {
    ///     Classification::Sequence { label, .. } => println!("{label}"),
    ///     Classification::Tokens { labels, .. } => println!("{labels:?}"),
    ///     other => println!("{other:?}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Where the source is not valid, or the checkpoint has no such head; for sequence classification also where the source has no
    /// end token.
    pub fn classify<'a>(&self, source: impl Into<Source<'a>>) -> Result<Classification> {
        let model = self.model();
        let ids = self.ids_of("source", source.into())?;
        match (&model.head, &model.decoder) {
            (Head::Token(linear), _) => {
                let encoding = self.encode(&ids)?;
                let logits = self.with_state(|exec, _| {
                    let stride = padded(encoding.d_model);
                    let mut hidden = vec![0.0; ids.len() * stride];
                    for (to, row) in hidden.chunks_exact_mut(stride).zip(encoding.hidden.chunks_exact(encoding.d_model))
                    {
                        to[..row.len()].copy_from_slice(row);
                    }
                    self.linear(exec, linear, &hidden, ids.len())
                });
                let labels = logits.iter().map(|row| self.label(row)).collect();
                Ok(Classification::Tokens { logits, labels })
            }
            (Head::Sequence { dense, out }, Some(decoder)) => {
                let eos = &self.config().eos_token_id;
                let last = ids.iter().rposition(|id| eos.contains(id)).ok_or_else(|| {
                    Error::input("source", "no end token", format!("a sequence with the end token, one of {eos:?}"))
                })?;
                let logits = self.with_state(|exec, state| {
                    let states = self.shifted(decoder, exec, state, &ids)?;
                    let stride = model.shape.stride();
                    let mut pooled = self.linear(exec, dense, &states[last * stride..][..stride], 1).remove(0);
                    pooled.resize(stride, 0.0);
                    activate_rows(exec.isa, exec.team, Activation::Tanh, &mut pooled);
                    Ok::<_, Error>(self.linear(exec, out, &pooled, 1).remove(0))
                })?;
                let label = self.label(&logits);
                Ok(Classification::Sequence { logits, label })
            }
            (Head::Answer(linear), Some(decoder)) => {
                let rows = self.with_state(|exec, state| {
                    let states = self.shifted(decoder, exec, state, &ids)?;
                    Ok::<_, Error>(self.linear(exec, linear, &states, ids.len()))
                })?;
                let column = |i: usize| rows.iter().map(|row| row[i]).collect();
                Ok(Classification::Answer { start_logits: column(0), end_logits: column(1) })
            }
            _ => Err(Error::Unsupported {
                call: "classify",
                needs: "a head for classification or question answering",
                has: format!("is one for {:?}", self.config().architecture),
            }),
        }
    }

    /// The decoder's states for the source itself, shifted right by the start token: [ids, padded(d_model)].
    fn shifted(
        &self,
        decoder: &Stack,
        exec: Exec<'_>,
        state: &mut crate::generate::State,
        ids: &[u32],
    ) -> Result<Vec<f32>> {
        let start = self.config().decoder_start_token_id;
        let shifted: Vec<u32> = std::iter::once(start).chain(ids[..ids.len() - 1].iter().copied()).collect();
        let mut states = Vec::new();
        self.decoder_states(decoder, exec, state, ids, &shifted, |hidden, _| {
            states.extend_from_slice(hidden);
            Ok(())
        })?;
        Ok(states)
    }

    /// Rows of weight x + bias.
    fn linear(&self, exec: Exec<'_>, linear: &Linear, x: &[f32], rows: usize) -> Vec<Vec<f32>> {
        let mut out = Vec::new();
        let out = room(&mut out, rows * padded(linear.n));
        exec.product(x, rows, self.model().packed.panels(&linear.weight), Epilogue::Store, out);
        let add = |row: &[f32]| row.iter().zip(&linear.bias).take(linear.n).map(|(x, b)| x + b).collect();
        out.chunks_exact(padded(linear.n)).map(add).collect()
    }

    fn label(&self, logits: &[f32]) -> String {
        let best = tiny_t5_kernels::first_max(self.isa_value(), logits);
        self.config().labels.get(best).cloned().unwrap_or_else(|| format!("LABEL_{best}"))
    }
}
