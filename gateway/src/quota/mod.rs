//! Quota: who may spend what where, exact under concurrency, crash and abort.
//!
//! Two currencies. *Rate* (requests and tokens a minute, requests at once) is a matter of the moment and lives in memory.
//! *Allocation* (tokens, money, time, energy for a project, site and period) is a matter of record: what is settled
//! stands in the [`ledger`]. Both are taken together in the [`book`], which knows no clock, lock or store, before a
//! request enters any queue, as an upper bound; when the request ends, what it really used is settled and the rest
//! given back. This file is the handle that the server shares.

pub mod allocation;
pub mod amount;
pub mod book;
pub mod charge;
mod draw;
pub mod export;
mod found;
pub mod invariants;
pub mod lease;
pub mod ledger;
pub mod meter;
pub mod open;
pub mod rate;
pub mod reservation;
pub mod retention;
pub mod standing;
pub mod store;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use uuid::{Timestamp, Uuid};

use self::amount::Tokens;
use self::book::Book;
use self::charge::{Account, ChargeId, Claim, Moment, Refusal, Spent};
use self::lease::keeper::Rounds;
use self::lease::{Leased, Lessor};
use self::ledger::{Drawn, Ledger, LedgerError, Outcome, Record, Served};
use self::reservation::{By, Reservation, Slip};
use crate::clock::Clock;
use crate::limits::RESERVATIONS_MAX;
use crate::route::means::Means;

/// The quota of one server. Clones share it.
#[derive(Clone)]
pub struct Quota {
    shared: Arc<Shared>,
}

struct Shared {
    /// Held for a few microseconds, never across an await.
    book: Mutex<Book>,
    ledger: Arc<dyn Ledger>,
    clock: Clock,
    options: Options,
    numbers: Numbers,
    /// Where other gateways spend from the same.
    rounds: Option<Rounds>,
    /// The ledger's id, where it has one, and this life of the server.
    lives: (Option<Uuid>, Uuid),
}

/// What quota needs to know of its server.
#[derive(Debug, Clone)]
pub struct Options {
    /// The site that this server is.
    pub site: Arc<str>,
    /// The name that routing has for it.
    pub home: Arc<str>,
    /// Tokens that a choice may have where the client names no number.
    pub default_max_tokens: u32,
    /// Version of the rules that its config sets; `None` without a config.
    pub policy: Option<Arc<str>>,
}

impl Quota {
    /// Quota by `book`, recorded in `ledger`.
    #[must_use]
    pub fn new(book: Book, ledger: Arc<dyn Ledger>, clock: Clock, options: Options) -> Self {
        Self::of(book, ledger, clock, options, None)
    }

    /// The same, shared with other gateways through `lessor`. Nothing is let in before [`Quota::keep_leases`] runs.
    #[must_use]
    pub fn shared(
        mut book: Book,
        ledger: Arc<dyn Ledger>,
        clock: Clock,
        options: Options,
        lessor: Arc<dyn Lessor>,
    ) -> Self {
        book.share(lessor.ttl());
        Self::of(book, ledger, clock, options, Some(Rounds::new(lessor)))
    }

    fn of(
        book: Book,
        ledger: Arc<dyn Ledger>,
        clock: Clock,
        options: Options,
        rounds: Option<Rounds>,
    ) -> Self {
        let run = rounds.as_ref().map(|rounds| rounds.lessor().run());
        let lives = (ledger.owner(), run.unwrap_or_else(Uuid::new_v4));
        Self {
            shared: Arc::new(Shared {
                book: Mutex::new(book),
                ledger,
                clock,
                options,
                numbers: Numbers::new(),
                rounds,
                lives,
            }),
        }
    }

    /// Keeps what other gateways share with this one on lease, for as long as it is polled; at once where nobody does.
    pub async fn keep_leases(self) {
        if let Some(rounds) = &self.shared.rounds {
            rounds.keep(&self).await;
        }
    }

    /// Brings up to date what is known of an account's allocations, or of all, where gateways share them: before they are
    /// shown to somebody.
    pub async fn look(&self, account: Option<&Account>) {
        if let Some(rounds) = &self.shared.rounds {
            rounds.look(self, account).await;
        }
    }

    /// Times that a request waited for the store that gateways share; in the steady state none does.
    #[must_use]
    pub fn lease_waits(&self) -> u64 {
        self.shared.rounds.as_ref().map_or(0, Rounds::waits)
    }

    /// Everything that is out on lease where gateways share, at most `limit` lines; nothing elsewhere. Blocks: call it off
    /// the event loop.
    ///
    /// # Errors
    /// [`LedgerError`], where the store does not answer.
    pub fn leases(&self, limit: usize) -> Result<Vec<Leased>, LedgerError> {
        let rounds = self.shared.rounds.as_ref();
        rounds.map_or(Ok(Vec::new()), |rounds| rounds.lessor().leases(limit))
    }

    /// Gives all leases back; nothing may be open any more.
    pub async fn leave(&self) {
        if let Some(rounds) = &self.shared.rounds {
            rounds.leave().await;
        }
    }

    /// As [`Quota::reserve`]; where gateways share, what is not at hand is asked for first.
    ///
    /// # Errors
    /// [`Refusal`], and nothing is held.
    pub async fn admit(
        &self,
        account: &Arc<Account>,
        model: &Arc<str>,
        bound: Tokens,
        slip: Slip,
    ) -> Result<Reservation, Refusal> {
        let Some(rounds) = &self.shared.rounds else {
            return self.reserve(account, model, bound, slip);
        };
        let claim = self.claim(account, model, bound);
        let is_answered = rounds.prepare(self, &claim).await;
        let reserved = self.reserve(account, model, bound, slip);
        match is_answered {
            true => reserved,
            false => reserved.map_err(Refusal::unheard),
        }
    }

    /// What it needs to know of its server.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.shared.options
    }

    /// Who keeps the records.
    #[must_use]
    pub fn ledger(&self) -> &Arc<dyn Ledger> {
        &self.shared.ledger
    }

    /// Whether even the smallest request would be refused, before any work is done for it.
    ///
    /// # Errors
    /// [`Refusal`] of that.
    pub fn check(&self, account: &Arc<Account>, model: &Arc<str>) -> Result<(), Refusal> {
        let claim = self.claim(account, model, Tokens::default());
        self.with_book(|book, at| book.check(&claim, at))
    }

    /// Holds what a request may use at most, at this server's own site.
    ///
    /// # Errors
    /// [`Refusal`], and nothing is held.
    pub fn reserve(
        &self,
        account: &Arc<Account>,
        model: &Arc<str>,
        bound: Tokens,
        slip: Slip,
    ) -> Result<Reservation, Refusal> {
        let claim = self.claim(account, model, bound);
        let reserved = self.with_book(|book, at| {
            // Every open charge becomes a record at most once, so that the ledger's queue always has room for it.
            if book.pending().len() + self.shared.ledger.unsettled() >= RESERVATIONS_MAX {
                return Err(Refusal::Busy);
            }
            let (charge, by_site) = (self.shared.numbers.next(at), book.depends_on_site(account));
            book.admit(charge, claim, at)?;
            self.hurry_for(book);
            Ok((charge, by_site))
        });
        let (charge, by_site) = reserved?;
        let quota = self.clone();
        Ok(Reservation::new(quota, charge, slip, bound, by_site))
    }

    /// Runs `work` on the book at this moment. It must be short, and must not call quota again.
    pub fn with_book<T>(&self, work: impl FnOnce(&mut Book, Moment) -> T) -> T {
        work(&mut self.book(), self.moment())
    }

    /// Resolves where the ledger stops working; the process must end then.
    pub fn failed(&self) -> BoxFuture<'static, ()> {
        self.shared.ledger.failed()
    }

    fn started(&self, charge: ChargeId) {
        self.book().started(charge);
    }

    /// The site that routing calls `site`, by its name in allocations.
    fn known(&self, site: &Arc<str>) -> Arc<str> {
        let options = &self.shared.options;
        match *site == options.home {
            true => Arc::clone(&options.site),
            false => Arc::clone(site),
        }
    }

    fn means(&self, charge: ChargeId, site: &Arc<str>) -> Means {
        self.with_book(|book, at| book.means(charge, site, at))
    }

    fn move_to(&self, charge: ChargeId, site: &Arc<str>) -> Result<(), Refusal> {
        self.with_book(|book, at| {
            let moved = book.move_to(charge, site, at);
            if moved.is_err() {
                book.want_soon(charge, site, at);
                self.hurry_for(book);
            }
            moved
        })
    }

    async fn fetch(&self, charge: ChargeId, site: &Arc<str>) -> bool {
        match &self.shared.rounds {
            Some(rounds) => rounds.fetch(self, charge, site).await,
            None => false,
        }
    }

    fn hurry_for(&self, book: &mut Book) {
        let rounds = self.shared.rounds.as_ref();
        if let Some(rounds) = rounds.filter(|_| book.takes_hurry()) {
            rounds.hurry();
        }
    }

    fn void(&self, charge: ChargeId) {
        self.with_book(|book, at| book.void(charge, at));
    }

    fn post(&self, charge: ChargeId, slip: &Slip, spent: Spent, outcome: Outcome, by: By) {
        let policy = self.shared.options.policy.clone();
        self.with_book(|book, at| {
            let Some(posted) = book.post(charge, spent, at) else {
                return;
            };
            let (claim, taken) = (posted.pending.claim(), posted.pending.taken());
            let took_ms = at.now.saturating_sub(taken.now).as_millis();
            let drawn = posted.drawn.into_iter();
            // Under the book's lock, so that a record is always counted: as open or as unsettled.
            self.shared.ledger.append(Record {
                charge,
                request: Arc::clone(&slip.request),
                organisation: Arc::clone(&claim.account.organisation),
                project: claim.account.project.clone(),
                key: Arc::clone(&claim.account.key),
                model: Arc::clone(&claim.model),
                site: Arc::clone(&claim.site),
                purpose: slip.purpose.clone(),
                tokens: spent.tokens,
                amounts: posted.amounts,
                estimated: spent.estimated || outcome == Outcome::Abandoned,
                micrograms: spent.micrograms,
                outcome,
                began_s: taken.unix_s,
                took_ms: u64::try_from(took_ms).unwrap_or(u64::MAX),
                drawn: drawn
                    .map(|(allocation, period, total)| Drawn {
                        allocation,
                        period,
                        total,
                    })
                    .collect(),
                served: Served {
                    node: by.node,
                    build: by.build,
                    price: posted.pending.price,
                    policy,
                },
            });
        });
    }

    fn claim(&self, account: &Arc<Account>, model: &Arc<str>, bound: Tokens) -> Claim {
        Claim {
            account: Arc::clone(account),
            model: Arc::clone(model),
            site: Arc::clone(&self.shared.options.site),
            bound,
        }
    }

    fn moment(&self) -> Moment {
        Moment {
            now: self.shared.clock.now(),
            unix_s: self.shared.clock.unix_s(),
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.shared
            .book
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quota")
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}

/// Makes ids of charges: the second first and then their number, so that a ledger's order is that of time, and what is
/// written together lies together. The rest is chance: others that share the ledger make ids too.
#[derive(Debug)]
struct Numbers(AtomicU64);

/// Bits of an id that are its number: it does not come round in a server's life.
const NUMBER_BITS: u8 = 42;

impl Numbers {
    /// Begins anywhere, so that no two servers count side by side.
    fn new() -> Self {
        let (_, any) = Uuid::new_v4().as_u64_pair();
        Self(AtomicU64::new(any >> 1 & ((1 << (NUMBER_BITS - 1)) - 1)))
    }

    fn next(&self, at: Moment) -> ChargeId {
        let seconds = u64::try_from(at.unix_s).unwrap_or(0);
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        Uuid::new_v7(Timestamp::from_unix_time(
            seconds,
            0,
            number.into(),
            NUMBER_BITS,
        ))
    }
}

#[cfg(test)]
mod tests;
