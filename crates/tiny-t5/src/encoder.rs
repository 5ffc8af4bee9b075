//! The encoder: ids to hidden states.

use crate::model::Model;
use crate::stack::{BiasTables, Exec, Scratch, room};
use tiny_t5_kernels::{Attention, Epilogue, KeyStorage, Keys, attention, padded};

/// Buffers of the encoder, kept from call to call.
#[derive(Debug, Default)]
pub(crate) struct EncoderState {
    bias: BiasTables,
    /// The keys of one block, all sources.
    keys: Vec<f32>,
    spans: Vec<Span>,
    /// The hidden states of the last call: [all positions of all sources, padded(d_model)].
    pub(crate) hidden: Vec<f32>,
}

/// Encodes sources of any lengths, one behind the other without padding: rows of different sources never meet.
/// Leaves the hidden states, behind the final norm, in `state.hidden`.
pub(crate) fn encode(
    model: &Model,
    exec: Exec<'_>,
    scratch: &mut Scratch,
    state: &mut EncoderState,
    sources: &[&[u32]],
) {
    let (shape, stack, packed) = (model.shape, &model.encoder, &model.packed);
    let (stride, inner) = (shape.stride(), shape.heads.width());
    let (heads, d_kv) = (shape.heads.heads, shape.heads.d_kv);
    let rows: usize = sources.iter().map(|s| s.len()).sum();
    state.bias.cover(stack, shape, true, sources.iter().map(|s| s.len()).max().unwrap_or(1));
    scratch.for_team(exec.team);

    model.embed(sources.iter().copied().flatten().copied(), room(&mut scratch.x, rows * stride));
    let key_floats: usize = sources.iter().map(|s| heads * Keys::key_floats(s.len(), d_kv)).sum();
    let spans = &mut state.spans;
    lay_out(sources, |len| heads * Keys::key_floats(len, d_kv), spans);
    let spans = &*spans;
    for (i, block) in stack.blocks.iter().enumerate() {
        {
            let Scratch { x, normed, projected, attended, scores, .. } = scratch;
            let (x, normed) = (&mut x[..rows * stride], room(normed, rows * stride));
            exec.norm(shape, x, &block.attention_norm, normed);
            let qkv = room(projected, rows * 3 * inner);
            exec.product(normed, rows, packed.panels(&block.qkv), Epilogue::Store, qkv);
            let qkv = &*qkv;
            let keys = room(&mut state.keys, key_floats);
            for span in spans.iter() {
                let k = &qkv[span.rows.start * 3 * inner..span.rows.end * 3 * inner][inner..];
                Keys::write(&mut keys[span.keys.clone()], span.keys.len() / heads, 0, k, 3 * inner, d_kv);
            }
            let keys = &*keys;
            let bias = state.bias.of(i);
            let sequence = |i: usize| {
                let span = &spans[i];
                let keys = Keys {
                    // The values where the projection left them: a tile of queries reads them once.
                    stored: KeyStorage::F32(&keys[span.keys.clone()], &qkv[span.rows.start * 3 * inner + 2 * inner..]),
                    key_head: span.keys.len() / heads,
                    value_head: padded(d_kv),
                    value_stride: 3 * inner,
                    len: span.rows.len(),
                };
                Attention { rows: span.rows.clone(), position: 0, keys, bias: Some(bias), causal: false }
            };
            let attended = room(attended, rows * inner);
            let queries = (qkv, 3 * inner);
            attention(exec.isa, exec.team, shape.kernel_heads(), queries, sources.len(), sequence, attended, scores);
            exec.product(attended, rows, packed.panels(&block.o), Epilogue::Add, x);
        }
        block.feed_forward.add(exec, shape, packed, scratch, rows);
    }
    exec.norm(shape, &scratch.x[..rows * stride], &stack.final_norm, room(&mut state.hidden, rows * stride));
}

/// Where a source lies in the buffers.
#[derive(Debug)]
struct Span {
    rows: std::ops::Range<usize>,
    keys: std::ops::Range<usize>,
}

fn lay_out(sources: &[&[u32]], key_floats: impl Fn(usize) -> usize, spans: &mut Vec<Span>) {
    let (mut row, mut key) = (0, 0);
    spans.clear();
    spans.extend(sources.iter().map(|source| {
        let span = Span { rows: row..row + source.len(), keys: key..key + key_floats(source.len()) };
        (row, key) = (span.rows.end, span.keys.end);
        span
    }));
}
