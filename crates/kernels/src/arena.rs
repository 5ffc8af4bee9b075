//! One block of memory for all packed weights, or for the keys and values of many sequences, on huge pages where the system has them.

use memmap2::MmapMut;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

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

impl AsRef<[u8]> for Arena {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}
