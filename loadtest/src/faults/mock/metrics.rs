//! What a mock site counts, and shows to Prometheus.

use std::fmt::Write as _;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::Site;

#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Answered to their end.
    pub(super) whole: AtomicU64,
    /// Refused for want of room.
    pub(super) refused: AtomicU64,
    /// Not understood.
    pub(super) bad: AtomicU64,
    /// Clients that went away.
    pub(super) left: AtomicU64,
    pub(super) running: AtomicU64,
    pub(super) waiting: AtomicU64,
    pub(super) prompt_tokens: AtomicU64,
    pub(super) output_tokens: AtomicU64,
}

/// Counts one more for as long as it lives.
#[derive(Debug)]
pub(super) struct Gauge {
    site: std::sync::Arc<Site>,
    of: fn(&Counts) -> &AtomicU64,
}

impl Gauge {
    pub(super) fn of(site: &std::sync::Arc<Site>, of: fn(&Counts) -> &AtomicU64) -> Self {
        of(&site.counts).fetch_add(1, Relaxed);
        let site = std::sync::Arc::clone(site);
        Self { site, of }
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        (self.of)(&self.site.counts).fetch_sub(1, Relaxed);
    }
}

/// The text format of Prometheus.
pub(super) fn text(site: &Site) -> String {
    let counts = &site.counts;
    let ends = [
        ("whole", &counts.whole),
        ("refused", &counts.refused),
        ("bad", &counts.bad),
        ("left", &counts.left),
    ];
    let mut text = String::from("# TYPE mock_requests_total counter\n");
    for (end, count) in ends {
        // Writing to a text does not fail.
        writeln!(
            text,
            "mock_requests_total{{end=\"{end}\"}} {}",
            count.load(Relaxed)
        )
        .ok();
    }
    let numbers = [
        ("counter", "mock_prompt_tokens_total", &counts.prompt_tokens),
        ("counter", "mock_output_tokens_total", &counts.output_tokens),
        ("gauge", "mock_requests_running", &counts.running),
        ("gauge", "mock_requests_waiting", &counts.waiting),
    ];
    for (kind, name, count) in numbers {
        writeln!(text, "# TYPE {name} {kind}\n{name} {}", count.load(Relaxed)).ok();
    }
    text
}
