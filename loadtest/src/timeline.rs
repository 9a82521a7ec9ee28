//! A run over time, in as many intervals as a chart has room for: it takes in requests in any order and needs the same
//! memory for a minute and a day. Requests stand at their due time, so a stall shows where it was felt.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::Nanos;
use crate::drive::record::{Record, View};
use crate::drive::verdict::Verdict;
use crate::limits::{MAX_GROUPS, TIMELINE_BINS};

/// Rows of a decade of times to first token.
pub const ROWS_PER_DECADE: usize = 40;

/// Decades of times to first token, from [`LEAST_MS`] on.
const DECADES: usize = 6;

/// Bottom of the lowest row, in milliseconds.
pub const LEAST_MS: f64 = 0.1;

/// The width of an interval to begin with, in nanoseconds.
const FIRST_WIDTH: Nanos = 50_000_000;

/// Requests in an interval that is worth drawing, on average.
const REQUESTS_A_BIN: u64 = 10;

/// Intervals that a chart has at least, if the run has them.
const FEWEST_BINS: usize = 12;

/// The intervals of a run.
#[derive(Debug, Clone)]
pub struct Timeline {
    began: Nanos,
    width: Nanos,
    bins: Vec<Bin>,
}

/// What became of the requests that were due in one interval.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bin {
    /// Good ones.
    pub good: u64,
    /// Failed ones.
    pub failed: u64,
    /// Output tokens of the good ones.
    pub tokens: u64,
    /// Good ones by row of their time to first token, response view; rows without any are absent.
    pub rows: BTreeMap<usize, u64>,
    /// All by the site that answered.
    pub sites: BTreeMap<Arc<str>, u64>,
}

impl Timeline {
    /// The empty timeline of a run that began at `began`.
    pub fn new(began: Nanos) -> Self {
        Self {
            began,
            width: FIRST_WIDTH,
            bins: Vec::new(),
        }
    }

    /// Adds a finished request.
    pub fn fold(&mut self, record: &Record) {
        let at = record.stamps.intended.saturating_sub(self.began);
        while at / self.width >= TIMELINE_BINS as u64 {
            self.halve();
        }
        let at = (at / self.width) as usize;
        if self.bins.len() <= at {
            self.bins.resize_with(at + 1, Bin::default);
        }
        if let Some(bin) = self.bins.get_mut(at) {
            bin.fold(record);
        }
    }

    /// Width of an interval in seconds.
    pub fn width_s(&self) -> f64 {
        self.width as f64 / 1e9
    }

    /// The intervals, from the start of the run on.
    pub fn bins(&self) -> &[Bin] {
        &self.bins
    }

    /// The same in intervals that hold some requests each, as far as a few intervals are left: what a chart shows of
    /// fewer is noise.
    #[must_use]
    pub fn for_drawing(&self) -> Self {
        let mut drawn = self.clone();
        let count = |bin: &Bin| bin.good + bin.failed;
        let requests: u64 = drawn.bins.iter().map(count).sum();
        while drawn.bins.len() >= 2 * FEWEST_BINS
            && requests < REQUESTS_A_BIN * drawn.bins.len() as u64
        {
            drawn.halve();
        }
        drawn
    }

    /// Makes one interval of two.
    fn halve(&mut self) {
        self.width *= 2;
        let mut old = std::mem::take(&mut self.bins).into_iter();
        while let Some(mut bin) = old.next() {
            if let Some(next) = old.next() {
                bin.merge(next);
            }
            self.bins.push(bin);
        }
    }
}

impl Bin {
    /// The time to first token that `share` of the good requests stay below, in milliseconds, to about 6 %.
    pub fn ttft_ms(&self, share: f64) -> Option<f64> {
        let mut left = (share * self.good as f64).ceil().max(1.0) as u64;
        for (&row, &count) in &self.rows {
            if count >= left {
                return Some(row_ms(row + 1));
            }
            left -= count;
        }
        None
    }

    fn fold(&mut self, record: &Record) {
        match record.verdict {
            Verdict::Good => self.good += 1,
            Verdict::Failed(_) => self.failed += 1,
            Verdict::Aborted => {}
        }
        if let Some(site) = &record.labels.site {
            let known = self.sites.contains_key(site) || self.sites.len() < MAX_GROUPS;
            let site = if known { site.clone() } else { "other".into() };
            *self.sites.entry(site).or_default() += 1;
        }
        if record.verdict == Verdict::Good {
            self.tokens += record.usage.map_or(0, |usage| usage.completion_tokens);
            if let Some(us) = record.ttft_us(View::Response) {
                *self.rows.entry(row_of(us as f64 / 1e3)).or_default() += 1;
            }
        }
    }

    fn merge(&mut self, other: Self) {
        self.good += other.good;
        self.failed += other.failed;
        self.tokens += other.tokens;
        for (row, count) in other.rows {
            *self.rows.entry(row).or_default() += count;
        }
        for (site, count) in other.sites {
            *self.sites.entry(site).or_default() += count;
        }
    }
}

/// The bottom of a row, in milliseconds.
pub fn row_ms(row: usize) -> f64 {
    LEAST_MS * 10f64.powf(row as f64 / ROWS_PER_DECADE as f64)
}

fn row_of(ms: f64) -> usize {
    let row = (ms / LEAST_MS).max(1.0).log10() * ROWS_PER_DECADE as f64;
    (row as usize).min(DECADES * ROWS_PER_DECADE - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::record::tests::record;

    fn at(seconds: u64) -> Record {
        let mut record = record();
        let shift = seconds * 1_000_000_000;
        record.stamps.intended += shift;
        record.stamps.first_content = record.stamps.first_content.map(|at| at + shift);
        record
    }

    #[test]
    fn nothing_is_lost_however_long_a_run_is_and_in_whatever_order_it_ends() {
        let mut timeline = Timeline::new(0);
        for seconds in [5, 1, 86_000, 3, 40_000, 3] {
            timeline.fold(&at(seconds));
        }
        assert!(timeline.bins().len() <= TIMELINE_BINS);
        assert_eq!(timeline.bins().iter().map(|bin| bin.good).sum::<u64>(), 6);
        assert_eq!(timeline.bins()[0].good, 4);
        assert!(timeline.width_s() * TIMELINE_BINS as f64 > 86_000.0);
    }

    #[test]
    fn few_requests_are_drawn_in_few_intervals_and_none_is_lost() {
        let mut timeline = Timeline::new(0);
        (0..110).for_each(|second| timeline.fold(&at(second)));
        let drawn = timeline.for_drawing();
        assert!((FEWEST_BINS..2 * FEWEST_BINS).contains(&drawn.bins().len()));
        assert_eq!(drawn.bins().iter().map(|bin| bin.good).sum::<u64>(), 110);
        assert!((drawn.width_s() * drawn.bins().len() as f64) >= 110.0);
    }

    #[test]
    fn percentiles_of_an_interval_are_good_to_a_row() {
        let mut bin = Bin::default();
        bin.fold(&at(0));
        let ttft = bin.ttft_ms(0.99).unwrap();
        assert!((60.0..=64.0).contains(&ttft), "{ttft}");
        assert_eq!(Bin::default().ttft_ms(0.5), None);
        assert_eq!(
            (row_of(0.0), row_of(1e12)),
            (0, DECADES * ROWS_PER_DECADE - 1)
        );
    }
}
