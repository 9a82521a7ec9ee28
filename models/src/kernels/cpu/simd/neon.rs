//! Vectors of four 128-bit registers. Every processor of the target has NEON, and it fuses multiply and add.

use std::arch::aarch64::{
    float32x4_t, int32x4_t, uint16x4_t, vabsq_f32, vaddq_s32, vaddvq_s32, vcombine_s8,
    vcombine_s16, vcvtnq_s32_f32, vdupq_n_f32, vdupq_n_u32, vfmaq_f32, vld1_u16, vld1q_f32,
    vmaxq_u32, vmaxvq_u32, vmulq_n_f32, vqmovn_s16, vqmovn_s32, vreinterpretq_u32_f32, vst1q_f32,
    vst1q_s8,
};
use std::arch::asm;
use std::array::from_fn;

use super::{LANES, Simd, f16, scale_of};

/// Registers of a vector.
const PARTS: usize = LANES / 4;

/// 128-bit registers in fours, with fused multiply-add.
pub(crate) struct Neon;

#[expect(
    unsafe_code,
    reason = "the only way to the instructions; SAFETY for all: the target has them, and arrays of `LANES` numbers bound every \
              load and store"
)]
impl Simd for Neon {
    type Vector = [float32x4_t; PARTS];
    const SUMS_MAX: usize = 4;

    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    fn splat(x: f32) -> Self::Vector {
        unsafe { [vdupq_n_f32(x); PARTS] }
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self::Vector {
        from_fn(|part| unsafe { vld1q_f32(from.as_ptr().add(part * 4)) })
    }

    #[inline(always)]
    fn store(x: Self::Vector, to: &mut [f32; LANES]) {
        for (part, x) in x.into_iter().enumerate() {
            unsafe { vst1q_f32(to.as_mut_ptr().add(part * 4), x) };
        }
    }

    #[inline(always)]
    fn mul_add_lanes(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        from_fn(|part| unsafe { vfmaq_f32(c[part], a[part], b[part]) })
    }

    #[inline(always)]
    fn widen(from: &[f16; LANES], to: &mut [f32; LANES]) {
        let from: *const u16 = from.as_ptr().cast();
        let wide = from_fn(|part| widen_four(unsafe { vld1_u16(from.add(part * 4)) }));
        Self::store(wide, to);
    }

    #[inline(always)]
    fn quantize(x: &[f32; 2 * LANES], codes: &mut [i8; 2 * LANES]) -> (f32, [i32; 2]) {
        let mut sums = [0; 2];
        let scale = unsafe {
            let parts: [float32x4_t; 2 * PARTS] =
                from_fn(|part| vld1q_f32(x.as_ptr().add(part * 4)));
            let mut largest = vdupq_n_u32(0);
            for part in parts {
                largest = vmaxq_u32(largest, vreinterpretq_u32_f32(vabsq_f32(part)));
            }
            let Some((scale, inverse)) = scale_of(vmaxvq_u32(largest)) else {
                codes.fill(0);
                return (f32::NAN, [0; 2]);
            };
            for (half, sum) in sums.iter_mut().enumerate() {
                let rounded: [int32x4_t; PARTS] = from_fn(|part| {
                    vcvtnq_s32_f32(vmulq_n_f32(parts[half * PARTS + part], inverse))
                });
                let [a, b, c, d] = rounded;
                *sum = vaddvq_s32(vaddq_s32(vaddq_s32(a, b), vaddq_s32(c, d)));
                let low = vcombine_s16(vqmovn_s32(a), vqmovn_s32(b));
                let high = vcombine_s16(vqmovn_s32(c), vqmovn_s32(d));
                let bytes = vcombine_s8(vqmovn_s16(low), vqmovn_s16(high));
                vst1q_s8(codes.as_mut_ptr().add(half * LANES), bytes);
            }
            scale
        };
        (scale, sums)
    }
}

/// Four F16, by their bits, to F32. The compiler knows the instruction only for a type that it calls unstable.
#[inline(always)]
#[expect(unsafe_code, reason = "one instruction on registers")]
pub(crate) fn widen_four(from: uint16x4_t) -> float32x4_t {
    let to: float32x4_t;
    // SAFETY: it reads and writes the named registers only, and belongs to what every processor of the target has.
    unsafe {
        asm!(
            "fcvtl {to:v}.4s, {from:v}.4h",
            to = lateout(vreg) to,
            from = in(vreg) from,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    to
}
