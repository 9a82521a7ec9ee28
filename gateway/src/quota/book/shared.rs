//! A book whose rates and allocations several gateways share: who may begin is decided by what is on lease here.
//!
//! The keeper of leases asks for [`Book::lines`] in each round and tells what the store answered. Only what is in use is
//! looked at: a tenant that asks for nothing costs nothing.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::Book;
use crate::limits::LEASE_ROUND;
use crate::quota::allocation::Allocation;
use crate::quota::amount::{Amounts, Currency};
use crate::quota::charge::{
    Account, ChargeId, Claim, Hold, Moment, Pending, Refusal, Scope, scopes_of,
};
use crate::quota::draw::choose_one;
use crate::quota::lease::slice::Turn;
use crate::quota::lease::term::{StoreAway, Term};
use crate::quota::lease::{Answer, Holding, Line, Subject};
use crate::quota::meter::{Bound, Short};
use crate::quota::rate::Refused;

/// What a book knows of its lease.
#[derive(Debug)]
pub(super) struct Sharing {
    term: Term,
    active: HashSet<Active>,
    /// What is given back of allocations that are no more.
    goodbye: Vec<Line>,
    /// What the round under way asked for, line by line: for what, if that is still there, and how much.
    asked: Vec<(Option<Active>, u64)>,
    /// What other gateways lack since the last round.
    called: HashSet<Subject>,
    /// A slice runs low.
    hurry: bool,
    /// When the last round came by time.
    regular: Duration,
}

/// What has slices.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Active {
    Allocation(Arc<str>),
    Scope(Scope),
}

impl Book {
    /// Shares everything in it with other gateways, under leases of `ttl`. Until the first one nothing is let in.
    pub fn share(&mut self, ttl: Duration) {
        self.sharing = Some(Sharing {
            term: Term::new(ttl),
            active: HashSet::new(),
            goodbye: Vec::new(),
            asked: Vec::new(),
            called: HashSet::new(),
            hurry: false,
            regular: Duration::ZERO,
        });
        self.allocations.values_mut().for_each(Allocation::share);
        self.meters.values_mut().for_each(super::Meter::share);
    }

    /// Whether gateways share it.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        self.sharing.is_some()
    }

    /// Lets a request in as [`Book::reserve`] does; where gateways share, by what is on lease here, and while the store is
    /// away as its tenant has it.
    ///
    /// # Errors
    /// [`Refusal`], and nothing is held.
    pub fn admit(&mut self, id: ChargeId, claim: Claim, at: Moment) -> Result<(), Refusal> {
        let Some(sharing) = &self.sharing else {
            return self.reserve(id, claim, at);
        };
        let (holds, is_away) = (sharing.term.holds(at.now), sharing.term.is_away());
        let open = match self.store_away(&claim.account) {
            Some((StoreAway::Closed, _)) if is_away => return Err(Refusal::Away),
            Some((StoreAway::Open(per_minute), scope)) if is_away || !holds => {
                Some((per_minute, scope))
            }
            _ => None,
        };
        let leased = match holds {
            true => self.reserve(id, claim.clone(), at),
            false => Err(Refusal::Away),
        };
        match (leased, open) {
            (Ok(()), _) => {
                self.look_ahead(&claim);
                Ok(())
            }
            (Err(_), Some((per_minute, scope))) => {
                self.reserve_beyond(id, claim, at, (per_minute, &scope))
            }
            (Err(refusal), None) => Err(refusal),
        }
    }

    /// Notes what `claim` lacks here and the store may have. True where it is worth to wait for the next round.
    pub fn want(&mut self, claim: &Claim, at: Moment) -> bool {
        let Some(sharing) = &mut self.sharing else {
            return false;
        };
        if !sharing.term.holds(at.now) {
            return !sharing.term.is_away();
        }
        self.activate(claim);
        let mut short = false;
        for scope in self.metered(claim.scopes()) {
            if let Some(meter) = self.meters.get_mut(&scope) {
                short |= meter.want(claim.bound, at.now);
            }
        }
        let bound = self.bound_of(claim);
        for id in self.wanted(claim, bound, at) {
            if let Some(allocation) = self.allocations.get_mut(&id) {
                let need = bound.of(allocation.grant().currency).max(1);
                if let Some(slice) = allocation.slice_mut() {
                    slice.want(need);
                    short = true;
                }
            }
        }
        short
    }

    /// Whether [`Book::want`] would note anything.
    #[must_use]
    pub fn lacks(&self, claim: &Claim, at: Moment) -> bool {
        let meters = self.metered(claim.scopes()).into_iter();
        let mut meters = meters.filter_map(|scope| self.meters.get(&scope));
        self.lease_holds(at.now)
            && (meters.any(|meter| meter.lacks(claim.bound, at.now))
                || !self.wanted(claim, self.bound_of(claim), at).is_empty())
    }

    /// Lets the next round ask how the allocations of these tenants are, or of all.
    pub fn look(&mut self, account: Option<&Account>) {
        let ids: Vec<Arc<str>> = match account {
            Some(account) => {
                let tenants = account.tenants();
                let granted = tenants.filter_map(|tenant| self.granted.get(tenant));
                granted.flatten().cloned().collect()
            }
            None => self.allocations.keys().cloned().collect(),
        };
        for id in ids {
            let allocation = self.allocations.get_mut(&id);
            if let Some(slice) = allocation.and_then(Allocation::slice_mut) {
                slice.look();
            }
            if let Some(sharing) = &mut self.sharing {
                sharing.active.insert(Active::Allocation(id));
            }
        }
    }

    /// As [`Book::want`] for an open charge that could not be moved to `site`.
    pub fn want_at(&mut self, id: ChargeId, site: &Arc<str>, at: Moment) {
        let Some(pending) = self.pending.get(&id) else {
            return;
        };
        let claim = Claim {
            site: Arc::clone(site),
            ..pending.claim.clone()
        };
        let wanted = self.want(&claim, at);
        if let Some(sharing) = &mut self.sharing {
            sharing.hurry |= wanted;
        }
    }

    /// Whoever waited for this got nothing: for a while nobody needs to ask.
    pub fn dry(&mut self, claim: &Claim, at: Moment) {
        for scope in self.metered(claim.scopes()) {
            if let Some(meter) = self.meters.get_mut(&scope) {
                meter.dry(claim.bound, at.now);
            }
        }
        let bound = self.bound_of(claim);
        for id in self.wanted(claim, bound, at) {
            let allocation = self.allocations.get_mut(&id);
            if let Some(slice) = allocation.and_then(Allocation::slice_mut) {
                slice.dry(at.now);
            }
        }
    }

    /// Whether this account would be refused whatever it asks, by what all gateways know of each other.
    pub(super) fn check_shared(&mut self, claim: &Claim, at: Moment) -> Result<(), Refusal> {
        for tenant in claim.account.tenants() {
            let found = self.allocations_of(tenant, at).into_iter();
            let all: Vec<Allocation> = found.map(|one| one.guess(at.now)).collect();
            for currency in Currency::ALL {
                let of_currency = all.iter().filter(|one| one.grant().currency == currency);
                choose_one(of_currency, &claim.site, 0, at.unix_s)?;
            }
        }
        Ok(())
    }

    /// Other gateways lack `subjects`: the next round gives back what lies idle of them.
    pub fn called(&mut self, subjects: HashSet<Subject>) {
        if let Some(sharing) = &mut self.sharing {
            sharing.called.extend(subjects);
        }
    }

    /// What to tell the store in the round that begins now.
    pub fn lines(&mut self, at: Moment) -> Vec<Line> {
        let Some(sharing) = &mut self.sharing else {
            return Vec::new();
        };
        sharing.hurry = false;
        let turn = Turn {
            now: at.now,
            is_regular: at.now.saturating_sub(sharing.regular) >= LEASE_ROUND,
            called: std::mem::take(&mut sharing.called),
        };
        if turn.is_regular {
            sharing.regular = at.now;
        }
        let mut lines = std::mem::take(&mut sharing.goodbye);
        sharing.asked = vec![(None, 0); lines.len()];
        let mut active = std::mem::take(&mut sharing.active);
        active.retain(|one| {
            let (told, is_idle) = match one {
                Active::Allocation(id) => match self.allocations.get_mut(id) {
                    Some(allocation) => {
                        allocation.roll(at.unix_s);
                        (allocation.lines(&turn).collect(), allocation.is_idle())
                    }
                    None => (Vec::new(), true),
                },
                Active::Scope(scope) => match self.meters.get_mut(scope) {
                    Some(meter) => (meter.lines(scope, &turn), meter.is_idle()),
                    None => (Vec::new(), true),
                },
            };
            let asked = told.iter();
            let asked = asked.map(|line| (Some(one.clone()), line.need));
            if let Some(sharing) = &mut self.sharing {
                sharing.asked.extend(asked);
            }
            let told_nothing = told.is_empty();
            lines.extend(told);
            !(is_idle && told_nothing)
        });
        if let Some(sharing) = &mut self.sharing {
            sharing.active = active;
        }
        lines
    }

    /// The round that began at `began` succeeded.
    pub fn answered(&mut self, answers: &[Answer], began: Duration, now: Duration) {
        let Some(sharing) = &mut self.sharing else {
            return;
        };
        sharing.term.confirm(began);
        let asked = std::mem::take(&mut sharing.asked);
        for (answer, (active, need)) in answers.iter().zip(asked) {
            match active {
                Some(Active::Allocation(id)) => {
                    if let Some(allocation) = self.allocations.get_mut(&id) {
                        allocation.answer(answer, now, need);
                    }
                }
                Some(Active::Scope(scope)) => {
                    if let Some(meter) = self.meters.get_mut(&scope) {
                        meter.answer(answer, now, need);
                    }
                }
                None => {}
            }
        }
    }

    /// A round failed: what it asked for may have been done or not.
    pub const fn round_failed(&mut self) {
        if let Some(sharing) = &mut self.sharing {
            sharing.term.fail();
        }
    }

    /// Begins the lease anew: nothing is left on it but what open requests hold, which is what this returns.
    pub fn enlist(&mut self, at: Moment) -> Vec<Holding> {
        let Some(sharing) = &mut self.sharing else {
            return Vec::new();
        };
        sharing.goodbye.clear();
        sharing.asked.clear();
        let active = sharing.active.clone();
        let mut holdings = Vec::new();
        for one in active {
            match one {
                Active::Allocation(id) => {
                    if let Some(allocation) = self.allocations.get_mut(&id) {
                        allocation.roll(at.unix_s);
                        holdings.extend(allocation.enlist());
                    }
                }
                Active::Scope(scope) => {
                    if let Some(meter) = self.meters.get_mut(&scope) {
                        holdings.extend(meter.enlist(&scope));
                    }
                }
            }
        }
        holdings
    }

    /// The store has taken the lease that began at `began`.
    pub fn enlisted(&mut self, began: Duration) {
        if let Some(sharing) = &mut self.sharing {
            sharing.term.confirm(began);
        }
    }

    /// Whether a round should begin before its time; asked once.
    pub fn takes_hurry(&mut self) -> bool {
        let sharing = self.sharing.as_mut();
        sharing.is_some_and(|sharing| std::mem::take(&mut sharing.hurry))
    }

    /// Whether what is on lease may be used.
    #[must_use]
    pub fn lease_holds(&self, now: Duration) -> bool {
        let sharing = self.sharing.as_ref();
        sharing.is_none_or(|sharing| sharing.term.holds(now))
    }

    /// Gives back in the next round what was on lease of something that is no more, or no longer as it was.
    pub(super) fn say_goodbye(&mut self, given_up: impl IntoIterator<Item = Line>) {
        if let Some(sharing) = &mut self.sharing {
            sharing.goodbye.extend(given_up);
        }
    }

    /// Lets a request in without a lease, within `per_minute` tokens of the scope that says so.
    fn reserve_beyond(
        &mut self,
        id: ChargeId,
        claim: Claim,
        at: Moment,
        (per_minute, scope): (u64, &Scope),
    ) -> Result<(), Refusal> {
        let holds = self.choose_beyond(&claim, at)?;
        self.activate(&claim);
        let meter = self.meters.entry(scope.clone()).or_default();
        let tokens = claim.bound.total();
        let taken = meter.go_beyond(per_minute, tokens, at.now);
        taken.map_err(|refused| Refusal::Limit {
            scope: scope.clone(),
            short: Short {
                bound: Bound::Tokens,
                limit: per_minute,
                wait: match refused {
                    Refused::Wait(wait) => Some(wait),
                    Refused::TooLarge => None,
                },
            },
        })?;
        let scopes = self.metered(claim.scopes());
        let held: Vec<_> = holds
            .iter()
            .map(|hold| Arc::clone(&hold.allocation))
            .collect();
        let pending = Pending {
            scopes,
            holds,
            price: self.price(&claim.model, &claim.site),
            claim,
            taken: at,
            started: false,
            placed: true,
        };
        self.begin(id, pending);
        for id in held {
            if let Some(allocation) = self.allocations.get_mut(&id) {
                allocation.record_excess();
            }
        }
        Ok(())
    }

    /// One allocation for each tenant and currency that has any, whether there is room in it or not.
    fn choose_beyond(&mut self, claim: &Claim, at: Moment) -> Result<Vec<Hold>, Refusal> {
        let bound = self.bound_of(claim);
        let mut holds = Vec::new();
        for tenant in claim.account.tenants() {
            for currency in Currency::ALL {
                let found = self.candidates(tenant, currency, claim, at).next();
                if let Some(found) = found {
                    holds.push(Hold {
                        allocation: Arc::clone(&found.grant().id),
                        currency,
                        amount: bound.of(currency),
                    });
                } else if self.has_any(tenant, currency) {
                    let site = Arc::clone(&claim.site);
                    return Err(Refusal::NotHere { site });
                }
            }
        }
        Ok(holds)
    }

    /// The allocations that `claim` needs more of than is at hand: for each tenant and currency the first that may have it.
    fn wanted(&self, claim: &Claim, bound: Amounts, at: Moment) -> Vec<Arc<str>> {
        let mut wanted = Vec::new();
        for tenant in claim.account.tenants() {
            for currency in Currency::ALL {
                let need = bound.of(currency).max(1);
                for found in self.candidates(tenant, currency, claim, at) {
                    if found.left() >= need {
                        break;
                    }
                    if found.is_short(need, at.now) {
                        wanted.push(Arc::clone(&found.grant().id));
                        break;
                    }
                }
            }
        }
        wanted
    }

    /// A tenant's allocations that are good for `claim`: the site's own before those for any site.
    fn candidates<'a>(
        &'a self,
        tenant: &str,
        currency: Currency,
        claim: &'a Claim,
        at: Moment,
    ) -> impl Iterator<Item = &'a Allocation> {
        let ids = self.granted.get(tenant).map_or(&[][..], Vec::as_slice);
        let all = move || ids.iter().filter_map(|id| self.allocations.get(id));
        let good = move |found: &&Allocation| {
            found.grant().currency == currency && found.is_open(at.unix_s)
        };
        let own = all().filter(|found| found.grant().site.as_deref() == Some(&*claim.site));
        let any = all().filter(|found| found.grant().site.is_none());
        own.chain(any).filter(good)
    }

    fn has_any(&self, tenant: &str, currency: Currency) -> bool {
        let ids = self.granted.get(tenant).into_iter().flatten();
        let mut found = ids.filter_map(|id| self.allocations.get(id));
        found.any(|found| found.grant().currency == currency)
    }

    /// What the nearest of key, project and organisation says, and which of them.
    fn store_away(&self, account: &Account) -> Option<(StoreAway, Scope)> {
        scopes_of(account).find_map(|scope| {
            let said = self.meters.get(&scope)?.store_away()?;
            Some((said, scope))
        })
    }

    fn bound_of(&self, claim: &Claim) -> Amounts {
        let price = self.price(&claim.model, &claim.site);
        Amounts {
            tokens: claim.bound.total(),
            money_micros: price.bound(claim.bound),
            ..Amounts::default()
        }
    }

    /// From now on rounds tell of all that `claim` may draw on.
    fn activate(&mut self, claim: &Claim) {
        let scopes = self.metered(claim.scopes()).into_iter();
        let scopes = scopes.map(Active::Scope);
        let tenants = claim.account.tenants();
        let granted = tenants
            .filter_map(|tenant| self.granted.get(tenant))
            .flatten();
        let granted = granted.map(|id| Active::Allocation(Arc::clone(id)));
        let active: Vec<Active> = scopes.chain(granted).collect();
        if let Some(sharing) = &mut self.sharing {
            sharing.active.extend(active);
        }
    }

    /// Asks for a round where a slice that this claim drew on runs low.
    fn look_ahead(&mut self, claim: &Claim) {
        let meters = self.metered(claim.scopes()).into_iter();
        let mut meters = meters.filter_map(|scope| self.meters.get(&scope));
        let tenants = claim.account.tenants();
        let granted = tenants
            .filter_map(|tenant| self.granted.get(tenant))
            .flatten();
        let mut granted = granted.filter_map(|id| self.allocations.get(id));
        let low = meters.any(super::Meter::runs_low) || granted.any(Allocation::runs_low);
        if let Some(sharing) = &mut self.sharing {
            sharing.hurry |= low;
        }
    }
}
