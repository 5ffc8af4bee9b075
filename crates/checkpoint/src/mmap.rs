//! The only `unsafe` of this crate: mapping a weight file.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};

/// A file mapped for reading.
#[derive(Debug)]
pub(crate) struct Map {
    map: memmap2::Mmap,
    #[cfg_attr(not(unix), expect(dead_code))]
    file: File,
}

impl Map {
    pub(crate) fn new(file: File) -> io::Result<Map> {
        // SAFETY: read-only and owned by `self`, so borrows end before it is unmapped. That nobody shortens or rewrites the file meanwhile
        // is what callers of `Checkpoint::open` and `file_beside` guarantee, as their docs ask; Rust cannot enforce it. Writers that rename
        // a finished file into place (safetensors, huggingface_hub) keep the guarantee, since the mapped inode stays as it was.
        let map = unsafe { memmap2::Mmap::map(&file) }?;
        Ok(Map { map, file })
    }

    /// Reads bytes from the file itself, which brings no page of the mapping; false where that cannot be done.
    #[cfg(unix)]
    pub(crate) fn read_at(&self, offset: usize, buffer: &mut [u8]) -> bool {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, buffer, offset as u64).is_ok()
    }

    #[cfg(not(unix))]
    pub(crate) fn read_at(&self, _: usize, _: &mut [u8]) -> bool {
        false
    }

    /// Drops the pages of some bytes from this process; the next access reads them again from the file.
    #[cfg_attr(not(unix), expect(unused_variables))]
    pub(crate) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        {
            let advise = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: MADV_DONTNEED is unsafe because it can discard what was written to private or anonymous memory.
            // This map was made by `Map::new`: shared, read-only and backed by a file, so a later access sees the
            // file's bytes again, which the caller of `Checkpoint::open` guarantees not to change.
            let advised = unsafe { self.map.unchecked_advise_range(advise, range.start, range.len()) };
            drop(advised); // only advice: a system that refuses it loses nothing but memory
        }
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}
