//! What is left for one account, as answers' headers and the usage endpoint say it.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::Quota;
use super::allocation::Allocation;
use super::amount::Currency;
use super::book::Book;
use super::charge::{Account, Moment, Scope, scopes_of};
use super::meter::Bound;
use super::rate::Rate;

/// What one request's answer tells of its rates: those of the scope with the least left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Of requests in a minute.
    pub requests: Option<Level>,
    /// Of tokens in a minute.
    pub tokens: Option<Level>,
    /// An allocation that is past its soft limit: id, percent spent.
    pub warning: Option<(Arc<str>, u64)>,
}

/// How full a rate's bucket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// What it holds.
    pub limit: u64,
    /// What could be taken at once.
    pub remaining: u64,
    /// Time until it is full.
    pub reset: Duration,
}

impl Level {
    fn of(rate: &Rate, now: Duration) -> Self {
        Self {
            limit: rate.per_minute(),
            remaining: rate.remaining(now),
            reset: rate.reset_after(now),
        }
    }
}

/// All that is left for one account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Always `usage`.
    pub object: &'static str,
    /// The organisation.
    pub organisation: Arc<str>,
    /// The project.
    pub project: Option<Arc<str>>,
    /// Id of the key.
    pub key: Arc<str>,
    /// Bounds of a minute.
    pub rates: Vec<RateUsage>,
    /// Allocations of the project and of its organisation.
    pub allocations: Vec<AllocationUsage>,
}

/// One rate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RateUsage {
    /// `key`, `tenant`, `model` or `site`.
    pub scope: &'static str,
    /// Id of that.
    pub id: Arc<str>,
    /// What is bounded.
    pub bound: Bound,
    /// Units in a minute.
    pub limit: u64,
    /// Units that could be taken at once.
    pub remaining: u64,
    /// Milliseconds until all of them could.
    pub reset_ms: u64,
}

/// One allocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AllocationUsage {
    /// Its id.
    pub id: Arc<str>,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// Where it is good; anywhere where null.
    pub site: Option<Arc<str>>,
    /// What it is counted in.
    pub currency: Currency,
    /// So many of the units below are one whole unit.
    pub units: u64,
    /// Granted for this period.
    pub amount: u64,
    /// Carried over from the one before.
    pub carried: u64,
    /// What may be spent beyond these.
    pub overdraft: u64,
    /// Settled.
    pub posted: u64,
    /// Held by requests that run.
    pub reserved: u64,
    /// What can still be reserved.
    pub left: u64,
    /// Seconds since the epoch.
    pub starts_at: i64,
    /// Seconds since the epoch; null for never.
    pub ends_at: Option<i64>,
    /// When the next period begins, seconds since the epoch; null for never.
    pub renews_at: Option<i64>,
}

impl From<&Allocation> for AllocationUsage {
    fn from(allocation: &Allocation) -> Self {
        let (grant, balance) = (allocation.grant(), allocation.balance());
        Self {
            id: Arc::clone(&grant.id),
            tenant: Arc::clone(&grant.tenant),
            site: grant.site.clone(),
            currency: grant.currency,
            units: grant.currency.units(),
            amount: grant.amount,
            carried: balance.carried,
            overdraft: grant.overdraft,
            posted: balance.posted,
            reserved: allocation.reserved(),
            left: allocation.unspent(),
            starts_at: grant.start_s,
            ends_at: (grant.end_s != i64::MAX).then_some(grant.end_s),
            renews_at: allocation.renews_at(),
        }
    }
}

impl Quota {
    /// What an answer to this account tells.
    #[must_use]
    pub fn standing(&self, account: &Account, model: &Arc<str>) -> Standing {
        let of_model = Scope::Model(Arc::clone(model));
        let of_site = Scope::Site(Arc::clone(&self.options().site));
        let scopes = scopes_of(account).chain([of_model, of_site]);
        self.with_book(|book, at| Standing {
            warning: warning(book, account, at),
            ..levels(book, scopes, at.now)
        })
    }

    /// All that is left for this account.
    #[must_use]
    pub fn usage(&self, account: &Account) -> Usage {
        self.with_book(|book, at| Usage {
            object: "usage",
            organisation: Arc::clone(&account.organisation),
            project: account.project.clone(),
            key: Arc::clone(&account.key),
            rates: scopes_of(account)
                .flat_map(|scope| rates(book, &scope, at.now))
                .collect(),
            allocations: account
                .tenants()
                .flat_map(|tenant| {
                    let found = book.allocations_of(tenant, at);
                    found
                        .into_iter()
                        .map(AllocationUsage::from)
                        .collect::<Vec<_>>()
                })
                .collect(),
        })
    }
}

fn levels(book: &Book, scopes: impl Iterator<Item = Scope>, now: Duration) -> Standing {
    let mut standing = Standing::default();
    for scope in scopes {
        let Some(meter) = book.meter(&scope) else {
            continue;
        };
        for (bound, rate) in meter.rates() {
            let level = Level::of(rate, now);
            let told = match bound {
                Bound::Requests => &mut standing.requests,
                Bound::Tokens => &mut standing.tokens,
                _ => continue,
            };
            if told.is_none_or(|told| level.remaining < told.remaining) {
                *told = Some(level);
            }
        }
    }
    standing
}

fn warning(book: &mut Book, account: &Account, at: Moment) -> Option<(Arc<str>, u64)> {
    account.tenants().find_map(|tenant| {
        let found = book.allocations_of(tenant, at);
        let past = found.into_iter().find(|found| found.is_past_soft_limit())?;
        let granted = past.grant().amount.saturating_add(past.balance().carried);
        let spent = u128::from(past.balance().posted.saturating_add(past.reserved()));
        let percent = (spent * 100)
            .checked_div(u128::from(granted))
            .unwrap_or(100);
        let percent = u64::try_from(percent).unwrap_or(u64::MAX);
        Some((Arc::clone(&past.grant().id), percent))
    })
}

fn rates(book: &Book, scope: &Scope, now: Duration) -> Vec<RateUsage> {
    let Some(meter) = book.meter(scope) else {
        return Vec::new();
    };
    let (name, id) = scope.named();
    let rates = meter.rates().map(|(bound, rate)| {
        let level = Level::of(rate, now);
        RateUsage {
            scope: name,
            id: Arc::clone(id),
            bound,
            limit: level.limit,
            remaining: level.remaining,
            reset_ms: u64::try_from(level.reset.as_millis()).unwrap_or(u64::MAX),
        }
    });
    rates.collect()
}
