//! What a T5 checkpoint folder holds, as checked views. Knows no arithmetic.
//!
//! ```no_run
//! # fn main() -> Result<(), tiny_t5_checkpoint::Error> {
//! use tiny_t5_checkpoint::{Checkpoint, names};
//!
//! let checkpoint = Checkpoint::open(&names::resolve("google/t5-efficient-tiny")?)?;
//! let config = checkpoint.config();
//! let shape = [config.vocab_size, config.d_model];
//! let embedding = checkpoint.tensor("shared.weight", &shape, "vocab_size, d_model in config.json")?;
//! println!("{} in {}: {:?}", embedding.name, embedding.file, embedding.dtype);
//! # Ok(())
//! # }
//! ```
//!
//! Reading order: [`Checkpoint`] finds the files, [`Config`] checks config.json, `safetensors` and `pytorch` turn a
//! weight file into tensors. A file is checked as a whole before anyone reads a number through it; no input makes this
//! crate panic, run anything, or take more memory than the files' size
//! and 64 MB (twice the size for a `.bin` whose tensors are not contiguous, since those are copied).

#![deny(missing_docs)]

#[cfg(target_endian = "big")]
compile_error!("tiny-t5 reads weights as they lie in their files, little endian: big-endian targets are not supported");

mod bytes;
mod checkpoint;
mod config;
mod error;
#[cfg(feature = "mmap")]
mod mmap;
mod modules;
pub mod names;
mod panel_cache;
mod pytorch;
mod safetensors;
mod shards;
mod tensors;

pub use bytes::file_beside;
pub use checkpoint::Checkpoint;
pub use config::{Activation, Architecture, Config, ModelType};
pub use error::Error;
pub use modules::{Dense, Modules};
pub use panel_cache::{PanelCache, Panels, Sum};
pub use tensors::{Dtype, SharedBytes, Tensor};
