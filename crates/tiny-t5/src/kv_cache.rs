//! Keys and values of attention, in the kernels' layout.

use tiny_t5_kernels::{Keys, LANES, padded};

/// Keys and values of one sequence, for every layer of the decoder: of what it has generated (self-attention), or of
/// its source (cross-attention).
///
/// A head's keys lie together, and so do its values: a step reads each as one stream.
#[derive(Debug, Default, Clone)]
pub(crate) struct KvCache {
    /// A layer: the keys `[num_heads][capacity / 16][d_kv][16]`, then the values `[num_heads][capacity][padded(d_kv)]`.
    memory: Vec<f32>,
    /// Positions that there is room for: whole panels.
    capacity: usize,
    len: usize,
    layers: usize,
    heads: usize,
    d_kv: usize,
}

impl KvCache {
    /// An empty cache with room for `len` positions, so that steps up to there allocate nothing; memory of an earlier use is kept.
    pub(crate) fn reset(&mut self, layers: usize, heads: usize, d_kv: usize, len: usize) {
        *self = KvCache { memory: std::mem::take(&mut self.memory), capacity: 0, len: 0, layers, heads, d_kv };
        self.reserve(len);
    }

    /// Makes room for `len` positions; those counted stay.
    fn reserve(&mut self, len: usize) {
        if len <= self.capacity {
            return;
        }
        let capacity = len.max(self.capacity * 3 / 2).next_multiple_of(LANES);
        let floats = self.layers * self.heads * capacity * (self.d_kv + padded(self.d_kv));
        if self.len == 0 {
            self.memory.resize(floats.max(self.memory.len()), 0.0);
            self.capacity = capacity;
        } else {
            let old = std::mem::take(self);
            *self = KvCache { memory: vec![0.0; floats], capacity, len: 0, ..old };
            self.copy_from(&old);
        }
    }

    /// Floats of a head's keys, and of its values.
    fn head(&self) -> (usize, usize) {
        (Keys::key_floats(self.capacity, self.d_kv), self.capacity * padded(self.d_kv))
    }

    /// The keys and the values of a layer.
    fn layer(&self, layer: usize) -> (&[f32], &[f32]) {
        let (keys, values) = self.head();
        self.memory[layer * self.heads * (keys + values)..][..self.heads * (keys + values)].split_at(self.heads * keys)
    }

    fn layer_mut(&mut self, layer: usize) -> (&mut [f32], &mut [f32]) {
        let (keys, values) = self.head();
        let layer = &mut self.memory[layer * self.heads * (keys + values)..][..self.heads * (keys + values)];
        layer.split_at_mut(self.heads * keys)
    }

    /// Positions that every layer holds.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Appends the keys and values of some positions to a layer. `rows` is [positions, stride]: the keys of a row begin
    /// at `key`, its values at `value`. The positions count once [`KvCache::advance`] is called.
    pub(crate) fn append(&mut self, layer: usize, rows: &[f32], stride: usize, key: usize, value: usize) {
        // Grows at the first layer, where no layer has positions that are not counted.
        self.reserve(self.len + rows.len() / stride);
        let (first, d_kv, (key_head, value_head)) = (self.len, self.d_kv, self.head());
        let (keys, values) = self.layer_mut(layer);
        Keys::write(keys, key_head, first, &rows[key..], stride, d_kv);
        let width = padded(d_kv);
        for (head, values) in values.chunks_exact_mut(value_head).enumerate() {
            for (to, row) in values[first * width..].chunks_exact_mut(width).zip(rows.chunks_exact(stride)) {
                to.copy_from_slice(&row[value + head * width..][..width]);
            }
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
        self.len = 0;
        self.reserve(other.len);
        self.len = other.len;
        let (key_floats, value_floats) = (Keys::key_floats(other.len, other.d_kv), other.len * padded(other.d_kv));
        let (to, from) = (self.head(), other.head());
        for layer in 0..self.layers {
            let (keys, values) = self.layer_mut(layer);
            let (other_keys, other_values) = other.layer(layer);
            for (to, from) in keys.chunks_exact_mut(to.0).zip(other_keys.chunks_exact(from.0)) {
                to[..key_floats].copy_from_slice(&from[..key_floats]);
            }
            for (to, from) in values.chunks_exact_mut(to.1).zip(other_values.chunks_exact(from.1)) {
                to[..value_floats].copy_from_slice(&from[..value_floats]);
            }
        }
    }

    /// What the queries of a layer look at: the positions counted, and `more` that were just appended.
    pub(crate) fn view(&self, layer: usize, more: usize) -> Keys<'_> {
        let (keys, values) = self.layer(layer);
        let (key_head, value_head) = self.head();
        Keys { keys, key_head, values, value_head, value_stride: padded(self.d_kv), len: self.len + more }
    }
}
