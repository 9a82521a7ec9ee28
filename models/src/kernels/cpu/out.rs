//! Where products and attention write: rows of one buffer whose columns are shared out over threads.
//!
//! It knows that pieces do not overlap by the word of its callers alone, so each of them says why in a safety argument.

use super::packed::TILE;

/// Where a product writes: rows of `stride` floats, of which one thread owns the columns of its tiles.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutPtr {
    start: *mut f32,
    stride: usize,
}

// SAFETY: threads are given disjoint ranges of tiles, and a tile's columns are written only by the thread
// that owns the tile; the buffer outlives the product, which waits for all threads.
#[expect(unsafe_code, reason = "see SAFETY")]
unsafe impl Send for OutPtr {}
// SAFETY: as for `Send`.
#[expect(unsafe_code, reason = "see SAFETY")]
unsafe impl Sync for OutPtr {}

/// `len` numbers that `write` writes, without zeroing them first: the larger a product, the more that costs.
///
/// # Safety
/// `write` writes every number.
#[expect(unsafe_code, reason = "memory that is written once; see Safety")]
pub(crate) unsafe fn written(len: usize, stride: usize, write: impl FnOnce(OutPtr)) -> Vec<f32> {
    let mut out = Vec::with_capacity(len);
    write(OutPtr {
        start: out.as_mut_ptr(),
        stride,
    });
    // SAFETY: the memory is there, and has been written by contract.
    unsafe { out.set_len(len) };
    out
}

impl OutPtr {
    pub(crate) fn new(out: &mut [f32], stride: usize) -> Self {
        Self {
            start: out.as_mut_ptr(),
            stride,
        }
    }

    /// The same rows from column `column` on.
    ///
    /// # Safety
    /// The rows have that many columns.
    #[expect(unsafe_code, reason = "moves inside the buffer by contract")]
    pub(crate) unsafe fn columns_from(self, column: usize) -> Self {
        Self {
            // SAFETY: by contract.
            start: unsafe { self.start.add(column) },
            stride: self.stride,
        }
    }

    /// `values` to columns `column ..` of `row`.
    ///
    /// # Safety
    /// The columns are inside the buffer, and no other thread touches them.
    #[expect(unsafe_code, reason = "threads write disjoint columns of one row")]
    #[inline]
    pub(crate) unsafe fn finish(self, row: usize, column: usize, values: &[f32], finish: Finish) {
        // SAFETY: by contract; what is added to has been written before.
        unsafe {
            let target = self.start.add(row * self.stride + column);
            match finish {
                Finish::Store => {
                    std::ptr::copy_nonoverlapping(values.as_ptr(), target, values.len());
                }
                Finish::Add => {
                    let target = std::slice::from_raw_parts_mut(target, values.len());
                    target.iter_mut().zip(values).for_each(|(to, x)| *to += x);
                }
            }
        }
    }

    /// The outputs of one tile to columns `column ..` of `row`; only the first `columns` of them where the tile is the
    /// last one. A whole tile has a length that the compiler knows: no call copies it.
    ///
    /// # Safety
    /// As [`Self::finish`].
    #[expect(unsafe_code, reason = "as `finish`")]
    #[inline]
    pub(crate) unsafe fn finish_tile(
        self,
        (row, column): (usize, usize),
        values: &[f32; TILE],
        columns: usize,
        finish: Finish,
    ) {
        // SAFETY: by contract.
        unsafe {
            if columns == TILE {
                self.finish(row, column, values, finish);
            } else {
                self.finish(row, column, &values[..columns], finish);
            }
        }
    }
}

/// What happens to a product's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finish {
    /// They replace what is there.
    Store,
    /// They are added to what is there.
    Add,
}
