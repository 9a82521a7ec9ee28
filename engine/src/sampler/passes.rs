//! Passes over a whole row, written so that compilers vectorise them: fixed lanes, no branch inside, sums in one order.

use crate::limits::SAMPLER_BLOCK;

/// Logits that are looked at side by side.
const LANES: usize = 16;

/// Logits among which the best one is looked for at the end.
const BEST_BLOCK: usize = 256;

/// The best token of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Best {
    /// Of equals the lowest id.
    pub(super) token: u32,
    /// Its logit, finite.
    pub(super) logit: f32,
}

/// The best token, in one pass and a look at a block; `None` where a logit is NaN or plus infinity, or none is finite.
pub(super) fn arg_max(logits: &[f32]) -> Option<Best> {
    let mut logit = f32::NEG_INFINITY;
    let (mut start, mut is_number) = (0, true);
    for (index, block) in logits.chunks(BEST_BLOCK).enumerate() {
        let (best, all_numbers) = best_of(block);
        is_number &= all_numbers;
        if best > logit {
            (logit, start) = (best, index * BEST_BLOCK);
        }
    }
    if !is_number || !logit.is_finite() {
        return None;
    }
    let place = logits[start..].iter().position(|&other| other == logit)?;
    let token = (start + place) as u32;
    Some(Best { token, logit })
}

/// The largest logit of a block, and whether none is NaN.
fn best_of(block: &[f32]) -> (f32, bool) {
    let mut best = [f32::NEG_INFINITY; LANES];
    // As wide as a logit, for the sake of the vector unit.
    let mut is_nan = [0_u32; LANES];
    let (chunks, rest) = block.as_chunks::<LANES>();
    let mut look = |chunk: &[f32]| {
        for ((best, is_nan), &logit) in best.iter_mut().zip(&mut is_nan).zip(chunk) {
            *best = if logit > *best { logit } else { *best };
            *is_nan |= u32::from(logit.is_nan());
        }
    };
    chunks.iter().for_each(|chunk| look(chunk));
    look(rest);
    let best = best.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (best, is_nan == [0; LANES])
}

/// Sum of `e^(logit - max)`.
pub(super) fn sum_of_exponentials(logits: &[f32], max: f32) -> f64 {
    let blocks = logits.chunks(SAMPLER_BLOCK);
    blocks
        .map(|block| f64::from(sum_of(block, |logit| exp_of_negative(logit - max))))
        .sum()
}

/// Weights in place of a row's logits, and their sums block by block.
#[derive(Debug, Default)]
pub(super) struct Weights {
    sums: Vec<f64>,
}

impl Weights {
    /// Turns logits into weights `exp((logit - max) / temperature)`, so that the best token weighs 1.
    pub(super) fn read(&mut self, logits: &mut [f32], max: f32, temperature: f32) {
        let scale = temperature.recip();
        self.sums.clear();
        self.sums.reserve(logits.len() / SAMPLER_BLOCK + 1);
        for block in logits.chunks_mut(SAMPLER_BLOCK) {
            for logit in &mut *block {
                *logit = exp_of_negative((*logit - max) * scale);
            }
            self.sums.push(f64::from(sum_of(block, |weight| weight)));
        }
    }

    /// All weights together.
    pub(super) fn total(&self) -> f64 {
        self.sums.iter().sum()
    }

    /// Tokens that weigh at least `floor`, and their weights, in order of id.
    pub(super) fn at_least<'a>(
        &'a self,
        weights: &'a [f32],
        floor: f32,
    ) -> impl Iterator<Item = (u32, f32)> + 'a {
        let blocks = weights.chunks(SAMPLER_BLOCK).zip(&self.sums);
        let blocks = (0..).zip(blocks);
        // No weight is more than its block's sum, give or take the sum's rounding.
        let worth = move |&(_, (_, sum)): &(u32, (_, &f64))| *sum > 0.99 * f64::from(floor);
        blocks.filter(worth).flat_map(move |(block, (weights, _))| {
            let tokens = (block * SAMPLER_BLOCK as u32..).zip(weights.iter().copied());
            tokens.filter(move |&(_, weight)| weight > 0.0 && weight >= floor)
        })
    }

    /// The token at `chance` of all weights, in order of id.
    pub(super) fn draw(&self, weights: &[f32], chance: f64) -> Option<u32> {
        let mut left = self.total() * chance;
        for (block, &sum) in self.sums.iter().enumerate() {
            if left < sum {
                let start = block * SAMPLER_BLOCK;
                let end = weights.len().min(start + SAMPLER_BLOCK);
                return draw_from(&weights[start..end], left).map(|token| token + start as u32);
            }
            left -= sum;
        }
        // Rounding may leave a rest: it belongs to the last token that can be drawn at all.
        last_of(weights)
    }
}

/// The token at `left` of the weights' sum.
fn draw_from(weights: &[f32], mut left: f64) -> Option<u32> {
    for (token, &weight) in (0..).zip(weights) {
        left -= f64::from(weight);
        if left < 0.0 {
            return Some(token);
        }
    }
    last_of(weights)
}

fn last_of(weights: &[f32]) -> Option<u32> {
    let last = weights.iter().rposition(|&weight| weight > 0.0);
    last.map(|token| token as u32)
}

/// Sum of `f` over a block, lane by lane and then the lanes in order.
fn sum_of(block: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (chunks, rest) = block.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += f(value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += f(value);
    }
    lanes.iter().sum()
}

/// `e^x` for `x <= 0` to about 2e-7, 0 below -87; without branches, so that compilers vectorise loops over it.
///
/// `e^x = 2^k * 2^f` with `k` the nearest integer to `x / ln 2` and `|f| <= 1/2`; `2^f` by its Taylor polynomial.
pub(super) fn exp_of_negative(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves no fraction
    const LN_2: f32 = std::f32::consts::LN_2;
    // Not `max`, which would turn a NaN, that cannot come here, into a number at some cost.
    let clamped = if x < -87.0 { -87.0 } else { x };
    let scaled = clamped * std::f32::consts::LOG2_E;
    let rounded = scaled + ROUND;
    let f = (scaled - (rounded - ROUND)) * LN_2;
    let polynomial = 1.0
        + f * (1.0
            + f * (0.5 + f * (1.0 / 6.0 + f * (1.0 / 24.0 + f * (1.0 / 120.0 + f / 720.0)))));
    // The lowest bits of the sum's mantissa are the integer in two's complement: no conversion is needed.
    let power_of_two = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    let value = polynomial * power_of_two;
    if x < -87.0 { 0.0 } else { value }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_exponential_is_as_exact_as_its_type() {
        for step in 0..87_000_u32 {
            let x = -(step as f32) / 1000.0;
            let (ours, exact) = (f64::from(exp_of_negative(x)), f64::from(x).exp());
            // The argument's own rounding is scaled by its size.
            let tolerance = exact * (2e-7 + 1.2e-7 * f64::from(-x));
            assert!((ours - exact).abs() <= tolerance, "e^{x}: {ours} {exact}");
        }
        assert_eq!(exp_of_negative(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp_of_negative(0.0), 1.0);
    }

    proptest! {
        #[test]
        fn the_best_is_the_first_of_the_largest(
            logits in prop::collection::vec(prop::sample::select(vec![-3.0_f32, 0.0, 1.5, f32::NEG_INFINITY]), 0..70),
        ) {
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let first = logits.iter().position(|&l| l == largest && l.is_finite());
            let expected = first.map(|token| Best { token: token as u32, logit: largest });
            prop_assert_eq!(arg_max(&logits), expected);
        }

        #[test]
        fn one_that_is_no_number_spoils_the_row(
            mut logits in prop::collection::vec(-9.0_f32..9.0, 1..70),
            place: prop::sample::Index,
            spoiler in prop::sample::select(vec![f32::NAN, f32::INFINITY]),
        ) {
            let place = place.index(logits.len());
            logits[place] = spoiler;
            prop_assert_eq!(arg_max(&logits), None);
        }

        /// Against one sum over all in order.
        #[test]
        fn blocks_draw_what_a_walk_over_all_draws(
            mut weights in prop::collection::vec(-20.0_f32..0.0, 1..300),
            chance in 0.0_f64..1.0,
        ) {
            let mut sums = Weights::default();
            sums.read(&mut weights, 0.0, 1.0);
            let drawn = sums.draw(&weights, chance).unwrap();
            let before: f64 = weights[..drawn as usize].iter().map(|&w| f64::from(w)).sum();
            let after = before + f64::from(weights[drawn as usize]);
            let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
            let at = chance * total;
            let slack = total * 1e-6;
            prop_assert!(before - slack <= at && at <= after + slack);
        }

        #[test]
        fn a_floor_keeps_what_it_says(
            mut weights in prop::collection::vec(0.0_f32..1.0, 0..300),
            floor in 0.0_f32..1.0,
        ) {
            for weight in &mut weights {
                *weight = (1.0 - *weight).ln();
            }
            let mut sums = Weights::default();
            sums.read(&mut weights, 0.0, 1.0);
            let all = (0_u32..).zip(weights.iter().copied());
            let expected: Vec<_> = all.filter(|&(_, w)| w > 0.0 && w >= floor).collect();
            prop_assert_eq!(sums.at_least(&weights, floor).collect::<Vec<_>>(), expected);
        }
    }
}
