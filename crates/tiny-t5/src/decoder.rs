//! The decoder: new tokens of some sequences to their hidden states, over the KV cache.

use crate::encoder::tokens;
use crate::kv_cache::KvCache;
use crate::load::Dtype;
use crate::model::Model;
use crate::stack::{BiasTables, Exec, Scratch, Stack, room};
use crate::weights::Packed;
use std::ops::Range;
use std::time::{Duration, Instant};
use tiny_t5_kernels::{Attention, Epilogue, Team, Upcoming, attention};

/// Buffers of the decoder, kept from call to call.
#[derive(Debug, Default)]
pub(crate) struct DecoderState {
    bias: BiasTables,
    /// The residual stream [rows, padded(d_model)].
    x: Vec<f32>,
    /// What was generated so far, a sequence.
    pub(crate) caches: Vec<KvCache>,
    /// The caches of a call's feeds, while it runs.
    held: Vec<KvCache>,
    /// Cross-attention's keys and values, a source.
    pub(crate) sources: Vec<KvCache>,
    /// The hidden states of the last call: [rows, padded(d_model)].
    pub(crate) hidden: Vec<f32>,
    /// Sequences that share a source, in the order of the call's rows.
    groups: Vec<Feed>,
    /// Time in attention since somebody took it.
    pub(crate) attention: Duration,
}

/// Tokens of given decoder ids that are computed together.
pub(crate) const TOGETHER: usize = 64;

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

/// Makes room for the cross-attention's keys and values of sources.
pub(crate) fn receive(model: &Model, state: &mut DecoderState, decoder: &Stack, sources: &[&[u32]]) {
    KvCache::reset_all(&mut state.sources, model.cache_shape(decoder), sources.iter().map(|source| source.len()));
}

/// Computes the cross-attention's keys and values of sources: once for each, whatever is generated from it.
///
/// `hidden` is the encoder's output for the sources, one behind the other; the caches are theirs, see [`receive`].
pub(crate) fn project(
    model: &Model,
    exec: Exec<'_>,
    scratch: &mut Scratch,
    caches: &mut [KvCache],
    decoder: &Stack,
    hidden: &[f32],
    sources: &[&[u32]],
) {
    let inner = model.shape.heads.width();
    let rows = tokens(sources);
    for (i, block) in decoder.blocks.iter().enumerate() {
        let Some(cross) = &block.cross else { continue };
        let kv = room(&mut scratch.projected, rows * 2 * inner);
        exec.product(hidden, rows, model.packed.panels(&cross.kv), Epilogue::Store, kv);
        let kv = &*kv;
        exec.team.chunks_mut(caches, 1, |source, caches| {
            let first = tokens(&sources[..source]);
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
    KvCache::reset_all(&mut state.caches, model.cache_shape(decoder), std::iter::repeat_n(len, count));
}

/// Decodes the tokens `ids` of the sequences that `feeds` names, each once: a step (one token each), a prefill, or a check of
/// several. Every token sees its sequence up to itself. Leaves the hidden states, behind the final norm and scaled, in
/// `state.hidden`, and the tokens in the caches.
pub(crate) fn decode(
    model: &Model,
    exec: Exec<'_>,
    scratch: &mut Vec<Scratch>,
    state: &mut DecoderState,
    (decoder, packed): (&Stack, &Packed),
    feeds: &[Feed],
    ids: &[u32],
) {
    let stride = model.shape.stride();
    let DecoderState { bias, x, caches, held, sources, hidden, groups, attention } = state;
    let longest = feeds.iter().map(|f| caches[f.cache].len() + f.rows.len()).max().unwrap_or(1);
    bias.cover(decoder, model.shape, false, longest);
    group_by_source(feeds, groups);
    let (x, hidden) = (room(x, ids.len() * stride), room(hidden, ids.len() * stride));

    // The caches in the order of the feeds, so that parts of them can be lent. A call that panicked has left some.
    held.clear();
    held.extend(feeds.iter().map(|feed| std::mem::take(&mut caches[feed.cache])));
    let count = shares(decoder, exec.team.threads(), groups, ids.len());
    // One share has all threads inside, of several each has one.
    let alone = Team::alone();
    let inside = if count > 1 { Exec { team: &alone, ..exec } } else { exec };
    // Few rows wait for their weights, and so do rows of weights that no cache holds.
    let asks = ids.len() >= count * SHARE_ROWS && decoder.step_bytes() <= SHARE_BYTES && model.dtype != Dtype::Int8;
    let kept = if asks { KEPT_BYTES / count } else { 0 };
    let pass = Pass { model, exec: inside, decoder, packed, bias, sources, ids, kept };
    let mut left = Share { feeds, groups, caches: held, x, hidden, first: 0, attention: Duration::ZERO };
    let mut shares: [_; MOST_SHARES] = std::array::from_fn(|i| left.share(i, count, ids.len(), stride));
    let scratch = Scratch::for_team(scratch, exec.team);
    exec.team.run_parts(scratch, &mut shares[..count], |scratch, share| pass.run(scratch, share));
    *attention += shares.iter().map(|share| share.attention).max().unwrap_or_default();

    for (feed, mut cache) in feeds.iter().zip(held.drain(..)) {
        cache.advance(feed.rows.len());
        caches[feed.cache] = cache;
    }
}

/// Rows of a share, at least: each reads all weights.
const SHARE_ROWS: usize = 16;
/// Bytes of weights up to which shares read them from the last caches, not from memory that all threads wait for.
const SHARE_BYTES: usize = 32 << 20;
/// Most shares.
const MOST_SHARES: usize = 8;
/// Bytes of a block's keys and values, of all shares, up to which the products before ask for all of them.
const KEPT_BYTES: usize = 10 << 20;
/// Of more a share asks for so many. Layers of 16 tokens for 32 sources of 512 (32 MB a block), two threads: 94 ms with 1 MB, 97 with
/// none, 95, 101 and 100 with 2, 4 and 8; for 16 sources of 256 (8 MB) 36.1 with none, 33.7, 32.3, 29.7 (Zen 4, medians in turn).
const FIRST_BYTES: usize = 1 << 20;

/// In how many shares, a thread each, rows go through all blocks: threads that share the products of some rows instead meet eight times a
/// block, and exchange what their rows have become.
///
/// Shares are cut between sources, the `groups`: none may be so long that the others wait for it.
fn shares(decoder: &Stack, threads: usize, groups: &[Feed], rows: usize) -> usize {
    let longest = groups.iter().map(|group| group.rows.len()).max().unwrap_or(0);
    let even = rows >= threads * SHARE_ROWS && longest <= SHARE_ROWS;
    if even && threads <= MOST_SHARES && decoder.step_bytes() <= SHARE_BYTES { threads } else { 1 }
}

/// Some sequences of a call on their way through the decoder.
struct Share<'a> {
    feeds: &'a [Feed],
    /// Those of one source as one.
    groups: &'a [Feed],
    /// A feed's.
    caches: &'a mut [KvCache],
    x: &'a mut [f32],
    hidden: &'a mut [f32],
    /// The first of its rows among the call's.
    first: usize,
    /// Time in attention.
    attention: Duration,
}

impl Share<'_> {
    /// Takes off share `i` of `count` of a call with so many rows: whole sources, of about as many rows as the others have; the last one
    /// takes what is left.
    fn share(&mut self, i: usize, count: usize, rows: usize, stride: usize) -> Self {
        let end = if i + 1 < count { (i + 1) * rows / count } else { rows };
        let groups = self.groups.iter().take_while(|group| group.rows.start < end).count();
        let end = if groups == 0 { self.first } else { self.groups[groups - 1].rows.end };
        let feeds = self.feeds.partition_point(|feed| feed.rows.start < end);
        let floats = (end - self.first) * stride;
        let there = "a share is a part of the call";
        let share = Share {
            feeds: self.feeds.split_off(..feeds).expect(there),
            groups: self.groups.split_off(..groups).expect(there),
            caches: self.caches.split_off_mut(..feeds).expect(there),
            x: self.x.split_off_mut(..floats).expect(there),
            hidden: self.hidden.split_off_mut(..floats).expect(there),
            ..*self
        };
        self.first = end;
        share
    }
}

/// The decoder at work.
struct Pass<'a> {
    model: &'a Model,
    exec: Exec<'a>,
    decoder: &'a Stack,
    packed: &'a Packed,
    bias: &'a BiasTables,
    sources: &'a [KvCache],
    ids: &'a [u32],
    /// Bytes of a share's keys and values that stay in the caches until they are read; none are asked for where it is zero.
    kept: usize,
}

impl Pass<'_> {
    /// Takes a share through all blocks and the final norm.
    fn run(&self, scratch: &mut Scratch, share: &mut Share<'_>) {
        let Pass { model, exec, decoder, packed, bias, sources, ids, .. } = *self;
        let Share { feeds, groups, caches, x, hidden, first, attention: spent } = share;
        if feeds.is_empty() {
            return;
        }
        let shape = model.shape;
        let (rows, inner, heads) = (x.len() / shape.stride(), shape.heads.width(), shape.kernel_heads());
        let own = |rows: &Range<usize>| rows.start - *first..rows.end - *first;
        model.embed(&mut scratch.recent, ids[*first..].iter().copied(), x);
        let mut upcoming = std::mem::take(&mut scratch.upcoming);
        self.look_ahead(&mut upcoming, caches, groups, 0);

        for (i, block) in decoder.blocks.iter().enumerate() {
            let exec = self.exec.asking_for(&upcoming);
            let Scratch { normed, projected, attended, scores, .. } = &mut *scratch;
            let (normed, attended) = (room(normed, x.len()), room(attended, rows * inner));

            exec.norm(shape, x, &block.attention_norm, normed);
            let qkv = room(projected, rows * 3 * inner);
            exec.product(normed, rows, packed.panels(&block.qkv), Epilogue::Store, qkv);
            // Each waits for memory that no cache of a core holds: on all threads.
            exec.team.chunks_mut(caches, 1, |feed, cache| {
                let rows = own(&feeds[feed].rows);
                cache[0].append(exec.isa, i, &qkv[rows.start * 3 * inner..rows.end * 3 * inner], 3 * inner, inner);
            });
            let table = bias.of(i);
            let sequence = |f: usize| {
                let (rows, cache) = (own(&feeds[f].rows), &caches[f]);
                let (position, keys) = (cache.len(), cache.view(i, rows.len()));
                Attention { rows, position, keys, bias: Some(table), causal: true }
            };
            let start = Instant::now();
            attention(exec.isa, exec.team, heads, (&*qkv, 3 * inner), feeds.len(), sequence, attended, scores);
            *spent += start.elapsed();
            exec.product(attended, rows, packed.panels(&block.o), Epilogue::Add, x);

            if let Some(cross) = &block.cross {
                exec.norm(shape, x, &cross.norm, normed);
                let q = room(projected, rows * inner);
                exec.product(normed, rows, packed.panels(&cross.q), Epilogue::Store, q);
                let sequence = |g: usize| {
                    let Feed { source, rows, .. } = &groups[g];
                    let keys = sources[*source].view(i, 0);
                    Attention { rows: own(rows), position: 0, keys, bias: None, causal: false }
                };
                let start = Instant::now();
                attention(exec.isa, exec.team, heads, (&*q, inner), groups.len(), sequence, attended, scores);
                *spent += start.elapsed();
                self.look_ahead(&mut upcoming, caches, groups, i + 1);
                let exec = self.exec.asking_for(&upcoming);
                exec.product(attended, rows, packed.panels(&cross.o), Epilogue::Add, x);
            }
            let exec = self.exec.asking_for(&upcoming);
            block.feed_forward.add(exec, shape, packed, scratch, x);
        }
        scratch.upcoming = upcoming;
        exec.norm(shape, x, &decoder.final_norm, hidden);
        if let Some(scale) = model.decoder_scale {
            hidden.iter_mut().for_each(|x| *x *= scale);
        }
    }

    /// Has the products that come next ask for the keys and values of a block. Of so many that the caches would not keep them as
    /// long they ask only for the first.
    fn look_ahead(&self, upcoming: &mut Upcoming, caches: &[KvCache], groups: &[Feed], block: usize) {
        upcoming.clear(caches.len() + groups.len());
        if self.kept == 0 || block == self.decoder.blocks.len() {
            return;
        }
        let of_sources = groups.iter().map(|group| &self.sources[group.source]);
        let memory = caches.iter().chain(of_sources).map(|cache| cache.memory_of(block));
        let bytes: usize = memory.clone().map(size_of_val).sum();
        let mut left = if bytes <= self.kept { bytes } else { FIRST_BYTES };
        for memory in memory {
            let first = &memory[..memory.len().min(left / size_of::<f32>())];
            upcoming.push(first);
            left -= size_of_val(first);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Shares are cut between sources, and together they are the call, however many rows a source has.
    #[test]
    fn shares_are_the_whole_call() {
        let stride = 16;
        for lengths in [&[1; 40][..], &[1], &[70], &[4; 10], &[1, 50, 1, 1], &[3, 3, 30, 3, 1, 1, 1]] {
            for (count, tokens) in (1..=MOST_SHARES).flat_map(|count| [(count, 1), (count, 3)]) {
                let mut feeds = Vec::new();
                // Sequences of some tokens each; sources come again.
                for (i, len) in lengths.iter().enumerate() {
                    let (first, source) = (feeds.len(), i % 5);
                    let rows = |feed| feed * tokens..(feed + 1) * tokens;
                    feeds.extend((first..first + len).map(|feed| Feed { cache: feed, source, rows: rows(feed) }));
                }
                let rows = feeds.len() * tokens;
                let mut groups = Vec::new();
                group_by_source(&feeds, &mut groups);
                let (mut x, mut hidden) = (vec![0.0; rows * stride], vec![0.0; rows * stride]);
                let mut caches = vec![KvCache::default(); feeds.len()];
                let mut left = Share {
                    feeds: &feeds,
                    groups: &groups,
                    caches: &mut caches,
                    x: &mut x,
                    hidden: &mut hidden,
                    first: 0,
                    attention: Duration::ZERO,
                };
                let mut row = 0;
                for i in 0..count {
                    let share = left.share(i, count, rows, stride);
                    assert_eq!(share.first, row);
                    let own = share.feeds.len() * tokens;
                    row += own;
                    let of_groups: usize = share.groups.iter().map(|group| group.rows.len()).sum();
                    let of_caches = share.caches.len() * tokens;
                    let parts = [share.x.len() / stride, share.hidden.len() / stride, of_caches, of_groups];
                    assert_eq!(parts, [own; 4], "share {i} of {count}, {lengths:?}, {tokens} tokens");
                }
                assert_eq!(row, rows);
            }
        }
    }
}
