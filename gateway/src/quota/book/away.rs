//! Who may begin where gateways share: by what is on lease here, and while their store is away as each tenant has it.

use std::sync::Arc;

use super::Book;
use crate::quota::amount::Currency;
use crate::quota::charge::{
    Account, ChargeId, Claim, Hold, Moment, Pending, Refusal, Scope, scopes_of,
};
use crate::quota::lease::term::StoreAway;
use crate::quota::meter::{Bound, Short};
use crate::quota::rate::Refused;

impl Book {
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
            (Err(refusal), None) if is_away => Err(refusal.unheard()),
            (Err(refusal), None) => Err(refusal),
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

    /// What the nearest of key, project and organisation says, and which of them.
    fn store_away(&self, account: &Account) -> Option<(StoreAway, Scope)> {
        scopes_of(account).find_map(|scope| {
            let said = self.meters.get(&scope)?.store_away()?;
            Some((said, scope))
        })
    }
}
