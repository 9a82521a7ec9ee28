//! Energy and carbon of requests: what a token takes here, what the grid's electricity emits, and so what a request did.
//!
//! All figures are estimates, and none is better than what the operator wrote or the machine measures: the energy of a
//! moment is shared out over the work of that moment. An unknown figure is never taken for zero.

mod cards;
mod grid;
mod rapl;
mod watch;
mod work;

pub use watch::watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hansa_config::schema;

use crate::upstream::{UpstreamStatus, Usage};
use work::PREFILL_SHARE;

/// Joules of a kilowatt-hour.
const JOULES_PER_KWH: f64 = 3.6e6;

/// What work takes at one place. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Energy {
    figures: Arc<Figures>,
}

#[derive(Debug)]
struct Figures {
    joules_per_token: Figure,
    grams_per_kwh: Figure,
}

/// A number that is written by one and read by many; NaN where it is not known.
#[derive(Debug)]
struct Figure(AtomicU64);

impl Figure {
    fn new(value: Option<f64>) -> Self {
        Self(AtomicU64::new(value.unwrap_or(f64::NAN).to_bits()))
    }

    fn get(&self) -> Option<f64> {
        let value = f64::from_bits(self.0.load(Ordering::Relaxed));
        value.is_finite().then_some(value)
    }

    fn set(&self, value: Option<f64>) {
        let bits = value.unwrap_or(f64::NAN).to_bits();
        self.0.store(bits, Ordering::Relaxed);
    }
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            joules_per_token: Figure::new(None),
            grams_per_kwh: Figure::new(None),
        }
    }
}

impl Energy {
    /// Of this process's own models, as `config` says; what it leaves open is filled in by [`watch`].
    #[must_use]
    pub fn here(config: &schema::Energy) -> Self {
        let joules = config
            .millijoules_per_token
            .map(|mj| joules(mj) * pue(config));
        Self::of(joules, config.grams_per_kwh)
    }

    /// Of a server that does not tell itself.
    #[must_use]
    pub fn there(upstream: &schema::Upstream) -> Self {
        let joules = upstream.millijoules_per_token.map(joules);
        Self::of(joules, upstream.grams_per_kwh)
    }

    fn of(joules_per_token: Option<f64>, grams_per_kwh: Option<u64>) -> Self {
        let figures = Figures {
            joules_per_token: Figure::new(joules_per_token),
            grams_per_kwh: Figure::new(grams_per_kwh.map(|grams| grams as f64)),
        };
        Self {
            figures: Arc::new(figures),
        }
    }

    /// Joules of a token that is produced, overheads of the building included.
    #[must_use]
    pub fn joules_per_token(&self) -> Option<f64> {
        self.figures.joules_per_token.get()
    }

    /// Grams of CO2 of a kilowatt-hour.
    #[must_use]
    pub fn grams_per_kwh(&self) -> Option<f64> {
        self.figures.grams_per_kwh.get()
    }

    /// Adds to `usage` what it took, unless whoever served has said so.
    pub fn fill(&self, usage: &mut Usage) {
        if usage.millijoules.is_some() {
            return;
        }
        let Some(joules_per_token) = self.joules_per_token() else {
            return;
        };
        let prompt = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
        let tokens = f64::from(usage.completion_tokens) + PREFILL_SHARE * f64::from(prompt);
        let joules = tokens * joules_per_token;
        usage.millijoules = Some(whole(joules * 1e3));
        let grams = self
            .grams_per_kwh()
            .map(|grams| joules / JOULES_PER_KWH * grams);
        usage.micrograms = grams.map(|grams| whole(grams * 1e6));
    }

    /// Adds to `status` what a token takes, unless whoever serves says so.
    pub fn tell(&self, status: &mut UpstreamStatus) {
        let told = status.joules_per_token;
        status.joules_per_token = told.or_else(|| self.joules_per_token());
        let told = status.grams_per_kwh;
        status.grams_per_kwh = told.or_else(|| self.grams_per_kwh());
    }
}

fn joules(millijoules: u64) -> f64 {
    millijoules as f64 / 1e3
}

fn pue(config: &schema::Energy) -> f64 {
    config.pue_percent as f64 / 100.0
}

#[expect(clippy::cast_sign_loss, reason = "no factor is negative")]
fn whole(units: f64) -> u32 {
    units.round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_takes_what_its_tokens_take_and_the_building_adds_its_part() {
        let energy = Energy::here(&schema::Energy {
            millijoules_per_token: Some(500),
            pue_percent: 120,
            grams_per_kwh: Some(300),
            ..schema::Energy::default()
        });
        let mut usage = Usage {
            prompt_tokens: 120,
            cached_tokens: 20,
            completion_tokens: 90,
            ..Usage::default()
        };
        energy.fill(&mut usage);
        // (90 + 100 / 10) x 0.5 J x 1.2 = 60 J; / 3.6 MJ x 300 g = 5 mg.
        assert_eq!(
            (usage.millijoules, usage.micrograms),
            (Some(60_000), Some(5_000))
        );
        // Who served knows best.
        usage.millijoules = Some(7);
        energy.fill(&mut usage);
        assert_eq!(usage.millijoules, Some(7));
    }

    #[test]
    fn what_is_not_known_is_not_zero() {
        let mut usage = Usage::default();
        Energy::default().fill(&mut usage);
        assert_eq!((usage.millijoules, usage.micrograms), (None, None));
        let dark = Energy::of(Some(1.0), None);
        dark.fill(&mut usage);
        assert_eq!((usage.millijoules, usage.micrograms), (Some(0), None));
        let mut status = UpstreamStatus {
            joules_per_token: Some(3.0),
            ..UpstreamStatus::default()
        };
        dark.tell(&mut status);
        assert_eq!(
            (status.joules_per_token, status.grams_per_kwh),
            (Some(3.0), None)
        );
    }
}
