//! Activation rows quantised for a product with packed weights.
//!
//! Each run of 32 inputs becomes 32 signed bytes and one f32 scale, `x = scale * q` with `|q| <= 127`, as in ggml's Q8_1:
//! the integer products are then exact, and the rounding is a 1/254 of the largest input of the run at most. Rows are
//! independent, so a row's bytes never depend on its neighbours (batch invariance).

use super::packed::{BLOCK, Layout};

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
    /// Quantises `x`, `[m, k]`, for products with matrices of `layout`. Keeps its memory from call to call.
    pub(crate) fn fill(&mut self, x: &[f32], k: usize, layout: Layout) {
        self.reset(x.len() / k, k, layout.groups);
        let blocks = k / BLOCK;
        for row in 0..self.m {
            let codes = &mut self.codes[row * k..][..k];
            let scales = &mut self.scales[row * blocks..][..blocks];
            let sums = &mut self.sums[row * blocks * self.groups..][..blocks * self.groups];
            quantize_row(&x[row * k..][..k], codes, scales, sums);
        }
        for (index, scaled) in self.scaled_sums.iter_mut().enumerate() {
            *scaled = self.scales[index / self.groups] * self.sums[index] as f32;
        }
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

fn quantize_row(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    let groups = sums.len() / scales.len();
    let blocks = x
        .chunks_exact(BLOCK)
        .zip(codes.chunks_exact_mut(BLOCK))
        .zip(scales);
    for (((x, codes), scale), sums) in blocks.zip(sums.chunks_exact_mut(groups)) {
        *scale = quantize_block(x, codes);
        for (sum, codes) in sums.iter_mut().zip(codes.chunks_exact(BLOCK / groups)) {
            *sum = codes.iter().map(|&code| i32::from(code)).sum();
        }
    }
}

/// Quantises 32 inputs and returns their scale. A run that holds an infinity or NaN gets a NaN scale: it poisons its own
/// row, which the sampler then reports, and no other.
fn quantize_block(x: &[f32], codes: &mut [i8]) -> f32 {
    let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let finite = x.iter().fold(0.0f32, |poison, x| poison + x * 0.0);
    if largest == 0.0 || finite.is_nan() {
        codes.fill(0);
        return finite;
    }
    let inverse = 127.0 / largest;
    for (code, x) in codes.iter_mut().zip(x) {
        // Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, in the low bits of the sum.
        *code = (x.mul_add(inverse, 12_582_912.0).to_bits() & 255) as u8 as i8;
    }
    largest / 127.0
}
