//! A PyTorch `.bin` file: what `torch.save` makes of a state dict, in both its forms.
//!
//! Either form is a pickle that says which tensor is which view of which storage, and the storages' raw bytes:
//! since PyTorch 1.6 records of a zip ([`zip`]), before that one after another ([`legacy`]). The pickle is read by a
//! machine that builds tensors and nothing else ([`pickle`]); storages stay where they are in the file, and only a view
//! with strides of its own is copied ([`strided`]).
//!
//! Source: torch, `serialization.py`, `_utils.py`.

mod legacy;
mod pickle;
mod pickled;
mod strided;
mod zip;

use std::collections::BTreeMap;
use std::ops::Range;

use crate::bytes::Bytes;
use crate::error::{Error, shown};
use crate::tensors::{Data, Found, Stored};
use pickled::{LONGEST_NAME, Pickled, StorageRef, TensorRef, Value};
use strided::View;

/// The tensors of the file `file`, each checked against its storage and each storage against the file.
pub(crate) fn read(file: &str, bytes: &Bytes) -> Result<Vec<Found>, Error> {
    if bytes.starts_with(b"PK") {
        read_zip(file, bytes)
    } else if legacy::is_magic(bytes) {
        let (pickled, storages) = legacy::read(file, bytes)?;
        tensors(file, bytes, &pickled, |storage| legacy::place(file, &storages, storage))
    } else {
        let expected = "a zip, or the magic number of torch.save's older form";
        Err(Error::malformed(file, "its start", start_of(bytes), expected))
    }
}

fn start_of(bytes: &[u8]) -> String {
    let start = bytes.get(..8).unwrap_or(bytes);
    format!("{start:02x?}")
}

/// `NAME/data.pkl`, `NAME/data/KEY` for each storage, `NAME/byteorder`.
fn read_zip(file: &str, bytes: &Bytes) -> Result<Vec<Found>, Error> {
    let records = zip::records(file, bytes)?;
    let pickle_name = records
        .keys()
        .find(|name| name.split_once('/').is_some_and(|(root, rest)| root.len() <= LONGEST_NAME && rest == "data.pkl"));
    let Some(root) = pickle_name.and_then(|name| name.strip_suffix("data.pkl")) else {
        return Err(Error::malformed(file, "the zip", "without a record */data.pkl", "what torch.save writes"));
    };
    let record = |name: &str| records.get(format!("{root}{name}").as_str()).cloned();
    let content = |name: &str| record(name).and_then(|range| bytes.get(range));
    if let Some(order) = content("byteorder").filter(|order| order.trim_ascii() != b"little") {
        let found = shown(&String::from_utf8_lossy(order));
        return Err(Error::malformed(file, "the byte order", found, "little"));
    }
    let pickled = pickle::read(file, content("data.pkl").unwrap_or_default())?;
    tensors(file, bytes, &pickled, |storage| {
        let what = || format!("storage {}", shown(storage.key));
        let range = record(&format!("data/{}", storage.key))
            .ok_or_else(|| Error::malformed(file, what(), "absent", "a record of the zip"))?;
        if Some(range.len()) != storage.byte_size() {
            let expected = format!("{} elements of {}", storage.elements, storage.kind.name());
            return Err(Error::malformed(file, what(), format!("{} bytes", range.len()), expected));
        }
        Ok(range)
    })
}

/// The tensors of a pickled state dict. `place` gives a storage's bytes in the file.
fn tensors(
    file: &str,
    bytes: &Bytes,
    pickled: &Pickled<'_>,
    place: impl Fn(&StorageRef<'_>) -> Result<Range<usize>, Error>,
) -> Result<Vec<Found>, Error> {
    let mut copies = Copies { file, bytes, made: BTreeMap::new(), total: 0, since_release: 0 };
    let mut found = Vec::new();
    for (name, tensor) in state_dict(pickled) {
        let Some(storage) = pickled.storages.get(tensor.storage) else {
            continue;
        };
        let range = place(storage)?;
        let dtype = storage.kind.stored();
        let data = match dtype {
            Stored::Float(_) => copies.data(name, tensor, storage, range)?,
            _ => Data::InFile(0..0), // nobody can look at it
        };
        found.push(Found { name: name.to_owned(), dtype, shape: tensor.shape.clone(), data });
    }
    if found.is_empty() {
        return Err(Error::malformed(file, "the pickled object", "without tensors", "a state dict"));
    }
    Ok(found)
}

/// Names (of a sensible length) and tensors of the pickled object, or of its `state_dict` where a trainer wrapped it. What is no tensor (counts,
/// settings) is passed over.
fn state_dict<'p>(pickled: &'p Pickled<'_>) -> Vec<(&'p str, &'p TensorRef)> {
    let named_tensors = |items: &'p [(Value<'_>, Value<'_>)]| -> Vec<_> {
        let named = |(key, value): &'p (Value<'_>, Value<'_>)| Some((key.name()?, pickled.tensor(*value)?));
        items.iter().filter_map(named).collect()
    };
    let top = pickled.dict(pickled.value).unwrap_or_default();
    let found = named_tensors(top);
    if !found.is_empty() {
        return found;
    }
    let inner = top.iter().find(|(key, _)| key.text() == Some("state_dict"));
    inner.and_then(|(_, value)| pickled.dict(*value)).map(named_tensors).unwrap_or_default()
}

/// Bytes copied before the mapped pages that they came from are given back: the peak stays near the file's size.
const RELEASE_EVERY: usize = 16 << 20;

/// Makes contiguous what is not, once for all aliases of a view, and never more than the file's size in all.
struct Copies<'a> {
    file: &'a str,
    bytes: &'a Bytes,
    made: BTreeMap<(usize, View), Data>,
    total: usize,
    since_release: usize,
}

impl Copies<'_> {
    fn data(
        &mut self,
        name: &str,
        tensor: &TensorRef,
        storage: &StorageRef<'_>,
        range: Range<usize>,
    ) -> Result<Data, Error> {
        let what = || format!("the view {}", shown(name));
        let found = || {
            let TensorRef { offset, shape, stride, .. } = tensor;
            format!("shape {shape:?} with strides {stride:?} from element {offset}")
        };
        let outside = || Error::malformed(self.file, what(), found(), format!("{} elements", storage.elements));
        let view = View::new(tensor, storage.kind.size());
        let (start, size) = view.extent(range.len()).ok_or_else(outside)?;
        if view.is_contiguous() {
            // No overflow: `extent` found the view inside the range.
            let from = range.start + start;
            return Ok(Data::InFile(from..from + size));
        }
        if let Some(copy) = self.made.get(&(range.start, view.clone())) {
            return Ok(copy.clone());
        }
        if size > self.bytes.len().saturating_sub(self.total) {
            let expected = "no more bytes in all views than the file has";
            return Err(Error::malformed(self.file, what(), found(), expected));
        }
        let key = (range.start, view);
        let copy = self.bytes.get(range).and_then(|storage| key.1.gather(storage, size)).ok_or_else(outside)?;
        let data = Data::Owned(copy.into());
        self.total += size;
        self.since_release += size;
        if self.since_release >= RELEASE_EVERY {
            self.bytes.release(0..self.bytes.len());
            self.since_release = 0;
        }
        self.made.insert(key, data.clone());
        Ok(data)
    }
}

#[cfg(test)]
mod tests;
