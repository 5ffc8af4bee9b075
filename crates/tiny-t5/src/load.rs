//! How a model is loaded: from a folder, a hub name or memory.

use crate::error::Result;
use crate::t5::T5;
use crate::tokenizer::{Hint, Tokenizer};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tiny_t5_checkpoint::{Checkpoint, file_beside, names};

/// How wide weights are kept. Computing is in f32 always.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// Exact: the checkpoint's own precision.
    #[default]
    Auto,
    /// Exact, as `Auto`: f32 weights that are all bf16 or f16 numbers are kept at 2 bytes, which changes no bit.
    F32,
    /// Weights rounded to bfloat16.
    Bf16,
    /// Weights rounded to f16, but for matrices with numbers that f16 does not reach.
    F16,
    /// Weights quantised to 8 bits with a scale a row, inputs of products too, the decoder's keys and values in half precision: the
    /// fastest, and not exact. Of the embedded model's 6,342 test words 31.91 % are wrong, as in f32.
    /// Matrices that would lose too much are kept at 16 bits, the rest of the model at the checkpoint's precision.
    Int8,
}

/// How a model is loaded.
///
/// More fields will come: end a literal with `..Load::default()`, and it stays valid.
///
/// ```
/// use tiny_t5::{Dtype, Load};
/// let load = Load { dtype: Dtype::Int8, threads: Some(2), ..Load::default() };
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Load {
    /// How wide weights are kept.
    pub dtype: Dtype,
    /// Threads of a call; the processors that this process may use, where absent; at most 1024.
    pub threads: Option<usize>,
    /// Tokens that a source may have, its end token included; 16384 where absent.
    pub max_source_tokens: Option<usize>,
    /// A folder where packed weights are kept, so that later starts pack nothing; made where it is absent. It takes about as much
    /// disk as the weights, an entry is made anew where the checkpoint changed, and the folder may be emptied at any time. Who may
    /// write there decides what the model computes, as with the checkpoint itself. Models from memory are not kept.
    pub cache: Option<PathBuf>,
    /// Read weight files and cache entries into memory instead of mapping them, and the tokenizer's. A mapped file must not be shortened or
    /// rewritten while the model lives, the tokenizer's while it is opened (renaming another into its place is fine): the system kills a
    /// process that reads behind a mapped file's new end (SIGBUS on Unix). Reading costs the time of a copy, and memory of the files' size
    /// while they load; the embedding stays in memory of the process.
    pub no_mmap: bool,
    /// Do not pack f32 weights that a source passes through once, of the encoder and of the keys and values of cross attention, but read
    /// them where they lie in the checkpoint: for a program that answers once and ends. Answers are the same to the bit, and an encoder
    /// pass takes some longer. The rule of `no_mmap` about mapped files then holds for these weights too, and without a mapping the
    /// file stays in memory. Nothing changes for weights of 2 bytes, with bf16, f16 and int8, and where there is a cache.
    pub in_place: bool,
}

/// Tokens that a source may have where [`Load::max_source_tokens`] does not say.
pub(crate) const MAX_SOURCE_TOKENS: usize = 16_384;

impl T5 {
    /// Opens a checkpoint folder, or a hub name such as `google/t5-efficient-tiny` whose files are in the local Hugging Face cache.
    ///
    /// ```
    /// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models/g2p-ipa");
    /// let t5 = tiny_t5::T5::open(folder)?; // or `"google/t5-efficient-tiny"`
    /// println!("{} blocks", t5.config().num_layers);
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// Where a file, a tensor or a key of config.json is not what it should be; the error names it.
    pub fn open(folder_or_name: impl AsRef<Path>) -> Result<T5> {
        T5::open_with(folder_or_name, &Load::default())
    }

    /// [`T5::open`] with options.
    ///
    /// ```
    /// use tiny_t5::{Dtype, Load, T5};
    ///
    /// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models/g2p-ipa");
    /// let load = Load { dtype: Dtype::Bf16, threads: Some(4), ..Load::default() };
    /// let t5 = T5::open_with(folder, &load)?;
    /// assert_eq!(t5.threads(), 4);
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`T5::open`].
    pub fn open_with(folder_or_name: impl AsRef<Path>, load: &Load) -> Result<T5> {
        let start = Instant::now();
        let path = folder_or_name.as_ref();
        let folder = match path.to_str() {
            Some(name) => names::resolve(name)?,
            None => path.to_owned(),
        };
        let checkpoint = if load.no_mmap { Checkpoint::read(&folder)? } else { Checkpoint::open(&folder)? };
        let config = checkpoint.config();
        let (class, vocab_size) = (config.tokenizer_class.clone(), config.vocab_size);
        let mapped = !load.no_mmap;
        let open_tokenizer = move || {
            let hint = Hint { tokenizer_class: class.as_deref(), vocab_size };
            Ok(Tokenizer::open_with(&folder, hint, |path| file_beside(path, mapped))?)
        };
        T5::assemble(Box::new(|_| Ok(checkpoint)), load, start, Box::new(open_tokenizer))
    }

    /// A model from memory: the contents of config.json, generation_config.json, model.safetensors and tokenizer.json or spiece.model.
    /// Bytes that are part of the program are used where they lie; a `Vec` is taken over. There are no modules of sentence-transformers, so
    /// that [`T5::embed`] gives the mean of the hidden states. Where a folder has a tokenizer_config.json too, or is ByT5's, make a
    /// [`Tokenizer`] and give it by [`T5::with_tokenizer`].
    ///
    /// ```
    /// use tiny_t5::{Generate, Load, T5};
    ///
    /// macro_rules! file {
    ///     ($include:ident, $name:literal) => {
    ///         $include!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/g2p-ipa/", $name)) // a folder of your crate
    ///     };
    /// }
    /// let (config, tokenizer) = (file!(include_str, "config.json"), file!(include_bytes, "tokenizer.json"));
    /// let t5 = T5::from_bytes(config, None, file!(include_bytes, "model.safetensors"), Some(tokenizer.into()), &Load::default())?;
    /// assert_eq!(t5.generate("hello", &Generate::default())?.text(), "həˈloʊ");
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`T5::open`].
    pub fn from_bytes(
        config: &str,
        generation_config: Option<&str>,
        weights: impl Into<Cow<'static, [u8]>>,
        tokenizer: Option<Cow<'static, [u8]>>,
        load: &Load,
    ) -> Result<T5> {
        let start = Instant::now();
        let checkpoint = match weights.into() {
            Cow::Borrowed(weights) => Checkpoint::from_bytes(config, generation_config, weights)?,
            Cow::Owned(weights) => Checkpoint::from_owned(config, generation_config, Box::new(weights))?,
        };
        let open_tokenizer = move || match tokenizer {
            Some(file) if file.trim_ascii_start().starts_with(b"{") => Ok(Some(Tokenizer::from_json(&file, None)?)),
            Some(file) => Ok(Some(Tokenizer::from_spiece(&file, None)?)),
            None => Ok(None),
        };
        T5::assemble(Box::new(|_| Ok(checkpoint)), load, start, Box::new(open_tokenizer))
    }
}
