//! When requests are due. The whole schedule is computed from a seed before the run starts, so that nothing the server
//! does can move it: a slow answer delays no later request (the remedy against coordinated omission).
//! Knows no clock, no socket and no request.

use std::time::Duration;

use crate::clock::{Nanos, nanos};
use crate::limits::{MAX_ARRIVALS, MAX_DURATION, MAX_RATE};
use crate::rng::SplitMix64;

/// Due times of an open loop, in nanoseconds after the start of the run, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    due: Vec<Nanos>,
}

/// How arrivals are spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrival {
    /// Every gap is exactly `1 / rate`.
    Constant,
    /// Independent exponential gaps of mean `1 / rate`: a true Poisson process, never rescaled to fit the duration.
    Poisson,
}

/// Where a run ends; at least one end is set, the earlier one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Until {
    /// No request is due at or after this time.
    pub duration: Option<Duration>,
    /// At most this many requests.
    pub requests: Option<u64>,
}

/// Why no schedule could be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    /// The rate is no usable number.
    #[error("rate {0} is not between 0 (exclusive) and {MAX_RATE} requests per second")]
    Rate(f64),
    /// Neither end is set, or the duration is too long.
    #[error("a run needs --duration (at most 24h) or --requests")]
    Endless,
    /// The schedule would not fit its bound.
    #[error("more than {MAX_ARRIVALS} arrivals; lower --rate, --duration or --requests")]
    TooMany,
}

impl Schedule {
    /// Computes all due times. The same arguments give the same schedule on every machine.
    ///
    /// # Errors
    /// A rate out of range, a run without an end, or more than [`MAX_ARRIVALS`] arrivals.
    pub fn build(
        arrival: Arrival,
        rate: f64,
        until: Until,
        seed: u64,
    ) -> Result<Self, ScheduleError> {
        if !(rate > 0.0 && rate <= MAX_RATE) {
            return Err(ScheduleError::Rate(rate));
        }
        let (end, most) = until.bounds()?;
        let mut rng = SplitMix64::new(seed);
        let mut due = Vec::new();
        let mut seconds = 0.0;
        loop {
            let index = due.len() as u64;
            seconds = match arrival {
                Arrival::Constant => index as f64 / rate,
                Arrival::Poisson => seconds - (1.0 - rng.next_unit()).ln() / rate,
            };
            let at = (seconds * 1e9).round() as Nanos;
            if at >= end || index >= most {
                return Ok(Self { due });
            }
            if index >= MAX_ARRIVALS {
                return Err(ScheduleError::TooMany);
            }
            due.push(at);
        }
    }

    /// Due times in order.
    pub fn due(&self) -> &[Nanos] {
        &self.due
    }
}

impl Until {
    /// The two ends as numbers: first nanosecond after the run, most requests.
    ///
    /// # Errors
    /// Neither end is set, or the duration is beyond its bound.
    pub fn bounds(&self) -> Result<(Nanos, u64), ScheduleError> {
        if self
            .duration
            .is_some_and(|duration| duration > MAX_DURATION)
            || (self.duration.is_none() && self.requests.is_none())
        {
            return Err(ScheduleError::Endless);
        }
        Ok((
            self.duration.map_or(Nanos::MAX, nanos),
            self.requests.unwrap_or(u64::MAX),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(duration: u64) -> Until {
        Until {
            duration: Some(Duration::from_secs(duration)),
            requests: None,
        }
    }

    #[test]
    fn constant_arrivals_do_not_drift() {
        let schedule = Schedule::build(Arrival::Constant, 3.0, seconds(100), 1).unwrap();
        assert_eq!(schedule.due().len(), 300);
        assert_eq!(schedule.due()[0], 0);
        assert_eq!(schedule.due()[299], 99_666_666_667);
    }

    #[test]
    fn poisson_arrivals_have_the_mean_and_the_spread_of_a_poisson_process() {
        let schedule = Schedule::build(Arrival::Poisson, 1_000.0, seconds(50), 42).unwrap();
        let count = schedule.due().len() as f64;
        assert!(
            (count - 50_000.0).abs() < 5.0 * 50_000f64.sqrt(),
            "count {count}"
        );
        let gaps: Vec<f64> = schedule
            .due()
            .windows(2)
            .map(|pair| (pair[1] - pair[0]) as f64 / 1e6)
            .collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean - 1.0).abs() < 0.03, "mean gap {mean} ms");
        assert!(
            (variance.sqrt() / mean - 1.0).abs() < 0.03,
            "exponential gaps vary by their mean"
        );
    }

    #[test]
    fn a_seed_names_a_schedule() {
        let build = |seed| Schedule::build(Arrival::Poisson, 50.0, seconds(10), seed).unwrap();
        assert_eq!(build(1), build(1));
        assert_ne!(build(1), build(2));
        assert!(build(1).due().is_sorted());
    }

    #[test]
    fn the_earlier_end_counts() {
        let both = Until {
            duration: Some(Duration::from_secs(10)),
            requests: Some(7),
        };
        assert_eq!(
            Schedule::build(Arrival::Constant, 1.0, both, 1)
                .unwrap()
                .due()
                .len(),
            7
        );
        let both = Until {
            duration: Some(Duration::from_secs(5)),
            requests: Some(7),
        };
        assert_eq!(
            Schedule::build(Arrival::Constant, 1.0, both, 1)
                .unwrap()
                .due()
                .len(),
            5
        );
        let count = Until {
            duration: None,
            requests: Some(9),
        };
        assert_eq!(
            Schedule::build(Arrival::Poisson, 1.0, count, 1)
                .unwrap()
                .due()
                .len(),
            9
        );
    }

    #[test]
    fn impossible_schedules_are_refused() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e7] {
            let refused = Schedule::build(Arrival::Constant, rate, seconds(1), 1);
            assert!(
                matches!(refused, Err(ScheduleError::Rate(_))),
                "rate {rate}"
            );
        }
        let endless = Until {
            duration: None,
            requests: None,
        };
        assert_eq!(
            Schedule::build(Arrival::Constant, 1.0, endless, 1),
            Err(ScheduleError::Endless)
        );
        assert_eq!(
            Schedule::build(Arrival::Constant, 1e6, seconds(3_600), 1),
            Err(ScheduleError::TooMany)
        );
    }
}
