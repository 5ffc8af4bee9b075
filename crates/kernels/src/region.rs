//! Threads: one team a call, and regions whose chunks idle workers claim.
//!
//! ```text
//! Team::enter(threads, |team| ...)          // a call
//!     team.run(chunks, |worker, chunk| ..)  // a region: idle workers of the rayon pool are asked to help; whoever is there claims chunks,
//!                                           // the caller too
//! ```
//!
//! A region costs a store and, where a helper takes part, the wait for the chunks that it has claimed: nobody waits for
//! a worker that has not come, so a helper that the system does not run costs nothing, and a caller alone does all the
//! work. Helpers spin for some microseconds between regions, then yield, then go back to their pool; the next region
//! calls them again. Which worker computes a chunk cannot change a result: chunks are whole outputs.
//!
//! The claim: one atomic word holds (epoch, chunks, next chunk). A worker claims by compare-and-swap of the whole word,
//! so a claim succeeds only for the region that the word describes. The caller returns from a region when all its chunks
//! are done, and only then may the job that they point to die.

use crate::processor;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use sync::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// The atomics of a region: the processor's, or those of loom's model of it (the test at the end).
mod sync {
    #[cfg(all(loom, test))]
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
    #[cfg(not(all(loom, test)))]
    pub(super) use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
}

/// Most chunks of one region.
pub const MAX_CHUNKS: usize = u16::MAX as usize;

/// Rounds of spinning before a waiting thread begins to yield: about 30 microseconds.
const SPINS: u32 = 2_000;
/// Yields before an idle helper goes back to its pool: about a millisecond where nothing else wants the processor.
const YIELDS: u32 = 2_000;

type Job<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// What the caller and its helpers share.
struct Shared {
    watched: Watched,
    /// Threads that may take part.
    threads: usize,
    /// The job of the current epoch: a pointer to the caller's `&Job`.
    job: AtomicPtr<()>,
    /// Chunks of the current epoch that are finished.
    done: AtomicUsize,
    /// A region is running. Whoever comes meanwhile runs its chunks alone.
    taken: AtomicBool,
    /// A chunk panicked.
    panicked: AtomicBool,
    /// The processor that the caller was on when the region began.
    caller: AtomicUsize,
    /// Helpers that were asked for and have not gone home.
    helpers: AtomicU32,
    /// Worker numbers that no helper holds.
    free: Mutex<Vec<usize>>,
}

/// What idle helpers look at all the time, in lines of the caches of its own: every store to such a line waits until it is back.
#[repr(align(128))]
struct Watched {
    /// epoch << 32 | chunks << 16 | next chunk
    claim: AtomicU64,
    /// The team has ended or rests: helpers go home.
    closed: AtomicBool,
}

impl Shared {
    fn new(threads: usize) -> Shared {
        Shared {
            watched: Watched { claim: AtomicU64::new(0), closed: AtomicBool::new(false) },
            threads,
            job: AtomicPtr::new(std::ptr::null_mut()),
            done: AtomicUsize::new(0),
            taken: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            caller: AtomicUsize::new(usize::MAX),
            helpers: AtomicU32::new(0),
            free: Mutex::new((1..threads).collect()),
        }
    }

    /// Claims some chunks of the current region: a thread's share of what is left, so that few claims cross from core to core, and the
    /// last ones are single.
    fn claim(&self) -> Option<Range<usize>> {
        let claim = &self.watched.claim;
        let mut word = claim.load(Ordering::Acquire);
        loop {
            let (chunks, next) = (usize::from((word >> 16) as u16), usize::from(word as u16));
            if next >= chunks {
                return None;
            }
            let share = ((chunks - next) / self.threads).max(1);
            match claim.compare_exchange_weak(word, word + share as u64, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(next..next + share),
                Err(now) => word = now,
            }
        }
    }

    /// Computes chunks until none is left to claim; whether there was one. A thread that `leaves` looks before each share whether it is on
    /// the caller's processor: it may have slept meanwhile, as when both waited for the system's memory.
    fn work(&self, worker: usize, leaves: bool) -> bool {
        let mut any = false;
        while let Some(chunks) = self.claim() {
            any = true;
            let job = self.job.load(Ordering::Acquire).cast::<&Job<'_>>();
            let finished = Finished(self, chunks.len());
            if leaves {
                processor::leave(self.caller.load(Ordering::Relaxed));
            }
            for chunk in chunks {
                // SAFETY: `job` points to the `&Job` on the stack of `Team::run`, which does not return before `done` counts every chunk of
                // its epoch: these, when `finished` drops. The pointer is of the claimed epoch: it was stored before the word that the
                // claim read, and the next epoch begins after these chunks are done.
                unsafe { (*job)(worker, chunk) };
            }
            drop(finished);
        }
        any
    }

    /// The life of a helper, on a worker of this crate's `own` pool or somebody else's.
    #[cfg_attr(not(feature = "rayon"), allow(dead_code))]
    fn help(&self, own: bool) {
        let free = || self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(worker) = free().pop() else {
            self.helpers.fetch_sub(1, Ordering::AcqRel);
            return;
        };
        let mut idle = 0;
        while !self.watched.closed.load(Ordering::Acquire) && idle < SPINS + YIELDS {
            // A panic in a job is reported by `Finished`, and raised again by the caller of the region.
            let work = || self.work(worker, own);
            let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(true);
            if worked {
                idle = 0;
            } else {
                idle += 1;
                pause(idle);
            }
        }
        free().push(worker);
        self.helpers.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Counts so many chunks as done, also where one panics and the others never run.
struct Finished<'a>(&'a Shared, usize);

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panicked.store(true, Ordering::Release);
        }
        self.0.done.fetch_add(self.1, Ordering::AcqRel);
    }
}

fn pause(round: u32) {
    #[cfg(all(loom, test))]
    loom::thread::yield_now();
    if round < SPINS {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

/// The threads of one call at a time.
pub struct Team {
    threads: usize,
    shared: Option<Arc<Shared>>,
}

impl Team {
    /// The calling thread alone.
    #[must_use]
    pub fn alone() -> Team {
        Team { threads: 1, shared: None }
    }

    /// A team of up to `threads` threads: the calling one, and workers of the rayon pool that the caller is in, or else of this
    /// crate's own. Helpers come with the first region, and go back to their pool when the team is dropped, and when it has had nothing
    /// to do for about a millisecond.
    ///
    /// With `threads` of 1, or without the feature `rayon`, no pool is touched.
    #[must_use]
    pub fn new(threads: usize) -> Team {
        if threads <= 1 || cfg!(not(feature = "rayon")) {
            return Team::alone();
        }
        Team { threads, shared: Some(Arc::new(Shared::new(threads))) }
    }

    /// Runs `call` with a team: [`Team::new`].
    pub fn enter<R>(threads: usize, call: impl FnOnce(&Team) -> R) -> R {
        call(&Team::new(threads))
    }

    /// Sends the helpers back to their pool at once, as dropping the team does; the next region calls them again. For a team
    /// that is kept from call to call: between calls nothing spins.
    pub fn rest(&self) {
        if let Some(shared) = &self.shared {
            shared.watched.closed.store(true, Ordering::Release);
        }
    }

    /// Threads that may take part; worker numbers are below it.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `job(worker, chunk)` for every chunk below `chunks`, each once, on whichever threads are there; returns
    /// when all are done. Within a region no two threads have the same worker number at a time.
    ///
    /// A region inside a region runs on the thread that enters it.
    ///
    /// # Panics
    /// Where `chunks` is over [`MAX_CHUNKS`], and where a job panics.
    pub fn run(&self, chunks: usize, job: impl Fn(usize, usize) + Sync) {
        assert!(chunks <= MAX_CHUNKS, "{chunks} chunks, expected at most {MAX_CHUNKS}");
        match &self.shared {
            Some(shared) if chunks > 1 && !shared.taken.swap(true, Ordering::AcqRel) => {
                self.call_helpers();
                shared.region(chunks, &job);
            }
            _ => (0..chunks).for_each(|chunk| job(0, chunk)),
        }
    }

    /// [`Team::run`] with a piece of scratch for each worker.
    ///
    /// # Panics
    /// As [`Team::run`]; and where `scratch` has fewer pieces than the team has threads.
    pub fn run_with<T: Send>(&self, scratch: &mut [T], chunks: usize, job: impl Fn(&mut T, usize) + Sync) {
        assert!(scratch.len() >= self.threads, "{} pieces of scratch for {} threads", scratch.len(), self.threads);
        let base = SendPtr(scratch.as_mut_ptr());
        self.run(chunks, |worker, chunk| {
            debug_assert!(worker < self.threads);
            // SAFETY: `worker` < threads <= scratch.len(), and no other thread of this region has this number now, so the piece is
            // borrowed once; `scratch` is borrowed mutably until `run` returns, and so no other region has it.
            let piece = unsafe { &mut *base.get().add(worker) };
            job(piece, chunk);
        });
    }

    /// [`Team::run_with`], each chunk with a part of its own.
    ///
    /// # Panics
    /// As [`Team::run_with`].
    pub fn run_parts<T: Send, P: Send>(&self, scratch: &mut [T], parts: &mut [P], job: impl Fn(&mut T, &mut P) + Sync) {
        let base = SendPtr(parts.as_mut_ptr());
        self.run_with(scratch, parts.len(), |scratch, chunk| {
            // SAFETY: each chunk runs once and is below parts.len(); `parts` is borrowed mutably until `run_with` returns.
            let part = unsafe { &mut *base.get().add(chunk) };
            job(scratch, part);
        });
    }

    /// Runs `job(chunk, piece)` on every piece of `size` items, the last one shorter.
    ///
    /// # Panics
    /// As [`Team::run`].
    pub fn chunks_mut<T: Send>(&self, items: &mut [T], size: usize, job: impl Fn(usize, &mut [T]) + Sync) {
        let len = items.len();
        let base = SendPtr(items.as_mut_ptr());
        // A region has at most MAX_CHUNKS chunks: of very many items each chunk takes several pieces.
        let pieces = len.div_ceil(size.max(1));
        let each = pieces.div_ceil(MAX_CHUNKS).max(1);
        self.run(pieces.div_ceil(each), |_, chunk| {
            for piece in chunk * each..((chunk + 1) * each).min(pieces) {
                let start = piece * size;
                // SAFETY: pieces are disjoint parts of `items`, each taken once, and `items` is borrowed mutably until
                // `run` returns.
                let items = unsafe { std::slice::from_raw_parts_mut(base.get().add(start), size.min(len - start)) };
                job(piece, items);
            }
        });
    }

    /// Runs `other` on a worker of the pool, before that worker helps this team, and `here` on this thread. Where no worker has come until
    /// `here` is done, and where the team is one thread, `other` runs here, too.
    ///
    /// # Panics
    /// Where one of the two panics; if it is `here`, `other` may still run.
    pub fn beside<A, B: Send + 'static>(
        &self,
        other: impl FnOnce() -> B + Send + 'static,
        here: impl FnOnce() -> A,
    ) -> (A, B) {
        #[cfg(feature = "rayon")]
        if self.threads > 1 {
            return pool::beside(self.threads - 1, other, here);
        }
        (here(), other())
    }

    #[cfg(feature = "rayon")]
    fn call_helpers(&self) {
        let Some(shared) = &self.shared else { return };
        let wanted = self.threads as u32 - 1;
        if shared.watched.closed.load(Ordering::Relaxed) {
            shared.watched.closed.store(false, Ordering::Release);
        }
        while shared.helpers.load(Ordering::Relaxed) < wanted {
            shared.helpers.fetch_add(1, Ordering::AcqRel);
            let shared = Arc::clone(shared);
            pool::spawn(wanted as usize, move |own| shared.help(own));
        }
    }

    #[cfg(not(feature = "rayon"))]
    fn call_helpers(&self) {}
}

impl Drop for Team {
    fn drop(&mut self) {
        self.rest();
    }
}

impl Shared {
    /// Publishes a region, works on it and waits for it. The caller has set `taken`.
    fn region(&self, chunks: usize, job: &Job<'_>) {
        /// Waits for the claimed chunks even where the caller's own chunk panics: helpers still use the job.
        struct Close<'a>(&'a Shared, usize);
        impl Drop for Close<'_> {
            fn drop(&mut self) {
                // Nobody may begin another chunk; those that nobody claimed are counted here.
                let word = self.0.watched.claim.fetch_or(0xffff, Ordering::AcqRel);
                let claimed = usize::from(word as u16).min(self.1);
                let mut round = 0;
                while self.0.done.load(Ordering::Acquire) < claimed {
                    round += 1;
                    pause(round);
                }
                self.0.job.store(std::ptr::null_mut(), Ordering::Release);
                self.0.taken.store(false, Ordering::Release);
            }
        }
        let epoch = (self.watched.claim.load(Ordering::Relaxed) >> 32).wrapping_add(1) & 0xffff_ffff;
        self.done.store(0, Ordering::Relaxed);
        self.panicked.store(false, Ordering::Relaxed);
        self.caller.store(processor::current(), Ordering::Relaxed);
        let pointer: *const &Job<'_> = &job;
        self.job.store(pointer.cast_mut().cast(), Ordering::Release);
        self.watched.claim.store(epoch << 32 | (chunks as u64) << 16, Ordering::Release);
        let close = Close(self, chunks);
        self.work(0, false);
        drop(close);
        if self.panicked.load(Ordering::Acquire) {
            panic!("a chunk of a parallel region panicked on another thread");
        }
    }
}

struct SendPtr<T>(*mut T);

// SAFETY: used by `run_with`, `run_parts` and `chunks_mut` only, which hand each worker another part of a `[T]` with `T: Send`.
unsafe impl<T: Send> Sync for SendPtr<T> {}

impl<T> SendPtr<T> {
    fn get(&self) -> *mut T {
        self.0
    }
}

#[cfg(feature = "rayon")]
mod pool {
    use crate::processor;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};

    /// What [`super::Team::beside`] does, where there are workers.
    pub(super) fn beside<A, B: Send + 'static>(
        workers: usize,
        other: impl FnOnce() -> B + Send + 'static,
        here: impl FnOnce() -> A,
    ) -> (A, B) {
        let other = Arc::new(Mutex::new(Some(other)));
        let take = |other: &Mutex<Option<_>>| other.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (send, receive) = mpsc::channel();
        let theirs = Arc::clone(&other);
        spawn(workers, move |_| {
            if let Some(other) = take(&theirs) {
                // Nobody waits for it where `here` panicked.
                let _ = send.send(catch_unwind(AssertUnwindSafe(other)));
            }
        });
        let of_here = here();
        let of_other = match take(&other) {
            Some(other) => other(),
            None => {
                let done = receive.recv().expect("whoever takes it sends what it returns");
                done.unwrap_or_else(|panic| resume_unwind(panic))
            }
        };
        (of_here, of_other)
    }

    /// Spawns on the pool that the caller is in, else on this crate's own, whose workers leave the caller's processor; the job hears
    /// whether it is that one.
    pub(super) fn spawn(workers: usize, job: impl FnOnce(bool) + Send + 'static) {
        static OWN: OnceLock<Option<rayon::ThreadPool>> = OnceLock::new();
        if rayon::current_thread_index().is_some() {
            return rayon::spawn(move || job(false));
        }
        // Made on first use, with a worker for every other processor, or as many as were asked for then, or as many as the system
        // allows. A process that may not make threads goes on alone: `job` is dropped and the caller does all the work.
        let mut made = false;
        let own = OWN.get_or_init(|| {
            made = true;
            let others = std::thread::available_parallelism().map_or(1, usize::from).saturating_sub(1);
            let mut fewer = std::iter::successors(Some(workers.max(others)), |n| Some(n / 2)).take_while(|n| *n > 0);
            let pool = |workers| {
                let name = |i| format!("tiny-t5-{i}");
                rayon::ThreadPoolBuilder::new().num_threads(workers).thread_name(name).build().ok()
            };
            fewer.find_map(pool)
        });
        if let Some(pool) = own {
            let caller = processor::current();
            pool.spawn(move || {
                processor::leave(caller);
                job(true);
            });
            // A new thread on this processor would begin some milliseconds later; one that wakes begins at once.
            if made {
                std::thread::yield_now();
            }
        }
    }
}

/// Every order that the memory model allows, of a caller with two regions and a helper: `tools/loom` runs it.
#[cfg(all(loom, test))]
mod model {
    use super::*;

    #[test]
    fn every_chunk_is_computed_once_while_its_region_runs() {
        loom::model(|| {
            let shared = Arc::new(Shared::new(2));
            let helper = {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || {
                    shared.work(1, false);
                    shared.work(1, false);
                })
            };
            // Of four chunks the first claim takes two.
            for chunks in [4, 1] {
                // What a job borrows: it ends with the region.
                let running = AtomicBool::new(true);
                let counts: Vec<_> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
                shared.taken.store(true, Ordering::Relaxed);
                shared.region(chunks, &|_, chunk: usize| {
                    assert!(running.load(Ordering::Relaxed));
                    counts[chunk].fetch_add(1, Ordering::Relaxed);
                });
                // Without an order of its own: the region's end must give it.
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
                running.store(false, Ordering::Relaxed);
            }
            helper.join().unwrap();
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn run_every_chunk_once() {
        for threads in [1, 2, 5] {
            Team::enter(threads, |team| {
                for chunks in [0, 1, 2, 7, 64, 1000] {
                    let counts: Vec<AtomicUsize> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
                    for round in 1..=50 {
                        team.run(chunks, |worker, chunk| {
                            assert!(worker < threads);
                            counts[chunk].fetch_add(1, Ordering::Relaxed);
                        });
                        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == round));
                    }
                }
            });
        }
    }

    #[test]
    fn run_nested_runs_on_the_thread_that_enters() {
        Team::enter(3, |team| {
            let total = AtomicUsize::new(0);
            team.run(8, |_, _| {
                team.run(8, |_, _| {
                    total.fetch_add(1, Ordering::Relaxed);
                });
            });
            assert_eq!(total.into_inner(), 64);
        });
    }

    #[test]
    fn run_a_panicking_chunk_panics_and_leaves_the_team_usable() {
        Team::enter(2, |team| {
            let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                team.run(16, |_, chunk| assert!(chunk != 9, "on purpose"));
            }));
            assert!(panics.is_err());
            let total = AtomicUsize::new(0);
            team.run(16, |_, _| {
                total.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(total.into_inner(), 16);
        });
    }

    #[test]
    fn beside_runs_both_once_and_reports_a_panic_of_either() {
        for threads in [1, 2, 5] {
            let team = Team::new(threads);
            for round in 0..200 {
                let sum = AtomicUsize::new(0);
                let here = || {
                    team.run(8, |_, chunk| {
                        sum.fetch_add(chunk, Ordering::Relaxed);
                    });
                    round + 1
                };
                assert_eq!(team.beside(move || round, here), (round + 1, round));
                assert_eq!(sum.into_inner(), 28);
            }
            #[cfg(feature = "rayon")]
            if threads > 1 {
                // `here` waits for `other`, so it is another thread that runs it; a pool without an idle worker leaves it to the caller.
                let (send, receive) = std::sync::mpsc::channel();
                let this = std::thread::current().id();
                let send = move || send.send(std::thread::current().id()).unwrap();
                let seen = team.beside(send, || receive.recv_timeout(std::time::Duration::from_secs(60))).0;
                assert!(seen.unwrap() != this);
                let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
                let id = || std::thread::current().id();
                let (here, other) = pool.install(|| team.beside(id, id));
                assert_eq!(here, other);
            }
            let panics = |call: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_err();
            assert!(panics(&|| ((), ()) = team.beside(|| panic!("on purpose"), || ())));
            assert!(panics(&|| ((), ()) = team.beside(|| (), || panic!("on purpose"))));
            assert_eq!(team.beside(|| 1, || 2), (2, 1));
        }
    }

    #[test]
    fn run_after_a_rest_computes_every_chunk() {
        let team = Team::new(3);
        for _ in 0..200 {
            let total = AtomicUsize::new(0);
            team.run(40, |_, _| {
                total.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(total.into_inner(), 40);
            team.rest();
        }
    }

    #[test]
    fn run_with_gives_each_worker_its_own_scratch() {
        Team::enter(2, |team| {
            let mut sums = vec![0usize; team.threads()];
            team.run_with(&mut sums, 1000, |sum, chunk| *sum += chunk);
            assert_eq!(sums.iter().sum::<usize>(), 499_500);
        });
    }

    #[cfg(feature = "rayon")]
    #[test]
    fn run_inside_the_callers_pool_does_not_deadlock() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let total = AtomicUsize::new(0);
        pool.install(|| {
            Team::enter(4, |team| {
                team.run(100, |_, _| {
                    total.fetch_add(1, Ordering::Relaxed);
                });
            });
        });
        assert_eq!(total.into_inner(), 100);
    }
}
