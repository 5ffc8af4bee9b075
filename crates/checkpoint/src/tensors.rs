//! The tensors of all weight files under their canonical names.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::fs::Metadata;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::bytes::Bytes;
use crate::error::{Error, shown};
use crate::panel_cache::{Identity, Sum};

/// How a weight's elements are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE single precision, 4 bytes.
    F32,
    /// IEEE half precision, 2 bytes.
    F16,
    /// The upper half of a single, 2 bytes.
    BF16,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::BF16 => "BF16",
        })
    }
}

/// A checked view of one tensor: `bytes.len()` is the product of `shape` times [`Dtype::size`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Tensor<'a> {
    /// The canonical name, such as `encoder.block.0.layer.0.SelfAttention.q.weight`.
    pub name: &'a str,
    /// The weight file that holds it, as in messages.
    pub file: &'a str,
    /// How its elements are stored.
    pub dtype: Dtype,
    /// Its dimensions; matrices are [out, in].
    pub shape: &'a [usize],
    /// Its elements, row-major and contiguous, little endian, at any alignment.
    pub bytes: &'a [u8],
    /// The file's bytes, and where in it these lie.
    place: Option<(&'a Arc<Bytes>, usize)>,
}

/// The elements of a tensor, as [`Tensor::bytes`], which keep the file that they lie in.
#[derive(Debug, Clone)]
pub struct SharedBytes {
    file: Arc<Bytes>,
    range: Range<usize>,
}

impl SharedBytes {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.range.len()
    }

    /// As [`Tensor::read`].
    ///
    /// # Panics
    /// Where there are not as many.
    pub fn read<'b>(&'b self, offset: usize, buffer: &'b mut [u8]) -> &'b [u8] {
        let range = offset..offset.saturating_add(buffer.len());
        assert!(range.end <= self.count(), "bytes {range:?} of {}", self.count());
        self.file.read(self.range.start + offset, buffer)
    }
}

impl<'a> Tensor<'a> {
    /// As many bytes as `buffer` has, from `offset` on: of a mapped file they are read into it.
    ///
    /// A page of a mapping that is touched stays in this process's memory, with 15 around it as a rule. So a few rows here and there
    /// out of a large matrix are better read than looked at.
    ///
    /// # Panics
    /// Where there are not as many.
    pub fn read<'b>(&self, offset: usize, buffer: &'b mut [u8]) -> &'b [u8]
    where
        'a: 'b,
    {
        let bytes = &self.bytes[offset..][..buffer.len()];
        self.place.map_or(bytes, |(file, start)| file.read(start + offset, buffer))
    }

    /// The elements for whoever outlives the checkpoint; none of a tensor that lies in no file as it is.
    pub fn shared(&self) -> Option<SharedBytes> {
        let (file, start) = self.place?;
        Some(SharedBytes { file: Arc::clone(file), range: start..start + self.bytes.len() })
    }
}

/// One tensor as a reader of a format found it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) name: String,
    pub(crate) dtype: Stored,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Data,
}

/// A type in a file: one of ours, or why it is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stored {
    Float(Dtype),
    /// Counters and position ids of other tools: harmless where they are no weights.
    Integer(String),
    /// Doubles, 8-bit floats, complex numbers.
    Unsupported(String),
}

/// Where a tensor's bytes are.
#[derive(Debug, Clone)]
pub(crate) enum Data {
    /// In its file; the reader checked the range.
    InFile(Range<usize>),
    /// Made contiguous from strides; shared by its aliases.
    Owned(Arc<[u8]>),
}

#[derive(Debug)]
struct WeightFile {
    name: String,
    /// Of the whole file, whatever is kept of it.
    size: u64,
    bytes: Arc<Bytes>,
    /// Where it lies and what the system says about it; none for bytes in memory.
    on_disk: Option<(PathBuf, Metadata)>,
}

#[derive(Debug)]
struct Held {
    file: usize,
    dtype: Stored,
    shape: Vec<usize>,
    data: Data,
}

/// Weight files and what they hold.
#[derive(Debug, Default)]
pub(crate) struct Tensors {
    files: Vec<WeightFile>,
    held: BTreeMap<String, Held>,
}

impl Tensors {
    /// Takes over a file and the tensors found in it.
    pub(crate) fn add(
        &mut self,
        file: &str,
        bytes: Bytes,
        on_disk: Option<(PathBuf, Metadata)>,
        found: Vec<Found>,
    ) -> Result<(), Error> {
        let index = self.files.len();
        let (size, bytes) = (bytes.len() as u64, Arc::new(bytes));
        self.files.push(WeightFile { name: file.to_owned(), size, bytes, on_disk });
        for tensor in found {
            check_type(file, &tensor)?;
            let held = Held { file: index, dtype: tensor.dtype, shape: tensor.shape, data: tensor.data };
            match self.held.entry(canonical(tensor.name)) {
                Entry::Vacant(place) => {
                    place.insert(held);
                }
                Entry::Occupied(first) => {
                    return Err(Error::Duplicate {
                        file: self.files.get(first.get().file).map_or("", |f| &f.name).to_owned(),
                        tensor: shown(first.key()),
                        other: file.to_owned(),
                    });
                }
            }
        }
        Ok(())
    }

    pub(crate) fn find(&self, name: &str) -> Option<Tensor<'_>> {
        let (name, held) = self.held.get_key_value(name)?;
        let Stored::Float(dtype) = held.dtype else {
            return None;
        };
        let file = self.files.get(held.file)?;
        let (bytes, place) = match &held.data {
            Data::InFile(range) => (file.bytes.get(range.clone())?, Some((&file.bytes, range.start))),
            Data::Owned(bytes) => (&bytes[..], None),
        };
        Some(Tensor { name, file: &file.name, dtype, shape: &held.shape, bytes, place })
    }

    /// The tensor `name` with exactly this shape; `weights` is the file to name where it is missing, `why` where the shape
    /// comes from.
    pub(crate) fn expect(&self, weights: &str, name: &str, shape: &[usize], why: &str) -> Result<Tensor<'_>, Error> {
        let Some(tensor) = self.find(name) else {
            return Err(match self.integer(name) {
                Some((file, found)) => {
                    Error::Dtype { file: file.to_owned(), tensor: name.to_owned(), found: found.to_owned() }
                }
                None => {
                    // Wrappers put their own names before all of the model's.
                    let is_it = |found: &&str| found.strip_suffix(name).is_some_and(|before| before.ends_with('.'));
                    let there = self.names().find(is_it).map(|found| format!("; there is {}", shown(found)));
                    Error::Missing {
                        file: weights.to_owned(),
                        tensor: name.to_owned(),
                        expected: shape.to_owned(),
                        why: format!("{why}{}", there.unwrap_or_default()),
                    }
                }
            });
        };
        if tensor.shape != shape {
            return Err(Error::Shape {
                file: tensor.file.to_owned(),
                tensor: name.to_owned(),
                found: tensor.shape.to_owned(),
                expected: shape.to_owned(),
                why: why.to_owned(),
            });
        }
        Ok(tensor)
    }

    /// The file and type of a tensor that is there but cannot be a weight.
    pub(crate) fn integer(&self, name: &str) -> Option<(&str, &str)> {
        let held = self.held.get(name)?;
        match &held.dtype {
            Stored::Float(_) => None,
            Stored::Integer(kind) | Stored::Unsupported(kind) => Some((&self.files.get(held.file)?.name, kind)),
        }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.held.keys().map(String::as_str)
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.held.contains_key(name)
    }

    pub(crate) fn bytes_on_disk(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// What tells the weight files from others without reading them; none where they are not files.
    pub(crate) fn identity(&self) -> Option<Identity> {
        let files: Option<Vec<_>> = self.files.iter().map(|file| file.on_disk.as_ref()).collect();
        Identity::of(files?.into_iter().map(|(path, metadata)| (path.as_path(), metadata)))
    }

    /// The sum of all bytes of the weight files.
    pub(crate) fn content(&self, sum: Sum<'_>) -> u128 {
        let sums: Vec<u8> = self.files.iter().flat_map(|file| sum(&file.bytes).to_le_bytes()).collect();
        sum(&sums)
    }

    pub(crate) fn release(&self) {
        self.files.iter().for_each(|file| file.bytes.release(0..file.bytes.len()));
    }

    /// Copies the tensors `names` out of files that lie in memory of their own, and drops these files with all others.
    pub(crate) fn keep(&mut self, names: &[&str]) {
        let files = &self.files;
        self.held.retain(|name, held| match (&held.data, files.get(held.file)) {
            (Data::InFile(range), Some(WeightFile { bytes, .. })) if bytes.is_owned() => {
                let kept = names.contains(&name.as_str()).then(|| bytes.get(range.clone())).flatten();
                kept.map(|bytes| held.data = Data::Owned(bytes.into())).is_some()
            }
            (Data::Owned(_), _) => names.contains(&name.as_str()),
            _ => true,
        });
        for file in self.files.iter_mut().filter(|file| file.bytes.is_owned()) {
            file.bytes = Arc::new(Bytes::Static(&[]));
        }
    }
}

/// T5's own name for a tensor: checkpoints of heads put `transformer.` before all of the model's names.
fn canonical(name: String) -> String {
    match name.strip_prefix("transformer.") {
        Some(inner) => inner.to_owned(),
        None => name,
    }
}

/// A weight of a type that we cannot read must not look absent: an output matrix would silently be taken for a tied one.
fn check_type(file: &str, tensor: &Found) -> Result<(), Error> {
    let is_weight = tensor.name.ends_with(".weight") || tensor.name.ends_with(".bias");
    match &tensor.dtype {
        Stored::Float(_) => Ok(()),
        Stored::Integer(_) if !is_weight => Ok(()),
        Stored::Integer(kind) | Stored::Unsupported(kind) => {
            Err(Error::Dtype { file: file.to_owned(), tensor: shown(&tensor.name), found: kind.clone() })
        }
    }
}
