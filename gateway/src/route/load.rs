//! What has changed at a candidate by our requests since its figures were true.
//!
//! Figures are older than our own arrivals are apart. Between two reports every gateway would send everything to whoever
//! looked idle last (the incast of stale polls), so each dispatch is counted here at once; and whoever was busy then would
//! look busy until the next report, so its first content and its end are counted too: a prompt that was computed is in no
//! line any more. Each of these changes is taken out when a report comes that must hold it. Nothing is taken out because
//! time has passed: accounts of live requests that expire make capacity appear that is not there (llm-d-router, 2295).
//!
//! Of a candidate that serves nobody else all of it is known so, however seldom it reports.

use std::collections::VecDeque;
use std::time::Duration;

use crate::limits::CREDITS_MAX;

/// Time that a request takes from our side to where the candidate counts it, beyond half a round trip.
const COUNTED_AFTER: Duration = Duration::from_millis(20);

/// Work of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Sequences.
    pub(super) sequences: u32,
    /// Prompt tokens to compute.
    pub(super) prefill_tokens: u64,
    /// KV tokens needed.
    pub(super) kv_tokens: u64,
}

/// How much more there is of each than the figures show; less where it is below 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// Sequences.
    pub(super) sequences: i64,
    /// Prompt tokens to compute.
    pub(super) prefill_tokens: i64,
    /// KV tokens needed.
    pub(super) kv_tokens: i64,
}

/// Our requests at one candidate.
#[derive(Debug, Default)]
pub(super) struct Credits {
    /// Dispatches that its figures do not show.
    sent: Changes,
    /// First contents and ends of whose causes its figures do not show.
    back: Changes,
    /// Sum of both.
    unseen: Change,
    /// Requests in flight, shown by the figures or not, and their sequences.
    in_flight: u32,
    sequences: u32,
}

/// Changes in the order of their times.
#[derive(Debug, Default)]
struct Changes(VecDeque<(Duration, Change)>);

impl Credits {
    /// Counts a dispatch.
    pub(super) fn sent(&mut self, work: Work, now: Duration) {
        self.in_flight += 1;
        self.sequences = self.sequences.saturating_add(work.sequences);
        self.unseen.add(work.into());
        self.sent.note(work.into(), now);
    }

    /// Counts the first content of a dispatch: its prompt is computed.
    pub(super) fn began(&mut self, work: Work, now: Duration) {
        let prompt = Work {
            prefill_tokens: work.prefill_tokens,
            ..Work::default()
        };
        self.less(prompt, now);
    }

    /// Counts the end of a dispatch; its prompt waits no more either, where it never `began`.
    pub(super) fn ended(&mut self, work: Work, began: bool, now: Duration) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.sequences = self.sequences.saturating_sub(work.sequences);
        let prefill_tokens = if began { 0 } else { work.prefill_tokens };
        let rest = Work {
            prefill_tokens,
            ..work
        };
        self.less(rest, now);
    }

    fn less(&mut self, work: Work, now: Duration) {
        let change = Change::from(work).negative();
        self.unseen.add(change);
        self.back.note(change, now);
    }

    /// New figures, which were true at `true_at`, `rtt` being a round trip: what had arrived there by then, and what had left
    /// by then, is in them.
    pub(super) fn seen(&mut self, true_at: Duration, rtt: Duration) {
        let (way, unseen) = (rtt / 2, &mut self.unseen);
        let mut shown = |change: Change| unseen.add(change.negative());
        self.sent
            .take(|at| at + way + COUNTED_AFTER <= true_at, &mut shown);
        self.back.take(|at| at <= true_at + way, &mut shown);
    }

    /// What the last figures do not show.
    pub(super) const fn unseen(&self) -> Change {
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

impl Changes {
    /// Adds a change; beyond the bound it counts as one with the last before it.
    fn note(&mut self, change: Change, at: Duration) {
        let is_full = self.0.len() >= CREDITS_MAX;
        match self.0.back_mut() {
            Some((last, sum)) if is_full => {
                sum.add(change);
                *last = at;
            }
            _ => self.0.push_back((at, change)),
        }
    }

    /// Takes out those that are `in_them`, by their times.
    fn take(&mut self, in_them: impl Fn(Duration) -> bool, shown: &mut impl FnMut(Change)) {
        while let Some((_, change)) = self.0.pop_front_if(|(at, _)| in_them(*at)) {
            shown(change);
        }
    }
}

impl Change {
    fn add(&mut self, more: Self) {
        self.sequences = self.sequences.saturating_add(more.sequences);
        self.prefill_tokens = self.prefill_tokens.saturating_add(more.prefill_tokens);
        self.kv_tokens = self.kv_tokens.saturating_add(more.kv_tokens);
    }

    const fn negative(self) -> Self {
        Self {
            sequences: self.sequences.saturating_neg(),
            prefill_tokens: self.prefill_tokens.saturating_neg(),
            kv_tokens: self.kv_tokens.saturating_neg(),
        }
    }
}

impl From<Work> for Change {
    fn from(work: Work) -> Self {
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        Self {
            sequences: i64::from(work.sequences),
            prefill_tokens: signed(work.prefill_tokens),
            kv_tokens: signed(work.kv_tokens),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: Work = Work {
        sequences: 1,
        prefill_tokens: 100,
        kv_tokens: 200,
    };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn unseen(credits: &Credits) -> (i64, i64, i64) {
        let Change {
            sequences,
            prefill_tokens,
            kv_tokens,
        } = credits.unseen();
        (sequences, prefill_tokens, kv_tokens)
    }

    #[test]
    fn figures_take_out_what_they_show_and_nothing_else() {
        let mut credits = Credits::default();
        for at in [0, 100, 200] {
            credits.sent(WORK, ms(at));
        }
        assert_eq!(unseen(&credits), (3, 300, 600));
        // True at 150 ms: the second one, sent at 100, was on its way for 30 of them, as long as half a round trip takes.
        credits.seen(ms(150), ms(60));
        assert_eq!(unseen(&credits), (1, 100, 200));
        assert_eq!(credits.in_flight(), 3);
        credits.ended(WORK, false, ms(300));
        assert_eq!(unseen(&credits), (0, 0, 0));
        credits.ended(WORK, false, ms(300));
        credits.ended(WORK, false, ms(300));
        assert_eq!((credits.in_flight(), credits.sequences()), (0, 0));
    }

    #[test]
    fn what_is_over_since_the_figures_counts_no_more() {
        let mut credits = Credits::default();
        credits.sent(WORK, ms(0));
        // In the figures of 150 ms it has a prompt to compute.
        credits.seen(ms(150), ms(60));
        credits.began(WORK, ms(400));
        assert_eq!(unseen(&credits), (0, -100, 0));
        // What came at 400 had left at 370: those of 360 still show the prompt, and those of 370 do not.
        credits.seen(ms(360), ms(60));
        assert_eq!(unseen(&credits), (0, -100, 0));
        credits.seen(ms(370), ms(60));
        assert_eq!(unseen(&credits), (0, 0, 0));
        credits.ended(WORK, true, ms(900));
        assert_eq!(unseen(&credits), (-1, 0, -200));
        credits.seen(ms(900), ms(60));
        assert_eq!(unseen(&credits), (0, 0, 0));
    }

    #[test]
    fn figures_that_came_late_show_what_is_over_already() {
        let mut credits = Credits::default();
        credits.sent(WORK, ms(0));
        credits.began(WORK, ms(200));
        credits.ended(WORK, true, ms(300));
        assert_eq!(unseen(&credits), (0, 0, 0));
        // True at 100 ms, when it was there with all of its prompt.
        credits.seen(ms(100), ms(0));
        assert_eq!(unseen(&credits), (-1, -100, -200));
        credits.seen(ms(300), ms(0));
        assert_eq!(unseen(&credits), (0, 0, 0));
    }

    #[test]
    fn without_new_figures_nothing_expires() {
        let mut credits = Credits::default();
        credits.sent(WORK, ms(0));
        credits.seen(ms(0), ms(0));
        assert_eq!(credits.unseen().sequences, 1);
    }

    #[test]
    fn those_beyond_the_bound_count_until_figures_show_the_last_of_them() {
        let mut credits = Credits::default();
        let many = CREDITS_MAX as u64 + 10;
        for at in 0..many {
            credits.sent(WORK, ms(at));
        }
        assert_eq!(credits.unseen().sequences, many as i64);
        credits.seen(ms(many), ms(0));
        assert!((10..=40).contains(&credits.unseen().sequences));
        credits.seen(ms(many + 100), ms(0));
        assert_eq!(unseen(&credits), (0, 0, 0));
    }
}
