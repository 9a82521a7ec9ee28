//! How others reach the engine's thread: submissions through a bounded channel, everything else by ringing.
//!
//! A ring says "look around": something was cancelled, a reader caught up, a drain began. Rings that were not heard yet
//! count once. Between two times that the engine empties the channel it listens once, so at most two rings lie there beside
//! one submission a seat, and the channel never overflows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};

use crate::request::Request;

/// What the engine's thread is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Serve this.
    Submit(Box<Request>),
    /// Look around.
    Wake,
}

/// The outside of the door. The engine's thread ends when the last clone is gone.
#[derive(Debug, Clone)]
pub(crate) struct Doorbell {
    commands: SyncSender<Command>,
    rung: Arc<AtomicBool>,
}

/// The inside of the door.
#[derive(Debug)]
pub(crate) struct Door {
    /// Submissions and rings in order.
    pub(crate) commands: Receiver<Command>,
    rung: Arc<AtomicBool>,
}

/// A door for as many submissions as there are `seats`.
pub(crate) fn door(seats: usize) -> (Doorbell, Door) {
    let (sender, receiver) = mpsc::sync_channel(seats + 2);
    let rung = Arc::new(AtomicBool::new(false));
    let bell = Doorbell {
        commands: sender,
        rung: Arc::clone(&rung),
    };
    let door = Door {
        commands: receiver,
        rung,
    };
    (bell, door)
}

impl Doorbell {
    /// Hands a submission over. False where the engine's thread is gone; the request then ends as it is dropped.
    pub(crate) fn submit(&self, request: Box<Request>) -> bool {
        self.commands.try_send(Command::Submit(request)).is_ok()
    }

    /// Makes the engine look around.
    pub(crate) fn ring(&self) {
        if !self.rung.swap(true, Ordering::SeqCst) {
            // A full channel wakes the engine as well, and it looks at the flag, not at the command.
            let _ = self.commands.try_send(Command::Wake);
        }
    }
}

impl Door {
    /// Whether it rang since the last call.
    pub(crate) fn take_ring(&self) -> bool {
        self.rung.swap(false, Ordering::SeqCst)
    }
}
