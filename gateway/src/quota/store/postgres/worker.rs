//! The thread that talks to the store: one connection for records and rounds, in the order in which they came.
//!
//! While the store is away, records wait here and everything else is told so at once. When it is back, the batch whose
//! commit was not confirmed is written again first; a record that is there already is not written twice.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::late;
use super::leases;
use super::records;
use super::session::{LEASE, Note, Place, SETTING, Session, StoreError, within};
use crate::clock::Clock;
use crate::limits::{
    GRANTOR_STEP, LEASE_LINES_MAX, STORE_ANSWER_MAX, STORE_ASKS_MAX, STORE_RECORDS_MAX,
    STORE_RETRY, STORE_WAIT_MAX,
};
use crate::quota::lease::grantor::{Duty, Grantor};
use crate::quota::lease::{Answer, Away, Holding, Line, Size, Subject};
use crate::quota::ledger::{LedgerError, Record, Totals, add};

/// What the thread is asked for.
pub(super) enum Work {
    Append(Box<Record>),
    /// Told once all that came before is settled.
    Flush(SyncSender<()>),
    /// Done on a connection of its own: nobody's reading holds up a round.
    Ask(Ask),
    Enlist(Vec<Holding>, oneshot::Sender<Result<(), Away>>),
    Exchange(Vec<Line>, oneshot::Sender<Result<Vec<Answer>, Away>>),
    Leave(oneshot::Sender<Result<(), Away>>),
}

/// A question with its own way to tell the answer.
pub(super) type Ask = Box<dyn FnOnce(Session) -> BoxFuture<'static, ()> + Send>;

/// What others see of the thread.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) unsettled: AtomicUsize,
    /// Transactions and questions so far.
    pub(super) asked: AtomicU64,
    pub(super) reachable: watch::Sender<bool>,
    /// Number of changes to what operators set, as last seen.
    pub(super) revision: watch::Sender<i64>,
    /// Lives of gateways that ended without a goodbye, as last seen.
    pub(super) left_behind: watch::Sender<u64>,
    pub(super) called: Notify,
    /// What other gateways lack; no more than one round tells of.
    lacking: Mutex<HashSet<Subject>>,
    pub(super) failed: watch::Sender<bool>,
}

impl Shared {
    /// What other gateways lack.
    pub(super) fn lacking(&self) -> MutexGuard<'_, HashSet<Subject>> {
        // A set that was left half changed is a set all the same.
        self.lacking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's state.
pub(super) struct Worker {
    pub(super) place: Place,
    pub(super) shared: Arc<Shared>,
    pub(super) clock: Clock,
    pub(super) ttl: Duration,
    pub(super) queue: mpsc::Receiver<Work>,
    pub(super) waiting: VecDeque<Record>,
    pub(super) flushes: Vec<SyncSender<()>>,
    /// This life of the gateway, and its present lease.
    pub(super) run: Uuid,
    pub(super) gateway: Option<Uuid>,
    /// Its lease has to begin anew: others have settled what it still holds.
    pub(super) stale: bool,
    pub(super) grantor: Grantor,
    pub(super) tasks: TaskTracker,
    pub(super) asks: Arc<Semaphore>,
}

impl Worker {
    /// Works until its queue is closed and empty. `first` is told the store's id over the first connection; where that fails,
    /// all ends.
    pub(super) async fn run(mut self, first: SyncSender<Result<Uuid, LedgerError>>) {
        let mut session = match self.begin().await {
            Ok((session, owner)) => {
                let _ = first.send(Ok(owner));
                session
            }
            Err(error) => {
                let store = self.place.name.clone();
                let what = error.to_string();
                let _ = first.send(Err(match error {
                    StoreError::Refused(refused) => refused,
                    _ => LedgerError::Away { store, what },
                }));
                return;
            }
        };
        loop {
            self.shared.reachable.send_replace(true);
            let lost = self.serve(&mut session).await;
            drop(session);
            self.grantor.deposed();
            let Err(error) = lost else { break };
            self.shared.reachable.send_replace(false);
            let store = &self.place.name;
            tracing::warn!(%error, store, "the store of quotas is away");
            let Some(again) = self.connect_again().await else {
                break;
            };
            tracing::info!(store = self.place.name, "the store of quotas is back");
            session = again;
        }
        let lost = self.waiting.len();
        if lost > 0 {
            tracing::error!(
                lost,
                "the store of quotas was away to the end; these records were never settled"
            );
        }
    }

    /// The first connection, and the store's id.
    async fn begin(&self) -> Result<(Session, Uuid), StoreError> {
        let session = self.connect().await?;
        let owner = within(STORE_ANSWER_MAX, late::owner(&session.client)).await?;
        Ok((session, owner))
    }

    async fn connect(&self) -> Result<Session, StoreError> {
        self.shared.asked.fetch_add(1, Ordering::Relaxed);
        let mut session = self.place.connect(&self.tasks).await?;
        session.prepare(&self.place).await?;
        Ok(session)
    }

    /// Tries until it works, and answers meanwhile; `None` where nobody asks any more.
    async fn connect_again(&mut self) -> Option<Session> {
        let (mut pause, longest) = STORE_RETRY;
        loop {
            let mut due = std::pin::pin!(sleep(pause));
            loop {
                tokio::select! {
                    () = &mut due => break,
                    work = self.queue.recv() => self.refuse(work?),
                }
            }
            match self.connect().await {
                Ok(session) => return Some(session),
                Err(error) => tracing::debug!(%error, "the store of quotas is still away"),
            }
            pause = (pause * 2).min(longest);
        }
    }

    /// What can be said while the store is away.
    fn refuse(&mut self, work: Work) {
        match work {
            Work::Append(record) => self.waiting.push_back(*record),
            Work::Flush(done) => self.flushes.push(done),
            // The sender that it holds is dropped with it, which tells enough.
            Work::Ask(_) => {}
            Work::Enlist(_, told) | Work::Leave(told) => {
                let _ = told.send(Err(Away));
            }
            Work::Exchange(_, told) => {
                let _ = told.send(Err(Away));
            }
        }
    }

    /// Serves on one connection until that breaks, or until the queue is closed.
    async fn serve(&mut self, session: &mut Session) -> Result<(), StoreError> {
        let mut batch = Vec::new();
        loop {
            self.settle(session).await?;
            self.look_after_time(session).await?;
            tokio::select! {
                // Records that came together are one commit.
                came = self.queue.recv_many(&mut batch, STORE_RECORDS_MAX) => if came == 0 {
                    return self.settle(session).await;
                },
                note = session.notes.recv() => self.note(&note.ok_or(StoreError::Ended)?),
                () = sleep(GRANTOR_STEP) => {}
            }
            let mut works = std::mem::take(&mut batch).into_iter();
            while let Some(work) = works.next() {
                if let Err(error) = self.work(work, session).await {
                    works.for_each(|work| self.refuse(work));
                    return Err(error);
                }
            }
        }
    }

    async fn work(&mut self, work: Work, session: &mut Session) -> Result<(), StoreError> {
        match work {
            Work::Append(record) => self.waiting.push_back(*record),
            Work::Flush(done) => self.flushes.push(done),
            Work::Ask(ask) => self.ask(ask),
            Work::Enlist(holdings, told) => {
                let done = self.enlist(holdings, session).await;
                let _ = told.send(done.is_ok().then_some(()).ok_or(Away));
                return done;
            }
            Work::Exchange(lines, told) => {
                let done = self.exchange(&lines, session).await;
                let (answers, done) = match done {
                    Ok(answers) => (answers.ok_or(Away), Ok(())),
                    Err(error) => (Err(Away), Err(error)),
                };
                let _ = told.send(answers);
                return done;
            }
            Work::Leave(told) => {
                self.settle(session).await?;
                let left = self.leave(session).await;
                let _ = told.send(left.is_ok().then_some(()).ok_or(Away));
                return left;
            }
        }
        Ok(())
    }

    /// Commits what waits.
    async fn settle(&mut self, session: &mut Session) -> Result<(), StoreError> {
        while !self.waiting.is_empty() {
            let count = self.waiting.len().min(STORE_RECORDS_MAX);
            let batch = self
                .waiting
                .make_contiguous()
                .get(..count)
                .unwrap_or_default();
            self.shared.asked.fetch_add(1, Ordering::Relaxed);
            let life = (self.run, self.gateway);
            let commit = records::commit(&mut session.client, life, batch);
            self.stale |= within(STORE_ANSWER_MAX, commit).await?;
            self.waiting.drain(..count);
            self.shared.unsettled.fetch_sub(count, Ordering::AcqRel);
        }
        for done in self.flushes.drain(..) {
            // One who no longer waits needs no word.
            let _ = done.try_send(());
        }
        Ok(())
    }

    async fn enlist(
        &mut self,
        holdings: Vec<Holding>,
        session: &mut Session,
    ) -> Result<(), StoreError> {
        let mut held: BTreeMap<Subject, (Size, u64)> = BTreeMap::new();
        for holding in holdings {
            let amount = &mut held.entry(holding.subject).or_insert((holding.size, 0)).1;
            *amount = amount.saturating_add(holding.amount);
        }
        // Records that came before this and are not settled yet are drawn from what is held now.
        let mut drawn = Totals::new();
        self.waiting
            .iter()
            .for_each(|record| add(&mut drawn, record));
        for ((allocation, period), total) in drawn {
            if let Some((_, amount)) = held.get_mut(&Subject::allocation(allocation, period)) {
                *amount = amount.saturating_add(total.posted);
            }
        }
        let gateway = Uuid::new_v4();
        self.shared.asked.fetch_add(1, Ordering::Relaxed);
        let enlist = leases::enlist(&mut session.client, (self.run, gateway), self.ttl, &held);
        within(STORE_ANSWER_MAX, enlist).await?;
        self.gateway = Some(gateway);
        self.stale = false;
        Ok(())
    }

    /// `None` where this gateway has no lease.
    async fn exchange(
        &mut self,
        lines: &[Line],
        session: &mut Session,
    ) -> Result<Option<Vec<Answer>>, StoreError> {
        let Some(gateway) = self.gateway.filter(|_| !self.stale) else {
            return Ok(None);
        };
        let mut answers = Vec::with_capacity(lines.len());
        let mut rest = lines;
        loop {
            let (now, later) = rest.split_at(rest.len().min(LEASE_LINES_MAX));
            self.shared.asked.fetch_add(1, Ordering::Relaxed);
            let exchange = leases::exchange(&mut session.client, gateway, now);
            let Some(told) = within(STORE_ANSWER_MAX, exchange).await? else {
                tracing::warn!("the lease of quotas is over; another one begins");
                return Ok(None);
            };
            answers.extend(told.answers);
            saw(&self.shared.revision, told.revision);
            saw(&self.shared.left_behind, told.left_behind);
            rest = later;
            if rest.is_empty() {
                return Ok(Some(answers));
            }
        }
    }

    async fn leave(&mut self, session: &mut Session) -> Result<(), StoreError> {
        if let Some(gateway) = self.gateway.take() {
            within(
                STORE_ANSWER_MAX,
                leases::leave(&mut session.client, gateway),
            )
            .await?;
        }
        if let Some(tenure) = self.grantor.tenure() {
            self.grantor.deposed();
            within(STORE_ANSWER_MAX, leases::resign(&session.client, tenure)).await?;
        }
        Ok(())
    }

    /// Counts the store's time, or watches whether somebody does.
    async fn look_after_time(&mut self, session: &mut Session) -> Result<(), StoreError> {
        // One without a lease (before the first round, after the last) takes no part.
        if self.gateway.is_none() {
            return Ok(());
        }
        let now = self.clock.now();
        if self.grantor.wants_to_see(now) {
            let seen = within(STORE_ANSWER_MAX, leases::clock(&session.client)).await?;
            self.grantor.saw(seen, now);
        }
        match self.grantor.duty(now) {
            Duty::Watch => {}
            Duty::TakeOver(seen) => {
                let taken = within(STORE_ANSWER_MAX, leases::take_over(&session.client, seen));
                match taken.await? {
                    Some(tenure) => self.grantor.took_over(tenure, now),
                    None => self.grantor.deposed(),
                }
            }
            Duty::Count {
                tenure,
                step,
                may_expire,
            } => {
                let counted = within(
                    STORE_ANSWER_MAX,
                    leases::count(&session.client, tenure, step),
                );
                if !counted.await? {
                    self.grantor.deposed();
                    return Ok(());
                }
                self.grantor.counted(now);
                if may_expire {
                    let ended = within(
                        STORE_ANSWER_MAX,
                        leases::expire(&mut session.client, tenure),
                    );
                    let ended = ended.await?;
                    if ended > 0 {
                        tracing::warn!(ended, "leases of gateways that are gone were ended");
                    }
                    if *self.shared.left_behind.borrow() > 0 {
                        let forget = late::forget(&session.client, tenure);
                        within(STORE_ANSWER_MAX, forget).await?;
                    }
                }
            }
        }
        Ok(())
    }

    fn note(&self, note: &Note) {
        match &*note.channel {
            SETTING => self.shared.revision.send_modify(|_| {}),
            LEASE => self.call(&note.payload),
            _ => {}
        }
    }

    fn call(&self, payload: &str) {
        // Notes of one's own are for others; words of another version are left to the next round.
        let lacking = leases::called(payload).filter(|(who, _)| self.gateway != Some(*who));
        let Some((_, subject)) = lacking else { return };
        let mut all = self.shared.lacking();
        if all.len() < LEASE_LINES_MAX {
            all.insert(subject);
        }
        drop(all);
        self.shared.called.notify_one();
    }

    fn ask(&self, ask: Ask) {
        // Beyond that many at once the asker hears that there is no answer, rather than the store more of them.
        let Ok(permit) = Arc::clone(&self.asks).try_acquire_owned() else {
            return;
        };
        let (place, tasks) = (self.place.clone(), self.tasks.clone());
        self.shared.asked.fetch_add(1, Ordering::Relaxed);
        self.tasks.spawn(async move {
            match place.connect(&tasks).await {
                // Whoever asked no longer waits after this.
                Ok(session) => drop(timeout(STORE_WAIT_MAX, ask(session)).await),
                Err(error) => tracing::warn!(%error, "the store of quotas cannot be asked"),
            }
            drop(permit);
        });
    }
}

/// Tells whoever watches what was seen, where it has changed.
fn saw<T: PartialEq>(watched: &watch::Sender<T>, now: T) {
    watched.send_if_modified(|seen| {
        let is_new = *seen != now;
        *seen = now;
        is_new
    });
}

/// Semaphore of questions.
pub(super) fn asks() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(STORE_ASKS_MAX))
}
