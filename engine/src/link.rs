//! What the engine and the reader of a submission both see, beside the channel between them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::api::Event;

/// Flags of both ends, and the last events.
#[derive(Debug, Default)]
pub(crate) struct Link {
    /// Nobody wants the answer any more.
    cancelled: AtomicBool,
    /// The engine waits for the channel to drain.
    waiting: AtomicBool,
    /// The last events, after those of the channel.
    tail: Mutex<VecDeque<Event>>,
}

impl Link {
    /// Asks the engine to stop; the caller rings.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
    }

    /// Whether nobody wants the answer any more.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Notes that the engine waits for the reader.
    pub(crate) fn wait(&self) {
        self.waiting.store(true, Ordering::SeqCst);
    }

    /// Whether the engine waited for the reader; it does so no more.
    pub(crate) fn take_waiting(&self) -> bool {
        self.waiting.swap(false, Ordering::SeqCst)
    }

    /// The events that follow those of the channel.
    pub(crate) fn tail(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
