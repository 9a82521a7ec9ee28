//! Folds finished requests into distributions and totals, so that a run of any length needs the same memory.
//! Latencies are those of good requests; failures are counted, by class and reason, and never mixed in.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::drive::record::{Record, View};
use crate::drive::verdict::{Class, Failure, Verdict};
use crate::extras::Sums;
use crate::groups::Groups;
use crate::limits::{MAX_DURATION, MAX_REASONS};
use crate::slo::Limit;

/// A distribution of times in microseconds, exact to three digits; count, mean and maximum are exact.
#[derive(Debug, Clone)]
pub struct Distribution {
    histogram: Histogram<u64>,
    sum_us: u128,
    max_us: u64,
}

/// What reports show of a distribution, in milliseconds. All zero where `count` is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Number of values.
    pub count: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile: the smallest value that at least 90 % of all do not exceed.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest value.
    pub max: f64,
}

/// Times counted from one moment on.
#[derive(Debug, Clone)]
pub struct Latencies {
    /// Time to first byte.
    pub ttfb: Distribution,
    /// Time to first token.
    pub ttft: Distribution,
    /// End to end.
    pub e2e: Distribution,
    /// End to end per output token.
    pub ntpot: Distribution,
}

/// Everything a run is judged by.
#[derive(Debug, Clone)]
pub struct Stats {
    /// Good requests.
    pub good: u64,
    /// Failed requests by class and reason.
    pub failures: BTreeMap<Class, BTreeMap<String, u64>>,
    /// Requests that the client gave up, as it was told to; neither good nor failed.
    pub aborted: u64,
    /// What a request must keep to count for goodput.
    pub limits: Vec<Limit>,
    /// Good requests that kept all limits.
    pub within: u64,
    /// The same by site, model, tenant and stage.
    pub groups: Groups,
    /// Requests that were sent, good or not.
    pub sent: u64,
    /// Tokens of good requests' prompts, as the server counted them.
    pub prompt_tokens: u64,
    /// Tokens of good requests' answers, as the server counted them.
    pub output_tokens: u64,
    /// Content events of good requests.
    pub content_events: u64,
    /// Sum of all sent requests' times from sending to end, in nanoseconds.
    pub time_in_flight_ns: u128,
    /// Counted from the actual send.
    pub service: Latencies,
    /// Counted from the due time.
    pub response: Latencies,
    /// Time per output token, one value a request.
    pub tpot: Distribution,
    /// Gaps between content events, pooled over requests.
    pub itl: Distribution,
    /// What the server told beyond the protocol.
    pub extras: Sums,
    /// The same of the probe requests that were sent beside the load.
    pub probes: Option<Box<Self>>,
    /// Lateness of all sends.
    pub lag: Distribution,
    /// Time to get a connection.
    pub connect: Distribution,
}

impl Default for Distribution {
    fn default() -> Self {
        #[expect(clippy::expect_used, reason = "a constant argument that a test covers")]
        let histogram = Histogram::new(3).expect("a precision that hdrhistogram takes");
        Self {
            // It grows as far as values reach: most never need the room for a day.
            histogram,
            sum_us: 0,
            max_us: 0,
        }
    }
}

impl Distribution {
    /// Adds a value in microseconds. One beyond a day still counts as a day in the percentiles.
    pub fn record(&mut self, value_us: u64) {
        let longest = u64::try_from(MAX_DURATION.as_micros()).unwrap_or(u64::MAX);
        // It can fail only where memory cannot be had; the count of the summary then shows it.
        self.histogram.record(value_us.min(longest)).ok();
        self.sum_us += u128::from(value_us);
        self.max_us = self.max_us.max(value_us);
    }

    /// Adds a value in microseconds, if there is one.
    pub fn record_if(&mut self, value_us: Option<u64>) {
        if let Some(value_us) = value_us {
            self.record(value_us);
        }
    }

    /// The value at `percent`, in microseconds; zero where there is none.
    pub fn percentile_us(&self, percent: f64) -> u64 {
        self.histogram.value_at_percentile(percent).min(self.max_us)
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// Number of values above this, in microseconds.
    pub fn count_above(&self, us: u64) -> u64 {
        self.count() - self.histogram.count_between(0, us)
    }

    /// Up to `steps` points of the share of values (from 0 to 1) up to a value in milliseconds, for a curve.
    pub fn curve(&self, steps: u32) -> Vec<(f64, f64)> {
        let at = |step: u32| {
            let share = f64::from(step) / f64::from(steps);
            (ms(self.percentile_us(share * 100.0)), share)
        };
        let points = 0..=steps;
        if self.count() == 0 {
            Vec::new()
        } else {
            points.map(at).collect()
        }
    }

    /// What reports show.
    pub fn summary(&self) -> Summary {
        let count = self.count();
        let at = |percent| ms(self.percentile_us(percent));
        Summary {
            count,
            mean: if count == 0 {
                0.0
            } else {
                self.sum_us as f64 / count as f64 / 1e3
            },
            p50: at(50.0),
            p90: at(90.0),
            p95: at(95.0),
            p99: at(99.0),
            max: ms(self.max_us),
        }
    }
}

impl Latencies {
    fn new() -> Self {
        let empty = Distribution::default;
        Self {
            ttfb: empty(),
            ttft: empty(),
            e2e: empty(),
            ntpot: empty(),
        }
    }

    fn fold(&mut self, record: &Record, view: View) {
        self.ttfb.record_if(record.ttfb_us(view));
        self.ttft.record_if(record.ttft_us(view));
        self.e2e.record_if(record.e2e_us(view));
        self.ntpot.record_if(record.ntpot_us(view));
    }
}

impl Stats {
    /// Nothing yet; goodput will be what keeps `limits`.
    pub fn with_limits(limits: Vec<Limit>) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Adds a finished request.
    pub fn fold(&mut self, record: &Record) {
        let good = record.verdict == Verdict::Good;
        let within = good && self.limits.iter().all(|limit| limit.is_kept(record));
        self.within += u64::from(within);
        self.groups.fold(record, within);
        self.extras.fold(&record.extras, record.good_tokens());
        self.lag.record_if(record.lag_us());
        self.connect.record_if(record.connect_us());
        if let Some(sent) = record.stamps.sent {
            self.sent += 1;
            self.time_in_flight_ns += u128::from(record.stamps.end.saturating_sub(sent));
        }
        match &record.verdict {
            Verdict::Good => self.fold_good(record),
            Verdict::Failed(failure) => self.fold_failure(failure),
            Verdict::Aborted => self.aborted += 1,
        }
    }

    /// Requests judged: good or failed.
    pub fn judged(&self) -> u64 {
        self.good + self.failed()
    }

    /// Requests that failed.
    pub fn failed(&self) -> u64 {
        self.failures.values().flat_map(BTreeMap::values).sum()
    }

    fn fold_good(&mut self, record: &Record) {
        self.good += 1;
        if let Some(usage) = record.usage {
            self.prompt_tokens = self.prompt_tokens.saturating_add(usage.prompt_tokens);
            self.output_tokens = self.output_tokens.saturating_add(usage.completion_tokens);
        }
        let first = u64::from(record.stamps.first_content.is_some());
        self.content_events += first + record.gaps_us.len() as u64;
        self.service.fold(record, View::Service);
        self.response.fold(record, View::Response);
        self.tpot.record_if(record.tpot_us());
        for &gap in &record.gaps_us {
            self.itl.record(u64::from(gap));
        }
    }

    fn fold_failure(&mut self, failure: &Failure) {
        let reasons = self.failures.entry(failure.class).or_default();
        let known = reasons.contains_key(&*failure.reason);
        let reason = if known || reasons.len() < MAX_REASONS {
            &failure.reason
        } else {
            "other"
        };
        *reasons.entry(reason.to_owned()).or_default() += 1;
    }
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            good: 0,
            failures: BTreeMap::new(),
            aborted: 0,
            limits: Vec::new(),
            within: 0,
            groups: Groups::default(),
            sent: 0,
            prompt_tokens: 0,
            output_tokens: 0,
            content_events: 0,
            time_in_flight_ns: 0,
            service: Latencies::new(),
            response: Latencies::new(),
            tpot: Distribution::default(),
            itl: Distribution::default(),
            extras: Sums::default(),
            probes: None,
            lag: Distribution::default(),
            connect: Distribution::default(),
        }
    }
}

fn ms(us: u64) -> f64 {
    us as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::chunk::Usage;
    use crate::drive::record::{Labels, Stamps};

    fn of(values: impl IntoIterator<Item = u64>) -> Summary {
        let mut distribution = Distribution::default();
        values
            .into_iter()
            .for_each(|value| distribution.record(value));
        distribution.summary()
    }

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let summary = of((1..=1_000).map(|value| value * 1_000));
        let near = |value: f64, exact: f64| (value / exact - 1.0).abs() < 0.001;
        assert!(
            near(summary.p50, 500.0) && near(summary.p90, 900.0),
            "{summary:?}"
        );
        assert!(
            near(summary.p95, 950.0) && near(summary.p99, 990.0),
            "{summary:?}"
        );
        assert_eq!((summary.count, summary.max), (1_000, 1_000.0));
        assert!((summary.mean - 500.5).abs() < 1e-9);
    }

    #[test]
    fn the_order_of_values_does_not_matter_and_one_value_is_every_percentile() {
        assert_eq!(of([3, 1, 2]), of([1, 2, 3]));
        let one = of([1_234_567]);
        assert!(
            [one.p50, one.p90, one.p95, one.p99, one.max]
                .iter()
                .all(|&at| at == 1_234.567)
        );
    }

    #[test]
    fn nothing_and_the_absurd_are_survived() {
        assert_eq!(of([]), Summary::default());
        let absurd = of([0, u64::MAX, u64::MAX]);
        assert!(absurd.count == 3 && absurd.p50 > 0.0 && absurd.mean.is_finite());
    }

    fn record(verdict: Verdict) -> Record {
        let stamps = Stamps {
            sent: Some(1_000_000),
            first_byte: Some(2_000_000),
            first_content: Some(3_000_000),
            last_content: Some(5_000_000),
            terminal: Some(6_000_000),
            end: 7_000_000,
            ..Stamps::default()
        };
        let usage = Usage {
            prompt_tokens: 10,
            completion_tokens: 3,
            total_tokens: None,
        };
        Record {
            labels: Labels::default(),
            stamps,
            verdict,
            usage: Some(usage),
            gaps_us: vec![500, 1_500],
            extras: crate::extras::Extras::default(),
        }
    }

    #[test]
    fn failed_requests_leave_latencies_and_tokens_alone() {
        let mut stats = Stats::default();
        stats.fold(&record(Verdict::Good));
        stats.fold(&record(Verdict::Failed(
            Class::Truncated.because("no [DONE]"),
        )));
        assert_eq!((stats.good, stats.failed(), stats.sent), (1, 1, 2));
        assert_eq!((stats.prompt_tokens, stats.output_tokens), (10, 3));
        assert_eq!(
            (
                stats.service.ttft.summary().count,
                stats.itl.summary().count
            ),
            (1, 2)
        );
        assert_eq!(
            stats.lag.summary().count,
            2,
            "lateness is the client's: all requests count"
        );
        assert_eq!(stats.time_in_flight_ns, 12_000_000);
        assert_eq!(stats.response.ttft.summary().p50, 3.0);
        assert_eq!(stats.service.ttft.summary().p50, 2.0);
    }

    #[test]
    fn reasons_are_bounded() {
        let mut stats = Stats::default();
        for reason in 0..2 * MAX_REASONS {
            let failure = Class::Http4xx.because(reason.to_string());
            stats.fold(&record(Verdict::Failed(failure)));
        }
        let reasons = &stats.failures[&Class::Http4xx];
        assert_eq!(
            (reasons.len(), reasons["other"]),
            (MAX_REASONS + 1, MAX_REASONS as u64)
        );
    }
}
