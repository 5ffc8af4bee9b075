//! What several test programs use: where the data is, and how a file of it is read.

#![allow(dead_code)] // no program uses all of it

use serde_json::Value;
use std::path::{Path, PathBuf};
use tiny_t5::T5;

/// A path below `tests/data`.
pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(name)
}

pub fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub fn ids(v: &Value) -> Vec<u32> {
    serde_json::from_value(v.clone()).unwrap()
}

#[track_caller]
pub fn open(folder: &str) -> T5 {
    T5::open(data(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"))
}

/// The sources of a folder's cases.json.
pub fn sources(folder: &str) -> Vec<Vec<u32>> {
    let file = json(&data(folder).join("cases.json"));
    file["cases"].as_array().unwrap().iter().map(|case| ids(&case["input_ids"])).collect()
}
