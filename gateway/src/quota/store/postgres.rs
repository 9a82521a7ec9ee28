//! A ledger in PostgreSQL that several gateways share, with the leases by which they share what may be spent.
//!
//! A thread of its own talks to the store, so a slow one holds up nobody: records wait in a bounded queue until they are
//! settled, several in one commit. Requests never wait for this file but where what they need is not on lease.

mod late;
mod leases;
mod pools;
mod records;
mod session;
mod worker;

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rustls::ClientConfig;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_postgres::{Client, Error};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use self::session::{Place, Session};
use self::worker::{Shared, Work, Worker};
use super::once;
use crate::clock::Clock;
use crate::limits::{STORE_QUEUE_MAX, STORE_WAIT_MAX};
use crate::quota::charge::ChargeId;
use crate::quota::lease::grantor::Grantor;
use crate::quota::lease::late::Late;
use crate::quota::lease::{Answer, Away, Holding, Leased, Lessor, Line, Subject};
use crate::quota::ledger::{
    AuditLine, Change, Kind, Ledger, LedgerError, Record, Revision, Totals,
};

/// In PostgreSQL.
pub struct PostgresLedger {
    place: Place,
    shared: Arc<Shared>,
    ttl: Duration,
    /// The store's id, and this life of the gateway.
    lives: (Uuid, Uuid),
    /// `None` once it is being dropped.
    work: Option<mpsc::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

impl PostgresLedger {
    /// Connects to the store at `url` and brings its schema up to date. Leases hold for `ttl`. Blocks until that is done.
    ///
    /// # Errors
    /// [`LedgerError`] names the store, never its password.
    pub fn open(
        url: &str,
        tls: &ClientConfig,
        ttl: Duration,
        clock: Clock,
    ) -> Result<Self, LedgerError> {
        let place = Place::parse(url, tls)?;
        let (shared, run) = (Arc::<Shared>::default(), Uuid::new_v4());
        let (work, queue) = mpsc::channel(STORE_QUEUE_MAX);
        let worker = Worker {
            place: place.clone(),
            shared: Arc::clone(&shared),
            clock,
            ttl,
            queue,
            waiting: VecDeque::new(),
            flushes: Vec::new(),
            run,
            gateway: None,
            stale: false,
            grantor: Grantor::new(ttl),
            tasks: TaskTracker::new(),
            asks: worker::asks(),
        };
        let (first, told) = std::sync::mpsc::sync_channel(1);
        let thread = Builder::new().name("hansa-store".to_owned());
        let failing = FailOnExit(Arc::clone(&shared));
        let thread = thread.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            if let Ok(runtime) = runtime {
                runtime.block_on(worker.run(first));
            }
            drop(failing);
        });
        let broken = |what: String| LedgerError::Away {
            store: place.name.clone(),
            what,
        };
        let thread = thread.map_err(|error| broken(error.to_string()))?;
        // Without an answer the thread has ended.
        let owner = told.recv().map_err(|error| broken(error.to_string()))??;
        Ok(Self {
            place,
            shared,
            ttl,
            lives: (owner, run),
            work: Some(work),
            thread: Some(thread),
        })
    }

    /// Transactions and questions so far, other than the grantor's.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.shared.asked.load(Ordering::Relaxed)
    }

    fn send(&self, work: Work) {
        let sent = self.work.as_ref().map(|queue| queue.try_send(work));
        // Whoever waits for an answer hears that there is none when its end is dropped. A record that is lost is told apart.
        if !matches!(sent, Some(Ok(()))) {
            tracing::error!("the queue of the store is full or closed");
        }
    }

    /// Asks on a connection of its own, and waits.
    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(Client) -> BoxFuture<'static, Result<T, Error>> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let (told, answer) = std::sync::mpsc::sync_channel(1);
        self.send(Work::Ask(Box::new(move |session: Session| {
            async move {
                let Session { client, notes } = session;
                let said = question(client).await;
                drop(notes);
                let _ = told.try_send(said);
            }
            .boxed()
        })));
        let said = answer.recv_timeout(STORE_WAIT_MAX);
        let said = said.map_err(|_| self.away("it does not answer".to_owned()))?;
        said.map_err(|error| self.away(error.to_string()))
    }

    fn away(&self, what: String) -> LedgerError {
        LedgerError::Away {
            store: self.place.name.clone(),
            what,
        }
    }

    fn told<T: Send + 'static>(
        &self,
        work: impl FnOnce(oneshot::Sender<Result<T, Away>>) -> Work,
    ) -> BoxFuture<'static, Result<T, Away>> {
        let (told, answer) = oneshot::channel();
        self.send(work(told));
        answer.map(|said| said.unwrap_or(Err(Away))).boxed()
    }
}

impl Ledger for PostgresLedger {
    fn append(&self, record: Record) {
        self.shared.unsettled.fetch_add(1, Ordering::AcqRel);
        let work = Work::Append(Box::new(record));
        let sent = self.work.as_ref().map(|queue| queue.try_send(work));
        if !matches!(sent, Some(Ok(()))) {
            // The thread is gone, or the caller let in more than it may: a record that is not kept must not go unnoticed.
            self.shared.failed.send_replace(true);
        }
    }

    fn unsettled(&self) -> usize {
        self.shared.unsettled.load(Ordering::Acquire)
    }

    fn owner(&self) -> Option<Uuid> {
        Some(self.lives.0)
    }

    fn totals(&self) -> Result<Totals, LedgerError> {
        self.ask(|client| async move { records::totals(&client).await }.boxed())
    }

    fn records(&self, after: Option<ChargeId>, limit: usize) -> Result<Vec<Record>, LedgerError> {
        let read = self.ask(move |client| {
            async move { records::records(&client, after, limit).await }.boxed()
        })?;
        let parsed = read.iter().map(|body| serde_json::from_str(body));
        let parsed: Result<_, serde_json::Error> = parsed.collect();
        parsed.map_err(|error| LedgerError::Damaged {
            file: self.place.name.clone(),
            what: error.to_string(),
        })
    }

    fn revise(&self, revisions: Vec<Revision>) -> Result<(), LedgerError> {
        self.ask(move |mut client| {
            async move { records::revise(&mut client, &revisions).await }.boxed()
        })
    }

    fn note(&self, line: AuditLine) -> Result<(), LedgerError> {
        self.ask(move |mut client| async move { records::note(&mut client, &line).await }.boxed())
    }

    fn change(&self, change: Change) -> Result<(), LedgerError> {
        self.ask(move |mut client| {
            async move { records::change(&mut client, &change).await }.boxed()
        })
    }

    fn settings(&self, kind: Kind) -> Result<Vec<(String, String)>, LedgerError> {
        self.ask(move |client| async move { records::settings(&client, kind).await }.boxed())
    }

    fn audit(&self, limit: usize) -> Result<Vec<AuditLine>, LedgerError> {
        self.ask(move |client| async move { records::audit(&client, limit).await }.boxed())
    }

    fn flush(&self) -> Result<(), LedgerError> {
        let (told, done) = std::sync::mpsc::sync_channel(1);
        self.send(Work::Flush(told));
        let waited = done.recv_timeout(STORE_WAIT_MAX);
        waited.map_err(|_| self.away("records wait to be settled".to_owned()))
    }

    fn failed(&self) -> BoxFuture<'static, ()> {
        once(self.shared.failed.subscribe())
    }

    fn revisions(&self) -> Option<watch::Receiver<i64>> {
        Some(self.shared.revision.subscribe())
    }
}

impl Lessor for PostgresLedger {
    fn enlist(&self, holdings: Vec<Holding>) -> BoxFuture<'static, Result<(), Away>> {
        self.told(|told| Work::Enlist(holdings, told))
    }

    fn exchange(&self, lines: Vec<Line>) -> BoxFuture<'static, Result<Vec<Answer>, Away>> {
        self.told(|told| Work::Exchange(lines, told))
    }

    fn leave(&self) -> BoxFuture<'static, Result<(), Away>> {
        self.told(Work::Leave)
    }

    fn reachable(&self) -> BoxFuture<'static, ()> {
        once(self.shared.reachable.subscribe())
    }

    fn called(&self) -> BoxFuture<'static, HashSet<Subject>> {
        let shared = Arc::clone(&self.shared);
        let told = async move {
            shared.called.notified().await;
            std::mem::take(&mut *shared.lacking())
        };
        told.boxed()
    }

    fn ttl(&self) -> Duration {
        self.ttl
    }

    fn run(&self) -> Uuid {
        self.lives.1
    }

    fn left_behind(&self) -> watch::Receiver<u64> {
        self.shared.left_behind.subscribe()
    }

    fn ended_runs(&self) -> Result<Vec<Uuid>, LedgerError> {
        self.ask(|client| async move { late::ended(&client).await }.boxed())
    }

    fn settle_late(&self, found: Vec<Late>) -> Result<Vec<bool>, LedgerError> {
        self.ask(move |mut client| async move { late::settle(&mut client, found).await }.boxed())
    }

    fn leases(&self, limit: usize) -> Result<Vec<Leased>, LedgerError> {
        let run = self.run();
        self.ask(move |client| async move { leases::all(&client, run, limit).await }.boxed())
    }
}

impl Drop for PostgresLedger {
    /// Waits for the thread, which first writes what it has, if it can.
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has logged it.
            let _ = thread.join();
        }
    }
}

/// However the thread ends, nothing is promised after it.
struct FailOnExit(Arc<Shared>);

impl Drop for FailOnExit {
    fn drop(&mut self) {
        self.0.failed.send_replace(true);
    }
}

impl fmt::Debug for PostgresLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PostgresLedger")
            .field(&self.place.name)
            .finish()
    }
}
