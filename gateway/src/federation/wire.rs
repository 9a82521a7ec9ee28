//! A report of status as JSON, and what is believed of one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::upstream::{Readiness, UpstreamStatus};

/// How one server stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Report {
    /// Grows with each report of one stream.
    pub(super) sequence: u64,
    /// Milliseconds within which the server says at least a word; 0 for one that does not promise any.
    #[serde(default)]
    pub(super) beat_ms: u32,
    pub(super) models: Vec<ModelReport>,
}

/// How one model stands. Unknown fields are those of a newer version.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ModelReport {
    pub(super) id: String,
    state: State,
    running: u32,
    waiting: u32,
    waiting_prefill_tokens: u64,
    kv_blocks_total: u32,
    kv_blocks_free: u32,
    kv_blocks_cached: u32,
    kv_tokens_total: u64,
    kv_tokens_free: u64,
    queued_tokens: u64,
    mean_step_us: u64,
    least_wait_ms: u64,
    prefill_tokens_per_s: f64,
    decode_tokens_per_s: f64,
    walltime_left_ms: Option<u64>,
    numerics: Vec<String>,
    joules_per_token: Option<f64>,
    grams_per_kwh: Option<f64>,
    experimental: bool,
    /// Of the oldest figures in it.
    age_ms: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    #[default]
    Loading,
    Warming,
    Ready,
    Stalled,
    Draining,
    Failed,
}

impl ModelReport {
    /// The figures of `id` as they are sent.
    pub(super) fn of(id: &str, status: &UpstreamStatus) -> Self {
        Self {
            id: id.to_owned(),
            state: State::of(&status.readiness),
            running: status.running,
            waiting: status.waiting,
            waiting_prefill_tokens: status.waiting_prefill_tokens,
            kv_blocks_total: status.kv_blocks_total,
            kv_blocks_free: status.kv_blocks_free,
            kv_blocks_cached: status.kv_blocks_cached,
            kv_tokens_total: status.kv_tokens_total,
            kv_tokens_free: status.kv_tokens_free,
            queued_tokens: status.queued_tokens,
            mean_step_us: u64::try_from(status.mean_step.as_micros()).unwrap_or(u64::MAX),
            least_wait_ms: millis(status.least_wait),
            prefill_tokens_per_s: status.prefill_tokens_per_s,
            decode_tokens_per_s: status.decode_tokens_per_s,
            // In whole seconds, or every look would find something new to tell.
            walltime_left_ms: status.walltime_left.map(|left| left.as_secs() * 1_000),
            numerics: status.numerics.clone(),
            joules_per_token: status.joules_per_token,
            grams_per_kwh: status.grams_per_kwh,
            experimental: status.experimental,
            age_ms: millis(status.age),
        }
    }

    /// The figures as far as they can be true, and the first one that could not.
    pub(super) fn believed(self, sequence: u64) -> (UpstreamStatus, Option<&'static str>) {
        let mut clamp = Clamp::default();
        let kv_tokens_total = clamp.tokens("kv_tokens_total", self.kv_tokens_total, TOKENS_MAX);
        let kv_blocks_total = self.kv_blocks_total;
        let status = UpstreamStatus {
            readiness: self.state.read(),
            running: clamp.count("running", self.running),
            waiting: clamp.count("waiting", self.waiting),
            waiting_prefill_tokens: clamp.tokens(
                "waiting_prefill_tokens",
                self.waiting_prefill_tokens,
                TOKENS_MAX,
            ),
            kv_blocks_total,
            kv_blocks_free: clamp.at_most("kv_blocks_free", self.kv_blocks_free, kv_blocks_total),
            kv_blocks_cached: clamp.at_most(
                "kv_blocks_cached",
                self.kv_blocks_cached,
                kv_blocks_total,
            ),
            mean_step: clamp.time("mean_step_us", Duration::from_micros(self.mean_step_us)),
            prefill_tokens_per_s: clamp.rate("prefill_tokens_per_s", self.prefill_tokens_per_s),
            decode_tokens_per_s: clamp.rate("decode_tokens_per_s", self.decode_tokens_per_s),
            sequence,
            age: clamp.time("age_ms", Duration::from_millis(self.age_ms)),
            // It has just said this.
            silent: false,
            walltime_left: self.walltime_left_ms.map(Duration::from_millis),
            kv_tokens_total,
            kv_tokens_free: clamp.tokens("kv_tokens_free", self.kv_tokens_free, kv_tokens_total),
            queued_tokens: clamp.tokens("queued_tokens", self.queued_tokens, TOKENS_MAX),
            numerics: clamp.digests(self.numerics),
            joules_per_token: self
                .joules_per_token
                .map(|j| clamp.rate("joules_per_token", j)),
            grams_per_kwh: self.grams_per_kwh.map(|g| clamp.rate("grams_per_kwh", g)),
            experimental: self.experimental,
            least_wait: clamp.time("least_wait_ms", Duration::from_millis(self.least_wait_ms)),
        };
        (status, clamp.impossible)
    }
}

/// Most tokens of one model in one place.
const TOKENS_MAX: u64 = limits::STATUS_COUNT_MAX as u64 * 1000;

/// Holds figures within what can be, and remembers the first that was not.
#[derive(Debug, Default)]
struct Clamp {
    impossible: Option<&'static str>,
}

impl Clamp {
    fn count(&mut self, name: &'static str, value: u32) -> u32 {
        self.at_most(name, value, limits::STATUS_COUNT_MAX)
    }

    fn at_most<T: PartialOrd>(&mut self, name: &'static str, value: T, max: T) -> T {
        if value <= max {
            return value;
        }
        self.impossible.get_or_insert(name);
        max
    }

    fn tokens(&mut self, name: &'static str, value: u64, max: u64) -> u64 {
        self.at_most(name, value, max)
    }

    /// No figure of one moment is older or longer than a day.
    fn time(&mut self, name: &'static str, value: Duration) -> Duration {
        self.at_most(name, value, Duration::from_secs(86_400))
    }

    /// JSON has neither infinity nor NaN, but numbers beyond a float's range become infinite.
    fn rate(&mut self, name: &'static str, value: f64) -> f64 {
        if (0.0..=limits::STATUS_RATE_MAX).contains(&value) {
            return value;
        }
        self.impossible.get_or_insert(name);
        0.0
    }

    fn digests(&mut self, mut digests: Vec<String>) -> Vec<String> {
        let before = digests.len();
        digests.retain(|digest| digest.len() <= limits::STATUS_NUMERICS_BYTES_MAX);
        digests.truncate(limits::STATUS_NUMERICS_MAX);
        if digests.len() < before {
            self.impossible.get_or_insert("numerics");
        }
        digests
    }
}

impl State {
    const fn of(readiness: &Readiness) -> Self {
        match readiness {
            Readiness::Loading => Self::Loading,
            Readiness::Warming => Self::Warming,
            Readiness::Ready => Self::Ready,
            Readiness::Stalled => Self::Stalled,
            Readiness::Draining => Self::Draining,
            // Why it failed stands in the log over there.
            Readiness::Failed(_) => Self::Failed,
        }
    }

    fn read(self) -> Readiness {
        match self {
            Self::Loading => Readiness::Loading,
            Self::Warming => Readiness::Warming,
            Self::Ready => Readiness::Ready,
            Self::Stalled => Readiness::Stalled,
            Self::Draining => Readiness::Draining,
            Self::Failed => {
                Readiness::Failed("the log of the server behind this one says why".to_owned())
            }
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn honest_figures_arrive_as_they_left() {
        let status = UpstreamStatus {
            readiness: Readiness::Ready,
            running: 3,
            kv_tokens_total: 100,
            kv_tokens_free: 40,
            prefill_tokens_per_s: 12.5,
            walltime_left: Some(Duration::from_secs(60)),
            numerics: vec!["d".to_owned()],
            joules_per_token: Some(0.5),
            sequence: 7,
            least_wait: Duration::from_millis(20),
            ..UpstreamStatus::default()
        };
        let json = serde_json::to_string(&ModelReport::of("m", &status)).unwrap();
        let report: ModelReport = serde_json::from_str(&json).unwrap();
        assert_eq!(report.believed(7), (status, None));
    }

    #[test]
    fn impossible_figures_are_cut_and_named() {
        for (json, name) in [
            (
                r#"{"id":"m","kv_tokens_total":5,"kv_tokens_free":6}"#,
                "kv_tokens_free",
            ),
            (r#"{"id":"m","running":4000000000}"#, "running"),
            (
                r#"{"id":"m","prefill_tokens_per_s":-1}"#,
                "prefill_tokens_per_s",
            ),
            (
                r#"{"id":"m","decode_tokens_per_s":1e300}"#,
                "decode_tokens_per_s",
            ),
            (r#"{"id":"m","age_ms":18446744073709551615}"#, "age_ms"),
        ] {
            let report: ModelReport = serde_json::from_str(json).unwrap();
            let (status, impossible) = report.believed(1);
            assert_eq!(impossible, Some(name), "{json}");
            assert!(status.kv_tokens_free <= status.kv_tokens_total);
            assert!(status.decode_tokens_per_s.is_finite());
        }
    }

    #[test]
    fn a_newer_version_may_say_more() {
        let report: Report = serde_json::from_str(
            r#"{"sequence":1,"models":[{"id":"m","state":"ready","new":1}],"x":2}"#,
        )
        .unwrap();
        assert_eq!(
            report.models[0].clone().believed(1).0.readiness,
            Readiness::Ready
        );
    }
}
