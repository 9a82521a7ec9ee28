//! One body of plain Rust, compiled for each level of vector instructions and picked at run time.
//!
//! The compiler vectorises loops over fixed lanes by itself; all it needs is leave to use the instructions. Kernels are
//! generic over [`Simd`], whose fused multiply-add is one instruction where the level has it, and are instantiated by
//! [`simd_dispatch`]. The level is the same for the whole life of a process, and so are the results, bit for bit.

use std::sync::OnceLock;

use half::f16;

/// Instructions that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SimdLevel {
    /// What every processor of the target has.
    Portable,
    /// 256-bit registers with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 512-bit registers.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl SimdLevel {
    /// The best of this processor.
    pub(crate) fn detect() -> Self {
        static LEVEL: OnceLock<SimdLevel> = OnceLock::new();
        *LEVEL.get_or_init(|| {
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
            {
                let wide = is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq");
                return if wide { Self::Avx512 } else { Self::Avx2 };
            }
            Self::Portable
        })
    }
}

/// Lanes of a vector: a fixed number on every level, so that the order of a sum does not depend on the processor.
pub(crate) const LANES: usize = 16;

/// Arithmetic that differs between levels. Its methods may only run inside code that [`simd_dispatch`] compiled for the
/// level.
pub(crate) trait Simd {
    /// [`LANES`] numbers.
    type Vector: Copy;

    /// `a * b + c`.
    fn mul_add(a: f32, b: f32, c: f32) -> f32;
    /// The same number in every lane.
    fn splat(x: f32) -> Self::Vector;
    /// Numbers from memory.
    fn load(from: &[f32; LANES]) -> Self::Vector;
    /// Numbers to memory.
    fn store(x: Self::Vector, to: &mut [f32; LANES]);
    /// `a * b + c` in every lane.
    fn mul_add_lanes(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// Half precision to single.
    fn widen(from: &[f16; LANES], to: &mut [f32; LANES]);

    /// A run of numbers as signed bytes and a scale, `x = scale * code` with `|code| <= 127`. Returns the scale and the sum
    /// of the codes of each half. A run that holds an infinity or NaN gets a NaN scale: it poisons its own row, which
    /// the sampler then reports, and no other.
    #[inline(always)]
    fn quantize(x: &[f32; 2 * LANES], codes: &mut [i8; 2 * LANES]) -> (f32, [i32; 2]) {
        /// Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, in the low bits of the sum.
        const ROUND: f32 = 12_582_912.0;
        let mut largest = [0u32; LANES];
        for half in x.as_chunks::<LANES>().0 {
            for (largest, x) in largest.iter_mut().zip(half) {
                *largest = (*largest).max(x.to_bits() & !SIGN);
            }
        }
        let Some((scale, inverse)) = scale_of(largest.into_iter().fold(0, u32::max)) else {
            codes.fill(0);
            return (f32::NAN, [0; 2]);
        };
        let mut sums = [0; 2];
        let halves = x.chunks_exact(LANES).zip(codes.chunks_exact_mut(LANES));
        for ((x, codes), sum) in halves.zip(&mut sums) {
            for (x, code) in x.iter().zip(codes) {
                let rounded = Self::mul_add(*x, inverse, ROUND);
                *code = (rounded.to_bits() & 255) as u8 as i8;
                *sum += i32::from(*code);
            }
        }
        (scale, sums)
    }
}

/// The sign of an f32.
const SIGN: u32 = 1 << 31;

/// The scale of a run whose largest magnitude has these bits, and what to multiply its numbers with. `None` where the run
/// holds an infinity or NaN: as integers their bits are above those of all numbers.
#[inline(always)]
fn scale_of(largest: u32) -> Option<(f32, f32)> {
    let largest = f32::from_bits(largest);
    if !largest.is_finite() {
        return None;
    }
    // A run of zeros, or of numbers so small that the inverse overflows, is a run of zeros.
    let inverse = 127.0 / largest;
    Some((
        largest / 127.0,
        if inverse.is_finite() { inverse } else { 0.0 },
    ))
}

/// Plain arrays; multiplies, rounds, then adds: for targets where a fused operation would be a library call.
pub(crate) struct Separate;

impl Simd for Separate {
    type Vector = [f32; LANES];

    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }

    #[inline(always)]
    fn splat(x: f32) -> Self::Vector {
        [x; LANES]
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self::Vector {
        *from
    }

    #[inline(always)]
    fn store(x: Self::Vector, to: &mut [f32; LANES]) {
        *to = x;
    }

    #[inline(always)]
    fn mul_add_lanes(a: Self::Vector, b: Self::Vector, mut c: Self::Vector) -> Self::Vector {
        for lane in 0..LANES {
            c[lane] += a[lane] * b[lane];
        }
        c
    }

    #[inline(always)]
    fn widen(from: &[f16; LANES], to: &mut [f32; LANES]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = from.to_f32();
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Wide, Wider};

#[cfg(target_arch = "x86_64")]
#[expect(
    unsafe_code,
    reason = "the only way to the instructions; SAFETY for all: by the trait's contract the processor has them, and arrays of \
              `LANES` numbers bound every load and store"
)]
mod x86 {
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
}

/// Defines `fn name(args)`, which runs the `#[inline(always)]` function `body::<S: Simd>(args)` compiled for the
/// processor's level.
macro_rules! simd_dispatch {
    ($(#[$doc:meta])* fn $name:ident = $body:ident($($arg:ident: $ty:ty),* $(,)?)) => {
        $(#[$doc])*
        #[expect(unsafe_code, reason = "calls into code compiled for instructions that were detected")]
        pub(crate) fn $name($($arg: $ty),*) {
            use $crate::kernels::cpu::simd::{Separate, SimdLevel};
            #[cfg(target_arch = "x86_64")]
            use $crate::kernels::cpu::simd::{Wide, Wider};

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $ty),*) {
                $body::<Wide>($($arg),*);
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
            fn avx512($($arg: $ty),*) {
                $body::<Wider>($($arg),*);
            }
            match SimdLevel::detect() {
                SimdLevel::Portable => $body::<Separate>($($arg),*),
                // SAFETY: the level is only made where the processor has these instructions.
                #[cfg(target_arch = "x86_64")]
                SimdLevel::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                SimdLevel::Avx512 => unsafe { avx512($($arg),*) },
            }
        }
    };
}
pub(crate) use simd_dispatch;

/// `e^x`, within 2 units in the last place for results that are normal numbers; NaN stays NaN.
///
/// Cephes' `expf`: `e^x = 2^n e^r` with `|r| <= ln 2 / 2` and a polynomial for `e^r`. Branch-free, so that loops over it
/// vectorise.
#[inline(always)]
pub(crate) fn exp<S: Simd>(x: f32) -> f32 {
    /// Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = S::mul_add(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = S::mul_add(n, -LN_2_LOW, S::mul_add(n, -LN_2_HIGH, x));
    let mut p = 1.987_569_1e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = S::mul_add(p, r, coefficient);
    }
    let e_r = S::mul_add(p, r * r, r) + 1.0;
    let exponent = shifted
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(127);
    e_r * f32::from_bits(exponent << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "x86_64")]
    type Fma = Wider;
    #[cfg(not(target_arch = "x86_64"))]
    type Fma = Separate;

    #[test]
    fn exp_is_near_the_library() {
        for i in -8700..8800 {
            let x = i as f32 / 100.0;
            for got in [exp::<Fma>(x), exp::<Separate>(x)] {
                let wanted = x.exp();
                assert!(
                    (got - wanted).abs() <= wanted * 5e-7,
                    "{x}: {got} for {wanted}"
                );
            }
        }
        assert!(exp::<Fma>(f32::NAN).is_nan());
        assert!(exp::<Fma>(f32::NEG_INFINITY) < 1e-37);
    }
}
