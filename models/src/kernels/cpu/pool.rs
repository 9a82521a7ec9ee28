//! How kernels cut their work into pieces for the threads of the installed [`crate::ThreadPool`].

use std::ops::Range;

pub(crate) use crate::threads::for_each;
use crate::threads::{current_threads, for_pieces};

/// Numbers below which a row-wise operation is not worth waking a thread.
const SERIAL_NUMBERS_MAX: usize = 4_096;
/// Pieces of an operation for each thread: more would be overhead, fewer would wait for the slowest.
const PIECES_PER_THREAD: usize = 4;

/// Runs `work` on ranges that together are `0 .. count`, on all threads, and waits for all of them.
pub(crate) fn for_ranges(count: usize, work: impl Fn(Range<usize>) + Sync) {
    let len = count.div_ceil(pieces_max()).max(1);
    for_pieces(count.div_ceil(len), |piece| {
        work(piece * len..count.min((piece + 1) * len));
    });
}

/// Rows of `width` numbers that one thread should work on at a time: all of them where they are few.
pub(crate) fn rows_per_piece(rows: usize, width: usize) -> usize {
    if rows * width <= SERIAL_NUMBERS_MAX {
        return rows.max(1);
    }
    rows.div_ceil(pieces_max())
}

/// Pieces that an operation is cut into at most.
pub(crate) fn pieces_max() -> usize {
    match current_threads() {
        1 => 1,
        threads => threads * PIECES_PER_THREAD,
    }
}
