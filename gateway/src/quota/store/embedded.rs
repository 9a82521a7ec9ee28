//! A ledger in a file of this process, through redb: transactions that survive a kill, one sync for many records.
//!
//! One thread writes (`writer.rs`); whoever reads does it beside. A commit that fails ends the ledger: what the disk
//! holds after a failed sync is not known, so nothing more is promised.

mod growth;
mod writer;

use std::fs::{File, OpenOptions};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{Builder, JoinHandle};

use futures::future::BoxFuture;
use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, StorageError,
    TableDefinition,
};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use self::growth::GrowthFirst;
use self::writer::Writer;
use super::once;
use crate::limits::{LEDGER_CACHE_BYTES, RESERVATIONS_MAX};
use crate::quota::allocation::Total;
use crate::quota::charge::ChargeId;
use crate::quota::ledger::{
    AuditLine, Change, Kind, Ledger, LedgerError, Record, Revision, Totals,
};

/// Version of the tables below.
const SCHEMA: u64 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Halves of the ledger's id in [`META`].
const OWNER: [&str; 2] = ["owner_high", "owner_low"];
/// Records as JSON, by charge id.
const RECORDS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("records");
/// Posted and excess, by allocation and period.
const TOTALS: TableDefinition<'_, (&str, u64), (u64, u64)> = TableDefinition::new("totals");
/// What operators set, as JSON, by kind and id.
const SETTINGS: TableDefinition<'_, (&str, &str), &str> = TableDefinition::new("settings");
/// The audit trail as JSON, by number.
const AUDIT: TableDefinition<'_, u64, &str> = TableDefinition::new("audit");

/// In a file.
#[derive(Debug)]
pub struct EmbeddedLedger {
    file: String,
    database: Arc<Database>,
    shared: Arc<Shared>,
    /// `None` once it is being dropped.
    work: Option<mpsc::Sender<Work>>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    unsettled: AtomicUsize,
    failed: watch::Sender<bool>,
}

enum Work {
    Append(Box<Record>),
    Change(Change, Done),
    Revise(Vec<Revision>, Done),
    Note(AuditLine, Done),
    Flush(Done),
}

/// The file at `path`, made where nothing is.
fn whole(path: &Path) -> Result<File, DatabaseError> {
    let is_there = path.try_exists().unwrap_or(false);
    let mut how = OpenOptions::new();
    let file = how.read(true).write(true).create(true).truncate(false);
    let file = file.open(path).map_err(StorageError::Io)?;
    // An empty file is what a full disk or a careless copy leaves: only a missing one is a beginning.
    if is_there && file.metadata().map_err(StorageError::Io)?.len() == 0 {
        return Err(StorageError::Io(io::ErrorKind::InvalidData.into()).into());
    }
    Ok(file)
}

/// Told once the commit has returned; dropped where it failed.
type Done = std::sync::mpsc::SyncSender<()>;

impl EmbeddedLedger {
    /// Opens the ledger at `path`, or makes one where nothing is. A file that was open when its process was killed is
    /// taken back to its last commit.
    ///
    /// # Errors
    /// [`LedgerError`] names the file and the way out; a damaged file is left as it is.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let file = path.display().to_string();
        let mut builder = Database::builder();
        builder.set_cache_size(LEDGER_CACHE_BYTES);
        let opening = || builder.create_with_backend(GrowthFirst(FileBackend::new(whole(path)?)?));
        // redb asserts some of what it expects of a file; nothing of what it had opened by then is used.
        match catch_unwind(AssertUnwindSafe(opening)) {
            Ok(database) => Self::start(database, file),
            Err(_panic) => Err(damaged(&file, &"it ends before its own end, or is garbled")),
        }
    }

    /// As [`EmbeddedLedger::open`], on storage of the caller's.
    ///
    /// # Errors
    /// As [`EmbeddedLedger::open`].
    pub fn on(storage: impl StorageBackend) -> Result<Self, LedgerError> {
        let database = Database::builder().create_with_backend(GrowthFirst(storage));
        Self::start(database, "(in memory)".to_owned())
    }

    fn start(database: Result<Database, DatabaseError>, file: String) -> Result<Self, LedgerError> {
        let database = database.map_err(|error| refused(error, &file))?;
        prepare(&database, &file)?;
        let (database, shared) = (Arc::new(database), Arc::<Shared>::default());
        let (work, queue) = mpsc::channel(RESERVATIONS_MAX);
        let writer = Writer {
            database: Arc::clone(&database),
            shared: Arc::clone(&shared),
            file: file.clone(),
        };
        let thread = Builder::new().name("hansa-ledger".to_owned());
        let writer = thread.spawn(move || writer.run(queue));
        let writer = writer.map_err(|error| broken(&file, &error))?;
        Ok(Self {
            file,
            database,
            shared,
            work: Some(work),
            writer: Some(writer),
        })
    }

    /// Waits for what `work` asks for.
    fn ask(&self, work: impl FnOnce(Done) -> Work) -> Result<(), LedgerError> {
        let (done, waiting) = std::sync::mpsc::sync_channel(1);
        let queue = self.work.as_ref().ok_or(LedgerError::Failed)?;
        let sent = queue.blocking_send(work(done));
        sent.map_err(|_closed| LedgerError::Failed)?;
        if let Some(writer) = &self.writer {
            // It gathers no longer: somebody waits.
            writer.thread().unpark();
        }
        waiting.recv().map_err(|_failed| LedgerError::Failed)
    }

    /// Reads one table.
    fn read<K, V, T>(
        &self,
        table: TableDefinition<'static, K, V>,
        read: impl FnOnce(&redb::ReadOnlyTable<K, V>) -> Result<T, redb::Error>,
    ) -> Result<T, LedgerError>
    where
        K: redb::Key + 'static,
        V: redb::Value + 'static,
    {
        let reading = || -> Result<T, redb::Error> {
            let transaction = self.database.begin_read()?;
            read(&transaction.open_table(table)?)
        };
        reading().map_err(|error| broken(&self.file, &error))
    }
}

impl Ledger for EmbeddedLedger {
    fn append(&self, record: Record) {
        self.shared.unsettled.fetch_add(1, Ordering::AcqRel);
        let queue = self.work.as_ref();
        let sent =
            queue.is_some_and(|queue| queue.try_send(Work::Append(Box::new(record))).is_ok());
        if !sent {
            // The writer is gone, or the caller let in more than it may: a record that is not kept must not go unnoticed.
            self.shared.failed.send_replace(true);
        }
    }

    fn unsettled(&self) -> usize {
        self.shared.unsettled.load(Ordering::Acquire)
    }

    fn owner(&self) -> Option<Uuid> {
        let read = self.read(META, |meta| {
            let half = |name| Ok(meta.get(name)?.map(|row| row.value()));
            let halves: Result<_, redb::Error> =
                half(OWNER[0]).and_then(|high| Ok((high, half(OWNER[1])?)));
            halves
        });
        let (high, low) = read.ok()?;
        Some(Uuid::from_u64_pair(high?, low?))
    }

    fn totals(&self) -> Result<Totals, LedgerError> {
        self.read(TOTALS, |table| {
            let rows = table.iter()?.map(|row| {
                let (key, value) = row?;
                let ((allocation, period), (posted, excess)) = (key.value(), value.value());
                Ok(((allocation.into(), period), Total { posted, excess }))
            });
            rows.collect()
        })
    }

    fn records(&self, after: Option<ChargeId>, limit: usize) -> Result<Vec<Record>, LedgerError> {
        let first = after.map_or(0, |after| after.as_u128().saturating_add(1));
        let read = self.read(RECORDS, |table| {
            let rows = table.range(first..)?.take(limit);
            let parsed = rows.map(|row| Ok(serde_json::from_slice(row?.1.value())));
            parsed.collect::<Result<Vec<_>, redb::Error>>()
        })?;
        let parsed: Result<_, serde_json::Error> = read.into_iter().collect();
        parsed.map_err(|error| broken(&self.file, &error))
    }

    fn revise(&self, revisions: Vec<Revision>) -> Result<(), LedgerError> {
        self.ask(|done| Work::Revise(revisions, done))
    }

    fn note(&self, line: AuditLine) -> Result<(), LedgerError> {
        self.ask(|done| Work::Note(line, done))
    }

    fn change(&self, change: Change) -> Result<(), LedgerError> {
        self.ask(|done| Work::Change(change, done))
    }

    fn settings(&self, kind: Kind) -> Result<Vec<(String, String)>, LedgerError> {
        self.read(SETTINGS, |table| {
            let mut found = Vec::new();
            for row in table.range((kind.name(), "")..)? {
                let (key, value) = row?;
                let (of, id) = key.value();
                if of != kind.name() {
                    break;
                }
                found.push((id.to_owned(), value.value().to_owned()));
            }
            Ok(found)
        })
    }

    fn audit(&self, limit: usize) -> Result<Vec<AuditLine>, LedgerError> {
        let read = self.read(AUDIT, |table| {
            let rows = table.iter()?.rev().take(limit);
            let parsed = rows.map(|row| Ok(serde_json::from_str(row?.1.value())));
            parsed.collect::<Result<Vec<_>, redb::Error>>()
        })?;
        let parsed: Result<_, serde_json::Error> = read.into_iter().collect();
        parsed.map_err(|error| broken(&self.file, &error))
    }

    fn flush(&self) -> Result<(), LedgerError> {
        self.ask(Work::Flush)
    }

    fn failed(&self) -> BoxFuture<'static, ()> {
        once(self.shared.failed.subscribe())
    }
}

impl Drop for EmbeddedLedger {
    /// Waits for the writer, which first writes what it has.
    fn drop(&mut self) {
        self.work = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has logged it.
            let _ = writer.join();
        }
    }
}

/// Makes the tables of a new file; looks at the version of another one.
fn prepare(database: &Database, file: &str) -> Result<(), LedgerError> {
    let version = || -> Result<Option<u64>, redb::Error> {
        let transaction = database.begin_read()?;
        match transaction.open_table(META) {
            Ok(meta) => Ok(meta.get("schema")?.map(|row| row.value())),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    let found = version().map_err(|error| damaged(file, &error))?;
    if let Some(found) = found.filter(|found| *found > SCHEMA) {
        return Err(LedgerError::Newer {
            file: file.to_owned(),
            found,
            known: SCHEMA,
        });
    }
    let make = || -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        let mut meta = transaction.open_table(META)?;
        meta.insert("schema", SCHEMA)?;
        if meta.get(OWNER[0])?.is_none() {
            let halves = Uuid::new_v4().as_u64_pair();
            meta.insert(OWNER[0], halves.0)?;
            meta.insert(OWNER[1], halves.1)?;
        }
        drop(meta);
        transaction.open_table(RECORDS)?;
        transaction.open_table(TOTALS)?;
        transaction.open_table(SETTINGS)?;
        transaction.open_table(AUDIT)?;
        Ok(transaction.commit()?)
    };
    make().map_err(|error| damaged(file, &error))
}

fn refused(error: DatabaseError, file: &str) -> LedgerError {
    let file = file.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => LedgerError::InUse { file },
        DatabaseError::Storage(StorageError::Io(error)) if is_of_the_system(&error) => {
            let what = error.to_string();
            LedgerError::Io { file, what }
        }
        error => damaged(&file, &error),
    }
}

/// Whether an error says something of the machine and not of the file's content.
fn is_of_the_system(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    !matches!(
        error.kind(),
        ErrorKind::InvalidData | ErrorKind::UnexpectedEof | ErrorKind::InvalidInput
    )
}

fn damaged(file: &str, error: &impl ToString) -> LedgerError {
    LedgerError::Damaged {
        file: file.to_owned(),
        what: error.to_string(),
    }
}

fn broken(file: &str, error: &impl ToString) -> LedgerError {
    LedgerError::Io {
        file: file.to_owned(),
        what: error.to_string(),
    }
}

#[cfg(test)]
mod tests;
