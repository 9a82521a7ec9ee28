//! Keeps a gateway's lease: one round after the other, each with all that the book has to tell and ask.
//!
//! A round begins twice in a second, and at once where a request waits for what is not at hand, where a slice runs low, or
//! where another gateway needs what lies idle here. There is one round at a time, so everybody who waits shares the next.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::{Away, Lessor, Subject};
use crate::limits::{LEASE_ASKS, LEASE_ROUND, LEASE_WAIT_MAX};
use crate::quota::Quota;
use crate::quota::book::Wish;
use crate::quota::charge::{Account, ChargeId, Claim};

/// The rounds of one gateway.
#[derive(Debug)]
pub struct Rounds {
    lessor: Arc<dyn Lessor>,
    wake: Notify,
    /// Rounds that have begun; changed and read under the book's lock.
    begun: AtomicU64,
    ended: watch::Sender<u64>,
    /// Times that a request waited.
    waits: AtomicU64,
}

/// What came of asking the store for what is not at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// It may be there now, or there is nobody to ask.
    AtHand,
    /// Others have it, or nobody.
    Lacking,
    /// The store did not say in time.
    Unheard,
}

impl Rounds {
    pub(in crate::quota) fn new(lessor: Arc<dyn Lessor>) -> Self {
        Self {
            lessor,
            wake: Notify::new(),
            begun: AtomicU64::new(0),
            ended: watch::Sender::new(0),
            waits: AtomicU64::new(0),
        }
    }

    /// The store.
    pub(in crate::quota) const fn lessor(&self) -> &Arc<dyn Lessor> {
        &self.lessor
    }

    /// Times that a request waited for a round.
    pub(in crate::quota) fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// Lets the next round begin soon.
    pub(in crate::quota) fn hurry(&self) {
        self.wake.notify_one();
    }

    /// Gets what `claim` needs on lease, if the store has it; false where the store did not say in time. Costs nothing where
    /// it is at hand.
    pub(in crate::quota) async fn prepare(&self, quota: &Quota, claim: &Claim) -> bool {
        let wish = quota.with_book(|book, _| book.whole(claim));
        self.get(quota, &wish).await != Asked::Unheard
    }

    /// Gets what an open charge found missing at `site`; whether it may be there now.
    pub(in crate::quota) async fn fetch(
        &self,
        quota: &Quota,
        charge: ChargeId,
        site: &Arc<str>,
    ) -> bool {
        match quota.with_book(|book, _| book.elsewhere(charge, site)) {
            Some(wish) => self.get(quota, &wish).await == Asked::AtHand,
            None => false,
        }
    }

    async fn get(&self, quota: &Quota, wish: &Wish) -> Asked {
        for pause in LEASE_ASKS {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            let wanted = quota.with_book(|book, at| book.want(wish, at).then(|| self.next()));
            let Some(next) = wanted else {
                return Asked::AtHand;
            };
            self.waits.fetch_add(1, Ordering::Relaxed);
            // What was lent is taken at once: whoever sleeps on it might find that another gateway called for it.
            if !self.wait(next).await {
                return Asked::Unheard;
            }
            if !quota.with_book(|book, at| book.lacks(wish, at)) {
                return Asked::AtHand;
            }
        }
        quota.with_book(|book, at| book.dry(wish, at));
        Asked::Lacking
    }

    /// Asks the store how the allocations of an account are, or all.
    pub(in crate::quota) async fn look(&self, quota: &Quota, account: Option<&Account>) {
        let next = quota.with_book(|book, at| {
            book.look(account);
            // Without a lease there is nobody to ask.
            book.lease_holds(at.now).then(|| self.next())
        });
        if let Some(next) = next {
            self.wait(next).await;
        }
    }

    /// Waits until round `number` has ended; false where that takes too long.
    async fn wait(&self, number: u64) -> bool {
        self.hurry();
        let mut ended = self.ended.subscribe();
        let round = ended.wait_for(|ended| *ended >= number);
        timeout(LEASE_WAIT_MAX, round).await.is_ok()
    }

    /// The first round that has not begun. Only under the book's lock.
    fn next(&self) -> u64 {
        self.begun.load(Ordering::Relaxed) + 1
    }

    /// Gives all leases back.
    pub(in crate::quota) async fn leave(&self) {
        // A store that does not answer takes them back by itself.
        let _ = timeout(LEASE_WAIT_MAX, self.lessor.leave()).await;
    }

    /// Runs rounds for as long as it is polled.
    pub(in crate::quota) async fn keep(&self, quota: &Quota) {
        loop {
            if self.enlist(quota).await.is_err() {
                continue;
            }
            while self.exchange(quota).await.is_ok() {
                let called = self.pause().await;
                quota.with_book(|book, _| book.called(called));
            }
        }
    }

    async fn enlist(&self, quota: &Quota) -> Result<(), Away> {
        // What is on lease stays in use until there is someone to begin anew with.
        self.lessor.reachable().await;
        let (began, number, answer) = quota.with_book(|book, at| {
            let answer = self.lessor.enlist(book.enlist(at));
            (at.now, self.begin(), answer)
        });
        let answer = answer.await;
        quota.with_book(|book, _| match answer {
            Ok(()) => book.enlisted(began),
            Err(Away) => book.round_failed(),
        });
        self.end(number);
        answer
    }

    async fn exchange(&self, quota: &Quota) -> Result<(), Away> {
        let (began, number, answers) = quota.with_book(|book, at| {
            // In the queue before anything else happens to the book.
            let answers = self.lessor.exchange(book.lines(at));
            (at.now, self.begin(), answers)
        });
        let answers = answers.await;
        quota.with_book(|book, at| match &answers {
            Ok(answers) => book.answered(answers, began, at.now),
            Err(Away) => book.round_failed(),
        });
        self.end(number);
        answers.map(|_| ())
    }

    /// Waits until a round is due; what other gateways lack.
    async fn pause(&self) -> HashSet<Subject> {
        tokio::select! {
            () = sleep(LEASE_ROUND) => HashSet::new(),
            () = self.wake.notified() => HashSet::new(),
            called = self.lessor.called() => called,
        }
    }

    fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn end(&self, number: u64) {
        self.ended.send_replace(number);
    }
}
