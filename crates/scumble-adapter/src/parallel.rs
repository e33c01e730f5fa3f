//! Independent work on many modules, on several threads, with results in the order of the modules.
//!
//! Nothing that a module's work computes depends on the others or on which thread does it, so results are the same
//! whatever the number of threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::Result;

/// Called after each finished item with how many are done, from any thread.
pub type OnDone<'a> = &'a (dyn Fn(usize) + Sync);

/// `work` on every item. After a failure no further item is begun; of several failures the first item's is returned.
pub fn map<I: Sync, T: Send>(
    threads: usize,
    items: &[I],
    on_done: OnDone<'_>,
    work: impl Fn(&I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let results: Mutex<Vec<(usize, Result<T>)>> = Mutex::new(Vec::with_capacity(items.len()));
    let run = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return };
            let result = work(item);
            if result.is_err() {
                next.store(items.len(), Ordering::Relaxed);
            }
            results.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
            on_done(done.fetch_add(1, Ordering::Relaxed) + 1);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.clamp(1, items.len().max(1)) {
            scope.spawn(run);
        }
        run();
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|&(index, _)| index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::AdapterError;

    #[test]
    fn results_come_in_order_and_the_first_failure_wins() {
        let items: Vec<usize> = (0..100).collect();
        for threads in [1, 3, 200] {
            let squares = map(threads, &items, &|_| (), |&item| Ok(item * item)).unwrap();
            assert!(squares.iter().enumerate().all(|(i, &square)| square == i * i));
            let fails = |&item: &usize| match item {
                10 | 60 => Err(AdapterError::Selection { what: format!("item {item}") }),
                _ => Ok(()),
            };
            assert_eq!(map(threads, &items, &|_| (), fails).unwrap_err().to_string(), "item 10");
        }
        assert!(map::<usize, ()>(2, &[], &|_| (), |_| Ok(())).unwrap().is_empty());
    }
}
