//! What became of the requests of one run, and whether none of them was lost from sight.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::clock::Nanos;
use crate::limits::MAX_REASONS;
use crate::stats::Distribution;

/// A run's figures so far.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) arrived: u64,
    pub(super) done: u64,
    /// By reason.
    pub(super) failed: BTreeMap<&'static str, u64>,
    /// Dispatches after the first one: to another node or site after a loss, and after a refusal.
    pub(super) resumed: u64,
    pub(super) retried: u64,
    pub(super) events: u64,
    /// Of those that came after the warm-up and are done.
    pub(super) ttft: Distribution,
    pub(super) e2e: Distribution,
    pub(super) tpot: Distribution,
    pub(super) sites: Vec<SiteTally>,
    /// Of tenants, in the plan's order: done, failed.
    pub(super) tenants: Vec<(u64, u64)>,
    pub(super) prompt_tokens: u64,
    pub(super) cached_tokens: u64,
    pub(super) output_tokens: u64,
    pub(super) preemptions: u64,
    pub(super) last: Nanos,
}

/// What one site did.
#[derive(Debug)]
pub(super) struct SiteTally {
    pub(super) done: u64,
    pub(super) output_tokens: u64,
    pub(super) joules: f64,
    pub(super) grams: f64,
    pub(super) ttft: Distribution,
    pub(super) dispatches: Windows,
    /// When the last request of any site was sent: windows end there.
    pub(super) last_dispatch: Nanos,
}

/// Counts by windows of equal length: how unevenly something comes.
#[derive(Debug)]
pub(super) struct Windows {
    length: Nanos,
    from: Nanos,
    window: u64,
    count: u64,
    windows: u64,
    sum: u64,
    squares: u128,
    peak: u64,
}

/// How unevenly requests were sent to a site, by windows of a status period.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Herding {
    /// Mean of the windows.
    pub mean: f64,
    /// The largest of them over the mean.
    pub peak_over_mean: f64,
    /// Variance over mean: 1 where requests come at random.
    pub dispersion: f64,
}

impl Herding {
    /// The peak over the mean; a dash where no window was looked at.
    pub(super) fn worst(&self) -> String {
        match self.mean > 0.0 {
            true => format!("{:.2}", self.peak_over_mean),
            false => "-".to_owned(),
        }
    }
}

impl Tally {
    /// Nothing yet, of so many sites and tenants.
    pub(super) fn new(sites: usize, tenants: usize, window: Nanos, warmup: Nanos) -> Self {
        let site = |_| SiteTally {
            done: 0,
            output_tokens: 0,
            joules: 0.0,
            grams: 0.0,
            ttft: Distribution::default(),
            dispatches: Windows::new(window, warmup),
            last_dispatch: 0,
        };
        Self {
            arrived: 0,
            done: 0,
            failed: BTreeMap::new(),
            resumed: 0,
            retried: 0,
            events: 0,
            ttft: Distribution::default(),
            e2e: Distribution::default(),
            tpot: Distribution::default(),
            sites: (0..sites).map(site).collect(),
            tenants: vec![(0, 0); tenants],
            prompt_tokens: 0,
            cached_tokens: 0,
            output_tokens: 0,
            preemptions: 0,
            last: 0,
        }
    }

    /// A request ended without an answer.
    pub(super) fn fail(&mut self, reason: &'static str, tenant: usize) {
        debug_assert!(self.failed.len() < MAX_REASONS);
        *self.failed.entry(reason).or_default() += 1;
        if let Some(tenant) = self.tenants.get_mut(tenant) {
            tenant.1 += 1;
        }
    }

    /// Requests that ended without an answer.
    pub(super) fn failures(&self) -> u64 {
        self.failed.values().sum()
    }
}

impl Windows {
    /// Windows of `length`, from the first that begins at or after `from`.
    pub(super) fn new(length: Nanos, from: Nanos) -> Self {
        let length = length.max(1);
        Self {
            length,
            from: from.div_ceil(length) * length,
            window: 0,
            count: 0,
            windows: 0,
            sum: 0,
            squares: 0,
            peak: 0,
        }
    }

    /// Counts one at `at`, which never goes back.
    pub(super) fn count(&mut self, at: Nanos) {
        let Some(since) = at.checked_sub(self.from) else {
            return;
        };
        self.close(since / self.length);
        self.count += 1;
    }

    /// How uneven the whole windows up to `until` are.
    pub(super) fn herding(&mut self, until: Nanos) -> Herding {
        self.close(until.saturating_sub(self.from) / self.length);
        if self.windows == 0 || self.sum == 0 {
            return Herding::default();
        }
        let n = self.windows as f64;
        let mean = self.sum as f64 / n;
        Herding {
            mean,
            peak_over_mean: self.peak as f64 / mean,
            dispersion: (self.squares as f64 / n - mean * mean) / mean,
        }
    }

    /// The windows before `window` are over.
    fn close(&mut self, window: u64) {
        if window <= self.window {
            return;
        }
        self.windows += window - self.window;
        self.sum += self.count;
        self.squares += u128::from(self.count) * u128::from(self.count);
        self.peak = self.peak.max(self.count);
        (self.window, self.count) = (window, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn herding_is_seen_in_the_windows_and_evenness_is_too() {
        let mut even = Windows::new(10, 5);
        let mut herd = Windows::new(10, 5);
        for at in 0..1_010 {
            even.count(at);
            // The same number, in every fourth window.
            if at / 10 % 4 == 1 {
                (0..4).for_each(|_| herd.count(at));
            }
        }
        let even = even.herding(1_010);
        assert_eq!(
            (even.mean, even.peak_over_mean, even.dispersion),
            (10.0, 1.0, 0.0)
        );
        let herd = herd.herding(1_010);
        assert!((herd.mean - 10.0).abs() < 0.2, "{herd:?}");
        assert!(
            (herd.peak_over_mean - 4.0).abs() < 0.1 && herd.dispersion > 25.0,
            "{herd:?}"
        );
    }
}
