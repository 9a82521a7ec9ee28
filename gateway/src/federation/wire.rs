//! A report of status as JSON, and what is believed of one.

use std::fmt;
use std::time::Duration;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};

use super::reach::{Part, ServerId};
use crate::limits;
use crate::upstream::{Readiness, UpstreamStatus};

/// How one server stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Report {
    /// Grows with each report of one stream.
    pub(super) sequence: u64,
    /// Who tells.
    #[serde(default)]
    pub(super) server: Option<ServerId>,
    /// Milliseconds within which the server says at least a word; 0 for one that does not promise any.
    #[serde(default)]
    pub(super) beat_ms: u32,
    pub(super) models: Vec<ModelReport>,
}

/// How one model stands: what the server has of it itself, and beyond that what others have. Unknown fields are those of a
/// newer version.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ModelReport {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) id: String,
    state: State,
    running: Count,
    waiting: Count,
    waiting_prefill_tokens: Count,
    kv_blocks_total: Count,
    kv_blocks_free: Count,
    kv_blocks_cached: Count,
    kv_tokens_total: Count,
    kv_tokens_free: Count,
    queued_tokens: Count,
    mean_step_us: Count,
    least_wait_ms: Count,
    prefill_tokens_per_s: f64,
    decode_tokens_per_s: f64,
    walltime_left_ms: Option<Count>,
    numerics: Vec<String>,
    joules_per_token: Option<f64>,
    grams_per_kwh: Option<f64>,
    experimental: bool,
    /// Of the oldest figures in it.
    age_ms: Count,
    /// See [`UpstreamStatus::unheard`].
    unheard: bool,
    /// See [`Part`].
    leaf: bool,
    hops: u8,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    of: Vec<ServerId>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    path: Vec<ServerId>,
    /// What others have, which goes on from there; without names and further levels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    beyond: Vec<Self>,
}

/// A whole number. Whatever number stands there is read, so that it can be named where it makes no sense.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(transparent)]
struct Count(i64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyNumber)
    }
}

struct AnyNumber;

impl Visitor<'_> for AnyNumber {
    type Value = Count;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_u64<E>(self, value: u64) -> Result<Count, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Count, E> {
        Ok(Count(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Count, E> {
        Ok(Count(value as i64))
    }
}

impl From<u64> for Count {
    fn from(value: u64) -> Self {
        Self(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Count {
    fn from(value: u32) -> Self {
        Self(value.into())
    }
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

impl Report {
    /// Reads one.
    ///
    /// # Errors
    /// Where it is none: what is wrong with which field.
    pub(super) fn read(data: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(data).map_err(|error| {
            let before = data.get(..error.column()).unwrap_or(data);
            match last_field(before) {
                Some(field) => format!("'{field}': {error}"),
                None => error.to_string(),
            }
        })
    }
}

/// The name of the field whose value `json` breaks off in.
fn last_field(json: &[u8]) -> Option<&str> {
    let end = json.windows(2).rposition(|pair| pair == b"\":")?;
    let name = json.get(..end)?;
    let begin = name.iter().rposition(|byte| *byte == b'"')?;
    let name = std::str::from_utf8(name.get(begin + 1..)?).ok()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (name.len() <= FIELD_BYTES_MAX && name.chars().all(plain)).then_some(name)
}

/// Bytes of a field's name that is one of ours.
const FIELD_BYTES_MAX: usize = 32;

impl ModelReport {
    /// The parts of `id` as they are sent, its own first.
    pub(super) fn of(id: &str, parts: &[Part]) -> Self {
        let own = parts.iter().find(|part| part.path.is_empty());
        let beyond = parts.iter().filter(|part| !part.path.is_empty());
        Self {
            id: id.to_owned(),
            beyond: beyond.map(Self::part).collect(),
            ..own.map_or_else(Self::default, Self::part)
        }
    }

    fn part(part: &Part) -> Self {
        let status = &part.status;
        Self {
            id: String::new(),
            state: State::of(&status.readiness),
            running: status.running.into(),
            waiting: status.waiting.into(),
            waiting_prefill_tokens: status.waiting_prefill_tokens.into(),
            kv_blocks_total: status.kv_blocks_total.into(),
            kv_blocks_free: status.kv_blocks_free.into(),
            kv_blocks_cached: status.kv_blocks_cached.into(),
            kv_tokens_total: status.kv_tokens_total.into(),
            kv_tokens_free: status.kv_tokens_free.into(),
            queued_tokens: status.queued_tokens.into(),
            mean_step_us: u64::try_from(status.mean_step.as_micros())
                .unwrap_or(u64::MAX)
                .into(),
            least_wait_ms: millis(status.least_wait),
            prefill_tokens_per_s: status.prefill_tokens_per_s,
            decode_tokens_per_s: status.decode_tokens_per_s,
            // In whole seconds, or every look would find something new to tell.
            walltime_left_ms: status
                .walltime_left
                .map(|left| millis(Duration::from_secs(left.as_secs()))),
            numerics: status.numerics.clone(),
            joules_per_token: status.joules_per_token,
            grams_per_kwh: status.grams_per_kwh,
            experimental: status.experimental,
            age_ms: millis(status.age),
            unheard: status.unheard,
            leaf: part.leaf,
            hops: part.hops,
            of: part.of.clone(),
            path: part.path.clone(),
            beyond: Vec::new(),
        }
    }

    /// The parts as far as they can be true, and the figures that could not. Whoever claims what cannot be gains nothing: it
    /// is taken for as busy as one can be, and for as able as one of whom nothing is known.
    pub(super) fn believed(mut self, sequence: u64) -> (Vec<Part>, Vec<&'static str>) {
        let mut clamp = Clamp::default();
        let beyond = std::mem::take(&mut self.beyond);
        let beyond = beyond.into_iter().take(limits::STATUS_PARTS_MAX - 1);
        let all = std::iter::once(self).chain(beyond);
        let parts = all.map(|report| report.read(sequence, &mut clamp));
        (parts.collect(), clamp.impossible)
    }

    fn read(mut self, sequence: u64, clamp: &mut Clamp) -> Part {
        self.of.truncate(limits::STATUS_SERVERS_MAX);
        // One more than there may be, so that a way that is too long still is.
        self.path.truncate(usize::from(limits::HOPS_MAX) + 1);
        Part {
            path: std::mem::take(&mut self.path),
            of: std::mem::take(&mut self.of),
            hops: self.hops,
            leaf: self.leaf,
            status: self.figures(sequence, clamp),
        }
    }

    fn figures(self, sequence: u64, clamp: &mut Clamp) -> UpstreamStatus {
        let kv_tokens_total = clamp.able("kv_tokens_total", self.kv_tokens_total, TOKENS_MAX);
        let kv_blocks_total = clamp.able("kv_blocks_total", self.kv_blocks_total, SEQUENCES_MAX);
        let walltime_left = self.walltime_left_ms;
        UpstreamStatus {
            readiness: self.state.read(),
            running: narrow(clamp.busy("running", self.running, SEQUENCES_MAX)),
            waiting: narrow(clamp.busy("waiting", self.waiting, SEQUENCES_MAX)),
            waiting_prefill_tokens: clamp.busy(
                "waiting_prefill_tokens",
                self.waiting_prefill_tokens,
                TOKENS_MAX,
            ),
            kv_blocks_total: narrow(kv_blocks_total),
            kv_blocks_free: narrow(clamp.able(
                "kv_blocks_free",
                self.kv_blocks_free,
                kv_blocks_total,
            )),
            kv_blocks_cached: narrow(clamp.able(
                "kv_blocks_cached",
                self.kv_blocks_cached,
                kv_blocks_total,
            )),
            mean_step: Duration::from_micros(clamp.busy(
                "mean_step_us",
                self.mean_step_us,
                DAY_MS * 1_000,
            )),
            prefill_tokens_per_s: clamp.rate("prefill_tokens_per_s", self.prefill_tokens_per_s),
            decode_tokens_per_s: clamp.rate("decode_tokens_per_s", self.decode_tokens_per_s),
            sequence,
            age: clamp.time("age_ms", self.age_ms),
            // It has just said this.
            silent: false,
            walltime_left: walltime_left.map(|left| clamp.left("walltime_left_ms", left)),
            kv_tokens_total,
            kv_tokens_free: clamp.able("kv_tokens_free", self.kv_tokens_free, kv_tokens_total),
            queued_tokens: clamp.busy("queued_tokens", self.queued_tokens, TOKENS_MAX),
            numerics: clamp.digests(self.numerics),
            joules_per_token: clamp.price("joules_per_token", self.joules_per_token),
            grams_per_kwh: clamp.price("grams_per_kwh", self.grams_per_kwh),
            experimental: self.experimental,
            least_wait: clamp.time("least_wait_ms", self.least_wait_ms),
            unheard: self.unheard,
            // Which way it came is the reader's to know.
            beyond: false,
            detour: false,
        }
    }
}

/// Most sequences and blocks, and most tokens, of one model in one place.
const SEQUENCES_MAX: u64 = limits::STATUS_COUNT_MAX as u64;
const TOKENS_MAX: u64 = SEQUENCES_MAX * 1000;

/// No figure of one moment is older or longer than a day.
const DAY_MS: u64 = 86_400_000;

/// A count within [`SEQUENCES_MAX`].
fn narrow(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(limits::STATUS_COUNT_MAX)
}

/// Holds figures within what can be, and remembers those that were not, each name once.
#[derive(Debug, Default)]
struct Clamp {
    impossible: Vec<&'static str>,
}

impl Clamp {
    fn complain(&mut self, name: &'static str) {
        if !self.impossible.contains(&name) {
            self.impossible.push(name);
        }
    }

    /// The value where it is from 0 to `max`.
    fn possible(&mut self, name: &'static str, value: Count, max: u64) -> Option<u64> {
        let value = u64::try_from(value.0).ok().filter(|value| *value <= max);
        if value.is_none() {
            self.complain(name);
        }
        value
    }

    /// Work that is there: at worst as much as there can be.
    fn busy(&mut self, name: &'static str, value: Count, max: u64) -> u64 {
        self.possible(name, value, max).unwrap_or(max)
    }

    /// Room: at worst there is none.
    fn able(&mut self, name: &'static str, value: Count, max: u64) -> u64 {
        self.possible(name, value, max).unwrap_or(0)
    }

    fn time(&mut self, name: &'static str, value: Count) -> Duration {
        Duration::from_millis(self.busy(name, value, DAY_MS))
    }

    /// Time that is left: at worst none. More than there is of it is without end.
    fn left(&mut self, name: &'static str, value: Count) -> Duration {
        let left = self.possible(name, value, i64::MAX as u64);
        Duration::from_millis(left.unwrap_or(0))
    }

    /// JSON has neither infinity nor NaN. 0 is a rate that is not known.
    fn rate(&mut self, name: &'static str, value: f64) -> f64 {
        if (0.0..=limits::STATUS_RATE_MAX).contains(&value) {
            return value;
        }
        self.complain(name);
        0.0
    }

    fn price(&mut self, name: &'static str, value: Option<f64>) -> Option<f64> {
        let value = value?;
        let possible = (0.0..=limits::STATUS_RATE_MAX).contains(&value);
        if !possible {
            self.complain(name);
        }
        possible.then_some(value)
    }

    fn digests(&mut self, mut digests: Vec<String>) -> Vec<String> {
        let before = digests.len();
        digests.retain(|digest| digest.len() <= limits::STATUS_NUMERICS_BYTES_MAX);
        digests.truncate(limits::STATUS_NUMERICS_MAX);
        if digests.len() < before {
            self.complain("numerics");
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

fn millis(time: Duration) -> Count {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).into()
}

#[cfg(test)]
mod tests;
