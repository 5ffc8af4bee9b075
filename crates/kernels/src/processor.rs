//! The processor that a thread is on, and how a helper leaves its caller's.
//!
//! Linux often gives a thread that is new or wakes the processor of whoever woke it, and the two take turns there until it looks again,
//! some milliseconds later: most of all in a virtual machine, where a processor that sleeps is taken for one that the host has
//! stopped. A helper there helps nobody. Of calls that come 30 ms apart each took 1.4 ms on two threads instead of 2.1 once helpers
//! leave (Zen 4, the embedded model, a word a call).

#[cfg(target_os = "linux")]
mod linux {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

    /// The processor that this thread is on.
    pub(crate) fn current() -> usize {
        sched_getcpu()
    }

    /// Moves this thread to another processor that it may use, if it is on `caller` and there is one. Which ones it may use stays.
    pub(crate) fn leave(caller: usize) {
        if sched_getcpu() != caller || caller >= CpuSet::MAX_CPU {
            return;
        }
        let Ok(all) = sched_getaffinity(None) else { return };
        let mut others = all;
        others.unset(caller);
        // The system moves a thread at once where it may not stay.
        if others.count() > 0 && sched_setaffinity(None, &others).is_ok() {
            let _ = sched_setaffinity(None, &all);
        }
    }

    /// Lets threads that have come to this thread's processor run, so that they leave it: new ones would wait for some milliseconds.
    pub(crate) fn let_leave() {
        std::thread::yield_now();
    }
}
#[cfg(target_os = "linux")]
pub(crate) use linux::{current, leave, let_leave};

/// Elsewhere threads stay where the system puts them.
#[cfg(not(target_os = "linux"))]
mod others {
    pub(crate) fn current() -> usize {
        0
    }
    pub(crate) fn leave(_caller: usize) {}
    pub(crate) fn let_leave() {}
}
#[cfg(not(target_os = "linux"))]
pub(crate) use others::{current, leave, let_leave};

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use rustix::thread::sched_getaffinity;

    #[test]
    fn a_thread_that_leaves_may_use_the_same_processors_as_before() {
        let before = sched_getaffinity(None).unwrap();
        for caller in [current(), 0, 1, 5000, usize::MAX] {
            leave(caller);
            assert!(sched_getaffinity(None).unwrap() == before);
        }
        if before.count() > 1 {
            // The system may move the thread between two lines, so once has to do.
            let leaves = |_| {
                let caller = current();
                leave(caller);
                current() != caller
            };
            assert!((0..50).any(leaves));
        }
    }
}
