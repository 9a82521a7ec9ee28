//! The bounded way out: from the engine's thread, which never waits, to a reader who may be slow or gone.
//!
//! A full channel does not lose events and does not hold the engine: what does not fit stays with the [`Outlet`] and its
//! sequences pause. What is unsent when a submission ends moves to the reader's side of the link, so that an ended
//! submission leaves the engine at once, whatever its reader does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::mpsc::{self, error::TrySendError};

use crate::admissions::Admission;
use crate::api::Event;
use crate::doorbell::Doorbell;
use crate::limits::EVENTS_MAX;
use crate::link::Link;

/// Events of one submission. Dropping it aborts what is not done and frees its KV blocks.
#[derive(Debug)]
pub struct EventStream {
    events: mpsc::Receiver<Event>,
    link: Arc<Link>,
    engine: Doorbell,
}

/// The engine's end.
#[derive(Debug)]
pub(crate) struct Outlet {
    /// `None` once the submission has ended.
    events: Option<mpsc::Sender<Event>>,
    unsent: VecDeque<Event>,
    link: Arc<Link>,
    /// Its seat, given back with it.
    admission: Admission,
}

/// Both ends of a new stream.
pub(crate) fn open(
    link: Arc<Link>,
    admission: Admission,
    engine: Doorbell,
) -> (Outlet, EventStream) {
    let (sender, receiver) = mpsc::channel(EVENTS_MAX);
    let outlet = Outlet {
        events: Some(sender),
        unsent: VecDeque::new(),
        link: Arc::clone(&link),
        admission,
    };
    let stream = EventStream {
        events: receiver,
        link,
        engine,
    };
    (outlet, stream)
}

impl EventStream {
    /// The next event; `None` after the last one. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Event> {
        std::future::poll_fn(|context| self.poll_recv(context)).await
    }

    /// [`EventStream::recv`] for those who write a stream.
    pub fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        let event = std::task::ready!(self.events.poll_recv(context));
        Poll::Ready(event.map_or_else(|| self.link.tail().pop_front(), |e| Some(self.took(e))))
    }

    /// Wakes the engine for sequences that wait for this reader, once half of the channel is free.
    fn took(&self, event: Event) -> Event {
        if self.events.len() <= EVENTS_MAX / 2 && self.link.take_waiting() {
            self.engine.ring();
        }
        event
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.link.cancel();
        // The sender is gone where the submission has ended: nothing is left to wake the engine for.
        if !self.events.is_closed() {
            self.engine.ring();
        }
    }
}

impl Outlet {
    /// Sends an event, or keeps it until the reader has caught up.
    pub(crate) fn send(&mut self, event: Event) {
        self.unsent.push_back(event);
        self.flush();
    }

    /// Notes that its first token is there.
    pub(crate) fn is_prefilled(&mut self) {
        self.admission.is_prefilled();
    }

    /// Sends what was kept, as far as there is room.
    pub(crate) fn flush(&mut self) {
        self.flush_once();
        if self.is_behind() {
            // The reader may have emptied the channel before it could see the flag: look again after setting it.
            self.link.wait();
            self.flush_once();
        }
    }

    fn flush_once(&mut self) {
        let Some(events) = &self.events else { return };
        while let Some(event) = self.unsent.pop_front() {
            match events.try_send(event) {
                Ok(()) => {}
                Err(TrySendError::Full(event)) => return self.unsent.push_front(event),
                Err(TrySendError::Closed(_)) => return self.unsent.clear(),
            }
        }
    }

    /// Whether events wait for the reader.
    pub(crate) fn is_behind(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Whether nobody wants the answer any more.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.link.is_cancelled()
    }

    /// Ends the stream with its last event, which needs no room in the channel. A second end changes nothing.
    pub(crate) fn end(&mut self, last: Event) {
        if self.events.is_none() {
            return;
        }
        self.flush_once();
        self.unsent.push_back(last);
        self.link.tail().append(&mut self.unsent);
        self.events = None;
    }
}
