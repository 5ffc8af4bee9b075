//! The encoder: ids to hidden states.
//!
//! Rows are cut into chunks, one a thread. They meet only where they look at all keys, so a thread takes its rows from one look at
//! all keys to the next: a block is one region, and what a row becomes on its way stays in the caches of one core. Queries,
//! keys and values have two buffers, in turn: while some threads still look at those of one block, others write the next
//! block's. Where rows are too few for all threads, these share every product instead.
//!
//! Of many sources, threads take some through all blocks each, and do not meet at all ([`encode_apart`]).

use crate::model::Model;
use crate::stack::{BiasTables, Block, Exec, Scratch, room};
use std::ops::Range;
use tiny_t5_kernels::{Attention, Epilogue, KeyLayout, KeyStorage, Keys, LANES, Team, attention, padded};

/// Rows of a chunk, at least: each reads all weights.
const CHUNK_ROWS: usize = 32;
/// Most chunks of a pass.
const MOST_CHUNKS: usize = 64;

/// Tokens of sources that all threads encode together, at most if they are several: their buffers stay in the cache.
pub(crate) const BATCH_TOKENS: usize = 256;
/// Tokens of sources that a thread takes through all blocks, at most if they are several: what they become stays in its caches.
const GROUP_TOKENS: usize = 128;
/// Most groups of sources, and most threads that take them.
const MOST_GROUPS: usize = 64;

/// Buffers of the encoder, kept from call to call.
#[derive(Debug, Default)]
pub(crate) struct EncoderState {
    /// A thread's that takes groups of sources; the first is that of all threads together, too.
    buffers: Vec<Buffers>,
    /// The hidden states of the last [`encode`]: [all positions of all sources, padded(d_model)].
    pub(crate) hidden: Vec<f32>,
}

/// Buffers of sources that are encoded together.
#[derive(Debug, Default)]
struct Buffers {
    bias: BiasTables,
    /// The residual stream [all positions of all sources, padded(d_model)].
    x: Vec<f32>,
    /// Of two blocks, in turn.
    projected: [Projected; 2],
    sources: Vec<Span>,
    pieces: Vec<Piece>,
    chunks: Vec<Chunk>,
    /// The hidden states of a group that a thread took.
    hidden: Vec<f32>,
}

/// What the attention of a block looks at.
#[derive(Debug, Default)]
struct Projected {
    /// Queries, keys and values [all positions, 3 * inner].
    qkv: Vec<f32>,
    /// The keys, a source behind the other, as attention reads them.
    keys: Vec<f32>,
}

/// Where a source lies in the buffers.
#[derive(Debug)]
struct Span {
    rows: Range<usize>,
    keys: Range<usize>,
}

/// Rows of one source in a chunk.
#[derive(Debug)]
struct Piece {
    source: usize,
    /// The position of the first row in its source: a multiple of 16, so that no panel of keys is in two pieces.
    position: usize,
    rows: Range<usize>,
}

/// Rows that a thread takes from one look at all keys to the next.
#[derive(Debug)]
struct Chunk {
    rows: Range<usize>,
    keys: Range<usize>,
    pieces: Range<usize>,
}

/// Encodes sources of any lengths, one behind the other without padding: rows of different sources never meet.
/// Leaves the hidden states, behind the final norm, in `state.hidden`.
pub(crate) fn encode(
    model: &Model,
    exec: Exec<'_>,
    scratch: &mut Vec<Scratch>,
    state: &mut EncoderState,
    sources: &[&[u32]],
) {
    let (stride, mut hidden) = (model.shape.stride(), std::mem::take(&mut state.hidden));
    let mut left = room(&mut hidden, tokens(sources) * stride);
    let share_of = |group: Range<usize>| first(&mut left, tokens(&sources[group]) * stride);
    let finish =
        |_: Exec<'_>, _: &mut Scratch, own: &mut &mut [f32], _: &[&[u32]], hidden: &[f32]| own.copy_from_slice(hidden);
    if !encode_apart(model, exec, scratch, state, sources, share_of, finish) {
        let (scratch, mut left) = (Scratch::for_team(scratch, exec.team), &mut hidden[..]);
        for group in groups(sources, BATCH_TOKENS) {
            let own = first(&mut left, tokens(&sources[group.clone()]) * stride);
            encode_together(model, exec, scratch, &mut state.for_threads(1)[0], &sources[group], own);
        }
    }
    state.hidden = hidden;
}

/// Where sources are so many that none of the threads has to wait long for the others: each takes groups of whole sources through all
/// blocks, and `finish` gets a group, its hidden states and what `share_of` gave for it, which is asked for one group after the
/// other. Otherwise nothing is done.
///
/// E (32 sources of 64 tokens, and 32 steps) on two threads of a Zen 4, beside chunks of rows that meet in each block, medians in turn:
/// 181.4 to 173.6 ms, 186.6 to 182.7.
pub(crate) fn encode_apart<T: Send>(
    model: &Model,
    exec: Exec<'_>,
    scratch: &mut Vec<Scratch>,
    state: &mut EncoderState,
    sources: &[&[u32]],
    mut share_of: impl FnMut(Range<usize>) -> T,
    finish: impl Fn(Exec<'_>, &mut Scratch, &mut T, &[&[u32]], &[f32]) + Sync,
) -> bool {
    let threads = exec.team.threads();
    let limits = [GROUP_TOKENS, GROUP_TOKENS / 2];
    let Some(limit) = limits.into_iter().find(|limit| groups_are_even(sources, *limit, threads)) else { return false };
    let buffers = state.for_threads(threads);
    for group in groups(sources, limit) {
        // Whichever thread takes it: a warm call takes no memory.
        buffers.iter_mut().for_each(|buffers| buffers.make_room(model, &sources[group.clone()], 1, true));
    }
    let mut shares = groups(sources, limit).map(|group| (share_of(group.clone()), group));
    let mut shares: [_; MOST_GROUPS] = std::array::from_fn(|_| shares.next());
    let count = shares.iter().flatten().count();
    let mut workers = Scratch::for_team(scratch, exec.team).iter_mut().zip(buffers);
    let mut workers: [_; MOST_GROUPS] = std::array::from_fn(|_| workers.next());
    let alone = Team::alone();
    let inside = Exec { team: &alone, ..exec };
    exec.team.run_parts(&mut workers[..threads], &mut shares[..count], |worker, share| {
        let (Some((scratch, buffers)), Some((share, group))) = (worker, share) else { return };
        let (sources, mut hidden) = (&sources[group.clone()], std::mem::take(&mut buffers.hidden));
        let hidden_now = &mut hidden[..tokens(sources) * model.shape.stride()];
        encode_together(model, inside, std::slice::from_mut(scratch), buffers, sources, hidden_now);
        finish(inside, scratch, share, sources, hidden_now);
        buffers.hidden = hidden;
    });
    true
}

pub(crate) fn tokens(sources: &[&[u32]]) -> usize {
    sources.iter().map(|source| source.len()).sum()
}

/// Sources in their order, those together that have so many tokens at most.
pub(crate) fn groups(sources: &[&[u32]], limit: usize) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let mut tokens = 0;
        let fits = sources[start..].iter().take_while(|source| {
            tokens += source.len();
            tokens <= limit
        });
        let group = start..sources.len().min(start + fits.count().max(1));
        start = group.end;
        (!group.is_empty()).then_some(group)
    })
}

/// Whether groups of so many tokens are several, and threads that take them as [`Team`] hands them out all have about as much to do.
fn groups_are_even(sources: &[&[u32]], limit: usize, threads: usize) -> bool {
    let (count, mut loads) = (groups(sources, limit).count(), [0; MOST_GROUPS]);
    let Some(loads) = loads.get_mut(..threads).filter(|_| (2..=MOST_GROUPS).contains(&count)) else { return false };
    let (mut groups, mut left) = (groups(sources, limit), count);
    while left > 0 {
        // Who is done first gets its share of what is left.
        let share = (left / threads).max(1);
        let least = loads.iter_mut().min().expect("a team has a thread");
        *least += groups.by_ref().take(share).map(|group| tokens(&sources[group])).sum::<usize>();
        left -= share;
    }
    let most = loads.iter().max().expect("a team has a thread");
    most * threads * 16 <= tokens(sources) * 17
}

/// Encodes sources with all threads of the team, which may be one, into `hidden`.
fn encode_together(
    model: &Model,
    exec: Exec<'_>,
    scratch: &mut [Scratch],
    state: &mut Buffers,
    sources: &[&[u32]],
    hidden: &mut [f32],
) {
    let (shape, stack) = (model.shape, &model.encoder);
    let (stride, width) = (shape.stride(), 3 * shape.heads.width());
    state.make_room(model, sources, exec.team.threads(), false);
    let Buffers { bias, x, projected, sources: spans, pieces, chunks, .. } = state;
    let x = &mut x[..hidden.len()];
    let [mut seen, mut next] = projected.each_mut();

    // One chunk has all threads inside, of several each has one.
    let alone = Team::alone();
    let inside = if chunks.len() > 1 { Exec { team: &alone, ..exec } } else { exec };
    let pass = Pass { model, exec: inside, bias, spans, sources };
    for i in 0..=stack.blocks.len() {
        let (mut x_left, mut hidden_left) = (&mut *x, &mut *hidden);
        let (mut qkv_left, mut keys_left) = (&mut next.qkv[..], &mut next.keys[..]);
        let mut parts = each_of(chunks, |chunk| Part {
            first: chunk.rows.start,
            pieces: &pieces[chunk.pieces.clone()],
            x: first(&mut x_left, chunk.rows.len() * stride),
            qkv: first(&mut qkv_left, chunk.rows.len() * width),
            keys: first(&mut keys_left, chunk.keys.len()),
            hidden: first(&mut hidden_left, chunk.rows.len() * stride),
        });
        let seen_now = &*seen;
        exec.team.run_parts(scratch, &mut parts[..chunks.len()], |scratch, part| {
            let Some(part) = part else { return };
            match i.checked_sub(1) {
                None => pass.embed(scratch, part),
                Some(before) => pass.attend(before, seen_now, scratch, part),
            }
            match stack.blocks.get(i) {
                Some(block) => pass.project(block, scratch, part),
                None => inside.norm(shape, part.x, &stack.final_norm, part.hidden),
            }
        });
        std::mem::swap(&mut seen, &mut next);
    }
}

/// What `part` makes of each chunk, in an array: a warm call takes no memory.
fn each_of<P>(chunks: &[Chunk], part: impl FnMut(&Chunk) -> P) -> [Option<P>; MOST_CHUNKS] {
    let mut parts = chunks.iter().map(part);
    std::array::from_fn(|_| parts.next())
}

/// Takes the first `len` floats off.
fn first<'a>(left: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    left.split_off_mut(..len).expect("chunks are parts of the buffers")
}

/// A chunk on its way from one look at all keys to the next.
struct Part<'a> {
    /// Its first row.
    first: usize,
    pieces: &'a [Piece],
    x: &'a mut [f32],
    /// What the next block looks at.
    qkv: &'a mut [f32],
    keys: &'a mut [f32],
    /// At the end.
    hidden: &'a mut [f32],
}

/// The encoder at work.
struct Pass<'a> {
    model: &'a Model,
    exec: Exec<'a>,
    bias: &'a BiasTables,
    spans: &'a [Span],
    sources: &'a [&'a [u32]],
}

impl Pass<'_> {
    fn embed(&self, scratch: &mut Scratch, part: &mut Part<'_>) {
        let ids = |piece: &Piece| &self.sources[piece.source][piece.position..][..piece.rows.len()];
        self.model.embed(&mut scratch.recent, part.pieces.iter().flat_map(ids).copied(), part.x);
    }

    /// The attention of a chunk's rows over all keys of their sources, and the feed-forward layer.
    fn attend(&self, block: usize, seen: &Projected, scratch: &mut Scratch, part: &mut Part<'_>) {
        let Pass { model: Model { shape, packed, encoder, .. }, exec, bias, spans, .. } = self;
        let Part { first, pieces, x, .. } = part;
        let (rows, inner, heads) = (x.len() / shape.stride(), shape.heads.width(), shape.kernel_heads());
        let Projected { qkv, keys } = seen;
        let table = bias.of(block);
        let sequence = |i: usize| {
            let Piece { source, position, rows } = &pieces[i];
            let span = &spans[*source];
            let keys = Keys {
                // The values where the projection left them: a tile of queries reads them once.
                stored: KeyStorage::F32(&keys[span.keys.clone()], &qkv[span.rows.start * 3 * inner + 2 * inner..]),
                layout: KeyLayout::by_position(heads),
                value_head: padded(heads.d_kv),
                value_stride: 3 * inner,
                len: span.rows.len(),
            };
            let rows = rows.start - *first..rows.end - *first;
            Attention { rows, position: *position, keys, bias: Some(table), causal: false }
        };
        let Scratch { attended, scores, .. } = scratch;
        let attended = room(attended, rows * inner);
        let queries = (&qkv[*first * 3 * inner..], 3 * inner);
        attention(exec.isa, exec.team, heads, queries, pieces.len(), sequence, attended, scores);
        let block = &encoder.blocks[block];
        exec.product(attended, rows, packed.panels(&block.o), Epilogue::Add, x);
        block.feed_forward.add(*exec, *shape, packed, scratch, x);
    }

    /// Queries, keys and values of a chunk for a block.
    fn project(&self, block: &Block, scratch: &mut Scratch, part: &mut Part<'_>) {
        let Pass { model: Model { shape, packed, .. }, exec, .. } = self;
        let Part { x, qkv, keys, pieces, .. } = part;
        let (stride, inner) = (shape.stride(), shape.heads.width());
        let normed = room(&mut scratch.normed, x.len());
        exec.norm(*shape, x, &block.attention_norm, normed);
        exec.product(normed, x.len() / stride, packed.panels(&block.qkv), Epilogue::Store, qkv);
        let (heads, mut keys_left, mut rows_left) = (shape.kernel_heads(), &mut **keys, &**qkv);
        let layout = KeyLayout::by_position(heads);
        for piece in *pieces {
            let keys = first(&mut keys_left, piece.rows.len().div_ceil(LANES) * layout.panel);
            let (rows, after) = rows_left.split_at(piece.rows.len() * 3 * inner);
            rows_left = after;
            Keys::write(exec.isa, keys, heads, layout, 0, &rows[inner..], 3 * inner);
        }
    }
}

impl EncoderState {
    fn for_threads(&mut self, threads: usize) -> &mut [Buffers] {
        if self.buffers.len() < threads {
            self.buffers.resize_with(threads, Buffers::default);
        }
        &mut self.buffers[..threads]
    }
}

impl Buffers {
    /// Lays out sources for so many threads, and makes room for them; and for their hidden states, if these are `kept` here.
    fn make_room(&mut self, model: &Model, sources: &[&[u32]], threads: usize, kept: bool) {
        let (shape, heads) = (model.shape, model.shape.kernel_heads());
        self.bias.cover(&model.encoder, shape, true, sources.iter().map(|s| s.len()).max().unwrap_or(1));
        self.lay_out(sources, KeyLayout::by_position(heads).panel, threads);
        let (rows, keys) = self.sources.last().map_or((0, 0), |span| (span.rows.end, span.keys.end));
        room(&mut self.x, rows * shape.stride());
        for projected in &mut self.projected {
            room(&mut projected.qkv, rows * 3 * shape.heads.width());
            room(&mut projected.keys, keys);
        }
        if kept {
            room(&mut self.hidden, rows * shape.stride());
        }
    }

    /// Says where sources lie, and cuts their rows into chunks for `threads` threads; `panel` floats hold the keys of 16
    /// positions.
    fn lay_out(&mut self, sources: &[&[u32]], panel: usize, threads: usize) {
        let Buffers { sources: spans, pieces, chunks, .. } = self;
        let total: usize = sources.iter().map(|source| source.len()).sum();
        let count = if total >= threads * CHUNK_ROWS { threads.min(MOST_CHUNKS) } else { 1 };
        spans.clear();
        pieces.clear();
        chunks.clear();
        let (mut row, mut key) = (0, 0);
        for (source, ids) in sources.iter().enumerate() {
            let span = Span { rows: row..row + ids.len(), keys: key..key + ids.len().div_ceil(LANES) * panel };
            while row < span.rows.end {
                // To where the chunk should end, as near as whole panels allow.
                let fair = |chunk: usize| if chunk == count { usize::MAX / 2 } else { chunk * total / count };
                let left = |chunk: usize| (fair(chunk) + LANES / 2).saturating_sub(row) / LANES * LANES;
                if chunks.is_empty() || left(chunks.len()) == 0 {
                    chunks.push(Chunk { rows: row..row, keys: key..key, pieces: pieces.len()..pieces.len() });
                }
                let end = span.rows.end.min(row + left(chunks.len()));
                pieces.push(Piece { source, position: row - span.rows.start, rows: row..end });
                key += (end - row).div_ceil(LANES) * panel;
                row = end;
                let chunk = chunks.last_mut().expect("one was pushed");
                (chunk.rows.end, chunk.keys.end, chunk.pieces.end) = (row, key, pieces.len());
            }
            spans.push(span);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups are all sources in their order, of so many tokens or of one source; they are taken apart where they are several, and even.
    #[test]
    fn groups_are_all_sources_and_are_taken_apart_where_they_are_even() {
        let ids = vec![0; 4096];
        for lengths in [&[][..], &[64; 32], &[1; 300], &[128, 1, 128], &[4096, 1, 1], &[65; 3], &[127, 2, 127, 2]] {
            let sources: Vec<&[u32]> = lengths.iter().map(|len| &ids[..*len]).collect();
            let mut end = 0;
            for group in groups(&sources, 128) {
                assert_eq!(group.start, end);
                assert!(group.len() == 1 || tokens(&sources[group.clone()]) <= 128);
                end = group.end;
            }
            assert_eq!(end, lengths.len());
        }
        for (lengths, threads, even) in [
            (&[64; 32][..], 1, true),
            (&[64; 32], 2, true),
            (&[64; 32], 16, true),
            (&[64; 32], 20, false), // some would have twice as much to do as others
            (&[64; 4], 2, true),
            (&[64; 3], 2, false),
            (&[64; 2], 1, false), // one group
            (&[300, 10, 290], 2, true),
            (&[128, 128, 128, 128, 500, 500], 2, false), // one takes three of the short ones, and a long one is left
            (&[2000; 65], 1, false),                     // too many groups
            (&[64; 32], 65, false),                      // and threads
        ] {
            let sources: Vec<&[u32]> = lengths.iter().map(|len| &ids[..*len]).collect();
            assert_eq!(groups_are_even(&sources, 128, threads), even, "{} sources, {threads} threads", lengths.len());
        }
    }

    /// Every row is in one piece of one chunk, pieces begin with a panel of keys, and chunks are as many as threads at most, and
    /// about as long.
    #[test]
    fn chunks_share_all_rows() {
        for threads in [1, 2, 3, 7, 63, 64, 65, 1000] {
            for lengths in [&[1][..], &[31], &[64], &[100], &[128; 2], &[1; 300], &[5, 77, 16, 15, 17, 300], &[4096]] {
                let ids = vec![0; 4096];
                let sources: Vec<&[u32]> = lengths.iter().map(|len| &ids[..*len]).collect();
                let mut state = Buffers::default();
                state.lay_out(&sources, 3, threads);
                let total: usize = lengths.iter().sum();
                let Buffers { sources: spans, pieces, chunks, .. } = state;
                assert!(chunks.len() <= threads.min(MOST_CHUNKS));
                let (mut row, mut key, mut piece) = (0, 0, 0);
                for chunk in &chunks {
                    assert_eq!((chunk.rows.start, chunk.keys.start, chunk.pieces.start), (row, key, piece));
                    for Piece { source, position, rows } in &pieces[chunk.pieces.clone()] {
                        assert_eq!((rows.start, position % LANES), (row, 0));
                        assert_eq!(rows.start - spans[*source].rows.start, *position);
                        assert_eq!(spans[*source].keys.start + position / LANES * 3, key);
                        assert!(rows.end <= spans[*source].rows.end);
                        (row, key) = (rows.end, key + rows.len().div_ceil(LANES) * 3);
                    }
                    assert_eq!((chunk.rows.end, chunk.keys.end), (row, key));
                    piece = chunk.pieces.end;
                    let fair = total / chunks.len();
                    assert!(
                        chunks.len() == 1 || chunk.rows.len().abs_diff(fair) <= 2 * LANES,
                        "{lengths:?}, {threads}"
                    );
                }
                assert_eq!((row, piece), (total, pieces.len()));
            }
        }
    }
}
