//! What a life that is over left open: counted once somebody tells what it used, whether there is room for it or not.

use std::sync::Arc;

use super::{Book, bound};
use crate::quota::allocation::{Allocation, Total};
use crate::quota::amount::{Amounts, Currency};
use crate::quota::charge::{ChargeId, Claim, Hold, Moment, Pending, Spent};
use crate::quota::lease::Size;
use crate::quota::ledger::Drawn;

/// What a charge of another gateway's life comes to.
#[derive(Debug)]
pub struct Left {
    /// At the price of this moment.
    pub amounts: Amounts,
    /// From which allocations it is drawn, and how large each of them is. What of it is beyond them the store knows.
    pub drawn: Vec<(Drawn, Size)>,
}

impl Book {
    /// Opens a charge that an earlier life of this server let in at `began_s`: nothing is refused, and only what is left is
    /// held. It is to be posted at once.
    pub fn recover(&mut self, id: ChargeId, claim: Claim, began_s: i64, at: Moment) {
        self.roll_for(&claim, at);
        let price = self.price(&claim.model, &claim.site);
        let need = bound(&claim, price);
        let hold = |found: &Allocation| Hold {
            allocation: Arc::clone(&found.grant().id),
            currency: found.grant().currency,
            amount: need.of(found.grant().currency).min(found.left()),
        };
        let holds = self.owed(&claim, at.unix_s).map(hold).collect();
        let taken = Moment {
            unix_s: began_s,
            ..at
        };
        let pending = Pending {
            scopes: Vec::new(),
            holds,
            price,
            taken,
            started: true,
            placed: true,
            claim,
        };
        self.begin(id, pending);
    }

    /// What a charge of another gateway's life comes to, which used `spent`. Changes nothing: the store counts it.
    pub fn left_open(&mut self, claim: &Claim, spent: Spent, at: Moment) -> Left {
        self.roll_for(claim, at);
        let amounts = spent.at(self.price(&claim.model, &claim.site));
        let drawn = |found: &Allocation| {
            let total = Total {
                posted: amounts.of(found.grant().currency),
                excess: 0,
            };
            let drawn = Drawn {
                allocation: Arc::clone(&found.grant().id),
                period: found.balance().period,
                total,
            };
            (drawn, found.size())
        };
        let drawn = self.owed(claim, at.unix_s).map(drawn).collect();
        Left { amounts, drawn }
    }

    /// The allocations that a claim is paid from, whether there is enough or not: one for each tenant and currency.
    fn owed<'a>(
        &'a self,
        claim: &'a Claim,
        unix_s: i64,
    ) -> impl Iterator<Item = &'a Allocation> + 'a {
        let each = claim.account.tenants().flat_map(|tenant| {
            let currencies = Currency::ALL.into_iter();
            currencies.map(move |currency| (tenant, currency))
        });
        each.filter_map(move |(tenant, currency)| {
            let ids = self.granted.get(tenant).into_iter().flatten();
            let open = ids.filter_map(|id| self.allocations.get(id));
            let open = open.filter(|found| {
                let grant = found.grant();
                let there = grant.site.as_ref().is_none_or(|site| *site == claim.site);
                there && grant.currency == currency && found.is_open(unix_s)
            });
            // The site's own before those for any.
            open.max_by_key(|found| found.grant().site.is_some())
        })
    }

    fn roll_for(&mut self, claim: &Claim, at: Moment) {
        for tenant in claim.account.tenants() {
            let _ = self.allocations_of(tenant, at);
        }
    }
}
