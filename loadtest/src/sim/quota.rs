//! What tenants may use: rates and allocations of the gateway's own `quota`, without its store.

use std::time::Duration;

use hansa_gateway::quota::allocation::{Allocation, Grant};
use hansa_gateway::quota::amount::Currency;
use hansa_gateway::quota::rate::Rate;

use super::plan;

/// Tokens of an answer that are reserved where the client names no bound.
const OUTPUT_RESERVED: u64 = 1_024;

/// What one tenant may use, and what is spent of it.
#[derive(Debug)]
pub(super) struct Account {
    rate: Option<Rate>,
    /// By the site's place.
    allocations: Vec<(usize, Allocation)>,
}

/// What a request holds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Hold {
    bound: u64,
    taken: Duration,
    /// Where its site's allocation is held.
    site: Option<usize>,
}

impl Account {
    pub(super) fn new(tenant: &plan::Tenant) -> Self {
        let allocation = |(site, amount): &(usize, u64)| {
            let grant = Grant {
                id: tenant.name.clone(),
                tenant: tenant.name.clone(),
                site: None,
                currency: Currency::Tokens,
                amount: *amount,
                overdraft: 0,
                soft_percent: 100,
                start_s: 0,
                end_s: i64::MAX,
                renew_days: 0,
                carry_over_percent: 0,
            };
            (*site, Allocation::new(grant))
        };
        Self {
            rate: tenant.tokens_per_minute.map(Rate::new),
            allocations: tenant.allocations.iter().map(allocation).collect(),
        }
    }

    /// Takes what a request may use from the rate; `None` where that is not there.
    pub(super) fn reserve(
        &mut self,
        prompt: u64,
        max_tokens: Option<u32>,
        now: Duration,
    ) -> Option<Hold> {
        let bound = prompt + max_tokens.map_or(OUTPUT_RESERVED, u64::from);
        if let Some(rate) = &mut self.rate {
            rate.check(bound, now).ok()?;
            rate.take(bound, now);
        }
        Some(Hold {
            bound,
            taken: now,
            site: None,
        })
    }

    /// Whether a site has enough left for a request.
    pub(super) fn allows(&self, site: usize, hold: &Hold) -> bool {
        let of = self.allocations.iter().find(|(place, _)| *place == site);
        of.is_none_or(|(_, allocation)| allocation.left() >= hold.bound)
    }

    /// A request goes to a site: that one's allocation holds it now, and no other.
    pub(super) fn move_to(&mut self, site: usize, hold: &mut Hold) {
        self.release(hold);
        if let Some(allocation) = self.allocation(site) {
            allocation.hold(hold.bound);
            hold.site = Some(site);
        }
    }

    /// A request used so many tokens.
    pub(super) fn post(&mut self, hold: &mut Hold, used: u64, now: Duration) {
        let bound = hold.bound;
        if let Some(site) = hold.site.take()
            && let Some(allocation) = self.allocation(site)
        {
            allocation.post(bound, used);
        }
        if let Some(rate) = &mut self.rate {
            rate.give_back(bound.saturating_sub(used), hold.taken, now);
        }
    }

    /// Whether nothing was promised twice (L1).
    pub(super) fn is_consistent(&self) -> bool {
        let mut all = self.allocations.iter();
        all.all(|(_, allocation)| allocation.holds_l1())
    }

    fn release(&mut self, hold: &mut Hold) {
        let bound = hold.bound;
        if let Some(site) = hold.site.take()
            && let Some(allocation) = self.allocation(site)
        {
            allocation.release(bound);
        }
    }

    fn allocation(&mut self, site: usize) -> Option<&mut Allocation> {
        let mut all = self.allocations.iter_mut();
        all.find(|(place, _)| *place == site).map(|(_, a)| a)
    }
}
