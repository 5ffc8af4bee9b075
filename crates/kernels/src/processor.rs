//! The processor that a thread is on, and how a helper leaves its caller's.
//!
//! Linux often gives a thread that is new, or wakes, the processor of whoever woke it, and the two take turns there until it looks again,
//! up to ten milliseconds later: most of all in a virtual machine, where a processor that sleeps is taken for one that the host has
//! stopped. A helper there helps nobody. So helpers look where they are when they come, and whenever they take a share of a region: they
//! may have slept meanwhile, as where both threads waited for memory from the system. Of calls that come 30 ms apart each took 1.4 ms on
//! two threads instead of 1.8 to 2.1 (Zen 4, two processors, the embedded model, a word a call). To which processor a helper goes is the
//! system's choice, and not always an idle one.

#[cfg(all(feature = "rayon", target_os = "linux"))]
mod linux {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
    use std::sync::OnceLock;

    /// The processor that this thread is on; none that there is where it may not ask.
    pub(crate) fn current() -> usize {
        if may_ask() { sched_getcpu() } else { usize::MAX }
    }

    /// Moves this thread to another processor that it may use, if it is on `caller` and there is one. Which ones it may use is the same
    /// before and after, unless somebody else changes it meanwhile.
    pub(crate) fn leave(caller: usize) {
        if !may_ask() || sched_getcpu() != caller {
            return;
        }
        let Ok(all) = sched_getaffinity(None) else { return };
        let Some(others) = without(all, caller) else { return };
        // The system moves a thread at once where it may not stay.
        if sched_setaffinity(None, &others).is_ok() {
            restore(all);
        }
    }

    /// Processors but one, if there are others.
    pub(super) fn without(mut all: CpuSet, processor: usize) -> Option<CpuSet> {
        if processor < CpuSet::MAX_CPU {
            all.unset(processor);
        }
        (all.count() > 0).then_some(all)
    }

    /// Gives the thread all processors of the machine, of which the system leaves it those of its container: so it goes on following
    /// changes of these. Where that is more than before, somebody had chosen, and the choice is what it gets.
    fn restore(before: CpuSet) {
        let mut every = CpuSet::new();
        (0..CpuSet::MAX_CPU).for_each(|processor| every.set(processor));
        let _ = sched_setaffinity(None, &every);
        if sched_getaffinity(None) != Ok(before) {
            let _ = sched_setaffinity(None, &before);
        }
    }

    /// Whether the system calls here are surely no offence: a process that filters its calls (seccomp, as hardened services do) may
    /// be ended by them.
    pub(super) fn may_ask() -> bool {
        static UNFILTERED: OnceLock<bool> = OnceLock::new();
        *UNFILTERED.get_or_init(|| {
            let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "0"))
        })
    }
}
#[cfg(all(feature = "rayon", target_os = "linux"))]
pub(crate) use linux::{current, leave};

/// Elsewhere threads stay where the system puts them, and without `rayon` there is one.
#[cfg(not(all(feature = "rayon", target_os = "linux")))]
mod others {
    pub(crate) fn current() -> usize {
        0
    }
    pub(crate) fn leave(_caller: usize) {}
}
#[cfg(not(all(feature = "rayon", target_os = "linux")))]
pub(crate) use others::{current, leave};

#[cfg(all(test, feature = "rayon", target_os = "linux"))]
mod tests {
    use super::linux::{may_ask, without};
    use super::*;
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    #[test]
    fn the_others_of_a_set_are_all_but_one() {
        let mut set = CpuSet::new();
        set.set(1023);
        assert!(without(set, 1023).is_none());
        for absent in [0, 1024, usize::MAX] {
            assert!(without(set, absent) == Some(set));
        }
        set.set(7);
        let left = without(set, 1023).unwrap();
        assert!(left.is_set(7) && left.count() == 1);
    }

    #[test]
    fn a_thread_leaves_and_may_use_the_same_processors_as_before() {
        let Some(all) = sched_getaffinity(None).ok().filter(|all| all.count() > 1 && may_ask()) else {
            eprintln!("not tested: this process has one processor, or may not choose");
            return;
        };
        let first = (0..CpuSet::MAX_CPU).find(|processor| all.is_set(*processor)).unwrap();
        // As the system gives them, and as somebody chose: all, and one alone, which nobody can leave.
        let mut alone = CpuSet::new();
        alone.set(first);
        for chosen in [all, alone] {
            sched_setaffinity(None, &chosen).unwrap();
            let leaves = |_: &usize| {
                let caller = current();
                leave(caller);
                assert!(sched_getaffinity(None).unwrap() == chosen);
                current() != caller
            };
            let left = (0..20).filter(leaves).count();
            assert!(if chosen == alone { left == 0 } else { left > 10 }, "{left} of 20 times it left");
        }
    }
}
