//! The product on NEON with the dot products of Armv8.2: 4 outputs a register, 16 multiply-adds an instruction.

use std::arch::aarch64::{
    float32x4_t, int8x16_t, int32x4_t, vandq_u8, vcvtq_f32_s32, vdupq_n_f32, vdupq_n_s8,
    vdupq_n_s32, vdupq_n_u8, veorq_u8, vfmaq_n_f32, vld1_u16, vld1q_f32, vld1q_s8, vld1q_u8,
    vmulq_f32, vreinterpretq_s8_u8, vshrq_n_u8, vst1q_f32,
};
use std::arch::{asm, is_aarch64_feature_detected};

use super::super::activations::QuantizedRows;
use super::super::packed::{BLOCK, PackedMatrix, TILE};
use super::super::simd::widen_four;
use super::{Sums, TileJob};

/// Outputs in a register.
const LANES: usize = 4;
/// Registers of codes for these outputs in a block: one for each four positions.
const STEPS: usize = BLOCK / 4;
/// Bytes of one step of a tile.
const STEP_BYTES: usize = TILE * 4;
/// The product takes signed bytes: codes of 8 bits lose this much by flipping their top bit.
const FLIPPED: i32 = 128;

/// Whether this processor has the dot products.
pub(super) fn detected() -> bool {
    is_aarch64_feature_detected!("dotprod")
}

/// Writes the products of a job to `sums`.
///
/// # Safety
/// [`detected`] says yes, and the job is whole.
#[expect(unsafe_code, reason = "the only way to the instructions; see Safety")]
pub(super) unsafe fn multiply(job: &TileJob<'_>, sums: &mut Sums) {
    let TileJob {
        x, row, w, tile, ..
    } = *job;
    let (layout, sums) = (w.layout, &mut sums[..job.rows]);
    sums.fill([0.0; TILE]);
    // SAFETY: by contract; a whole job has all rows that it names.
    unsafe {
        match (layout.bits, layout.groups, layout.minimums) {
            (4, 1, true) => multiply_rows::<4, 1, true>(x, row, w, tile, sums),
            (4, 1, false) => multiply_rows::<4, 1, false>(x, row, w, tile, sums),
            (_, 1, true) => multiply_rows::<8, 1, true>(x, row, w, tile, sums),
            (_, 1, false) => multiply_rows::<8, 1, false>(x, row, w, tile, sums),
            (_, _, true) => multiply_rows::<8, 2, true>(x, row, w, tile, sums),
            (_, _, false) => multiply_rows::<8, 2, false>(x, row, w, tile, sums),
        }
    }
}

/// As many rows as `sums` times one tile, a quarter of the tile at a time, so that its weights stay in registers for all rows.
///
/// # Safety
/// The processor has dot products; the rows exist, `x` and `w` have the same `k` and groups, and `BITS`, `GROUPS`,
/// `MINIMUMS` are those of `w`.
#[expect(unsafe_code, reason = "target features; bounds are the caller's")]
#[target_feature(enable = "neon,dotprod")]
unsafe fn multiply_rows<const BITS: u32, const GROUPS: usize, const MINIMUMS: bool>(
    x: &QuantizedRows,
    row: usize,
    w: &PackedMatrix,
    tile: usize,
    sums: &mut [[f32; TILE]],
) {
    let start = match BITS {
        4 => -w.layout.zero,
        _ => FLIPPED - w.layout.zero,
    };
    let blocks = w.tile(tile).chunks_exact(w.layout.block_bytes());
    for (block, bytes) in blocks.enumerate() {
        for first in (0..TILE).step_by(LANES) {
            // SAFETY: `bytes` is one block of the layout that the const parameters describe.
            let weights = unsafe { load_weights::<BITS, GROUPS, MINIMUMS>(bytes, first) };
            for (i, sums) in sums.iter_mut().enumerate() {
                let sums = &mut sums[first..first + LANES];
                let index = (row + i) * (x.k / BLOCK) + block;
                // SAFETY: row `row + i` exists by contract, and `block` is one of its blocks.
                unsafe { add_block::<GROUPS, MINIMUMS>(x, index, &weights, start, sums) };
            }
        }
    }
}

/// One block of the weights of four outputs.
struct Weights {
    codes: [int8x16_t; STEPS],
    scales: [float32x4_t; 2],
    minimums: [float32x4_t; 2],
}

/// Adds the share of one block of one row to the sums of four outputs; `index` counts the blocks of all rows, and `start`
/// is what the sum of the row's codes counts for.
///
/// # Safety
/// As [`multiply_rows`]; block `index` of `x` exists, and there are four sums.
#[expect(
    unsafe_code,
    reason = "target features, and reads whose bounds the caller has checked"
)]
#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn add_block<const GROUPS: usize, const MINIMUMS: bool>(
    x: &QuantizedRows,
    index: usize,
    weights: &Weights,
    start: i32,
    sums: &mut [f32],
) {
    // SAFETY: `index` is a block of `x` by contract, so its scale, sums and 32 codes are inside their vectors.
    unsafe {
        let xs = x.codes.as_ptr().add(index * BLOCK);
        let halves = [vld1q_s8(xs), vld1q_s8(xs.add(BLOCK / 2))];
        let scale = *x.scales.get_unchecked(index);
        let mut total = vld1q_f32(sums.as_ptr());
        for group in 0..GROUPS {
            let sum = index * GROUPS + group;
            let mut dots = vdupq_n_s32(start * *x.sums.get_unchecked(sum));
            for half in group * 2 / GROUPS..(group + 1) * 2 / GROUPS {
                dots = dot_half(dots, &weights.codes, half, halves[half]);
            }
            let weighted = vmulq_f32(vcvtq_f32_s32(dots), weights.scales[group]);
            total = vfmaq_n_f32(total, weighted, scale);
            if MINIMUMS {
                let sum = *x.scaled_sums.get_unchecked(sum);
                total = vfmaq_n_f32(total, weights.minimums[group], sum);
            }
        }
        vst1q_f32(sums.as_mut_ptr(), total);
    }
}

/// `dots` plus the products of half a block.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn dot_half(dots: int32x4_t, codes: &[int8x16_t; STEPS], half: usize, xs: int8x16_t) -> int32x4_t {
    let first = half * STEPS / 2;
    let dots = dot::<0>(dots, codes[first], xs);
    let dots = dot::<1>(dots, codes[first + 1], xs);
    let dots = dot::<2>(dots, codes[first + 2], xs);
    dot::<3>(dots, codes[first + 3], xs)
}

/// `dots` plus, in each lane, the products of its four codes with four bytes of `xs` from `4 * FOUR` on. The compiler's own
/// name for the instruction is unstable.
#[target_feature(enable = "neon,dotprod")]
#[inline]
#[expect(unsafe_code, reason = "one instruction on registers")]
fn dot<const FOUR: usize>(mut dots: int32x4_t, codes: int8x16_t, xs: int8x16_t) -> int32x4_t {
    // SAFETY: it reads and writes the named registers only, and belongs to the features of this function.
    unsafe {
        asm!(
            "sdot {dots:v}.4s, {codes:v}.16b, {xs:v}.4b[{four}]",
            dots = inlateout(vreg) dots,
            codes = in(vreg) codes,
            xs = in(vreg) xs,
            four = const FOUR,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    dots
}

/// Codes, scales and minimums of outputs `first .. first + 4` of a tile.
///
/// # Safety
/// As [`multiply_rows`]; `bytes` is one block, and `first` a multiple of 4 below [`TILE`].
#[expect(
    unsafe_code,
    reason = "target features, and loads whose bounds the layout gives"
)]
#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn load_weights<const BITS: u32, const GROUPS: usize, const MINIMUMS: bool>(
    bytes: &[u8],
    first: usize,
) -> Weights {
    let start = bytes.as_ptr();
    let mut codes = [vdupq_n_s8(0); STEPS];
    let mut scales = [vdupq_n_f32(0.0); 2];
    let mut minimums = scales;
    let code_bytes = TILE * BLOCK * BITS as usize / 8;
    // SAFETY: the block holds `code_bytes` of codes, then `GROUPS` times 16 f16 of scales and as many of minimums.
    unsafe {
        let step = |step: usize| vld1q_u8(start.add(step * STEP_BYTES + first * 4));
        if BITS == 4 {
            for i in 0..STEPS / 2 {
                let both = step(i);
                codes[i] = vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15)));
                codes[i + STEPS / 2] = vreinterpretq_s8_u8(vshrq_n_u8::<4>(both));
            }
        } else {
            for (i, codes) in codes.iter_mut().enumerate() {
                *codes = vreinterpretq_s8_u8(veorq_u8(step(i), vdupq_n_u8(FLIPPED as u8)));
            }
        }
        let four = |vector: usize| {
            let at = start.add(code_bytes + (vector * TILE + first) * 2);
            widen_four(vld1_u16(at.cast()))
        };
        for group in 0..GROUPS {
            scales[group] = four(group);
            if MINIMUMS {
                minimums[group] = four(GROUPS + group);
            }
        }
    }
    Weights {
        codes,
        scales,
        minimums,
    }
}
