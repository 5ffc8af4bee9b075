//! T5 on a CPU, inside your program: pure Rust, the tokens of transformers, the same bits on every machine.
//!
//! # A first answer
//!
//! ```text
//! cargo add tiny-t5 --features embedded
//! ```
//!
//! ```
//! # #[cfg(feature = "embedded")] {
//! use tiny_t5::{Generate, Load, T5};
//!
//! let t5 = T5::embedded(&Load::default())?; // a small real T5 in the library: English spelling to IPA
//! let answer = t5.generate("photosynthesis", &Generate::default())?;
//! assert_eq!(answer.text(), "ˌfoʊtoʊˈsɪnθəsəs");
//! # }
//! # Ok::<_, tiny_t5::Error>(())
//! ```
//!
//! # A checkpoint of yours
//!
//! A folder as it came from the hub, or a hub name whose files are in the local cache (`hf download google/flan-t5-small`).
//! Nothing is converted; safetensors, PyTorch .bin, shards, tokenizer.json and spiece.model are read as they are.
//!
//! ```no_run
//! # fn main() -> tiny_t5::Result<()> {
//! use tiny_t5::{Generate, T5};
//!
//! let t5 = T5::open("google/flan-t5-small")?;
//! let options = Generate { num_beams: Some(4), max_new_tokens: Some(64), ..Generate::default() };
//! let answer = t5.generate("translate English to German: The house is wonderful.", &options)?;
//! println!("{}", answer.text());
//! # Ok(())
//! # }
//! ```
//!
//! # What it does
//!
//! | task | call |
//! |---|---|
//! | a text or ids from each source: greedy, beams, sampling, under transformers' names | [`T5::generate`], [`T5::generate_batch`] |
//! | the same while it grows | [`T5::stream`] |
//! | hidden states, a sentence vector | [`T5::encode`], [`T5::embed`] |
//! | how likely a target is, its logits | [`T5::score`], [`T5::logits`] |
//! | re-ranking: one answer against another | [`T5::answer_probability`] |
//! | labels, spans of answers | [`T5::classify`] |
//! | gaps of a text | [`T5::infill`] |
//! | what it is and costs | [`T5::config`], [`T5::parameters`], [`T5::flops`] |
//! | any shape with random weights, to measure it | [`T5::random`] |
//! | a search of your own: encoder, decoder, caches | [`lowlevel`] |
//! | what this machine can do at most, what a shape would take | [`Machine`], [`Calibration`] |
//! | text to ids and back | [`T5::tokenizer`], [`tokenizer::Tokenizer`] |
//!
//! What a task gives is plain data, with serde's `Serialize`. A [`Source`] is a text or a list of ids, so everything works without a
//! tokenizer. Each call has its options in one plain struct, [`Generate`]; what it leaves out is what the checkpoint says, and then
//! transformers' default.
//!
//! # Threads
//!
//! [`T5`] is `Send + Sync`, works through `&self`, and a clone is the same model. A call uses [`T5::threads`] threads:
//! workers of the rayon pool that it is called in, or else of the library's own; [`T5::with_threads`] of 1 touches no pool. For many short
//! requests at once one thread a call and as many calls as processors do most; two threads make one long call nearly twice as fast, and
//! may make one of a millisecond slower.
//! Loading uses them, too. On Linux a worker of the library's own pool that finds itself on its caller's processor moves to
//! another one (`sched_setaffinity`, for a moment), unless a seccomp filter is on.
//! A [`Session`] keeps the buffers of one worker, and can be told to stop. Built without optimisation, a call takes up to 1 MB of the
//! stack of its thread.
//!
//! # Errors
//!
//! Every call gives a [`Result`]; an [`Error`] is one line that names the file, the tensor or the option, what was found and
//! what was expected. Nothing panics on a file, an option or a source; nothing is printed. One environment variable is read
//! when a model is loaded: `TINY_T5_ISA`, the name of a lower instruction set, for comparing. Hub names are looked up where
//! `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME` or `HOME` say.
//!
//! # Features
//!
//! | feature | default | |
//! |---|---|---|
//! | `tokenizer` | yes | tokenizer.json files that are not T5's own go through the `tokenizers` crate; T5's, spiece.model and bytes are read without |
//! | `rayon` | yes | more than one thread |
//! | `mmap` | yes | weight files are mapped, not read |
//! | `embedded` | no | the English-to-IPA model, 7.7 MB: [`T5::embedded`] |
//!
//! # The way of the data
//!
//! ```text
//! text -> ids -> encoder -> cross K/V (once) -> [ decoder step over the KV cache -> logits -> next id ] -> ids -> text
//! ```
//!
//! Each arrow is a module. What holds always: in f32 the ids are transformers' ids, greedy and beam; and every number has the
//! same bits whatever the number of threads, the batch and the neighbours in it (samples depend on a source's place there), cached or
//! uncached decoding, and the instruction set.
//!
//! To add to it, see [`extending`]; complete programs are in `examples/`.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod cache;
mod calibration;
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
mod input;
mod kv_cache;
mod lm_head;
mod load;
pub mod lowlevel;
mod machine;
mod model;
mod numbers;
mod options;
mod random;
mod rank;
mod recent_rows;
mod relative_bias;
mod score;
mod sentence;
mod session;
mod sources;
mod stack;
mod stream;
mod t5;
pub mod tokenizer;
mod weights;

#[doc = include_str!("../docs/EXTENDING.md")]
pub mod extending {}

pub use calibration::{Calibration, Prediction, Share};
pub use classify::Classification;
pub use complexity::{DecodedToken, FORMULAS, Flops, Parameters};
pub use embed::{Encoding, normalized};
pub use error::{Error, Result};
pub use family::{Shape, family};
pub use generate::{Choices, Chosen, Context, Custom, Finish, Timings, TokenLogprob};
pub use infill::Infilled;
pub use input::Source;
pub use load::{Dtype, Load};
pub use machine::{Machine, Memory, StepBytes, processor};
pub use options::{EarlyStopping, Generate, OneOrMany, Speculation};
pub use score::{Logits, Score};
/// The version whose `Value` options are set with, and configurations are read as.
pub use serde_json;
pub use session::Session;
pub use stream::{Step, Stream};
pub use t5::{Generated, Sequence, T5};
pub use tiny_t5_checkpoint::{Activation, Architecture, Config, Error as CheckpointError, ModelType};
pub use tiny_t5_kernels::UnknownIsa;
