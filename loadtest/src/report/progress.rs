//! How far a run is, on stderr: a bar on a terminal, a line every few seconds elsewhere.

use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::drive::meters::Reading;
use crate::watch::Progress;

/// Time between two lines where there is no terminal.
const LINE_PERIOD: Duration = Duration::from_secs(5);

/// Time between two updates of the bar.
const BAR_PERIOD: Duration = Duration::from_millis(200);

/// What the end of a run is measured by.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// A number of requests.
    Requests(u64),
    /// A time.
    Time(Duration),
}

/// The display that suits where stderr leads.
pub fn display(goal: Goal) -> Box<dyn Progress> {
    let last = Last::default();
    if stderr().is_terminal() {
        Box::new(Bar::new(goal, last))
    } else {
        Box::new(Lines { goal, last })
    }
}

struct Bar {
    bar: ProgressBar,
    goal: Goal,
    last: Last,
}

struct Lines {
    goal: Goal,
    last: Last,
}

/// The display before, for rates.
#[derive(Debug, Clone, Copy, Default)]
struct Last {
    elapsed: Duration,
    events: u64,
}

impl Bar {
    fn new(goal: Goal, last: Last) -> Self {
        let length = match goal {
            Goal::Requests(requests) => requests,
            Goal::Time(time) => millis(time),
        };
        let style = ProgressStyle::with_template("{bar:24} {percent:>3} %  {msg}");
        let bar = ProgressBar::new(length)
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, goal, last }
    }
}

impl Progress for Bar {
    fn show(&mut self, elapsed: Duration, reading: Reading) {
        if let Some(rate) = self.last.due(elapsed, reading, BAR_PERIOD) {
            self.bar.set_position(match self.goal {
                Goal::Requests(_) => reading.good + reading.failed + reading.aborted,
                Goal::Time(_) => millis(elapsed),
            });
            self.bar.set_message(words(elapsed, reading, rate));
        }
    }

    fn close(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Lines {
    fn show(&mut self, elapsed: Duration, reading: Reading) {
        if let Some(rate) = self.last.due(elapsed, reading, LINE_PERIOD) {
            let of = match self.goal {
                Goal::Requests(requests) => format!("{requests} requests"),
                Goal::Time(time) => format!("{:.0} s", time.as_secs_f64()),
            };
            // Nobody can be told that stderr is gone.
            writeln!(stderr(), "of {of}: {}", words(elapsed, reading, rate)).ok();
        }
    }

    fn close(&mut self) {}
}

impl Last {
    /// Events per second since the display before, if it is time for the next.
    fn due(&mut self, elapsed: Duration, reading: Reading, period: Duration) -> Option<f64> {
        let since = elapsed
            .checked_sub(self.elapsed)
            .filter(|since| *since >= period)?;
        let rate = reading.events.saturating_sub(self.events) as f64 / since.as_secs_f64();
        *self = Self {
            elapsed,
            events: reading.events,
        };
        Some(rate)
    }
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

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
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
        assert_eq!(last.due(second, at(100), second), Some(100.0));
        assert_eq!(last.due(second * 3 / 2, at(150), second), None);
        assert_eq!(last.due(second * 3, at(500), second), Some(200.0));
    }
}
