//! The product on AVX2: 8 outputs a register, 32 multiply-adds in two instructions.

use std::arch::x86_64::{
    __m256, __m256i, _mm_loadu_si128, _mm256_add_epi32, _mm256_and_si256, _mm256_cvtepi32_ps,
    _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32,
    _mm256_set1_ps, _mm256_srli_epi16, _mm256_storeu_ps, _mm256_storeu_si256,
};

use super::super::activations::QuantizedRows;
use super::super::packed::{BLOCK, PackedMatrix, TILE};
use super::{Sums, TileJob};

/// Runs of 4 positions in a block.
const STEPS: usize = BLOCK / 4;
/// Bytes of one step of a tile.
const STEP_BYTES: usize = TILE * 4;
/// Outputs in a register.
const LANES: usize = 8;

/// Codes of a block, one byte each: `[step][output][position]`.
#[repr(align(32))]
struct Codes([u8; TILE * BLOCK]);

/// Whether this processor has AVX2, FMA and F16C.
pub(super) fn detected() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
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
    let sums = &mut sums[..job.rows];
    sums.fill([0.0; TILE]);
    // SAFETY: by contract; a whole job has all rows that it names.
    unsafe {
        // Two products of a code above 127 do not fit into 16 bits.
        if w.layout.zero > 63 {
            multiply_rows::<true>(x, row, w, tile, sums);
        } else {
            multiply_rows::<false>(x, row, w, tile, sums);
        }
    }
}

/// As many rows as `sums` times one tile; `WIDE` where codes need all 8 bits.
///
/// # Safety
/// The processor has AVX2, FMA and F16C; the rows exist, and `x` and `w` have the same `k` and groups.
#[expect(unsafe_code, reason = "target features; bounds are the caller's")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply_rows<const WIDE: bool>(
    x: &QuantizedRows,
    row: usize,
    w: &PackedMatrix,
    tile: usize,
    sums: &mut [[f32; TILE]],
) {
    let layout = w.layout;
    let mut unpacked = Codes([0; TILE * BLOCK]);
    let blocks = w.tile(tile).chunks_exact(layout.block_bytes());
    for (block, bytes) in blocks.enumerate() {
        let (codes, scales) = bytes.split_at(layout.code_bytes());
        let codes = if layout.bits == 4 {
            unpack(codes, &mut unpacked);
            &unpacked.0[..]
        } else {
            codes
        };
        for (i, sums) in sums.iter_mut().enumerate() {
            let index = (row + i) * (x.k / BLOCK) + block;
            for half in 0..TILE / LANES {
                // SAFETY: `index` is a block of `x` by contract, and the slices are those of one block of `w`.
                unsafe { add_block::<WIDE>(x, index, w, (codes, scales), half, sums) };
            }
        }
    }
}

/// Nibbles to bytes.
#[target_feature(enable = "avx2")]
#[expect(
    unsafe_code,
    reason = "loads and stores of whole registers inside the slices"
)]
fn unpack(nibbles: &[u8], codes: &mut Codes) {
    let low = _mm256_set1_epi8(15);
    let (low_steps, high_steps) = codes.0.split_at_mut(nibbles.len());
    let outs = low_steps
        .chunks_exact_mut(32)
        .zip(high_steps.chunks_exact_mut(32));
    for (both, (first, second)) in nibbles.chunks_exact(32).zip(outs) {
        // SAFETY: each chunk is 32 bytes.
        unsafe {
            let both = _mm256_loadu_si256(both.as_ptr().cast());
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(both), low);
            _mm256_storeu_si256(first.as_mut_ptr().cast(), _mm256_and_si256(both, low));
            _mm256_storeu_si256(second.as_mut_ptr().cast(), high);
        }
    }
}

/// Adds the share of one block of one row to half of the row's sums; `index` counts the blocks of all rows.
///
/// # Safety
/// As [`multiply_rows`]; block `index` of `x` exists; codes and scales are those of one block.
#[expect(unsafe_code, reason = "target features; bounds are the caller's")]
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn add_block<const WIDE: bool>(
    x: &QuantizedRows,
    index: usize,
    w: &PackedMatrix,
    (codes, scales): (&[u8], &[u8]),
    half: usize,
    sums: &mut [f32; TILE],
) {
    let groups = w.layout.groups;
    let sums = &mut sums[half * LANES..][..LANES];
    // SAFETY: by contract; a vector of scales is 16 f16, of which each half reads 8.
    unsafe {
        let mut total = _mm256_loadu_ps(sums.as_ptr());
        let scale = _mm256_set1_ps(x.scales[index]);
        for group in 0..groups {
            let sum = index * groups + group;
            let start = if w.layout.minimums {
                0
            } else {
                -w.layout.zero * x.sums[sum]
            };
            let mut dots = _mm256_set1_epi32(start);
            for step in group * STEPS / groups..(group + 1) * STEPS / groups {
                let code = codes.as_ptr().add(step * STEP_BYTES + half * LANES * 4);
                let four = x.codes.as_ptr().add(index * BLOCK + step * 4);
                let four = _mm256_set1_epi32(four.cast::<i32>().read_unaligned());
                let code = _mm256_loadu_si256(code.cast());
                dots = _mm256_add_epi32(dots, dot::<WIDE>(code, four));
            }
            let vector = |index: usize| load_f16(&scales[(index * TILE + half * LANES) * 2..]);
            let weighted = _mm256_mul_ps(_mm256_cvtepi32_ps(dots), vector(group));
            total = _mm256_fmadd_ps(weighted, scale, total);
            if w.layout.minimums {
                let sum = _mm256_set1_ps(x.scaled_sums[sum]);
                total = _mm256_fmadd_ps(vector(groups + group), sum, total);
            }
        }
        _mm256_storeu_ps(sums.as_mut_ptr(), total);
    }
}

/// Sums of four products in each lane, exactly.
#[target_feature(enable = "avx2")]
#[inline]
fn dot<const WIDE: bool>(codes: __m256i, xs: __m256i) -> __m256i {
    let ones = _mm256_set1_epi16(1);
    if !WIDE {
        return _mm256_madd_epi16(_mm256_maddubs_epi16(codes, xs), ones);
    }
    let odd = _mm256_and_si256(codes, _mm256_set1_epi8(1));
    let halved = _mm256_and_si256(_mm256_srli_epi16::<1>(codes), _mm256_set1_epi8(127));
    let halves = _mm256_madd_epi16(_mm256_maddubs_epi16(halved, xs), _mm256_set1_epi16(2));
    _mm256_add_epi32(
        halves,
        _mm256_madd_epi16(_mm256_maddubs_epi16(odd, xs), ones),
    )
}

/// Eight f16 at the start of `bytes`.
///
/// # Panics
/// Where they are not there.
#[target_feature(enable = "avx2,f16c")]
#[expect(unsafe_code, reason = "a load inside the slice that was just cut")]
#[inline]
fn load_f16(bytes: &[u8]) -> __m256 {
    let bytes = &bytes[..LANES * 2];
    // SAFETY: 16 bytes are there.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(bytes.as_ptr().cast())) }
}
