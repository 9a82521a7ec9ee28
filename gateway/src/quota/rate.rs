//! One rate of a minute, by the generic cell rate algorithm (ITU-T I.371): a bucket of a minute's worth that refills all
//! the time, kept as the one moment at which it will be full.
//!
//! Arithmetic is exact: that moment is counted in nanoseconds times the rate, so that a unit is a whole number. Time is
//! monotonic and passed in.

use std::time::Duration;

use super::lease::Answer;
use super::lease::slice::Slice;
use crate::limits::LEASE_WAIT_MIN;

const MINUTE_NS: u128 = 60_000_000_000;

/// A rate and how much of it is spent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rate {
    per_minute: u64,
    /// The moment of a full bucket: nanoseconds x `per_minute`.
    full_at: u128,
    /// Where gateways share it: what this one may take. The bucket is then that of all, as of the last round.
    slice: Option<Box<Slice>>,
}

/// Why nothing was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It will be there after this time, if nobody else takes it.
    Wait(Duration),
    /// The bucket never holds that much.
    TooLarge,
}

impl Rate {
    /// A full bucket; at most `per_minute` units at once and that many more in each minute. A rate of 0 admits nothing.
    #[must_use]
    pub const fn new(per_minute: u64) -> Self {
        Self::full_from(per_minute, Duration::ZERO)
    }

    /// A bucket that is full from a moment on.
    #[must_use]
    pub const fn full_from(per_minute: u64, full_at: Duration) -> Self {
        Self {
            per_minute,
            full_at: full_at.as_nanos().saturating_mul(per_minute as u128),
            slice: None,
        }
    }

    /// The moment from which the bucket is full, rounded up.
    #[must_use]
    pub fn full_at(&self) -> Duration {
        self.time(self.full_at)
    }

    /// Shares it with other gateways: from now on only what is on lease can be taken.
    pub fn share(&mut self) {
        self.slice.get_or_insert_default();
    }

    /// Units in a minute.
    #[must_use]
    pub const fn per_minute(&self) -> u64 {
        self.per_minute
    }

    /// Another rate from now on; what is spent stays spent.
    pub fn change(&mut self, per_minute: u64, now: Duration) {
        let missing = self.per_minute.saturating_sub(self.in_bucket(now));
        let mut changed = Self::new(per_minute);
        changed.take(missing, now);
        changed.slice = self.slice.take();
        *self = changed;
    }

    /// Whether `units` can be taken.
    ///
    /// # Errors
    /// [`Refused`] says when they can.
    pub fn check(&self, units: u64, now: Duration) -> Result<(), Refused> {
        if units > self.per_minute {
            return Err(Refused::TooLarge);
        }
        let Some(slice) = &self.slice else {
            return match self.over(units, now) {
                0 => Ok(()),
                over => Err(Refused::Wait(self.time(over))),
            };
        };
        match units.saturating_sub(slice.free(0)) {
            0 => Ok(()),
            beyond => {
                let wait = self.time(self.over(beyond, now));
                Err(Refused::Wait(wait.max(LEASE_WAIT_MIN)))
            }
        }
    }

    /// Takes `units`, whether they are there or not.
    pub fn take(&mut self, units: u64, now: Duration) {
        if let Some(slice) = &mut self.slice {
            return slice.spend(units);
        }
        self.full_at = self.full_at.max(self.at(now)) + scaled(units);
    }

    /// Gives back `units` of those taken at `taken`. What the bucket has regained since then it does not get twice.
    pub fn give_back(&mut self, units: u64, taken: Duration, now: Duration) {
        let regained = self.at(now.saturating_sub(taken));
        let back = scaled(units).saturating_sub(regained);
        if let Some(slice) = &mut self.slice {
            return slice.refund(u64::try_from(back / MINUTE_NS).unwrap_or(u64::MAX));
        }
        self.full_at = self.full_at.saturating_sub(back);
    }

    /// Units that could be taken at once.
    #[must_use]
    pub fn remaining(&self, now: Duration) -> u64 {
        let at_hand = self.slice.as_ref().map_or(0, |slice| slice.free(0));
        at_hand
            .saturating_add(self.in_bucket(now))
            .min(self.per_minute)
    }

    /// Its slice, where it is shared.
    pub fn slice_mut(&mut self) -> Option<&mut Slice> {
        self.slice.as_deref_mut()
    }

    /// Its slice, where it is shared.
    #[must_use]
    pub fn slice(&self) -> Option<&Slice> {
        self.slice.as_deref()
    }

    /// Takes in what the store said to a line that asked for `need`.
    pub fn answer(&mut self, answer: &Answer, now: Duration, need: u64) {
        if let Some(slice) = &mut self.slice {
            slice.answer(answer, now, need);
            self.full_at = self.at(now.saturating_add(answer.full_in));
        }
    }

    fn in_bucket(&self, now: Duration) -> u64 {
        let free = scaled(self.per_minute).saturating_sub(self.missing(now));
        u64::try_from(free / MINUTE_NS).unwrap_or(u64::MAX)
    }

    /// Time until the bucket is full.
    #[must_use]
    pub fn reset_after(&self, now: Duration) -> Duration {
        self.time(self.missing(now))
    }

    /// By how much `units` are more than the bucket has.
    fn over(&self, units: u64, now: Duration) -> u128 {
        let taken = self.missing(now).saturating_add(scaled(units));
        taken.saturating_sub(scaled(self.per_minute))
    }

    fn missing(&self, now: Duration) -> u128 {
        self.full_at.saturating_sub(self.at(now))
    }

    fn at(&self, moment: Duration) -> u128 {
        moment
            .as_nanos()
            .saturating_mul(u128::from(self.per_minute))
    }

    /// The time in which so much flows in, rounded up: one who waits it out is let in.
    fn time(&self, missing: u128) -> Duration {
        let ns = missing.div_ceil(u128::from(self.per_minute.max(1)));
        Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }
}

fn scaled(units: u64) -> u128 {
    u128::from(units) * MINUTE_NS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NS: Duration = Duration::from_nanos(1);

    #[test]
    fn a_refusal_is_right_to_the_nanosecond() {
        for per_minute in [1, 7, 60, 1_000, 999_999_937] {
            let mut rate = Rate::new(per_minute);
            let now = Duration::from_secs(5);
            rate.take(per_minute, now);
            assert_eq!(rate.remaining(now), 0);
            let Err(Refused::Wait(wait)) = rate.check(1, now) else {
                panic!("an empty bucket gives nothing");
            };
            assert!(rate.check(1, now + wait - NS).is_err(), "{per_minute}");
            assert_eq!(rate.check(1, now + wait), Ok(()), "{per_minute}");
            assert_eq!(rate.reset_after(now), Duration::from_secs(60));
        }
    }

    #[test]
    fn what_never_fits_is_told_apart_from_what_must_wait() {
        assert_eq!(
            Rate::new(10).check(11, Duration::ZERO),
            Err(Refused::TooLarge)
        );
        assert_eq!(
            Rate::new(0).check(1, Duration::ZERO),
            Err(Refused::TooLarge)
        );
        assert_eq!(Rate::new(10).check(10, Duration::ZERO), Ok(()));
    }

    #[test]
    fn a_changed_rate_keeps_what_is_spent() {
        let mut rate = Rate::new(100);
        rate.take(70, Duration::ZERO);
        rate.change(200, Duration::ZERO);
        assert_eq!(rate.remaining(Duration::ZERO), 130);
        rate.change(50, Duration::ZERO);
        assert_eq!(rate.remaining(Duration::ZERO), 0);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Wait(u64),
        Ask { units: u64, used_percent: u64 },
        Settle(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..90_000_u64).prop_map(Step::Wait),
            (1..120_u64, 0..=100_u64).prop_map(|(units, used_percent)| Step::Ask {
                units,
                used_percent
            }),
            (0..8_usize).prop_map(Step::Settle),
        ];
        prop::collection::vec(step, 1..60)
    }

    proptest! {
        /// Whatever is reserved and given back: in no span of time is more used than a bucket and what flows in.
        #[test]
        fn no_span_holds_more_than_a_minute_and_its_inflow(steps in steps()) {
            let mut rate = Rate::new(100);
            let mut now = Duration::ZERO;
            let mut open: Vec<(Duration, u64, u64)> = Vec::new();
            let mut used: Vec<(Duration, u64)> = Vec::new();
            for step in steps {
                match step {
                    Step::Wait(ms) => now += Duration::from_millis(ms),
                    Step::Ask { units, used_percent } => {
                        if rate.check(units, now).is_ok() {
                            rate.take(units, now);
                            let really = units * used_percent / 100;
                            open.push((now, units, really));
                            used.push((now, really));
                        }
                    }
                    Step::Settle(index) if index < open.len() => {
                        let (taken, units, really) = open.swap_remove(index);
                        rate.give_back(units - really, taken, now);
                    }
                    Step::Settle(_) => {}
                }
            }
            for (first, (from, _)) in used.iter().enumerate() {
                let mut sum = 0;
                for (at, really) in &used[first..] {
                    sum += really;
                    let inflow = (*at - *from).as_nanos() * 100 / MINUTE_NS + 1;
                    prop_assert!(u128::from(sum) <= 100 + inflow, "{sum} from {from:?} to {at:?}");
                }
            }
        }
    }
}
