//! Who counts the store's time, and when a lease is over.
//!
//! The store keeps one row: the number of a tenure, and how much time has passed by the counts of all grantors. The grantor
//! adds to it what its own monotonic clock says, in small steps; where nobody does, time stands still, no rate refills and
//! no lease ends. A gateway that has seen it stand still for a ttl takes the tenure over by raising its number, so that
//! whoever had it before can add nothing more: a pause, a step of the wall clock or a broken connection of the grantor
//! costs time and never gives any.
//!
//! A lease carries the store's time at which it was last renewed. The store's time never runs ahead of any gateway's clock
//! by more than two steps, so a lease that is a ttl old by the store has not been renewed for at least a ttl less two steps,
//! and its holder stopped a third of the ttl ago.

use std::time::Duration;

use crate::limits::{GRANTOR_STEP, GRANTOR_STEP_MAX};

/// The row as it was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Number of the tenure.
    pub tenure: u64,
    /// Whether someone has it; after a goodbye nobody does.
    pub is_held: bool,
    /// The store's time.
    pub now: Duration,
}

/// What to do with the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// Nothing.
    Watch,
    /// Raise the tenure, if the row is still as it was seen.
    TakeOver(Seen),
    /// Add `step` to the time of this tenure, and look for leases that are over where `may_expire`.
    Count {
        /// The tenure.
        tenure: u64,
        /// How much time passed.
        step: Duration,
        /// Whether this tenure is old enough to end leases.
        may_expire: bool,
    },
}

/// One gateway's part in this.
#[derive(Debug, Clone)]
pub struct Grantor {
    ttl: Duration,
    role: Role,
}

#[derive(Debug, Clone)]
enum Role {
    Watcher {
        /// The row, and since when it has been so.
        seen: Option<(Seen, Duration)>,
        looked: Option<Duration>,
    },
    Holder {
        tenure: u64,
        since: Duration,
        counted: Duration,
    },
}

impl Role {
    const STRANGER: Self = Self::Watcher {
        seen: None,
        looked: None,
    };
}

impl Grantor {
    /// One who has seen nothing yet.
    #[must_use]
    pub const fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            role: Role::STRANGER,
        }
    }

    /// Whether a watcher should read the row.
    #[must_use]
    pub fn wants_to_see(&self, now: Duration) -> bool {
        let Role::Watcher { looked, .. } = &self.role else {
            return false;
        };
        looked.is_none_or(|looked| now.saturating_sub(looked) >= GRANTOR_STEP)
    }

    /// What is due at `now`, the gateway's own time. Watchers read the row first and tell [`Grantor::saw`].
    #[must_use]
    pub fn duty(&self, now: Duration) -> Duty {
        match &self.role {
            Role::Watcher {
                seen: Some((seen, since)),
                ..
            } => {
                let silence = now.saturating_sub(*since);
                match !seen.is_held || silence >= self.ttl {
                    true => Duty::TakeOver(*seen),
                    false => Duty::Watch,
                }
            }
            Role::Watcher { seen: None, .. } => Duty::Watch,
            Role::Holder {
                tenure,
                since,
                counted,
            } => {
                let passed = now.saturating_sub(*counted);
                match passed < GRANTOR_STEP {
                    true => Duty::Watch,
                    false => Duty::Count {
                        tenure: *tenure,
                        // A grantor that was held up does not make up for it: others renewed meanwhile by the time as it stood.
                        step: passed.min(GRANTOR_STEP_MAX),
                        may_expire: now.saturating_sub(*since) >= self.ttl,
                    },
                }
            }
        }
    }

    /// The tenure of this gateway, as far as it knows.
    #[must_use]
    pub const fn tenure(&self) -> Option<u64> {
        match self.role {
            Role::Holder { tenure, .. } => Some(tenure),
            Role::Watcher { .. } => None,
        }
    }

    /// A watcher read the row at `now`.
    pub fn saw(&mut self, row: Seen, now: Duration) {
        if let Role::Watcher { seen, looked } = &mut self.role {
            *looked = Some(now);
            if seen.is_none_or(|(before, _)| before != row) {
                *seen = Some((row, now));
            }
        }
    }

    /// The tenure was taken over by an attempt that began at `now`.
    pub const fn took_over(&mut self, tenure: u64, now: Duration) {
        self.role = Role::Holder {
            tenure,
            since: now,
            counted: now,
        };
    }

    /// The store has counted up to `now`.
    pub const fn counted(&mut self, now: Duration) {
        if let Role::Holder { counted, .. } = &mut self.role {
            *counted = now;
        }
    }

    /// The tenure is another's, or the connection is gone.
    pub const fn deposed(&mut self) {
        self.role = Role::STRANGER;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(6);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn row(tenure: u64, now_ms: u64) -> Seen {
        Seen {
            tenure,
            is_held: true,
            now: ms(now_ms),
        }
    }

    #[test]
    fn a_row_that_stands_still_for_a_ttl_is_taken_over() {
        let mut watcher = Grantor::new(TTL);
        assert_eq!(watcher.duty(ms(0)), Duty::Watch);
        watcher.saw(row(3, 100), ms(1_000));
        watcher.saw(row(3, 350), ms(2_000));
        watcher.saw(row(3, 350), ms(7_999));
        assert_eq!(watcher.duty(ms(7_999)), Duty::Watch);
        assert_eq!(watcher.duty(ms(8_000)), Duty::TakeOver(row(3, 350)));
        // One that was given up needs no waiting.
        let free = Seen {
            is_held: false,
            ..row(4, 350)
        };
        watcher.saw(free, ms(8_000));
        assert_eq!(watcher.duty(ms(8_000)), Duty::TakeOver(free));
    }

    #[test]
    fn a_grantor_counts_small_steps_and_ends_no_lease_before_a_ttl() {
        let mut grantor = Grantor::new(TTL);
        grantor.took_over(5, ms(0));
        assert_eq!(grantor.duty(ms(10)), Duty::Watch);
        let count = |step, may_expire| Duty::Count {
            tenure: 5,
            step,
            may_expire,
        };
        assert_eq!(grantor.duty(GRANTOR_STEP), count(GRANTOR_STEP, false));
        grantor.counted(GRANTOR_STEP);
        // Held up for a minute: one step, not a minute.
        assert_eq!(grantor.duty(ms(60_000)), count(GRANTOR_STEP_MAX, true));
        grantor.deposed();
        assert_eq!(grantor.duty(ms(60_000)), Duty::Watch);
    }
}
