//! A book whose rates and allocations several gateways share: who may begin is decided by what is on lease here.
//!
//! The keeper of leases asks for [`Book::lines`] in each round and tells what the store answered. Only what is in use is
//! looked at: a tenant that asks for nothing costs nothing.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::{Book, bound};
use crate::limits::LEASE_ROUND;
use crate::quota::allocation::Allocation;
use crate::quota::amount::{Amounts, Currency};
use crate::quota::charge::{Account, ChargeId, Claim, Moment, Scope};
use crate::quota::lease::slice::Turn;
use crate::quota::lease::term::Term;
use crate::quota::lease::{Answer, Holding, Line, Subject};

/// What a book knows of its lease.
#[derive(Debug)]
pub(super) struct Sharing {
    pub(super) term: Term,
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

/// What a request needs to have on lease.
#[derive(Debug, Clone)]
pub struct Wish {
    claim: Claim,
    /// Those of its scopes that have bounds, and do not count it yet.
    scopes: Vec<Scope>,
    /// Allocations that it holds a share of already.
    held: Vec<Arc<str>>,
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

    /// All that a request needs that is not let in yet.
    #[must_use]
    pub fn whole(&self, claim: &Claim) -> Wish {
        Wish {
            scopes: self.metered(claim.scopes()),
            claim: claim.clone(),
            held: Vec::new(),
        }
    }

    /// What an open charge needs at `site` beyond what it holds; `None` for one that is not open.
    #[must_use]
    pub fn elsewhere(&self, id: ChargeId, site: &Arc<str>) -> Option<Wish> {
        let pending = self.pending.get(&id)?;
        let changes = pending.claim.site != *site;
        let scope = changes.then(|| Scope::Site(Arc::clone(site)));
        let held = pending.holds.iter();
        Some(Wish {
            scopes: self.metered(scope.into_iter()),
            claim: Claim {
                site: Arc::clone(site),
                ..pending.claim.clone()
            },
            held: held.map(|hold| Arc::clone(&hold.allocation)).collect(),
        })
    }

    /// Notes what of `wish` is not here and the store may have. True where it is worth to wait for the next round.
    pub fn want(&mut self, wish: &Wish, at: Moment) -> bool {
        let Some(sharing) = &mut self.sharing else {
            return false;
        };
        if sharing.term.is_away() {
            // There is nobody to ask.
            return false;
        }
        if !sharing.term.holds(at.now) {
            return true;
        }
        self.activate(&wish.claim);
        let mut short = false;
        for scope in &wish.scopes {
            if let Some(meter) = self.meters.get_mut(scope) {
                short |= meter.want(wish.claim.bound, at.now);
            }
        }
        let bound = self.bound_of(&wish.claim);
        for id in self.wanted(wish, bound, at) {
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
    pub fn lacks(&self, wish: &Wish, at: Moment) -> bool {
        let mut meters = wish
            .scopes
            .iter()
            .filter_map(|scope| self.meters.get(scope));
        let bound = self.bound_of(&wish.claim);
        self.lease_holds(at.now)
            && (meters.any(|meter| meter.lacks(wish.claim.bound, at.now))
                || !self.wanted(wish, bound, at).is_empty())
    }

    /// Whoever waited for this got nothing: for a while nobody needs to ask.
    pub fn dry(&mut self, wish: &Wish, at: Moment) {
        for scope in &wish.scopes {
            if let Some(meter) = self.meters.get_mut(scope) {
                meter.dry(wish.claim.bound, at.now);
            }
        }
        let bound = self.bound_of(&wish.claim);
        for id in self.wanted(wish, bound, at) {
            let allocation = self.allocations.get_mut(&id);
            if let Some(slice) = allocation.and_then(Allocation::slice_mut) {
                slice.dry(at.now);
            }
        }
    }

    /// Lets a round come soon for what an open charge found missing at `site`: whoever picks it next may find it on lease.
    pub fn want_soon(&mut self, id: ChargeId, site: &Arc<str>, at: Moment) {
        let Some(wish) = self.elsewhere(id, site) else {
            return;
        };
        let wanted = self.want(&wish, at);
        if let Some(sharing) = &mut self.sharing {
            sharing.hurry |= wanted;
        }
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

    /// The allocations that `wish` needs more of than is at hand: for each tenant and currency the first that may have it.
    fn wanted(&self, wish: &Wish, bound: Amounts, at: Moment) -> Vec<Arc<str>> {
        let (claim, mut wanted) = (&wish.claim, Vec::new());
        for tenant in claim.account.tenants() {
            for currency in Currency::ALL {
                let need = bound.of(currency).max(1);
                for found in self.candidates(tenant, currency, claim, at) {
                    if found.left() >= need || wish.held.contains(&found.grant().id) {
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
    pub(super) fn candidates<'a>(
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

    pub(super) fn has_any(&self, tenant: &str, currency: Currency) -> bool {
        let ids = self.granted.get(tenant).into_iter().flatten();
        let mut found = ids.filter_map(|id| self.allocations.get(id));
        found.any(|found| found.grant().currency == currency)
    }

    /// The most that a claim can come to, as far as that can be known ahead.
    pub(super) fn bound_of(&self, claim: &Claim) -> Amounts {
        bound(claim, self.price(&claim.model, &claim.site))
    }

    /// From now on rounds tell of all that `claim` may draw on.
    pub(super) fn activate(&mut self, claim: &Claim) {
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
    pub(super) fn look_ahead(&mut self, claim: &Claim) {
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
