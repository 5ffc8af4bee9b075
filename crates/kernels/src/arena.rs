//! One block of memory for all packed weights, or for the keys and values of many sequences, on huge pages where the system has them.

use memmap2::MmapMut;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Zeroed memory, aligned to a huge page.
///
/// Sweeping packed weights through 4 KB pages costs a TLB miss each; huge pages made a decoder step a quarter faster on a
/// Zen 3 (two threads, tiny shape: 421 to 302 microseconds).
#[derive(Debug)]
pub struct Arena {
    memory: MmapMut,
    start: usize,
    len: usize,
}

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

impl Arena {
    /// `len` zero bytes.
    ///
    /// # Errors
    /// Where the system does not give them.
    pub fn new(len: usize) -> std::io::Result<Arena> {
        let whole = len.checked_add(2 * HUGE).ok_or(std::io::ErrorKind::OutOfMemory)? / HUGE * HUGE;
        let memory = MmapMut::map_anon(whole)?;
        let start = memory.as_ptr().align_offset(HUGE).min(HUGE);
        // Only advice: a system without transparent huge pages goes on with small ones. A last page that would be used by less than
        // an eighth is made of small ones: clearing a huge page takes as long as 64 small ones (85 us, Zen 5).
        #[cfg(target_os = "linux")]
        {
            use memmap2::Advice;
            let huge = (len + HUGE * 7 / 8) / HUGE * HUGE;
            let _ = memory.advise_range(Advice::HugePage, start, huge);
            let _ = memory.advise_range(Advice::NoHugePage, start + huge, whole - start - huge);
        }
        Ok(Arena { memory, start, len })
    }

    /// For who fills the arena on several threads, and reads it a few times: see [`Coming`].
    #[must_use]
    pub fn coming(&self) -> Coming {
        let pages = self.len.div_ceil(HUGE);
        Coming {
            start: self.bytes().as_ptr().addr(),
            come: (0..pages).map(|_| AtomicBool::new(false)).collect(),
            is_late: AtomicBool::new(false),
        }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..][..self.len]
    }

    /// The bytes, to fill them.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..self.len]
    }

    /// Parts of so many floats, each with an owner of its own: together they are worth huge pages where none of them is.
    ///
    /// # Errors
    /// Where the system does not give so much.
    pub fn parts(floats: impl Iterator<Item = usize> + Clone) -> std::io::Result<impl Iterator<Item = ArenaPart>> {
        let all = floats.clone().try_fold(0usize, |all, floats| all.checked_add(floats));
        let bytes = all.and_then(|all| all.checked_mul(size_of::<f32>()));
        let mut arena = Arena::new(bytes.ok_or(std::io::ErrorKind::OutOfMemory)?)?;
        let mut left = arena.bytes_mut().as_mut_ptr().cast::<f32>();
        let arena = Arc::new(arena);
        let mut unused = all.unwrap_or(0);
        Ok(floats.map_while(move |floats| {
            unused = unused.checked_sub(floats)?; // as many as before, whatever the iterator says the second time
            let first = left;
            left = left.wrapping_add(floats);
            Some(ArenaPart { first, floats, _arena: arena.clone() })
        }))
    }
}

/// Floats of an arena that others have other parts of. The memory stays until the last part has gone.
pub struct ArenaPart {
    first: *mut f32,
    floats: usize,
    _arena: Arc<Arena>,
}

impl std::fmt::Debug for ArenaPart {
    /// Without the arena, which is others' too.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArenaPart").field("floats", &self.floats).finish_non_exhaustive()
    }
}

// SAFETY: a part is alone in having its floats, as a boxed slice has (`Arena::parts` gives each to one part, and keeps the arena where
// nobody reads it).
unsafe impl Send for ArenaPart {}
// SAFETY: as above; what is shared is only read.
unsafe impl Sync for ArenaPart {}

impl Deref for ArenaPart {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: `Arena::parts` found `floats` floats from `first` on within the arena, which lives as long as the part, is aligned
        // to pages and zeroed, and no other part has them.
        unsafe { std::slice::from_raw_parts(self.first, self.floats) }
    }
}

impl DerefMut for ArenaPart {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`; the part is borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.first, self.floats) }
    }
}

/// How an arena's memory comes, a huge page at a time, while several threads fill it.
///
/// A virtual machine may have given its free memory back to its host. A huge page that the host has to find first takes 4.3 ms instead of
/// 0.2, small pages of as many bytes 0.8 to 1.3 together (Zen 4). So from the first that is late on the others become small ones, which
/// later reads pay for: only where there will be few.
#[derive(Debug)]
pub struct Coming {
    start: usize,
    /// Of each huge page: somebody has come to it.
    come: Vec<AtomicBool>,
    is_late: AtomicBool,
}

/// Longer than the system takes for a huge page that it has.
const LATE: Duration = Duration::from_millis(1);

impl Coming {
    /// Comes to the pages of a part of the arena, before it is filled.
    pub fn to(&self, part: &mut [u8]) {
        let first = part.as_ptr().addr().wrapping_sub(self.start);
        for at in (0..part.len()).step_by(HUGE).chain(part.len().checked_sub(1)) {
            let page = first.wrapping_add(at) / HUGE;
            if self.come.get(page).is_none_or(|come| come.swap(true, Ordering::Relaxed)) {
                continue;
            }
            if self.is_late.load(Ordering::Relaxed) {
                make_small(self.start + page * HUGE);
                continue;
            }
            let begin = Instant::now();
            std::hint::black_box(&mut *part)[at] = 0;
            if begin.elapsed() > LATE {
                self.is_late.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// Asks the system for small pages in the place of a huge one that has not come yet.
fn make_small(address: usize) {
    #[cfg(all(feature = "rayon", target_os = "linux"))]
    {
        use rustix::mm::{Advice, madvise};
        // SAFETY: this advice changes no byte of memory, whatever lies there: `madvise(2)` only looks at the address.
        let _ = unsafe { madvise(std::ptr::without_provenance_mut(address), HUGE, Advice::LinuxNoHugepage) };
    }
    #[cfg(not(all(feature = "rayon", target_os = "linux")))]
    let _ = address;
}

impl AsRef<[u8]> for Arena {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages come once, whoever comes to them, and what was written stays, be they late or not.
    #[test]
    fn an_arena_that_comes_page_by_page_keeps_what_is_written() {
        let (len, parts) = (3 * HUGE + HUGE / 2 + 1000, [0, 5000, HUGE - 10, HUGE + 10, 3 * HUGE]);
        for late_from in [0, 2, 9] {
            let mut arena = Arena::new(len).unwrap();
            let coming = arena.coming();
            let mut rest = arena.bytes_mut();
            for (i, part) in parts.iter().enumerate() {
                let end = parts.get(i + 1).copied().unwrap_or(len);
                let (this, after) = rest.split_at_mut(end - part);
                rest = after;
                coming.is_late.fetch_or(i >= late_from, Ordering::Relaxed);
                coming.to(&mut this[..0]);
                coming.to(this);
                assert!(coming.come[..=(end - 1) / HUGE].iter().all(|come| come.load(Ordering::Relaxed)), "{end}");
                this.fill(i as u8 + 1);
                coming.to(this);
            }
            for (i, part) in parts.iter().enumerate() {
                let end = parts.get(i + 1).copied().unwrap_or(len);
                assert!(arena.bytes()[*part..end].iter().all(|byte| *byte == i as u8 + 1), "part {i}");
            }
            coming.to(&mut [1, 2, 3]); // no part of it
        }
    }
}
