//! The product with weights that are numbers as they are: F16, BF16 and F32.
//!
//! Tiles of 16 outputs, `[tile][k][16]`, so that one register holds the same input of 16 outputs. Each output sums even and
//! odd inputs apart and then adds both, whatever the number of rows: two chains hide the latency of a multiply-add, and
//! the order is fixed (invariant: rows independent of `m`).

use half::{bf16, f16};

use super::isa::ROWS;
use super::out::{Finish, OutPtr};
use super::packed::TILE;
use super::pool::for_ranges;
use super::simd::{LANES, Simd, simd_dispatch};

/// A weight matrix `[n, k]` in tiles.
#[derive(Debug)]
pub(crate) struct DenseMatrix {
    n: usize,
    k: usize,
    tiles: Tiles,
}

#[derive(Debug)]
enum Tiles {
    F16(Vec<[f16; TILE]>),
    Bf16(Vec<[bf16; TILE]>),
    F32(Vec<[f32; TILE]>),
}

/// Number types of plain weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DenseKind {
    F16,
    Bf16,
    F32,
}

impl DenseMatrix {
    /// Cuts a matrix `[n, k]`, whose little-endian numbers are `raw`, into tiles. Outputs beyond `n` are zero. `None` where
    /// `raw` has not the length that the shape asks for, or a size is 0.
    pub(crate) fn pack(kind: DenseKind, raw: &[u8], n: usize, k: usize) -> Option<Self> {
        let size = if kind == DenseKind::F32 { 4 } else { 2 };
        if n == 0 || k == 0 || raw.len() != n.checked_mul(k)?.checked_mul(size)? {
            return None;
        }
        let tiles = match kind {
            DenseKind::F16 => Tiles::F16(tile(raw, n, k, f16::from_le_bytes)),
            DenseKind::Bf16 => Tiles::Bf16(tile(raw, n, k, bf16::from_le_bytes)),
            DenseKind::F32 => Tiles::F32(tile(raw, n, k, f32::from_le_bytes)),
        };
        Some(Self { n, k, tiles })
    }

    pub(crate) const fn n(&self) -> usize {
        self.n
    }

    pub(crate) const fn k(&self) -> usize {
        self.k
    }

    /// Weight row `row` to `out`, `[k]`.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        let range = row / TILE * self.k..;
        let lane = row % TILE;
        match &self.tiles {
            Tiles::F16(tiles) => copy(&tiles[range], lane, out),
            Tiles::Bf16(tiles) => copy(&tiles[range], lane, out),
            Tiles::F32(tiles) => copy(&tiles[range], lane, out),
        }
    }

    /// Rows `x`, `[m, k]`, times the matrix, to columns `0 .. n` of `out`.
    ///
    /// # Panics
    /// Where `x` is no number of whole rows.
    pub(crate) fn multiply(&self, x: &[f32], out: OutPtr, finish: Finish) {
        assert!(x.len().is_multiple_of(self.k), "whole rows");
        for_ranges(self.n.div_ceil(TILE), |tiles| {
            for tile in tiles {
                self.multiply_tile(x, tile, out, finish);
            }
        });
    }

    fn multiply_tile(&self, x: &[f32], tile: usize, out: OutPtr, finish: Finish) {
        let columns = TILE.min(self.n - tile * TILE);
        let range = tile * self.k..(tile + 1) * self.k;
        let mut sums = [[0.0; TILE]; ROWS];
        for (piece, x) in x.chunks(ROWS * self.k).enumerate() {
            match &self.tiles {
                Tiles::F16(tiles) => multiply_f16(x, &tiles[range.clone()], &mut sums),
                Tiles::Bf16(tiles) => multiply_bf16(x, &tiles[range.clone()], &mut sums),
                Tiles::F32(tiles) => multiply_f32(x, &tiles[range.clone()], &mut sums),
            }
            for (i, sums) in sums.iter().take(x.len() / self.k).enumerate() {
                #[expect(unsafe_code, reason = "see SAFETY")]
                // SAFETY: this thread alone has the tile, the rows are those of `x`, and `columns` ends at `n`.
                unsafe {
                    out.finish(piece * ROWS + i, tile * TILE, &sums[..columns], finish);
                }
            }
        }
    }
}

fn tile<T: Copy + Default, const SIZE: usize>(
    raw: &[u8],
    n: usize,
    k: usize,
    read: fn([u8; SIZE]) -> T,
) -> Vec<[T; TILE]> {
    let mut tiles = vec![[T::default(); TILE]; n.div_ceil(TILE) * k];
    let (numbers, _) = raw.as_chunks::<SIZE>();
    for (row, numbers) in numbers.chunks_exact(k).enumerate() {
        let tile = &mut tiles[row / TILE * k..][..k];
        for (to, number) in tile.iter_mut().zip(numbers) {
            to[row % TILE] = read(*number);
        }
    }
    tiles
}

fn copy<T: Copy + Into<f32>>(tile: &[[T; TILE]], lane: usize, out: &mut [f32]) {
    for (to, from) in out.iter_mut().zip(tile) {
        *to = from[lane].into();
    }
}

simd_dispatch! {
    fn multiply_f16 = multiply_f16_body(x: &[f32], w: &[[f16; TILE]], sums: &mut [[f32; TILE]; ROWS])
}
simd_dispatch! {
    fn multiply_bf16 = multiply_bf16_body(x: &[f32], w: &[[bf16; TILE]], sums: &mut [[f32; TILE]; ROWS])
}
simd_dispatch! {
    fn multiply_f32 = multiply_f32_body(x: &[f32], w: &[[f32; TILE]], sums: &mut [[f32; TILE]; ROWS])
}

#[inline(always)]
fn multiply_f16_body<S: Simd>(x: &[f32], w: &[[f16; TILE]], sums: &mut [[f32; TILE]; ROWS]) {
    multiply_rows::<S, _>(x, w, S::widen, sums);
}

#[inline(always)]
fn multiply_bf16_body<S: Simd>(x: &[f32], w: &[[bf16; TILE]], sums: &mut [[f32; TILE]; ROWS]) {
    multiply_rows::<S, _>(x, w, widen_bf16, sums);
}

#[inline(always)]
fn multiply_f32_body<S: Simd>(x: &[f32], w: &[[f32; TILE]], sums: &mut [[f32; TILE]; ROWS]) {
    multiply_rows::<S, _>(x, w, |from, to| *to = *from, sums);
}

#[inline(always)]
fn widen_bf16(from: &[bf16; LANES], to: &mut [f32; LANES]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = f32::from_bits(u32::from(from.to_bits()) << 16);
    }
}

/// Up to [`ROWS`] rows times one tile, as many at a time as their two sums have registers.
#[inline(always)]
fn multiply_rows<S: Simd, T>(
    x: &[f32],
    w: &[[T; TILE]],
    widen: impl Fn(&[T; LANES], &mut [f32; LANES]) + Copy,
    sums: &mut [[f32; TILE]; ROWS],
) {
    let rows = ROWS.min(S::SUMS_MAX / 2);
    for (x, sums) in x.chunks(rows * w.len()).zip(sums.chunks_mut(rows)) {
        match x.len() / w.len() {
            1 => multiply_exactly::<S, T, 1>(x, w, widen, sums),
            2 => multiply_exactly::<S, T, 2>(x, w, widen, sums),
            3 => multiply_exactly::<S, T, 3>(x, w, widen, sums),
            4 => multiply_exactly::<S, T, 4>(x, w, widen, sums),
            5 => multiply_exactly::<S, T, 5>(x, w, widen, sums),
            6 => multiply_exactly::<S, T, 6>(x, w, widen, sums),
            7 => multiply_exactly::<S, T, 7>(x, w, widen, sums),
            _ => multiply_exactly::<S, T, ROWS>(x, w, widen, sums),
        }
    }
}

#[inline(always)]
fn multiply_exactly<S: Simd, T, const M: usize>(
    x: &[f32],
    w: &[[T; TILE]],
    widen: impl Fn(&[T; LANES], &mut [f32; LANES]),
    sums: &mut [[f32; TILE]],
) {
    let k = w.len();
    let mut rows = [x; M];
    for r in 0..M {
        rows[r] = &x[r * k..][..k];
    }
    let mut chains = [[S::splat(0.0); M]; 2];
    let mut weights = [0.0; LANES];
    let pairs = w.chunks_exact(2);
    let last = pairs.remainder();
    for (pair, w) in pairs.enumerate() {
        for chain in 0..2 {
            widen(&w[chain], &mut weights);
            let weight = S::load(&weights);
            for r in 0..M {
                let x = S::splat(rows[r][2 * pair + chain]);
                chains[chain][r] = S::mul_add_lanes(x, weight, chains[chain][r]);
            }
        }
    }
    for w in last {
        widen(w, &mut weights);
        let weight = S::load(&weights);
        for r in 0..M {
            let x = S::splat(rows[r][k - 1]);
            chains[0][r] = S::mul_add_lanes(x, weight, chains[0][r]);
        }
    }
    for r in 0..M {
        let both = S::mul_add_lanes(chains[1][r], S::splat(1.0), chains[0][r]);
        S::store(both, &mut sums[r]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::out::written;

    const N: usize = 21;
    const K: usize = 35;

    fn numbers(seed: u32, count: usize) -> Vec<f32> {
        let step = |i: u32| (i.wrapping_mul(2_654_435_761) ^ seed) % 2_000;
        (0..count as u32)
            .map(|i| step(i) as f32 / 1_000.0 - 1.0)
            .collect()
    }

    fn product(matrix: &DenseMatrix, x: &[f32]) -> Vec<f32> {
        let write = |out| matrix.multiply(x, out, Finish::Store);
        #[expect(unsafe_code, reason = "see SAFETY")]
        // SAFETY: a product writes all of its rows and columns.
        unsafe {
            written(x.len() / K * N, N, write)
        }
    }

    #[test]
    fn products_are_those_of_the_plain_numbers_whatever_the_rows() {
        let weights = numbers(7, N * K);
        let x = numbers(9, 19 * K);
        for kind in [DenseKind::F16, DenseKind::Bf16, DenseKind::F32] {
            let raw: Vec<u8> = match kind {
                DenseKind::F16 => weights
                    .iter()
                    .flat_map(|&w| f16::from_f32(w).to_le_bytes())
                    .collect(),
                DenseKind::Bf16 => weights
                    .iter()
                    .flat_map(|&w| bf16::from_f32(w).to_le_bytes())
                    .collect(),
                DenseKind::F32 => weights.iter().flat_map(|w| w.to_le_bytes()).collect(),
            };
            let matrix = DenseMatrix::pack(kind, &raw, N, K).unwrap();
            let together = product(&matrix, &x);
            for (row, got) in x.chunks_exact(K).zip(together.chunks_exact(N)) {
                assert_eq!(product(&matrix, row), got, "{kind:?}");
                for (n, got) in got.iter().enumerate() {
                    let mut weights = vec![0.0; K];
                    matrix.row(n, &mut weights);
                    let wanted: f32 = row.iter().zip(&weights).map(|(x, w)| x * w).sum();
                    assert!((got - wanted).abs() < 1e-4, "{kind:?}: {got} for {wanted}");
                }
            }
        }
    }

    #[test]
    fn bytes_that_do_not_fit_the_shape_are_refused() {
        assert!(DenseMatrix::pack(DenseKind::F16, &[0; 7], 2, 2).is_none());
        assert!(DenseMatrix::pack(DenseKind::F32, &[0; 8], 2, 2).is_none());
        assert!(DenseMatrix::pack(DenseKind::F32, &[], 0, 2).is_none());
    }
}
