//! T5 on a CPU, inside your program: pure Rust, the tokens of transformers, the same bits on every machine.
//!
//! ```no_run
//! # fn main() -> tiny_t5::Result<()> {
//! use tiny_t5::{Generate, T5};
//!
//! let t5 = T5::open("path/to/flan-t5-small")?; // a checkpoint folder as it came from the hub, or a hub name in the local cache
//! let answer = t5.generate("translate English to German: The house is wonderful.", &Generate::default())?;
//! println!("{}", answer.text());
//! # Ok(())
//! # }
//! ```
//!
//! The way of the data, each arrow a module:
//!
//! ```text
//! text -> ids -> encoder -> cross K/V (once) -> [ decoder step over the KV cache -> logits -> next id ] -> ids -> text
//! ```
//!
//! What holds always: in f32 the ids are transformers' ids, greedy and beam; and every number has the same bits whatever
//! the number of threads, the batch and the neighbours in it, cached or uncached decoding, and the instruction set.

#![forbid(unsafe_code)]

mod cache;
mod classify;
mod complexity;
mod decoder;
mod desk;
mod embed;
#[cfg(feature = "embedded")]
mod embedded;
mod encoder;
mod error;
mod family;
mod generate;
mod infill;
mod info;
mod kv_cache;
mod lm_head;
mod model;
mod options;
mod rank;
mod relative_bias;
mod score;
mod sentence;
mod session;
mod stack;
mod stream;
mod t5;
pub mod tokenizer;
mod weights;

pub use classify::Classification;
pub use complexity::{DecodedToken, FORMULAS, Flops, Parameters};
pub use embed::{Encoding, normalized};
pub use error::{Error, Result};
pub use family::{Shape, family};
pub use generate::{Choices, Chosen, Context, Custom, Finish, Timings, TokenLogprob};
pub use infill::Infilled;
pub use options::{Dtype, EarlyStopping, Generate, Load, OneOrMany, Speculation};
pub use score::{Logits, Score};
pub use session::Session;
pub use stream::{Step, Stream};
pub use t5::{Generated, Sequence, Source, T5};
pub use tiny_t5_checkpoint::{Activation, Architecture, Config, ModelType};
