//! Memory that is read soon.
//!
//! A step of many sequences computes its products, and then reads keys and values that no cache of a core holds: first the memory has
//! nothing to do, and then the multipliers. So products ask the caches for what comes behind them while they compute.

use crate::simd::LINE;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is read behind some products, in this order; see [`crate::matmul_asking_for`].
///
/// These are addresses only, which nothing is read from: whatever becomes of the memory, asking for it does no harm.
#[derive(Debug, Default)]
pub struct Upcoming {
    ranges: Vec<Range<usize>>,
    /// What was asked for: how many whole ranges, in the upper half, and how many lines of the next one.
    asked: AtomicU64,
}

impl Upcoming {
    /// Nothing is read soon; with room for so many pieces.
    pub fn clear(&mut self, pieces: usize) {
        self.ranges.clear();
        self.ranges.reserve(pieces);
        *self.asked.get_mut() = 0;
    }

    /// This is read next, or behind what was said before.
    pub fn push<T>(&mut self, memory: &[T]) {
        let Range { start, end } = memory.as_ptr_range();
        match self.ranges.last_mut() {
            _ if memory.is_empty() => {}
            Some(last) if last.end == start.addr() => last.end = end.addr(),
            _ => self.ranges.push(start.addr()..end.addr()),
        }
    }

    /// For one who asks for so many lines of the caches: the address of the first of them. Where a range ends earlier, they reach
    /// behind it; none where everything was asked for.
    pub(crate) fn take(&self, lines: usize) -> Option<usize> {
        let mut asked = self.asked.load(Ordering::Relaxed);
        loop {
            let (i, line) = ((asked >> 32) as usize, asked as u32 as usize);
            let range = self.ranges.get(i)?;
            let is_rest = line + lines >= range.len().div_ceil(LINE);
            let next = if is_rest { (i as u64 + 1) << 32 } else { asked + lines as u64 };
            match self.asked.compare_exchange_weak(asked, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(range.start + line * LINE),
                Err(now) => asked = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_taken_once_in_order() {
        let memory = [0u8; 64 * LINE];
        let lines = |range: Range<usize>| &memory[range.start * LINE..range.end * LINE];
        let mut upcoming = Upcoming::default();
        for _ in 0..2 {
            upcoming.clear(4);
            assert_eq!(upcoming.take(4), None);
            // Neighbours are one range; an empty one is none.
            for memory in [lines(10..13), lines(13..19), &[], lines(2..3), lines(40..44)] {
                upcoming.push(memory);
            }
            let first = |line: usize| Some(lines(line..line).as_ptr().addr());
            for line in [10, 14, 18, 2, 40] {
                assert_eq!(upcoming.take(4), first(line));
            }
            assert_eq!([upcoming.take(4), upcoming.take(1)], [None; 2]);
        }
    }
}
