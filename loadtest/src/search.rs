//! Finds the highest rate at which objectives are met: first a rate that is met and one twice as high that is not, then
//! the middle between them again and again, and at last the same rate several times over, since one run may be lucky.
//!
//! Pure: it is told what came of each probe and says which comes next. Knows no clock and no server.

use serde::Serialize;

use crate::limits::{MAX_PROBES, MAX_RATE, MIN_RATE};

/// A search under way.
#[derive(Debug, Clone)]
pub struct Search {
    /// Rates that were met and not refuted since, ascending.
    met: Vec<f64>,
    /// The lowest rate that was missed.
    missed: Option<f64>,
    start: f64,
    /// How near the two must be, as a part of the lower.
    tolerance: f64,
    /// Further times that the result must be met.
    confirmations: u32,
    confirmed: u32,
    probes: usize,
}

/// What came of a search.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Found {
    /// The highest rate that was met, in requests per second; none where not even the lowest was.
    pub rate: Option<f64>,
    /// The lowest rate that was missed; none where no rate was.
    pub missed: Option<f64>,
    /// How often the result was met, its first time included.
    pub times_met: u32,
    /// The search came to its end: the two rates are as near as asked for, and the result was confirmed.
    pub complete: bool,
}

impl Search {
    /// A search that begins at `start` requests per second.
    pub fn new(start: f64, tolerance: f64, confirmations: u32) -> Self {
        Self {
            met: Vec::new(),
            missed: None,
            start,
            tolerance,
            confirmations,
            confirmed: 0,
            probes: 0,
        }
    }

    /// The next rate to probe; None at the end.
    pub fn next(&self) -> Option<f64> {
        if self.probes >= MAX_PROBES || self.is_complete() {
            return None;
        }
        let next = match (self.met.last(), self.missed) {
            (None, None) => self.start,
            (Some(met), None) => met * 2.0,
            (None, Some(missed)) => missed / 2.0,
            (Some(&met), Some(_)) if self.is_narrow() => met,
            // The middle of the ratio: a rate of 1 and one of 100 differ as do 10 and 1,000.
            (Some(met), Some(missed)) => (met * missed).sqrt(),
        };
        (MIN_RATE..=MAX_RATE).contains(&next).then_some(next)
    }

    /// Takes in what came of the probe at [`Search::next`]'s rate.
    pub fn tell(&mut self, met: bool) {
        let Some(rate) = self.next() else {
            return;
        };
        self.probes += 1;
        let again = self.met.last() == Some(&rate);
        match (met, again) {
            (true, true) => self.confirmed += 1,
            (true, false) => {
                self.met.push(rate);
                self.confirmed = 0;
            }
            (false, _) => {
                // A rate that is met once and missed once is missed.
                self.met.retain(|&met| met < rate);
                self.missed = Some(rate);
                self.confirmed = 0;
            }
        }
    }

    /// What is known so far.
    pub fn found(&self) -> Found {
        let rate = self.met.last().copied();
        Found {
            rate,
            missed: self.missed,
            times_met: rate.map_or(0, |_| self.confirmed + 1),
            complete: self.is_complete(),
        }
    }

    fn is_narrow(&self) -> bool {
        let pair = self.met.last().zip(self.missed);
        pair.is_some_and(|(met, missed)| missed <= met * (1.0 + self.tolerance))
    }

    fn is_complete(&self) -> bool {
        self.is_narrow() && self.confirmed >= self.confirmations
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::SplitMix64;

    /// Searches a server that keeps up to `capacity` and says how many probes it took.
    fn search(start: f64, capacity: f64) -> (Found, usize) {
        let mut search = Search::new(start, 0.05, 2);
        while let Some(rate) = search.next() {
            search.tell(rate <= capacity);
        }
        (search.found(), search.probes)
    }

    #[test]
    fn the_capacity_is_found_from_below_and_from_above() {
        for (start, capacity) in [(1.0, 37.0), (500.0, 37.0), (37.0, 37.0), (0.1, 9_000.0)] {
            let (found, probes) = search(start, capacity);
            let rate = found.rate.unwrap();
            assert!(
                found.complete && rate <= capacity && rate * 1.05 * 1.001 >= capacity,
                "{found:?}"
            );
            assert_eq!(found.times_met, 3);
            assert!(probes <= 27, "{probes} probes from {start} to {capacity}");
        }
    }

    #[test]
    fn a_server_that_keeps_nothing_or_everything_ends_the_search() {
        let (nothing, _) = search(10.0, 0.0);
        assert_eq!((nothing.rate, nothing.complete), (None, false));
        let (everything, _) = search(10.0, f64::INFINITY);
        assert_eq!((everything.missed, everything.complete), (None, false));
    }

    #[test]
    fn a_rate_met_by_luck_is_given_up() {
        let mut search = Search::new(8.0, 0.1, 1);
        search.tell(true);
        search.tell(false);
        while search.next().is_some_and(|rate| rate > 8.0) {
            search.tell(false);
        }
        assert_eq!(search.next(), Some(8.0), "the result is tried again");
        search.tell(false);
        assert_eq!(search.next(), Some(4.0));
    }

    #[test]
    fn a_server_of_moods_cannot_keep_it_searching_for_ever() {
        let mut rng = SplitMix64::new(5);
        for _ in 0..200 {
            let mut search = Search::new(10.0, 0.01, 3);
            let mut told = 0;
            while search.next().is_some() {
                search.tell(rng.next_unit() < 0.5);
                told += 1;
            }
            assert!(told <= MAX_PROBES);
            let Found { rate, missed, .. } = search.found();
            assert!(rate.zip(missed).is_none_or(|(rate, missed)| rate < missed));
        }
    }
}
