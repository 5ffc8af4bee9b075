//! A safetensors file: 8 bytes with the header's length, a JSON header, the tensors' bytes without holes.
//!
//! Names, types and the header's grammar are the `safetensors` crate's. The check of offsets is done here: it names the
//! tensor with what was found and what was expected, and neither overflows nor builds the header twice (the crate's
//! `flatten` holds every number of a header as a 32-byte value, so that a hostile one takes 16 times its size).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use ::safetensors::tensor::{Dtype as Kind, TensorInfo};
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::error::{Error, shown};
use crate::tensors::{Data, Dtype, Found, Stored};

/// Bytes of a header. T5 1.1 xxl has 558 tensors, so some 65 KB; parsed, a header takes up to 8 times its size.
const LARGEST_HEADER: u64 = 4 << 20;
const LENGTH: usize = 8;
/// Tensors of T5 have one or two dimensions.
const MOST_DIMENSIONS: usize = 8;

/// The tensors of the file `file`, checked against its bytes.
pub(crate) fn read(file: &str, bytes: &[u8]) -> Result<Vec<Found>, Error> {
    let header = header(file, bytes)?;
    let data_start = LENGTH + header.len();
    let data_len = bytes.len() - data_start;
    let mut tensors: Vec<_> = parse(file, header)?.into_iter().collect();

    // Sorted by place, each tensor starts where the last one ended: no holes, nothing twice.
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let mut end = 0;
    for (name, info) in &tensors {
        if info.shape.len() > MOST_DIMENSIONS {
            let what = format!("the number of dimensions of {}", shown(name));
            return Err(Error::malformed(file, what, info.shape.len(), format!("at most {MOST_DIMENSIONS}")));
        }
        let (from, to) = info.data_offsets;
        let size = byte_size(info).ok_or_else(|| {
            Error::malformed(
                file,
                format!("the size of {}", shown(name)),
                format!("{:?} of {:?}", info.shape, info.dtype),
                "a whole number of bytes below 2^64",
            )
        })?;
        if from != end || to.checked_sub(from) != Some(size) {
            let (what, found) = (format!("the place of {}", shown(name)), format!("{from} to {to}"));
            let expected = format!("{size} bytes from {end} on, by the tensors before it and its shape");
            return Err(Error::malformed(file, what, found, expected));
        }
        end = to;
    }
    if end != data_len {
        let expected = format!("{end}, by its header");
        return Err(Error::malformed(file, "its number of bytes after the header", data_len, expected));
    }

    let found = |(name, info): (String, TensorInfo)| Found {
        name,
        dtype: stored(info.dtype),
        shape: info.shape,
        // No overflow: the offsets end at `data_len`, checked above.
        data: Data::InFile(data_start + info.data_offsets.0..data_start + info.data_offsets.1),
    };
    Ok(tensors.into_iter().map(found).collect())
}

/// The header's bytes, by the length that stands before them.
fn header<'a>(file: &str, bytes: &'a [u8]) -> Result<&'a [u8], Error> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else {
        return Err(Error::malformed(file, "its size in bytes", bytes.len(), "at least 8"));
    };
    let length = u64::from_le_bytes(*length);
    if length > LARGEST_HEADER {
        return Err(Error::too_large(file, "the header's length in bytes", length, LARGEST_HEADER));
    }
    let expected = || format!("at most {}, the bytes that follow", rest.len());
    rest.get(..length as usize).ok_or_else(|| Error::malformed(file, "the header's length", length, expected()))
}

fn parse(file: &str, header: &[u8]) -> Result<BTreeMap<String, TensorInfo>, Error> {
    let json_error = |reason: serde_json::Error| Error::Json {
        file: format!("{file} (header)"),
        reason: shown(&reason.to_string()),
    };
    let mut json = serde_json::Deserializer::from_slice(header);
    let tensors = json.deserialize_map(Header).map_err(json_error)?;
    json.end().map_err(json_error)?;
    Ok(tensors)
}

/// `{"name": {"dtype": .., "shape": [..], "data_offsets": [from, to]}, .., "__metadata__": {..}}`
struct Header;

impl<'de> Visitor<'de> for Header {
    type Value = BTreeMap<String, TensorInfo>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut tensors = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            match tensors.entry(name) {
                Entry::Vacant(place) => {
                    place.insert(map.next_value()?);
                }
                Entry::Occupied(first) => {
                    let name = shown(first.key());
                    return Err(A::Error::custom(format!("{name} is there twice")));
                }
            }
        }
        Ok(tensors)
    }
}

fn byte_size(info: &TensorInfo) -> Option<usize> {
    let elements = info.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    let bits = elements.checked_mul(info.dtype.bitsize())?;
    (bits % 8 == 0).then_some(bits / 8)
}

fn stored(kind: Kind) -> Stored {
    match kind {
        Kind::F32 => Stored::Float(Dtype::F32),
        Kind::F16 => Stored::Float(Dtype::F16),
        Kind::BF16 => Stored::Float(Dtype::BF16),
        Kind::BOOL | Kind::U8 | Kind::I8 | Kind::U16 | Kind::I16 | Kind::U32 | Kind::I32 | Kind::U64 | Kind::I64 => {
            Stored::Integer(format!("{kind:?}"))
        }
        other => Stored::Unsupported(format!("{other:?}")),
    }
}

#[cfg(test)]
mod tests;
