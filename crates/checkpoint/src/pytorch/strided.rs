//! A view of a storage: where it begins, its shape and its strides; and its elements in row-major order.

use super::pickled::TensorRef;

/// A view in units of elements of `element` bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct View {
    element: usize,
    offset: usize,
    /// Length and stride of each dimension, outermost first.
    dims: Vec<(usize, usize)>,
}

impl View {
    pub(super) fn new(tensor: &TensorRef, element: usize) -> View {
        let dims = tensor.shape.iter().copied().zip(tensor.stride.iter().copied());
        View { element, offset: tensor.offset, dims: dims.collect() }
    }

    /// Where the view begins and how large it is when contiguous, in bytes; `None` unless every element lies within a
    /// storage of `storage` bytes.
    pub(super) fn extent(&self, storage: usize) -> Option<(usize, usize)> {
        let elements = self.dims.iter().try_fold(1usize, |n, &(length, _)| n.checked_mul(length))?;
        let size = elements.checked_mul(self.element)?;
        let start = self.offset.checked_mul(self.element)?;
        let end = match elements {
            0 => start,
            _ => {
                let step = |at: usize, &(length, stride): &(usize, usize)| {
                    (length - 1).checked_mul(stride).and_then(|far| at.checked_add(far))
                };
                let last = self.dims.iter().try_fold(self.offset, step)?;
                last.checked_add(1)?.checked_mul(self.element)?
            }
        };
        (end <= storage).then_some((start, size))
    }

    /// Whether row-major order is the storage's own; strides of dimensions of length 1 mean nothing.
    pub(super) fn is_contiguous(&self) -> bool {
        let mut expected = 1usize;
        let mut in_order = self.dims.iter().rev().map(|&(length, stride)| {
            let fits = length <= 1 || stride == expected;
            expected = expected.saturating_mul(length);
            fits
        });
        self.dims.iter().any(|&(length, _)| length == 0) || in_order.all(|fits| fits)
    }

    /// The view's `size` bytes in row-major order; `None` if it does not lie within the storage.
    pub(super) fn gather(&self, storage: &[u8], size: usize) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(size);
        self.append(&self.dims, self.offset, storage, &mut out)?;
        Some(out)
    }

    /// As deep as the view has dimensions, which the pickle machine limits.
    fn append(&self, dims: &[(usize, usize)], at: usize, storage: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let Some((&(length, stride), inner)) = dims.split_first() else {
            let from = at.checked_mul(self.element)?;
            out.extend_from_slice(storage.get(from..from.checked_add(self.element)?)?);
            return Some(());
        };
        (0..length).try_for_each(|i| self.append(inner, at.checked_add(i.checked_mul(stride)?)?, storage, out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(offset: usize, dims: &[(usize, usize)]) -> View {
        View { element: 1, offset, dims: dims.to_vec() }
    }

    #[test]
    fn gather_transposed_matrix_is_row_major() {
        let v = view(0, &[(3, 1), (2, 3)]);
        assert!(!v.is_contiguous());
        assert_eq!(v.extent(6), Some((0, 6)));
        assert_eq!(v.gather(&[0, 1, 2, 3, 4, 5], 6).unwrap(), [0, 3, 1, 4, 2, 5]);
    }

    #[test]
    fn extent_view_past_the_storage_is_none() {
        assert_eq!(view(1, &[(2, 3), (3, 1)]).extent(6), None);
        assert_eq!(view(0, &[(2, usize::MAX)]).extent(6), None);
        assert_eq!(view(usize::MAX, &[(1, 1)]).extent(6), None);
        assert_eq!(view(0, &[(usize::MAX, 0), (2, 0)]).extent(6), None);
        assert_eq!(view(7, &[(0, 1)]).extent(6), None);
    }

    #[test]
    fn is_contiguous_ignores_strides_of_single_rows_and_of_nothing() {
        assert!(view(0, &[(1, 99), (3, 1)]).is_contiguous());
        assert!(view(0, &[(0, 5), (3, 7)]).is_contiguous());
        assert!(view(0, &[]).is_contiguous());
        assert!(!view(0, &[(2, 0), (3, 1)]).is_contiguous());
    }
}
