//! Keys of config.json by type, each checked against what is possible.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::FILE;
use crate::error::{Error, shown};

/// Typed access to the keys; `null` is absent.
pub(super) struct Keys<'a>(pub(super) &'a Map<String, Value>);

impl<'a> Keys<'a> {
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn number(&self, key: &str, range: RangeInclusive<u64>, default: u64) -> Result<u64, Error> {
        let wrong = |found: String| keys_error(key, found, format!("{} to {}", range.start(), range.end()));
        match self.get(key) {
            None if range.contains(&default) => Ok(default),
            None => Err(wrong(format!("{default} (the default)"))),
            Some(found) => found.as_u64().filter(|n| range.contains(n)).ok_or_else(|| wrong(value(found))),
        }
    }

    pub(super) fn epsilon(&self, key: &str, default: f32) -> Result<f32, Error> {
        match self.get(key) {
            None => Ok(default),
            Some(found) => match found.as_f64() {
                Some(epsilon) if (0.0..=1.0).contains(&epsilon) => Ok(epsilon as f32),
                _ => Err(keys_error(key, value(found), "a number from 0 to 1")),
            },
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(keys_error(key, value(other), "true or false")),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(keys_error(key, value(other), "a string")),
        }
    }

    /// An id or a list of ids.
    pub(super) fn ids(&self, key: &str, default: u32) -> Result<Vec<u32>, Error> {
        let found = match self.get(key) {
            None => return Ok(vec![default]),
            Some(Value::Array(ids)) => ids.as_slice(),
            Some(id) => std::slice::from_ref(id),
        };
        let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
        let wrong = |id: &Value| keys_error(key, value(id), format!("an id, 0 to {}, or a list of ids", u32::MAX));
        found.iter().map(|v| id(v).ok_or_else(|| wrong(v))).collect()
    }
}

pub(super) fn keys_error(key: &str, found: impl ToString, expected: impl Into<String>) -> Error {
    Error::Config { file: FILE.to_owned(), key: key.to_owned(), found: found.to_string(), expected: expected.into() }
}

/// A JSON value for a message; a large one only by its type.
pub(super) fn value(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => quoted(text),
        other => other.to_string(),
    }
}

pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", shown(text))
}
