//! Vectors as plain arrays, for targets whose every processor is not known to fuse multiply and add.

use super::{LANES, Simd, f16};

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
