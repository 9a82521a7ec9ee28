//! The machine's ceilings: loops that do nothing but what a kernel is bound by. Whatever a kernel reaches is a share of one.

/// Multiply-adds of bytes in [`vnni`], counted as two operations each.
pub const VNNI_OPERATIONS: u64 = VNNI_ROUNDS * 12 * 128;
/// Multiply-adds of F32 in [`fma`], counted as two operations each.
pub const FMA_OPERATIONS: u64 = FMA_ROUNDS * 12 * 32;

const VNNI_ROUNDS: u64 = 100_000;
const FMA_ROUNDS: u64 = 100_000;

/// The sum of all words: as fast as memory gives them.
pub fn read(words: &[u64]) -> u64 {
    words.iter().fold(0, |sum, word| sum.wrapping_add(*word))
}

/// Independent chains of byte products in registers. 0 where the processor has no such instruction.
pub fn vnni(seed: i32) -> i32 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
        // SAFETY: the instructions are there.
        return unsafe { x86::vnni(seed, VNNI_ROUNDS) };
    }
    seed.wrapping_mul(0)
}

/// Independent chains of fused multiply-adds in registers. 0 where the processor has no such instruction.
pub fn fma(seed: f32) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the instructions are there.
        return unsafe { x86::fma(seed, FMA_ROUNDS) };
    }
    seed * 0.0
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub unsafe fn vnni(seed: i32, rounds: u64) -> i32 {
        let (a, b) = (_mm512_set1_epi32(seed), _mm512_set1_epi32(black_box(3)));
        let mut sums: [__m512i; 12] = [a; 12];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        sums.iter()
            .map(|&sum| _mm512_reduce_add_epi32(sum))
            .fold(0, i32::wrapping_add)
    }

    #[target_feature(enable = "avx512f")]
    pub unsafe fn fma(seed: f32, rounds: u64) -> f32 {
        let (a, b) = (_mm512_set1_ps(seed), _mm512_set1_ps(black_box(0.5)));
        let mut sums: [__m512; 12] = [a; 12];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, b, a);
            }
        }
        sums.iter().map(|&sum| _mm512_reduce_add_ps(sum)).sum()
    }
}
