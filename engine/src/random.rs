//! Chance without state: every draw is a function of `(seed, choice, index)`.
//!
//! A shared stream would make a token depend on who else was in the batch, and a resumed or preempted sequence would have
//! to know how far the stream had been read. A function has neither problem.

/// One step of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): adds the
/// golden gamma and mixes.
pub(crate) const fn splitmix64(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// 64 random bits for token `index` of `choice`: `s(s(s(seed) + choice) + index)` where `s` is [`splitmix64`] and sums
/// wrap. The nesting keeps the draws of neighbouring seeds and choices apart.
pub(crate) const fn draw(seed: u64, choice: u32, index: u32) -> u64 {
    let of_seed = splitmix64(seed);
    let of_choice = splitmix64(of_seed.wrapping_add(choice as u64));
    splitmix64(of_choice.wrapping_add(index as u64))
}

/// The same draw as a number in `[0, 1)` with 53 random bits.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64 exactly")]
pub(crate) const fn draw_unit(seed: u64, choice: u32, index: u32) -> f64 {
    (draw(seed, choice, index) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix64_is_the_published_one() {
        // The first two outputs of the reference generator seeded with 0.
        assert_eq!(splitmix64(0), 0xE220_A839_7B1D_CDAF);
        assert_eq!(splitmix64(0x9E37_79B9_7F4A_7C15), 0x6E78_9E6A_A1B9_65F4);
    }

    #[test]
    fn neighbouring_seeds_choices_and_indexes_share_no_draw() {
        let mut seen = std::collections::HashSet::new();
        for seed in 0..32 {
            for choice in 0..8 {
                for index in 0..32 {
                    assert!(seen.insert(draw(seed, choice, index)));
                }
            }
        }
    }

    #[test]
    fn unit_draws_fill_the_interval_evenly() {
        let mut bins = [0_u32; 10];
        for index in 0..100_000 {
            let unit = draw_unit(7, 0, index);
            assert!((0.0..1.0).contains(&unit));
            bins[(unit * 10.0) as usize] += 1;
        }
        assert!(bins.iter().all(|n| (9_700..10_300).contains(n)), "{bins:?}");
    }
}
