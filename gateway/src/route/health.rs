//! Whether a candidate may be trusted with requests, by what became of those before.
//!
//! A run of failures or too large a share of them ejects it for a time that grows with each ejection. After that one
//! request at a time probes it; a success lets it back in slowly, a failure ejects it again. How many may be out at once is
//! the router's to bound: where all look bad, the gateway is more likely to be wrong than all of them.

use std::time::Duration;

use super::options::Ejection;

/// Time of one bucket of the share of failures, and their number.
const BUCKET: Duration = Duration::from_secs(1);
const BUCKETS: usize = 10;
/// Outcomes before a share means anything.
const OUTCOMES_MIN: u32 = 20;
/// Share of failures, in percent, that ejects.
const FAILURES_PERCENT: u32 = 50;
/// The time of an ejection grows to at most so many times the first.
const EJECTIONS_COUNTED_MAX: u32 = 12;
/// Time without failures after which earlier ejections are forgotten.
const FORGIVEN_AFTER: Duration = Duration::from_secs(300);
/// A probe that says nothing for so long is taken for lost, and another may go.
const PROBE_LOST_AFTER: Duration = Duration::from_secs(60);
/// Share of its usual attraction that a candidate starts with when it is let in again.
const RAMP_START: f64 = 0.1;

/// What may be sent to a candidate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Standing {
    /// Anything; the factor from 0.1 to 1 says how much of its usual attraction it has.
    In(f64),
    /// One request, to see.
    Probe,
    /// Nothing.
    Out,
}

/// What is known of a candidate's health.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Failures since the last success.
    consecutive: u32,
    /// Apart, since every decision walks over all candidates and none looks at these.
    outcomes: Box<Outcomes>,
    ejections: u32,
    last_failure: Duration,
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum State {
    #[default]
    Trusted,
    Ramping {
        since: Duration,
    },
    Ejected {
        since: Duration,
        until: Duration,
    },
    Probing {
        since: Duration,
    },
}

impl Health {
    #[inline]
    pub(super) fn standing(&self, now: Duration, ejection: &Ejection) -> Standing {
        match self.state {
            State::Trusted => Standing::In(1.0),
            State::Ramping { since } => {
                let share = now.saturating_sub(since).as_secs_f64()
                    / ejection.slow_start.as_secs_f64().max(1e-3);
                Standing::In(share.clamp(RAMP_START, 1.0))
            }
            State::Ejected { until, .. } if now >= until => Standing::Probe,
            State::Probing { since } if now >= since + PROBE_LOST_AFTER => Standing::Probe,
            State::Ejected { .. } | State::Probing { .. } => Standing::Out,
        }
    }

    /// Whether it may be sent anything, and has all of its usual attraction.
    pub(super) const fn is_trusted(&self) -> bool {
        matches!(self.state, State::Trusted)
    }

    /// Whether it counts as out.
    pub(super) const fn is_ejected(&self) -> bool {
        matches!(self.state, State::Ejected { .. } | State::Probing { .. })
    }

    /// A request goes there.
    pub(super) fn sent(&mut self, now: Duration, ejection: &Ejection) {
        if self.standing(now, ejection) == Standing::Probe {
            self.state = State::Probing { since: now };
        }
    }

    /// A request that was `sent` there went well as far as its first content.
    pub(super) fn succeeded(&mut self, sent: Duration, now: Duration) {
        self.consecutive = 0;
        self.outcomes.count(now, true);
        let proven = match self.state {
            State::Probing { .. } => true,
            // One that was sent before the ejection and ends well after it proves nothing.
            State::Ejected { since, .. } => since < sent,
            State::Trusted | State::Ramping { .. } => false,
        };
        if proven {
            self.state = State::Ramping { since: now };
            *self.outcomes = Outcomes::default();
        }
        if now >= self.last_failure + FORGIVEN_AFTER {
            self.ejections = 0;
        }
    }

    /// A probe ended without saying anything of the candidate, as when its client left: another may go.
    pub(super) fn abandoned(&mut self, now: Duration) {
        if matches!(self.state, State::Probing { .. }) {
            self.state = State::Ejected {
                since: now,
                until: now,
            };
        }
    }

    /// A request failed. Ejects where that is due and `may_eject`.
    pub(super) fn failed(&mut self, now: Duration, ejection: &Ejection, may_eject: bool) {
        self.consecutive = self.consecutive.saturating_add(1);
        self.outcomes.count(now, false);
        self.last_failure = now;
        let probing = matches!(self.state, State::Probing { .. });
        let due = self.consecutive >= ejection.failures || self.outcomes.are_bad(now);
        if probing || (due && may_eject && !self.is_ejected()) {
            self.eject(now, ejection);
        }
    }

    fn eject(&mut self, now: Duration, ejection: &Ejection) {
        self.ejections = (self.ejections + 1).min(EJECTIONS_COUNTED_MAX);
        let until = now + ejection.first * self.ejections;
        self.state = State::Ejected { since: now, until };
    }
}

/// Successes and failures of the last ten seconds.
#[derive(Debug, Default)]
struct Outcomes {
    /// (second, successes, failures)
    buckets: [(u64, u32, u32); BUCKETS],
}

impl Outcomes {
    fn count(&mut self, now: Duration, success: bool) {
        let second = now.as_secs() / BUCKET.as_secs();
        let Some(bucket) = self.buckets.get_mut(second as usize % BUCKETS) else {
            return;
        };
        if bucket.0 != second {
            *bucket = (second, 0, 0);
        }
        if success {
            bucket.1 = bucket.1.saturating_add(1);
        } else {
            bucket.2 = bucket.2.saturating_add(1);
        }
    }

    fn are_bad(&self, now: Duration) -> bool {
        let second = now.as_secs() / BUCKET.as_secs();
        let recent = |bucket: &&(u64, u32, u32)| bucket.0 + BUCKETS as u64 > second;
        let (mut all, mut failed) = (0_u32, 0_u32);
        for (_, successes, failures) in self.buckets.iter().filter(recent) {
            all = all.saturating_add(successes.saturating_add(*failures));
            failed = failed.saturating_add(*failures);
        }
        all >= OUTCOMES_MIN
            && u64::from(failed) * 100 >= u64::from(all) * u64::from(FAILURES_PERCENT)
    }
}

/// Failures as the slow answers that they are worth, so that a candidate that fails fast attracts nothing.
#[derive(Debug, Default)]
pub(super) struct Penalty {
    level_s: f64,
    at: Duration,
}

/// Seconds that a failure is worth, and at most where the candidate says how long it needs.
const FAILURE_S: f64 = 5.0;
const RETRY_AFTER_S_MAX: f64 = 300.0;
/// Time in which a penalty falls to a third (linkerd's peak EWMA has the same).
const DECAY_S: f64 = 10.0;
/// Seconds that are nothing, and time by which a penalty is certain to have fallen below them, however it is rounded.
const LEAST_S: f64 = 1e-3;
const OVER_S: f64 = 0.1;

impl Penalty {
    /// Seconds added to the cost now.
    pub(super) fn seconds(&self, now: Duration) -> f64 {
        if self.level_s <= 0.0 {
            return 0.0;
        }
        let since = now.saturating_sub(self.at).as_secs_f64();
        let level = self.level_s * (-since / DECAY_S).exp();
        if level < LEAST_S { 0.0 } else { level }
    }

    /// Seconds of the clock from which it is nothing.
    pub(super) fn over_at_s(&self) -> f64 {
        if self.level_s <= 0.0 {
            return f64::NEG_INFINITY;
        }
        self.at.as_secs_f64() + DECAY_S * (self.level_s / LEAST_S).ln() + OVER_S
    }

    /// Charges a failure; `retry_after` is what the candidate asked for.
    pub(super) fn charge(&mut self, now: Duration, retry_after: Option<Duration>) {
        let asked = retry_after.map_or(FAILURE_S, |after| after.as_secs_f64());
        let worth = asked.clamp(FAILURE_S, RETRY_AFTER_S_MAX);
        self.level_s = self.seconds(now).max(worth);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn ejection() -> Ejection {
        Ejection {
            failures: 3,
            first: s(5),
            percent_max: 50,
            slow_start: s(10),
        }
    }

    #[test]
    fn a_run_of_failures_ejects_a_probe_decides_and_the_way_back_is_slow() {
        let (mut health, ejection) = (Health::default(), ejection());
        (0..3).for_each(|_| health.failed(s(100), &ejection, true));
        assert_eq!(health.standing(s(104), &ejection), Standing::Out);
        assert_eq!(health.standing(s(105), &ejection), Standing::Probe);
        health.sent(s(105), &ejection);
        assert_eq!(health.standing(s(105), &ejection), Standing::Out);
        health.failed(s(106), &ejection, false);
        // The second time lasts twice as long.
        assert_eq!(health.standing(s(115), &ejection), Standing::Out);
        assert_eq!(health.standing(s(116), &ejection), Standing::Probe);
        health.sent(s(116), &ejection);
        health.succeeded(s(116), s(117));
        assert_eq!(health.standing(s(117), &ejection), Standing::In(0.1));
        assert_eq!(health.standing(s(122), &ejection), Standing::In(0.5));
        assert_eq!(health.standing(s(130), &ejection), Standing::In(1.0));
    }

    #[test]
    fn who_serves_though_it_is_out_is_let_in() {
        let (mut health, ejection) = (Health::default(), ejection());
        (0..3).for_each(|_| health.failed(s(100), &ejection, true));
        health.succeeded(s(99), s(101));
        assert_eq!(health.standing(s(101), &ejection), Standing::Out);
        health.sent(s(101), &ejection);
        health.succeeded(s(101), s(102));
        assert_eq!(health.standing(s(102), &ejection), Standing::In(0.1));
    }

    #[test]
    fn a_share_of_failures_ejects_without_a_run() {
        let (mut health, ejection) = (Health::default(), ejection());
        for _ in 0..15 {
            health.succeeded(s(99), s(100));
            health.failed(s(100), &ejection, true);
        }
        assert!(health.is_ejected());
    }

    #[test]
    fn where_no_more_may_be_out_it_stays_in() {
        let (mut health, ejection) = (Health::default(), ejection());
        (0..50).for_each(|_| health.failed(s(100), &ejection, false));
        assert_eq!(health.standing(s(100), &ejection), Standing::In(1.0));
    }

    #[test]
    fn a_probe_that_tells_nothing_makes_way_for_another() {
        let (mut health, ejection) = (Health::default(), ejection());
        (0..3).for_each(|_| health.failed(s(100), &ejection, true));
        health.sent(s(110), &ejection);
        health.abandoned(s(111));
        assert_eq!(health.standing(s(111), &ejection), Standing::Probe);
        health.sent(s(111), &ejection);
        assert_eq!(health.standing(s(170), &ejection), Standing::Out);
        assert_eq!(health.standing(s(171), &ejection), Standing::Probe);
    }

    #[test]
    fn a_penalty_is_a_slow_answer_that_is_forgotten() {
        let mut penalty = Penalty::default();
        penalty.charge(s(100), None);
        assert!((penalty.seconds(s(100)) - 5.0).abs() < 1e-9);
        assert!(penalty.seconds(s(110)) < 2.0);
        penalty.charge(s(110), Some(s(1_000)));
        assert!((penalty.seconds(s(110)) - 300.0).abs() < 1e-9);
        assert!(penalty.seconds(s(300)) < 0.01);
        let over = Duration::from_secs_f64(penalty.over_at_s());
        assert!(penalty.seconds(over) <= 0.0);
        assert!(penalty.seconds(over - Duration::from_secs(1)) > 0.0);
    }
}
