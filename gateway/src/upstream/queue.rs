//! Requests that wait at this server since every candidate has a line of its own: who is called when.
//!
//! A line is kept here rather than there, since here it can be put in order and each request goes to who is free first.
//! [`crate::fairness`] says whose turn it is; the one whose turn it is looks whether there is room, lets the next one look,
//! and there is no task. Only the first server of a request does this, and only where it has a choice.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::fairness::{Claim, Full, Line, Waiter};
use crate::telemetry::Metrics;

/// The lines of all models of a server.
#[derive(Debug)]
pub(super) struct Queue {
    /// Requests of one model at most; 0 where nobody waits here.
    max: usize,
    /// Over all models: whoever comes while it is 0 need not look any further.
    waiting: AtomicUsize,
    rooms: Mutex<HashMap<Arc<str>, Room>>,
    clock: Clock,
    metrics: Metrics,
}

/// Where the requests for one model wait.
#[derive(Debug)]
struct Room {
    line: Line,
    /// How each of them is called.
    calls: HashMap<Waiter, oneshot::Sender<Call>>,
    /// Whose turn it is.
    called: Option<Waiter>,
}

/// What a request that waits is told.
#[derive(Debug)]
enum Call {
    Turn,
    /// It gives way to another and is refused.
    GiveWay,
}

/// A request's seat while it waits. Dropping it leaves the line.
#[derive(Debug)]
pub(super) struct Seat<'q> {
    queue: &'q Queue,
    model: &'q Arc<str>,
    waiter: Waiter,
    call: oneshot::Receiver<Call>,
}

impl Queue {
    /// Lines of at most `max` requests for each model.
    pub(super) fn new(max: u32, clock: Clock, metrics: Metrics) -> Self {
        Self {
            max: max as usize,
            waiting: AtomicUsize::new(0),
            rooms: Mutex::default(),
            clock,
            metrics,
        }
    }

    /// Whether requests wait here at all.
    pub(super) const fn is_kept(&self) -> bool {
        self.max > 0
    }

    /// Whether nobody waits for `model`.
    pub(super) fn is_empty(&self, model: &str) -> bool {
        self.waiting() == 0 || self.rooms().get(model).is_none_or(|r| r.line.is_empty())
    }

    /// Requests that wait, over all models.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Takes a seat in the line for `model`.
    ///
    /// # Errors
    /// [`Full`] where there is none, and nobody has to give way.
    pub(super) fn join<'q>(&'q self, model: &'q Arc<str>, claim: Claim) -> Result<Seat<'q>, Full> {
        let now = self.clock.now();
        let mut rooms = self.rooms();
        let room = rooms.entry(Arc::clone(model));
        let room = room.or_insert_with(|| Room::new(self.max));
        let (waiter, gone) = room.line.join(claim, now)?;
        let (sender, call) = oneshot::channel();
        room.calls.insert(waiter, sender);
        if let Some(gone) = gone {
            room.gives_way(gone);
        }
        room.call(now);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.metrics.waits_for_room(1.0);
        Ok(Seat {
            queue: self,
            model,
            waiter,
            call,
        })
    }

    /// Lets whoever is first for `model` look, unless somebody does.
    pub(super) fn look(&self, model: &str) {
        if let Some(room) = self.rooms().get_mut(model) {
            room.call(self.clock.now());
        }
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<Arc<str>, Room>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room {
    fn new(max: usize) -> Self {
        Self {
            line: Line::new(max),
            calls: HashMap::new(),
            called: None,
        }
    }

    /// Calls the first one, unless somebody has the turn.
    fn call(&mut self, now: Duration) {
        if self.called.is_some() {
            return;
        }
        let Some(first) = self.line.first(now) else {
            return;
        };
        if let Some(call) = self.calls.remove(&first) {
            self.called = Some(first);
            // Whoever does not hear it any more leaves its seat, which calls the next one.
            let _ = call.send(Call::Turn);
        }
    }

    /// The line has let go of one that it needs the place of.
    fn gives_way(&mut self, gone: Waiter) {
        if let Some(call) = self.calls.remove(&gone) {
            let _ = call.send(Call::GiveWay);
        }
        if self.called == Some(gone) {
            self.called = None;
        }
    }
}

impl Seat<'_> {
    /// Waits for its turn.
    ///
    /// # Errors
    /// [`Full`] where it has to give way.
    pub(super) async fn turn(&mut self) -> Result<(), Full> {
        match (&mut self.call).await {
            Ok(Call::Turn) => Ok(()),
            Ok(Call::GiveWay) | Err(_) => Err(Full),
        }
    }

    /// Gives its turn up: to whoever is first now, or to others until `aside` where there was room for others alone.
    pub(super) fn pass(&mut self, aside: Option<Duration>) {
        let now = self.queue.clock.now();
        let mut rooms = self.queue.rooms();
        let Some(room) = rooms.get_mut(self.model) else {
            return;
        };
        let (sender, call) = oneshot::channel();
        self.call = call;
        if room.called != Some(self.waiter) {
            // It gave way meanwhile; the call says so, since nobody will answer it.
            return;
        }
        room.calls.insert(self.waiter, sender);
        if let Some(until) = aside {
            room.line.aside(self.waiter, until);
        }
        room.called = None;
        room.call(now);
    }

    /// It is on its way: the next one may look.
    pub(super) fn enter(self) {
        let mut rooms = self.queue.rooms();
        if let Some(room) = rooms.get_mut(self.model) {
            room.line.enter(self.waiter);
        }
        // Its own drop calls the next one.
        drop(rooms);
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.queue.waiting.fetch_sub(1, Ordering::Relaxed);
        self.queue.metrics.waits_for_room(-1.0);
        let mut rooms = self.queue.rooms();
        let Some(room) = rooms.get_mut(self.model) else {
            return;
        };
        room.calls.remove(&self.waiter);
        // It may have entered, or given way.
        room.line.leave(self.waiter);
        if room.called == Some(self.waiter) {
            room.called = None;
            room.call(self.queue.clock.now());
        }
        if room.line.is_empty() {
            rooms.remove(self.model);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::fairness::Class;

    fn claim(class: Class, flow: u64) -> Claim {
        Claim {
            class,
            flow,
            cost: 1,
        }
    }

    fn of(max: u32) -> Queue {
        Queue::new(max, Clock::system(), Metrics::new().unwrap())
    }

    fn has_turn(seat: &mut Seat<'_>) -> Option<Result<(), Full>> {
        seat.turn().now_or_never()
    }

    #[test]
    fn one_at_a_time_looks_and_the_next_one_does_when_it_is_gone() {
        let (queue, model) = (of(10), Arc::from("m"));
        let join = |flow| queue.join(&model, claim(Class::Interactive, flow)).unwrap();
        let (mut one, mut other, mut third) = (join(1), join(2), join(3));
        assert_eq!(has_turn(&mut one), Some(Ok(())));
        assert_eq!(has_turn(&mut other), None);
        one.enter();
        assert_eq!(has_turn(&mut other), Some(Ok(())));
        // A client leaves while it is its turn.
        drop(other);
        assert_eq!(has_turn(&mut third), Some(Ok(())));
        assert!(!queue.is_empty("m"));
        third.enter();
        assert!(queue.is_empty("m") && queue.waiting() == 0);
        assert!(queue.rooms().is_empty());
    }

    #[test]
    fn who_finds_no_room_lets_a_better_claim_look_first() {
        let (queue, model) = (of(10), Arc::from("m"));
        let mut batch = queue.join(&model, claim(Class::Batch, 1)).unwrap();
        assert_eq!(has_turn(&mut batch), Some(Ok(())));
        let mut interactive = queue.join(&model, claim(Class::Interactive, 2)).unwrap();
        assert_eq!(has_turn(&mut interactive), None);
        batch.pass(None);
        assert_eq!(has_turn(&mut interactive), Some(Ok(())));
        assert_eq!(has_turn(&mut batch), None);
        // There was room, but not where this one may go.
        interactive.pass(Some(Duration::from_secs(1_000_000)));
        assert_eq!(has_turn(&mut batch), Some(Ok(())));
    }

    #[test]
    fn who_gives_way_is_told_even_in_its_turn() {
        let (queue, model) = (of(2), Arc::from("m"));
        let join = |class, flow| queue.join(&model, claim(class, flow));
        let mut first = join(Class::Batch, 1).unwrap();
        assert_eq!(has_turn(&mut first), Some(Ok(())));
        let mut second = join(Class::Batch, 1).unwrap();
        let mut third = join(Class::Interactive, 2).unwrap();
        assert_eq!(has_turn(&mut second), Some(Err(Full)));
        let _fourth = join(Class::Interactive, 3).unwrap();
        assert_eq!(has_turn(&mut third), Some(Ok(())));
        first.pass(None);
        assert_eq!(has_turn(&mut first), Some(Err(Full)));
        assert!(join(Class::Interactive, 2).is_err());
    }
}
