//! The decoder: new tokens of some sequences to their hidden states, over the KV cache.

use crate::kv_cache::KvCache;
use crate::model::Model;
use crate::stack::{BiasTables, Exec, Scratch, Stack, room};
use crate::weights::Packed;
use std::ops::Range;
use std::time::{Duration, Instant};
use tiny_t5_kernels::{Attention, Epilogue, attention};

/// Buffers of the decoder, kept from call to call.
#[derive(Debug, Default)]
pub(crate) struct DecoderState {
    bias: BiasTables,
    /// The residual stream [rows, padded(d_model)].
    x: Vec<f32>,
    /// What was generated so far, a sequence.
    pub(crate) caches: Vec<KvCache>,
    /// Cross-attention's keys and values, a source.
    pub(crate) sources: Vec<KvCache>,
    /// The hidden states of the last call: [rows, padded(d_model)].
    pub(crate) hidden: Vec<f32>,
    /// Sequences that share a source, in the order of the call's rows.
    groups: Vec<Feed>,
    /// Time in attention since somebody took it.
    pub(crate) attention: Duration,
}

/// New tokens of one sequence.
#[derive(Debug, Clone)]
pub(crate) struct Feed {
    /// Which of `DecoderState::caches`.
    pub(crate) cache: usize,
    /// Which of `DecoderState::sources`.
    pub(crate) source: usize,
    /// Its tokens among the call's `ids`; feeds follow one another.
    pub(crate) rows: Range<usize>,
}

/// Computes the cross-attention's keys and values of sources: once for each, whatever is generated from it.
///
/// `hidden` is the encoder's output for `sources`, one behind the other; they go to the places from `first` on of
/// `state.sources`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn attend_to(
    model: &Model,
    exec: Exec<'_>,
    scratch: &mut Scratch,
    state: &mut DecoderState,
    decoder: &Stack,
    hidden: &[f32],
    sources: &[&[u32]],
    first: usize,
) {
    let inner = model.shape.heads.width();
    if state.sources.len() < first + sources.len() {
        state.sources.resize_with(first + sources.len(), KvCache::default);
    }
    let caches = &mut state.sources[first..first + sources.len()];
    for (cache, source) in caches.iter_mut().zip(sources) {
        cache.reset(model.cache_shape(decoder), source.len());
    }
    let rows: usize = sources.iter().map(|source| source.len()).sum();
    for (i, block) in decoder.blocks.iter().enumerate() {
        let Some(cross) = &block.cross else { continue };
        let kv = room(&mut scratch.projected, rows * 2 * inner);
        exec.product(hidden, rows, model.packed.panels(&cross.kv), Epilogue::Store, kv);
        let kv = &*kv;
        exec.team.chunks_mut(caches, 1, |source, caches| {
            let first: usize = sources[..source].iter().map(|source| source.len()).sum();
            let rows = &kv[first * 2 * inner..][..sources[source].len() * 2 * inner];
            caches[0].append(exec.isa, i, rows, 2 * inner, 0);
        });
    }
    for (cache, source) in caches.iter_mut().zip(sources) {
        cache.advance(source.len());
    }
}

/// Makes the first `count` caches empty, with room for `len` positions.
pub(crate) fn begin(model: &Model, state: &mut DecoderState, decoder: &Stack, count: usize, len: usize) {
    if state.caches.len() < count {
        state.caches.resize_with(count, KvCache::default);
    }
    for cache in &mut state.caches[..count] {
        cache.reset(model.cache_shape(decoder), len);
    }
}

/// Decodes the tokens `ids` of the sequences that `feeds` names: a step (one token each), a prefill, or a check of
/// several. Every token sees its sequence up to itself. Leaves the hidden states, behind the final norm and scaled, in
/// `state.hidden`, and the tokens in the caches.
pub(crate) fn decode(
    model: &Model,
    exec: Exec<'_>,
    scratch: &mut Scratch,
    state: &mut DecoderState,
    (decoder, packed): (&Stack, &Packed),
    feeds: &[Feed],
    ids: &[u32],
) {
    let shape = model.shape;
    let (stride, inner) = (shape.stride(), shape.heads.width());
    let rows = ids.len();
    let DecoderState { bias, x, caches, sources, hidden, groups, attention: spent } = state;
    let longest = feeds.iter().map(|f| caches[f.cache].len() + f.rows.len()).max().unwrap_or(1);
    bias.cover(decoder, shape, false, longest);
    scratch.for_team(exec.team);
    group_by_source(feeds, groups);

    let x = room(x, rows * stride);
    model.embed(ids.iter().copied(), x);
    for (i, block) in decoder.blocks.iter().enumerate() {
        {
            let Scratch { normed, projected, attended, scores, .. } = scratch;
            let (normed, attended) = (room(normed, rows * stride), room(attended, rows * inner));

            exec.norm(shape, x, &block.attention_norm, normed);
            let qkv = room(projected, rows * 3 * inner);
            exec.product(normed, rows, packed.panels(&block.qkv), Epilogue::Store, qkv);
            let append = |cache: &mut KvCache, feed: &Feed| {
                let new = &qkv[feed.rows.start * 3 * inner..feed.rows.end * 3 * inner];
                cache.append(exec.isa, i, new, 3 * inner, inner);
            };
            match feeds {
                [feed] => append(&mut caches[feed.cache], feed),
                // Each waits for memory that no cache of a core holds: on all threads.
                _ => exec.team.chunks_mut(caches, 1, |cache, caches| {
                    feeds.iter().filter(|feed| feed.cache == cache).for_each(|feed| append(&mut caches[0], feed));
                }),
            }
            let table = bias.of(i);
            let sequence = |f: usize| {
                let Feed { cache, rows, .. } = &feeds[f];
                let cache = &caches[*cache];
                let (position, keys) = (cache.len(), cache.view(i, rows.len()));
                Attention { rows: rows.clone(), position, keys, bias: Some(table), causal: true }
            };
            let queries = (&*qkv, 3 * inner);
            let start = Instant::now();
            attention(exec.isa, exec.team, shape.kernel_heads(), queries, feeds.len(), sequence, attended, scores);
            *spent += start.elapsed();
            exec.product(attended, rows, packed.panels(&block.o), Epilogue::Add, x);

            if let Some(cross) = &block.cross {
                exec.norm(shape, x, &cross.norm, normed);
                let q = room(projected, rows * inner);
                exec.product(normed, rows, packed.panels(&cross.q), Epilogue::Store, q);
                let sequence = |g: usize| {
                    let Feed { source, rows, .. } = &groups[g];
                    let keys = sources[*source].view(i, 0);
                    Attention { rows: rows.clone(), position: 0, keys, bias: None, causal: false }
                };
                let queries = (&*q, inner);
                let start = Instant::now();
                attention(exec.isa, exec.team, shape.kernel_heads(), queries, groups.len(), sequence, attended, scores);
                *spent += start.elapsed();
                exec.product(attended, rows, packed.panels(&cross.o), Epilogue::Add, x);
            }
        }
        block.feed_forward.add(exec, shape, packed, scratch, x);
    }
    for feed in feeds {
        caches[feed.cache].advance(feed.rows.len());
    }
    let hidden = room(hidden, rows * stride);
    exec.norm(shape, x, &decoder.final_norm, hidden);
    if let Some(scale) = model.decoder_scale {
        hidden.iter_mut().for_each(|x| *x *= scale);
    }
}

/// Neighbouring feeds of one source become one group: its keys are read once for all of them.
fn group_by_source(feeds: &[Feed], groups: &mut Vec<Feed>) {
    groups.clear();
    for feed in feeds {
        match groups.last_mut() {
            Some(group) if group.source == feed.source && group.rows.end == feed.rows.start => {
                group.rows.end = feed.rows.end;
            }
            _ => groups.push(feed.clone()),
        }
    }
}
