//! Keys and values of attention, in the kernels' layout.

use crate::load::Dtype;
use bytemuck::{cast_slice, cast_slice_mut};
use half::f16;
use std::ops::{Deref, DerefMut, Range};
use tiny_t5_kernels::{Arena, ArenaPart, Heads, Isa, KeyLayout, KeyStorage, Keys, LANES, padded, to_f16};

/// What all caches of a model share.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheShape {
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) d_kv: usize,
    /// In half precision.
    pub(crate) half: bool,
}

impl CacheShape {
    fn kernel_heads(self) -> Heads {
        Heads { heads: self.heads, d_kv: self.d_kv }
    }

    /// Floats of a cache with room for so many positions.
    fn floats(self, positions: usize) -> usize {
        let numbers = self.layers * self.heads * positions.next_multiple_of(LANES) * (self.d_kv + padded(self.d_kv));
        if self.half { numbers.div_ceil(2) } else { numbers }
    }

    /// Whether caches are in half precision where weights are kept so. With int8: many sequences together wait for their keys and
    /// values, and what rounding these changes is little beside what rounding the weights does.
    pub(crate) fn is_half(dtype: Dtype) -> bool {
        dtype == Dtype::Int8
    }
}

/// Keys and values of one sequence, for every layer of the decoder: of what it has generated (self-attention), or of
/// its source (cross-attention).
///
/// A head's keys lie together, and so do its values: a step reads each as one stream.
#[derive(Debug, Default, Clone)]
pub(crate) struct KvCache {
    /// A layer: the keys `[num_heads][capacity / 16][d_kv][16]`, then the values `[num_heads][capacity][padded(d_kv)]`; in half
    /// precision two numbers a float.
    memory: Memory,
    /// Positions that there is room for: whole panels.
    capacity: usize,
    len: usize,
    shape: CacheShape,
}

#[derive(Debug)]
enum Memory {
    Own(Vec<f32>),
    /// Of what many caches have together.
    Part(ArenaPart),
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::Own(Vec::new())
    }
}

impl Clone for Memory {
    fn clone(&self) -> Memory {
        Memory::Own(self.to_vec())
    }
}

impl Deref for Memory {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match self {
            Memory::Own(memory) => memory,
            Memory::Part(memory) => memory,
        }
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [f32] {
        match self {
            Memory::Own(memory) => memory,
            Memory::Part(memory) => memory,
        }
    }
}

impl Memory {
    /// Makes it at least so long; what it held may be lost. Much new memory is touched only where it is used: room for a limit that an
    /// answer does not reach costs little.
    fn grow(&mut self, floats: usize) {
        let len = self.len();
        if len < floats {
            *self = Memory::default(); // gone before the new one comes
            *self = Memory::Own(vec![0.0; floats.max(len * 3 / 2)]);
        }
    }
}

/// Floats from which caches get memory together: a huge page. What a step of 32 sequences reads of theirs is more than an address cache
/// knows small pages: layers of E 138.9 to 125.4 ms, on two threads 68.9 to 64.8 (Zen 4, medians in turn).
const TOGETHER: usize = (2 << 20) / size_of::<f32>();

impl KvCache {
    /// Makes the first caches empty, with room for so many positions each; see [`KvCache::reset`].
    pub(crate) fn reset_all(
        caches: &mut Vec<KvCache>,
        shape: CacheShape,
        lens: impl ExactSizeIterator<Item = usize> + Clone,
    ) {
        let floats = lens.clone().map(|len| shape.floats(len));
        let has = |i: usize| caches.get(i).map_or(0, |cache| cache.memory.len());
        let missing: usize = floats.clone().enumerate().filter(|(i, floats)| has(*i) < *floats).map(|(_, f)| f).sum();
        if lens.len() > 1 && missing >= TOGETHER {
            // All anew, so that no part of an earlier arena keeps it. Without such memory each takes its own.
            caches.clear();
            let parts = Arena::parts(floats).into_iter().flatten();
            caches.extend(parts.map(|part| KvCache { memory: Memory::Part(part), ..KvCache::default() }));
        }
        caches.resize_with(caches.len().max(lens.len()), KvCache::default);
        caches.iter_mut().zip(lens).for_each(|(cache, len)| cache.reset(shape, len));
    }

    /// Makes it empty, with room for `len` positions, so that steps up to there allocate nothing; memory of an earlier use is kept.
    pub(crate) fn reset(&mut self, shape: CacheShape, len: usize) {
        *self = KvCache { memory: std::mem::take(&mut self.memory), capacity: 0, len: 0, shape };
        self.reserve(len);
    }

    /// Makes room for `len` positions; those counted stay.
    fn reserve(&mut self, len: usize) {
        if len <= self.capacity {
            return;
        }
        let capacity = len.max(self.capacity * 3 / 2).next_multiple_of(LANES);
        let floats = self.shape.floats(capacity);
        if self.len == 0 {
            self.memory.grow(floats);
            self.capacity = capacity;
        } else {
            let old = std::mem::take(self);
            *self = KvCache { memory: Memory::default(), capacity, len: 0, shape: old.shape };
            self.memory.grow(floats);
            self.copy_from(&old);
        }
    }

    /// Numbers of a head's keys, and of its values.
    fn head(&self) -> (usize, usize) {
        let d_kv = self.shape.d_kv;
        (Keys::key_floats(self.capacity, d_kv), self.capacity * padded(d_kv))
    }

    fn layout(&self) -> KeyLayout {
        KeyLayout::by_head(self.shape.kernel_heads(), self.capacity)
    }

    /// Where the keys and the values of a layer are.
    fn layer(&self, layer: usize) -> (Range<usize>, Range<usize>) {
        let ((keys, values), heads) = (self.head(), self.shape.heads);
        let first = layer * heads * (keys + values);
        let middle = first + heads * keys;
        (first..middle, middle..middle + heads * values)
    }

    /// Positions that every layer holds.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Appends the keys and values of some positions to a layer. `rows` is [positions, stride]: the keys of a row begin
    /// at `key`, and its values behind them. The positions count once [`KvCache::advance`] is called.
    pub(crate) fn append(&mut self, isa: Isa, layer: usize, rows: &[f32], stride: usize, key: usize) {
        // Grows at the first layer, where no layer has positions that are not counted.
        self.reserve(self.len + rows.len() / stride);
        let (first, half, shape, layout) = (self.len, self.shape.half, self.shape.kernel_heads(), self.layout());
        let ((_, value_head), (keys, values)) = (self.head(), self.layer(layer));
        let width = padded(shape.d_kv);
        let value = shape.heads * width;
        if half {
            let memory: &mut [f16] = cast_slice_mut(&mut self.memory);
            Keys::write_f16(isa, &mut memory[keys], shape, layout, first, &rows[key..], stride);
            let to_halves = |to: &mut [f16], from: &[f32]| to_f16(isa, from, to);
            write_values(&mut memory[values], value_head, first, &rows[key + value..], (stride, width), to_halves);
        } else {
            let memory = &mut self.memory[..];
            Keys::write(isa, &mut memory[keys], shape, layout, first, &rows[key..], stride);
            let copy = |to: &mut [f32], from: &[f32]| to.copy_from_slice(from);
            write_values(&mut memory[values], value_head, first, &rows[key + value..], (stride, width), copy);
        }
    }

    /// Forgets the positions from `len` on.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Counts positions that every layer has been given.
    pub(crate) fn advance(&mut self, positions: usize) {
        self.len += positions;
    }

    /// Makes this cache hold what another one of the same model holds.
    pub(crate) fn copy_from(&mut self, other: &KvCache) {
        debug_assert_eq!(self.shape, other.shape, "caches of one model");
        self.len = 0;
        self.reserve(other.len);
        self.len = other.len;
        let d_kv = self.shape.d_kv;
        let used = (Keys::key_floats(other.len, d_kv), other.len * padded(d_kv));
        for layer in 0..self.shape.layers {
            let ((keys, values), (other_keys, other_values)) = (self.layer(layer), other.layer(layer));
            let (head, other_head) = (self.head(), other.head());
            let parts = [
                (keys, head.0, other_keys, other_head.0, used.0),
                (values, head.1, other_values, other_head.1, used.1),
            ];
            for (to, to_head, from, from_head, used) in parts {
                if self.shape.half {
                    let (a, b) = (cast_slice_mut::<f32, f16>(&mut self.memory), cast_slice(&other.memory));
                    copy(&mut a[to], to_head, &b[from], from_head, used);
                } else {
                    copy(&mut self.memory[to], to_head, &other.memory[from], from_head, used);
                }
            }
        }
    }

    /// All memory of a layer, also what is not used yet; nothing while less than half is used.
    pub(crate) fn memory_of(&self, layer: usize) -> &[f32] {
        let (keys, values) = self.layer(layer);
        let (first, end) = if self.shape.half { (keys.start / 2, values.end / 2) } else { (keys.start, values.end) };
        if 2 * self.len < self.capacity { &[] } else { &self.memory[first..end] }
    }

    /// What the queries of a layer look at: the positions counted, and `more` that were just appended.
    pub(crate) fn view(&self, layer: usize, more: usize) -> Keys<'_> {
        let ((_, value_head), (keys, values)) = (self.head(), self.layer(layer));
        let memory = &self.memory[..];
        let stored = if self.shape.half {
            let memory = cast_slice(memory);
            KeyStorage::F16(&memory[keys], &memory[values])
        } else {
            KeyStorage::F32(&memory[keys], &memory[values])
        };
        let value_stride = padded(self.shape.d_kv);
        Keys { stored, layout: self.layout(), value_head, value_stride, len: self.len + more }
    }
}

/// Writes the values of positions `first..`: `rows` is [positions, stride], head h of a row begins at h * width.
fn write_values<T>(
    values: &mut [T],
    value_head: usize,
    first: usize,
    rows: &[f32],
    (stride, width): (usize, usize),
    write: impl Fn(&mut [T], &[f32]),
) {
    for (head, values) in values.chunks_exact_mut(value_head).enumerate() {
        for (to, row) in values[first * width..].chunks_exact_mut(width).zip(rows.chunks(stride)) {
            write(to, &row[head * width..][..width]);
        }
    }
}

/// Copies what is used of each head.
fn copy<T: Copy>(to: &mut [T], to_head: usize, from: &[T], from_head: usize, used: usize) {
    for (to, from) in to.chunks_exact_mut(to_head).zip(from.chunks_exact(from_head)) {
        to[..used].copy_from_slice(&from[..used]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that a cache holds.
    fn numbers(cache: &KvCache) -> Vec<f32> {
        let (heads, d_kv) = (cache.shape.heads, cache.shape.d_kv);
        let mut numbers = Vec::new();
        for layer in 0..cache.shape.layers {
            let Keys { stored, layout, value_head, value_stride, len } = cache.view(layer, 0);
            let (keys, values) = match stored {
                KeyStorage::F32(keys, values) => (keys.to_vec(), values.to_vec()),
                KeyStorage::F16(keys, values) => {
                    let wide = |x: &[f16]| x.iter().map(|x| x.to_f32()).collect::<Vec<_>>();
                    (wide(keys), wide(values))
                }
            };
            for (head, t) in (0..heads).flat_map(|head| (0..len).map(move |t| (head, t))) {
                let key = head * layout.head + t / LANES * layout.panel + t % LANES;
                numbers.extend((0..d_kv).map(|d| keys[key + d * LANES]));
                numbers.extend(&values[head * value_head + t * value_stride..][..d_kv]);
            }
        }
        numbers
    }

    /// Caches that get memory together hold what others hold, also when some grow, and when fewer or longer ones come.
    #[test]
    fn caches_together_are_like_caches_apart() {
        let isa = Isa::best();
        for half in [false, true] {
            let shape = CacheShape { layers: 2, heads: 4, d_kv: 64, half };
            let stride = 2 * shape.heads * shape.d_kv;
            let mut caches = Vec::new();
            for (round, lens) in
                [&[100, 3, 64, 700, 1][..], &[5, 900], &[20, 20, 20], &[1, 2], &[1000; 3]].iter().enumerate()
            {
                KvCache::reset_all(&mut caches, shape, lens.iter().copied());
                let mut alone: Vec<_> = lens.iter().map(|_| KvCache::default()).collect();
                alone.iter_mut().for_each(|cache| cache.reset(shape, 1));
                for (i, (cache, alone)) in caches.iter_mut().zip(&mut alone).enumerate() {
                    // More than was asked for, in two pieces.
                    for count in [lens[i] / 2 + 1, lens[i]] {
                        let rows: Vec<_> =
                            (0..count * stride).map(|x| ((x * 7 + i * 31 + round) % 1009) as f32).collect();
                        for cache in [&mut *cache, alone] {
                            (0..shape.layers).for_each(|layer| cache.append(isa, layer, &rows, stride, 0));
                            cache.advance(count);
                        }
                    }
                }
                for (i, (cache, alone)) in caches.iter().zip(&alone).enumerate() {
                    let found = numbers(cache);
                    assert!(!found.is_empty() && found == numbers(alone), "cache {i} of round {round}, half {half}");
                }
            }
        }
    }

    #[test]
    fn memory_of_a_layer_is_what_its_queries_look_at() {
        for half in [false, true] {
            let shape = CacheShape { layers: 3, heads: 2, d_kv: 20, half };
            let mut cache = KvCache::default();
            cache.reset(shape, 64);
            assert!(cache.memory_of(1).is_empty());
            cache.advance(40);
            for layer in 0..shape.layers {
                let addresses = |memory: std::ops::Range<*const f32>| memory.start.addr()..memory.end.addr();
                let (first, end) = match cache.view(layer, 0).stored {
                    KeyStorage::F32(keys, values) => {
                        (keys.as_ptr_range().start.addr(), values.as_ptr_range().end.addr())
                    }
                    KeyStorage::F16(keys, values) => {
                        (keys.as_ptr_range().start.addr(), values.as_ptr_range().end.addr())
                    }
                };
                assert_eq!(addresses(cache.memory_of(layer).as_ptr_range()), first..end, "layer {layer}, half {half}");
            }
        }
    }
}
