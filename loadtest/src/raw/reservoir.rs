//! A sample of a run in which each request is as likely as any other, however many there are (algorithm R of Vitter,
//! 1985).

use crate::drive::record::Record;
use crate::rng::{SplitMix64, mix};

/// The sample so far.
#[derive(Debug)]
pub struct Reservoir {
    room: usize,
    seen: u64,
    kept: Vec<Record>,
    rng: SplitMix64,
}

impl Reservoir {
    /// An empty sample with room for so many requests.
    pub fn new(room: u64, seed: u64) -> Self {
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        Self {
            room,
            seen: 0,
            kept: Vec::new(),
            rng: SplitMix64::new(mix(seed)),
        }
    }

    /// Takes a request, or leaves it.
    pub(super) fn take(&mut self, record: &Record) {
        self.seen += 1;
        if self.kept.len() < self.room {
            self.kept.push(record.clone());
            return;
        }
        let at = usize::try_from(self.rng.next_u64() % self.seen).unwrap_or(usize::MAX);
        if let Some(place) = self.kept.get_mut(at) {
            place.clone_from(record);
        }
    }

    /// Requests that it was drawn from.
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    /// Those that were kept.
    pub(super) fn into_kept(self) -> Vec<Record> {
        self.kept
    }
}
