//! What we have sent and the candidate's figures do not show yet.
//!
//! Figures are older than our own arrivals are apart. Between two reports every gateway would send everything to whoever
//! looked idle last (the incast of stale polls), so each dispatch is counted here at once, and taken out when a report
//! comes that must hold it. Nothing is taken out because time has passed: accounts of live requests that expire make
//! capacity appear that is not there (llm-d-router, 2295).

use std::collections::VecDeque;
use std::time::Duration;

use crate::limits::CREDITS_MAX;

/// Time that a request takes from our side to where the candidate counts it, beyond half a round trip.
const COUNTED_AFTER: Duration = Duration::from_millis(20);

/// A request that we have sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Credit {
    /// Number of the dispatch.
    pub(super) number: u64,
    /// When it was sent.
    pub(super) at: Duration,
    /// What it brings.
    pub(super) work: Work,
}

/// Work of one request or of many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Sequences.
    pub(super) sequences: u32,
    /// Prompt tokens to compute.
    pub(super) prefill_tokens: u64,
    /// KV tokens needed.
    pub(super) kv_tokens: u64,
}

/// The dispatches to one candidate since its last figures, in order.
#[derive(Debug, Default)]
pub(super) struct Credits {
    since: VecDeque<Credit>,
    /// Sum of those, and of those beyond the bound.
    unseen: Work,
    /// Those beyond the bound, until the next figures.
    beyond: Work,
    /// Requests in flight, shown by the figures or not, and their sequences.
    in_flight: u32,
    sequences: u32,
}

impl Credits {
    /// Counts a dispatch.
    pub(super) fn sent(&mut self, credit: Credit) {
        self.in_flight += 1;
        self.sequences = self.sequences.saturating_add(credit.work.sequences);
        self.unseen.add(credit.work);
        if self.since.len() < CREDITS_MAX {
            self.since.push_back(credit);
        } else {
            self.beyond.add(credit.work);
        }
    }

    /// Counts the end of a dispatch of so many sequences: what figures do not show and is over, they need not show any more.
    pub(super) fn ended(&mut self, number: u64, sequences: u32) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.sequences = self.sequences.saturating_sub(sequences);
        let found = self.since.binary_search_by_key(&number, |c| c.number);
        if let Some(credit) = found.ok().and_then(|index| self.since.remove(index)) {
            self.unseen.take(credit.work);
        }
    }

    /// New figures, which were true at `true_at`: dispatches that had arrived by then are in them.
    pub(super) fn seen(&mut self, true_at: Duration, rtt: Duration) {
        let arrived = |credit: &mut Credit| credit.at + rtt / 2 + COUNTED_AFTER <= true_at;
        while let Some(credit) = self.since.pop_front_if(arrived) {
            self.unseen.take(credit.work);
        }
        self.unseen.take(std::mem::take(&mut self.beyond));
    }

    /// What the last figures do not show.
    pub(super) const fn unseen(&self) -> Work {
        self.unseen
    }

    /// Requests in flight (I10: zero when all have ended).
    pub(super) const fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Sequences of requests in flight.
    pub(super) const fn sequences(&self) -> u32 {
        self.sequences
    }
}

impl Work {
    fn add(&mut self, more: Self) {
        self.sequences = self.sequences.saturating_add(more.sequences);
        self.prefill_tokens = self.prefill_tokens.saturating_add(more.prefill_tokens);
        self.kv_tokens = self.kv_tokens.saturating_add(more.kv_tokens);
    }

    fn take(&mut self, less: Self) {
        self.sequences = self.sequences.saturating_sub(less.sequences);
        self.prefill_tokens = self.prefill_tokens.saturating_sub(less.prefill_tokens);
        self.kv_tokens = self.kv_tokens.saturating_sub(less.kv_tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn credit(number: u64, at: Duration) -> Credit {
        Credit {
            number,
            at,
            work: Work {
                sequences: 1,
                prefill_tokens: 100,
                kv_tokens: 200,
            },
        }
    }

    #[test]
    fn figures_take_out_what_they_show_and_nothing_else() {
        let mut credits = Credits::default();
        credits.sent(credit(0, ms(0)));
        credits.sent(credit(1, ms(100)));
        credits.sent(credit(2, ms(200)));
        assert_eq!(credits.unseen().sequences, 3);
        // True at 150 ms: the second one, sent at 100, was on its way for 30 of them, as long as half a round trip takes.
        credits.seen(ms(150), ms(60));
        assert_eq!(credits.unseen().sequences, 1);
        assert_eq!(credits.in_flight(), 3);
        credits.ended(2, 1);
        assert_eq!(credits.unseen(), Work::default());
        credits.ended(0, 1);
        credits.ended(1, 1);
        assert_eq!((credits.in_flight(), credits.sequences()), (0, 0));
    }

    #[test]
    fn without_new_figures_nothing_expires() {
        let mut credits = Credits::default();
        credits.sent(credit(0, ms(0)));
        credits.seen(ms(0), ms(0));
        assert_eq!(credits.unseen().sequences, 1);
    }

    #[test]
    fn those_beyond_the_bound_count_until_the_next_figures() {
        let mut credits = Credits::default();
        let many = CREDITS_MAX as u64 + 10;
        for number in 0..many {
            credits.sent(credit(number, ms(0)));
        }
        assert_eq!(u64::from(credits.unseen().sequences), many);
        credits.seen(ms(1_000), ms(0));
        assert_eq!(credits.unseen(), Work::default());
    }
}
