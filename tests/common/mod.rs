//! What several test programs use: where the data is, how a file of it is read, and checkpoints made from it.

#![allow(dead_code)] // no program uses all of it

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
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

/// A safetensors checkpoint of `tests/data` in memory, to be changed and written somewhere else.
pub struct Folder {
    pub config: Map<String, Value>,
    /// The text of generation_config.json, if there shall be one.
    pub generation_config: Option<String>,
    pub tensors: BTreeMap<String, Stored>,
    written: TempDir,
}

/// A tensor as a safetensors file has it.
#[derive(Clone)]
pub struct Stored {
    pub dtype: String,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Stored {
    pub fn of(shape: &[usize], numbers: &[f32]) -> Stored {
        assert_eq!(shape.iter().product::<usize>(), numbers.len());
        let bytes = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        Stored { dtype: "F32".to_owned(), shape: shape.to_owned(), bytes }
    }
}

impl Folder {
    pub fn of(folder: &str) -> Folder {
        let from = data(folder);
        let file = std::fs::read(from.join("model.safetensors")).unwrap();
        let (length, rest) = file.split_first_chunk::<8>().unwrap();
        let (header, content) = rest.split_at(u64::from_le_bytes(*length) as usize);
        let header: Map<String, Value> = serde_json::from_slice(header).unwrap();
        let tensor = |(name, info): (&String, &Value)| {
            let [from, to] = serde_json::from_value::<[usize; 2]>(info["data_offsets"].clone()).unwrap();
            let stored = Stored {
                dtype: info["dtype"].as_str().unwrap().to_owned(),
                shape: serde_json::from_value(info["shape"].clone()).unwrap(),
                bytes: content[from..to].to_vec(),
            };
            (name.clone(), stored)
        };
        let Value::Object(config) = json(&from.join("config.json")) else { panic!("{folder}: config.json") };
        Folder {
            config,
            generation_config: None,
            tensors: header.iter().filter(|(name, _)| *name != "__metadata__").map(tensor).collect(),
            written: tempfile::tempdir().unwrap(),
        }
    }

    /// With a key of config.json changed, or with null taken away.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Folder {
        match value.into() {
            Value::Null => self.config.remove(key),
            value => self.config.insert(key.to_owned(), value),
        };
        self
    }

    /// Without a tensor, which must be there.
    #[must_use]
    pub fn without(mut self, tensor: &str) -> Folder {
        assert!(self.tensors.remove(tensor).is_some(), "{tensor}");
        self
    }

    /// With a tensor more, or in place of another.
    #[must_use]
    pub fn with_tensor(mut self, name: &str, tensor: Stored) -> Folder {
        self.tensors.insert(name.to_owned(), tensor);
        self
    }

    #[must_use]
    pub fn with_generation_config(mut self, text: impl Into<String>) -> Folder {
        self.generation_config = Some(text.into());
        self
    }

    /// Writes the files; they live as long as this.
    pub fn write(&self) -> &Path {
        let (mut header, mut content) = (Map::new(), Vec::new());
        for (name, Stored { dtype, shape, bytes }) in &self.tensors {
            let offsets = [content.len(), content.len() + bytes.len()];
            content.extend_from_slice(bytes);
            header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
        }
        let header = serde_json::to_vec(&header).unwrap();
        let weights = [&(header.len() as u64).to_le_bytes()[..], &header, &content].concat();
        let path = self.written.path();
        std::fs::write(path.join("config.json"), serde_json::to_vec(&self.config).unwrap()).unwrap();
        std::fs::write(path.join("model.safetensors"), weights).unwrap();
        if let Some(text) = &self.generation_config {
            std::fs::write(path.join("generation_config.json"), text).unwrap();
        }
        path
    }

    /// Where the files are, once they are written.
    pub fn path(&self) -> &Path {
        self.written.path()
    }

    pub fn open(&self) -> tiny_t5::Result<T5> {
        T5::open(self.write())
    }
}

/// Pseudo-random numbers between -1 and 1, the same for each seed.
pub fn noise(mut seed: u64) -> impl Iterator<Item = f32> {
    std::iter::repeat_with(move || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 40) as f32 / (1 << 23) as f32 - 1.0
    })
}

/// A T5 with a vocabulary of 20,000, so that its output matrix is large enough (2^20 weights) for greedy search to go
/// through the screen. Many rows of the matrix are equal or differ in a last bit, so that largest logits are ties.
pub fn many_words() -> Folder {
    const WORDS: usize = 20_000;
    let folder = Folder::of("goldens/v1_1-gated-gelu-untied").with("vocab_size", WORDS);
    let matrix = |seed| {
        let mut rows: Vec<f32> = noise(seed).take(WORDS * 64).collect();
        for row in (0..WORDS).filter(|row| row % 5 > 2) {
            let (before, row) = rows.split_at_mut(row * 64);
            row[..64].copy_from_slice(&before[before.len() - 3 * 64..][..64]);
        }
        rows.iter_mut().step_by(7 * 64).for_each(|x| *x = f32::from_bits(x.to_bits() ^ 1));
        Stored::of(&[WORDS, 64], &rows)
    };
    folder.with_tensor("shared.weight", matrix(1)).with_tensor("lm_head.weight", matrix(2))
}
