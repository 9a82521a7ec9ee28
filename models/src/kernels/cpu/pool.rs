//! Sharing work out over Candle's own worker threads, so that our kernels and Candle's never compete for cores.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError};

use candle_core::utils::barrier_pool;

/// Numbers below which a row-wise operation is not worth waking a thread.
const SERIAL_NUMBERS_MAX: usize = 4_096;
/// Pieces of a row-wise operation for each thread: more would be overhead, fewer would wait for the slowest.
const PIECES_PER_THREAD: usize = 4;

/// Runs `work` on ranges that together are `0 .. count`, on all threads, and waits for all of them.
///
/// A panic in `work` is carried to the caller past the pool: unwinding through it would poison the lock that serialises
/// its callers, and no kernel could ever run again.
pub(crate) fn for_ranges(count: usize, work: impl Fn(Range<usize>) + Sync) {
    let panicked: Mutex<Option<Box<dyn Any + Send>>> = Mutex::new(None);
    barrier_pool().execute_chunked(count, |range| {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| work(range))) {
            *panicked.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
        }
    });
    if let Some(payload) = panicked
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
    {
        resume_unwind(payload);
    }
}

/// Runs `work` once for each item, on all threads.
pub(crate) fn for_each<T: Send>(items: Vec<T>, work: impl Fn(T) + Sync) {
    if items.len() <= 1 {
        items.into_iter().for_each(work);
        return;
    }
    // A lock for each item: nobody ever waits on one, they only carry items across threads in safe code.
    let items: Vec<Mutex<Option<T>>> = items.into_iter().map(|i| Mutex::new(Some(i))).collect();
    for_ranges(items.len(), |range| {
        for item in &items[range] {
            let taken = item.lock().unwrap_or_else(PoisonError::into_inner).take();
            taken.into_iter().for_each(&work);
        }
    });
}

/// Runs `work(first row, rows)` over pieces of `out`, whose rows are `width` numbers.
pub(crate) fn for_rows(out: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    let rows_per_piece = rows_per_piece(out.len() / width, width);
    let pieces = out.chunks_mut(rows_per_piece * width).enumerate().collect();
    for_each(pieces, |(piece, rows)| work(piece * rows_per_piece, rows));
}

/// Rows of `width` numbers that one thread should work on at a time: all of them where they are few.
pub(crate) fn rows_per_piece(rows: usize, width: usize) -> usize {
    if rows * width <= SERIAL_NUMBERS_MAX {
        return rows.max(1);
    }
    let threads = barrier_pool().n_workers() + 1;
    rows.div_ceil(threads * PIECES_PER_THREAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_reaches_the_caller_and_leaves_the_pool_usable() {
        let fallen =
            catch_unwind(|| for_ranges(8, |range| assert!(!range.contains(&5), "as asked")));
        assert!(fallen.is_err());
        let counted = Mutex::new(0);
        for_ranges(8, |range| *counted.lock().unwrap() += range.len());
        assert_eq!(counted.into_inner().unwrap(), 8);
    }
}
