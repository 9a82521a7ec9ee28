//! When requests are due. The whole schedule is computed from a seed before the run starts, so that nothing the server
//! does can move it: a slow answer delays no later request (the remedy against coordinated omission).
//! Knows no clock, no socket and no request.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Nanos, nanos};
use crate::limits::{MAX_ARRIVALS, MAX_DURATION, MAX_RATE};
use crate::rng::SplitMix64;
use crate::spread::{exponential, gamma};
use crate::trace::Trace;

/// Due times of an open loop, in nanoseconds after the start of the run, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Schedule {
    due: Vec<Nanos>,
    /// Name of each stage and the number of arrivals up to its end.
    stages: Vec<(Arc<str>, usize)>,
}

/// How arrivals are spaced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arrival {
    /// Every gap is exactly `1 / rate`.
    Constant,
    /// Independent exponential gaps of mean `1 / rate`: a true Poisson process, never rescaled to fit the duration.
    Poisson,
    /// Independent gamma gaps of mean `1 / rate` and this shape: below 1 arrivals come in bursts, at 1 they are a Poisson
    /// process, above 1 they grow even (vllm: burstiness, aiperf: smoothness).
    Gamma(f64),
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant => f.write_str("constant"),
            Self::Poisson => f.write_str("Poisson"),
            Self::Gamma(shape) => write!(f, "gamma of shape {shape}"),
        }
    }
}

/// A part of a run with its own rate, constant or changing evenly.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// The name in reports.
    pub name: Arc<str>,
    /// Its length; None for the last one of a run that ends by its number of requests.
    pub duration: Option<Duration>,
    /// Requests per second at its start.
    pub rate: f64,
    /// Requests per second at its end.
    pub rate_end: f64,
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
    /// The shape is no usable number.
    #[error("shape {0} is not between 0.01 and 10000")]
    Shape(f64),
    /// Neither end is set, or the duration is too long.
    #[error("a run needs a duration (at most 24h) or a number of requests")]
    Endless,
    /// The schedule would not fit its bound.
    #[error(
        "more than {MAX_ARRIVALS} arrivals; lower the rate, the duration or the number of requests"
    )]
    TooMany,
}

impl Schedule {
    /// Due times at one rate. The same arguments give the same schedule on every machine.
    ///
    /// # Errors
    /// A rate out of range, a run without an end, or more than [`MAX_ARRIVALS`] arrivals.
    pub fn build(
        arrival: Arrival,
        rate: f64,
        until: Until,
        seed: u64,
    ) -> Result<Self, ScheduleError> {
        until.bounds()?;
        let stage = Stage {
            name: "".into(),
            duration: until.duration,
            rate,
            rate_end: rate,
        };
        let mut schedule = Self::staged(arrival, &[stage], until.requests, seed)?;
        schedule.stages.clear();
        Ok(schedule)
    }

    /// Due times of stages one after the other. Arrivals are those of a process of rate 1, stretched so that the area
    /// under the rate up to arrival `n` is the sum of the first `n` gaps: ramps are as exact as steady rates, and a
    /// stage's border starts nothing anew.
    ///
    /// # Errors
    /// As [`Schedule::build`].
    pub fn staged(
        arrival: Arrival,
        stages: &[Stage],
        requests: Option<u64>,
        seed: u64,
    ) -> Result<Self, ScheduleError> {
        if let Arrival::Gamma(shape) = arrival
            && !(0.01..=10_000.0).contains(&shape)
        {
            return Err(ScheduleError::Shape(shape));
        }
        let most = requests.unwrap_or(u64::MAX);
        let mut positions = Positions::new(arrival, seed);
        let mut schedule = Self::default();
        let (mut began, mut area) = (0.0, 0.0);
        for stage in stages {
            stage.check()?;
            while (schedule.due.len() as u64) < most {
                let inside = positions.at - area;
                if inside >= stage.area() {
                    break;
                }
                if schedule.due.len() as u64 >= MAX_ARRIVALS {
                    return Err(ScheduleError::TooMany);
                }
                let seconds = began + stage.when(inside);
                schedule.due.push((seconds * 1e9).round() as Nanos);
                positions.step();
            }
            schedule
                .stages
                .push((stage.name.clone(), schedule.due.len()));
            began += stage.seconds();
            area += stage.area();
        }
        Ok(schedule)
    }

    /// Due times of a recorded load.
    ///
    /// # Errors
    /// A duration out of range.
    pub fn of_trace(trace: &Trace, until: Until) -> Result<Self, ScheduleError> {
        let end = match until.duration {
            Some(_) => until.bounds()?.0,
            None => Nanos::MAX,
        };
        let most = usize::try_from(until.requests.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let times = trace.entries().iter().map(|entry| entry.at);
        let due = times.take_while(|&at| at < end).take(most).collect();
        Ok(Self {
            due,
            stages: Vec::new(),
        })
    }

    /// Due times in order.
    pub fn due(&self) -> &[Nanos] {
        &self.due
    }

    /// Requests per second on average, over the run's duration or else up to its last arrival.
    pub fn mean_rate(&self, duration: Option<Duration>) -> f64 {
        let last = Duration::from_nanos(self.due.last().copied().unwrap_or(0));
        let seconds = duration.unwrap_or(last).as_secs_f64();
        if seconds > 0.0 {
            self.due.len() as f64 / seconds
        } else {
            0.0
        }
    }

    /// The stage of request `index`, where there are stages.
    pub fn stage(&self, index: u64) -> Option<&Arc<str>> {
        let past = |&(_, end): &(Arc<str>, usize)| end as u64 <= index;
        let at = self.stages.partition_point(past);
        self.stages.get(at).map(|(name, _)| name)
    }
}

impl Stage {
    fn check(&self) -> Result<(), ScheduleError> {
        let usable = |rate: f64| (0.0..=MAX_RATE).contains(&rate);
        for rate in [self.rate, self.rate_end] {
            if !usable(rate) || self.rate + self.rate_end <= 0.0 {
                return Err(ScheduleError::Rate(rate));
            }
        }
        match self.duration {
            Some(duration) if duration > MAX_DURATION => Err(ScheduleError::Endless),
            _ => Ok(()),
        }
    }

    fn seconds(&self) -> f64 {
        self.duration
            .map_or(f64::INFINITY, |duration| duration.as_secs_f64())
    }

    /// Arrivals expected in it.
    fn area(&self) -> f64 {
        self.seconds() * (self.rate + self.rate_end) / 2.0
    }

    /// Seconds into it at which the area under its rate is `area`: the root of rate t + slope t^2 / 2 = area.
    fn when(&self, area: f64) -> f64 {
        if area <= 0.0 {
            return 0.0;
        }
        let slope = (self.rate_end - self.rate) / self.seconds();
        let root = (self.rate * self.rate + 2.0 * slope * area).max(0.0).sqrt();
        2.0 * area / (self.rate + root)
    }
}

/// Arrivals of a process of rate 1.
struct Positions {
    arrival: Arrival,
    rng: SplitMix64,
    at: f64,
    steps: u64,
}

impl Positions {
    fn new(arrival: Arrival, seed: u64) -> Self {
        let rng = SplitMix64::new(seed);
        let mut positions = Self {
            arrival,
            rng,
            at: 0.0,
            steps: 0,
        };
        if arrival != Arrival::Constant {
            positions.step();
        }
        positions
    }

    fn step(&mut self) {
        self.steps += 1;
        self.at = match self.arrival {
            // Counted, not summed: no drift.
            Arrival::Constant => self.steps as f64,
            Arrival::Poisson => self.at + exponential(&mut self.rng),
            Arrival::Gamma(shape) => self.at + gamma(&mut self.rng, shape),
        };
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
        let arrivals = |arrival, seconds: Option<u64>, requests| {
            let duration = seconds.map(Duration::from_secs);
            let until = Until { duration, requests };
            let schedule = Schedule::build(arrival, 1.0, until, 1).unwrap();
            schedule.due().len()
        };
        assert_eq!(arrivals(Arrival::Constant, Some(10), Some(7)), 7);
        assert_eq!(arrivals(Arrival::Constant, Some(5), Some(7)), 5);
        assert_eq!(arrivals(Arrival::Poisson, None, Some(9)), 9);
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

    fn stage(name: &str, seconds: u64, rate: f64, rate_end: f64) -> Stage {
        Stage {
            name: name.into(),
            duration: Some(Duration::from_secs(seconds)),
            rate,
            rate_end,
        }
    }

    #[test]
    fn stages_follow_each_other_and_ramps_are_exact() {
        let stages = [
            stage("up", 10, 0.0, 20.0),
            stage("hold", 10, 20.0, 20.0),
            stage("down", 10, 20.0, 0.0),
        ];
        let schedule = Schedule::staged(Arrival::Constant, &stages, None, 1).unwrap();
        assert_eq!(schedule.due().len(), 100 + 200 + 100);
        let before = |seconds: u64| {
            schedule
                .due()
                .partition_point(|&at| at < seconds * 1_000_000_000)
        };
        assert_eq!(
            (before(5), before(10), before(20), before(25)),
            (25, 100, 300, 375)
        );
        let name = |index| schedule.stage(index).map(|name| name.to_string());
        assert_eq!(name(99).as_deref(), Some("up"));
        assert_eq!(name(100).as_deref(), Some("hold"));
        assert_eq!((name(399).as_deref(), name(400)), (Some("down"), None));
        assert!(schedule.due().is_sorted());
    }

    #[test]
    fn gamma_gaps_of_a_small_shape_come_in_bursts() {
        let spread = |shape| {
            let schedule = Schedule::build(Arrival::Gamma(shape), 100.0, seconds(100), 9).unwrap();
            let gaps: Vec<f64> = schedule
                .due()
                .windows(2)
                .map(|pair| (pair[1] - pair[0]) as f64)
                .collect();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt()
                / mean
        };
        assert!((spread(0.25) - 2.0).abs() < 0.2, "{}", spread(0.25));
        assert!((spread(16.0) - 0.25).abs() < 0.02, "{}", spread(16.0));
        let refused = Schedule::build(Arrival::Gamma(0.0), 1.0, seconds(1), 1);
        assert_eq!(refused, Err(ScheduleError::Shape(0.0)));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]
        #[test]
        fn any_stages_give_ascending_times_inside_them(
            rates in proptest::collection::vec((0.0..200.0f64, 0.1..200.0f64, 1..20u64), 1..5),
            seed: u64,
            shape in 0.1..20.0f64,
        ) {
            let stages: Vec<Stage> = rates.iter().map(|&(rate, end, seconds)| stage("s", seconds, rate, end)).collect();
            let whole: u64 = rates.iter().map(|&(_, _, seconds)| seconds * 1_000_000_000).sum();
            let expected: f64 = stages.iter().map(Stage::area).sum();
            for arrival in [Arrival::Constant, Arrival::Poisson, Arrival::Gamma(shape)] {
                let schedule = Schedule::staged(arrival, &stages, None, seed).unwrap();
                proptest::prop_assert!(schedule.due().is_sorted());
                proptest::prop_assert!(schedule.due().last().is_none_or(|&last| last <= whole));
                if arrival == Arrival::Constant {
                    proptest::prop_assert!((schedule.due().len() as f64 - expected).abs() <= 1.0);
                }
            }
        }
    }
}
