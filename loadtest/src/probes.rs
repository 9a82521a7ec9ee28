//! Probe requests: short ones for a single token, sent beside the load at random times and before it one after the
//! other. What they feel is what the load does to everybody else (the idea is that of `vllm bench serve`).

use serde::Serialize;

use crate::stats::{Stats, Summary};

/// What probe requests felt.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ProbeReport {
    /// Probe requests per second.
    pub rate: f64,
    /// Before the load.
    pub alone: Felt,
    /// Beside the load.
    pub beside: Felt,
    /// Median time to first token beside the load over that before it; none where either is unknown.
    pub slowdown_p50: Option<f64>,
    /// The same of the 99th percentile beside over the median before: how bad it gets.
    pub slowdown_p99: Option<f64>,
}

/// One kind of them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Felt {
    /// Good ones.
    pub good: u64,
    /// Failed ones.
    pub failed: u64,
    /// Time to first token, response view.
    pub ttft_ms: Summary,
    /// End to end, response view.
    pub e2e_ms: Summary,
}

impl ProbeReport {
    /// Puts both kinds side by side.
    pub fn new(rate: f64, alone: &Stats, beside: &Stats) -> Self {
        let (alone, beside) = (Felt::of(alone), Felt::of(beside));
        let before = alone.ttft_ms.p50;
        let times = |after: f64| (before > 0.0 && beside.good > 0).then(|| after / before);
        Self {
            rate,
            alone,
            beside,
            slowdown_p50: times(beside.ttft_ms.p50),
            slowdown_p99: times(beside.ttft_ms.p99),
        }
    }
}

impl Felt {
    fn of(stats: &Stats) -> Self {
        Self {
            good: stats.good,
            failed: stats.failed(),
            ttft_ms: stats.response.ttft.summary(),
            e2e_ms: stats.response.e2e.summary(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slowdown_is_told_only_where_both_sides_are_known() {
        let felt = |ms: &[u64]| {
            let mut stats = Stats {
                good: ms.len() as u64,
                ..Stats::default()
            };
            ms.iter()
                .for_each(|ms| stats.response.ttft.record(ms * 1_000));
            stats
        };
        let report = ProbeReport::new(1.0, &felt(&[10, 10]), &felt(&[30, 30, 90]));
        // Histograms are good to a thousandth.
        let slowdowns = [report.slowdown_p50, report.slowdown_p99];
        assert_eq!(
            slowdowns.map(|factor| factor.map(f64::round)),
            [Some(3.0), Some(9.0)]
        );
        assert_eq!(
            ProbeReport::new(1.0, &felt(&[]), &felt(&[30])).slowdown_p50,
            None
        );
        assert_eq!(
            ProbeReport::new(1.0, &felt(&[10]), &felt(&[])).slowdown_p50,
            None
        );
    }
}
