//! Sentence vectors: what Sentence-T5 and GTR make of the encoder's states.
//!
//! ```text
//! hidden states [ids, d_model] -> mean [d_model] -> dense layers [out_features] -> divided by the length
//! ```
//! The folder says which of these: modules.json and the folders that it names. A folder without it gives the mean alone,
//! as sentence-transformers does.

use crate::desk::{Desk, encode_each};
use crate::embed::{mean_of, normalize};
use crate::error::{Error, Result, one_line};
use crate::input::Source;
use crate::load::Dtype;
use crate::numbers;
use crate::t5::T5;
use tiny_t5_checkpoint::Modules;
use tiny_t5_kernels::{Activation, Isa, Team, activate_rows, chains, padded};

/// Sources whose ids are in memory together.
const CHUNK: usize = 64;

/// What stands behind the mean, ready to compute.
#[derive(Debug, Default)]
pub(crate) struct Sentence {
    max_seq_length: Option<usize>,
    do_lower_case: bool,
    prompt: String,
    dense: Vec<Dense>,
    normalize: bool,
}

#[derive(Debug)]
struct Dense {
    /// [out, in]
    weight: Vec<f32>,
    /// [out], or nothing
    bias: Vec<f32>,
    out_features: usize,
    tanh: bool,
}

impl T5 {
    /// The sentence vector of one source: [`T5::embed_batch`].
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// let t5 = tiny_t5::T5::embedded(&tiny_t5::Load::default())?;
    /// assert_eq!(t5.embed("hello")?.len(), t5.config().d_model);
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`T5::embed_batch`].
    pub fn embed<'a>(&self, source: impl Into<Source<'a>>) -> Result<Vec<f32>> {
        let mut all = self.embed_batch(&[source.into()])?;
        Ok(all.pop().expect("one source has one vector"))
    }

    /// A sentence vector for each source: what the folder's modules.json asks for, as Sentence-T5 and GTR have it: the mean of
    /// the encoder's states, dense layers, division by the Euclidean length; the mean alone, d_model numbers, where there is no
    /// modules.json. The same as one by one, to the bit.
    ///
    /// A text gets the folder's default prompt before it, becomes lower case where the folder says so, and is cut to the folder's
    /// max_seq_length tokens, the end token kept; ids are taken as they are.
    ///
    /// ```no_run
    /// # fn main() -> tiny_t5::Result<()> {
    /// let t5 = tiny_t5::T5::open("sentence-transformers/gtr-t5-base")?;
    /// let vectors = t5.embed_batch(&["a cat on a mat".into(), "stocks fell".into()])?;
    /// let similarity: f32 = vectors[0].iter().zip(&vectors[1]).map(|(a, b)| a * b).sum();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Where a source is not valid, or a file of the folder's modules is not what it should be.
    pub fn embed_batch(&self, sources: &[Source<'_>]) -> Result<Vec<Vec<f32>>> {
        let mut all = Vec::new();
        self.at_desk(|desk| self.embed_at(desk, sources, &mut all))?;
        Ok(all)
    }

    /// Vectors are appended to `all` in the order of the sources.
    pub(crate) fn embed_at(&self, desk: &mut Desk, sources: &[Source<'_>], all: &mut Vec<Vec<f32>>) -> Result<()> {
        let sentence = self.sentence()?;
        all.reserve_exact(sources.len());
        for (i, chunk) in sources.chunks(CHUNK).enumerate() {
            let cut = |source: Source<'_>, ids: &mut Vec<u32>| self.cut(source, sentence, ids);
            desk.with_kept_ids(chunk, (i * CHUNK, sources.len()), cut, |desk, ids| {
                desk.run(self, |exec, state| {
                    let mut buffers = (std::mem::take(&mut state.vector), std::mem::take(&mut state.logits));
                    encode_each(self, exec, state, ids, |rows, count| {
                        let (vector, out) = (&mut buffers.0, &mut buffers.1);
                        vector.clear();
                        vector.resize(self.config().d_model, 0.0);
                        mean_of(rows, count, vector);
                        sentence.finish(exec.isa, vector, out);
                        all.push(vector.clone());
                    });
                    (state.vector, state.logits) = buffers;
                });
            })?;
        }
        Ok(())
    }

    /// The ids of a source, a text changed and cut as the folder says.
    fn cut(&self, source: Source<'_>, sentence: &Sentence, ids: &mut Vec<u32>) -> Result<()> {
        let mut changed = String::new();
        let source = match source {
            Source::Text(text) if sentence.do_lower_case || !sentence.prompt.is_empty() => {
                changed.extend([&sentence.prompt, text]);
                if sentence.do_lower_case {
                    changed = changed.to_lowercase();
                }
                Source::Text(&changed)
            }
            source => source,
        };
        let (Source::Text(text), Some(most)) = (source, sentence.max_seq_length) else {
            return self.ids_into("source", source, ids);
        };
        *ids = self.need_tokenizer()?.encode(text)?;
        if ids.len() > most {
            // A tokenizer that appends an end appends it to what is left.
            let appended = self.need_tokenizer()?.encode_plain(text)?.len() < ids.len();
            let end = ids.last().copied().filter(|_| appended);
            ids.truncate(most - usize::from(appended));
            ids.extend(end);
        }
        self.check_ids("source", ids)
    }
}

impl Sentence {
    /// Reads what the folder has.
    pub(crate) fn open(t5: &T5) -> Result<Sentence> {
        let modules = match t5.model().checkpoint.dir() {
            Some(dir) => Modules::open(dir)?,
            None => None,
        };
        let Some(modules) = modules else { return Ok(Sentence::default()) };
        let mut width = t5.config().d_model;
        let mut dense = Vec::with_capacity(modules.dense.len());
        for layer in &modules.dense {
            let weight = layer.weight()?;
            if layer.in_features != width {
                return Err(Error::Variant {
                    file: one_line(weight.file),
                    what: format!("in_features is {}, expected {width}, what comes before it", layer.in_features),
                });
            }
            width = layer.out_features;
            dense.push(Dense {
                weight: numbers::all(&weight, Dtype::F32),
                bias: layer.bias()?.map(|bias| numbers::all(&bias, Dtype::F32)).unwrap_or_default(),
                out_features: layer.out_features,
                tanh: layer.tanh,
            });
        }
        let Modules { max_seq_length, do_lower_case, prompt, normalize, .. } = modules;
        Ok(Sentence { max_seq_length, do_lower_case, prompt, dense, normalize })
    }

    /// What stands behind the mean; `out` is a buffer.
    fn finish(&self, isa: Isa, vector: &mut Vec<f32>, out: &mut Vec<f32>) {
        for Dense { weight, bias, out_features, tanh } in &self.dense {
            out.clear();
            out.resize(padded(*out_features), 0.0);
            chains(isa, vector, weight, vector.len(), &mut out[..*out_features]);
            out.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
            if *tanh {
                activate_rows(isa, &Team::alone(), Activation::Tanh, out);
            }
            vector.clear();
            vector.extend_from_slice(&out[..*out_features]);
        }
        if self.normalize {
            normalize(vector);
        }
    }
}
