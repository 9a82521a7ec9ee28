//! Who may begin, what is held for whom, and what it came to: the whole state of quota, without a clock, a lock or a store.
//!
//! A request is one charge: pending from [`Book::reserve`] on, then posted or voided, once. Everything that it needs is
//! checked before anything is taken, so a refusal leaves no trace and two requests can never be promised the same.

mod away;
mod left;
mod shared;
mod sites;

pub use self::shared::Wish;

use std::sync::Arc;
use std::time::Duration;

use super::allocation::{Allocation, Grant, Total};
use super::amount::{Amounts, Currency, Price, Tokens};
use super::charge::{
    Account, ChargeId, Claim, Hold, Moment, Pending, Posted, Refusal, Scope, Spent,
};
use super::draw::choose_one;
use super::meter::{Limits, Meter};
use crate::limits::RESERVATIONS_MAX;
use crate::map::Map;

/// The state.
#[derive(Debug, Default)]
pub struct Book {
    meters: Map<Scope, Meter>,
    allocations: Map<Arc<str>, Allocation>,
    /// Ids of each tenant's allocations.
    granted: Map<Arc<str>, Vec<Arc<str>>>,
    prices: Map<(Arc<str>, Option<Arc<str>>), Price>,
    pending: Map<ChargeId, Pending>,
    /// Where gateways share what is in here.
    sharing: Option<shared::Sharing>,
}

impl Book {
    /// An empty one with room for so many allocations, and so many scopes with bounds: one that grows bit by bit would
    /// leave half as much again behind in holes.
    #[must_use]
    pub fn with_room(allocations: usize, scopes: usize) -> Self {
        Self {
            meters: Map::with_capacity_and_hasher(scopes, Default::default()),
            allocations: Map::with_capacity_and_hasher(allocations, Default::default()),
            granted: Map::with_capacity_and_hasher(allocations, Default::default()),
            ..Self::default()
        }
    }

    /// Lets a request in, and holds what it may use at most.
    ///
    /// # Errors
    /// [`Refusal`], and nothing is held.
    pub fn reserve(&mut self, id: ChargeId, claim: Claim, at: Moment) -> Result<(), Refusal> {
        if self.pending.len() >= RESERVATIONS_MAX {
            return Err(Refusal::Busy);
        }
        let scopes = self.metered(claim.scopes());
        self.check_meters(&scopes, claim.bound, at.now)?;
        let price = self.price(&claim.model, &claim.site);
        let need = bound(&claim, price);
        let holds = self.choose(&claim.account, &claim.site, need, at.unix_s);
        let placed = holds.is_ok();
        let holds = match holds {
            Err(refusal) if !self.is_good_elsewhere(&claim, at) => return Err(refusal),
            holds => holds.unwrap_or_default(),
        };
        let pending = Pending {
            claim,
            scopes,
            holds,
            price,
            taken: at,
            started: false,
            placed,
        };
        self.begin(id, pending);
        Ok(())
    }

    /// Takes what a charge holds, and opens it.
    fn begin(&mut self, id: ChargeId, pending: Pending) {
        self.hold(&pending.holds);
        for scope in &pending.scopes {
            if let Some(meter) = self.meters.get_mut(scope) {
                meter.begin(pending.claim.bound, pending.taken.now);
            }
        }
        self.pending.insert(id, pending);
    }

    /// Whether a request of this account would be refused whatever it asks: what a server looks at before it does any
    /// work for it.
    ///
    /// # Errors
    /// [`Refusal`] of the smallest request there is.
    pub fn check(&mut self, claim: &Claim, at: Moment) -> Result<(), Refusal> {
        if self.is_shared() {
            return self.check_shared(claim, at);
        }
        let scopes = self.metered(claim.scopes());
        self.check_meters(&scopes, claim.bound, at.now)?;
        let least = Amounts {
            tokens: claim.bound.total(),
            ..Amounts::default()
        };
        let holds = self.choose(&claim.account, &claim.site, least, at.unix_s);
        match holds {
            Err(refusal) if !self.is_good_elsewhere(claim, at) => Err(refusal),
            _ => Ok(()),
        }
    }

    /// A charge got its first content.
    pub fn started(&mut self, id: ChargeId) {
        let Some(pending) = self.pending.get_mut(&id) else {
            return;
        };
        if std::mem::replace(&mut pending.started, true) {
            return;
        }
        for scope in &pending.scopes {
            if let Some(meter) = self.meters.get_mut(scope) {
                meter.started();
            }
        }
    }

    /// Settles a charge with what it used; `None` for one that is not open, which changes nothing.
    pub fn post(&mut self, id: ChargeId, spent: Spent, at: Moment) -> Option<Posted> {
        let pending = self.close(id, spent.tokens, at.now)?;
        let amounts = spent.at(pending.price);
        let mut drawn = Vec::with_capacity(pending.holds.len());
        for hold in &pending.holds {
            if let Some(allocation) = self.allocations.get_mut(&hold.allocation) {
                allocation.roll(at.unix_s);
                let total = allocation.post(hold.amount, amounts.of(hold.currency));
                let period = allocation.balance().period;
                drawn.push((Arc::clone(&hold.allocation), period, total));
            }
        }
        Some(Posted {
            pending,
            amounts,
            drawn,
        })
    }

    /// Gives up a charge for which nothing was done; false for one that is not open.
    pub fn void(&mut self, id: ChargeId, at: Moment) -> bool {
        let Some(pending) = self.close(id, Tokens::default(), at.now) else {
            return false;
        };
        self.release(&pending.holds);
        true
    }

    /// Puts the bounds of a scope in force.
    pub fn set_limits(&mut self, scope: Scope, limits: &Limits, now: Duration) {
        let before = self.meters.get_mut(&scope);
        let idle = before.as_ref().is_none_or(|meter| meter.concurrent() == 0);
        if let Some(meter) = before.filter(|meter| meter.limits() != *limits) {
            let given_up = meter.give_up(&scope);
            self.say_goodbye(given_up);
        }
        if limits.is_empty() && idle {
            self.meters.remove(&scope);
            return;
        }
        let meter = self.meters.entry(scope).or_default();
        meter.set(limits, now);
        if self.sharing.is_some() {
            meter.share();
        }
    }

    /// Puts a grant in force, in place of the one with its id.
    pub fn set_grant(&mut self, grant: Grant) {
        let id = Arc::clone(&grant.id);
        let before = self.allocations.get(&id);
        if let Some(before) = before.map(|found| Arc::clone(&found.grant().tenant)) {
            self.forget(&before, &id);
        }
        let of_tenant = self.granted.entry(Arc::clone(&grant.tenant));
        // Most have one.
        let ids = of_tenant.or_insert_with(|| Vec::with_capacity(1));
        ids.push(Arc::clone(&id));
        if let Some(allocation) = self.allocations.get_mut(&id) {
            return allocation.change(grant);
        }
        // Charges may still be open that drew on an earlier grant of this id.
        let held = self.held(&id);
        let mut allocation = Allocation::new(grant);
        allocation.adopt(held);
        if self.sharing.is_some() {
            allocation.share();
        }
        self.allocations.insert(id, allocation);
    }

    /// Takes a grant away; what was held of it is held of nothing. False where there is none.
    pub fn remove_grant(&mut self, id: &str) -> bool {
        let Some(mut allocation) = self.allocations.remove(id) else {
            return false;
        };
        self.forget(&allocation.grant().tenant, id);
        self.say_goodbye(allocation.give_up());
        true
    }

    /// Counts what a ledger says was settled; the periods of an allocation come in their order.
    pub fn replay(&mut self, allocation: &str, period: u64, total: Total) {
        if let Some(allocation) = self.allocations.get_mut(allocation) {
            allocation.replay(period, total);
        }
    }

    /// Takes every allocation to the period of this moment.
    pub fn roll(&mut self, at: Moment) {
        for allocation in self.allocations.values_mut() {
            allocation.roll(at.unix_s);
        }
    }

    /// Sets what a model costs, at one site or at any.
    pub fn set_price(&mut self, model: Arc<str>, site: Option<Arc<str>>, price: Price) {
        self.prices.insert((model, site), price);
    }

    /// Every allocation.
    pub fn allocations(&self) -> impl Iterator<Item = &Allocation> {
        self.allocations.values()
    }

    /// The allocations of one tenant, at this moment.
    pub fn allocations_of(&mut self, tenant: &str, at: Moment) -> Vec<&Allocation> {
        let ids = self.granted.get(tenant).map_or(&[][..], Vec::as_slice);
        for id in ids {
            if let Some(allocation) = self.allocations.get_mut(id) {
                allocation.roll(at.unix_s);
            }
        }
        let found = ids.iter().filter_map(|id| self.allocations.get(id));
        found.collect()
    }

    /// What an open charge asked for.
    #[must_use]
    pub fn claim(&self, id: ChargeId) -> Option<&Claim> {
        self.pending.get(&id).map(Pending::claim)
    }

    /// Every open charge.
    pub fn pending(&self) -> impl ExactSizeIterator<Item = (ChargeId, &Pending)> {
        self.pending.iter().map(|(id, pending)| (*id, pending))
    }

    /// The meter of a scope that has bounds.
    #[must_use]
    pub fn meter(&self, scope: &Scope) -> Option<&Meter> {
        self.meters.get(scope)
    }

    /// The amount that open charges hold of an allocation, by their own account.
    pub(super) fn held(&self, allocation: &str) -> u64 {
        let holds = self.pending.values().flat_map(|pending| &pending.holds);
        let of_it = holds.filter(|hold| &*hold.allocation == allocation);
        of_it.map(|hold| hold.amount).sum()
    }

    /// Open charges that a scope's meter counts.
    pub(super) fn open_in(&self, scope: &Scope) -> usize {
        let open = self.pending.values();
        open.filter(|pending| pending.scopes.contains(scope))
            .count()
    }

    pub(super) fn meters(&self) -> impl Iterator<Item = (&Scope, &Meter)> {
        self.meters.iter()
    }

    /// Takes a charge off the list and settles its rates.
    fn close(&mut self, id: ChargeId, used: Tokens, now: Duration) -> Option<Pending> {
        self.started(id);
        let pending = self.pending.remove(&id)?;
        for scope in &pending.scopes {
            if let Some(meter) = self.meters.get_mut(scope) {
                meter.end(pending.claim.bound, used, pending.taken.now, now);
            }
        }
        Some(pending)
    }

    fn metered(&self, scopes: impl Iterator<Item = Scope>) -> Vec<Scope> {
        if self.meters.is_empty() {
            return Vec::new();
        }
        scopes
            .filter(|scope| self.meters.contains_key(scope))
            .collect()
    }

    fn check_meters(&self, scopes: &[Scope], bound: Tokens, now: Duration) -> Result<(), Refusal> {
        let refused = |scope: &Scope| {
            let short = self.meters.get(scope)?.check(bound, now).err()?;
            let scope = scope.clone();
            Some(Refusal::Limit { scope, short })
        };
        // The one that takes longest: a client that waits for it is not refused by the next one.
        let longest = scopes.iter().filter_map(refused).max_by_key(wait);
        longest.map_or(Ok(()), Err)
    }

    /// Allocations with room, one for each tenant and currency that has any: the site's own before those for any site.
    fn choose(
        &mut self,
        account: &Account,
        site: &str,
        bound: Amounts,
        unix_s: i64,
    ) -> Result<Vec<Hold>, Refusal> {
        let mut holds = Vec::new();
        for tenant in account.tenants() {
            let Some(ids) = self.granted.get(tenant) else {
                continue;
            };
            for id in ids {
                if let Some(allocation) = self.allocations.get_mut(id) {
                    allocation.roll(unix_s);
                }
            }
            let all = || ids.iter().filter_map(|id| self.allocations.get(id));
            for currency in Currency::ALL {
                let of_currency = all().filter(|found| found.grant().currency == currency);
                let need = bound.of(currency);
                holds.extend(choose_one(of_currency, site, need, unix_s)?);
            }
        }
        Ok(holds)
    }

    fn hold(&mut self, holds: &[Hold]) {
        for hold in holds {
            if let Some(allocation) = self.allocations.get_mut(&hold.allocation) {
                allocation.hold(hold.amount);
            }
        }
    }

    fn release(&mut self, holds: &[Hold]) {
        for hold in holds {
            if let Some(allocation) = self.allocations.get_mut(&hold.allocation) {
                allocation.release(hold.amount);
            }
        }
    }

    fn price(&self, model: &Arc<str>, site: &Arc<str>) -> Price {
        let of_site = (Arc::clone(model), Some(Arc::clone(site)));
        let found = self.prices.get(&of_site);
        let found = found.or_else(|| self.prices.get(&(Arc::clone(model), None)));
        found.copied().unwrap_or_default()
    }

    fn forget(&mut self, tenant: &str, id: &str) {
        if let Some(ids) = self.granted.get_mut(tenant) {
            ids.retain(|other| &**other != id);
            if ids.is_empty() {
                self.granted.remove(tenant);
            }
        }
    }
}

/// The most that a claim can come to at this price, as far as that can be known ahead.
fn bound(claim: &Claim, price: Price) -> Amounts {
    Amounts {
        tokens: claim.bound.total(),
        money_micros: price.bound(claim.bound),
        ..Amounts::default()
    }
}

/// Time until a refusal may be over; the longest there is for one that waiting does not help.
fn wait(refusal: &Refusal) -> Duration {
    match refusal {
        Refusal::Limit { short, .. } => short.wait.unwrap_or(Duration::MAX),
        _ => Duration::MAX,
    }
}

#[cfg(test)]
pub(super) mod tests;
