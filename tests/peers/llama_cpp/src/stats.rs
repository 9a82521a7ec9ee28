//! Medians and spreads of a handful of samples.

use std::fmt;

/// Samples of one measurement, in the order of the rounds.
#[derive(Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    /// Round by round, how much more this is than `base`: rounds are close in time, so a busy machine cancels out.
    pub fn over(&self, base: &Self) -> Self {
        self.0.iter().zip(&base.0).map(|(a, b)| a / b).collect()
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<T: IntoIterator<Item = f64>>(samples: T) -> Self {
        Self(samples.into_iter().collect())
    }
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (Some(least), Some(most)) = (sorted.first(), sorted.last()) else {
            return write!(f, "-");
        };
        let median = sorted[sorted.len() / 2];
        let digits = if median < 10.0 { 2 } else { 0 };
        write!(f, "{median:.digits$} ({least:.digits$} to {most:.digits$})")
    }
}
