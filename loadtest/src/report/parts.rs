//! The parts of a report that are counted or summed, and how they come from what a run left behind.

use std::time::Duration;

use serde::Serialize;

use crate::drive::Outcome;
use crate::stats::{Latencies, Stats, Summary};

/// How requests ended.
#[derive(Debug, Clone, Serialize)]
pub struct Requests {
    /// Good and failed.
    pub total: u64,
    /// Requests that were begun.
    pub sent: u64,
    /// Good ones.
    pub good: u64,
    /// Failed ones, those not sent included.
    pub failed: u64,
    /// Given up by the client, as it was told to; neither good nor failed, and in no latency.
    pub aborted: u64,
    /// Turns never asked, since an earlier one of their session did not end well; in no other count.
    pub abandoned: u64,
    /// Good share of good and failed ones, from 0 to 1.
    pub good_fraction: f64,
    /// The run was stopped early.
    pub interrupted: bool,
    /// In flight when the run was stopped; in no other count.
    pub cut_off: u64,
    /// Not yet due when the run was stopped; in no other count.
    pub not_reached: u64,
    /// Failures, counted.
    pub failures: Vec<FailureCount>,
}

/// Failures of one class and reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailureCount {
    /// The class.
    pub class: &'static str,
    /// The reason.
    pub reason: String,
    /// How many.
    pub count: u64,
}

/// Amounts and rates of good requests.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Throughput {
    /// Length of the run in seconds.
    pub wall_s: f64,
    /// Good requests per second.
    pub requests_per_s: f64,
    /// Output tokens per second.
    pub output_tok_s: f64,
    /// Prompt tokens per second.
    pub prompt_tok_s: f64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Prompt tokens.
    pub prompt_tokens: u64,
    /// Output tokens per good request.
    pub output_tokens_mean: f64,
    /// Prompt tokens per good request.
    pub prompt_tokens_mean: f64,
    /// Content events; fewer than tokens where the server puts several into one.
    pub content_events: u64,
}

/// Latencies counted from one moment.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct View {
    /// Time to first byte.
    pub ttfb_ms: Summary,
    /// Time to first token.
    pub ttft_ms: Summary,
    /// End to end.
    pub e2e_ms: Summary,
    /// End to end per output token.
    pub ntpot_ms: Summary,
}

/// Requests that kept all limits.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Goodput {
    /// How many.
    pub requests: u64,
    /// Of all requests, failed ones included, from 0 to 1.
    pub fraction: f64,
    /// Per second.
    pub per_s: f64,
}

impl Requests {
    pub(super) fn of(outcome: &Outcome, stats: &Stats) -> Self {
        let failures = stats.failures.iter().flat_map(|(class, reasons)| {
            reasons.iter().map(|(reason, &count)| FailureCount {
                class: class.name(),
                reason: reason.clone(),
                count,
            })
        });
        Self {
            total: stats.judged(),
            sent: stats.sent,
            good: stats.good,
            failed: stats.failed(),
            aborted: stats.aborted,
            abandoned: outcome.abandoned,
            good_fraction: share(stats.good as f64, stats.judged() as f64),
            interrupted: outcome.interrupted,
            cut_off: outcome.cut_off,
            not_reached: outcome.not_reached,
            failures: failures.collect(),
        }
    }
}

impl Throughput {
    pub(super) fn of(stats: &Stats, wall: Duration) -> Self {
        let (wall_s, good) = (wall.as_secs_f64(), stats.good as f64);
        let (output, prompt) = (stats.output_tokens as f64, stats.prompt_tokens as f64);
        Self {
            wall_s,
            requests_per_s: share(good, wall_s),
            output_tok_s: share(output, wall_s),
            prompt_tok_s: share(prompt, wall_s),
            output_tokens: stats.output_tokens,
            prompt_tokens: stats.prompt_tokens,
            output_tokens_mean: share(output, good),
            prompt_tokens_mean: share(prompt, good),
            content_events: stats.content_events,
        }
    }
}

impl View {
    pub(super) fn of(latencies: &Latencies) -> Self {
        Self {
            ttfb_ms: latencies.ttfb.summary(),
            ttft_ms: latencies.ttft.summary(),
            e2e_ms: latencies.e2e.summary(),
            ntpot_ms: latencies.ntpot.summary(),
        }
    }
}

/// A quotient that is zero where there is nothing to divide by.
pub(super) fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}
