//! `out = x * w^T` for quantised rows and a packed matrix, with the widest instructions that the processor has.
//!
//! One pass over the weights serves all rows: a tile of weights is unpacked once for up to [`ROWS`] rows. Every row is
//! computed by the same operations in the same order whatever the number of rows, so results are independent of the
//! batch (invariant: rows independent of `m`).

use super::activations::QuantizedRows;
use super::elementwise::{Activation, gate};
use super::packed::{BLOCK, PackedMatrix, TILE};
use super::pool::for_ranges;
use super::portable;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};

/// Rows that share one unpacking of a tile.
pub(crate) const ROWS: usize = 8;

/// Instructions that a product is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 with VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the compiler makes of plain Rust.
    Portable,
}

impl Isa {
    /// The best of this processor.
    #[must_use]
    pub fn detect() -> Self {
        Self::all().first().copied().unwrap_or(Self::Portable)
    }

    /// Those of this processor, the best first.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vnni")
            {
                all.push(Self::Avx512Vnni);
            }
            if is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
            {
                all.push(Self::Avx2);
            }
        }
        all.push(Self::Portable);
        all
    }

    /// As operators know it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => "AVX-512 VNNI",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "AVX2",
            Self::Portable => "portable",
        }
    }
}

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
    unsafe fn finish_tile(
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

/// Rows `[m, n]` of the product into `out`, whose rows are `n` floats.
///
/// # Panics
/// Where the shapes do not match.
pub fn matmul(isa: Isa, x: &QuantizedRows, w: &PackedMatrix, out: &mut [f32]) {
    assert_eq!(out.len(), x.m * w.n, "output shape");
    matmul_into(isa, x, w, OutPtr::new(out, w.n), Finish::Store);
}

/// The product to columns `0 .. n` of `out`, which has `m` rows of at least that many.
///
/// # Panics
/// Where the inner dimensions do not match.
pub(crate) fn matmul_into(
    isa: Isa,
    x: &QuantizedRows,
    w: &PackedMatrix,
    out: OutPtr,
    finish: Finish,
) {
    assert_fit(x, w);
    for_ranges(w.tiles(), |tiles| {
        let mut sums = Sums::default();
        for tile in tiles {
            let columns = TILE.min(w.n - tile * TILE);
            for row in (0..x.m).step_by(ROWS) {
                let rows = ROWS.min(x.m - row);
                multiply(isa, x, row, rows, w, tile, &mut sums);
                for (i, sums) in sums.iter().take(rows).enumerate() {
                    #[expect(unsafe_code, reason = "see SAFETY")]
                    // SAFETY: `tile` is in the range that this thread was given, `row + i < m`, and `columns` ends at `n`.
                    unsafe {
                        out.finish_tile((row + i, tile * TILE), sums, columns, finish);
                    }
                }
            }
        }
    });
}

/// `activation(gate) * up` for a matrix that holds the rows of `gate` and under them those of `up`: `[m, n / 2]` to `out`.
///
/// # Panics
/// Where the inner dimensions do not match, or half of `n` is no number of whole tiles.
pub(crate) fn matmul_gated(
    isa: Isa,
    x: &QuantizedRows,
    w: &PackedMatrix,
    activation: Activation,
    out: OutPtr,
) {
    assert_fit(x, w);
    assert!(
        w.n.is_multiple_of(2 * TILE),
        "gate and up must not share a tile"
    );
    let half = w.tiles() / 2;
    for_ranges(half, |tiles| {
        let (mut gates, mut ups) = (Sums::default(), Sums::default());
        for tile in tiles {
            for row in (0..x.m).step_by(ROWS) {
                let rows = ROWS.min(x.m - row);
                multiply(isa, x, row, rows, w, tile, &mut gates);
                multiply(isa, x, row, rows, w, half + tile, &mut ups);
                let (gates, ups) = (&mut gates[..rows], &ups[..rows]);
                gate(activation, gates.as_flattened_mut(), ups.as_flattened());
                for (i, sums) in gates.iter().enumerate() {
                    #[expect(unsafe_code, reason = "see SAFETY")]
                    // SAFETY: `tile` is in the range that this thread was given, and whole.
                    unsafe {
                        out.finish_tile((row + i, tile * TILE), sums, TILE, Finish::Store);
                    }
                }
            }
        }
    });
}

fn assert_fit(x: &QuantizedRows, w: &PackedMatrix) {
    assert_eq!(x.k, w.k, "inner dimensions");
    assert_eq!(
        x.groups, w.layout.groups,
        "rows quantised for another layout"
    );
}

/// # Panics
/// Where rows `row .. row + rows` are not all there, are none or more than [`ROWS`], or are not for `w`.
pub(crate) fn assert_rows(x: &QuantizedRows, row: usize, rows: usize, w: &PackedMatrix) {
    assert!((1..=ROWS).contains(&rows), "rows of one call");
    assert!(
        row + rows <= x.m && x.codes.len() >= x.m * x.k,
        "rows out of range"
    );
    let blocks = x.m * x.k / BLOCK;
    assert!(
        x.scales.len() >= blocks && x.sums.len() >= blocks * x.groups,
        "scales missing"
    );
    assert!(x.scaled_sums.len() == x.sums.len(), "sums missing");
    assert_fit(x, w);
}

/// What some rows give with one tile. Kept from call to call: every call overwrites the rows that it is for.
type Sums = [[f32; TILE]; ROWS];

/// Rows `row .. row + rows` times tile `tile`.
fn multiply(
    isa: Isa,
    x: &QuantizedRows,
    row: usize,
    rows: usize,
    w: &PackedMatrix,
    tile: usize,
    sums: &mut Sums,
) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => avx512::multiply(x, row, rows, w, tile, sums),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => {
            sums.fill([0.0; TILE]);
            avx2::multiply(x, row, rows, w, tile, sums);
        }
        Isa::Portable => {
            sums.fill([0.0; TILE]);
            portable::multiply(x, row, rows, w, tile, sums);
        }
    }
}
