//! Keeps the schedule: a thread of its own sleeps until each due time and hands the request over. It shares nothing with
//! the event loop but a bounded queue, so a busy loop makes requests late, which is measured, and never moves them.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;

use super::arrival::Schedule;
use crate::clock::{Clock, Nanos};
use crate::limits::DISPATCH_QUEUE;

/// The running thread.
#[derive(Debug)]
pub struct Dispatcher {
    thread: JoinHandle<()>,
    /// Dropping it wakes the thread from its sleep.
    stop: SyncSender<()>,
}

impl Dispatcher {
    /// Starts to hand over the indices of `schedule`, each when `began` plus its due time has come.
    /// The queue closes after the last one.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(
        schedule: Arc<Schedule>,
        clock: Clock,
        began: Nanos,
    ) -> io::Result<(Self, mpsc::Receiver<u64>)> {
        let (queue, due) = mpsc::channel(DISPATCH_QUEUE);
        let (stop, stopped) = sync_channel(0);
        let thread = std::thread::Builder::new()
            .name("dispatcher".to_owned())
            .spawn(move || dispatch(&schedule, clock, began, &queue, &stopped))?;
        Ok((Self { thread, stop }, due))
    }

    /// Ends the thread, whose queue must have been drained or dropped.
    pub fn finish(self) {
        drop(self.stop);
        // A panic of the thread closed its queue; the arrivals it left are counted as not reached.
        self.thread.join().ok();
    }
}

fn dispatch(
    schedule: &Schedule,
    clock: Clock,
    began: Nanos,
    queue: &mpsc::Sender<u64>,
    stopped: &Receiver<()>,
) {
    for (index, after) in schedule.due().iter().enumerate() {
        let wait = (began + after).saturating_sub(clock.now());
        if wait > 0 {
            match stopped.recv_timeout(Duration::from_nanos(wait)) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        if queue.blocking_send(index as u64).is_err() {
            return;
        }
    }
}
