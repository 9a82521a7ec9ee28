//! One body of plain Rust, compiled for each level of vector instructions and picked at run time.
//!
//! The compiler vectorises loops over fixed lanes by itself; all it needs is leave to use the instructions. Kernels are
//! generic over [`Simd`], whose fused multiply-add is one instruction where the level has it, and are instantiated by
//! [`simd_dispatch`]. The level is the same for the whole life of a process, and so are the results, bit for bit.

mod exp;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(any(test, not(target_arch = "aarch64")))]
mod separate;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::OnceLock;

use half::f16;

pub(crate) use exp::exp;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::{Neon as Baseline, widen_four};
#[cfg(not(target_arch = "aarch64"))]
pub(crate) use separate::Separate as Baseline;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Wide, Wider};

/// Instructions that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SimdLevel {
    /// What every processor of the target has: NEON on aarch64, nothing to count on elsewhere.
    Baseline,
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
            Self::Baseline
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
    /// Sums that a loop may keep in registers, in vectors. Decides how much is done at a time and never the order of a sum.
    const SUMS_MAX: usize = 16;

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

/// Defines `fn name(args)`, which runs the `#[inline(always)]` function `body::<S: Simd>(args)` compiled for the
/// processor's level.
macro_rules! simd_dispatch {
    ($(#[$doc:meta])* fn $name:ident = $body:ident($($arg:ident: $ty:ty),* $(,)?)) => {
        $(#[$doc])*
        #[cfg_attr(
            target_arch = "x86_64",
            expect(unsafe_code, reason = "calls into code compiled for instructions that were detected")
        )]
        pub(crate) fn $name($($arg: $ty),*) {
            use $crate::kernels::cpu::simd::{Baseline, SimdLevel};
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
                SimdLevel::Baseline => $body::<Baseline>($($arg),*),
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
