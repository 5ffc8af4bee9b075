//! The numbers of a checkpoint's tensors as f32, all but those of [`mapped`] read past the mapping of their file where it has one.
//!
//! A page of the mapping that is touched stays in this process's memory, with 15 around it as a rule, and is let go one by one in the
//! end: a one-shot run that looked at its encoder in the mapping took 1,240 page faults and 15.9 ms, one that reads it takes 690 and 14.4
//! (Zen 5, tiny shape, two threads).

use crate::load::Dtype;
use crate::stack::room;
use half::{bf16, f16};
use tiny_t5_checkpoint::{Dtype as Stored, Tensor};
use tiny_t5_kernels::{WeightType, padded, widen};

/// The numbers of a tensor, where it is mapped.
pub(crate) fn mapped<'a>(tensor: &Tensor<'a>) -> impl Iterator<Item = f32> + 'a {
    let (from, size) = (stored_as(tensor.dtype), tensor.dtype.size());
    tensor.bytes.chunks_exact(size).map(move |bytes| {
        let mut number = [0.0];
        widen(from, bytes, &mut number);
        number[0]
    })
}

/// Rounds as weights are rounded when a narrower width was asked for.
fn round(dtype: Dtype, x: f32) -> f32 {
    match dtype {
        Dtype::Auto | Dtype::F32 | Dtype::Int8 => x,
        Dtype::Bf16 => bf16::from_f32(x).to_f32(),
        Dtype::F16 => Some(f16::from_f32(x).to_f32()).filter(|y| y.is_finite()).unwrap_or(x),
    }
}

/// Whether f16 reaches every number of a tensor.
pub(crate) fn fits_f16(tensor: &Tensor<'_>) -> bool {
    tensor.dtype == Stored::F16 || mapped(tensor).all(|x| !f16::from_f32(x).is_infinite() || x.is_infinite())
}

/// How the numbers of a matrix are rounded where weights are wanted so: not at all where f16 does not reach one of them.
pub(crate) fn rounded_as(tensor: &Tensor<'_>, dtype: Dtype) -> Dtype {
    if dtype == Dtype::F16 && !fits_f16(tensor) { Dtype::F32 } else { dtype }
}

/// All numbers of a tensor.
pub(crate) fn all(tensor: &Tensor<'_>, dtype: Dtype) -> Vec<f32> {
    let mut numbers = vec![0.0; tensor.shape.iter().product()];
    some(tensor, 0, dtype, &mut numbers);
    numbers
}

/// A vector as f32, padded with zeros to whole registers.
pub(crate) fn vector(tensor: &Tensor<'_>, dtype: Dtype) -> Vec<f32> {
    let mut vector = all(tensor, dtype);
    vector.resize(padded(vector.len()), 0.0);
    vector
}

/// Some rows of a matrix as they are stored, read into `buffer` where they lie in a file.
pub(crate) fn stored_rows<'b>(tensor: &Tensor<'b>, first: usize, count: usize, buffer: &'b mut Vec<f32>) -> &'b [u8] {
    let width = tensor.shape[1] * tensor.dtype.size();
    let buffer = room(buffer, (count * width).div_ceil(size_of::<f32>()));
    tensor.read(first * width, &mut bytemuck::cast_slice_mut(buffer)[..count * width])
}

/// Some rows of a matrix, one behind the other, as f32 with zeros behind each: [count, padded(columns)], where they are stored or in
/// one of the `buffers`.
pub(crate) fn rows<'b>(
    tensor: &Tensor<'b>,
    first: usize,
    count: usize,
    dtype: Dtype,
    [stored, wide]: &'b mut [Vec<f32>; 2],
) -> &'b [f32] {
    let columns = tensor.shape[1];
    let bytes = stored_rows(tensor, first, count, stored);
    let as_they_are = tensor.dtype == Stored::F32 && !matches!(dtype, Dtype::Bf16 | Dtype::F16);
    if let (true, Ok(rows)) = (as_they_are && columns == padded(columns), bytemuck::try_cast_slice(bytes)) {
        return rows;
    }
    wide.resize(count * padded(columns), 0.0);
    let width = (columns * tensor.dtype.size()).max(1);
    for (bytes, out) in bytes.chunks_exact(width).zip(wide.chunks_exact_mut(padded(columns))) {
        widen_as(tensor, dtype, bytes, &mut out[..columns]);
    }
    wide
}

/// One row of a matrix as f32 into `out`, and zeros behind it. A word of the tiny shape would leave 64 KB in memory where its row is taken
/// from the mapping, until the whole embedding is there. Reading takes 0.65 us, and 0.2 where the pages have come already, 2.7 where
/// they come (Cascade Lake, 1 KB).
pub(crate) fn row(tensor: &Tensor<'_>, row: usize, dtype: Dtype, out: &mut [f32]) {
    let (values, rest) = out.split_at_mut(tensor.shape[1]);
    some(tensor, row * values.len(), dtype, values);
    rest.fill(0.0);
}

/// Some numbers of a tensor, from the `first` on.
fn some(tensor: &Tensor<'_>, first: usize, dtype: Dtype, values: &mut [f32]) {
    let size = tensor.dtype.size();
    let mut buffer = [0; 4096];
    let mut at = first * size;
    for values in values.chunks_mut(buffer.len() / size) {
        let bytes = values.len() * size;
        widen_as(tensor, dtype, tensor.read(at, &mut buffer[..bytes]), values);
        at += bytes;
    }
}

/// Widens elements of a tensor to what an engine of this width computes with.
fn widen_as(tensor: &Tensor<'_>, dtype: Dtype, bytes: &[u8], values: &mut [f32]) {
    widen(stored_as(tensor.dtype), bytes, values);
    if matches!(dtype, Dtype::Bf16 | Dtype::F16) {
        values.iter_mut().for_each(|x| *x = round(dtype, *x));
    }
}

/// How the kernels call what a tensor is stored as.
pub(crate) fn stored_as(dtype: Stored) -> WeightType {
    match dtype {
        Stored::F32 => WeightType::F32,
        Stored::BF16 => WeightType::Bf16,
        Stored::F16 => WeightType::F16,
    }
}
