//! Leases: how several gateways share one quota without asking anyone while they serve.
//!
//! What is shared stands in a store as [`pool::Pool`]s: one for each allocation and period, each rate and each bound of
//! requests at once. A gateway borrows a [`slice::Slice`] of each pool that it spends from, sized by what it spent lately,
//! and tells the store in rounds what became of it. All of this is arithmetic: no clock, task or connection.
//!
//! **Time.** A lease holds for a `ttl`. The holder stops using it two thirds after it last began a round that succeeded,
//! by its own monotonic clock ([`term`]). Who judges that a lease is over is one gateway, the grantor ([`grantor`]), on
//! its monotonic clock; it waits the whole ttl out, and so does a new one. Wall clocks decide nothing.
//!
//! **Bound.** While every gateway reaches the store within a ttl, nothing is admitted beyond a pool. A gateway that is cut
//! off for longer admits nothing new, but requests that it had let in may still run when its lease is given to others:
//! over-admission is at most what these had reserved, which is at most what it had on lease. A tenant with
//! `store_away = open` adds what that says for each gateway and minute.

pub mod grantor;
pub mod keeper;
pub mod late;
pub mod pool;
pub mod slice;
pub mod term;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Serialize;
use tokio::sync::watch;
use uuid::Uuid;

use self::late::Late;
use super::charge::Scope;
use super::ledger::LedgerError;
use super::meter::Bound;

/// What is shared: one pool in the store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Subject {
    /// Which kind.
    pub kind: Kind,
    /// Id of the allocation, or kind and id of the scope.
    pub name: Arc<str>,
    /// Number of the allocation's period; 0 for the others.
    pub period: u64,
}

/// Kinds of pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An allocation in one period.
    Allocation,
    /// Requests in a minute.
    Requests,
    /// Tokens of prompts in a minute.
    InputTokens,
    /// Tokens of completions in a minute.
    OutputTokens,
    /// Tokens of both in a minute.
    Tokens,
    /// Requests at once.
    Concurrent,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Allocation,
        Self::Requests,
        Self::InputTokens,
        Self::OutputTokens,
        Self::Tokens,
        Self::Concurrent,
    ];

    /// That of a bound; `None` for those that each gateway counts alone.
    #[must_use]
    pub const fn of(bound: Bound) -> Option<Self> {
        match bound {
            Bound::Requests => Some(Self::Requests),
            Bound::InputTokens => Some(Self::InputTokens),
            Bound::OutputTokens => Some(Self::OutputTokens),
            Bound::Tokens => Some(Self::Tokens),
            Bound::Concurrent => Some(Self::Concurrent),
            // Whoever waits, waits at one gateway: its queue is its own.
            Bound::Queued => None,
        }
    }

    /// Its name in stores.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allocation => "allocation",
            Self::Requests => "requests",
            Self::InputTokens => "input_tokens",
            Self::OutputTokens => "output_tokens",
            Self::Tokens => "tokens",
            Self::Concurrent => "concurrent",
        }
    }
}

impl Subject {
    /// An allocation in a period.
    #[must_use]
    pub const fn allocation(id: Arc<str>, period: u64) -> Self {
        Self {
            kind: Kind::Allocation,
            name: id,
            period,
        }
    }

    /// One bound of a scope; `None` for those that each gateway counts alone.
    #[must_use]
    pub fn of(scope: &Scope, bound: Bound) -> Option<Self> {
        let (what, id) = scope.named();
        Some(Self {
            kind: Kind::of(bound)?,
            name: format!("{what} {id}").into(),
            period: 0,
        })
    }
}

/// How large a pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// So much in all, in smallest units.
    Stock {
        /// Granted for each period.
        amount: u64,
        /// What may be spent beyond.
        overdraft: u64,
        /// Percent of what is left that goes over into the next period.
        carry_over_percent: u8,
    },
    /// So much in each minute.
    Flow {
        /// Units.
        per_minute: u64,
    },
    /// So many at once.
    Slots {
        /// Units.
        max: u64,
    },
}

/// What a gateway tells of one slice in a round, and asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Of which pool.
    pub subject: Subject,
    /// Its size, by the gateway's config.
    pub size: Size,
    /// Used up since the last round. Allocations tell that with their records.
    pub spent: u64,
    /// Of what was told as spent, given back: requests that used less than they had reserved.
    pub refunded: u64,
    /// Given back without having been used.
    pub returned: u64,
    /// Asked for by requests that wait for it.
    pub need: u64,
    /// The least of that which is of any use: where there is less than the whole need, a multiple of this is lent.
    pub least: u64,
    /// Asked for to have some at hand.
    pub surplus: u64,
}

/// What the store says to a [`Line`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Of which pool.
    pub subject: Subject,
    /// Lent now.
    pub granted: u64,
    /// Settled by all gateways.
    pub posted: u64,
    /// Of that, beyond what had been reserved.
    pub excess: u64,
    /// Carried over into the period.
    pub carried: u64,
    /// Lent to nobody after this.
    pub free: u64,
    /// Lent to other gateways.
    pub elsewhere: u64,
    /// The most that may lie idle at one gateway.
    pub share: u64,
    /// Time until a rate is full again.
    pub full_in: Duration,
    /// Whether a later period of the allocation has begun.
    pub is_closed: bool,
}

impl Answer {
    /// Whether what `line` waits for is not there, and other gateways may have it.
    #[must_use]
    pub const fn lacks(&self, line: &Line) -> bool {
        self.granted < line.need && self.elsewhere > 0
    }
}

/// What a gateway holds of a pool when it enlists: requests that it let in before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// Of which pool.
    pub subject: Subject,
    /// Its size.
    pub size: Size,
    /// How much.
    pub amount: u64,
}

/// What one gateway has on lease of one pool, as the store has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leased {
    /// The gateway's lease; another one each time that it begins anew.
    pub gateway: Uuid,
    /// Whether it is that of the gateway that was asked.
    pub here: bool,
    /// Of which pool.
    #[serde(flatten)]
    pub subject: Subject,
    /// How much, in smallest units.
    pub amount: u64,
    /// Since it was renewed last, by the store's time; milliseconds.
    pub age_ms: u64,
    /// After so much of that it is ended; milliseconds.
    pub ttl_ms: u64,
}

/// The store did not answer. What was asked may have been done or not: the gateway enlists anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store of quotas does not answer")]
pub struct Away;

/// The store as its gateways see it. Calls take their place in its queue at once, in order with the records of
/// [`super::ledger::Ledger::append`]; only the answer is awaited.
pub trait Lessor: Send + Sync + fmt::Debug {
    /// Gives up all leases of before and holds `holdings`, whether there is room for them or not. What is not settled yet
    /// of records that were appended before this is held as well.
    fn enlist(&self, holdings: Vec<Holding>) -> BoxFuture<'static, Result<(), Away>>;

    /// One round: renews the lease and answers each line.
    fn exchange(&self, lines: Vec<Line>) -> BoxFuture<'static, Result<Vec<Answer>, Away>>;

    /// Gives up all leases and says goodbye, once all that was appended is settled.
    fn leave(&self) -> BoxFuture<'static, Result<(), Away>>;

    /// Resolves when the store can be reached.
    fn reachable(&self) -> BoxFuture<'static, ()>;

    /// Resolves when a round should begin before its time, with what other gateways lack that may lie idle here.
    fn called(&self) -> BoxFuture<'static, HashSet<Subject>>;

    /// How long a lease holds: seconds.
    fn ttl(&self) -> Duration;

    /// This life of the gateway, by which others know what it let in.
    fn run(&self) -> Uuid;

    /// How many lives of gateways have ended without a goodbye and may have left charges open, as of the last round.
    fn left_behind(&self) -> watch::Receiver<u64>;

    /// Which lives these are. Blocks: call it off the event loop.
    ///
    /// # Errors
    /// [`LedgerError`], where the store does not answer.
    fn ended_runs(&self) -> Result<Vec<Uuid>, LedgerError>;

    /// Settles what such lives left open, each once, whether there is room for it or not; which of `found` need no longer be
    /// kept. Blocks: call it off the event loop.
    ///
    /// # Errors
    /// [`LedgerError`]; some may be settled all the same.
    fn settle_late(&self, found: Vec<Late>) -> Result<Vec<bool>, LedgerError>;

    /// Everything that is out on lease, at most `limit` lines. Blocks: call it off the event loop.
    ///
    /// # Errors
    /// [`LedgerError`], where the store does not answer.
    fn leases(&self, limit: usize) -> Result<Vec<Leased>, LedgerError>;
}

#[cfg(test)]
mod tests;
