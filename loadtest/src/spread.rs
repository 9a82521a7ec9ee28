//! Seeded draws from the distributions that loads are made of: normal, exponential, gamma, and [`Spread`], the choice a
//! scenario offers for every length and time. Own code, so that a seed names a run for good, whatever other crates do.

use crate::limits::MAX_REDRAWS;
use crate::rng::SplitMix64;

/// A distribution of positive numbers; the unit is its user's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Spread {
    /// Always this.
    Fixed(f64),
    /// Anything between, equally likely.
    Uniform {
        /// Smallest value.
        min: f64,
        /// Largest value.
        max: f64,
    },
    /// A normal distribution, cut at both ends: values outside are drawn again.
    Normal(Bell),
    /// A log-normal distribution, given by the mean and the deviation of the values themselves, cut at both ends.
    Lognormal(Bell),
    /// An exponential distribution.
    Exponential {
        /// Its mean.
        mean: f64,
    },
}

/// The shape of a distribution with a middle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bell {
    /// Mean before cutting.
    pub mean: f64,
    /// Standard deviation before cutting.
    pub sd: f64,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
}

impl Spread {
    /// Draws a value.
    pub fn sample(&self, rng: &mut SplitMix64) -> f64 {
        match *self {
            Self::Fixed(value) => value,
            Self::Uniform { min, max } => min + (max - min) * rng.next_unit(),
            Self::Normal(bell) => bell.cut(|| bell.mean + bell.sd * normal(rng)),
            Self::Lognormal(bell) => {
                let (mu, sigma) = bell.of_logarithm();
                bell.cut(|| (mu + sigma * normal(rng)).exp())
            }
            Self::Exponential { mean } => mean * exponential(rng),
        }
    }

    /// Draws a whole number; every one between the ends of a uniform spread is equally likely.
    pub fn sample_whole(&self, rng: &mut SplitMix64) -> u32 {
        match *self {
            Self::Uniform { min, max } => {
                (min.round() + ((max.round() - min.round() + 1.0) * rng.next_unit()).floor()) as u32
            }
            _ => self.sample(rng).round() as u32,
        }
    }

    /// The largest value that can come, infinite where there is none.
    pub fn largest(&self) -> f64 {
        match *self {
            Self::Fixed(value) => value,
            Self::Uniform { max, .. } => max,
            Self::Normal(bell) | Self::Lognormal(bell) => bell.max,
            Self::Exponential { .. } => f64::INFINITY,
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(value) => write!(f, "{value}"),
            Self::Uniform { min, max } => write!(f, "{min} to {max}"),
            Self::Normal(bell) => write!(f, "normal {} (sd {})", bell.mean, bell.sd),
            Self::Lognormal(bell) => write!(f, "lognormal {} (sd {})", bell.mean, bell.sd),
            Self::Exponential { mean } => write!(f, "exponential {mean}"),
        }
    }
}

impl Bell {
    /// Draws until a value lies inside; a cut that leaves almost nothing gets its nearer end.
    fn cut(&self, mut draw: impl FnMut() -> f64) -> f64 {
        let mut value = draw();
        for _ in 0..MAX_REDRAWS {
            if (self.min..=self.max).contains(&value) {
                return value;
            }
            value = draw();
        }
        value.clamp(self.min, self.max)
    }

    /// Mean and deviation of the logarithm: sigma^2 = ln(1 + sd^2 / mean^2), mu = ln(mean) - sigma^2 / 2.
    fn of_logarithm(&self) -> (f64, f64) {
        let variance = (self.sd / self.mean).powi(2).ln_1p();
        (self.mean.ln() - variance / 2.0, variance.sqrt())
    }
}

/// A standard normal number (Box and Muller 1958; the second of the pair is not used, so that a draw has no memory).
pub fn normal(rng: &mut SplitMix64) -> f64 {
    let radius = (2.0 * exponential(rng)).sqrt();
    radius * (std::f64::consts::TAU * rng.next_unit()).cos()
}

/// An exponential number of mean 1.
pub fn exponential(rng: &mut SplitMix64) -> f64 {
    -(1.0 - rng.next_unit()).ln()
}

/// A gamma number of shape `shape` and mean 1 (Marsaglia and Tsang 2000, with their boost below shape 1).
pub fn gamma(rng: &mut SplitMix64, shape: f64) -> f64 {
    if shape < 1.0 {
        let boost = (1.0 - rng.next_unit()).powf(1.0 / shape);
        return standard_gamma(rng, shape + 1.0) * boost / shape;
    }
    standard_gamma(rng, shape) / shape
}

fn standard_gamma(rng: &mut SplitMix64, shape: f64) -> f64 {
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    for _ in 0..MAX_REDRAWS {
        let x = normal(rng);
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && exponential(rng) > -(0.5 * x * x + d - d * v + d * v.ln()) {
            return d * v;
        }
    }
    // At least 95 of 100 draws are taken, so this is the mode of a distribution that nobody will see.
    d
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(mut draw: impl FnMut(&mut SplitMix64) -> f64) -> (f64, f64) {
        let mut rng = SplitMix64::new(11);
        let values: Vec<f64> = (0..40_000).map(|_| draw(&mut rng)).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64;
        (mean, variance.sqrt())
    }

    fn near(value: f64, expected: f64, tolerance: f64) -> bool {
        (value - expected).abs() <= tolerance * expected.abs().max(1.0)
    }

    #[test]
    fn every_spread_has_the_mean_and_the_deviation_asked_for() {
        let bell = Bell {
            mean: 500.0,
            sd: 100.0,
            min: 0.0,
            max: 1e6,
        };
        let spreads = [
            (Spread::Fixed(7.0), 7.0, 0.0),
            (
                Spread::Uniform {
                    min: 0.0,
                    max: 12.0,
                },
                6.0,
                12f64.sqrt(),
            ),
            (Spread::Normal(bell), 500.0, 100.0),
            (Spread::Lognormal(bell), 500.0, 100.0),
            (Spread::Exponential { mean: 3.0 }, 3.0, 3.0),
        ];
        for (spread, mean, sd) in spreads {
            let seen = moments(|rng| spread.sample(rng));
            assert!(
                near(seen.0, mean, 0.03) && near(seen.1, sd, 0.05),
                "{spread}: {seen:?}"
            );
        }
    }

    #[test]
    fn gamma_gaps_have_mean_one_and_the_burstiness_asked_for() {
        for shape in [0.25, 0.5, 1.0, 4.0, 100.0] {
            let (mean, sd) = moments(|rng| gamma(rng, shape));
            let expected = 1.0 / shape.sqrt();
            assert!(
                near(mean, 1.0, 0.04) && near(sd, expected, 0.06),
                "{shape}: {mean} {sd}"
            );
        }
    }

    #[test]
    fn cut_spreads_stay_inside_and_whole_numbers_reach_both_ends() {
        let bell = Bell {
            mean: 10.0,
            sd: 50.0,
            min: 5.0,
            max: 20.0,
        };
        let mut rng = SplitMix64::new(3);
        for spread in [Spread::Normal(bell), Spread::Lognormal(bell)] {
            assert!((0..2_000).all(|_| (5..=20).contains(&spread.sample_whole(&mut rng))));
        }
        let hopeless = Bell {
            mean: 1e6,
            sd: 1.0,
            ..bell
        };
        assert_eq!(Spread::Normal(hopeless).sample(&mut rng), 20.0);
        let dice = Spread::Uniform { min: 1.0, max: 6.0 };
        let mut seen = [0u32; 7];
        (0..6_000).for_each(|_| seen[dice.sample_whole(&mut rng) as usize] += 1);
        assert!(
            seen[0] == 0 && seen[1..].iter().all(|&count| (850..1_150).contains(&count)),
            "{seen:?}"
        );
    }
}
