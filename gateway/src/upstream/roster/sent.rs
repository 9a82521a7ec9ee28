//! A request on its way, until the router knows how it ended.

use std::sync::Arc;

use super::Inner;
use crate::route::{End, Ticket};
use crate::upstream::{UpstreamError, UpstreamErrorKind};

/// A request that was sent. Its end is told to the router whatever happens (I10).
pub(in crate::upstream) struct Sent {
    roster: Arc<Inner>,
    ticket: Option<Ticket>,
}

impl Sent {
    /// One of `roster`, which the router knows by `ticket`.
    pub(super) fn new(roster: &Arc<Inner>, ticket: Ticket) -> Self {
        Self {
            roster: Arc::clone(roster),
            ticket: Some(ticket),
        }
    }

    /// The first content came, or all of it at once where it came `whole`; the candidate has served what hashes to `seen`
    /// by now.
    pub(in crate::upstream) fn first_content(&mut self, seen: &[u64], whole: bool) {
        let now = self.roster.clock.now();
        let Some(ticket) = &mut self.ticket else {
            return;
        };
        let mut state = self.roster.state();
        match whole {
            true => state.router.answered(ticket, seen, now),
            false => state.router.first_content(ticket, seen, now),
        }
    }

    /// Seconds after which the first content was expected.
    pub(in crate::upstream) fn expected_s(&self) -> f64 {
        self.ticket.as_ref().map_or(0.0, Ticket::expected_s)
    }

    /// It is over.
    pub(in crate::upstream) fn end(&mut self, end: End) {
        if let Some(ticket) = self.ticket.take() {
            let now = self.roster.clock.now();
            self.roster.state().router.ended(ticket, end, now);
        }
    }

    /// It is over by this error.
    pub(in crate::upstream) fn fail(&mut self, error: &UpstreamError) {
        use UpstreamErrorKind as Kind;
        self.end(match error.kind {
            Kind::Overloaded | Kind::NotReady | Kind::ShuttingDown | Kind::DeadlineExceeded => {
                End::Overloaded(None)
            }
            Kind::Unreachable | Kind::TimedOut | Kind::Internal => End::Failed,
            _ => End::Left,
        });
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        // Who was not told otherwise lost its client, or a race.
        self.end(End::Left);
    }
}
