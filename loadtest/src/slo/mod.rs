//! What a run must meet, as people write it: `ttft.p99 < 500ms`, `tpot < 50ms`, `goodput > 95%`, `good > 99.9%`,
//! `output > 1000/s`.
//!
//! Failed requests are not fast: in a percentile of an objective every failure counts as an answer that never came, and
//! goodput is a share of all requests. Latencies are those of the response view unless `service.` stands before them, and of
//! the probe requests beside the load where `probe.` does.
//!
//! This file says what an objective is; [`judge`] holds runs against it, and [`words`] reads and writes it.

pub mod judge;
pub mod words;

use serde::Serialize;

pub use self::judge::{findings, is_hopeless, limits};
use crate::drive::record::{Record, View};

/// Something that must hold.
#[derive(Debug, Clone, PartialEq)]
pub enum Objective {
    /// Of every request that counts for goodput.
    Each(Limit),
    /// Of a latency's distribution.
    Latency {
        /// Which.
        metric: Metric,
        /// From when it is counted.
        view: View,
        /// Which figure of it.
        statistic: Statistic,
        /// It is below this, in milliseconds.
        limit_ms: f64,
    },
    /// Of a latency of the probe requests beside the load, response view.
    Probe {
        /// Which.
        metric: Metric,
        /// Which figure of it.
        statistic: Statistic,
        /// It is below this, in milliseconds.
        limit_ms: f64,
    },
    /// Of a share or a rate, which is above the number.
    AtLeast(Amount, f64),
}

/// A bound of one request's latency.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// Which.
    pub metric: Metric,
    /// From when it is counted.
    pub view: View,
    /// It is below this, in milliseconds.
    pub limit_ms: f64,
}

/// A latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Time to first byte.
    Ttfb,
    /// Time to first token.
    Ttft,
    /// End to end.
    E2e,
    /// Time per output token after the first.
    Tpot,
    /// End to end per output token.
    Ntpot,
    /// Gap between content events; of a single request, its largest.
    Itl,
}

/// A figure of a distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Statistic {
    /// Arithmetic mean.
    Mean,
    /// Largest value.
    Max,
    /// The smallest value that this many percent of all do not exceed.
    Percentile(f64),
}

/// A share or a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// Requests within all limits, of all.
    GoodputShare,
    /// Requests within all limits, per second.
    GoodputRate,
    /// Good requests, of all.
    GoodShare,
    /// Good requests per second.
    GoodRate,
    /// Output tokens per second.
    OutputRate,
}

/// What came of an objective.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// The objective, as it is written.
    pub objective: String,
    /// What was measured, in milliseconds, per second, or as a share from 0 to 1; for a limit of single requests the
    /// share of all requests that kept all limits. None where it is beyond all bounds,
    /// since too many requests failed, or where there was nothing to measure.
    pub measured: Option<f64>,
    /// Whether it was met.
    pub met: bool,
}

impl Limit {
    /// Whether a good request keeps it. One that has no such latency (a single token has no tpot) keeps it only if
    /// there was nothing to wait for.
    pub fn is_kept(&self, record: &Record) -> bool {
        let us = match self.metric {
            Metric::Ttfb => record.ttfb_us(self.view),
            Metric::Ttft => record.ttft_us(self.view),
            Metric::E2e => record.e2e_us(self.view),
            Metric::Ntpot => record.ntpot_us(self.view),
            Metric::Tpot => record.tpot_us().or(Some(0)),
            Metric::Itl => Some(record.gaps_us.iter().copied().max().unwrap_or(0).into()),
        };
        us.is_some_and(|us| (us as f64) < self.limit_ms * 1e3)
    }
}
