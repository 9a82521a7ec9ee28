//! Sharing work out over Candle's own worker threads, so that our kernels and Candle's never compete for cores.

use std::sync::{Mutex, PoisonError};

use candle_core::utils::barrier_pool;

/// Numbers below which a row-wise operation is not worth waking a thread.
const SERIAL_NUMBERS_MAX: usize = 4_096;
/// Pieces of a row-wise operation for each thread: more would be overhead, fewer would wait for the slowest.
const PIECES_PER_THREAD: usize = 4;

/// Runs `work` once for each item, on all threads.
pub(crate) fn for_each<T: Send>(items: Vec<T>, work: impl Fn(T) + Sync) {
    if items.len() <= 1 {
        items.into_iter().for_each(work);
        return;
    }
    // A lock for each item: nobody ever waits on one, they only carry items across threads in safe code.
    let items: Vec<Mutex<Option<T>>> = items.into_iter().map(|i| Mutex::new(Some(i))).collect();
    barrier_pool().execute_chunked(items.len(), |range| {
        for item in &items[range] {
            let taken = item.lock().unwrap_or_else(PoisonError::into_inner).take();
            taken.into_iter().for_each(&work);
        }
    });
}

/// Runs `work(first row, rows)` over pieces of `out`, whose rows are `width` numbers.
pub(crate) fn for_rows(out: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    if out.len() <= SERIAL_NUMBERS_MAX {
        work(0, out);
        return;
    }
    let rows = out.len() / width;
    let threads = barrier_pool().n_workers() + 1;
    let rows_per_piece = rows.div_ceil(threads * PIECES_PER_THREAD);
    let pieces = out.chunks_mut(rows_per_piece * width).enumerate().collect();
    for_each(pieces, |(piece, rows)| work(piece * rows_per_piece, rows));
}
