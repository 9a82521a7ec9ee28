//! The exponential, in operations that vectorise.

use super::Simd;

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
    #[cfg(not(target_arch = "x86_64"))]
    use super::super::Baseline as Fma;
    use super::super::separate::Separate;
    #[cfg(target_arch = "x86_64")]
    use super::super::x86::Wider as Fma;
    use super::*;

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
