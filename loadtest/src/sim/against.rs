//! A simulation against what was measured: the requests of a `drive` run are played to the simulated world, and the
//! figures that users feel are held side by side.

use std::fmt;
use std::sync::Arc;

use super::load::Arriving;
use super::plan::Plan;
use super::report::Report;
use crate::clock::Nanos;
use crate::raw::Run;
use crate::trace::{Entry, Prompt, Trace};

/// What a run measured, and what it asked.
#[derive(Debug)]
pub struct Measured {
    trace: Arc<Trace>,
    e2e_mean_ms: f64,
    ttft_p99_ms: f64,
    client_bound: bool,
}

/// Predicted and measured figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Against {
    /// Mean of the time from end to end.
    pub e2e_mean: Pair,
    /// 99th percentile of the time to first token.
    pub ttft_p99: Pair,
    /// The run's client was its bottleneck: what was measured is no verdict on anything else.
    pub client_bound: bool,
}

/// One figure twice, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// By the simulation.
    pub predicted: f64,
    /// By the run.
    pub measured: f64,
}

impl Pair {
    /// How much more is predicted than was measured, in percent.
    #[must_use]
    pub fn error_percent(&self) -> f64 {
        (self.predicted / self.measured - 1.0) * 100.0
    }
}

/// Why a run cannot be played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unplayable {
    /// It holds nothing to compare with.
    #[error("no good request with known lengths in the run")]
    Nothing,
    /// The load that was measured is not all there.
    #[error("the file holds a sample of the run's requests: drive without --raw-sample")]
    Sample,
}

impl Measured {
    /// What `run` measured, as users felt it: from when requests were due.
    ///
    /// # Errors
    /// [`Unplayable`].
    pub fn of(run: &Run) -> Result<Self, Unplayable> {
        if run.is_sample() {
            return Err(Unplayable::Sample);
        }
        let mut entries: Vec<Entry> = Vec::new();
        let (mut e2e, mut ttft): (Vec<Nanos>, Vec<Nanos>) = Default::default();
        for request in run.requests.iter().filter(|request| request.good) {
            let (record, stamps) = (&request.record, &request.record.stamps);
            let (Some(usage), Some(first)) = (record.usage, stamps.first_content) else {
                continue;
            };
            // In a closed loop a request is due when its user has the one before.
            let from = stamps.intended;
            e2e.push(stamps.end.saturating_sub(from));
            ttft.push(first.saturating_sub(from));
            entries.push(Entry {
                at: from,
                prompt: Prompt::Words {
                    tokens: u32::try_from(usage.prompt_tokens).unwrap_or(u32::MAX),
                    stream: None,
                },
                output_tokens: u32::try_from(usage.completion_tokens).unwrap_or(u32::MAX),
                model: None,
                priority: None,
            });
        }
        ttft.sort_unstable();
        let rank = (ttft.len() * 99).div_ceil(100).saturating_sub(1);
        let p99 = ttft.get(rank).ok_or(Unplayable::Nothing)?;
        let sum: u128 = e2e.iter().map(|nanos| u128::from(*nanos)).sum();
        Ok(Self {
            trace: Arc::new(Trace::timed(entries)),
            e2e_mean_ms: sum as f64 / e2e.len() as f64 / 1e6,
            ttft_p99_ms: *p99 as f64 / 1e6,
            client_bound: run.client_bound,
        })
    }

    /// Makes the run's requests the load of `plan`, all of them counted.
    pub fn replace_load(&self, plan: &mut Plan) {
        let entries = self.trace.entries();
        let last = entries.last().map_or(0, |entry| entry.at);
        plan.words.load = format!("{} measured requests", entries.len());
        plan.words.rate = entries.len() as f64 / (last as f64 / 1e9).max(1e-9);
        plan.arriving = Arriving::Recorded(Arc::clone(&self.trace));
        plan.lengths.recorded = Some(Arc::clone(&self.trace));
        plan.words.capacity = plan.capacity();
        (plan.duration, plan.warmup) = (Nanos::MAX, 0);
    }

    /// The first policy's prediction beside what was measured.
    #[must_use]
    pub fn against(&self, report: &Report) -> Option<Against> {
        let policy = report.policies.first()?;
        Some(Against {
            e2e_mean: Pair {
                predicted: policy.e2e_ms.mean,
                measured: self.e2e_mean_ms,
            },
            ttft_p99: Pair {
                predicted: policy.ttft_ms.p99,
                measured: self.ttft_p99_ms,
            },
            client_bound: self.client_bound,
        })
    }
}

impl fmt::Display for Against {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = [("e2e mean", self.e2e_mean), ("ttft p99", self.ttft_p99)];
        for (index, (name, pair)) in figures.into_iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(
                f,
                "{separator}{name}: predicted {:.1} ms, measured {:.1} ms, error {:+.1} %",
                pair.predicted,
                pair.measured,
                pair.error_percent()
            )?;
        }
        if self.client_bound {
            let words = "the run was client-bound: these figures are no verdict on the prediction";
            write!(f, "\n{words}")?;
        }
        Ok(())
    }
}
