//! Sharing work out over the threads of the caller's rayon pool: the engine brings the pool.
//!
//! Not Candle's barrier pool: there every call waits until each worker has been scheduled, also when no work is left, so one
//! busy neighbour on a small machine costs a time slice for every operation. Here the caller takes back what nobody has
//! begun. A panic reaches the caller and leaves the pool usable.

use std::ops::Range;

use rayon::prelude::*;

/// Numbers below which a row-wise operation is not worth waking a thread.
const SERIAL_NUMBERS_MAX: usize = 4_096;
/// Pieces of an operation for each thread: more would be overhead, fewer would wait for the slowest.
const PIECES_PER_THREAD: usize = 4;

/// Runs `work` on ranges that together are `0 .. count`, on all threads, and waits for all of them.
pub(crate) fn for_ranges(count: usize, work: impl Fn(Range<usize>) + Sync + Send) {
    let pieces = rayon::current_num_threads() * PIECES_PER_THREAD;
    let len = count.div_ceil(pieces).max(1);
    let starts = (0..count).into_par_iter().step_by(len);
    starts.for_each(|start| work(start..count.min(start + len)));
}

/// Runs `work` once for each item, on all threads.
pub(crate) fn for_each<T: Send>(items: Vec<T>, work: impl Fn(T) + Sync + Send) {
    if items.len() <= 1 {
        items.into_iter().for_each(work);
        return;
    }
    items.into_par_iter().with_max_len(1).for_each(work);
}

/// Runs `work(first row, rows)` over pieces of `out`, whose rows are `width` numbers.
pub(crate) fn for_rows(
    out: &mut [f32],
    width: usize,
    work: impl Fn(usize, &mut [f32]) + Sync + Send,
) {
    let rows_per_piece = rows_per_piece(out.len() / width, width);
    let pieces = out.chunks_mut(rows_per_piece * width).enumerate().collect();
    for_each(pieces, |(piece, rows)| work(piece * rows_per_piece, rows));
}

/// Rows of `width` numbers that one thread should work on at a time: all of them where they are few.
pub(crate) fn rows_per_piece(rows: usize, width: usize) -> usize {
    if rows * width <= SERIAL_NUMBERS_MAX {
        return rows.max(1);
    }
    rows.div_ceil(rayon::current_num_threads() * PIECES_PER_THREAD)
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;
    use std::sync::Mutex;

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
