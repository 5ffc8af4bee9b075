//! From the decoder's hidden states to logits, or straight to the best token.
//!
//! Greedy search wants the largest logit only. [`LmHead::best`] finds it through an int8 screen (see `tiny_t5_kernels::Screen`):
//! rigorous bounds of every logit, then the few that can win in f32, by the chain of the full product. The ids are the full
//! product's, ties and all, at a quarter of its bytes. Beam search wants the largest few and the sum of all: [`LmHead::likeliest`].
//! Where the bounds do not help (numbers that are not finite, too many survivors, a processor that changes every score) the full
//! product runs.

mod near;

pub(crate) use near::Likeliest;

use crate::cache::Block;
use crate::error::{Error, Result};
use crate::load::Dtype;
use crate::model::Model;
use crate::numbers;
use crate::stack::{Exec, room};
use crate::weights::{CHUNK_BYTES, Matrix, Packed, Plan};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use tiny_t5_checkpoint::{Config, Tensor};
use tiny_t5_kernels::{
    Arena, ColumnScales, Epilogue, Isa, LANES, Leading, NearLeading, NearQuery, Query, SCREEN_MAX_K, Screen, chains,
    first_max, pack_screen, padded, screen_bytes, screen_digits,
};

/// Weights from which a screen is worth its making; below it the full product is as fast.
const SCREEN_FROM: usize = 1 << 20;
/// The screen in the panel cache.
const SCREEN_ENTRY: &str = "screen";
/// Places of the matrix from which 16 rows each are looked at for the scales of its columns.
const SAMPLES: usize = 8;
/// Survivors beyond which the full product is faster.
const MAX_SURVIVORS: usize = 512;
/// Ids that processors change beyond which the full product with int8 weights is faster: each has 64 logits computed.
const MAX_APART: usize = 64;

/// The output matrix [vocab_size, d_model]: `lm_head.weight`, or the embedding where they are tied.
#[derive(Debug)]
pub(crate) struct LmHead {
    /// The matrix's name in the checkpoint.
    pub(crate) name: &'static str,
    /// How its numbers are rounded: [`numbers::rounded_as`].
    pub(crate) dtype: Dtype,
    /// Packed on first use.
    packed: OnceLock<(Packed, Matrix)>,
    /// Made on first use; none where the matrix has numbers that are not finite.
    screen: OnceLock<Option<Packing>>,
    /// As the screen, for beams.
    near: OnceLock<Option<Packing>>,
}

/// A copy of the matrix that serves a search, and what its columns were divided by.
#[derive(Debug)]
struct Packing {
    block: Block,
    scales: ColumnScales,
}

/// Buffers of [`LmHead::best`] and [`LmHead::likeliest`], and what they saw.
#[derive(Debug, Default)]
pub(crate) struct Choice {
    queries: Vec<Query>,
    /// [rows, padded(d_model)]
    near_queries: Vec<f32>,
    /// [queries, groups]
    uppers: Vec<f32>,
    /// One a query.
    finalists: Vec<Finalists>,
    /// [vocab_size], minus infinity between uses.
    scores: Vec<f32>,
    logits: Vec<f32>,
    /// Of an int8 matrix, one a row.
    leading: Vec<Leading>,
    /// Rows that the screen decided, and what it left over of them.
    pub(crate) screened: usize,
    pub(crate) survivors: usize,
}

/// The ids that can be the best of a row, and their logits.
#[derive(Debug, Default)]
struct Finalists {
    row: usize,
    /// The ids whose scores a processor changes, ascending.
    apart: Vec<u32>,
    /// How many of the others the screen leaves over.
    left: usize,
    /// All of them, ascending, with their logits; where they are too many none, or for a guess with what their logits do not exceed.
    outputs: Vec<(u32, f32)>,
    /// Of a few of them.
    logits: Vec<f32>,
    /// Of a few of them, a row of d_model each.
    weights: Vec<f32>,
    /// For beams.
    query: Option<NearQuery>,
    leading: NearLeading,
    /// ln(sum of e^logit) of all ids.
    sum: Option<f32>,
}

/// Computes the logits of some outputs for one hidden state `[d_model]`; with buffers.
fn exact(
    isa: Isa,
    tensor: &Tensor<'_>,
    dtype: Dtype,
    hidden: &[f32],
    outputs: &mut [(u32, f32)],
    (weights, logits): (&mut Vec<f32>, &mut Vec<f32>),
) {
    let weights = room(weights, outputs.len() * hidden.len());
    for ((id, _), out) in outputs.iter().zip(weights.chunks_exact_mut(hidden.len())) {
        numbers::row(tensor, *id as usize, dtype, out);
    }
    let logits = room(logits, outputs.len());
    chains(isa, hidden, weights, hidden.len(), logits);
    outputs.iter_mut().zip(logits).for_each(|(output, logit)| output.1 = *logit);
}

/// What the best id is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The answer: the full product's, to the bit.
    Exact,
    /// Something to check: where the screen leaves too many, the largest bound will do. Where it leaves few, their logits cost little and
    /// guess better: of 470 guesses of the t5-small shape with random weights 413 held instead of 389.
    Guess,
}

/// How a search changes the scores of a row before it takes the best.
pub(crate) trait Scores {
    /// The ids whose scores [`Scores::process`] may change; false where it may change all.
    fn touches(&self, row: usize, ids: &mut Vec<u32>) -> bool;
    /// Changes the scores [vocab_size]. Scores of ids that it does not touch may be minus infinity instead of what they are.
    fn process(&self, row: usize, scores: &mut [f32]);
}

impl LmHead {
    pub(crate) fn new(name: &'static str, dtype: Dtype) -> LmHead {
        LmHead { name, dtype, packed: OnceLock::new(), screen: OnceLock::new(), near: OnceLock::new() }
    }

    fn tensor<'a>(&self, model: &'a Model) -> Tensor<'a> {
        model.checkpoint.find(self.name).expect("`Model::load` found it, and a checkpoint does not change")
    }

    fn packed(&self, model: &Model, exec: Exec<'_>) -> Result<&(Packed, Matrix)> {
        if let Some(packed) = self.packed.get() {
            return Ok(packed);
        }
        let cache = model.cache.as_ref().map(|cache| (cache, "head"));
        let mut plan = Plan::new(exec.isa, self.dtype, &model.checkpoint, cache, exec.team);
        let matrix = plan.rows(&[self.tensor(model)]);
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

    /// The logits of a few ids for one hidden state: those of [`LmHead::logits`], to the bit, but of int8, whose rows count as the
    /// checkpoint has them. The ids are below vocab_size; `rows` is a buffer.
    pub(crate) fn logits_of<const N: usize>(
        &self,
        model: &Model,
        exec: Exec<'_>,
        hidden: &[f32],
        ids: [u32; N],
        rows: &mut Vec<f32>,
    ) -> [f32; N] {
        let (tensor, k) = (self.tensor(model), model.config().d_model);
        let rows = room(rows, N * k);
        ids.iter()
            .zip(rows.chunks_exact_mut(k))
            .for_each(|(id, out)| numbers::row(&tensor, *id as usize, self.dtype, out));
        let mut logits = [0.0; N];
        chains(exec.isa, &hidden[..k], rows, k, &mut logits);
        logits
    }

    fn screen(&self, model: &Model, exec: Exec<'_>) -> Result<Option<&Packing>> {
        if !LmHead::is_screened(model.config(), self.dtype) {
            return Ok(None);
        }
        if let Some(screen) = self.screen.get() {
            return Ok(screen.as_ref());
        }
        let (n, k) = (model.config().vocab_size, model.config().d_model);
        let packing = self.copied(model, exec, (SCREEN_ENTRY, screen_bytes(n, k)), |scales, bytes| {
            let mut panels: Vec<_> = bytes.chunks_exact_mut(screen_bytes(LANES, k)).collect();
            self.pack_rows(model, exec, &mut panels, |rows, panel| pack_screen(exec.isa, rows, scales, panel))
        })?;
        Ok(self.screen.get_or_init(|| packing).as_ref())
    }

    /// Whether greedy search goes through a screen: with int8 weights the full product reads no more, and has its own
    /// shortcut (see [`tiny_t5_kernels::largest`]).
    pub(crate) fn is_screened(config: &Config, dtype: Dtype) -> bool {
        let (n, k) = (config.vocab_size, config.d_model);
        n.saturating_mul(k) >= SCREEN_FROM && k <= SCREEN_MAX_K && dtype != Dtype::Int8
    }

    /// Whether a search has used the screen, or the copy that beams use.
    pub(crate) fn has_screen(&self) -> bool {
        [&self.screen, &self.near].iter().any(|copy| copy.get().is_some_and(Option::is_some))
    }

    /// A copy of so many bytes, as the cache has it under that name or else made by `pack`; none where that is false.
    fn copied(
        &self,
        model: &Model,
        exec: Exec<'_>,
        (entry, bytes): (&'static str, usize),
        pack: impl FnOnce(&ColumnScales, &mut [u8]) -> bool,
    ) -> Result<Option<Packing>> {
        let (n, k) = (model.config().vocab_size, model.config().d_model);
        let memory = |source| Error::Memory { what: "copy of the LM head", bytes, source };
        if let Some(kept) = model.cache.as_ref().and_then(|cache| cache.get(entry, exec.team)) {
            let scales: Vec<f32> = kept.notes().as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect();
            if scales.len() == k && kept.data().len() == bytes {
                let block = Block::kept(kept).map_err(memory)?;
                return Ok(Some(Packing { block, scales: ColumnScales::from_scales(&scales) }));
            }
        }
        // Some rows show which columns are outliers: from everywhere, since a vocabulary's first words are the frequent ones.
        let (tensor, mut buffers, mut samples) = (self.tensor(model), [const { Vec::new() }; 2], Vec::new());
        for place in 0..SAMPLES {
            let first = place * n / SAMPLES;
            let rows = numbers::rows(&tensor, first, LANES.min(n - first), self.dtype, &mut buffers);
            samples.extend_from_slice(rows);
        }
        let scales = ColumnScales::new(&samples, padded(k), k);
        drop((buffers, samples));
        let mut arena = Arena::new(bytes).map_err(memory)?;
        if !pack(&scales, arena.bytes_mut()) {
            return Ok(None);
        }
        if let Some(cache) = &model.cache {
            let notes: Vec<u8> = scales.scales().iter().flat_map(|x| x.to_le_bytes()).collect();
            cache.put(entry, &notes, arena.bytes(), exec.team);
        }
        Ok(Some(Packing { block: Block::Made(arena), scales }))
    }

    /// Packs the rows of the matrix, 16 a panel, on all threads; false where one of them cannot be packed.
    fn pack_rows<P: Send>(
        &self,
        model: &Model,
        exec: Exec<'_>,
        panels: &mut [P],
        pack: impl Fn(&[Option<&[f32]>; LANES], &mut P) -> bool + Sync,
    ) -> bool {
        let (n, k) = (model.config().vocab_size, model.config().d_model);
        let tensor = self.tensor(model);
        /// Parts of a chunk of the region, which are read into the same buffer.
        const PARTS: usize = 4;
        let part = (CHUNK_BYTES / (LANES * k * tensor.dtype.size()).max(1)).max(1);
        let holds = AtomicBool::new(true);
        exec.team.chunks_mut(panels, PARTS * part, |chunk, panels| {
            let mut buffers = [const { Vec::new() }; 2];
            for (i, panels) in panels.chunks_mut(part).enumerate() {
                let first = (chunk * PARTS + i) * part * LANES;
                let count = (n - first).min(panels.len() * LANES);
                let floats = numbers::rows(&tensor, first, count, self.dtype, &mut buffers);
                for (panel, rows) in panels.iter_mut().zip(floats.chunks(LANES * padded(k))) {
                    let row = |i: usize| rows.get(i * padded(k)..(i + 1) * padded(k));
                    if !pack(&std::array::from_fn(row), panel) {
                        holds.store(false, Ordering::Relaxed);
                    }
                }
            }
        });
        holds.into_inner()
    }

    /// The id with the best score of each row, the first of equals: what the full logits, processed, would give.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn best(
        &self,
        model: &Model,
        exec: Exec<'_>,
        hidden: &[f32],
        rows: usize,
        choice: &mut Choice,
        scores: &impl Scores,
        wanted: Wanted,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        out.clear();
        let Some(packing) = self.screen(model, exec)? else {
            return self.best_of_all(model, exec, hidden, rows, choice, scores, out);
        };
        let (n, k, stride) = (model.config().vocab_size, model.config().d_model, model.shape.stride());
        let screen = Screen::new(n, k, packing.block.bytes());
        let hidden_of = |row: usize| &hidden[row * stride..][..k];
        let Choice { queries, uppers, finalists, scores: dense, logits, screened, survivors, .. } = choice;
        queries.resize_with(rows.max(queries.len()), Query::default);
        finalists.resize_with(rows.max(finalists.len()), Finalists::default);
        // Rows that the screen can serve come to the front.
        let mut served = 0;
        for row in 0..rows {
            let Finalists { row: of, apart, .. } = &mut finalists[served];
            *of = row;
            apart.clear();
            let few = scores.touches(row, apart) && apart.len() <= MAX_SURVIVORS;
            if few && queries[served].prepare(exec.isa, hidden_of(row), &packing.scales) {
                apart.sort_unstable();
                apart.dedup();
                served += 1;
            }
        }
        let (queries, finalists) = (&queries[..served], &mut finalists[..served]);
        let groups = screen.groups();
        uppers.resize(served * groups, 0.0);
        screen.scan(exec.isa, exec.team, queries, screen_digits(exec.isa, served), uppers);
        let tensor = self.tensor(model);
        exec.team.chunks_mut(finalists, 1, |query, finalists| {
            let Finalists { row, apart, left, outputs, logits, weights, .. } = &mut finalists[0];
            screen.survivors(exec.isa, &queries[query], &uppers[query * groups..][..groups], apart, outputs);
            *left = outputs.len();
            let few = *left <= MAX_SURVIVORS;
            if *left == 0 || (!few && wanted == Wanted::Exact) {
                outputs.clear();
                return;
            }
            outputs.extend(apart.iter().map(|id| (*id, f32::NAN)));
            let unknown = if few { &mut outputs[..] } else { &mut outputs[*left..] };
            exact(exec.isa, &tensor, self.dtype, hidden_of(*row), unknown, (weights, logits));
            outputs.sort_unstable_by_key(|(id, _)| *id);
        });
        dense.resize(n.max(dense.len()), f32::NEG_INFINITY);
        let mut finalists = finalists.iter().filter(|f| !f.outputs.is_empty()).peekable();
        for row in 0..rows {
            let Some(Finalists { left, outputs, .. }) = finalists.next_if(|f| f.row == row) else {
                let logits = self.logits(model, exec, hidden_of(row), 1, logits)?;
                scores.process(row, &mut logits[..n]);
                out.push(first_max(exec.isa, &logits[..n]) as u32);
                continue;
            };
            out.push(best_of(outputs.iter().copied(), row, scores, &mut dense[..n]));
            if wanted == Wanted::Exact {
                *screened += 1;
                *survivors += left;
            }
        }
        Ok(())
    }

    /// Without a screen: of all logits, which need not be written out where they are int8's and processors change few of them.
    #[allow(clippy::too_many_arguments)]
    fn best_of_all(
        &self,
        model: &Model,
        exec: Exec<'_>,
        hidden: &[f32],
        rows: usize,
        choice: &mut Choice,
        scores: &impl Scores,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        let (n, stride) = (model.config().vocab_size, model.shape.stride());
        let (packed, matrix) = self.packed(model, exec)?;
        let Choice { leading, scores: dense, logits, .. } = choice;
        leading.resize_with(rows.max(leading.len()), Leading::default);
        let leading = &mut leading[..rows];
        let mut few = matrix.is_int8();
        for (row, Leading { apart, outputs }) in leading.iter_mut().enumerate() {
            apart.clear();
            outputs.clear();
            few = few && scores.touches(row, apart) && apart.len() <= MAX_APART;
            apart.sort_unstable();
            apart.dedup();
        }
        if few {
            // Ids end before the last panel does: what fills it up has the logit zero, which may be the largest.
            exec.largest(hidden, rows, packed.panels(matrix).first(n), leading);
            dense.resize(n.max(dense.len()), f32::NEG_INFINITY);
        }
        let full = if leading.iter().any(|row| !row.outputs.is_empty()) { 1 } else { rows.max(1) };
        for first in (0..rows).step_by(full) {
            if let outputs @ [_, ..] = &leading[first].outputs[..] {
                out.push(best_of(outputs.iter().copied(), first, scores, &mut dense[..n]));
                continue;
            }
            let logits = self.logits(model, exec, &hidden[first * stride..], full, logits)?;
            for (row, logits) in logits.chunks_exact_mut(padded(n)).enumerate() {
                scores.process(first + row, &mut logits[..n]);
                out.push(first_max(exec.isa, &logits[..n]) as u32);
            }
        }
        Ok(())
    }
}

/// The best of some ids with their logits, ascending, behind the processors; the first of equals. `dense` is [vocab_size], minus
/// infinity before and after.
fn best_of(
    outputs: impl Iterator<Item = (u32, f32)> + Clone,
    row: usize,
    scores: &impl Scores,
    dense: &mut [f32],
) -> u32 {
    outputs.clone().for_each(|(id, logit)| dense[id as usize] = logit);
    scores.process(row, dense);
    let ids = outputs.map(|(id, _)| id);
    let is_better = |x: f32, y: f32| x > y || y.is_nan();
    let best =
        ids.clone().reduce(|best, id| if is_better(dense[id as usize], dense[best as usize]) { id } else { best });
    ids.for_each(|id| dense[id as usize] = f32::NEG_INFINITY);
    best.expect("finalists are not empty")
}
