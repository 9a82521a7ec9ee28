//! Instruction sets: what multiplies a tile of packed weights, one file for each, and which of them this processor has.
//!
//! A file has `detected()` and `multiply(job, sums)`. What it must keep: the integer sums are exact, and each row is
//! computed by the same operations in the same order however many rows the job has.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

use super::activations::QuantizedRows;
use super::packed::{BLOCK, PackedMatrix, TILE};

/// Rows that share one unpacking of a tile.
pub(crate) const ROWS: usize = 8;

/// What some rows give with one tile. Kept from job to job: each overwrites the rows that it has.
pub(crate) type Sums = [[f32; TILE]; ROWS];

/// Instructions that products are made of, and that this processor has: nobody else makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(Set);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    NeonDot,
    Portable,
}

impl Isa {
    /// Whatever the compiler makes of plain Rust.
    pub const PORTABLE: Self = Self(Set::Portable);

    /// The best of this processor.
    #[must_use]
    pub fn detect() -> Self {
        Self::all().first().copied().unwrap_or(Self::PORTABLE)
    }

    /// Those of this processor, the best first.
    pub(crate) fn all() -> Vec<Self> {
        [
            #[cfg(target_arch = "x86_64")]
            (Set::Avx512Vnni, avx512::detected()),
            #[cfg(target_arch = "x86_64")]
            (Set::Avx2, avx2::detected()),
            #[cfg(target_arch = "aarch64")]
            (Set::NeonDot, neon::detected()),
            (Set::Portable, true),
        ]
        .into_iter()
        .filter_map(|(set, detected)| detected.then_some(Self(set)))
        .collect()
    }

    /// As operators know it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Vnni => "AVX-512 VNNI",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "AVX2",
            #[cfg(target_arch = "aarch64")]
            Set::NeonDot => "NEON with dot products",
            Set::Portable => "portable",
        }
    }

    /// Writes the products of a job: row `i` of `sums` is that of its row `i`.
    ///
    /// # Panics
    /// Where the job has no rows or more than [`ROWS`], or they are not all there.
    #[cfg_attr(
        any(target_arch = "x86_64", target_arch = "aarch64"),
        expect(unsafe_code, reason = "the only way to the instructions; see SAFETY")
    )]
    pub(crate) fn multiply(self, job: &TileJob<'_>, sums: &mut Sums) {
        job.assert_whole();
        match self.0 {
            // SAFETY here and below: a set is only made where it was detected, and the job was found whole.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Vnni => unsafe { avx512::multiply(job, sums) },
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => unsafe { avx2::multiply(job, sums) },
            #[cfg(target_arch = "aarch64")]
            Set::NeonDot => unsafe { neon::multiply(job, sums) },
            Set::Portable => portable::multiply(job, sums),
        }
    }
}

/// Rows `row .. row + rows` of `x` times tile `tile` of `w`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TileJob<'a> {
    pub(crate) x: &'a QuantizedRows,
    pub(crate) row: usize,
    /// 1 to [`ROWS`].
    pub(crate) rows: usize,
    pub(crate) w: &'a PackedMatrix,
    pub(crate) tile: usize,
}

impl TileJob<'_> {
    /// What the bounds of all reads of an instruction set's file rest upon.
    ///
    /// # Panics
    /// Where the rows are none, more than [`ROWS`] or not all there, or were quantised for another layout.
    fn assert_whole(&self) {
        let Self { x, w, .. } = *self;
        assert!((1..=ROWS).contains(&self.rows), "rows of one call");
        assert!(
            self.row + self.rows <= x.m && x.codes.len() >= x.m * x.k,
            "rows out of range"
        );
        let blocks = x.m * x.k / BLOCK;
        assert!(
            x.scales.len() >= blocks && x.sums.len() >= blocks * x.groups,
            "scales missing"
        );
        assert!(x.scaled_sums.len() == x.sums.len(), "sums missing");
        x.assert_fit(w);
    }
}
