//! The product on AVX-512 with VNNI: 16 outputs a register, 64 multiply-adds an instruction.

use std::arch::x86_64::{
    __m512, __m512i, _mm256_loadu_si256, _mm512_and_si512, _mm512_cvtepi32_ps, _mm512_cvtph_ps,
    _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_si512, _mm512_mul_ps, _mm512_set1_epi8,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_srli_epi16,
    _mm512_storeu_ps,
};

use super::super::activations::QuantizedRows;
use super::super::packed::{BLOCK, PackedMatrix, TILE};
use super::{ROWS, Sums, TileJob};

/// Registers of codes in a block: one for each four positions.
const STEPS: usize = BLOCK / 4;

/// Whether this processor has AVX-512 F, BW and VNNI.
pub(super) fn detected() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni")
}

/// Writes the products of a job to `sums`.
///
/// # Safety
/// [`detected`] says yes, and the job is whole.
#[expect(unsafe_code, reason = "the only way to the instructions; see Safety")]
pub(super) unsafe fn multiply(job: &TileJob<'_>, sums: &mut Sums) {
    let TileJob {
        x,
        row,
        rows,
        w,
        tile,
    } = *job;
    macro_rules! rows {
        ($bits:literal, $groups:literal, $minimums:literal) => {
            // SAFETY: by contract; a whole job has all rows that it names.
            unsafe {
                match rows {
                    1 => multiply_rows::<1, $bits, $groups, $minimums>(x, row, w, tile, sums),
                    2 => multiply_rows::<2, $bits, $groups, $minimums>(x, row, w, tile, sums),
                    3 => multiply_rows::<3, $bits, $groups, $minimums>(x, row, w, tile, sums),
                    4 => multiply_rows::<4, $bits, $groups, $minimums>(x, row, w, tile, sums),
                    5 => multiply_rows::<5, $bits, $groups, $minimums>(x, row, w, tile, sums),
                    6 => multiply_rows::<6, $bits, $groups, $minimums>(x, row, w, tile, sums),
                    7 => multiply_rows::<7, $bits, $groups, $minimums>(x, row, w, tile, sums),
                    _ => multiply_rows::<8, $bits, $groups, $minimums>(x, row, w, tile, sums),
                }
            }
        };
    }
    match (w.layout.bits, w.layout.groups, w.layout.minimums) {
        (4, 1, true) => rows!(4, 1, true),
        (4, 1, false) => rows!(4, 1, false),
        (_, 1, true) => rows!(8, 1, true),
        (_, 1, false) => rows!(8, 1, false),
        (_, _, true) => rows!(8, 2, true),
        (_, _, false) => rows!(8, 2, false),
    }
}

/// `M` rows times one tile.
///
/// # Safety
/// The processor has AVX-512 F, BW and VNNI; rows `row .. row + M` of `x` exist, `x` and `w` have the same `k` and groups,
/// and `BITS`, `GROUPS`, `MINIMUMS` are those of `w`.
#[expect(
    unsafe_code,
    reason = "target features, and pointers whose bounds the caller has checked"
)]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn multiply_rows<
    const M: usize,
    const BITS: u32,
    const GROUPS: usize,
    const MINIMUMS: bool,
>(
    x: &QuantizedRows,
    row: usize,
    w: &PackedMatrix,
    tile: usize,
    sums: &mut [[f32; TILE]; ROWS],
) {
    let blocks = x.k / BLOCK;
    let mut totals = [_mm512_setzero_ps(); ROWS];
    for (block, bytes) in w
        .tile(tile)
        .chunks_exact(w.layout.block_bytes())
        .enumerate()
    {
        // SAFETY: `bytes` is one block of the layout that the const parameters describe.
        let loaded = unsafe { load_block::<BITS, GROUPS, MINIMUMS>(bytes) };
        // Spelled out, because a loop over eight rows is not unrolled and would keep its totals in memory.
        macro_rules! row {
            ($($i:literal)*) => {$(
                if $i < M {
                    // SAFETY: row `row + i` exists by contract, and `block` is one of its blocks.
                    totals[$i] = unsafe {
                        add_block::<GROUPS, MINIMUMS>(x, (row + $i) * blocks + block, &loaded, w.layout.zero, totals[$i])
                    };
                }
            )*};
        }
        row!(0 1 2 3 4 5 6 7);
    }
    for (total, sums) in totals.iter().zip(sums) {
        // SAFETY: `sums` is 16 floats.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), *total) };
    }
}

/// One block of weights in registers.
struct Block {
    codes: [__m512i; STEPS],
    scales: [__m512; 2],
    minimums: [__m512; 2],
}

/// `total` plus the share of one block of one row; `index` counts the blocks of all rows.
///
/// # Safety
/// As [`multiply_rows`]; block `index` of `x` exists.
#[expect(
    unsafe_code,
    reason = "target features, and reads whose bounds the caller has checked"
)]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
unsafe fn add_block<const GROUPS: usize, const MINIMUMS: bool>(
    x: &QuantizedRows,
    index: usize,
    block: &Block,
    zero: i32,
    mut total: __m512,
) -> __m512 {
    // SAFETY: `index` is a block of `x` by contract, so its scale, sums and codes are inside their vectors.
    unsafe {
        let scale = _mm512_set1_ps(*x.scales.get_unchecked(index));
        for group in 0..GROUPS {
            let sum = index * GROUPS + group;
            let start = if MINIMUMS {
                _mm512_setzero_si512()
            } else {
                _mm512_set1_epi32(-zero * *x.sums.get_unchecked(sum))
            };
            let xs = x
                .codes
                .as_ptr()
                .add(index * BLOCK + group * (BLOCK / GROUPS))
                .cast::<i32>();
            let dots = _mm512_cvtepi32_ps(dot_group::<GROUPS>(&block.codes, group, xs, start));
            total = _mm512_fmadd_ps(_mm512_mul_ps(dots, block.scales[group]), scale, total);
            if MINIMUMS {
                let sum = _mm512_set1_ps(*x.scaled_sums.get_unchecked(sum));
                total = _mm512_fmadd_ps(block.minimums[group], sum, total);
            }
        }
    }
    total
}

/// Sums of products of one group: lane `j` is output `j`.
///
/// # Safety
/// As [`multiply_rows`]; `xs` points to the group's signed bytes.
#[expect(
    unsafe_code,
    reason = "target features, and a pointer whose bounds the caller has checked"
)]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
unsafe fn dot_group<const GROUPS: usize>(
    codes: &[__m512i; STEPS],
    group: usize,
    xs: *const i32,
    start: __m512i,
) -> __m512i {
    let mut dots = start;
    for step in 0..STEPS / GROUPS {
        // SAFETY: `xs` points to `32 / GROUPS` bytes.
        let four = unsafe { xs.add(step).read_unaligned() };
        dots = _mm512_dpbusd_epi32(
            dots,
            codes[group * (STEPS / GROUPS) + step],
            _mm512_set1_epi32(four),
        );
    }
    dots
}

/// Codes, scales and minimums of a block in registers.
///
/// # Safety
/// As [`multiply_rows`]; `bytes` is one block.
#[expect(
    unsafe_code,
    reason = "target features, and loads whose bounds the layout gives"
)]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
unsafe fn load_block<const BITS: u32, const GROUPS: usize, const MINIMUMS: bool>(
    bytes: &[u8],
) -> Block {
    let start = bytes.as_ptr();
    let mut codes = [_mm512_setzero_si512(); STEPS];
    let mut scales = [_mm512_setzero_ps(); 2];
    let mut minimums = scales;
    let code_bytes = TILE * BLOCK * BITS as usize / 8;
    // SAFETY: the block holds `code_bytes` of codes, then `GROUPS` times 16 f16 of scales and as many of minimums.
    unsafe {
        if BITS == 4 {
            let low = _mm512_set1_epi8(15);
            for step in 0..STEPS / 2 {
                let both = _mm512_loadu_si512(start.add(step * 64).cast());
                codes[step] = _mm512_and_si512(both, low);
                codes[step + STEPS / 2] = _mm512_and_si512(_mm512_srli_epi16::<4>(both), low);
            }
        } else {
            for (step, codes) in codes.iter_mut().enumerate() {
                *codes = _mm512_loadu_si512(start.add(step * 64).cast());
            }
        }
        for group in 0..GROUPS {
            let scale = start.add(code_bytes + group * TILE * 2);
            scales[group] = _mm512_cvtph_ps(_mm256_loadu_si256(scale.cast()));
            if MINIMUMS {
                minimums[group] =
                    _mm512_cvtph_ps(_mm256_loadu_si256(scale.add(GROUPS * TILE * 2).cast()));
            }
        }
    }
    Block {
        codes,
        scales,
        minimums,
    }
}
