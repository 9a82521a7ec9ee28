//! Vectors of 256 and 512 bits.
#![expect(
    unsafe_code,
    reason = "the only way to the instructions; SAFETY for all: by the trait's contract the processor has them, and arrays of \
              `LANES` numbers bound every load and store"
)]

use std::arch::x86_64::{
    __m256, __m512, _mm_loadu_si128, _mm_storeu_si128, _mm256_cvtph_ps, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_loadu_si256, _mm256_set1_ps, _mm256_storeu_ps, _mm512_abs_ps,
    _mm512_castps_si512, _mm512_cvtepi32_epi8, _mm512_cvtph_ps, _mm512_cvtps_epi32,
    _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_max_epu32, _mm512_mul_ps, _mm512_reduce_add_epi32,
    _mm512_reduce_max_epu32, _mm512_set1_ps, _mm512_storeu_ps,
};

use super::{LANES, Simd, f16, scale_of};

/// 256-bit registers in pairs, with fused multiply-add.
pub(crate) struct Wide;

impl Simd for Wide {
    type Vector = [__m256; 2];

    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    fn splat(x: f32) -> Self::Vector {
        unsafe { [_mm256_set1_ps(x); 2] }
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self::Vector {
        let from = from.as_ptr();
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }

    #[inline(always)]
    fn store(x: Self::Vector, to: &mut [f32; LANES]) {
        let to = to.as_mut_ptr();
        unsafe {
            _mm256_storeu_ps(to, x[0]);
            _mm256_storeu_ps(to.add(8), x[1]);
        }
    }

    #[inline(always)]
    fn mul_add_lanes(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        unsafe {
            [
                _mm256_fmadd_ps(a[0], b[0], c[0]),
                _mm256_fmadd_ps(a[1], b[1], c[1]),
            ]
        }
    }

    #[inline(always)]
    fn widen(from: &[f16; LANES], to: &mut [f32; LANES]) {
        let from = from.as_ptr();
        let halves = unsafe {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast())),
            ]
        };
        Self::store(halves, to);
    }
}

/// 512-bit registers, with fused multiply-add.
pub(crate) struct Wider;

impl Simd for Wider {
    type Vector = __m512;

    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    fn splat(x: f32) -> Self::Vector {
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self::Vector {
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(x: Self::Vector, to: &mut [f32; LANES]) {
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
    }

    #[inline(always)]
    fn mul_add_lanes(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn quantize(x: &[f32; 2 * LANES], codes: &mut [i8; 2 * LANES]) -> (f32, [i32; 2]) {
        unsafe {
            let low = _mm512_loadu_ps(x.as_ptr());
            let high = _mm512_loadu_ps(x.as_ptr().add(LANES));
            let magnitude = |x| _mm512_castps_si512(_mm512_abs_ps(x));
            let largest = _mm512_max_epu32(magnitude(low), magnitude(high));
            let Some((scale, inverse)) = scale_of(_mm512_reduce_max_epu32(largest)) else {
                codes.fill(0);
                return (f32::NAN, [0; 2]);
            };
            let inverse = _mm512_set1_ps(inverse);
            let low = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
            let high = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
            let codes = codes.as_mut_ptr();
            _mm_storeu_si128(codes.cast(), _mm512_cvtepi32_epi8(low));
            _mm_storeu_si128(codes.add(LANES).cast(), _mm512_cvtepi32_epi8(high));
            let sums = [_mm512_reduce_add_epi32(low), _mm512_reduce_add_epi32(high)];
            (scale, sums)
        }
    }

    #[inline(always)]
    fn widen(from: &[f16; LANES], to: &mut [f32; LANES]) {
        Self::store(
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) },
            to,
        );
    }
}
