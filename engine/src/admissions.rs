//! Who is inside: seats for sequences, prompt tokens that wait, and submissions by id so that they can be aborted.
//!
//! The count is taken before a submission crosses to the engine's thread, so a full engine refuses at once and its queues
//! are bounded by construction (I6). A seat is given back by dropping its guard, whatever ended the submission (I10).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::link::Link;

/// Sequences in flight, running or in line.
#[derive(Debug)]
pub(crate) struct Admissions {
    seats_max: u32,
    tokens_max: u64,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    seats_taken: u32,
    /// Prompt tokens of submissions that have produced nothing yet.
    tokens_waiting: u64,
    links: HashMap<Arc<str>, Arc<Link>>,
}

/// Seats of one submission.
#[derive(Debug)]
pub(crate) struct Admission {
    admissions: Arc<Admissions>,
    id: Arc<str>,
    link: Arc<Link>,
    seats: u32,
    tokens: u64,
}

impl Admissions {
    /// Room for `seats_max` sequences, and for `tokens_max` prompt tokens that wait.
    pub(crate) fn new(seats_max: u32, tokens_max: u64) -> Arc<Self> {
        Arc::new(Self {
            seats_max,
            tokens_max,
            inside: Mutex::default(),
        })
    }

    /// Takes `seats` seats and room for `tokens` prompt tokens, which nobody is refused who is alone; `None` where there
    /// is no room.
    pub(crate) fn admit(
        self: &Arc<Self>,
        id: &Arc<str>,
        link: &Arc<Link>,
        seats: u32,
        tokens: u64,
    ) -> Option<Admission> {
        let mut inside = self.inside();
        if seats > self.seats_max - inside.seats_taken {
            return None;
        }
        let waiting = inside.tokens_waiting;
        if waiting > 0 && waiting.saturating_add(tokens) > self.tokens_max {
            return None;
        }
        inside.seats_taken += seats;
        inside.tokens_waiting += tokens;
        inside.links.insert(Arc::clone(id), Arc::clone(link));
        Some(Admission {
            admissions: Arc::clone(self),
            id: Arc::clone(id),
            link: Arc::clone(link),
            seats,
            tokens,
        })
    }

    /// Marks a submission as cancelled; false where there is none of that id.
    pub(crate) fn cancel(&self, id: &str) -> bool {
        let inside = self.inside();
        let link = inside.links.get(id);
        link.inspect(|link| link.cancel()).is_some()
    }

    /// Seats in all.
    pub(crate) fn seats_max(&self) -> u32 {
        self.seats_max
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admission {
    /// Gives the room of the prompt back: it waits no more.
    pub(crate) fn is_prefilled(&mut self) {
        if self.tokens > 0 {
            self.admissions.inside().tokens_waiting -= std::mem::take(&mut self.tokens);
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut inside = self.admissions.inside();
        inside.seats_taken -= self.seats;
        inside.tokens_waiting -= self.tokens;
        // An id that was used twice belongs to the later submission.
        if inside
            .links
            .get(&self.id)
            .is_some_and(|link| Arc::ptr_eq(link, &self.link))
        {
            inside.links.remove(&self.id);
        }
    }
}
