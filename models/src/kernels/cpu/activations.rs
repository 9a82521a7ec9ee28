//! Activation rows quantised for a product with packed weights.
//!
//! Each run of 32 inputs becomes 32 signed bytes and one f32 scale, `x = scale * q` with `|q| <= 127`, as in ggml's Q8_1:
//! the integer products are then exact, and the rounding is a 1/254 of the largest input of the run at most. Rows are
//! independent, so a row's bytes never depend on its neighbours (batch invariance).

use super::elementwise::RmsNorm;
use super::packed::{BLOCK, Layout, PackedMatrix};
use super::pool::{for_each, rows_per_piece};
use super::simd::{Simd, simd_dispatch};

/// Quantised rows `[m, k]`.
#[derive(Debug, Default)]
pub struct QuantizedRows {
    pub(crate) m: usize,
    pub(crate) k: usize,
    /// `[m, k]`.
    pub(crate) codes: Vec<i8>,
    /// Scale of each run of 32, `[m, k / 32]`.
    pub(crate) scales: Vec<f32>,
    /// Sum of the codes of each group, `[m, k / 32, groups]`.
    pub(crate) sums: Vec<i32>,
    /// The same times the scale: what a weight's minimum is multiplied with.
    pub(crate) scaled_sums: Vec<f32>,
    pub(crate) groups: usize,
}

impl QuantizedRows {
    /// Memory for no rows.
    pub(crate) const fn new() -> Self {
        Self {
            m: 0,
            k: 0,
            codes: Vec::new(),
            scales: Vec::new(),
            sums: Vec::new(),
            scaled_sums: Vec::new(),
            groups: 1,
        }
    }

    /// Rows `x`, `[m, k]`, for products with `w`, `[n, k]`.
    #[must_use]
    pub fn quantize(x: &[f32], w: &PackedMatrix) -> Self {
        let mut rows = Self::new();
        rows.fill(x, w.k, w.layout, None);
        rows
    }

    /// Quantises `x`, `[m, k]`, for products with matrices of `layout`, each row normed before where there is a norm.
    /// Keeps its memory from call to call.
    pub(crate) fn fill(&mut self, x: &[f32], k: usize, layout: Layout, norm: Option<&RmsNorm>) {
        self.reset(x.len() / k, k, layout.groups);
        let rows = rows_per_piece(self.m, k);
        let blocks = rows * k / BLOCK;
        let codes = self.codes.chunks_mut(rows * k);
        let scales = self.scales.chunks_mut(blocks);
        let sums = self.sums.chunks_mut(blocks * self.groups);
        let scaled_sums = self.scaled_sums.chunks_mut(blocks * self.groups);
        let outs = codes.zip(scales).zip(sums).zip(scaled_sums);
        let pieces = x.chunks(rows * k).zip(outs).collect();
        for_each(pieces, |(x, (((codes, scales), sums), scaled_sums))| {
            let mut normed = Vec::new();
            let x = match norm {
                Some(norm) => {
                    normed.resize(x.len(), 0.0);
                    norm.apply(x, &mut normed);
                    &normed
                }
                None => x,
            };
            quantize(x, codes, scales, sums, scaled_sums);
        });
    }

    /// # Panics
    /// Where the rows are not for products with `w`.
    pub(crate) fn assert_fit(&self, w: &PackedMatrix) {
        assert_eq!(self.k, w.k, "inner dimensions");
        assert_eq!(
            self.groups, w.layout.groups,
            "rows quantised for another layout"
        );
    }

    fn reset(&mut self, m: usize, k: usize, groups: usize) {
        (self.m, self.k, self.groups) = (m, k, groups);
        let blocks = m * k / BLOCK;
        self.codes.resize(m * k, 0);
        self.scales.resize(blocks, 0.0);
        self.sums.resize(blocks * groups, 0);
        self.scaled_sums.resize(blocks * groups, 0.0);
    }
}

simd_dispatch! {
    /// Quantises whole blocks; the number of sums says how many groups a block has.
    fn quantize = quantize_body(
        x: &[f32],
        codes: &mut [i8],
        scales: &mut [f32],
        sums: &mut [i32],
        scaled_sums: &mut [f32],
    )
}

#[inline(always)]
fn quantize_body<S: Simd>(
    x: &[f32],
    codes: &mut [i8],
    scales: &mut [f32],
    sums: &mut [i32],
    scaled_sums: &mut [f32],
) {
    let groups = sums.len() / scales.len();
    let blocks = x.as_chunks().0.iter().zip(codes.as_chunks_mut().0);
    for (index, (x, codes)) in blocks.enumerate() {
        let (scale, [low, high]) = S::quantize(x, codes);
        scales[index] = scale;
        let halves = if groups == 1 {
            [low + high, 0]
        } else {
            [low, high]
        };
        for group in 0..groups {
            sums[index * groups + group] = halves[group];
            scaled_sums[index * groups + group] = scale * halves[group] as f32;
        }
    }
}
