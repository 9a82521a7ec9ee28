//! How others reach an engine: submissions through a bounded channel, everything else by ringing.
//!
//! A ring says "look around": something was cancelled, a reader caught up, a drain began. Rings that were not heard yet
//! count once. The channel has a slot for each seat, so it never overflows. One thread may sleep before many doors, so
//! whoever knocks wakes it by its [`Alarm`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::Thread;

use crate::request::Request;

/// The outside of the door. The engine ends when the last clone is gone.
#[derive(Debug, Clone)]
pub(crate) struct Doorbell {
    // Dropped before the waker, so that a thread which is woken by it finds the channel closed.
    submissions: SyncSender<Box<Request>>,
    rung: Arc<AtomicBool>,
    waker: Alarm,
}

/// The inside of the door.
#[derive(Debug)]
pub(crate) struct Door {
    /// Submissions in order.
    pub(crate) submissions: Receiver<Box<Request>>,
    rung: Arc<AtomicBool>,
}

/// Wakes the thread of a device, also when it is dropped: what ended with it may be all that the thread waits for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Alarm(Option<Thread>);

impl Alarm {
    /// Wakes `thread`.
    pub(crate) fn of(thread: Thread) -> Self {
        Self(Some(thread))
    }

    /// Ends the thread's sleep, or the next one where it does not sleep.
    pub(crate) fn wake(&self) {
        if let Some(thread) = &self.0 {
            thread.unpark();
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.wake();
    }
}

/// A door for as many submissions as there are `seats`.
pub(crate) fn door(seats: usize, waker: Alarm) -> (Doorbell, Door) {
    let (submissions, receiver) = mpsc::sync_channel(seats);
    let rung = Arc::new(AtomicBool::new(false));
    let bell = Doorbell {
        submissions,
        rung: Arc::clone(&rung),
        waker,
    };
    let door = Door {
        submissions: receiver,
        rung,
    };
    (bell, door)
}

impl Doorbell {
    /// Hands a submission over. False where the engine is gone; the request then ends as it is dropped.
    pub(crate) fn submit(&self, request: Box<Request>) -> bool {
        let taken = self.submissions.try_send(request).is_ok();
        self.waker.wake();
        taken
    }

    /// Makes the engine look around.
    pub(crate) fn ring(&self) {
        if !self.rung.swap(true, Ordering::SeqCst) {
            self.waker.wake();
        }
    }
}

impl Door {
    /// Whether it rang since the last call.
    pub(crate) fn take_ring(&self) -> bool {
        self.rung.swap(false, Ordering::SeqCst)
    }
}
