//! Two things learnt of each candidate: how long a prompt takes, and how long a token takes.
//!
//! Two and not one over the whole answer, which would measure little more than how long answers are. The time of a prompt
//! is `a + b x uncached tokens`, fitted to time to first token less round trip and less waiting by recursive least squares
//! with forgetting (Haykin, "Adaptive Filter Theory", chapter 10).

use super::facts::Figures;
use super::number::larger;

/// Weight of all older samples when one more comes: the last hundred or so count.
const FORGETTING: f64 = 0.98;
/// Weight of one more sample in a mean.
const MEAN_WEIGHT: f64 = 0.1;
/// Uncertainty of the two figures at the beginning, and the most that forgetting may let it grow to again, so that a
/// run of equal prompts does not make the next one count for everything.
const SPREAD: f64 = 10.0;
/// Seconds of one sample at most: beyond it something else than the prompt took the time.
const SAMPLE_S_MAX: f64 = 300.0;
/// Prompt tokens a second of a candidate that has told nothing, and seconds of a token.
const PREFILL_TOKENS_PER_S: f64 = 2_000.0;
const TPOT_S: f64 = 0.03;
/// Tokens in the unit of the fit, for figures of one magnitude, and its part that one is.
const UNIT: f64 = 1_000.0;
const OF_UNIT: f64 = 1.0 / UNIT;

/// Seconds of a prompt by its uncached tokens.
#[derive(Debug, Clone)]
pub(super) struct PrefillLine {
    /// Seconds of a prompt however short, and of a thousand tokens.
    a: f64,
    b: f64,
    /// Covariance of the two.
    p: [[f64; 2]; 2],
    learnt: bool,
    /// It starts from what the candidate told.
    told: bool,
}

impl Default for PrefillLine {
    fn default() -> Self {
        Self {
            a: 0.0,
            b: UNIT / PREFILL_TOKENS_PER_S,
            p: [[SPREAD, 0.0], [0.0, SPREAD]],
            learnt: false,
            told: false,
        }
    }
}

impl PrefillLine {
    /// Starts from what the candidate tells, as long as nothing was measured.
    pub(super) fn suppose(&mut self, figures: &Figures) {
        if !self.learnt && figures.prefill_tokens_per_s > 0.0 {
            self.b = UNIT / figures.prefill_tokens_per_s;
            self.told = true;
        }
    }

    /// Seconds that a prompt with so many uncached tokens takes.
    pub(super) fn seconds(&self, tokens: f64) -> f64 {
        let (a, b) = self.line();
        prompt_s(a, b, tokens)
    }

    /// Seconds of a prompt however short, and of a thousand tokens more.
    pub(super) const fn line(&self) -> (f64, f64) {
        (self.a.max(0.0), self.b.max(0.0))
    }

    /// Whether anything is known: who was never tried must not look worse than all others for ever.
    pub(super) const fn is_known(&self) -> bool {
        self.learnt || self.told
    }

    /// Prompt tokens a second.
    pub(super) fn tokens_per_s(&self) -> f64 {
        UNIT / self.b.max(1e-6)
    }

    /// Takes a sample in.
    pub(super) fn learn(&mut self, tokens: f64, seconds: f64) {
        self.learnt = true;
        let (x, y) = ([1.0, tokens / UNIT], seconds.clamp(0.0, SAMPLE_S_MAX));
        let [[p00, p01], [p10, p11]] = self.p;
        let px = [p00 * x[0] + p01 * x[1], p10 * x[0] + p11 * x[1]];
        let gain = FORGETTING + x[0] * px[0] + x[1] * px[1];
        let k = [px[0] / gain, px[1] / gain];
        let error = y - self.a * x[0] - self.b * x[1];
        self.a += k[0] * error;
        self.b += k[1] * error;
        let shrunk = |p: f64, k: f64, px: f64| (p - k * px) / FORGETTING;
        self.p = [
            [shrunk(p00, k[0], px[0]), shrunk(p01, k[0], px[1])],
            [shrunk(p10, k[1], px[0]), shrunk(p11, k[1], px[1])],
        ];
        self.bound();
    }

    /// Keeps the covariance within its bound, its shape as it is.
    fn bound(&mut self) {
        let largest = self.p[0][0].max(self.p[1][1]);
        if largest > SPREAD {
            let share = SPREAD / largest;
            self.p.iter_mut().flatten().for_each(|p| *p *= share);
        }
    }
}

/// Seconds of a prompt of so many tokens, of which a thousand take `b` and none `a`.
#[inline]
pub(super) fn prompt_s(a: f64, b: f64, tokens: f64) -> f64 {
    larger(a + b * tokens * OF_UNIT, 0.0)
}

/// A mean that forgets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mean {
    value: f64,
    /// Samples so far, up to those after which each counts the same.
    samples: u8,
    /// It starts from what the candidate told.
    told: bool,
}

impl Mean {
    /// A mean that stands at `value` until there is a sample.
    pub(super) const fn new(value: f64) -> Self {
        Self {
            value,
            samples: 0,
            told: false,
        }
    }

    /// The mean time per output token in seconds of a candidate that has told nothing.
    pub(super) const fn tpot() -> Self {
        Self::new(TPOT_S)
    }

    pub(super) const fn get(&self) -> f64 {
        self.value
    }

    /// Whether anything is known, or the value is a guess.
    pub(super) const fn is_known(&self) -> bool {
        self.samples > 0 || self.told
    }

    /// Starts from a guess, as long as nothing was measured.
    pub(super) fn suppose(&mut self, value: f64) {
        if self.samples == 0 && value.is_finite() && value > 0.0 {
            self.value = value;
            self.told = true;
        }
    }

    /// Takes a sample in. The first one replaces the guess, and the next ones count the same as those before.
    pub(super) fn learn(&mut self, sample: f64) {
        if !sample.is_finite() || sample < 0.0 {
            return;
        }
        self.samples = self.samples.saturating_add(1);
        let weight = MEAN_WEIGHT.max(1.0 / f64::from(self.samples));
        self.value += weight * (sample - self.value);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_line_finds_both_figures_and_follows_when_they_change() {
        let mut line = PrefillLine::default();
        let sample = |line: &mut PrefillLine, a: f64, b: f64| {
            for i in 0..200 {
                let tokens = f64::from(i * 37 % 4000);
                line.learn(tokens, a + b * tokens);
            }
        };
        sample(&mut line, 0.2, 0.0001);
        assert!((line.seconds(1000.0) - 0.3).abs() < 0.01, "{line:?}");
        assert!((line.tokens_per_s() - 10_000.0).abs() < 500.0, "{line:?}");
        sample(&mut line, 0.05, 0.001);
        assert!((line.seconds(2000.0) - 2.05).abs() < 0.05, "{line:?}");
    }

    proptest! {
        #[test]
        fn whatever_is_measured_the_line_stays_a_time(
            samples in prop::collection::vec((0.0..200_000.0_f64, -10.0..1e6_f64), 0..200)
        ) {
            let mut line = PrefillLine::default();
            for (tokens, seconds) in samples {
                line.learn(tokens, seconds);
                for asked in [0.0, 1000.0, 100_000.0] {
                    let seconds = line.seconds(asked);
                    prop_assert!(seconds.is_finite() && seconds >= 0.0);
                }
                prop_assert!(line.tokens_per_s() > 0.0);
            }
        }
    }
}
