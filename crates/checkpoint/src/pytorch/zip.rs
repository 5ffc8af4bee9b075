//! The records of a zip whose entries are stored, not compressed, so that they can be read in place.
//!
//! The central directory says what is there; each local header is compared with it. Refused: compressed or encrypted
//! entries, several disks, names that are there twice, entries that overlap each other or the directory, and headers
//! that disagree. Checksums are not verified: that would read every byte of the weights.
//!
//! Source: PKWARE APPNOTE.TXT 6.3.10, sections 4.3 to 4.5; the names of fields are from there.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::error::{Error, shown};

/// Records by name: their bytes' place in the file.
pub(super) type Records<'a> = BTreeMap<&'a str, Range<usize>>;

/// T5 1.1 xxl has 558 storages; a record costs about 100 bytes of memory here.
const MOST_RECORDS: u64 = 1 << 16;
const END_SIZE: usize = 22;
const LONGEST_COMMENT: usize = u16::MAX as usize;
const ZIP64: u16 = 1;
/// Encrypted (0), compressed patched data (5), strong encryption (6), masked headers (13).
const FORBIDDEN_FLAGS: u16 = 1 | 1 << 5 | 1 << 6 | 1 << 13;
/// Sizes stand behind the data instead of in the local header.
const SIZES_FOLLOW: u16 = 1 << 3;

/// The records of the zip `bytes`; `file` is its name in messages.
pub(super) fn records<'a>(file: &str, bytes: &'a [u8]) -> Result<Records<'a>, Error> {
    let directory = directory(file, bytes)?;
    if directory.count > MOST_RECORDS {
        return Err(Error::too_large(file, "the number of zip records", directory.count, MOST_RECORDS));
    }
    let mut reader = Reader(bytes.get(directory.range.clone()).unwrap_or_default());
    let mut records = Records::new();
    let mut places = Vec::new();
    for _ in 0..directory.count {
        let entry = Entry::read(&mut reader).ok_or_else(|| {
            Error::malformed(file, "the zip directory", "cut off", format!("{} entries", directory.count))
        })?;
        let (whole, data) = entry.place(file, bytes, directory.range.start)?;
        places.push(whole);
        if records.insert(entry.name, data).is_some() {
            return Err(entry.wrong(file, "there twice", "each record once"));
        }
    }
    places.sort_by_key(|place| place.start);
    let overlapping = places.windows(2).find(|pair| matches!(pair, [a, b] if b.start < a.end));
    if let Some(pair) = overlapping {
        let found = format!("overlapping ({pair:?})");
        return Err(Error::malformed(file, "the zip's records", found, "records one after another"));
    }
    Ok(records)
}

struct Directory {
    range: Range<usize>,
    count: u64,
}

/// The central directory, by the record at the zip's end.
fn directory(file: &str, bytes: &[u8]) -> Result<Directory, Error> {
    let wrong = |found: &str| Error::malformed(file, "the zip's end", found, "an end-of-directory record");
    let at = end_record(bytes).ok_or_else(|| wrong("cut off"))?;
    let (disks, count, size, offset) = end_fields(bytes, at).ok_or_else(|| wrong("cut off"))?;
    if disks != (0, 0) {
        return Err(wrong("one of several disks"));
    }
    // Where the locator of the 64-bit record precedes, that record has the numbers; torch always writes both.
    let (limit, count, size, offset) = match end64_fields(bytes, at) {
        Some(fields64) => fields64.ok_or_else(|| wrong("damaged (its 64-bit record)"))?,
        None => (at, count, size, offset),
    };
    let range = to_range(offset, size).filter(|range| range.end <= limit);
    let range = range.ok_or_else(|| wrong("a directory outside the file"))?;
    Ok(Directory { range, count })
}

/// The last record whose comment ends where the file ends.
fn end_record(bytes: &[u8]) -> Option<usize> {
    let last = bytes.len().checked_sub(END_SIZE)?;
    let first = last.saturating_sub(LONGEST_COMMENT);
    (first..=last).rev().find(|&at| {
        let record = bytes.get(at..).unwrap_or_default();
        let comment = record.get(20..22).and_then(|c| c.try_into().ok()).map(u16::from_le_bytes);
        record.starts_with(b"PK\x05\x06") && comment.map(usize::from) == Some(last - at)
    })
}

/// Disks, entries, size and offset of the directory.
fn end_fields(bytes: &[u8], at: usize) -> Option<((u16, u16), u64, u64, u64)> {
    let mut r = Reader(bytes.get(at..)?);
    r.signature(b"PK\x05\x06")?;
    let disks = (r.u16()?, r.u16()?);
    r.u16()?; // entries on this disk
    let count = r.u16()?;
    Some((disks, count.into(), r.u32()?.into(), r.u32()?.into()))
}

/// The 64-bit record: where it begins, entries, size and offset of the directory. `None` where there is no locator,
/// `Some(None)` where it is damaged.
fn end64_fields(bytes: &[u8], end: usize) -> Option<Option<(usize, u64, u64, u64)>> {
    let locator = end.checked_sub(20)?;
    let mut r = Reader(bytes.get(locator..)?);
    r.signature(b"PK\x06\x07")?;
    let mut fields = move || {
        let disk = r.u32()?;
        let at = usize::try_from(r.u64()?).ok()?;
        let disks = r.u32()?;
        let mut r = Reader(bytes.get(at..locator)?);
        r.signature(b"PK\x06\x06")?;
        r.take(8 + 2 + 2)?; // its own size, versions
        let here = (r.u32()?, r.u32()?);
        r.u64()?; // entries on this disk
        let fields = (at, r.u64()?, r.u64()?, r.u64()?);
        (disk == 0 && disks <= 1 && here == (0, 0)).then_some(fields)
    };
    Some(fields())
}

/// An entry of the central directory.
struct Entry<'a> {
    name: &'a str,
    flags: u16,
    method: u16,
    packed: u64,
    size: u64,
    offset: u64,
}

impl<'a> Entry<'a> {
    fn read(r: &mut Reader<'a>) -> Option<Entry<'a>> {
        r.signature(b"PK\x01\x02")?;
        r.take(4)?; // versions
        let (flags, method) = (r.u16()?, r.u16()?);
        r.take(8)?; // time, date, checksum
        let (packed, size) = (r.u32()?, r.u32()?);
        let [name, extra, comment] = [r.u16()?, r.u16()?, r.u16()?];
        let disk = r.u16()?;
        r.take(6)?; // attributes
        let offset = r.u32()?; // of the local header
        let name = std::str::from_utf8(r.take(name.into())?).ok()?;
        let mut fields = [packed, size, offset].map(u64::from);
        widen(&mut fields, r.take(extra.into())?)?;
        let [packed, size, offset] = fields;
        r.take(comment.into())?;
        (disk == 0).then_some(Entry { name, flags, method, packed, size, offset })
    }

    /// The bytes of the entry with its local header, and of its data alone.
    fn place(&self, file: &str, bytes: &[u8], limit: usize) -> Result<(Range<usize>, Range<usize>), Error> {
        if self.flags & FORBIDDEN_FLAGS != 0 {
            return Err(self.wrong(file, "encrypted or patched", "stored as it is"));
        }
        if self.method != 0 {
            return Err(self.wrong(file, &format!("compressed (method {})", self.method), "stored as it is"));
        }
        if self.packed != self.size {
            return Err(self.wrong(file, &format!("{} bytes as {}", self.size, self.packed), "equal sizes"));
        }
        let header = self.local_header(bytes);
        let header = header.ok_or_else(|| self.wrong(file, "without its local header", "equal headers"))?;
        let start = header.end;
        let end = usize::try_from(self.size).ok().and_then(|size| start.checked_add(size));
        match end.filter(|&end| end <= limit) {
            Some(end) => Ok((header.start..end, start..end)),
            None => Err(self.wrong(file, &format!("{} bytes from {start}", self.size), "within the file")),
        }
    }

    /// The place of the local header, if it says the same as the directory.
    fn local_header(&self, bytes: &[u8]) -> Option<Range<usize>> {
        let at = usize::try_from(self.offset).ok()?;
        let rest = bytes.get(at..)?;
        let mut r = Reader(rest);
        r.signature(b"PK\x03\x04")?;
        r.take(2)?; // version
        let (flags, method) = (r.u16()?, r.u16()?);
        r.take(8)?; // time, date, checksum
        let mut sizes = [r.u32()?, r.u32()?].map(u64::from);
        let (name, extra) = (r.u16()?, r.u16()?);
        let name = r.take(name.into())?;
        let extra = r.take(extra.into())?;
        widen(&mut sizes, extra)?;
        let follow = flags & SIZES_FOLLOW != 0 && sizes == [0, 0];
        let equal = name == self.name.as_bytes()
            && method == self.method
            && flags & FORBIDDEN_FLAGS == 0
            && (follow || sizes == [self.packed, self.size]);
        equal.then(|| at..at + (rest.len() - r.0.len()))
    }

    fn wrong(&self, file: &str, found: &str, expected: &str) -> Error {
        Error::malformed(file, format!("the zip record {}", shown(self.name)), found, expected)
    }
}

/// Replaces each saturated 32-bit field, in the header's order, by its 64-bit value from the extra fields.
fn widen(fields: &mut [u64], extra: &[u8]) -> Option<()> {
    const SATURATED: u64 = u32::MAX as u64;
    if !fields.contains(&SATURATED) {
        return Some(());
    }
    let mut r = Reader(extra);
    let mut wide = loop {
        let (id, size) = (r.u16()?, r.u16()?);
        let content = r.take(size.into())?;
        if id == ZIP64 {
            break Reader(content);
        }
    };
    for field in fields.iter_mut().filter(|field| **field == SATURATED) {
        *field = wide.u64()?;
    }
    Some(())
}

fn to_range(offset: u64, size: u64) -> Option<Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    Some(start..start.checked_add(usize::try_from(size).ok()?)?)
}

/// Takes little-endian fields from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn signature(&mut self, expected: &[u8; 4]) -> Option<()> {
        (self.array()? == *expected).then_some(())
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}
