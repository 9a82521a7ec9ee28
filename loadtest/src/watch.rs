//! Looks at a run from a thread of its own: samples the number of requests in flight, apart from the stamps that the
//! requests take themselves, and feeds the progress display. What it does cannot delay the event loop.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::{Clock, Nanos};
use crate::drive::meters::Meters;
use crate::limits::WATCH_PERIOD;

/// Shows how far a run is.
pub trait Progress: Send {
    /// Called every few milliseconds.
    fn show(&mut self, elapsed: Duration, meters: &Meters);
    /// Called once, at the end.
    fn close(&mut self);
}

/// The running thread.
#[derive(Debug)]
pub struct Watcher {
    thread: JoinHandle<Watched>,
    /// Dropping it ends the thread.
    stop: SyncSender<()>,
}

/// What was seen.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Watched {
    /// Mean number of requests in flight over time.
    pub mean_in_flight: f64,
    /// Samples it is made of.
    pub samples: u64,
}

impl Watcher {
    /// Begins to watch.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(
        clock: Clock,
        meters: Arc<Meters>,
        progress: Box<dyn Progress>,
    ) -> io::Result<Self> {
        let (stop, stopped) = sync_channel(0);
        let thread = std::thread::Builder::new()
            .name("watcher".to_owned())
            .spawn(move || watch(clock, &meters, progress, &stopped))?;
        Ok(Self { thread, stop })
    }

    /// Ends the watching and says what was seen; nothing, if the display panicked.
    pub fn finish(self) -> Watched {
        drop(self.stop);
        self.thread.join().unwrap_or_default()
    }
}

fn watch(
    clock: Clock,
    meters: &Meters,
    mut progress: Box<dyn Progress>,
    stopped: &Receiver<()>,
) -> Watched {
    let began = clock.now();
    let mut area = Area {
        at: began,
        ..Area::default()
    };
    loop {
        let over = stopped.recv_timeout(WATCH_PERIOD) != Err(RecvTimeoutError::Timeout);
        let now = clock.now();
        area.sample(now, meters.read().in_flight);
        progress.show(Duration::from_nanos(now.saturating_sub(began)), meters);
        if over {
            progress.close();
            return area.watched(began);
        }
    }
}

/// The integral of a number over time, by trapezoids.
#[derive(Debug, Default)]
struct Area {
    at: Nanos,
    last: u64,
    doubled: u128,
    samples: u64,
}

impl Area {
    fn sample(&mut self, now: Nanos, value: u64) {
        let width = now.saturating_sub(self.at);
        self.doubled += u128::from(width) * u128::from(self.last + value);
        self.samples += 1;
        self.at = now;
        self.last = value;
    }

    fn watched(&self, began: Nanos) -> Watched {
        let span = self.at.saturating_sub(began).max(1);
        Watched {
            mean_in_flight: self.doubled as f64 / 2.0 / span as f64,
            samples: self.samples,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_weighted_by_time() {
        let mut area = Area {
            at: 100,
            ..Area::default()
        };
        area.sample(200, 10);
        area.sample(500, 10);
        area.sample(600, 0);
        let watched = area.watched(100);
        assert_eq!(
            watched,
            Watched {
                mean_in_flight: 8.0,
                samples: 3
            }
        );
    }
}
