//! How far a run is, on stderr: a live view on a terminal, a line every few seconds elsewhere.

use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

use super::live::Live;
use crate::drive::meters::{Meters, Reading};
use crate::watch::Progress;

/// Time between two lines where there is no terminal.
const LINE_PERIOD: Duration = Duration::from_secs(5);

/// What the end of a run is measured by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// A number of requests.
    Requests(u64),
    /// A time.
    Time(Duration),
}

/// The display that suits where stderr leads; `plain` asks for lines on a terminal too.
pub fn display(goal: Goal, plain: bool) -> Box<dyn Progress> {
    let lines = || Box::new(Lines::new(goal));
    if plain || !stderr().is_terminal() {
        return lines();
    }
    match Live::start(goal) {
        Ok(live) => Box::new(live),
        // A terminal that cannot be drawn on can still be written to.
        Err(_) => lines(),
    }
}

/// A line now and then.
struct Lines {
    goal: Goal,
    last: Last,
}

/// The display before, for rates.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Last {
    elapsed: Duration,
    reading: Reading,
}

/// What changed since the display before, by second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) requests: f64,
    pub(super) events: f64,
    pub(super) tokens: f64,
}

impl Goal {
    /// How much of a run is done, from 0 to 1.
    pub fn part(&self, elapsed: Duration, reading: &Reading) -> f64 {
        let (done, all) = match self {
            Self::Requests(all) => (over(reading) as f64, *all as f64),
            Self::Time(all) => (elapsed.as_secs_f64(), all.as_secs_f64()),
        };
        if all > 0.0 {
            (done / all).min(1.0)
        } else {
            0.0
        }
    }
}

impl Lines {
    fn new(goal: Goal) -> Self {
        Self {
            goal,
            last: Last::default(),
        }
    }
}

impl Progress for Lines {
    fn show(&mut self, elapsed: Duration, meters: &Meters) {
        let reading = meters.read();
        if let Some(rates) = self.last.due(elapsed, reading, LINE_PERIOD) {
            let of = match self.goal {
                Goal::Requests(requests) => format!("{requests} requests"),
                Goal::Time(time) => format!("{:.0} s", time.as_secs_f64()),
            };
            // Nobody can be told that stderr is gone.
            writeln!(
                stderr(),
                "of {of}: {}",
                words(elapsed, reading, rates.events)
            )
            .ok();
        }
    }

    fn close(&mut self) {}
}

impl Last {
    /// What changed since the display before, if it is time for the next.
    pub(super) fn due(
        &mut self,
        elapsed: Duration,
        reading: Reading,
        period: Duration,
    ) -> Option<Rates> {
        let since = elapsed
            .checked_sub(self.elapsed)
            .filter(|since| *since >= period)?;
        let by_second =
            |now: u64, before: u64| now.saturating_sub(before) as f64 / since.as_secs_f64();
        let rates = Rates {
            requests: by_second(over(&reading), over(&self.reading)),
            events: by_second(reading.events, self.reading.events),
            tokens: by_second(reading.tokens, self.reading.tokens),
        };
        *self = Self { elapsed, reading };
        Some(rates)
    }
}

/// Requests that are over.
fn over(reading: &Reading) -> u64 {
    reading.good + reading.failed + reading.aborted
}

fn words(elapsed: Duration, reading: Reading, rate: f64) -> String {
    let Reading {
        in_flight,
        good,
        failed,
        ..
    } = reading;
    let elapsed = elapsed.as_secs_f64();
    format!(
        "{elapsed:.0} s  {good} good  {failed} failed  {in_flight} in flight  {rate:.0} events/s"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_since_the_display_before() {
        let mut last = Last::default();
        let at = |events| Reading {
            events,
            ..Reading::default()
        };
        let second = Duration::from_secs(1);
        let events = |rates: Option<Rates>| rates.map(|rates| rates.events);
        assert_eq!(events(last.due(second, at(100), second)), Some(100.0));
        assert_eq!(last.due(second * 3 / 2, at(150), second), None);
        assert_eq!(events(last.due(second * 3, at(500), second)), Some(200.0));
    }

    #[test]
    fn a_run_is_never_more_than_done() {
        let reading = Reading {
            good: 30,
            failed: 10,
            aborted: 20,
            ..Reading::default()
        };
        assert_eq!(Goal::Requests(120).part(Duration::ZERO, &reading), 0.5);
        assert_eq!(Goal::Requests(0).part(Duration::ZERO, &reading), 0.0);
        assert_eq!(
            Goal::Time(Duration::from_secs(2)).part(Duration::from_secs(9), &reading),
            1.0
        );
    }
}
