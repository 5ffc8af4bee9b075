//! A checkpoint folder: config.json, and the weights in whichever of the released forms they lie.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::bytes::{self, Access, Bytes};
use crate::config::{self, Config};
use crate::error::Error;
use crate::tensors::{Found, Tensor, Tensors};
use crate::{pytorch, safetensors, shards};

const GENERATION_CONFIG: &str = "generation_config.json";
/// Bytes of a generation_config.json: lists of suppressed tokens reach tens of kilobytes.
const LARGEST_GENERATION_CONFIG: u64 = 1 << 20;

/// Reads the tensors of one weight file: its name in messages, its bytes.
type Reader = fn(&str, &Bytes) -> Result<Vec<Found>, Error>;

/// The forms that weights lie in, in order of preference; the name of the single file, of the shards' index, the reader.
const FORMS: [(&str, &str, Reader); 2] = [
    ("model.safetensors", "model.safetensors.index.json", |file, bytes| safetensors::read(file, bytes)),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", pytorch::read),
];

/// A T5 checkpoint, opened: its configuration and checked views of its weights.
pub struct Checkpoint {
    dir: Option<PathBuf>,
    config: Config,
    generation_config: Option<String>,
    /// The weight file, or the index of its shards, for messages about what is missing.
    weights: String,
    pub(crate) access: Access,
    pub(crate) tensors: Tensors,
}

impl Checkpoint {
    /// Opens the checkpoint in the folder `dir`.
    ///
    /// Weights are taken from the first that exists of `model.safetensors`, `model.safetensors.index.json` (shards),
    /// `pytorch_model.bin`, `pytorch_model.bin.index.json` (shards). They are mapped (feature `mmap`), so nobody may
    /// shorten or rewrite the weight files while the checkpoint lives; replacing them by renaming is fine. The system kills
    /// a process that reads a mapped file behind its new end (SIGBUS on Unix); where others may write to the folder, use
    /// [`Checkpoint::read`].
    ///
    /// # Errors
    /// Any [`Error`], before a single number is read: the files' structure is checked as a whole.
    pub fn open(dir: &Path) -> Result<Checkpoint, Error> {
        Checkpoint::open_as(dir, Access::Map)
    }

    /// [`Checkpoint::open`] with weights that are read into memory, not mapped: what happens to the files afterwards changes
    /// nothing. Takes memory of the files' size until [`Checkpoint::keep`].
    ///
    /// # Errors
    /// As for [`Checkpoint::open`].
    pub fn read(dir: &Path) -> Result<Checkpoint, Error> {
        Checkpoint::open_as(dir, Access::Read)
    }

    fn open_as(dir: &Path, access: Access) -> Result<Checkpoint, Error> {
        match std::fs::metadata(dir) {
            Ok(metadata) if metadata.is_dir() => {}
            other => {
                return Err(Error::NoFolder {
                    path: dir.display().to_string(),
                    found: if other.is_ok() { "is a file" } else { "no such folder" },
                });
            }
        }
        let text = bytes::read_text(&dir.join(config::FILE), config::FILE, config::LARGEST)?;
        let config = Config::parse(&text)?;
        let generation_path = dir.join(GENERATION_CONFIG);
        let generation_config = match generation_path.exists() {
            true => Some(bytes::read_text(&generation_path, GENERATION_CONFIG, LARGEST_GENERATION_CONFIG)?),
            false => None,
        };
        let (weights, tensors) = open_weights(dir, "", access)?;
        Ok(Checkpoint::new(Some((dir, access)), config, generation_config, weights, tensors))
    }

    /// A checkpoint from memory, such as one that is part of the program: the texts of config.json and, if there is
    /// one, generation_config.json, and the bytes of one safetensors file. The weights are not copied.
    ///
    /// # Errors
    /// As for [`Checkpoint::open`].
    pub fn from_bytes(
        config: &str,
        generation_config: Option<&str>,
        weights: &'static [u8],
    ) -> Result<Checkpoint, Error> {
        Checkpoint::in_memory(config, generation_config, Bytes::Static(weights))
    }

    /// [`Checkpoint::from_bytes`] of weights that the checkpoint owns, and can let go: [`Checkpoint::keep`].
    ///
    /// # Errors
    /// As for [`Checkpoint::open`].
    pub fn from_owned(
        config: &str,
        generation_config: Option<&str>,
        weights: Box<dyn AsRef<[u8]> + Send + Sync>,
    ) -> Result<Checkpoint, Error> {
        Checkpoint::in_memory(config, generation_config, Bytes::Owned(weights))
    }

    fn in_memory(config: &str, generation_config: Option<&str>, weights: Bytes) -> Result<Checkpoint, Error> {
        let file = FORMS[0].0;
        let config = Config::parse(config)?;
        let mut tensors = Tensors::default();
        let found = safetensors::read(file, &weights)?;
        tensors.add(file, weights, None, found)?;
        let generation_config = generation_config.map(str::to_owned);
        Ok(Checkpoint::new(None, config, generation_config, file.to_owned(), tensors))
    }

    fn new(
        from: Option<(&Path, Access)>,
        mut config: Config,
        generation_config: Option<String>,
        weights: String,
        tensors: Tensors,
    ) -> Checkpoint {
        let has_decoder = tensors.names().any(|name| name.starts_with("decoder.block."));
        config.settle_architecture(|name| tensors.contains(name), has_decoder);
        let (dir, access) = from.unzip();
        let access = access.unwrap_or(Access::Read);
        Checkpoint { dir: dir.map(Path::to_owned), config, generation_config, weights, access, tensors }
    }

    /// What config.json says.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The text of generation_config.json, unparsed, if there is one.
    pub fn generation_config(&self) -> Option<&str> {
        self.generation_config.as_deref()
    }

    /// The folder; `None` for [`Checkpoint::from_bytes`].
    pub fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    /// The tensor `name` with exactly this `shape`. `why` says in an error where the shape comes from, such as
    /// `num_heads 4 * d_kv 64, d_model 256 in config.json`; it may be empty.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Shape`] or [`Error::Dtype`].
    pub fn tensor(&self, name: &str, shape: &[usize], why: &str) -> Result<Tensor<'_>, Error> {
        self.tensors.expect(&self.weights, name, shape, why)
    }

    /// The tensor `name`, whatever its shape; `None` where there is none, or one of integers.
    pub fn find(&self, name: &str) -> Option<Tensor<'_>> {
        self.tensors.find(name)
    }

    /// The canonical names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.names()
    }

    /// Bytes of the weight files.
    pub fn bytes_on_disk(&self) -> u64 {
        self.tensors.bytes_on_disk()
    }

    /// Gives the memory of mapped weights back to the system, as after packing them; views stay valid, and are read
    /// from the file again when touched. Does nothing where the weights are not mapped.
    pub fn release(&self) {
        self.tensors.release();
    }

    /// Lets go of weights that lie in memory of their own, but for the tensors `names`, as after packing; the others are no longer
    /// there. Weights that are mapped or part of the program stay; copies of tensors that are not contiguous in their file go.
    pub fn keep(&mut self, names: &[&str]) {
        self.tensors.keep(names);
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("dir", &self.dir)
            .field("config", &self.config)
            .field("tensors", &self.names().count())
            .finish_non_exhaustive()
    }
}

/// The first form of weights that the folder has: the name for messages, which begins with `shown`, and the tensors.
pub(crate) fn open_weights(dir: &Path, shown: &str, access: Access) -> Result<(String, Tensors), Error> {
    for (single, index, read) in FORMS {
        let (name, files) = if dir.join(single).exists() {
            (single, vec![single.to_owned()])
        } else if dir.join(index).exists() {
            (index, shards::list(&dir.join(index), index)?)
        } else {
            continue;
        };
        let mut tensors = Tensors::default();
        for file in files {
            let path = dir.join(&file);
            let (bytes, metadata) = Bytes::open(&path, access)?;
            let file = format!("{shown}{file}");
            if bytes.starts_with(b"version https://git-lfs") {
                return Err(Error::malformed(
                    &file,
                    "its content",
                    "a Git LFS pointer",
                    "weights (run `git lfs pull`)",
                ));
            }
            let found = read(&file, &bytes)?;
            tensors.add(&file, bytes, Some((path, metadata)), found)?;
        }
        return Ok((format!("{shown}{name}"), tensors));
    }
    let looked_for: Vec<_> = FORMS.iter().flat_map(|(single, index, _)| [*single, *index]).collect();
    Err(Error::NoWeights {
        dir: dir.display().to_string(),
        looked_for: looked_for.join(", "),
        also: other_weights(dir),
    })
}

/// Weight files of other tools, so that a user sees what the folder is.
fn other_weights(dir: &Path) -> String {
    const SUFFIXES: [&str; 7] = [".msgpack", ".h5", ".gguf", ".onnx", ".ot", ".safetensors", ".bin"];
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<_> = names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| SUFFIXES.iter().any(|suffix| name.ends_with(suffix)))
        .map(|name| crate::error::shown(&name))
        .take(8)
        .collect();
    found.sort();
    match found.is_empty() {
        true => String::new(),
        false => format!("; {} cannot be read here", found.join(", ")),
    }
}
