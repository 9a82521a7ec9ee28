//! The threads that kernels share their work with: made by the engine, as many as the operator allows.
//!
//! A decode step of a small model is some 150 parallel operations of 10 to 50 microseconds, one after another, so starting
//! one must cost less than a microsecond. Idle workers therefore look out for work for a moment ([`SPINS`]) before they
//! sleep, and work is handed out by one compare-exchange for each piece. Nobody waits for a worker that has claimed
//! nothing: the caller works too, so a neighbour who takes a worker's processor delays one piece and not every operation
//! (a barrier of all threads, as Candle's own pool has it, made a step five times as long on a busy machine of two cores).

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

/// Looks of an idle worker before it sleeps: some 40 microseconds on processors whose pause takes 140 cycles.
const SPINS: u32 = 1_000;
/// Looks of the caller at unfinished pieces before it gives its processor away between looks.
const CALLER_SPINS: u32 = 4_000;

/// Threads for kernels. Dropping it ends them.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl ThreadPool {
    /// A pool of `threads` in all: the caller of an operation is one of them.
    ///
    /// # Errors
    /// Where the system refuses a thread.
    pub fn new(threads: usize) -> io::Result<Self> {
        let mut pool = Self {
            shared: Arc::default(),
            workers: Vec::new(),
        };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let named = Builder::new().name(format!("hansa-kernel-{index}"));
            pool.workers.push(named.spawn(move || shared.work())?);
        }
        Ok(pool)
    }

    /// Threads in all.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `work` on this thread; operations that it starts share themselves out over the pool.
    pub fn install<R>(&self, work: impl FnOnce() -> R) -> R {
        let current = Current {
            shared: Arc::as_ptr(&self.shared),
            threads: self.threads(),
        };
        let _restored = Restore(CURRENT.replace(Some(current)));
        work()
    }

    /// Runs `work` once for each item, on all threads, and waits for all of them.
    pub fn for_each<T: Send>(&self, items: Vec<T>, work: impl Fn(T) + Sync) {
        self.install(|| for_each(items, work));
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop();
        for worker in self.workers.drain(..) {
            // Pieces are fenced, so a worker has nothing to say when it ends.
            drop(worker.join());
        }
    }
}

impl fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadPool")
            .field("threads", &self.threads())
            .finish()
    }
}

/// Threads that an operation of the calling thread may use.
pub(crate) fn current_threads() -> usize {
    CURRENT.get().map_or(1, |current| current.threads)
}

/// Runs `work` for `0 .. pieces`, each once, on the threads of the installed pool, and waits for all of them. Without a
/// pool, or inside a piece, the caller does everything.
///
/// # Panics
/// With the panic of a piece, after every piece has ended.
pub(crate) fn for_pieces(pieces: usize, work: impl Fn(usize) + Sync) {
    let current = CURRENT.take();
    let _restored = Restore(current);
    match current {
        Some(current) if pieces > 1 && current.threads > 1 => {
            #[expect(unsafe_code, reason = "see SAFETY")]
            // SAFETY: `install` keeps the pool borrowed while the pointer is installed.
            let shared = unsafe { &*current.shared };
            match shared.take() {
                Some(_taken) => shared.run(pieces, &work),
                None => (0..pieces).for_each(work),
            }
        }
        _ => (0..pieces).for_each(work),
    }
}

/// Runs `work` once for each item, on all threads of the installed pool.
pub(crate) fn for_each<T: Send>(items: Vec<T>, work: impl Fn(T) + Sync) {
    let items: Vec<_> = items
        .into_iter()
        .map(|item| Mutex::new(Some(item)))
        .collect();
    for_pieces(items.len(), |piece| {
        let item = items[piece]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        item.into_iter().for_each(&work);
    });
}

thread_local! {
    /// The pool that operations of this thread use.
    static CURRENT: Cell<Option<Current>> = const { Cell::new(None) };
}

#[derive(Clone, Copy)]
struct Current {
    shared: *const Shared,
    threads: usize,
}

/// Puts back what was installed before, also when a panic passes.
struct Restore(Option<Current>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

/// A job's pieces are claimed through one word, `epoch << 32 | next piece`. Its description is only written while the word
/// says [`CLOSED`], and each opening has a new epoch; so who has read a description and then advances the word from the
/// value it saw before, has read the description of that very job.
#[derive(Default)]
struct Shared {
    /// A job is being run: who comes meanwhile from another thread works alone.
    taken: AtomicBool,
    claims: AtomicU64,
    pieces: AtomicUsize,
    /// The closure, and the function that calls it.
    work: AtomicPtr<()>,
    call: AtomicPtr<()>,
    /// Pieces that have ended.
    done: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stopped: AtomicBool,
    /// Workers that went to sleep since the bell was last rung.
    sleepers: AtomicUsize,
    door: Mutex<()>,
    bell: Condvar,
}

/// No piece is left, and none will come in this epoch.
const CLOSED: u64 = u32::MAX as u64;

type Call = unsafe fn(*const (), usize);

/// The right to run a job; given back when dropped.
struct Taken<'a>(&'a AtomicBool);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Shared {
    /// The right to run a job, unless another thread has it.
    fn take(&self) -> Option<Taken<'_>> {
        let was_taken = self.taken.swap(true, Ordering::Acquire);
        (!was_taken).then(|| Taken(&self.taken))
    }

    /// Offers the pieces to the workers, works itself, and returns when the last piece has ended.
    fn run<F: Fn(usize) + Sync>(&self, pieces: usize, work: &F) {
        let pieces = pieces.min(CLOSED as usize - 1);
        let epoch = (self.claims.load(Ordering::Relaxed) >> 32).wrapping_add(1) & CLOSED;
        self.claims.store(epoch << 32 | CLOSED, Ordering::Release);
        self.done.store(0, Ordering::Release);
        self.pieces.store(pieces, Ordering::Release);
        self.work
            .store(ptr::from_ref(work).cast_mut().cast(), Ordering::Release);
        self.call
            .store(call_piece::<F> as *mut (), Ordering::Release);
        let epoch = epoch.wrapping_add(1) & CLOSED;
        self.claims.store(epoch << 32, Ordering::SeqCst);
        if self.sleepers.swap(0, Ordering::SeqCst) > 0 {
            drop(self.door.lock());
            self.bell.notify_all();
        }
        while self.work_once() {}
        let mut looks = 0;
        while self.done.load(Ordering::Acquire) < pieces {
            if looks < CALLER_SPINS {
                looks += 1;
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        let panic = self
            .panic
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Claims a piece and runs it. False where there was none.
    fn work_once(&self) -> bool {
        let claims = self.claims.load(Ordering::Acquire);
        let pieces = self.pieces.load(Ordering::Acquire);
        let work = self.work.load(Ordering::Acquire);
        let call = self.call.load(Ordering::Acquire);
        let piece = claims & CLOSED;
        if piece as usize >= pieces || piece == CLOSED {
            return false;
        }
        let claimed =
            self.claims
                .compare_exchange(claims, claims + 1, Ordering::AcqRel, Ordering::Relaxed);
        if claimed.is_err() {
            return true;
        }
        #[expect(unsafe_code, reason = "see SAFETY")]
        // SAFETY: `call` was stored from a `Call` for the type behind `work`, and both belong to the job whose piece was
        // just claimed (see the type's comment). `run` has not returned, since this piece is not done, so the closure lives.
        let ended = catch_unwind(AssertUnwindSafe(|| unsafe {
            std::mem::transmute::<*mut (), Call>(call)(work, piece as usize);
        }));
        if let Err(panic) = ended {
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
        self.done.fetch_add(1, Ordering::Release);
        true
    }

    /// The life of a worker.
    fn work(&self) {
        let mut looks = 0;
        while !self.stopped.load(Ordering::Relaxed) {
            if self.work_once() {
                looks = 0;
            } else if looks < SPINS {
                looks += 1;
                std::hint::spin_loop();
            } else {
                self.sleep();
                looks = 0;
            }
        }
    }

    /// Sleeps until a job is opened, unless one has been since the last look.
    fn sleep(&self) {
        let door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let seen = self.claims.load(Ordering::SeqCst);
        let idle = seen & CLOSED >= self.pieces.load(Ordering::SeqCst) as u64;
        if idle && !self.stopped.load(Ordering::SeqCst) {
            drop(self.bell.wait(door));
        }
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        drop(self.door.lock());
        self.bell.notify_all();
    }
}

/// # Safety
/// `work` points to an `F` that lives.
#[expect(
    unsafe_code,
    reason = "the type of a closure is lost on its way to other threads"
)]
unsafe fn call_piece<F: Fn(usize) + Sync>(work: *const (), piece: usize) {
    // SAFETY: by contract.
    unsafe { (*work.cast::<F>())(piece) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_threads_that_share_a_pool_run_each_of_their_pieces_once() {
        let pool = pool();
        let run = |pieces: usize| {
            for _ in 0..200 {
                let counts: Vec<_> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
                pool.install(|| {
                    for_pieces(pieces, |i| {
                        counts[i].fetch_add(1, Ordering::Relaxed);
                    });
                });
                assert!(
                    counts
                        .iter()
                        .all(|count| count.load(Ordering::Relaxed) == 1)
                );
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| run(7));
            run(5);
        });
    }

    fn pool() -> ThreadPool {
        ThreadPool::new(3).unwrap()
    }

    #[test]
    fn every_piece_runs_once() {
        let pool = pool();
        for pieces in (0..200).chain([5_000]) {
            let counts: Vec<_> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
            pool.install(|| {
                for_pieces(pieces, |i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
            });
            assert!(
                counts
                    .iter()
                    .all(|count| count.load(Ordering::Relaxed) == 1)
            );
        }
    }

    #[test]
    fn many_short_jobs_in_a_row_lose_nothing() {
        let pool = pool();
        let sum = AtomicUsize::new(0);
        pool.install(|| {
            for job in 0..50_000 {
                for_pieces(3, |i| {
                    sum.fetch_add(job * 3 + i, Ordering::Relaxed);
                });
            }
        });
        assert_eq!(sum.into_inner(), (0..150_000).sum::<usize>());
    }

    #[test]
    fn workers_that_sleep_are_woken() {
        let pool = pool();
        while pool.shared.sleepers.load(Ordering::SeqCst) < 2 {
            std::thread::yield_now();
        }
        let met = std::sync::Barrier::new(3);
        pool.install(|| {
            for_pieces(3, |_| {
                met.wait();
            });
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_leaves_the_pool_usable() {
        let pool = pool();
        let fallen = catch_unwind(AssertUnwindSafe(|| {
            pool.install(|| for_pieces(8, |piece| assert!(piece != 5, "as asked")));
        }));
        assert!(fallen.is_err());
        let counted = Mutex::new(0);
        pool.for_each(vec![1; 8], |n| *counted.lock().unwrap() += n);
        assert_eq!(counted.into_inner().unwrap(), 8);
    }

    #[test]
    fn pieces_inside_pieces_are_the_callers() {
        let pool = pool();
        let count = AtomicUsize::new(0);
        pool.install(|| {
            for_pieces(4, |_| {
                for_pieces(4, |_| {
                    count.fetch_add(1, Ordering::Relaxed);
                });
            });
        });
        assert_eq!(count.into_inner(), 16);
    }
}
