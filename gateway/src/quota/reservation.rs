//! One request's hold on quota: open, then settled, voided or abandoned, once, whatever happens to the request.
//!
//! Whoever serves the request carries the guard along. A guard that is dropped open was lost by a bug or a panic, or
//! nobody could tell what was used: then all that was reserved is charged, and nothing silently given back.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures::future::BoxFuture;

use super::Quota;
use super::amount::Tokens;
use super::charge::{ChargeId, Refusal, Spent};
use super::ledger::Outcome;
use crate::route::means::Means;
use crate::upstream::purse::Purse;

/// The hold.
pub struct Reservation {
    quota: Quota,
    charge: ChargeId,
    slip: Slip,
    bound: Tokens,
    state: AtomicU8,
    steering: Steering,
}

/// How the account has a say in where the request goes.
#[derive(Debug, Default)]
struct Steering {
    /// Whether it matters at which site it is served.
    by_site: bool,
    /// Whether its parts go their ways one by one: then all go where the first one goes.
    several: AtomicBool,
    /// Where that was.
    placed: OnceLock<Arc<str>>,
    /// The site at which there was not enough, by the last try.
    missing: Mutex<Option<Arc<str>>>,
    by: Mutex<By>,
}

/// Who served it.
#[derive(Debug, Clone, Default)]
pub struct By {
    /// The node, as routing names it.
    pub node: Option<Arc<str>>,
    /// Digest of the model as it runs there.
    pub build: Option<Arc<str>>,
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
    pub(super) fn new(
        quota: Quota,
        charge: ChargeId,
        slip: Slip,
        bound: Tokens,
        by_site: bool,
    ) -> Self {
        let steering = Steering {
            by_site,
            ..Steering::default()
        };
        Self {
            quota,
            charge,
            slip,
            bound,
            state: AtomicU8::new(OPEN),
            steering,
        }
    }

    /// Says that the request has several parts. They are one charge, which is at one site.
    pub fn has_several_parts(&self) {
        self.steering.several.store(true, Ordering::Relaxed);
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
        let site = self.quota.known(site);
        self.quota.move_to(self.charge, &site)?;
        let _ = self.steering.placed.set(site);
        Ok(())
    }

    /// Whether a part of several must not go to `site`, since another has gone elsewhere.
    fn is_bound_elsewhere(&self, site: &Arc<str>) -> bool {
        let several = self.steering.several.load(Ordering::Relaxed);
        let placed = self.steering.placed.get().filter(|_| several);
        placed.is_some_and(|placed| placed != site)
    }

    /// Charges what was used; false where the hold was closed before, which changes nothing.
    pub fn settle(&self, spent: Spent, outcome: Outcome) -> bool {
        let first = self.close(SETTLED);
        if first {
            self.post(spent, outcome);
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
            self.post(spent, Outcome::Abandoned);
        }
    }

    /// What part `part` of the request is to be kept beside wherever it is served: see [`Quota::settle_found`].
    #[must_use]
    pub fn tag(&self, part: u32) -> Option<Arc<str>> {
        self.quota.stub(self.charge, &self.slip, part)
    }

    fn post(&self, spent: Spent, outcome: Outcome) {
        let by = self.steering.by.lock();
        let by = by.unwrap_or_else(PoisonError::into_inner).clone();
        self.quota.post(self.charge, &self.slip, spent, outcome, by);
    }

    fn missing(&self) -> MutexGuard<'_, Option<Arc<str>>> {
        let missing = self.steering.missing.lock();
        missing.unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, to: u8) -> bool {
        let closed = self
            .state
            .compare_exchange(OPEN, to, Ordering::AcqRel, Ordering::Acquire);
        closed.is_ok()
    }
}

impl Purse for Reservation {
    fn at(&self, site: &Arc<str>) -> Means {
        if !self.steering.by_site {
            return Means::Any;
        }
        let site = self.quota.known(site);
        match self.is_bound_elsewhere(&site) {
            true => Means::Nothing,
            false => self.quota.means(self.charge, &site),
        }
    }

    fn move_to(&self, site: &Arc<str>) -> bool {
        if self.is_bound_elsewhere(&self.quota.known(site)) {
            // Where it matters, `at` has kept it away; elsewhere the first part's site stands for all.
            return !self.steering.by_site;
        }
        let moved = Self::move_to(self, site).is_ok();
        *self.missing() = (!moved).then(|| Arc::clone(site));
        moved
    }

    fn served(&self, node: &Arc<str>, build: Option<&Arc<str>>) {
        let by = self.steering.by.lock();
        *by.unwrap_or_else(PoisonError::into_inner) = By {
            node: Some(Arc::clone(node)),
            build: build.cloned(),
        };
    }

    fn fetch(&self) -> BoxFuture<'_, bool> {
        let missing = self.missing().take();
        Box::pin(async move {
            match missing {
                Some(site) => {
                    let site = self.quota.known(&site);
                    self.quota.fetch(self.charge, &site).await
                }
                None => false,
            }
        })
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
