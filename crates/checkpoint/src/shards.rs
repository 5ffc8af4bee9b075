//! The index of weights in shards: which files to open.
//!
//! `{"metadata": {..}, "weight_map": {"tensor": "file", ..}}`. The files decide what is there: an index may list tied
//! tensors that no shard holds, which is no error until somebody needs them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use serde::Deserialize;

use crate::bytes;
use crate::error::{Error, shown};

/// Bytes of an index; one tensor needs about 100.
const LARGEST: u64 = 4 << 20;
/// Each shard is a mapping of its own, of which systems allow some ten thousands.
const MOST_SHARDS: usize = 1024;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The names of the shards that the index at `path` lists, sorted; each lies beside the index.
pub(crate) fn list(path: &Path, file: &str) -> Result<Vec<String>, Error> {
    let index: Index = bytes::read_object(path, file, LARGEST)?;
    let mut names = BTreeSet::new();
    for (tensor, name) in index.weight_map {
        if !is_plain(&name) {
            let what = format!("the shard of {}", shown(&tensor));
            let found = format!("\"{}\"", shown(&name));
            return Err(Error::malformed(file, what, found, "the name of a file in the same folder"));
        }
        names.insert(name);
    }
    if names.is_empty() {
        return Err(Error::malformed(file, "weight_map", "empty", "tensors and their shards"));
    }
    if names.len() > MOST_SHARDS {
        let (found, limit) = (names.len() as u64, MOST_SHARDS as u64);
        return Err(Error::too_large(file, "the number of shards", found, limit));
    }
    Ok(names.into_iter().collect())
}

/// Whether a name is a sensible one and cannot lead out of its folder on any system. Links are the file system's business: the hub's cache is
/// made of them.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let one_part = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    let plain = |c: char| !c.is_control() && !matches!(c, '/' | '\\' | ':');
    one_part && name.len() <= 255 && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_plain_names_that_lead_elsewhere_are_refused() {
        for name in ["", ".", "..", "../x", "/x", "a/b", "a\\b", "C:x", "x/", "a\0b", "a\nb", &"a".repeat(256)] {
            assert!(!is_plain(name), "{name:?}");
        }
        assert!(is_plain("model-00001-of-00002.safetensors"));
    }
}
