//! At which sites a request may be paid for, and how an open charge moves from one to another.
//!
//! Where gateways share a store, what is not on lease here may still be there. So which sites may be picked is a guess then,
//! by what the store last said; the move itself is exact, and what it found missing can be fetched.

use std::sync::Arc;

use super::{Book, bound};
use crate::quota::allocation::Allocation;
use crate::quota::amount::Currency;
use crate::quota::charge::{Account, ChargeId, Claim, Hold, Moment, Pending, Refusal, Scope};
use crate::quota::draw::choose_one;
use crate::route::means::Means;

impl Book {
    /// What an open charge would be paid from at `site`, its own hold not counted. Changes nothing.
    pub fn means(&mut self, id: ChargeId, site: &Arc<str>, at: Moment) -> Means {
        if self.is_shared() {
            return self.guess_means(id, site, at);
        }
        let Some(pending) = self.pending.remove(&id) else {
            return Means::Any;
        };
        self.release_for_now(&pending.holds, at);
        let found = self.moved(&pending, site, at);
        self.hold(&pending.holds);
        self.pending.insert(id, pending);
        let Ok(found) = found else {
            return Means::Nothing;
        };
        let mut grants = found.holds.iter().filter_map(|hold| {
            let allocation = self.allocations.get(&hold.allocation)?;
            allocation.grant().site.as_ref()
        });
        match grants.any(|of| of == site) {
            true => Means::Own,
            false => Means::Any,
        }
    }

    /// Moves an open charge to another site, as a pick, a retry or a resume does: the one site's share is given up and the
    /// other's held. Rates of a site that did some of it stay taken.
    ///
    /// # Errors
    /// [`Refusal`], and the charge stays where it is. A charge that is not open has nothing to move.
    pub fn move_to(&mut self, id: ChargeId, site: &Arc<str>, at: Moment) -> Result<(), Refusal> {
        let stays = |pending: &Pending| pending.placed && pending.claim.site == *site;
        if self.pending.get(&id).is_none_or(stays) {
            return Ok(());
        }
        let Some(pending) = self.pending.remove(&id) else {
            return Ok(());
        };
        self.release_for_now(&pending.holds, at);
        let moved = self.moved(&pending, site, at);
        let (pending, result) = match moved {
            Ok(moved) => (self.change_meters(&pending, moved, at), Ok(())),
            Err(refusal) => (pending, Err(refusal)),
        };
        // Nobody came between: what was released above is still there.
        self.hold(&pending.holds);
        self.pending.insert(id, pending);
        result
    }

    /// Takes a charge from the meter of the one site to that of the other.
    fn change_meters(&mut self, before: &Pending, mut moved: Pending, at: Moment) -> Pending {
        if before.claim.site == moved.claim.site {
            return moved;
        }
        let left = Scope::Site(Arc::clone(&before.claim.site));
        if let Some(place) = moved.scopes.iter().position(|scope| *scope == left) {
            moved.scopes.swap_remove(place);
            if let Some(meter) = self.meters.get_mut(&left) {
                meter.leave(before.started);
            }
        }
        let entered = Scope::Site(Arc::clone(&moved.claim.site));
        if let Some(meter) = self.meters.get_mut(&entered) {
            meter.begin(moved.claim.bound, at.now);
            if moved.started {
                meter.started();
            }
            moved.scopes.push(entered);
        }
        moved
    }

    fn moved(
        &mut self,
        pending: &Pending,
        site: &Arc<str>,
        at: Moment,
    ) -> Result<Pending, Refusal> {
        let claim = Claim {
            site: Arc::clone(site),
            ..pending.claim.clone()
        };
        if claim.site != pending.claim.site {
            let scope = self.metered(std::iter::once(Scope::Site(Arc::clone(site))));
            self.check_meters(&scope, claim.bound, at.now)?;
        }
        let price = self.price(&claim.model, site);
        let need = bound(&claim, price);
        let holds = self.choose(&claim.account, site, need, at.unix_s)?;
        Ok(Pending {
            claim,
            holds,
            price,
            placed: true,
            ..pending.clone()
        })
    }

    /// Whether some site that the account has an allocation for has room for the claim, and so a pick may find it.
    pub(super) fn is_good_elsewhere(&mut self, claim: &Claim, at: Moment) -> bool {
        let is_shared = self.is_shared();
        self.sites_of(&claim.account).into_iter().any(|site| {
            if is_shared {
                return self.guess_at(claim, &site, at).is_ok();
            }
            let price = self.price(&claim.model, &site);
            let need = bound(claim, price);
            let holds = self.choose(&claim.account, &site, need, at.unix_s);
            holds.is_ok()
        })
    }

    /// The sites that the account has allocations for, each once.
    fn sites_of(&self, account: &Account) -> Vec<Arc<str>> {
        let ids = account
            .tenants()
            .filter_map(|tenant| self.granted.get(tenant));
        let found = ids.flatten().filter_map(|id| self.allocations.get(id));
        let mut sites: Vec<Arc<str>> = found
            .filter_map(|found| found.grant().site.clone())
            .collect();
        sites.sort_unstable();
        sites.dedup();
        sites
    }

    /// Whether it matters to the account at which site a request is served.
    #[must_use]
    pub fn depends_on_site(&self, account: &Account) -> bool {
        !self.sites_of(account).is_empty()
    }

    /// As [`Book::check`] where gateways share: by what all of them know of each other.
    pub(super) fn check_shared(&mut self, claim: &Claim, at: Moment) -> Result<(), Refusal> {
        match self.guess_at(claim, &claim.site, at) {
            Err(refusal) if !self.is_good_elsewhere(claim, at) => Err(refusal),
            _ => Ok(()),
        }
    }

    /// Whether a claim would be refused at `site` whatever is on lease, as far as is known here.
    fn guess_at(&mut self, claim: &Claim, site: &Arc<str>, at: Moment) -> Result<(), Refusal> {
        let need = bound(claim, self.price(&claim.model, site));
        for tenant in claim.account.tenants() {
            let found = self.allocations_of(tenant, at).into_iter();
            let all: Vec<Allocation> = found.map(|one| one.guess(at.now)).collect();
            for currency in Currency::ALL {
                let of_currency = all.iter().filter(|one| one.grant().currency == currency);
                choose_one(of_currency, site, need.of(currency), at.unix_s)?;
            }
        }
        Ok(())
    }

    /// What an open charge may be paid from at `site`: by its own hold, or by what the store may have.
    fn guess_means(&self, id: ChargeId, site: &Arc<str>, at: Moment) -> Means {
        let Some(pending) = self.pending.get(&id) else {
            return Means::Any;
        };
        let claim = Claim {
            site: Arc::clone(site),
            ..pending.claim.clone()
        };
        let holds = |found: &Allocation| {
            let id = &found.grant().id;
            pending.holds.iter().any(|hold| hold.allocation == *id)
        };
        let mut means = Means::Any;
        for tenant in claim.account.tenants() {
            for currency in Currency::ALL {
                let mut candidates = self.candidates(tenant, currency, &claim, at);
                let found = candidates.find(|found| holds(found) || !found.is_spent(at.now));
                match found.map(|found| found.grant().site.is_some()) {
                    Some(true) => means = Means::Own,
                    Some(false) => {}
                    None if self.has_any(tenant, currency) => return Means::Nothing,
                    None => {}
                }
            }
        }
        means
    }

    /// Gives holds up that are taken again in the same moment. A period that ends with them still held must know of them,
    /// or what they hold goes over into the next one as if it were left.
    fn release_for_now(&mut self, holds: &[Hold], at: Moment) {
        for hold in holds {
            if let Some(allocation) = self.allocations.get_mut(&hold.allocation) {
                allocation.roll(at.unix_s);
            }
        }
        self.release(holds);
    }
}
