//! What work costs a mock site: a few numbers, so that anyone can say beforehand when a token comes.

use std::time::Duration;

use crate::clock::{Nanos, nanos};

/// The cost model. A request waits for a slot, is prefilled, then says a token each step; the first one when the prefill ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Requests at work at a time.
    pub slots: u32,
    /// Requests that may wait for a slot; further ones get 429.
    pub queue: u32,
    /// Time of a prompt, whatever its length.
    pub prefill: Duration,
    /// Time of each token of a prompt, one word being one token.
    pub prefill_token: Duration,
    /// Time between two tokens of an answer.
    pub step: Duration,
    /// Added to it for each request at work.
    pub step_request: Duration,
}

impl Default for Cost {
    fn default() -> Self {
        Self {
            slots: 64,
            queue: 1_024,
            prefill: Duration::from_millis(5),
            prefill_token: Duration::from_micros(20),
            step: Duration::from_millis(10),
            step_request: Duration::ZERO,
        }
    }
}

impl Cost {
    /// From the slot to the first token of an answer to so many tokens.
    pub fn prefill(&self, prompt_tokens: u64) -> Nanos {
        nanos(self.prefill).saturating_add(nanos(self.prefill_token).saturating_mul(prompt_tokens))
    }

    /// From a token to the next while so many requests are at work.
    pub fn step(&self, running: u64) -> Nanos {
        nanos(self.step).saturating_add(nanos(self.step_request).saturating_mul(running))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_adds_up() {
        let cost = Cost {
            step_request: Duration::from_millis(1),
            ..Cost::default()
        };
        assert_eq!(cost.prefill(100), 7_000_000);
        assert_eq!((cost.step(0), cost.step(5)), (10_000_000, 15_000_000));
    }
}
