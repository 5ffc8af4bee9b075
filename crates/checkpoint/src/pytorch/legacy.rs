//! The form of `torch.save` before PyTorch 1.6, which many fine-tunes of 2019 to 2021 have.
//!
//! Pickles one after another: a magic number, the protocol 1001, what machine it was, the object, the list of storage
//! keys. Then for each key, in the list's order, its number of elements (8 bytes) and its elements.
//!
//! Source: torch, `serialization.py`, `_legacy_save` and `_legacy_load`.

use std::collections::BTreeMap;
use std::ops::Range;

use super::pickle;
use super::pickled::{Kind, Pickled, StorageRef, Value};
use crate::error::{Error, shown};

/// The pickle of 0x1950a86a20f9469cfc6c without its protocol: a LONG1 of ten bytes.
const MAGIC: [u8; 12] = [0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const PROTOCOL: i64 = 1001;

/// Where each storage's elements lie, by key.
pub(super) type Storages = BTreeMap<String, Range<usize>>;

/// Whether a file begins as this form does.
pub(super) fn is_magic(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x80) && bytes.get(2..).is_some_and(|rest| rest.starts_with(&MAGIC))
}

/// The pickled object of the file, and its storages.
pub(super) fn read<'a>(file: &str, bytes: &'a [u8]) -> Result<(Pickled<'a>, Storages), Error> {
    let mut rest = bytes;
    let mut next = || -> Result<Pickled<'a>, Error> {
        let pickled = pickle::read(file, rest)?;
        rest = rest.get(pickled.length..).unwrap_or_default();
        Ok(pickled)
    };
    next()?; // the magic number
    let protocol = next()?.value;
    if !matches!(protocol, Value::Int(PROTOCOL)) {
        return Err(Error::malformed(file, "the protocol", shown(&format!("{protocol:?}")), PROTOCOL));
    }
    let machine = next()?;
    let little = |(key, value): &(Value<'_>, Value<'_>)| match (key.text(), value) {
        (Some("little_endian"), Value::Bool(little)) => Some(*little),
        _ => None,
    };
    if machine.dict(machine.value).unwrap_or_default().iter().find_map(little) == Some(false) {
        return Err(Error::malformed(file, "the byte order", "big", "little"));
    }
    let object = next()?;
    let keys = next()?;
    let start = bytes.len() - rest.len();
    let storages = storages(file, bytes, start, &object, &keys)?;
    Ok((object, storages))
}

/// Walks the storages that follow the pickles.
fn storages(
    file: &str,
    bytes: &[u8],
    start: usize,
    object: &Pickled<'_>,
    keys: &Pickled<'_>,
) -> Result<Storages, Error> {
    let Some(list) = keys.list(keys.value) else {
        return Err(Error::malformed(file, "the list of storages", "something else", "a list of keys"));
    };
    let mut known: BTreeMap<&str, (Kind, u64)> = BTreeMap::new();
    for storage in &object.storages {
        known.entry(storage.key).or_insert((storage.kind, storage.elements));
    }
    let mut at = start;
    let mut places = Storages::new();
    for key in list {
        let key = key.text().unwrap_or("(no text)");
        let what = || format!("storage {}", shown(key));
        let &(kind, elements) =
            known.get(key).ok_or_else(|| Error::malformed(file, what(), "not used by any tensor", "used"))?;
        let count = bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().map(u64::from_le_bytes);
        if count != Some(elements) {
            let found = count.map_or("cut off".to_owned(), |n| format!("{n} elements"));
            return Err(Error::malformed(file, what(), found, format!("{elements}, by the pickle")));
        }
        let from = at + 8; // those bytes are there
        let end =
            usize::try_from(elements).ok().and_then(|n| n.checked_mul(kind.size())).and_then(|n| from.checked_add(n));
        let Some(end) = end.filter(|&end| end <= bytes.len()) else {
            let found = format!("{elements} elements of {} from byte {from}", kind.name());
            return Err(Error::malformed(file, what(), found, format!("within {} bytes", bytes.len())));
        };
        if places.insert(key.to_owned(), from..end).is_some() {
            return Err(Error::malformed(file, what(), "listed twice", "each storage once"));
        }
        at = end;
    }
    Ok(places)
}

/// The bytes of a storage, or of the part of one that it is a view of.
pub(super) fn place(file: &str, storages: &Storages, storage: &StorageRef<'_>) -> Result<Range<usize>, Error> {
    let what = || format!("storage {}", shown(storage.key));
    let whole = storages
        .get(storage.key)
        .ok_or_else(|| Error::malformed(file, what(), "absent", "one of the listed storages"))?;
    if storage.byte_size() != Some(whole.len()) {
        let expected = format!("{} elements of {}", storage.elements, storage.kind.name());
        return Err(Error::malformed(file, what(), format!("{} bytes", whole.len()), expected));
    }
    let Some((offset, elements)) = storage.part else {
        return Ok(whole.clone());
    };
    let bytes = |n: u64| usize::try_from(n).ok()?.checked_mul(storage.kind.size());
    let part = || {
        let from = whole.start.checked_add(bytes(offset)?)?;
        let to = from.checked_add(bytes(elements)?)?;
        (to <= whole.end).then_some(from..to)
    };
    let found = || format!("a view of {elements} elements from {offset}");
    part().ok_or_else(|| Error::malformed(file, what(), found(), format!("within {}", storage.elements)))
}
