//! How to route, as the operator wants it.

use std::sync::Arc;
use std::time::Duration;

use hansa_config::schema;
pub use hansa_config::schema::Policy;

/// Everything that `[route]` sets.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// How one of the candidates is picked.
    pub policy: Policy,
    /// The site that requests stay at while it costs little.
    pub home: Option<Arc<str>>,
    /// Candidates whose cost is within this share of the lowest are equals.
    pub band: f64,
    /// Seconds that home may cost more than the best before requests leave it.
    pub hysteresis_s: f64,
    /// Seconds that a gram of carbon is worth.
    pub carbon_s_per_gram: f64,
    /// Bytes of the prefix index.
    pub prefix_index_bytes: u64,
    /// How often an upstream may be tried again.
    pub retry: RetryBounds,
    /// When a candidate is ejected and how it comes back.
    pub ejection: Ejection,
    /// When a second candidate is asked before the first has answered.
    pub hedge: Option<Hedge>,
    /// Candidates that one request may try before its first content.
    pub attempts_max: u32,
    /// Requests at once that are on their way to another upstream since their connection died.
    pub moves_in_flight_max: u32,
    /// Requests of one model that wait here while all candidates have a line; 0 for none.
    pub queue_max: u32,
    /// Times that a stream may be continued elsewhere; 0 for never.
    pub resumes_max: u32,
}

/// Retries that an upstream may get.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBounds {
    /// For each ordinary request.
    pub share: f64,
    /// A second.
    pub per_s: f64,
}

/// When a candidate is ejected and how it comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    /// Failures in a row.
    pub failures: u32,
    /// Time of the first ejection; the n-th lasts n times as long.
    pub first: Duration,
    /// Percent of a model's candidates that may be out at once.
    pub percent_max: u32,
    /// Time in which it comes back to its usual share.
    pub slow_start: Duration,
}

/// When a second candidate is asked before the first has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hedge {
    /// Silence at least.
    pub after: Duration,
    /// Bytes of a prompt at most: only short ones are worth doing twice.
    pub prompt_bytes_max: u64,
}

impl Hedge {
    /// Silence after which a request of so many prompt bytes is hedged that was expected to begin after `expected_s`.
    #[must_use]
    pub fn silence(&self, prompt_bytes: u64, expected_s: f64) -> Option<Duration> {
        let worth = prompt_bytes <= self.prompt_bytes_max;
        // Before twice the expected time nothing is amiss.
        let expected = Duration::try_from_secs_f64(2.0 * expected_s).unwrap_or(Duration::MAX);
        worth.then(|| self.after.max(expected))
    }
}

impl Options {
    /// Whether requests stay at `site` while it costs little.
    pub(super) fn is_home(&self, site: &str) -> bool {
        self.home.as_ref().is_some_and(|home| **home == *site)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::from(&schema::Route::default())
    }
}

impl From<&schema::Route> for Options {
    fn from(route: &schema::Route) -> Self {
        let hedge = |after_ms| Hedge {
            after: Duration::from_millis(after_ms),
            prompt_bytes_max: route.hedge_prompt_bytes_max,
        };
        Self {
            policy: route.policy,
            home: route.home_site.as_deref().map(Arc::from),
            band: f64::from(route.band_percent) / 100.0,
            hysteresis_s: Duration::from_millis(route.hysteresis_ms).as_secs_f64(),
            carbon_s_per_gram: Duration::from_millis(route.carbon_ms_per_gram).as_secs_f64(),
            prefix_index_bytes: route.prefix_index_bytes,
            retry: RetryBounds {
                share: f64::from(route.retry_percent) / 100.0,
                per_s: f64::from(route.retry_per_s),
            },
            ejection: Ejection {
                failures: route.eject_failures,
                first: Duration::from_millis(route.eject_ms),
                percent_max: route.eject_percent_max,
                slow_start: Duration::from_millis(route.slow_start_ms),
            },
            hedge: route.hedge_after_ms.map(u64::from).map(hedge),
            attempts_max: route.attempts_max,
            moves_in_flight_max: route.moves_in_flight_max,
            queue_max: route.queue_max,
            resumes_max: route.resumes_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_short_prompts_are_hedged_and_not_before_something_is_amiss() {
        let hedge = Hedge {
            after: Duration::from_millis(500),
            prompt_bytes_max: 1_000,
        };
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(hedge.silence(1_000, 0.1), ms(500));
        assert_eq!(hedge.silence(1_000, 0.4), ms(800));
        assert_eq!(hedge.silence(1_001, 0.1), None);
    }
}
