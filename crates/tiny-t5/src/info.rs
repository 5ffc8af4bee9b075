//! What a loaded model is: counts and names, for those who want to see what they have.

use crate::complexity::{Flops, Parameters};
use crate::model::Head;
use crate::t5::T5;
use tiny_t5_checkpoint::Architecture;
use tiny_t5_kernels::Isa;

impl T5 {
    /// How many parameters the model has. Whether the output matrix is the embedding is decided by the tensors.
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// let t5 = tiny_t5::T5::embedded(&tiny_t5::Load::default())?;
    /// assert_eq!(t5.parameters().total(), 3_856_512);
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    #[must_use]
    pub fn parameters(&self) -> Parameters {
        Parameters::of(self.config(), self.has_own_head())
    }

    /// Floating-point operations of one source of `source` tokens with a target of `target` tokens.
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// let t5 = tiny_t5::T5::embedded(&tiny_t5::Load::default())?;
    /// println!("{} FLOPs", t5.flops(20, 10).total());
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    #[must_use]
    pub fn flops(&self, source: u64, target: u64) -> Flops {
        Flops::of(self.config(), source, target)
    }

    /// Tensors of the checkpoint that this model has no place for.
    #[must_use]
    pub fn unused_tensors(&self) -> &[String] {
        &self.model().unused
    }

    /// Whether greedy search has gone through the LM head's int8 screen since the model was loaded, or beam search through its copy at
    /// 16 bits. What they decided stands in
    /// [`Timings::screened`](crate::Timings::screened) and [`Timings::survivors`](crate::Timings::survivors).
    #[must_use]
    pub fn has_screen(&self) -> bool {
        matches!(&self.model().head, Head::Lm(head) if head.has_screen())
    }

    /// The instruction sets that this build knows, best first, whether this processor has them or not.
    #[must_use]
    pub fn known_isas() -> Vec<&'static str> {
        Isa::known().collect()
    }

    /// Those of [`T5::known_isas`] that this processor lacks.
    #[must_use]
    pub fn missing_isas() -> Vec<&'static str> {
        Isa::missing()
    }

    /// An lm_head is stored and is not the embedding once more.
    fn has_own_head(&self) -> bool {
        let model = self.model();
        let head = match self.config().architecture {
            Architecture::ConditionalGeneration => model.checkpoint.find("lm_head.weight"),
            _ => None,
        };
        let embedding = model.embedding();
        head.is_some_and(|head| head.dtype != embedding.dtype || head.bytes != embedding.bytes)
    }
}
