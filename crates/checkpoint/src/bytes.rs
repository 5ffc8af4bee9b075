//! The bytes of a weight file, wherever they lie: mapped, read, or part of the program.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::ops::{Deref, Range};
use std::path::Path;

use crate::Error;
use crate::error::shown;

/// How a file of weights gets into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Mapped; without the feature `mmap` read.
    Map,
    Read,
}

/// All bytes of one file.
pub(crate) enum Bytes {
    #[cfg(feature = "mmap")]
    Mapped(crate::mmap::Map),
    Owned(Box<dyn AsRef<[u8]> + Send + Sync>),
    Static(&'static [u8]),
}

impl Bytes {
    /// The whole file at `path`, and what the system says about it.
    pub(crate) fn open(path: &Path, access: Access) -> Result<(Bytes, Metadata), Error> {
        let file = open_regular(path)?;
        let metadata = file.metadata().map_err(io_error(path))?;
        let bytes = match access {
            #[cfg(feature = "mmap")]
            Access::Map => crate::mmap::Map::new(file).map(Bytes::Mapped),
            _ => read_all(file, metadata.len()),
        };
        Ok((bytes.map_err(io_error(path))?, metadata))
    }

    /// Whether they lie in memory of their own.
    pub(crate) fn is_owned(&self) -> bool {
        matches!(self, Bytes::Owned(_))
    }

    /// Gives the pages of mapped bytes back to the system; they are read again when touched.
    #[cfg_attr(not(feature = "mmap"), expect(unused_variables))]
    pub(crate) fn release(&self, range: Range<usize>) {
        match self {
            #[cfg(feature = "mmap")]
            Bytes::Mapped(map) => map.release(range),
            Bytes::Owned(_) | Bytes::Static(_) => {}
        }
    }

    /// As many bytes as `buffer` has, from `offset` on: of a mapped file they are read into it, past the mapping.
    ///
    /// # Panics
    /// Where there are not as many.
    pub(crate) fn read<'b>(&'b self, offset: usize, buffer: &'b mut [u8]) -> &'b [u8] {
        let bytes = &self[offset..][..buffer.len()];
        match self {
            #[cfg(feature = "mmap")]
            Bytes::Mapped(map) if map.read_at(offset, buffer) => buffer,
            _ => bytes,
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            #[cfg(feature = "mmap")]
            Bytes::Mapped(map) => map,
            Bytes::Owned(all) => (**all).as_ref(),
            Bytes::Static(all) => all,
        }
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

/// The bytes of a file that lies beside the weights, such as a tokenizer's, mapped or read as those of [`Checkpoint::open`] and
/// [`Checkpoint::read`] are: a mapped file must not be shortened or rewritten while its bytes live. A process that looks at 2.4 MB once
/// takes 0.9 ms less where they are mapped (Zen 5).
///
/// # Errors
/// Where it cannot be opened or read, or is no regular file.
///
/// [`Checkpoint::open`]: crate::Checkpoint::open
/// [`Checkpoint::read`]: crate::Checkpoint::read
pub fn file_beside(path: &Path, mapped: bool) -> io::Result<impl AsRef<[u8]> + use<>> {
    let access = if mapped { Access::Map } else { Access::Read };
    Bytes::open(path, access).map(|(bytes, _)| bytes).map_err(|error| match error {
        Error::Io { source, .. } => source,
        other => io::Error::other(other),
    })
}

/// Reads a file; that there is no memory for it is an error as any other.
fn read_all(mut file: File, size: u64) -> io::Result<Bytes> {
    let mut all = Vec::new();
    all.try_reserve_exact(usize::try_from(size).unwrap_or(usize::MAX)).map_err(|_| io::ErrorKind::OutOfMemory)?;
    // Not more than there is room for, should the file grow meanwhile.
    file.by_ref().take(size).read_to_end(&mut all)?;
    Ok(Bytes::Owned(Box::new(all)))
}

/// A text file of at most `limit` bytes; `file` is its name in messages.
pub(crate) fn read_text(path: &Path, file: &str, limit: u64) -> Result<String, Error> {
    let mut text = Vec::new();
    open_regular(path)?
        .take(limit.saturating_add(1)) // not the size of the metadata, which can change
        .read_to_end(&mut text)
        .map_err(io_error(path))?;
    let found = text.len() as u64;
    if found > limit {
        return Err(Error::too_large(file, "its size in bytes", found, limit));
    }
    String::from_utf8(text).map_err(|e| Error::Json {
        file: file.to_owned(),
        reason: format!("not UTF-8 after byte {}", e.utf8_error().valid_up_to()),
    })
}

/// What a JSON file holds, which is an object: to serde a list of the same values would do as well.
pub(crate) fn read_object<T: serde::de::DeserializeOwned>(path: &Path, file: &str, limit: u64) -> Result<T, Error> {
    let text = read_text(path, file, limit)?;
    if !text.trim_ascii_start().starts_with('{') {
        let begin: String = text.trim_ascii_start().chars().take(16).collect();
        return Err(Error::Json {
            file: file.to_owned(),
            reason: format!("found \"{}\", expected an object", shown(&begin)),
        });
    }
    serde_json::from_str(&text).map_err(|e| Error::json(file, e))
}

/// Opens a file, but no pipe, device or folder: opening a pipe would wait, and mapping a folder says nothing useful.
fn open_regular(path: &Path) -> Result<File, Error> {
    let metadata = std::fs::metadata(path).map_err(io_error(path))?;
    if !metadata.is_file() {
        let why = io::Error::other("is not a regular file");
        return Err(io_error(path)(why));
    }
    File::open(path).map_err(io_error(path))
}

pub(crate) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    |source| Error::Io { path: path.display().to_string(), source }
}
