//! What all faults at work mean for one connection at a moment. Pure: knows no socket and no clock.

use std::collections::BTreeMap;

use crate::clock::{Nanos, nanos};
use crate::faults::fault::{Fault, FaultKind};
use crate::rng::{SplitMix64, mix};

/// The faults at work on a proxy, by their number since it began.
#[derive(Debug, Clone, Default)]
pub(super) struct Active {
    pub(super) faults: BTreeMap<u64, Fault>,
}

/// How a connection ends before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Reset.
    Reset,
    /// Closed in good order.
    Close,
    /// Its next request is answered with this status, then it is closed.
    Answer(u16),
}

/// What holds for one connection now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Conditions {
    /// Added one way.
    pub(super) delay: Nanos,
    /// Added one way at random, at most.
    pub(super) jitter: Nanos,
    pub(super) bytes_per_s: Option<u64>,
    /// Nothing passes.
    pub(super) parted: bool,
    /// Everything vanishes.
    pub(super) swallowed: bool,
    /// Answers stop at so many bytes of the connection.
    pub(super) stall_at: Option<u64>,
    /// The connection ends at so many bytes of answers.
    pub(super) ends_at: Option<(u64, Ends)>,
    /// Between two bytes at the beginning of an answer.
    pub(super) head_pause: Option<Nanos>,
    /// New requests are answered with this.
    pub(super) status: Option<u16>,
    pub(super) killed: bool,
}

/// How a connection ends at a count of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ends {
    Reset,
    Close,
}

/// One connection's part in the faults: which of them befall it, and since when.
#[derive(Debug)]
pub(super) struct Share {
    seed: u64,
    connection: u64,
    /// Bytes of answers at the beginning of each fault; None where it is not concerned.
    since: BTreeMap<u64, Option<u64>>,
}

impl Active {
    /// Whether the server is gone.
    pub(super) fn killed(&self) -> bool {
        self.faults
            .values()
            .any(|fault| fault.kind == FaultKind::Kill)
    }
}

impl Share {
    pub(super) fn new(seed: u64, connection: u64) -> Self {
        let since = BTreeMap::new();
        Self {
            seed,
            connection,
            since,
        }
    }

    /// What the faults mean after `answered` bytes of answers.
    pub(super) fn conditions(&mut self, active: &Active, answered: u64) -> Conditions {
        self.since
            .retain(|number, _| active.faults.contains_key(number));
        let mut conditions = Conditions::default();
        for (&number, fault) in &active.faults {
            let concerned = self.is_drawn(number, fault);
            let since = self
                .since
                .entry(number)
                .or_insert(concerned.then_some(answered));
            if let Some(since) = *since {
                conditions.add(fault.kind, since);
            }
        }
        conditions
    }

    /// Drawn from the seed, the fault and the connection alone, so that a run can be had again.
    fn is_drawn(&self, number: u64, fault: &Fault) -> bool {
        let draw = SplitMix64::for_item(mix(self.seed ^ number), self.connection).next_unit();
        draw < fault.share || fault.kind == FaultKind::Kill
    }
}

impl Conditions {
    fn add(&mut self, kind: FaultKind, since: u64) {
        match kind {
            FaultKind::Latency { delay, jitter } => {
                self.delay += nanos(delay) / 2;
                self.jitter += nanos(jitter) / 2;
            }
            FaultKind::Bandwidth { bytes_per_s } => {
                least(&mut self.bytes_per_s, bytes_per_s.max(1))
            }
            FaultKind::Stall { after_bytes } => {
                least(&mut self.stall_at, since.saturating_add(after_bytes))
            }
            FaultKind::Partition => self.parted = true,
            FaultKind::BlackHole => self.swallowed = true,
            FaultKind::Reset { after_bytes } => {
                least(
                    &mut self.ends_at,
                    (since.saturating_add(after_bytes), Ends::Reset),
                );
            }
            FaultKind::Truncate { after_bytes } => {
                least(
                    &mut self.ends_at,
                    (since.saturating_add(after_bytes), Ends::Close),
                );
            }
            FaultKind::SlowHeaders { pause } => {
                self.head_pause = Some(self.head_pause.unwrap_or(0).max(nanos(pause)));
            }
            FaultKind::Errors { status } => self.status = Some(status),
            FaultKind::Drain => self.status = Some(503),
            FaultKind::Kill => self.killed = true,
        }
    }

    /// Whether it is over at once with a connection that has had `answered` bytes of answers.
    pub(super) fn ending(&self, answered: u64) -> Option<Ending> {
        if self.killed {
            return Some(Ending::Reset);
        }
        match self.ends_at {
            Some((at, Ends::Reset)) if at <= answered => Some(Ending::Reset),
            Some((at, Ends::Close)) if at <= answered => Some(Ending::Close),
            _ => None,
        }
    }

    /// Whether nothing is heard of the server.
    pub(super) fn silent(&self) -> bool {
        self.parted || self.swallowed
    }
}

fn least<T: Ord + Copy>(kept: &mut Option<T>, new: T) {
    *kept = Some(kept.map_or(new, |old| old.min(new)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn active(faults: &[Fault]) -> Active {
        let faults = (0..).zip(faults.iter().copied()).collect();
        Active { faults }
    }

    #[test]
    fn bytes_are_counted_from_the_beginning_of_each_fault() {
        let mut share = Share::new(1, 0);
        let reset = Fault::of(FaultKind::Reset { after_bytes: 10 });
        let first = share.conditions(&active(&[reset]), 100);
        assert_eq!(
            (first.ending(109), first.ending(110)),
            (None, Some(Ending::Reset))
        );
        let later = share.conditions(
            &active(&[reset, Fault::of(FaultKind::Truncate { after_bytes: 2 })]),
            105,
        );
        assert_eq!(
            later.ends_at,
            Some((107, Ends::Close)),
            "the first one's beginning is kept"
        );
        assert_eq!(share.conditions(&active(&[]), 106), Conditions::default());
        assert_eq!(
            share.conditions(&active(&[reset]), 200).ends_at,
            Some((210, Ends::Reset))
        );
    }

    #[test]
    fn a_share_of_connections_is_drawn_from_the_seed() {
        let third = Fault {
            share: 0.3,
            ..FaultKind::Partition.into()
        };
        let drawn = |seed| -> Vec<bool> {
            let one = |connection| {
                Share::new(seed, connection)
                    .conditions(&active(&[third]), 0)
                    .parted
            };
            (0..1_000).map(one).collect()
        };
        let hit = drawn(7).iter().filter(|hit| **hit).count();
        assert!((250..350).contains(&hit), "{hit}");
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
    }

    #[test]
    fn faults_add_up() {
        let ms = std::time::Duration::from_millis;
        let slow = |delay| {
            Fault::of(FaultKind::Latency {
                delay: ms(delay),
                jitter: ms(2),
            })
        };
        let rate = |bytes_per_s| Fault::of(FaultKind::Bandwidth { bytes_per_s });
        let all = active(&[
            slow(10),
            slow(30),
            rate(500),
            rate(100),
            FaultKind::Drain.into(),
        ]);
        let conditions = Share::new(0, 0).conditions(&all, 0);
        assert_eq!(
            (conditions.delay, conditions.jitter),
            (20_000_000, 2_000_000)
        );
        assert_eq!(
            (conditions.bytes_per_s, conditions.status),
            (Some(100), Some(503))
        );
    }
}
