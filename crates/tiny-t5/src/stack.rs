//! What the encoder and the decoder share: blocks, norms, the feed-forward layer, scratch.

use crate::recent_rows::RecentRows;
use crate::relative_bias::RelativeBias;
use crate::weights::{Heads, Matrix, Packed};
use std::sync::atomic::{AtomicBool, Ordering};
use tiny_t5_kernels::{
    Activation, Epilogue, Isa, Leading, Panels, Product, Team, Upcoming, activate_rows, gate_rows, largest,
    matmul_asking_for, padded, rms_norm,
};

/// The encoder's or the decoder's weights.
#[derive(Debug, Clone)]
pub(crate) struct Stack {
    pub(crate) blocks: Vec<Block>,
    /// `final_layer_norm.weight` [d_model]
    pub(crate) final_norm: Vec<f32>,
}

/// One block: self-attention, in the decoder cross-attention, feed-forward; each behind a norm and beside a residual.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    /// `layer.0.layer_norm.weight` [d_model]
    pub(crate) attention_norm: Vec<f32>,
    /// q, k and v of `layer.0.SelfAttention` as one: [3 * inner, d_model]
    pub(crate) qkv: Matrix,
    /// `layer.0.SelfAttention.o` [d_model, inner]
    pub(crate) o: Matrix,
    /// `layer.0.SelfAttention.relative_attention_bias.weight` [num_buckets, num_heads]: in block 0, in UMT5 in every block
    pub(crate) bias: Option<Vec<f32>>,
    pub(crate) cross: Option<CrossAttention>,
    pub(crate) feed_forward: FeedForward,
}

impl Stack {
    /// Bytes of the weights that a step of the decoder reads.
    pub(crate) fn step_bytes(&self) -> usize {
        self.blocks.iter().flat_map(Block::step_matrices).map(Matrix::bytes).sum()
    }
}

impl Block {
    fn step_matrices(&self) -> impl Iterator<Item = &Matrix> {
        let FeedForward { wi, wo, .. } = &self.feed_forward;
        let cross = self.cross.iter().flat_map(|cross| [&cross.q, &cross.o]);
        [&self.qkv, &self.o, wi, wo].into_iter().chain(cross)
    }

    /// The matrices that a step of the decoder reads.
    pub(crate) fn step_matrices_mut(&mut self) -> impl Iterator<Item = &mut Matrix> {
        let FeedForward { wi, wo, .. } = &mut self.feed_forward;
        let cross = self.cross.iter_mut().flat_map(|cross| [&mut cross.q, &mut cross.o]);
        [&mut self.qkv, &mut self.o, wi, wo].into_iter().chain(cross)
    }
}

/// `layer.1.EncDecAttention` of the decoder's blocks.
#[derive(Debug, Clone)]
pub(crate) struct CrossAttention {
    /// `layer.1.layer_norm.weight` [d_model]
    pub(crate) norm: Vec<f32>,
    /// [inner, d_model]
    pub(crate) q: Matrix,
    /// k and v as one: [2 * inner, d_model]
    pub(crate) kv: Matrix,
    /// [d_model, inner]
    pub(crate) o: Matrix,
}

/// `DenseReluDense` of a block's last layer.
#[derive(Debug, Clone)]
pub(crate) struct FeedForward {
    /// `layer_norm.weight` [d_model]
    pub(crate) norm: Vec<f32>,
    /// `wi` [d_ff, d_model]; where gated `wi_0` and `wi_1` one under the other: [2 * padded(d_ff), d_model]
    pub(crate) wi: Matrix,
    /// [d_model, d_ff]
    pub(crate) wo: Matrix,
    pub(crate) gated: bool,
    pub(crate) activation: Activation,
}

/// The shape of a stack's computation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) d_model: usize,
    pub(crate) heads: Heads,
    pub(crate) epsilon: f32,
    pub(crate) max_distance: usize,
}

impl Shape {
    /// Row stride of the residual stream.
    pub(crate) fn stride(self) -> usize {
        padded(self.d_model)
    }

    pub(crate) fn kernel_heads(self) -> tiny_t5_kernels::Heads {
        tiny_t5_kernels::Heads { heads: self.heads.heads, d_kv: self.heads.d_kv }
    }
}

/// What computes: an instruction set and the threads of a call; and the caller's wish that it ends.
#[derive(Clone, Copy)]
pub(crate) struct Exec<'a> {
    pub(crate) isa: Isa,
    pub(crate) team: &'a Team,
    pub(crate) stop: Option<&'a AtomicBool>,
    /// What is read behind the next products.
    pub(crate) upcoming: Option<&'a Upcoming>,
}

impl Exec<'_> {
    /// The caller wants the call to end.
    pub(crate) fn is_stopped(self) -> bool {
        self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }

    /// With products that ask for what is upcoming.
    pub(crate) fn asking_for<'a>(self, upcoming: &'a Upcoming) -> Exec<'a>
    where
        Self: 'a,
    {
        Exec { upcoming: Some(upcoming), ..self }
    }

    /// out = a w, for `m` rows; rows of `a` and `out` are as long as the weights ask for, padded.
    pub(crate) fn product(self, a: &[f32], m: usize, w: Panels<'_>, epilogue: Epilogue, out: &mut [f32]) {
        let product = Product { a, lda: padded(w.k()), m, w, epilogue };
        matmul_asking_for(self.isa, self.team, product, self.upcoming, out, padded(w.n()));
    }

    /// The first of the largest outputs of each row of a product with int8 weights; see [`tiny_t5_kernels::largest`].
    pub(crate) fn largest(self, a: &[f32], m: usize, w: Panels<'_>, rows: &mut [Leading]) {
        let product = Product { a, lda: padded(w.k()), m, w, epilogue: Epilogue::Store };
        largest(self.isa, self.team, product, rows);
    }

    pub(crate) fn norm(self, shape: Shape, x: &[f32], weight: &[f32], out: &mut [f32]) {
        rms_norm(self.isa, self.team, x, weight, shape.d_model, shape.epsilon, out);
    }
}

/// Buffers of some rows on their way through a block, kept for the next ones.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Behind a norm [rows, stride].
    pub(crate) normed: Vec<f32>,
    /// Projections [rows, up to 3 * inner].
    pub(crate) projected: Vec<f32>,
    /// Attention's output [rows, inner].
    pub(crate) attended: Vec<f32>,
    /// Inside the feed-forward layer.
    hidden: Vec<f32>,
    gated: Vec<f32>,
    /// Attention scores, a buffer a thread.
    pub(crate) scores: Vec<Vec<f32>>,
    /// Of the embedding.
    pub(crate) recent: RecentRows,
    /// Of the decoder.
    pub(crate) upcoming: Upcoming,
}

impl Scratch {
    /// One for every thread of a team, the first of them with scores for all of its threads.
    pub(crate) fn for_team<'a>(scratch: &'a mut Vec<Scratch>, team: &Team) -> &'a mut [Scratch] {
        let threads = team.threads();
        if scratch.len() < threads {
            scratch.resize_with(threads, Scratch::default);
        }
        for (i, scratch) in scratch.iter_mut().enumerate() {
            let len = if i == 0 { threads } else { 1 };
            if scratch.scores.len() < len {
                scratch.scores.resize_with(len, Vec::new);
            }
        }
        scratch
    }
}

/// The first `len` floats of a buffer, for whoever writes them: where it is too short there is a longer one, and what it held is lost.
pub(crate) fn room(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        *buffer = vec![0.0; len.max(buffer.len() * 3 / 2)]; // cleared by the system, where it is used
    }
    &mut buffer[..len]
}

impl FeedForward {
    /// x += wo(act(wi norm(x))), or wo(act(wi_0 norm(x)) * wi_1 norm(x)) where gated; x is the residual stream [rows, stride].
    pub(crate) fn add(&self, exec: Exec<'_>, shape: Shape, packed: &Packed, scratch: &mut Scratch, x: &mut [f32]) {
        let Scratch { normed, hidden, gated, .. } = scratch;
        let (rows, normed) = (x.len() / shape.stride(), room(normed, x.len()));
        exec.norm(shape, x, &self.norm, normed);
        let (wi, wo) = (packed.panels(&self.wi), packed.panels(&self.wo));
        let width = padded(wo.k());
        let hidden = room(hidden, rows * padded(wi.n()));
        let active = if self.gated {
            exec.product(normed, rows, wi, Epilogue::Store, hidden);
            let gated = room(gated, rows * width);
            gate_rows(exec.isa, exec.team, self.activation, hidden, width, gated);
            gated
        } else if self.activation == Activation::Relu {
            exec.product(normed, rows, wi, Epilogue::Relu, hidden);
            hidden
        } else {
            exec.product(normed, rows, wi, Epilogue::Store, hidden);
            activate_rows(exec.isa, exec.team, self.activation, hidden);
            hidden
        };
        exec.product(active, rows, wo, Epilogue::Add, x);
    }
}

/// The bias tables of a stack: one for all blocks, in UMT5 one a block. Built once, and again for a longer text.
#[derive(Debug, Default)]
pub(crate) struct BiasTables(Vec<RelativeBias>);

impl BiasTables {
    /// Makes the tables cover `len` positions.
    pub(crate) fn cover(&mut self, stack: &Stack, shape: Shape, bidirectional: bool, len: usize) {
        if self.0.first().is_none_or(|table| table.max_len() < len) {
            let max_len = len.next_power_of_two().max(128);
            let heads = shape.heads.heads;
            let table = |w: &Vec<f32>| RelativeBias::new(w, heads, bidirectional, shape.max_distance, max_len);
            self.0 = stack.blocks.iter().filter_map(|b| b.bias.as_ref()).map(table).collect();
        }
    }

    /// The table of a block.
    pub(crate) fn of(&self, block: usize) -> tiny_t5_kernels::Bias<'_> {
        self.0.get(block).unwrap_or(&self.0[0]).view()
    }
}
