//! From one row of logits to one token.
//!
//! The order is vLLM's: temperature, then min-p, top-k and top-p, each over what the one before left. Nothing is sorted
//! where a selection does, and nothing depends on other rows: sums run in a fixed order, ties go to the lowest id, and
//! chance is a function of `(seed, choice, index)`. The exponential is our own, so that a draw does not depend on the
//! platform's.

use crate::limits::TOP_P_SELECTION;
use crate::random::draw_unit;
use crate::runner::{RowOutcome, SampleRow};

/// Temperatures below this are greedy: they would divide the logits into infinities.
const TEMPERATURE_GREEDY: f32 = 1e-5;

/// A token that may be drawn, and its weight relative to the best one's.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    weight: f32,
    token: u32,
}

/// Draws tokens in memory that it keeps from row to row.
#[derive(Debug, Default)]
pub struct Sampler {
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// The next token of `row`, below `logits.len()`. The logits are used up. [`RowOutcome::InvalidLogits`] where one is
    /// NaN, or none is finite.
    pub fn sample(&mut self, logits: &mut [f32], row: &SampleRow<'_>) -> RowOutcome {
        let Some((best, max)) = arg_max(logits) else {
            return RowOutcome::InvalidLogits;
        };
        let sampling = row.sampling;
        if sampling.temperature < TEMPERATURE_GREEDY || sampling.top_k == 1 {
            return RowOutcome::Token(best);
        }
        let chance = draw_unit(row.seed, row.choice, row.index);
        to_weights(logits, max, sampling.temperature);
        if sampling.top_p >= 1.0 && sampling.top_k == 0 && sampling.min_p <= 0.0 {
            return RowOutcome::Token(draw_from_all(logits, chance).unwrap_or(best));
        }
        self.keep_min_p(logits, sampling.min_p);
        self.keep_top_k(sampling.top_k);
        let mass = self.keep_top_p(sampling.top_p);
        RowOutcome::Token(self.draw(mass, chance).unwrap_or(best))
    }

    /// Candidates of at least `min_p` times the best one's probability, whose weight is 1.
    fn keep_min_p(&mut self, weights: &[f32], min_p: f32) {
        let all = weights.iter().zip(0..);
        let kept = all.filter(|&(&weight, _)| weight > 0.0 && weight >= min_p);
        self.candidates.clear();
        self.candidates
            .extend(kept.map(|(&weight, token)| Candidate { weight, token }));
    }

    /// The `top_k` best candidates; 0 keeps all.
    fn keep_top_k(&mut self, top_k: u32) {
        let top_k = top_k as usize;
        if top_k > 0 && top_k < self.candidates.len() {
            self.candidates
                .select_nth_unstable_by(top_k - 1, best_first);
            self.candidates.truncate(top_k);
            // A selection leaves its part in no particular order, and sums must have one.
            self.candidates.sort_unstable_by_key(|c| c.token);
        }
    }

    /// The smallest set of best candidates with at least `top_p` of the mass, best first. Returns its mass.
    fn keep_top_p(&mut self, top_p: f32) -> f64 {
        let total: f64 = self.candidates.iter().map(|c| f64::from(c.weight)).sum();
        if top_p >= 1.0 {
            return total;
        }
        let wanted = total * f64::from(top_p);
        let (mut mass, mut sorted) = (0.0, 0);
        let mut selection = TOP_P_SELECTION;
        while sorted < self.candidates.len() {
            let selected = self.sort_next(sorted, selection);
            for index in sorted..selected {
                mass += f64::from(self.candidates[index].weight);
                if mass >= wanted {
                    self.candidates.truncate(index + 1);
                    return mass;
                }
            }
            sorted = selected;
            selection *= 4;
        }
        mass
    }

    /// Sorts the next `count` best candidates after the first `sorted`, which are in place. Returns where they end.
    fn sort_next(&mut self, sorted: usize, count: usize) -> usize {
        let rest = &mut self.candidates[sorted..];
        let count = count.min(rest.len());
        if count < rest.len() {
            rest.select_nth_unstable_by(count, best_first);
        }
        rest[..count].sort_unstable_by(best_first);
        sorted + count
    }

    /// The candidate at `chance` of `mass`, in the candidates' order.
    fn draw(&self, mass: f64, chance: f64) -> Option<u32> {
        let mut left = mass * chance;
        for candidate in &self.candidates {
            left -= f64::from(candidate.weight);
            if left < 0.0 {
                return Some(candidate.token);
            }
        }
        self.candidates.last().map(|c| c.token)
    }
}

fn best_first(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token))
}

/// The lowest id of the largest logit, and the logit; `None` where one is NaN or none is finite.
fn arg_max(logits: &[f32]) -> Option<(u32, f32)> {
    let is_nan = logits.iter().fold(false, |nan, logit| nan | logit.is_nan());
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if is_nan || !max.is_finite() {
        return None;
    }
    let best = logits.iter().position(|&logit| logit == max)?;
    Some((best as u32, max))
}

/// Turns logits into weights `exp((logit - max) / temperature)`, so that the best token weighs 1.
fn to_weights(logits: &mut [f32], max: f32, temperature: f32) {
    let scale = temperature.recip();
    for logit in logits {
        *logit = exp_of_negative((*logit - max) * scale);
    }
}

/// The token at `chance` of all weights, in order of id.
fn draw_from_all(weights: &[f32], chance: f64) -> Option<u32> {
    let total: f64 = weights.iter().copied().map(f64::from).sum();
    let mut left = total * chance;
    for (token, &weight) in weights.iter().enumerate() {
        left -= f64::from(weight);
        if left < 0.0 {
            return Some(token as u32);
        }
    }
    // Rounding may leave a rest: it belongs to the last token that can be drawn at all.
    weights
        .iter()
        .rposition(|&weight| weight > 0.0)
        .map(|token| token as u32)
}

/// `e^x` for `x <= 0` to about 2e-7, 0 below -87; without branches, so that compilers vectorise loops over it.
///
/// `e^x = 2^k * 2^f` with `k` the nearest integer to `x / ln 2` and `|f| <= 1/2`; `2^f` by its Taylor polynomial.
fn exp_of_negative(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves no fraction
    const LN_2: f32 = std::f32::consts::LN_2;
    let clamped = x.max(-87.0);
    let scaled = clamped * std::f32::consts::LOG2_E;
    let whole = (scaled + ROUND) - ROUND;
    let f = (scaled - whole) * LN_2;
    let polynomial = 1.0
        + f * (1.0
            + f * (0.5 + f * (1.0 / 6.0 + f * (1.0 / 24.0 + f * (1.0 / 120.0 + f / 720.0)))));
    #[expect(
        clippy::cast_possible_truncation,
        reason = "whole is an integer in -126..=0"
    )]
    let power_of_two = f32::from_bits(((whole as i32 + 127) << 23).cast_unsigned());
    let value = polynomial * power_of_two;
    if x < -87.0 { 0.0 } else { value }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::SamplingParams;

    fn row(sampling: &SamplingParams, index: u32) -> SampleRow<'_> {
        SampleRow {
            sampling,
            seed: 42,
            choice: 0,
            index,
        }
    }

    fn sample(logits: &[f32], sampling: &SamplingParams, index: u32) -> RowOutcome {
        Sampler::default().sample(&mut logits.to_vec(), &row(sampling, index))
    }

    /// Shares of each token over many draws.
    fn shares(logits: &[f32], sampling: &SamplingParams) -> Vec<f64> {
        const DRAWS: u32 = 40_000;
        let mut counts = vec![0_u32; logits.len()];
        let mut sampler = Sampler::default();
        for index in 0..DRAWS {
            match sampler.sample(&mut logits.to_vec(), &row(sampling, index)) {
                RowOutcome::Token(token) => counts[token as usize] += 1,
                RowOutcome::InvalidLogits => panic!("the logits are valid"),
            }
        }
        counts
            .iter()
            .map(|&n| f64::from(n) / f64::from(DRAWS))
            .collect()
    }

    fn assert_near(actual: &[f64], expected: &[f64]) {
        for (a, e) in actual.iter().zip(expected) {
            assert!((a - e).abs() < 0.01, "{actual:?} is not {expected:?}");
        }
    }

    /// Logits of given probabilities.
    fn logits_of(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln()).collect()
    }

    fn params(temperature: f32, top_k: u32, top_p: f32, min_p: f32) -> SamplingParams {
        SamplingParams {
            temperature,
            top_p,
            top_k,
            min_p,
        }
    }

    const PROBABILITIES: [f32; 5] = [0.1, 0.4, 0.05, 0.25, 0.2];

    #[test]
    fn greedy_takes_the_best_and_of_equals_the_lowest_id() {
        let greedy = params(0.0, 0, 1.0, 0.0);
        assert_eq!(
            sample(&[0.0, 3.0, 3.0, -1.0], &greedy, 0),
            RowOutcome::Token(1)
        );
        assert_eq!(
            sample(&[f32::NEG_INFINITY, -5.0], &greedy, 0),
            RowOutcome::Token(1)
        );
    }

    #[test]
    fn rows_that_are_no_numbers_are_told_apart() {
        for sampling in [params(0.0, 0, 1.0, 0.0), params(1.0, 0, 0.9, 0.0)] {
            for row in [
                [1.0, f32::NAN, 2.0],
                [f32::NEG_INFINITY; 3],
                [0.0, f32::INFINITY, 0.0],
            ] {
                assert_eq!(sample(&row, &sampling, 0), RowOutcome::InvalidLogits);
            }
        }
        assert_eq!(
            sample(&[], &params(0.0, 0, 1.0, 0.0), 0),
            RowOutcome::InvalidLogits
        );
    }

    #[test]
    fn neutral_parameters_draw_the_softmax() {
        let expected = PROBABILITIES.map(f64::from);
        assert_near(
            &shares(&logits_of(&PROBABILITIES), &params(1.0, 0, 1.0, 0.0)),
            &expected,
        );
    }

    #[test]
    fn temperature_comes_before_the_truncations() {
        // At temperature 2 the probabilities are as their square roots: 0.316, 0.632, 0.224, 0.5, 0.447, in sum 2.119.
        // Half of that mass needs the best two, which alone would reach it at temperature 1 with 0.65.
        let shares = shares(&logits_of(&PROBABILITIES), &params(2.0, 0, 0.6, 0.0));
        assert_near(&shares, &[0.0, 0.400, 0.0, 0.317, 0.283]);
    }

    #[test]
    fn top_k_top_p_and_min_p_keep_what_they_say() {
        let logits = logits_of(&PROBABILITIES);
        assert_near(
            &shares(&logits, &params(1.0, 2, 1.0, 0.0)),
            &[0.0, 0.615, 0.0, 0.385, 0.0],
        );
        assert_near(
            &shares(&logits, &params(1.0, 0, 0.65, 0.0)),
            &[0.0, 0.615, 0.0, 0.385, 0.0],
        );
        assert_near(
            &shares(&logits, &params(1.0, 0, 1.0, 0.49)),
            &[0.0, 0.471, 0.0, 0.294, 0.235],
        );
        assert_near(
            &shares(&logits, &params(1.0, 3, 0.5, 0.3)),
            &[0.0, 0.615, 0.0, 0.385, 0.0],
        );
    }

    #[test]
    fn draws_are_these_and_stay_these() {
        let logits: Vec<f32> = (0..1000_u16)
            .map(|i| f32::from(i * 37 % 101) / 20.0)
            .collect();
        let drawn = |sampling| -> Vec<RowOutcome> {
            (0..6)
                .map(|index| sample(&logits, &sampling, index))
                .collect()
        };
        let tokens = |ids: [u32; 6]| ids.map(RowOutcome::Token).to_vec();
        assert_eq!(drawn(params(1.0, 0, 1.0, 0.0)), tokens(GOLDEN_NEUTRAL));
        assert_eq!(drawn(params(0.7, 50, 0.9, 0.05)), tokens(GOLDEN_TRUNCATED));
    }

    const GOLDEN_NEUTRAL: [u32; 6] = [389, 715, 868, 169, 409, 919];
    const GOLDEN_TRUNCATED: [u32; 6] = [565, 19, 827, 636, 666, 49];

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
        /// Against a full sort: the drawn token is in the set that the definition keeps.
        #[test]
        fn the_token_is_always_in_the_kept_set(
            logits in prop::collection::vec(-8.0_f32..8.0, 1..700),
            top_k in 0_u32..400,
            top_p in 0.05_f32..1.0,
            index in 0_u32..1000,
        ) {
            let sampling = params(1.0, top_k, top_p, 0.0);
            let RowOutcome::Token(token) = sample(&logits, &sampling, index) else {
                return Err(TestCaseError::fail("the logits are valid"));
            };
            let mut order: Vec<u32> = (0..logits.len() as u32).collect();
            order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
            order.truncate(if top_k == 0 { order.len() } else { top_k as usize });
            let weight = |t: &u32| f64::from(logits[*t as usize]).exp();
            let total: f64 = order.iter().map(weight).sum();
            let rank = order.iter().position(|&t| t == token);
            prop_assert!(rank.is_some(), "not among the top k");
            let before: f64 = order.iter().take(rank.unwrap_or(0)).map(weight).sum();
            prop_assert!(before < total * f64::from(top_p) * 1.000_01, "not in the nucleus");
        }
    }
}
