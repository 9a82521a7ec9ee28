//! How long a gateway may use what it has on lease, and what it does for whom when it may not.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a tenant gets while the store is away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreAway {
    /// Nothing, from the first round that fails.
    Closed,
    /// What is on lease, as long as the lease holds.
    #[default]
    Safe,
    /// And so many tokens in a minute beyond that, at each gateway.
    Open(u64),
}

/// The holder's side of a lease's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    ttl: Duration,
    /// When the last round that succeeded had begun.
    confirmed: Option<Duration>,
    away: bool,
}

impl Term {
    /// Before the first round: nothing holds yet.
    #[must_use]
    pub const fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            confirmed: None,
            away: false,
        }
    }

    /// A round that began at `began` succeeded. From then on counts the store's silence, not from when the answer came.
    pub fn confirm(&mut self, began: Duration) {
        self.confirmed = self.confirmed.max(Some(began));
        self.away = false;
    }

    /// A round failed.
    pub const fn fail(&mut self) {
        self.away = true;
    }

    /// Whether what is on lease may be used: for two thirds of the ttl. The rest is for the clocks and for whoever judges
    /// that it is over.
    #[must_use]
    pub fn holds(&self, now: Duration) -> bool {
        let until = |began: Duration| began.saturating_add(self.ttl * 2 / 3);
        self.confirmed.is_some_and(|began| now < until(began))
    }

    /// Whether the last round failed.
    #[must_use]
    pub const fn is_away(&self) -> bool {
        self.away
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_used_for_two_thirds_of_its_time_from_when_its_round_began() {
        let s = Duration::from_secs;
        let mut term = Term::new(s(6));
        assert!(!term.holds(s(0)));
        term.confirm(s(10));
        assert!(term.holds(s(13)) && !term.holds(s(14)));
        // An answer to an earlier round that comes late changes nothing.
        term.confirm(s(9));
        assert!(term.holds(s(13)) && !term.holds(s(14)));
        term.fail();
        assert!(term.holds(s(13)) && term.is_away());
        term.confirm(s(20));
        assert!(term.holds(s(23)) && !term.is_away());
    }
}
