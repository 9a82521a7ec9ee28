//! What operators see: log lines on stderr and metrics in Prometheus' text form.
//!
//! Metrics live in a recorder of the server's own and not in a global one, so that many servers can run in one process.
//! Labels come from closed sets alone (routes of our router, status codes, models of the config), or a client could make
//! series without end. Prompts and outputs appear nowhere (I8).

mod known;

use std::fmt;
use std::io::{IsTerminal, Write, stderr};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram, with_local_recorder};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use tracing_subscriber::EnvFilter;

use self::known::Known;
use crate::upstream::UpstreamStatus;
use crate::upstream::registry::Models;

/// Seconds at which durations of whole requests are counted: from a refusal to a long generation.
const REQUEST_BUCKETS_S: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];

/// Seconds at which times to first token are counted: the range in which a person notices.
const TTFT_BUCKETS_S: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0,
];

/// The server's metrics. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    in_flight: Gauge,
    /// By route, and by route and status.
    seconds: Known<(), Histogram>,
    answered: Known<u16, Counter>,
    /// By site and attempt.
    routed: Known<&'static str, Counter>,
    /// By model.
    ttft: Known<(), Histogram>,
}

impl Metrics {
    /// Metrics at zero.
    ///
    /// # Errors
    /// [`BuildError`] where the exporter refuses the buckets.
    pub fn new() -> Result<Self, BuildError> {
        let bucketed = |name: &str| Matcher::Full(name.to_owned());
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(bucketed("hansa_request_seconds"), &REQUEST_BUCKETS_S)?
            .set_buckets_for_metric(bucketed("hansa_ttft_seconds"), &TTFT_BUCKETS_S)?
            .build_recorder();
        let handle = recorder.handle();
        let in_flight = with_local_recorder(&recorder, || gauge!("hansa_requests_in_flight"));
        let inner = Inner {
            recorder,
            handle,
            in_flight,
            seconds: Known::default(),
            answered: Known::default(),
            routed: Known::default(),
            ttft: Known::default(),
        };
        let metrics = Self {
            inner: Arc::new(inner),
        };
        metrics.describe();
        Ok(metrics)
    }

    /// Counts a request in.
    pub fn request_began(&self) {
        self.inner.in_flight.increment(1.0);
    }

    /// Counts a request out, after the last byte of its answer or when its client left.
    pub fn request_left(&self) {
        self.inner.in_flight.decrement(1.0);
    }

    /// Counts how a request ended.
    pub fn request_ended(&self, route: &str, status: StatusCode, took: Duration) {
        let inner = &self.inner;
        let answered = inner.answered.get(route, status.as_u16(), || {
            let status = status.as_str().to_owned();
            self.record(|| {
                counter!("hansa_requests_total", "route" => route.to_owned(), "status" => status)
            })
        });
        answered.increment(1);
        let seconds = inner.seconds.get(route, (), || {
            self.record(|| histogram!("hansa_request_seconds", "route" => route.to_owned()))
        });
        seconds.record(took);
    }

    /// Counts the time from a request's arrival at its upstream to its first text.
    pub fn first_token(&self, model: &Arc<str>, after: Duration) {
        let ttft = self.inner.ttft.get(model, (), || {
            self.record(|| histogram!("hansa_ttft_seconds", "model" => Arc::clone(model)))
        });
        ttft.record(after);
    }

    /// Tells the figures of quota at this moment.
    pub fn quota(&self, open: usize, unsettled: usize, broken: bool) {
        self.record(|| {
            gauge!("hansa_quota_open").set(open as f64);
            gauge!("hansa_ledger_unsettled").set(unsettled as f64);
            gauge!("hansa_quota_broken").set(if broken { 1.0 } else { 0.0 });
        });
    }

    /// Counts a request that waits here for room, and out again.
    pub fn waits_for_room(&self, more: f64) {
        self.record(|| gauge!("hansa_requests_waiting").increment(more));
    }

    /// Counts a request that was sent to `site`, for the first time or again.
    pub fn routed(&self, site: &str, attempt: &'static str) {
        let routed = self.inner.routed.get(site, attempt, || {
            let site = site.to_owned();
            self.record(|| counter!("hansa_routed_total", "site" => site, "attempt" => attempt))
        });
        routed.increment(1);
    }

    /// Sets what was told of a model's moment to zero: it is served no more.
    pub fn model_left(&self, model: &Arc<str>, last: &UpstreamStatus) {
        self.record(|| {
            let told = gauges(last).into_iter();
            told.for_each(|(name, _)| gauge!(name, "model" => Arc::clone(model)).set(0.0));
        });
    }

    /// Counts a panic that the fence caught. Any is a bug: alarm on it.
    pub fn panicked(&self) {
        self.record(|| counter!("hansa_panics_total").increment(1));
    }

    /// Everything in Prometheus' text form, with the figures of `models` at this moment.
    #[must_use]
    pub fn render(&self, models: &Models) -> String {
        self.record(|| {
            record_statuses(models);
            record_totals(models);
        });
        self.inner.handle.render()
    }

    /// Moves recorded durations into their histograms. They pile up in memory until then, so a server that nobody
    /// scrapes must call this from time to time.
    pub fn upkeep(&self) {
        self.inner.handle.run_upkeep();
    }

    fn record<T>(&self, record: impl FnOnce() -> T) -> T {
        with_local_recorder(&self.inner.recorder, record)
    }

    fn describe(&self) {
        use metrics::{
            describe_counter as count, describe_gauge as now, describe_histogram as time,
        };
        self.record(|| {
            count!("hansa_requests_total", "Requests answered");
            time!("hansa_request_seconds", "From the head to the last byte");
            time!("hansa_ttft_seconds", "From arrival to the first text");
            now!("hansa_requests_in_flight", "Requests of clients");
            now!(
                "hansa_requests_waiting",
                "Of these, those that wait here for room"
            );
            count!("hansa_routed_total", "Requests sent, by site and reason");
            count!("hansa_panics_total", "Panics that the fence caught");
            now!("hansa_quota_open", "Requests that hold quota");
            now!(
                "hansa_ledger_unsettled",
                "Records that are not safe in the ledger yet"
            );
            now!(
                "hansa_quota_broken",
                "1 where an allocation is spent beyond its amount; any is a bug"
            );
            now!("hansa_engine_running", "Sequences that hold KV blocks");
            now!("hansa_engine_waiting", "Sequences in line");
            now!("hansa_engine_blocks_free", "KV blocks free");
            now!(
                "hansa_engine_blocks_cached",
                "Free KV blocks kept for prompts that begin alike"
            );
            now!(
                "hansa_engine_waiting_prefill_tokens",
                "Prompt tokens still to compute"
            );
            now!(
                "hansa_engine_step_seconds",
                "Mean duration of the recent steps"
            );
            now!(
                "hansa_engine_prefill_tokens_per_second",
                "Prompt tokens a second of steps with any"
            );
            now!(
                "hansa_engine_decode_tokens_per_second",
                "Tokens a second of steps that decode"
            );
            now!("hansa_engine_blocks_total", "KV blocks in all");
            count!("hansa_engine_steps_total", "Steps run");
            count!(
                "hansa_engine_prefill_tokens_total",
                "Prompt tokens computed"
            );
            count!("hansa_engine_decode_tokens_total", "Tokens produced");
            count!("hansa_engine_drafted_tokens_total", "Tokens guessed ahead");
            count!(
                "hansa_engine_accepted_tokens_total",
                "Tokens guessed right, and so produced without a step of their own"
            );
            count!("hansa_engine_preemptions_total", "Sequences preempted");
            count!(
                "hansa_engine_prefix_tokens_total",
                "Prompt tokens looked for in the prefix cache"
            );
            count!(
                "hansa_engine_prefix_hit_tokens_total",
                "Prompt tokens found in the prefix cache"
            );
        });
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn record_statuses(models: &Models) {
    for (model, status) in models.statuses() {
        let now = gauges(&status);
        now.into_iter()
            .for_each(|(name, value)| gauge!(name, "model" => Arc::clone(&model)).set(value));
    }
}

/// Name and value of everything that is told of a model's moment.
fn gauges(status: &UpstreamStatus) -> [(&'static str, f64); 9] {
    [
        ("hansa_engine_running", f64::from(status.running)),
        ("hansa_engine_waiting", f64::from(status.waiting)),
        ("hansa_engine_blocks_free", f64::from(status.kv_blocks_free)),
        (
            "hansa_engine_blocks_cached",
            f64::from(status.kv_blocks_cached),
        ),
        (
            "hansa_engine_blocks_total",
            f64::from(status.kv_blocks_total),
        ),
        (
            "hansa_engine_waiting_prefill_tokens",
            status.waiting_prefill_tokens as f64,
        ),
        ("hansa_engine_step_seconds", status.mean_step.as_secs_f64()),
        (
            "hansa_engine_prefill_tokens_per_second",
            status.prefill_tokens_per_s,
        ),
        (
            "hansa_engine_decode_tokens_per_second",
            status.decode_tokens_per_s,
        ),
    ]
}

fn record_totals(models: &Models) {
    for (model, totals) in models.totals() {
        let set = |name: &'static str, value: u64| {
            counter!(name, "model" => Arc::clone(&model)).absolute(value);
        };
        set("hansa_engine_steps_total", totals.steps);
        set("hansa_engine_prefill_tokens_total", totals.prefill_tokens);
        set("hansa_engine_decode_tokens_total", totals.decode_tokens);
        set("hansa_engine_drafted_tokens_total", totals.drafted_tokens);
        set("hansa_engine_accepted_tokens_total", totals.accepted_tokens);
        set("hansa_engine_preemptions_total", totals.preemptions);
        set("hansa_engine_prefix_tokens_total", totals.prefix_tokens);
        set(
            "hansa_engine_prefix_hit_tokens_total",
            totals.prefix_hit_tokens,
        );
    }
}

/// How the log is written; the binary reads it from the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// What is logged, in the language of `tracing`'s filters.
    pub filter: String,
    /// One JSON object a line instead of text.
    pub json: bool,
}

impl LogOptions {
    /// From `HANSA_LOG` (`info` where unset) and `HANSA_LOG_FORMAT` (`json` or text).
    #[must_use]
    pub fn from_env() -> Self {
        Self {
            filter: std::env::var("HANSA_LOG").unwrap_or_else(|_| DEFAULT_FILTER.to_owned()),
            json: std::env::var("HANSA_LOG_FORMAT").is_ok_and(|format| format == "json"),
        }
    }
}

/// What is logged where nobody says otherwise.
const DEFAULT_FILTER: &str = "info";

/// Starts logging to stderr for the whole process. Call it once, from the binary; a second call changes nothing.
///
/// A stderr that is full or closed costs the log lines and nothing else.
pub fn start_logging(options: &LogOptions) {
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter(&options.filter))
        // It would tell stderr about a failed write to stderr, and panic where that fails too.
        .log_internal_errors(false)
        .with_writer(stderr);
    let started = if options.json {
        log.json()
            .flatten_event(true)
            .with_span_list(false)
            .try_init()
    } else {
        log.with_ansi(stderr().is_terminal()).try_init()
    };
    if started.is_ok() {
        log_panics_without_message();
    }
}

/// The lossy parser would do this as well, but panic where stderr cannot be written.
fn filter(text: &str) -> EnvFilter {
    EnvFilter::builder().parse(text).unwrap_or_else(|error| {
        let _ = writeln!(stderr(), "hansa: HANSA_LOG is not a filter: {error}");
        EnvFilter::new(DEFAULT_FILTER)
    })
}

/// A panic's message may quote the text it stumbled over (a slice out of bounds does), so only its place is logged (I8).
///
/// A panic in here ends the process, so nothing may be used that panics: the log is started without its own complaints.
fn log_panics_without_message() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place, "a panic was caught; this is a bug, please report it");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_servers_in_one_process_count_apart() {
        let (one, other) = (Metrics::new().unwrap(), Metrics::new().unwrap());
        one.request_began();
        one.request_left();
        one.request_ended("/v1/models", StatusCode::OK, Duration::from_millis(3));
        let seen = one.render(&Models::default());
        assert!(
            seen.contains(r#"hansa_requests_total{route="/v1/models",status="200"} 1"#),
            "{seen}"
        );
        assert!(seen.contains("hansa_requests_in_flight 0"), "{seen}");
        let seen = other.render(&Models::default());
        assert!(!seen.contains("/v1/models"), "{seen}");
    }
}
