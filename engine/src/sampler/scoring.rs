//! Log-probabilities of a row as the model gave it, before anything bends it.

use super::passes::{Best, sum_of_exponentials};
use crate::limits::{LOGPROB_MIN, SAMPLER_BLOCK};
use crate::runner::Scores;

/// A copy of a row, in memory kept from row to row: drawing uses the row up.
#[derive(Debug, Default)]
pub(super) struct Scoring {
    logits: Vec<f32>,
    /// Logarithm of the sum of all exponentials.
    log_sum: f64,
}

impl Scoring {
    /// Reads a row whose best token is known.
    pub(super) fn read(&mut self, logits: &[f32], best: Best) {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        let sum = sum_of_exponentials(logits, best.logit);
        self.log_sum = f64::from(best.logit) + sum.ln();
    }

    /// The scores of `token` and of the `top` best ones.
    pub(super) fn of(&self, token: u32, top: u32) -> Scores {
        let logit = self.logits.get(token as usize).copied();
        let mut best = self.best(top as usize);
        for (_, value) in &mut best {
            *value = self.logprob(*value);
        }
        Scores {
            logprob: self.logprob(logit.unwrap_or(f32::NEG_INFINITY)),
            top: best,
        }
    }

    fn logprob(&self, logit: f32) -> f32 {
        #[expect(clippy::cast_possible_truncation, reason = "it is rounded, not cut")]
        let logprob = (f64::from(logit) - self.log_sum) as f32;
        logprob.clamp(LOGPROB_MIN, 0.0)
    }

    /// The `count` largest logits, best first, and of equals the lowest id first.
    fn best(&self, count: usize) -> Vec<(u32, f32)> {
        let mut best: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
        if count == 0 {
            return best;
        }
        let mut least = f32::NEG_INFINITY;
        let blocks = (0_u32..)
            .step_by(SAMPLER_BLOCK)
            .zip(self.logits.chunks(SAMPLER_BLOCK));
        for (start, block) in blocks {
            let is_full = best.len() == count;
            // Most blocks hold nothing better, which is seen without a branch a logit.
            if is_full
                && !block
                    .iter()
                    .fold(false, |any, &logit| any | (logit > least))
            {
                continue;
            }
            for (token, &logit) in (start..).zip(block) {
                if best.len() < count || logit > least {
                    let place = best.partition_point(|&(_, other)| other >= logit);
                    best.insert(place, (token, logit));
                    best.truncate(count);
                    least = best.last().map_or(least, |&(_, logit)| logit);
                }
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::passes::arg_max;
    use super::*;

    proptest! {
        /// Against a full sort and exact sums.
        #[test]
        fn scores_are_those_of_the_whole_softmax(
            logits in prop::collection::vec(prop_oneof![-30.0_f32..30.0, Just(1.0), Just(f32::NEG_INFINITY)], 1..400),
            token: prop::sample::Index,
            top in 0_u32..=20,
        ) {
            let Some(best) = arg_max(&logits) else { return Ok(()) };
            let token = token.index(logits.len()) as u32;
            let mut scoring = Scoring::default();
            scoring.read(&logits, best);
            let scores = scoring.of(token, top);
            let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
            let expected = |token: u32| (f64::from(logits[token as usize]) - sum.ln()).max(-9999.0);
            prop_assert!((f64::from(scores.logprob) - expected(token)).abs() < 1e-4);
            let mut order: Vec<u32> = (0..logits.len() as u32).collect();
            order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
            order.truncate(top as usize);
            let ids: Vec<u32> = scores.top.iter().map(|&(token, _)| token).collect();
            prop_assert_eq!(ids, order);
            for (token, logprob) in scores.top {
                prop_assert!((f64::from(logprob) - expected(token)).abs() < 1e-4);
            }
        }
    }
}
