//! Steps of a batch that does not change, as one event however many they are, and what a node makes of them: its rates.

use crate::clock::Nanos;

/// What a rate keeps of its past when one more step comes.
const RATE_KEEP: f64 = 0.98;

/// Equal steps, one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) began: Nanos,
    pub(super) steps: u64,
    /// Prompt tokens of each step.
    pub(super) prefill: u64,
    /// Nanoseconds of the first step, and how much longer each is than the one before.
    pub(super) first_ns: f64,
    pub(super) growth_ns: f64,
}

impl Run {
    /// Nanoseconds of its first `steps` steps.
    pub(super) fn lasts(&self, steps: u64) -> f64 {
        let n = steps as f64;
        n * self.first_ns + self.growth_ns * n * (n - 1.0) / 2.0
    }

    /// When its last step is over.
    pub(super) fn ends(&self) -> Nanos {
        self.began + (self.lasts(self.steps).round() as Nanos).max(1)
    }

    /// Steps that are over at `now`, with the one under way or without.
    pub(super) fn within(&self, now: Nanos, with_open: bool) -> u64 {
        let elapsed = now.saturating_sub(self.began) as f64;
        let (mut over, mut not) = (0, self.steps);
        while over < not {
            let middle = over + (not - over).div_ceil(2);
            if self.lasts(middle) <= elapsed {
                over = middle;
            } else {
                not = middle - 1;
            }
        }
        if with_open {
            (over + 1).min(self.steps)
        } else {
            over
        }
    }
}

/// Tokens over time, the recent ones for the most part.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Rate {
    tokens: f64,
    seconds: f64,
}

impl Rate {
    pub(super) fn note(&mut self, tokens: u64, seconds: f64, steps: u64) {
        let keep = RATE_KEEP.powi(i32::try_from(steps).unwrap_or(i32::MAX));
        self.tokens = self.tokens * keep + tokens as f64;
        self.seconds = self.seconds * keep + seconds;
    }

    pub(super) fn per_s(&self) -> f64 {
        if self.seconds > 0.0 {
            self.tokens / self.seconds
        } else {
            0.0
        }
    }
}
