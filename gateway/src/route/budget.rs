//! How often an upstream may be tried again: a share of its ordinary requests and a few a second.
//!
//! Retries help against single faults and finish off an upstream that fails under load: without a bound on their share,
//! load grows with the failures. What is counted is what goes *to* an upstream, so that one that fails wholly sees at
//! most 1.2 times its requests and 10 a second more (with the default figures).

use std::time::Duration;

use super::options::RetryBounds;

/// Seconds of the steady part that may be saved up.
const STEADY_S_MAX: f64 = 1.0;
/// Retries that may be saved up from ordinary requests.
const EARNED_MAX: f64 = 100.0;

/// The retries that one upstream may get.
#[derive(Debug)]
pub(super) struct Budget {
    /// Earned by ordinary requests.
    earned: f64,
    /// Flowing in by the second.
    steady: f64,
    at: Duration,
}

impl Budget {
    pub(super) fn new(bounds: &RetryBounds, now: Duration) -> Self {
        Self {
            earned: 0.0,
            steady: bounds.per_s * STEADY_S_MAX,
            at: now,
        }
    }

    /// An ordinary request goes to the upstream.
    pub(super) fn earn(&mut self, bounds: &RetryBounds) {
        self.earned = (self.earned + bounds.share).min(EARNED_MAX);
    }

    /// Whether one more retry may go there.
    pub(super) fn allows(&self, bounds: &RetryBounds, now: Duration) -> bool {
        self.earned >= 1.0 || self.steady_at(bounds, now) >= 1.0
    }

    /// A retry goes there.
    pub(super) fn spend(&mut self, bounds: &RetryBounds, now: Duration) {
        self.steady = self.steady_at(bounds, now);
        self.at = now;
        if self.steady >= 1.0 {
            self.steady -= 1.0;
        } else {
            self.earned = (self.earned - 1.0).max(0.0);
        }
    }

    fn steady_at(&self, bounds: &RetryBounds, now: Duration) -> f64 {
        let since = now.saturating_sub(self.at).as_secs_f64();
        (self.steady + since * bounds.per_s).min(bounds.per_s * STEADY_S_MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_comes_retries_stay_within_a_share_and_a_rate(
            gaps_ms in prop::collection::vec(0_u64..200, 1..2_000),
            share in 0.0..0.5_f64,
            per_s in 0.0..20.0_f64,
        ) {
            let bounds = RetryBounds { share, per_s };
            let mut now = Duration::ZERO;
            let mut budget = Budget::new(&bounds, now);
            let (mut ordinary, mut retries) = (0.0, 0.0);
            for gap in gaps_ms {
                now += Duration::from_millis(gap);
                ordinary += 1.0;
                budget.earn(&bounds);
                // Every request fails, and each failure wants three more tries.
                for _ in 0..3 {
                    if budget.allows(&bounds, now) {
                        budget.spend(&bounds, now);
                        retries += 1.0;
                    }
                }
            }
            let allowed = share * ordinary + per_s * (now.as_secs_f64() + STEADY_S_MAX);
            prop_assert!(retries <= allowed + 1.0, "{retries} > {allowed}");
        }
    }
}
