//! Who may begin, what is held for whom, and what it came to: the whole state of quota, without a clock, a lock or a store.
//!
//! A request is one charge: pending from [`Book::reserve`] on, then posted or voided, once. Everything that it needs is
//! checked before anything is taken, so a refusal leaves no trace and two requests can never be promised the same.

mod shared;

use std::collections::HashMap;
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
use crate::route::means::Means;

/// The state.
#[derive(Debug, Default)]
pub struct Book {
    meters: HashMap<Scope, Meter>,
    allocations: HashMap<Arc<str>, Allocation>,
    /// Ids of each tenant's allocations.
    granted: HashMap<Arc<str>, Vec<Arc<str>>>,
    prices: HashMap<(Arc<str>, Option<Arc<str>>), Price>,
    pending: HashMap<ChargeId, Pending>,
    /// Where gateways share what is in here.
    sharing: Option<shared::Sharing>,
}

impl Book {
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

    /// Opens a charge that an earlier life let in: nothing is refused, and only what is left is held. It is to be posted at
    /// once.
    pub fn recover(&mut self, id: ChargeId, claim: Claim, at: Moment) {
        self.roll(at);
        let price = self.price(&claim.model, &claim.site);
        let holds = self.owed(&claim, bound(&claim, price), at.unix_s);
        let pending = Pending {
            scopes: Vec::new(),
            holds,
            price,
            taken: at,
            started: true,
            placed: true,
            claim,
        };
        self.begin(id, pending);
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

    /// Whether some site that the account has an allocation for has room for the claim, and so a pick may find it.
    fn is_good_elsewhere(&mut self, claim: &Claim, at: Moment) -> bool {
        self.sites_of(&claim.account).into_iter().any(|site| {
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
        let amounts = Amounts {
            tokens: spent.tokens.total(),
            gpu_us: spent.gpu_us,
            money_micros: pending.price.of(spent.tokens),
            millijoules: spent.millijoules,
        };
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

    /// What an open charge would be paid from at `site`, its own hold not counted. Changes nothing.
    pub fn means(&mut self, id: ChargeId, site: &Arc<str>, at: Moment) -> Means {
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
        of_tenant.or_default().push(Arc::clone(&id));
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

    /// As [`Book::choose`], where there is enough or not: what is left of each.
    fn owed(&self, claim: &Claim, need: Amounts, unix_s: i64) -> Vec<Hold> {
        let of_tenant = |tenant| self.granted.get(tenant).into_iter().flatten();
        let mut holds = Vec::new();
        for tenant in claim.account.tenants() {
            for currency in Currency::ALL {
                let open = of_tenant(tenant).filter_map(|id| self.allocations.get(id));
                let open = open.filter(|found| {
                    let grant = found.grant();
                    let there = grant.site.as_ref().is_none_or(|site| *site == claim.site);
                    there && grant.currency == currency && found.is_open(unix_s)
                });
                // The site's own before those for any.
                let drawn = open.max_by_key(|found| found.grant().site.is_some());
                holds.extend(drawn.map(|found| Hold {
                    allocation: Arc::clone(&found.grant().id),
                    currency,
                    amount: need.of(currency).min(found.left()),
                }));
            }
        }
        holds
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
