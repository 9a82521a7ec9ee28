//! What gateways tell beyond the protocol: tokens found in a cache, energy, carbon, and whether a request had to be sent
//! again. Every figure is optional; sums know over how many requests they are.

use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The response header in which Hansa says how it decided; `attempt=` stands in it where the first try was not the last.
const ROUTE: &str = "x-hansa-route";

/// Energy of an answer that is no stream, in joules.
const JOULES: &str = "x-hansa-joules";

/// Carbon of an answer that is no stream, in grams of CO2.
const GRAMS: &str = "x-hansa-grams";

/// What was told of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Extras {
    /// Tokens of the prompt that a cache held.
    pub cached_tokens: Option<u64>,
    /// Energy in joules.
    pub joules: Option<f64>,
    /// Carbon in grams of CO2.
    pub grams: Option<f64>,
    /// The gateway had to try more than once before the first content, as its headers say.
    pub retried: bool,
}

/// Sums over requests.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sums {
    cached: Share,
    joules: Amount,
    grams: Amount,
    retried: u64,
}

/// Tokens found in caches, of the prompts of which that is known.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Share {
    requests: u64,
    prompt_tokens: u64,
    cached_tokens: u64,
}

/// An amount, and the output tokens that it was spent on.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Amount {
    requests: u64,
    sum: f64,
    output_tokens: u64,
}

/// What reports show; a figure that no request told is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct ExtrasReport {
    /// Requests, good or not, that the gateway had to send more than once before their first content.
    pub retried: u64,
    /// Good requests that told how much of their prompt a cache held.
    pub cache_told: u64,
    /// Tokens that caches held.
    pub cached_tokens: Option<u64>,
    /// The same as a share of the prompt tokens of these requests, from 0 to 1.
    pub cached_share: Option<f64>,
    /// Good requests that told their energy.
    pub energy_told: u64,
    /// Their energy in joules.
    pub joules: Option<f64>,
    /// The same by output token.
    pub joules_per_output_token: Option<f64>,
    /// Good requests that told their carbon.
    pub carbon_told: u64,
    /// Their carbon in grams of CO2.
    pub grams: Option<f64>,
    /// The same by 1,000 output tokens.
    pub grams_per_1000_output_tokens: Option<f64>,
}

impl Extras {
    /// What the response headers tell.
    pub fn of_headers(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let amount = |name| {
            text(name)
                .and_then(|text: &str| text.parse().ok())
                .and_then(plausible)
        };
        let parts = text(ROUTE).unwrap_or("").split(';');
        Self {
            cached_tokens: None,
            joules: amount(JOULES),
            grams: amount(GRAMS),
            retried: parts
                .map(str::trim)
                .any(|part| part.starts_with("attempt=")),
        }
    }

    /// What the headers tell, and what the stream does beyond them.
    #[must_use]
    pub fn with(self, stream: Self) -> Self {
        Self {
            cached_tokens: stream.cached_tokens.or(self.cached_tokens),
            joules: stream.joules.or(self.joules),
            grams: stream.grams.or(self.grams),
            retried: self.retried || stream.retried,
        }
    }

    /// Takes in `prompt_tokens_details` of a usage object. What cannot be read is not told: a server may mean something
    /// else by the name.
    pub fn take_details(&mut self, details: &RawValue) {
        #[derive(Deserialize)]
        struct Details {
            cached_tokens: Option<u64>,
        }
        if let Ok(details) = serde_json::from_str::<Details>(details.get()) {
            self.cached_tokens = details.cached_tokens.or(self.cached_tokens);
        }
    }

    /// Takes in a `hansa` object of a usage or of its chunk, as [`Extras::take_details`] does.
    pub fn take_hansa(&mut self, told: &RawValue) {
        #[derive(Deserialize)]
        struct Hansa {
            joules: Option<f64>,
            grams: Option<f64>,
            cached_tokens: Option<u64>,
        }
        if let Ok(told) = serde_json::from_str::<Hansa>(told.get()) {
            self.joules = told.joules.and_then(plausible).or(self.joules);
            self.grams = told.grams.and_then(plausible).or(self.grams);
            self.cached_tokens = self.cached_tokens.or(told.cached_tokens);
        }
    }
}

/// An amount that can be: neither negative nor without end.
fn plausible(amount: f64) -> Option<f64> {
    (amount.is_finite() && amount >= 0.0).then_some(amount)
}

impl Sums {
    /// Adds a request; its tokens are those of a good one, else none.
    pub fn fold(&mut self, extras: &Extras, tokens: Option<(u64, u64)>) {
        self.retried += u64::from(extras.retried);
        let Some((prompt_tokens, output_tokens)) = tokens else {
            return;
        };
        if let Some(cached) = extras.cached_tokens {
            self.cached.requests += 1;
            self.cached.prompt_tokens = self.cached.prompt_tokens.saturating_add(prompt_tokens);
            self.cached.cached_tokens = self
                .cached
                .cached_tokens
                .saturating_add(cached.min(prompt_tokens));
        }
        self.joules.fold(extras.joules, output_tokens);
        self.grams.fold(extras.grams, output_tokens);
    }

    /// What reports show; none where nothing was told.
    pub fn report(&self) -> Option<ExtrasReport> {
        if *self == Self::default() {
            return None;
        }
        let Self {
            cached,
            joules,
            grams,
            retried,
        } = self;
        let told = cached.requests > 0;
        let part = cached.cached_tokens as f64 / cached.prompt_tokens.max(1) as f64;
        Some(ExtrasReport {
            retried: *retried,
            cache_told: cached.requests,
            cached_tokens: told.then_some(cached.cached_tokens),
            cached_share: told.then_some(part),
            energy_told: joules.requests,
            joules: joules.sum(),
            joules_per_output_token: joules.per_token(),
            carbon_told: grams.requests,
            grams: grams.sum(),
            grams_per_1000_output_tokens: grams.per_token().map(|grams| grams * 1e3),
        })
    }
}

impl Amount {
    fn fold(&mut self, amount: Option<f64>, output_tokens: u64) {
        if let Some(amount) = amount {
            self.requests += 1;
            self.sum += amount;
            self.output_tokens = self.output_tokens.saturating_add(output_tokens);
        }
    }

    fn sum(&self) -> Option<f64> {
        (self.requests > 0).then_some(self.sum)
    }

    fn per_token(&self) -> Option<f64> {
        (self.output_tokens > 0).then(|| self.sum / self.output_tokens as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let name: http::HeaderName = name.parse().unwrap();
            (name, value.parse().unwrap())
        });
        pairs.collect()
    }

    #[test]
    fn headers_and_usage_are_read_and_nonsense_is_nothing_told() {
        let told = Extras::of_headers(&headers(&[
            (
                "x-hansa-route",
                "policy=cost; eligible=2; cost=0.1; attempt=retry",
            ),
            ("x-hansa-joules", "12.5"),
            ("x-hansa-grams", "-1"),
        ]));
        assert_eq!(
            (told.retried, told.joules, told.grams),
            (true, Some(12.5), None)
        );
        assert!(
            !Extras::of_headers(&headers(&[("x-hansa-route", "policy=cost; no_attempt=1")]))
                .retried
        );
        let mut told = Extras::default();
        told.take_details(&raw(r#"{"cached_tokens": 32, "audio_tokens": null}"#));
        told.take_hansa(&raw(
            r#"{"joules": 3.5, "grams": 0.001, "numerics": "x", "cached_tokens": 7}"#,
        ));
        assert_eq!(
            (told.cached_tokens, told.joules, told.grams),
            (Some(32), Some(3.5), Some(0.001))
        );
        let before = told;
        for nonsense in [
            "null",
            "[]",
            "7",
            r#"{"cached_tokens": "x", "joules": "y"}"#,
            r#"{"joules": -3}"#,
        ] {
            told.take_details(&raw(nonsense));
            told.take_hansa(&raw(nonsense));
        }
        assert_eq!(told, before);
    }

    #[test]
    fn shares_are_of_those_who_told() {
        let mut sums = Sums::default();
        assert_eq!(sums.report(), None);
        let told = Extras {
            cached_tokens: Some(30),
            joules: Some(8.0),
            ..Extras::default()
        };
        sums.fold(&told, Some((60, 4)));
        sums.fold(&Extras::default(), Some((1_000, 1_000)));
        sums.fold(
            &Extras {
                retried: true,
                ..told
            },
            None,
        );
        let report = sums.report().unwrap();
        assert_eq!(
            (report.cached_share, report.cached_tokens),
            (Some(0.5), Some(30))
        );
        assert_eq!(
            (report.joules, report.joules_per_output_token),
            (Some(8.0), Some(2.0))
        );
        assert_eq!(
            (report.grams, report.retried, report.energy_told),
            (None, 1, 1)
        );
    }

    #[test]
    fn a_cache_cannot_hold_more_than_the_prompt() {
        let mut sums = Sums::default();
        let told = Extras {
            cached_tokens: Some(u64::MAX),
            ..Extras::default()
        };
        sums.fold(&told, Some((10, 1)));
        assert_eq!(sums.report().unwrap().cached_share, Some(1.0));
    }
}
