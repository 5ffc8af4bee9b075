//! The encoder alone: hidden states and sentence vectors.

use crate::error::Result;
use crate::input::Source;
use crate::t5::T5;
use serde::Serialize;

/// The encoder's output for one source.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Encoding {
    /// The source's ids.
    pub input_ids: Vec<u32>,
    /// Hidden states behind the final norm: [ids, d_model], row-major.
    pub hidden: Vec<f32>,
    /// Columns of `hidden`.
    pub d_model: usize,
}

impl Encoding {
    /// The mean of the hidden states: the sentence vector of Sentence-T5 and its kin, before their dense layer.
    #[must_use]
    pub fn mean(&self) -> Vec<f32> {
        let mut mean = vec![0.0; self.d_model];
        mean_of(&mut self.hidden.chunks_exact(self.d_model), self.input_ids.len(), &mut mean);
        mean
    }
}

/// The mean of so many rows, into zeros.
pub(crate) fn mean_of(rows: &mut dyn Iterator<Item = &[f32]>, count: usize, mean: &mut [f32]) {
    for row in rows {
        mean.iter_mut().zip(row).for_each(|(m, x)| *m += x);
    }
    mean.iter_mut().for_each(|m| *m /= count as f32);
}

/// A vector over its Euclidean length; zeros stay zeros.
#[must_use]
pub fn normalized(mut vector: Vec<f32>) -> Vec<f32> {
    normalize(&mut vector);
    vector
}

pub(crate) fn normalize(vector: &mut [f32]) {
    let length = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}

impl T5 {
    /// The encoder's hidden states for one source.
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// let t5 = tiny_t5::T5::embedded(&tiny_t5::Load::default())?;
    /// let encoding = t5.encode("hello")?;
    /// assert_eq!(encoding.hidden.len(), encoding.input_ids.len() * encoding.d_model);
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// Where the source is not valid.
    pub fn encode<'a>(&self, source: impl Into<Source<'a>>) -> Result<Encoding> {
        let mut all = self.encode_batch(&[source.into()])?;
        Ok(all.pop().expect("one source has one encoding"))
    }

    /// The encoder's hidden states for many sources: the same as one by one, to the bit, and faster.
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// let t5 = tiny_t5::T5::embedded(&tiny_t5::Load::default())?;
    /// let batch = t5.encode_batch(&["hello".into(), "world".into()])?;
    /// assert_eq!(batch[0], t5.encode("hello")?);
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`T5::encode`].
    pub fn encode_batch(&self, sources: &[Source<'_>]) -> Result<Vec<Encoding>> {
        let mut all = Vec::new();
        self.at_desk(|desk| desk.encode(self, sources, &mut all))?;
        Ok(all)
    }
}
