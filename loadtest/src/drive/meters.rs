//! Counts that change while a run goes on, for the live view and the self-check. Written by the event loop, read by
//! the watcher's thread; never the source of a reported figure but for the number in flight.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::record::{Record, View};
use super::verdict::Verdict;
use crate::limits::{MAX_GROUPS, RECENT};

/// Live counts of a run.
#[derive(Debug, Default)]
pub struct Meters {
    in_flight: AtomicU64,
    good: AtomicU64,
    failed: AtomicU64,
    aborted: AtomicU64,
    events: AtomicU64,
    thinking: AtomicU64,
    tokens: AtomicU64,
    /// Held for a push or a copy; the event loop never waits for a display.
    recent: Mutex<Recent>,
}

/// What the last good requests were like, and where requests went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recent {
    /// Times to first token in microseconds, response view, of the last [`RECENT`] good requests.
    pub ttft_us: VecDeque<u64>,
    /// Times per output token in microseconds of the same.
    pub tpot_us: VecDeque<u64>,
    /// Requests so far by the site that answered.
    pub sites: BTreeMap<Arc<str>, u64>,
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
    /// Output tokens of good requests.
    pub tokens: u64,
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
    pub fn judged(&self, record: &Record) {
        let count = match record.verdict {
            Verdict::Good => &self.good,
            Verdict::Failed(_) => &self.failed,
            Verdict::Aborted => &self.aborted,
        };
        count.fetch_add(1, Relaxed);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.note_site(record);
        if record.verdict == Verdict::Good {
            let tokens = record.usage.map_or(0, |usage| usage.completion_tokens);
            self.tokens.fetch_add(tokens, Relaxed);
            keep(&mut recent.ttft_us, record.ttft_us(View::Response));
            keep(&mut recent.tpot_us, record.tpot_us());
        }
    }

    /// What the last requests were like.
    pub fn recent(&self) -> Recent {
        let recent = self.recent.lock();
        recent.unwrap_or_else(PoisonError::into_inner).clone()
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
            tokens: self.tokens.load(Relaxed),
        }
    }
}

impl Recent {
    fn note_site(&mut self, record: &Record) {
        let Some(site) = &record.labels.site else {
            return;
        };
        if let Some(count) = self.sites.get_mut(site) {
            *count += 1;
        } else {
            let name = if self.sites.len() < MAX_GROUPS {
                site.clone()
            } else {
                "other".into()
            };
            *self.sites.entry(name).or_default() += 1;
        }
    }
}

/// Adds a value and forgets the oldest beyond the bound.
fn keep(values: &mut VecDeque<u64>, value: Option<u64>) {
    values.extend(value);
    if values.len() > RECENT {
        values.pop_front();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::record::tests::record;

    #[test]
    fn the_last_requests_are_kept_and_no_more() {
        let meters = Meters::default();
        for at in 0..RECENT + 10 {
            let mut record = record();
            record.labels.site = Some(["lumi", "bsc"][at % 2].into());
            meters.judged(&record);
        }
        let recent = meters.recent();
        assert_eq!(
            (recent.ttft_us.len(), recent.tpot_us.len()),
            (RECENT, RECENT)
        );
        assert_eq!(recent.sites.values().sum::<u64>(), (RECENT + 10) as u64);
        assert_eq!(meters.read().tokens, 10 * (RECENT + 10) as u64);
    }
}
