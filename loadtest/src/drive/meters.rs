//! Counts that change while a run goes on, for the progress bar and the self-check. Written by the event loop, read by
//! the watcher's thread; never the source of a reported figure but for the number in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::verdict::Verdict;

/// Live counts of a run.
#[derive(Debug, Default)]
pub struct Meters {
    in_flight: AtomicU64,
    good: AtomicU64,
    failed: AtomicU64,
    aborted: AtomicU64,
    events: AtomicU64,
    thinking: AtomicU64,
}

/// The counts at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// Requests sent and not over.
    pub in_flight: u64,
    /// Requests judged good.
    pub good: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests that the client gave up, as it was told to.
    pub aborted: u64,
    /// Content events received.
    pub events: u64,
    /// Users that think before their next request.
    pub thinking: u64,
}

/// Keeps a request in the number in flight until it is dropped.
#[derive(Debug)]
pub struct InFlight(Arc<Meters>);

/// Keeps a user in the number of those who think until it is dropped.
#[derive(Debug)]
pub struct Thinking(Arc<Meters>);

impl Meters {
    /// A request begins.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        InFlight(self.clone())
    }

    /// A user begins to think.
    pub fn think(self: &Arc<Self>) -> Thinking {
        self.thinking.fetch_add(1, Relaxed);
        Thinking(self.clone())
    }

    /// A request has been judged.
    pub fn judged(&self, verdict: &Verdict) {
        let count = match verdict {
            Verdict::Good => &self.good,
            Verdict::Failed(_) => &self.failed,
            Verdict::Aborted => &self.aborted,
        };
        count.fetch_add(1, Relaxed);
    }

    /// Content has come.
    pub fn add_events(&self, events: usize) {
        self.events.fetch_add(events as u64, Relaxed);
    }

    /// The counts now.
    pub fn read(&self) -> Reading {
        Reading {
            in_flight: self.in_flight.load(Relaxed),
            good: self.good.load(Relaxed),
            failed: self.failed.load(Relaxed),
            aborted: self.aborted.load(Relaxed),
            events: self.events.load(Relaxed),
            thinking: self.thinking.load(Relaxed),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

impl Drop for Thinking {
    fn drop(&mut self) {
        self.0.thinking.fetch_sub(1, Relaxed);
    }
}
