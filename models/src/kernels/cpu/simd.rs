//! One body of plain Rust, compiled for each level of vector instructions and picked at run time.
//!
//! The compiler vectorises loops over fixed lanes by itself; all it needs is leave to use the instructions. Kernels are
//! generic over [`Simd`], whose fused multiply-add is one instruction where the level has it, and are instantiated by
//! [`simd_dispatch`]. The level is the same for the whole life of a process, and so are the results, bit for bit.

use std::sync::OnceLock;

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
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
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

/// Arithmetic that differs between levels.
pub(crate) trait Simd {
    /// `a * b + c`.
    fn mul_add(a: f32, b: f32, c: f32) -> f32;
}

/// Multiplies, rounds, then adds: for targets where a fused operation would be a library call.
pub(crate) struct Separate;

/// Rounds once.
pub(crate) struct Fused;

impl Simd for Separate {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
}

impl Simd for Fused {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

/// Defines `fn name(args)`, which runs the `#[inline(always)]` function `body::<S: Simd>(args)` compiled for the
/// processor's level.
macro_rules! simd_dispatch {
    ($(#[$doc:meta])* fn $name:ident = $body:ident($($arg:ident: $ty:ty),* $(,)?)) => {
        $(#[$doc])*
        #[expect(unsafe_code, reason = "calls into code compiled for instructions that were detected")]
        pub(crate) fn $name($($arg: $ty),*) {
            use $crate::kernels::cpu::simd::{Fused, Separate, SimdLevel};

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) {
                $body::<Fused>($($arg),*);
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
            fn avx512($($arg: $ty),*) {
                $body::<Fused>($($arg),*);
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

    #[test]
    fn exp_is_near_the_library() {
        for i in -8700..8800 {
            let x = i as f32 / 100.0;
            for got in [exp::<Fused>(x), exp::<Separate>(x)] {
                let wanted = x.exp();
                assert!(
                    (got - wanted).abs() <= wanted * 5e-7,
                    "{x}: {got} for {wanted}"
                );
            }
        }
        assert!(exp::<Fused>(f32::NAN).is_nan());
        assert!(exp::<Fused>(f32::NEG_INFINITY) < 1e-37);
    }
}
