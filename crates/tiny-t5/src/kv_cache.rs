//! Keys and values of attention, in the kernels' layout.

use tiny_t5_kernels::{Keys, padded};

/// One layer's keys and values of one sequence.
#[derive(Debug, Default, Clone)]
struct Layer {
    /// `[positions / 16][num_heads][d_kv][16]`
    keys: Vec<f32>,
    /// `[positions][num_heads * padded(d_kv)]`
    values: Vec<f32>,
}

/// Keys and values of one sequence, for every layer of the decoder: of what it has generated (self-attention), or of
/// its source (cross-attention).
#[derive(Debug, Default)]
pub(crate) struct KvCache {
    layers: Vec<Layer>,
    len: usize,
    heads: usize,
    d_kv: usize,
}

impl KvCache {
    /// An empty cache; memory of an earlier use is kept.
    pub(crate) fn reset(&mut self, layers: usize, heads: usize, d_kv: usize) {
        self.layers.resize_with(layers, Layer::default);
        (self.len, self.heads, self.d_kv) = (0, heads, d_kv);
        for layer in &mut self.layers {
            layer.keys.clear();
            layer.values.clear();
        }
    }

    /// Makes room for `len` positions, so that steps up to there allocate nothing.
    pub(crate) fn reserve(&mut self, len: usize) {
        let (keys, width) = (Keys::key_floats(len, self.heads, self.d_kv), self.width());
        for layer in &mut self.layers {
            layer.keys.reserve(keys.saturating_sub(layer.keys.len()));
            layer.values.reserve((len * width).saturating_sub(layer.values.len()));
        }
    }

    fn width(&self) -> usize {
        self.heads * padded(self.d_kv)
    }

    /// Positions that every layer holds.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Appends the keys and values of some positions to a layer. `rows` is [positions, stride]: the keys of a row begin
    /// at `key`, its values at `value`. The positions count once [`KvCache::advance`] is called.
    pub(crate) fn append(&mut self, layer: usize, rows: &[f32], stride: usize, key: usize, value: usize) {
        let (count, width) = (rows.len() / stride, self.width());
        let Layer { keys, values } = &mut self.layers[layer];
        keys.resize(Keys::key_floats(self.len + count, self.heads, self.d_kv), 0.0);
        Keys::write(keys, self.len, &rows[key..], stride, self.heads, self.d_kv);
        values.truncate(self.len * width);
        for row in rows.chunks_exact(stride) {
            values.extend_from_slice(&row[value..value + width]);
        }
    }

    /// Counts positions that every layer has been given.
    pub(crate) fn advance(&mut self, positions: usize) {
        self.len += positions;
    }

    /// Makes this cache equal to another one of the same model.
    pub(crate) fn copy_from(&mut self, other: &KvCache) {
        (self.len, self.heads, self.d_kv) = (other.len, other.heads, other.d_kv);
        self.layers.resize_with(other.layers.len(), Layer::default);
        for (to, from) in self.layers.iter_mut().zip(&other.layers) {
            to.keys.clone_from(&from.keys);
            to.values.clone_from(&from.values);
        }
    }

    /// What the queries of a layer look at: the positions counted, and `more` that were just appended.
    pub(crate) fn view(&self, layer: usize, more: usize) -> Keys<'_> {
        let Layer { keys, values } = &self.layers[layer];
        Keys { keys, values, value_stride: self.width(), len: self.len + more }
    }
}
