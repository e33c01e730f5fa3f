//! A small thread pool: runs task 0..n, each by whichever thread is free.
//!
//! Which thread runs a task never shows in a result: tasks write to places of their own. Threads look for work for
//! some microseconds after the last (ops follow each other closely) and sleep then. A pool used from inside one of
//! its tasks runs the inner tasks in place.
//!
//! One word holds the number of the job, whether it is open, and how many workers are in it. A worker enters by
//! compare-and-swap while it is open; the caller closes it and waits for those inside, so the job may live on the
//! caller's stack, and a worker that the system has not woken yet is not waited for.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Bits of the state word: workers inside, open, job number.
const INSIDE: u64 = 0xffff;
const OPEN: u64 = 1 << 16;
const NUMBER: u64 = 1 << 17;

/// Rounds of looking for work before sleeping: about 50 microseconds.
const SPINS: u32 = 4000;

/// `(task, worker)`; `worker` is below [`Pool::threads`] and no two tasks run with the same one at once.
type Task<'a> = &'a (dyn Fn(usize, usize) + Sync);

struct Job {
    task: Task<'static>,
    count: usize,
    next: AtomicUsize,
    panicked: AtomicBool,
}

impl Job {
    fn work(&self, worker: usize) {
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= self.count {
                return;
            }
            (self.task)(task, worker);
        }
    }

    fn work_caught(&self, worker: usize) {
        if catch_unwind(AssertUnwindSafe(|| self.work(worker))).is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
    }
}

#[derive(Default)]
struct Shared {
    state: AtomicU64,
    job: AtomicPtr<Job>,
    sleepers: Mutex<usize>,
    wake: Condvar,
    stop: AtomicBool,
}

/// Threads that run tasks together with the caller.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    /// One job at a time.
    busy: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

thread_local! {
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the locks guard is valid at every moment, so a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// A pool of `threads` threads, the caller included; fewer when the system gives no more.
    pub(crate) fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let spawn = |worker: usize| {
            let shared = Arc::clone(&shared);
            let name = format!("scumble-cpu-{worker}");
            std::thread::Builder::new().name(name).spawn(move || serve(&shared, worker)).ok()
        };
        let most = threads.clamp(1, INSIDE as usize / 2);
        let workers = (1..most).map_while(spawn).collect();
        Self { shared, busy: Mutex::new(()), workers }
    }

    /// Number of threads, the caller included.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(0..count, worker)`, in no particular order, and returns when all are done.
    pub(crate) fn run(&self, count: usize, task: impl Fn(usize, usize) + Sync) {
        if count <= 1 || self.workers.is_empty() || IN_TASK.get() {
            (0..count).for_each(|index| task(index, 0));
            return;
        }
        let _one_at_a_time = lock(&self.busy);
        let task: Task<'_> = &task;
        // SAFETY: only the lifetime changes; the job is closed and empty of workers before this function returns.
        let task = unsafe { std::mem::transmute::<Task<'_>, Task<'static>>(task) };
        let job = Job { task, count, next: AtomicUsize::new(0), panicked: AtomicBool::new(false) };
        self.shared.job.store(std::ptr::from_ref(&job).cast_mut(), Ordering::Relaxed);
        let number = (self.shared.state.load(Ordering::Relaxed) & !(OPEN | INSIDE)).wrapping_add(NUMBER);
        self.shared.state.store(number | OPEN, Ordering::SeqCst);
        if *lock(&self.shared.sleepers) > 0 {
            self.shared.wake.notify_all();
        }
        IN_TASK.set(true);
        job.work_caught(0);
        IN_TASK.set(false);
        self.shared.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0;
        while self.shared.state.load(Ordering::Acquire) & INSIDE != 0 {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        if job.panicked.load(Ordering::Relaxed) {
            resume_unwind(Box::new("a task of the thread pool panicked"));
        }
    }

    /// Cuts `data` in pieces of `piece` elements (the last may be shorter) and runs `task(index, piece)` on each.
    pub(crate) fn run_pieces<T: Send>(
        &self,
        data: &mut [T],
        piece: usize,
        task: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let (piece, len) = (piece.max(1), data.len());
        let base = SharedMut::new(data);
        self.run(len.div_ceil(piece), |index, _| {
            let start = index * piece;
            // SAFETY: every task has a range of its own, and all end within the slice.
            task(index, unsafe { base.slice(start, piece.min(len - start)) });
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        {
            let _sleepers = lock(&self.shared.sleepers);
            self.shared.wake.notify_all();
        }
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks, so there is nothing to learn from joining.
            worker.join().ok();
        }
    }
}

/// A worker's life.
fn serve(shared: &Shared, worker: usize) {
    IN_TASK.set(true);
    let mut seen = 0;
    loop {
        let state = wait_for_job(shared, seen);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let enter = shared.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed);
        if enter.is_err() {
            continue;
        }
        // SAFETY: having entered an open job, it stays where it is until this worker leaves.
        let job = unsafe { &*shared.job.load(Ordering::Acquire) };
        job.work_caught(worker);
        seen = state & !(OPEN | INSIDE);
        shared.state.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Waits until there is an open job other than `seen`, or the pool stops.
fn wait_for_job(shared: &Shared, seen: u64) -> u64 {
    let look = || {
        let state = shared.state.load(Ordering::SeqCst);
        let fresh = state & OPEN != 0 && state & !(OPEN | INSIDE) != seen;
        (fresh || shared.stop.load(Ordering::SeqCst)).then_some(state)
    };
    for _ in 0..SPINS {
        if let Some(state) = look() {
            return state;
        }
        std::hint::spin_loop();
    }
    let mut sleepers = lock(&shared.sleepers);
    *sleepers += 1;
    loop {
        // The caller opens the job before it takes this lock, so either it is seen here or the wake-up comes.
        if let Some(state) = look() {
            *sleepers -= 1;
            return state;
        }
        sleepers = shared.wake.wait(sleepers).unwrap_or_else(PoisonError::into_inner);
    }
}

/// A slice that several tasks write to, each to its own part.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut<'a, T> {
    start: *mut T,
    len: usize,
    _slice: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: handing parts to other threads is what `slice`'s contract is about.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), _slice: std::marker::PhantomData }
    }

    /// Where an element is, or would be.
    pub(crate) fn at(&self, index: usize) -> *const T {
        self.start.wrapping_add(index)
    }

    /// Where a part begins that lies within the slice, for who writes some of its elements only.
    pub(crate) fn part(&self, start: usize, len: usize) -> *mut T {
        assert!(start <= self.len && len <= self.len - start, "a part beyond the end");
        self.start.wrapping_add(start)
    }

    /// A part of the slice, cut to its end.
    ///
    /// # Safety
    /// No two parts in use at the same time may overlap.
    #[allow(clippy::mut_from_ref)] // disjointness is the caller's promise
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &'a mut [T] {
        let start = start.min(self.len);
        let len = len.min(self.len - start);
        // SAFETY: within the slice by the two lines above; disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            for round in 0..300 {
                let mut hits = vec![0u32; round];
                pool.run_pieces(&mut hits, 3, |_, piece| piece.iter_mut().for_each(|hit| *hit += 1));
                assert!(hits.iter().all(|&hit| hit == 1), "{threads} threads, {round} elements");
            }
        }
    }

    #[test]
    fn nested_and_concurrent_use() {
        let pool = Pool::new(3);
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        pool.run(4, |_, _| {
                            pool.run(5, |_, _| {
                                total.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 3 * 50 * 20);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        let caught = catch_unwind(AssertUnwindSafe(|| pool.run(8, |task, _| assert!(task != 5))));
        assert!(caught.is_err());
        let count = AtomicUsize::new(0);
        pool.run(8, |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 8);
    }
}
