//! Activation rows quantised for a product with packed weights.
//!
//! Each run of 32 inputs becomes 32 signed bytes and one f32 scale, `x = scale * q` with `|q| <= 127`, as in ggml's Q8_1:
//! the integer products are then exact, and the rounding is a 1/254 of the largest input of the run at most. Rows are
//! independent, so a row's bytes never depend on its neighbours (batch invariance).

use super::packed::{BLOCK, Layout};
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

    /// Quantises `x`, `[m, k]`, for products with matrices of `layout`. Keeps its memory from call to call.
    pub(crate) fn fill(&mut self, x: &[f32], k: usize, layout: Layout) {
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
            quantize(x, codes, scales, sums, scaled_sums);
        });
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
    let blocks = x.chunks_exact(BLOCK).zip(codes.chunks_exact_mut(BLOCK));
    for (index, (x, codes)) in blocks.enumerate() {
        let scale = quantize_block::<S>(x, codes);
        scales[index] = scale;
        for (group, codes) in codes.chunks_exact(BLOCK / groups).enumerate() {
            let sum: i32 = codes.iter().map(|&code| i32::from(code)).sum();
            sums[index * groups + group] = sum;
            scaled_sums[index * groups + group] = scale * sum as f32;
        }
    }
}

/// Lanes of the search for the largest input.
const LANES: usize = 16;

/// Quantises 32 inputs and returns their scale. A run that holds an infinity or NaN gets a NaN scale: it poisons its own
/// row, which the sampler then reports, and no other.
#[inline(always)]
fn quantize_block<S: Simd>(x: &[f32], codes: &mut [i8]) -> f32 {
    /// Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let (mut largest, mut poison) = ([0.0f32; LANES], [0.0f32; LANES]);
    for x in x.chunks_exact(LANES) {
        for lane in 0..LANES {
            largest[lane] = largest[lane].max(x[lane].abs());
            poison[lane] += x[lane] * 0.0;
        }
    }
    let largest = largest.iter().fold(0.0f32, |a, &b| a.max(b));
    let poison: f32 = poison.iter().sum();
    if largest == 0.0 || poison.is_nan() {
        codes.fill(0);
        return poison;
    }
    let inverse = 127.0 / largest;
    for (code, &x) in codes.iter_mut().zip(x) {
        *code = (S::mul_add(x, inverse, ROUND).to_bits() & 255) as u8 as i8;
    }
    largest / 127.0
}
