//! What a beam search wants of the logits: the best few of each beam, and the sum that makes log-probabilities of them.
//!
//! Both come from a copy of the matrix at 16 bits (see `tiny_t5_kernels::Near`), which halves what a step reads: the best are the full
//! product's, to the bit, and so are all that have a part in the sum; of the sum's logarithm about the seventh digit may differ.

use super::{Choice, Finalists, LmHead, MAX_SURVIVORS, Packing, Scores, exact};
use crate::error::Result;
use crate::model::Model;
use crate::stack::{Exec, room};
use crate::weights::Plan;
use tiny_t5_kernels::{Near, NearQuery, log_sum_exp, near_bytes, near_panels, padded};

/// The copy in the panel cache.
const ENTRY: &str = "near";

/// The best of a row.
pub(crate) struct Likeliest<'a> {
    /// Ids, ascending, with their logits: the best of those that no processor touches, and all that one does.
    pub(crate) outputs: &'a [(u32, f32)],
    /// ln(sum of e^logit), of all.
    pub(crate) sum: f32,
}

impl Choice {
    /// What [`LmHead::likeliest`] found of a row; none where it computed all logits of it.
    pub(crate) fn likeliest(&self, row: usize) -> Option<Likeliest<'_>> {
        let Finalists { outputs, sum, .. } = self.finalists.get(row)?;
        sum.map(|sum| Likeliest { outputs, sum })
    }
}

impl LmHead {
    /// The copy; none where it would be as wide as the matrix, or where greedy search has no screen.
    fn near(&self, model: &Model, exec: Exec<'_>) -> Result<Option<&Packing>> {
        let (n, k) = (model.config().vocab_size, model.config().d_model);
        if let Some(near) = self.near.get() {
            return Ok(near.as_ref());
        }
        let is_wide =
            || Plan::new(exec.isa, self.dtype, &model.checkpoint, None, exec.team).rows(&[self.tensor(model)]).is_f32();
        let packing = match LmHead::is_screened(model.config(), self.dtype) && is_wide() {
            false => None,
            true => self.copied(model, exec, (ENTRY, near_bytes(n, k)), |scales, bytes| {
                let panels = &mut near_panels(n, k, bytes)[..];
                self.pack_rows(model, exec, panels, |rows, panel| panel.pack(exec.isa, rows, scales))
            })?,
        };
        Ok(self.near.get_or_init(|| packing).as_ref())
    }

    /// Of each row the ids that may have one of the `keep` best scores ([`Choice::likeliest`]); where that cannot be told, all logits of
    /// it, in [rows, padded(vocab_size)].
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn likeliest(
        &self,
        model: &Model,
        exec: Exec<'_>,
        hidden: &[f32],
        rows: usize,
        choice: &mut Choice,
        scores: &impl Scores,
        keep: usize,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        let (n, k, stride) = (model.config().vocab_size, model.config().d_model, model.shape.stride());
        let Choice { finalists, near_queries, screened, survivors, .. } = choice;
        finalists.resize_with(rows.max(finalists.len()), Finalists::default);
        let finalists = &mut finalists[..rows];
        let mut few = true;
        for (row, Finalists { apart, sum, .. }) in finalists.iter_mut().enumerate() {
            *sum = None; // of an earlier step
            apart.clear();
            few = few && scores.touches(row, apart) && apart.len() <= MAX_SURVIVORS;
            apart.sort_unstable();
            apart.dedup();
        }
        let near = if few { self.near(model, exec)? } else { None };
        let prepared = near.is_some_and(|packing| {
            let queries = room(near_queries, rows * stride);
            let mut each = finalists.iter_mut().zip(queries.chunks_exact_mut(stride)).zip(hidden.chunks_exact(stride));
            each.all(|((finalists, to), hidden)| {
                finalists.query = NearQuery::prepare(hidden, &packing.scales, to);
                finalists.query.is_some()
            })
        });
        let Some(packing) = near.filter(|_| prepared) else {
            self.logits(model, exec, hidden, rows, logits)?;
            return Ok(());
        };
        let near = Near::new(n, k, packing.block.bytes());
        let all = room(logits, rows * padded(n));
        near.products(exec.isa, exec.team, near_queries, stride, rows, all);
        let tensor = self.tensor(model);
        exec.team.chunks_mut(finalists, 1, |row, finalists| {
            let Finalists { query, apart, left, outputs, logits, weights, sum, leading, .. } = &mut finalists[0];
            let Some(query) = *query else { return };
            let products = &all[row * padded(n)..][..padded(n)];
            if !near.leading(exec.isa, query, products, apart, (keep, MAX_SURVIVORS), leading) {
                return;
            }
            *left = leading.rows.len();
            outputs.clear();
            outputs.extend(leading.rows.iter().chain(&*apart).map(|id| (*id, f32::NAN)));
            exact(exec.isa, &tensor, self.dtype, &hidden[row * stride..][..k], outputs, (weights, logits));
            outputs.iter().for_each(|(id, logit)| leading.logits[*id as usize] = *logit);
            *sum = Some(log_sum_exp(exec.isa, &leading.logits[..n]));
            outputs.sort_unstable_by_key(|(id, _)| *id);
        });
        for ((finalists, all), hidden) in
            finalists.iter_mut().zip(all.chunks_exact_mut(padded(n))).zip(hidden.chunks_exact(stride))
        {
            if finalists.sum.is_some() {
                *screened += 1;
                *survivors += finalists.left;
            } else {
                all.copy_from_slice(self.logits(model, exec, hidden, 1, &mut finalists.logits)?);
            }
        }
        Ok(())
    }
}
