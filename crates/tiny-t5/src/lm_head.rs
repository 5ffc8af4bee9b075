//! From the decoder's hidden states to logits.

use crate::error::Result;
use crate::model::Model;
use crate::stack::{Exec, room};
use crate::weights::{Matrix, Packed, Plan};
use std::sync::OnceLock;
use tiny_t5_kernels::{Epilogue, padded};

/// The output matrix [vocab_size, d_model]: `lm_head.weight`, or the embedding where they are tied.
#[derive(Debug)]
pub(crate) struct LmHead {
    name: &'static str,
    /// Packed on first use.
    packed: OnceLock<(Packed, Matrix)>,
}

impl LmHead {
    pub(crate) fn new(name: &'static str) -> LmHead {
        LmHead { name, packed: OnceLock::new() }
    }

    fn packed(&self, model: &Model, exec: Exec<'_>) -> Result<&(Packed, Matrix)> {
        if let Some(packed) = self.packed.get() {
            return Ok(packed);
        }
        let tensor = model.checkpoint.find(self.name).expect("`Model::load` found it");
        let mut plan = Plan::new(exec.isa, model.dtype);
        let matrix = plan.rows(&[tensor]);
        let packed = plan.pack(exec.team)?;
        Ok(self.packed.get_or_init(|| (packed, matrix)))
    }

    /// Logits of `rows` hidden states [rows, padded(d_model)]: [rows, padded(vocab_size)].
    pub(crate) fn logits<'a>(
        &self,
        model: &Model,
        exec: Exec<'_>,
        hidden: &[f32],
        rows: usize,
        logits: &'a mut Vec<f32>,
    ) -> Result<&'a mut [f32]> {
        let (packed, matrix) = self.packed(model, exec)?;
        let logits = room(logits, rows * padded(model.config().vocab_size));
        exec.product(hidden, rows, packed.panels(matrix), Epilogue::Store, logits);
        Ok(logits)
    }
}
