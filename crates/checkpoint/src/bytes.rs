//! The bytes of a weight file, wherever they lie: mapped, read, or part of the program.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::ops::Deref;
use std::path::Path;

use crate::Error;

/// All bytes of one file.
pub(crate) enum Bytes {
    #[cfg(feature = "mmap")]
    Mapped(crate::mmap::Map),
    Owned(Box<dyn AsRef<[u8]> + Send + Sync>),
    Static(&'static [u8]),
}

impl Bytes {
    /// The whole file at `path`: mapped with the feature `mmap`, else read.
    pub(crate) fn open(path: &Path) -> Result<Bytes, Error> {
        Bytes::open_with_metadata(path).map(|(bytes, _)| bytes)
    }

    /// [`Bytes::open`], and what the system says about the file that was opened.
    pub(crate) fn open_with_metadata(path: &Path) -> Result<(Bytes, Metadata), Error> {
        let file = open_regular(path)?;
        let metadata = file.metadata().map_err(io_error(path))?;
        #[cfg(feature = "mmap")]
        let bytes = crate::mmap::Map::new(&file).map(Bytes::Mapped);
        #[cfg(not(feature = "mmap"))]
        let bytes = {
            let mut file = file;
            let mut all = Vec::new();
            file.read_to_end(&mut all).map(|_| Bytes::Owned(Box::new(all)))
        };
        Ok((bytes.map_err(io_error(path))?, metadata))
    }

    /// Gives mapped pages back to the system; they are read again when touched.
    pub(crate) fn release(&self) {
        match self {
            #[cfg(feature = "mmap")]
            Bytes::Mapped(map) => map.release(),
            Bytes::Owned(_) | Bytes::Static(_) => {}
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

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
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
