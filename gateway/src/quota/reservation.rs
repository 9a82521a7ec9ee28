//! One request's hold on quota: open, then settled, voided or abandoned, once, whatever happens to the request.
//!
//! Whoever serves the request carries the guard along. A guard that is dropped open was lost by a bug or a panic, or
//! nobody could tell what was used: then all that was reserved is charged, and nothing silently given back.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::Quota;
use super::amount::Tokens;
use super::charge::{ChargeId, Refusal, Spent};
use super::ledger::Outcome;

/// The hold.
pub struct Reservation {
    quota: Quota,
    charge: ChargeId,
    slip: Slip,
    bound: Tokens,
    state: AtomicU8,
}

/// What the record will say beside figures.
#[derive(Debug, Clone)]
pub struct Slip {
    /// Id of the request, as clients and logs know it.
    pub request: Arc<str>,
    /// What it is for, as the client said.
    pub purpose: Option<Arc<str>>,
}

const OPEN: u8 = 0;
const SETTLED: u8 = 1;
const VOIDED: u8 = 2;
const ABANDONED: u8 = 3;

impl Reservation {
    pub(super) const fn new(quota: Quota, charge: ChargeId, slip: Slip, bound: Tokens) -> Self {
        Self {
            quota,
            charge,
            slip,
            bound,
            state: AtomicU8::new(OPEN),
        }
    }

    /// Its charge.
    #[must_use]
    pub const fn charge(&self) -> ChargeId {
        self.charge
    }

    /// The request got its first content: it no longer waits.
    pub fn started(&self) {
        self.quota.started(self.charge);
    }

    /// Moves the hold to another site, before the request is tried there.
    ///
    /// # Errors
    /// [`Refusal`], and the hold stays where it is: pick another site.
    pub fn move_to(&self, site: &Arc<str>) -> Result<(), Refusal> {
        self.quota.move_to(self.charge, site)
    }

    /// Charges what was used; false where the hold was closed before, which changes nothing.
    pub fn settle(&self, spent: Spent, outcome: Outcome) -> bool {
        let first = self.close(SETTLED);
        if first {
            self.quota.post(self.charge, &self.slip, spent, outcome);
        }
        first
    }

    /// Gives the hold up: nothing was done for the request. False where it was closed before.
    pub fn void(&self) -> bool {
        let first = self.close(VOIDED);
        if first {
            self.quota.void(self.charge);
        }
        first
    }

    /// Charges all that was reserved, where the hold is still open: nobody will say any more what was used.
    pub fn abandon(&self) {
        if self.close(ABANDONED) {
            tracing::warn!(request_id = %self.slip.request, "nobody said what a request used; it is charged in full");
            let spent = Spent {
                tokens: self.bound,
                ..Spent::default()
            };
            let abandoned = Outcome::Abandoned;
            self.quota.post(self.charge, &self.slip, spent, abandoned);
        }
    }

    /// What part `part` of the request is to be kept beside wherever it is served: see [`Quota::settle_found`].
    #[must_use]
    pub fn tag(&self, part: u32) -> Option<Arc<str>> {
        self.quota.stub(self.charge, &self.slip, part)
    }

    fn close(&self, to: u8) -> bool {
        let closed = self
            .state
            .compare_exchange(OPEN, to, Ordering::AcqRel, Ordering::Acquire);
        closed.is_ok()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.abandon();
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reservation").field(&self.charge).finish()
    }
}
