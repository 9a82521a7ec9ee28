//! How many users a closed loop has at which moment: always the same, or stage by stage, steady or changing evenly.
//! Knows no clock and no request.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Nanos, nanos};

/// The users of a closed loop over time, which counts from the start of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crowd {
    parts: Vec<Part>,
    /// Whether parts have names that reports tell apart.
    staged: bool,
}

/// A part of a run with its own number of users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The name in reports.
    pub name: Arc<str>,
    /// Its length.
    pub duration: Duration,
    /// Users at its start.
    pub users: usize,
    /// Users at its end.
    pub users_end: usize,
}

impl Crowd {
    /// The same users from the start to the end.
    pub fn steady(users: usize) -> Self {
        let part = Part {
            name: "".into(),
            duration: Duration::MAX,
            users,
            users_end: users,
        };
        Self {
            parts: vec![part],
            staged: false,
        }
    }

    /// One part after the other.
    pub fn staged(parts: Vec<Part>) -> Self {
        Self {
            parts,
            staged: true,
        }
    }

    /// All parts.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The sum of all parts' lengths.
    pub fn duration(&self) -> Duration {
        let add = |sum: Duration, part: &Part| sum.saturating_add(part.duration);
        self.parts.iter().fold(Duration::ZERO, add)
    }

    /// The most users there are at any moment.
    pub fn most(&self) -> usize {
        let most = self.parts.iter().map(|part| part.users.max(part.users_end));
        most.max().unwrap_or(0)
    }

    /// Users at a moment; none after the last part.
    pub fn users_at(&self, after: Nanos) -> usize {
        self.part_at(after)
            .map_or(0, |(part, began)| part.users_at(after - began))
    }

    /// The name of the stage at a moment, where there are stages.
    pub fn stage_at(&self, after: Nanos) -> Option<&Arc<str>> {
        let (part, _) = self.part_at(after)?;
        self.staged.then_some(&part.name)
    }

    /// The first moment, not before `after`, at which there are more than `have` users; none where there never are.
    pub fn more_than(&self, have: usize, after: Nanos) -> Option<Nanos> {
        let mut began: Nanos = 0;
        for part in &self.parts {
            let ends = began.saturating_add(nanos(part.duration));
            let grows = part
                .more_than(have)
                .map(|within| began.saturating_add(within).max(after));
            let still = |at: &Nanos| *at < ends && part.users_at(at - began) > have;
            if let Some(at) = grows.filter(still) {
                return Some(at);
            }
            began = ends;
        }
        None
    }

    fn part_at(&self, after: Nanos) -> Option<(&Part, Nanos)> {
        let mut began: Nanos = 0;
        for part in &self.parts {
            let ends = began.saturating_add(nanos(part.duration));
            if after < ends {
                return Some((part, began));
            }
            began = ends;
        }
        None
    }
}

impl Part {
    /// To the nearest whole user, on the straight line from start to end.
    fn users_at(&self, within: Nanos) -> usize {
        let part = within as f64 / nanos(self.duration).max(1) as f64;
        let (from, to) = (self.users as f64, self.users_end as f64);
        (from + (to - from) * part).round() as usize
    }

    fn more_than(&self, have: usize) -> Option<Nanos> {
        if self.users > have {
            return Some(0);
        }
        if self.users_end <= have {
            return None;
        }
        let (from, to) = (self.users as f64, self.users_end as f64);
        let part = (have as f64 + 0.5 - from) / (to - from);
        // A nanosecond later, so that rounding cannot make it too early.
        Some((part * nanos(self.duration) as f64).ceil() as Nanos + 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(seconds: u64, users: usize, users_end: usize) -> Part {
        Part {
            name: format!("{users}").into(),
            duration: Duration::from_secs(seconds),
            users,
            users_end,
        }
    }

    const S: Nanos = 1_000_000_000;

    #[test]
    fn users_come_and_go_on_straight_lines() {
        let crowd = Crowd::staged(vec![part(10, 0, 10), part(5, 10, 10), part(10, 10, 0)]);
        let at = |seconds: f64| crowd.users_at((seconds * 1e9) as Nanos);
        assert_eq!(
            [at(0.0), at(0.6), at(5.0), at(12.0), at(20.0), at(26.0)],
            [0, 1, 5, 10, 5, 0]
        );
        assert_eq!(
            (crowd.most(), crowd.duration()),
            (10, Duration::from_secs(25))
        );
        assert_eq!(crowd.stage_at(11 * S).map(|name| &**name), Some("10"));
        let first = crowd.more_than(0, 0).unwrap();
        assert!((500_000_000..=500_000_002).contains(&first), "{first}");
        assert_eq!(crowd.more_than(10, 0), None);
        assert_eq!(crowd.more_than(4, 12 * S), Some(12 * S));
        assert_eq!(crowd.more_than(4, 24 * S), None, "they are going");
    }

    #[test]
    fn a_steady_crowd_never_changes_and_has_no_stage() {
        let crowd = Crowd::steady(3);
        assert_eq!((crowd.users_at(0), crowd.users_at(3_600 * S)), (3, 3));
        assert_eq!(
            (crowd.more_than(2, 7), crowd.more_than(3, 7)),
            (Some(7), None)
        );
        assert_eq!(crowd.stage_at(0), None);
    }

    proptest! {
        /// Whoever waits for more users finds them when told, and not a moment before.
        #[test]
        fn growth_is_told_exactly(
            parts in prop::collection::vec((1u64..20, 0usize..40, 0usize..40), 1..5),
            have in 0usize..40,
            after in 0u64..60,
        ) {
            let crowd = Crowd::staged(parts.into_iter().map(|(s, from, to)| part(s, from, to)).collect());
            let after = after * S;
            let told = crowd.more_than(have, after);
            if let Some(at) = told {
                prop_assert!(at >= after && crowd.users_at(at) > have);
            }
            let until = told.unwrap_or_else(|| nanos(crowd.duration()));
            for step in 0..100u64 {
                let at = after + (until.saturating_sub(after)).saturating_sub(2) * step / 100;
                if at < until.saturating_sub(2) {
                    prop_assert!(crowd.users_at(at) <= have, "{at}");
                }
            }
        }
    }
}
