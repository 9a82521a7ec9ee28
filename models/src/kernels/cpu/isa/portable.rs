//! The product in plain Rust: the reference for every other path, and what runs where there is none.

use super::super::activations::QuantizedRows;
use super::super::packed::{BLOCK, Layout, TILE, read_f16};
use super::super::simd::{Simd, simd_dispatch};
use super::{Sums, TileJob};

simd_dispatch! {
    /// Writes the products of a whole job to `sums`.
    fn multiply = multiply_body(job: &TileJob<'_>, sums: &mut Sums)
}

#[inline(always)]
fn multiply_body<S: Simd>(job: &TileJob<'_>, sums: &mut Sums) {
    let TileJob {
        x, row, w, tile, ..
    } = *job;
    let layout = w.layout;
    let sums = &mut sums[..job.rows];
    sums.fill([0.0; TILE]);
    let mut codes = [[0u8; TILE]; BLOCK];
    for (block, bytes) in w.tile(tile).chunks_exact(layout.block_bytes()).enumerate() {
        unpack(layout, bytes, &mut codes);
        for (i, sums) in sums.iter_mut().enumerate() {
            let scales = &bytes[layout.code_bytes()..];
            let index = (row + i) * (x.k / BLOCK) + block;
            add_block(x, index, layout, scales, &codes, sums);
        }
    }
}

/// Codes of a block as `[position][output]`.
#[inline(always)]
fn unpack(layout: Layout, bytes: &[u8], codes: &mut [[u8; TILE]; BLOCK]) {
    for (i, codes) in codes.iter_mut().enumerate() {
        let (step, byte) = (i / 4, i % 4);
        let (at, shift, mask) = if layout.bits == 4 {
            (step % 4 * 64, step / 4 * 4, 15)
        } else {
            (step * 64, 0, 255)
        };
        for (lane, code) in codes.iter_mut().enumerate() {
            *code = bytes[at + lane * 4 + byte] >> shift & mask;
        }
    }
}

/// Adds the share of the rows' block number `index` to the 16 sums of its row.
#[inline(always)]
fn add_block(
    x: &QuantizedRows,
    index: usize,
    layout: Layout,
    scales: &[u8],
    codes: &[[u8; TILE]; BLOCK],
    sums: &mut [f32; TILE],
) {
    let xs = &x.codes[index * BLOCK..][..BLOCK];
    let scale = x.scales[index];
    let group_len = BLOCK / layout.groups;
    for group in 0..layout.groups {
        let sum = x.sums[index * layout.groups + group];
        let mut dots = [-layout.zero * sum; TILE];
        for i in group * group_len..(group + 1) * group_len {
            for (dot, &code) in dots.iter_mut().zip(&codes[i]) {
                *dot += i32::from(code) * i32::from(xs[i]);
            }
        }
        for (lane, total) in sums.iter_mut().enumerate() {
            let weight = read_f16(scales, (group * TILE + lane) * 2);
            *total += dots[lane] as f32 * weight * scale;
            if layout.minimums {
                let minimum = read_f16(scales, ((layout.groups + group) * TILE + lane) * 2);
                *total += minimum * x.scaled_sums[index * layout.groups + group];
            }
        }
    }
}
