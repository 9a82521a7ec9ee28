//! What a request is to quota: whose it is, what it asks for, what is held for it, and what it came to.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::allocation::Total;
use super::amount::{Amounts, Currency, Price, Tokens};
use super::meter::{Bound, Short};
use crate::upstream::Usage;

/// Id of a charge, made by this server and by nobody else: what is settled under it is settled once.
pub type ChargeId = Uuid;

/// What time it is, on both clocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moment {
    /// Monotonic: rates and durations.
    pub now: Duration,
    /// Seconds since the epoch: periods of allocations.
    pub unix_s: i64,
}

/// Whose account a request goes to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Account {
    /// Id of the key.
    pub key: Arc<str>,
    /// `organisation/project`; `None` where the key belongs to the organisation itself.
    pub project: Option<Arc<str>>,
    /// The organisation.
    pub organisation: Arc<str>,
}

impl Account {
    /// The tenants that the request counts for: the project where there is one, and its organisation.
    pub fn tenants(&self) -> impl Iterator<Item = &Arc<str>> {
        self.project.iter().chain([&self.organisation])
    }

    /// The project, or the organisation where there is none.
    #[must_use]
    pub fn tenant(&self) -> &Arc<str> {
        self.project.as_ref().unwrap_or(&self.organisation)
    }
}

/// What has bounds of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// A key, by id.
    Key(Arc<str>),
    /// An organisation, or a project as `organisation/project`.
    Tenant(Arc<str>),
    /// A model, whoever asks for it.
    Model(Arc<str>),
    /// A site, whoever is served there.
    Site(Arc<str>),
}

impl Scope {
    /// What it is, and which.
    #[must_use]
    pub const fn named(&self) -> (&'static str, &Arc<str>) {
        match self {
            Self::Key(id) => ("key", id),
            Self::Tenant(id) => ("tenant", id),
            Self::Model(id) => ("model", id),
            Self::Site(id) => ("site", id),
        }
    }
}

/// What a request asks for, at most.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Whose it is.
    pub account: Arc<Account>,
    /// The model.
    pub model: Arc<str>,
    /// The site that is to serve it.
    pub site: Arc<str>,
    /// Upper bound of its tokens.
    pub bound: Tokens,
}

impl Claim {
    /// All that the request counts for.
    pub(super) fn scopes(&self) -> impl Iterator<Item = Scope> {
        let of_account = scopes_of(&self.account);
        let of_place = [
            Scope::Model(Arc::clone(&self.model)),
            Scope::Site(Arc::clone(&self.site)),
        ];
        of_account.chain(of_place)
    }
}

/// The scopes of an account alone.
pub(super) fn scopes_of(account: &Account) -> impl Iterator<Item = Scope> {
    let key = Scope::Key(Arc::clone(&account.key));
    let tenants = account
        .tenants()
        .map(|tenant| Scope::Tenant(Arc::clone(tenant)));
    std::iter::once(key).chain(tenants)
}

/// Why a request may not begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A rate or a number of requests is used up for the moment, or never has room for that much.
    Limit {
        /// Whose it is.
        scope: Scope,
        /// Which one, and for how long.
        short: Short,
    },
    /// An allocation has not enough left.
    Exhausted {
        /// Its id.
        allocation: Arc<str>,
    },
    /// The tenant has allocations, and none for this site.
    NotHere {
        /// The site.
        site: Arc<str>,
    },
    /// The store that gateways share does not answer, and nothing is on lease here.
    Away,
    /// So many charges are open that the ledger could not take one more.
    Busy,
}

impl Refusal {
    /// The same where the store that gateways share did not say what is left: nobody knows then that it is too little.
    #[must_use]
    pub fn unheard(self) -> Self {
        match self {
            Self::Exhausted { .. } => Self::Away,
            // Whoever waits is counted here alone, and what never fits is not a matter of what is left.
            Self::Limit { short, .. } if short.bound != Bound::Queued && short.wait.is_some() => {
                Self::Away
            }
            known => known,
        }
    }
}

/// What was held of one allocation.
#[derive(Debug, Clone)]
pub(super) struct Hold {
    pub(super) allocation: Arc<str>,
    pub(super) currency: Currency,
    pub(super) amount: u64,
}

/// A charge that is open.
#[derive(Debug, Clone)]
pub struct Pending {
    pub(super) claim: Claim,
    pub(super) scopes: Vec<Scope>,
    pub(super) holds: Vec<Hold>,
    pub(super) price: Price,
    pub(super) taken: Moment,
    pub(super) started: bool,
    /// Whether the share of its site is held. Until it is, the site is but the one that it came to, and it cannot be
    /// served: it waits for a pick.
    pub(super) placed: bool,
}

impl Pending {
    /// What it asked for.
    #[must_use]
    pub const fn claim(&self) -> &Claim {
        &self.claim
    }

    /// When it was let in.
    #[must_use]
    pub const fn taken(&self) -> Moment {
        self.taken
    }
}

/// What a request used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Tokens.
    pub tokens: Tokens,
    /// Microseconds of accelerators, as far as told.
    pub gpu_us: u64,
    /// Thousandths of a joule, as far as told.
    pub millijoules: u64,
    /// Millionths of a gram of CO2, as far as told.
    pub micrograms: u64,
    /// Whether the tokens were counted from events, because whoever served told none.
    pub estimated: bool,
}

impl Spent {
    /// What it comes to at this price.
    #[must_use]
    pub fn at(self, price: Price) -> Amounts {
        Amounts {
            tokens: self.tokens.total(),
            gpu_us: self.gpu_us,
            money_micros: price.of(self.tokens),
            millijoules: self.millijoules,
        }
    }
}

impl From<Usage> for Spent {
    fn from(usage: Usage) -> Self {
        Self {
            tokens: usage.into(),
            gpu_us: usage.gpu_us.unwrap_or_default().into(),
            millijoules: usage.millijoules.unwrap_or_default().into(),
            micrograms: usage.micrograms.unwrap_or_default().into(),
            estimated: usage.estimated,
        }
    }
}

/// What a settled charge came to.
#[derive(Debug, Clone)]
pub struct Posted {
    /// The charge as it was open.
    pub pending: Pending,
    /// What it used.
    pub amounts: Amounts,
    /// What was drawn, by allocation and period.
    pub drawn: Vec<(Arc<str>, u64, Total)>,
}
