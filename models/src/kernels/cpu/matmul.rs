//! `out = x * w^T` for quantised rows and a packed matrix, with the widest instructions that the processor has.
//!
//! One pass over the weights serves all rows: a tile of weights is unpacked once for up to [`ROWS`] rows. Every row is
//! computed by the same operations in the same order whatever the number of rows, so results are independent of the
//! batch (invariant: rows independent of `m`).

use super::activations::QuantizedRows;
#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::packed::{PackedMatrix, TILE};
use super::pool::for_ranges;
use super::portable;

/// Rows that share one unpacking of a tile.
pub(crate) const ROWS: usize = 8;

/// Instructions that a product is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 with VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// Whatever the compiler makes of plain Rust.
    Portable,
}

impl Isa {
    /// The best of this processor.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512vnni")
        {
            return Self::Avx512Vnni;
        }
        Self::Portable
    }
}

/// Where a product writes: rows of `stride` floats, of which one thread owns the columns of its tiles.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutPtr {
    start: *mut f32,
    stride: usize,
}

// SAFETY: threads are given disjoint ranges of tiles, and a tile's columns are written through `store` only by the thread
// that owns the tile; the buffer outlives the product, which waits for all threads.
#[expect(unsafe_code, reason = "see SAFETY")]
unsafe impl Send for OutPtr {}
// SAFETY: as for `Send`.
#[expect(unsafe_code, reason = "see SAFETY")]
unsafe impl Sync for OutPtr {}

impl OutPtr {
    /// `values` to columns `column ..` of `row`.
    ///
    /// # Safety
    /// The columns lie in a tile that the calling thread owns, and inside the buffer.
    #[expect(unsafe_code, reason = "threads write disjoint columns of one row")]
    #[inline]
    pub(crate) unsafe fn store(self, row: usize, column: usize, values: &[f32]) {
        // SAFETY: by contract the range is inside the buffer and no one else touches it.
        unsafe {
            let target = self.start.add(row * self.stride + column);
            std::ptr::copy_nonoverlapping(values.as_ptr(), target, values.len());
        }
    }
}

/// Rows `[m, n]` of the product into `out`, whose rows are `n` floats.
///
/// # Panics
/// Where the shapes do not match.
pub fn matmul(isa: Isa, x: &QuantizedRows, w: &PackedMatrix, out: &mut [f32]) {
    assert_eq!(x.k, w.k, "inner dimensions");
    assert_eq!(
        x.groups, w.layout.groups,
        "rows quantised for another layout"
    );
    assert_eq!(out.len(), x.m * w.n, "output shape");
    let out = OutPtr {
        start: out.as_mut_ptr(),
        stride: w.n,
    };
    for_ranges(w.tiles(), |tiles| {
        for tile in tiles {
            multiply_tile(isa, x, w, tile, out);
        }
    });
}

/// The product of all rows with one tile.
fn multiply_tile(isa: Isa, x: &QuantizedRows, w: &PackedMatrix, tile: usize, out: OutPtr) {
    let columns = TILE.min(w.n - tile * TILE);
    let mut row = 0;
    while row < x.m {
        let rows = ROWS.min(x.m - row);
        let mut sums = [[0.0f32; TILE]; ROWS];
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => avx512::multiply(x, row, rows, w, tile, &mut sums),
            Isa::Portable => portable::multiply(x, row, rows, w, tile, &mut sums),
        }
        for (i, sums) in sums.iter().take(rows).enumerate() {
            #[expect(unsafe_code, reason = "see SAFETY")]
            // SAFETY: `tile` is in the range that this thread was given, `row + i < m`, and `columns` ends at `n`.
            unsafe {
                out.store(row + i, tile * TILE, &sums[..columns]);
            }
        }
        row += rows;
    }
}
