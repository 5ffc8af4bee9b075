//! A folder of packed weights, so that a second start packs nothing.
//!
//! An entry is one file, named by what it was made from: the content of the weight files, config.json, and what the caller
//! adds (its layout's version, the width of weights). A changed checkpoint therefore has other entries; old ones are never
//! looked at again, and the folder may be emptied at any time.
//!
//! ```text
//! 16 bytes  "tiny-t5 panels 1"
//!  8 bytes  length of the notes, little endian
//!  8 bytes  length of the data
//! 16 bytes  sum of the notes and the data
//!           notes: what the caller has to know about the data
//!           zeros up to a page
//!           data
//! ```
//!
//! An entry is written beside its place and renamed into it, so that a reader sees all of it or none, and of two writers one
//! wins with the same bytes. What a writer left that died (`PROCESS-NUMBER.part`) goes an hour later. An entry is used only
//! where its lengths and its sum are right. The sum tells accidents, not malice: who may write to the folder decides what the
//! model computes, as with the checkpoint itself.
//!
//! Reading a large checkpoint only to know its content would cost more than the cache saves. So the content's sum is kept in
//! the folder too, under the files' identity (on Unix device, inode, size and the times of change in nanoseconds), but not
//! for files that changed within the last seconds, which could change again without a sign.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use crate::bytes::{Access, Bytes, read_text};
use crate::{Checkpoint, Error};

const MAGIC: &[u8; 16] = b"tiny-t5 panels 1";
const HEADER: usize = 16 + 8 + 8 + 16;
const PAGE: usize = 4096;
/// Files that changed less than this ago are read to know their content.
const SETTLED: Duration = Duration::from_secs(3);

/// Sums the bytes: the caller has the threads to do it on.
pub type Sum<'a> = &'a dyn Fn(&[u8]) -> u128;

/// The entries of one checkpoint in a folder.
#[derive(Debug)]
pub struct PanelCache {
    dir: PathBuf,
    key: String,
    access: Access,
}

/// An entry, checked.
#[derive(Debug)]
pub struct Panels {
    bytes: Bytes,
    notes: Range<usize>,
    data: Range<usize>,
}

impl Panels {
    /// What the writer noted about the data.
    #[must_use]
    pub fn notes(&self) -> &[u8] {
        self.bytes.get(self.notes.clone()).unwrap_or_default()
    }

    /// The data; where files are mapped it begins on a page.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        self.bytes.get(self.data.clone()).unwrap_or_default()
    }
}

impl PanelCache {
    /// The entries of `checkpoint` in the folder `dir`, which is made where it is absent; none for a checkpoint from memory.
    /// `maker` says all else that the entries depend on.
    ///
    /// # Errors
    /// [`Error::Io`] where there is no such folder and none can be made.
    pub fn open(dir: &Path, checkpoint: &Checkpoint, maker: &str, sum: Sum<'_>) -> Result<Option<PanelCache>, Error> {
        fs::create_dir_all(dir).map_err(crate::bytes::io_error(dir))?;
        let Some(identity) = checkpoint.tensors.identity() else { return Ok(None) };
        let known = dir.join(format!("{:032x}.content", sum(identity.text.as_bytes())));
        let content = match read_text(&known, "the sum of the content", 32).ok().filter(|text| text.len() == 32) {
            Some(content) => content,
            None => {
                let content = format!("{:032x}", checkpoint.tensors.content(sum));
                let settled = SystemTime::now().duration_since(identity.changed).is_ok_and(|age| age > SETTLED);
                if settled {
                    // Where it cannot be written the next start sums again.
                    let _ = write(dir, &known, &[content.as_bytes()]);
                }
                content
            }
        };
        let config = serde_json::Value::from(checkpoint.config().raw.clone());
        let key = format!("{:032x}", sum(format!("{maker}\n{content}\n{config}").as_bytes()));
        Ok(Some(PanelCache { dir: dir.to_owned(), key, access: checkpoint.access }))
    }

    fn path(&self, what: &str) -> PathBuf {
        self.dir.join(format!("{}-{what}.panels", self.key))
    }

    /// The entry `what`; none where there is none or it is damaged.
    #[must_use]
    pub fn get(&self, what: &str, sum: Sum<'_>) -> Option<Panels> {
        let bytes = Bytes::open(&self.path(what), self.access).ok()?.0;
        let header: &[u8; HEADER] = bytes.first_chunk()?;
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        let notes = HEADER..HEADER.checked_add(usize::try_from(number(16)).ok()?)?;
        let start = notes.end.checked_next_multiple_of(PAGE)?;
        let data = start..start.checked_add(usize::try_from(number(24)).ok()?)?;
        let right = header.starts_with(MAGIC) && data.end == bytes.len();
        let panels = Panels { bytes, notes, data };
        (right && total(sum, panels.notes(), panels.data()) == panels.bytes[32..HEADER]).then_some(panels)
    }

    /// Writes the entry `what`.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder or the disk does not take it; nothing half-written is left.
    pub fn put(&self, what: &str, notes: &[u8], data: &[u8], sum: Sum<'_>) -> Result<(), Error> {
        let mut header = Vec::with_capacity(PAGE + notes.len());
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&(notes.len() as u64).to_le_bytes());
        header.extend_from_slice(&(data.len() as u64).to_le_bytes());
        header.extend_from_slice(&total(sum, notes, data));
        header.extend_from_slice(notes);
        header.resize(header.len().next_multiple_of(PAGE), 0);
        let path = self.path(what);
        write(&self.dir, &path, &[&header, data]).map_err(crate::bytes::io_error(&path))
    }
}

fn total(sum: Sum<'_>, notes: &[u8], data: &[u8]) -> [u8; 16] {
    let both = [sum(notes).to_le_bytes(), sum(data).to_le_bytes()].concat();
    sum(&both).to_le_bytes()
}

/// Writes a file as a whole or not at all.
fn write(dir: &Path, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    static WRITERS: AtomicUsize = AtomicUsize::new(0);
    let writer = WRITERS.fetch_add(1, Ordering::Relaxed);
    let beside = dir.join(format!("{}-{writer}.part", std::process::id()));
    let written = (|| {
        sweep(dir);
        // An earlier process of the same number may have died over its file: it is overwritten.
        let mut file = File::create(&beside)?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

/// Removes what writers left that died long ago, by the names that they give.
fn sweep(dir: &Path) {
    const LONG: Duration = Duration::from_secs(3600);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let age = || entry.metadata().ok()?.modified().ok()?.elapsed().ok();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".part"));
        let ours = name.and_then(|name| name.split_once('-'));
        let ours = ours.is_some_and(|(process, writer)| [process, writer].iter().all(|n| n.parse::<u32>().is_ok()));
        if ours && age().is_some_and(|age| age > LONG) {
            let _ = fs::remove_file(path);
        }
    }
}

/// What tells weight files from others without reading them.
pub(crate) struct Identity {
    text: String,
    /// The last change of any of them.
    changed: SystemTime,
}

impl Identity {
    /// None where the system does not say when a file was changed.
    pub(crate) fn of<'a>(files: impl Iterator<Item = (&'a Path, &'a fs::Metadata)>) -> Option<Identity> {
        let mut identity = Identity { text: String::new(), changed: SystemTime::UNIX_EPOCH };
        for (path, metadata) in files {
            identity.add(path, metadata)?;
        }
        Some(identity)
    }

    #[cfg(unix)]
    fn add(&mut self, _: &Path, metadata: &fs::Metadata) -> Option<()> {
        use std::os::unix::fs::MetadataExt;
        let m = metadata;
        let numbers = [m.dev(), m.ino(), m.size()];
        let times = [m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()];
        self.text.push_str(&format!("{numbers:?} {times:?}\n"));
        // The time of a change cannot be set back, that of the content can.
        let since_epoch = Duration::new(m.ctime().try_into().ok()?, m.ctime_nsec().try_into().ok()?);
        self.changed = self.changed.max(SystemTime::UNIX_EPOCH + since_epoch);
        Some(())
    }

    #[cfg(not(unix))]
    fn add(&mut self, path: &Path, metadata: &fs::Metadata) -> Option<()> {
        let modified = metadata.modified().ok()?;
        self.text.push_str(&format!("{path:?} {} {modified:?}\n", metadata.len()));
        self.changed = self.changed.max(modified);
        Some(())
    }
}
