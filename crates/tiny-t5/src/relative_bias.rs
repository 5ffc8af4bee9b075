//! T5's relative position bias: a learned number for each head and each bucket of distances.

use tiny_t5_kernels::{Bias, LANES};

/// The bucket of a distance, key position less query position.
///
/// Small distances have a bucket each; larger ones share buckets whose width grows with the logarithm, up to
/// `max_distance`, from which on all share the last. An encoder (`bidirectional`) has half of the buckets for keys behind
/// the query and half for keys ahead; a decoder looks back only. Computed in f32 as transformers does.
///
/// Source: transformers, `T5Attention._relative_position_bucket`.
pub(crate) fn bucket(distance: i64, bidirectional: bool, num_buckets: usize, max_distance: usize) -> usize {
    let (offset, buckets, distance) = if bidirectional {
        let half = num_buckets / 2;
        (if distance > 0 { half } else { 0 }, half, distance.unsigned_abs())
    } else {
        (0, num_buckets, (-distance).max(0).unsigned_abs())
    };
    let exact = buckets / 2;
    if distance < exact as u64 {
        return offset + distance as usize;
    }
    let far = (distance as f32 / exact as f32).ln() / (max_distance as f32 / exact as f32).ln();
    let step = (far * (buckets - exact) as f32) as usize;
    offset + (exact + step).min(buckets - 1)
}

/// The bias of every head and every distance between two of `max_len` positions.
#[derive(Debug, Clone)]
pub(crate) struct RelativeBias {
    /// `[num_heads][stride]`, entry t - q + max_len - 1
    table: Vec<f32>,
    stride: usize,
    max_len: usize,
}

impl RelativeBias {
    /// `weight` is `relative_attention_bias.weight`, [num_buckets, num_heads].
    pub(crate) fn new(weight: &[f32], heads: usize, bidirectional: bool, max_distance: usize, max_len: usize) -> Self {
        let num_buckets = weight.len() / heads;
        let stride = 2 * max_len - 1 + LANES;
        let mut table = vec![0.0; heads * stride];
        for i in 0..2 * max_len - 1 {
            let bucket = bucket(i as i64 - (max_len as i64 - 1), bidirectional, num_buckets, max_distance);
            for head in 0..heads {
                table[head * stride + i] = weight[bucket * heads + head];
            }
        }
        RelativeBias { table, stride, max_len }
    }

    pub(crate) fn view(&self) -> Bias<'_> {
        Bias { table: &self.table, stride: self.stride, max_len: self.max_len }
    }

    pub(crate) fn max_len(&self) -> usize {
        self.max_len
    }
}

#[cfg(test)]
mod tests {
    use super::bucket;

    /// The first distance of each bucket, confirmed by running transformers 5.23.
    #[test]
    fn bucket_starts_of_32_and_128() {
        let starts = |bidirectional, sign: i64, offset: usize| -> Vec<i64> {
            let mut starts = vec![];
            for d in 0..200 {
                if bucket(sign * d, bidirectional, 32, 128) == offset + starts.len() {
                    starts.push(d);
                }
            }
            starts
        };
        let encoder = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91];
        assert_eq!(starts(true, -1, 0), encoder);
        assert!((1..200).all(|d| bucket(d, true, 32, 128) == bucket(-d, true, 32, 128) + 16));
        let exact = 0..=16;
        let decoder: Vec<i64> = exact.chain([19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]).collect();
        assert_eq!(starts(false, -1, 0), decoder);
        assert!((1..200).all(|d| bucket(d, false, 32, 128) == 0));
    }
}
