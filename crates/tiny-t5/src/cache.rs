//! The panel cache as the engine uses it: sums on all threads, and an entry that cannot be written while a model is loaded is a note;
//! later ones, of what is packed on first use, fail in silence.

use crate::error::{Error, Result, one_line};
use crate::load::Dtype;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use tiny_t5_checkpoint::{Checkpoint, PanelCache, Panels};
use tiny_t5_kernels::{Arena, Team};
use twox_hash::XxHash3_128;

/// Counts up with every change of what packed bytes mean, or are made from: panels, their order, the rows that scales come from.
const LAYOUT: u32 = 5;

/// The entries of a model.
#[derive(Debug)]
pub(crate) struct Cache {
    entries: PanelCache,
    /// Why an entry could not be written.
    failure: Mutex<Option<String>>,
}

impl Cache {
    /// None for a model from memory.
    pub(crate) fn open(dir: &Path, checkpoint: &Checkpoint, dtype: Dtype, team: &Team) -> Result<Option<Cache>> {
        let maker = format!("tiny-t5 {} layout {LAYOUT} {dtype:?}", env!("CARGO_PKG_VERSION"));
        let entries = PanelCache::open(dir, checkpoint, &maker, &|bytes| sum(team, bytes)).map_err(|e| match e {
            tiny_t5_checkpoint::Error::Io { source, .. } => {
                Error::option("cache", dir.display(), format!("a folder that can be made: {source}"))
            }
            e => e.into(),
        })?;
        checkpoint.release();
        Ok(entries.map(|entries| Cache { entries, failure: Mutex::new(None) }))
    }

    pub(crate) fn get(&self, what: &str, team: &Team) -> Option<Panels> {
        self.entries.get(what, &|bytes| sum(team, bytes))
    }

    /// Keeps an entry; that it cannot be kept stops nobody.
    pub(crate) fn put(&self, what: &str, notes: &[u8], data: &[u8], team: &Team) {
        if let Err(error) = self.entries.put(what, notes, data, &|bytes| sum(team, bytes)) {
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(one_line(&error.to_string()));
        }
    }

    /// Why the last entry could not be written, once.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// XXH3 of the XXH3 of every megabyte.
fn sum(team: &Team, bytes: &[u8]) -> u128 {
    const PIECE: usize = 1 << 20;
    let mut sums = vec![0u128; bytes.len().div_ceil(PIECE)];
    team.chunks_mut(&mut sums, 1, |i, sums| {
        let piece = &bytes[i * PIECE..((i + 1) * PIECE).min(bytes.len())];
        sums[0] = XxHash3_128::oneshot(piece).to_be();
    });
    XxHash3_128::oneshot(bytemuck::cast_slice(&sums))
}

/// Packed bytes: made by this process, or an entry of the cache.
#[derive(Debug)]
pub(crate) enum Block {
    Made(Arena),
    Kept(Panels),
}

impl Block {
    /// An entry where it lies, or (where it was read and not mapped) in memory that is aligned for weights.
    pub(crate) fn kept(panels: Panels) -> std::io::Result<Block> {
        if panels.data().as_ptr().align_offset(64) == 0 {
            return Ok(Block::Kept(panels));
        }
        let mut arena = Arena::new(panels.data().len())?;
        arena.bytes_mut().copy_from_slice(panels.data());
        Ok(Block::Made(arena))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Block::Made(arena) => arena.bytes(),
            Block::Kept(panels) => panels.data(),
        }
    }
}
