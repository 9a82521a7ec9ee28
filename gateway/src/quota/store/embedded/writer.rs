//! The thread that writes a ledger's file: what came meanwhile is one batch, one transaction and one sync.
//!
//! Nobody waits for a record to be settled, so the writer lets some gather before it begins: a commit costs as much for one
//! as for a hundred. Where somebody waits, for a change or for all that came before, it begins at once. A record and its
//! sums are one transaction, and a record that is there already is not written again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use redb::{Database, ReadableTable, Table, WriteTransaction};
use tokio::sync::mpsc;

use super::{AUDIT, RECORDS, SETTINGS, Shared, TOTALS, Work};
use crate::limits::{AUDIT_LINES_MAX, COMMIT_GATHER, COMMIT_RECORDS_MAX};
use crate::quota::ledger::{self, AuditLine, Change, Record, Revision, Totals};
use crate::quota::store::memory::audit_line;

/// What the thread has.
pub(super) struct Writer {
    pub(super) database: Arc<Database>,
    pub(super) shared: Arc<Shared>,
    /// Names the file in the log.
    pub(super) file: String,
}

impl Writer {
    /// Writes until nobody can send any more, or a commit fails.
    pub(super) fn run(self, mut queue: mpsc::Receiver<Work>) {
        // Also where the thread ends by a panic: nothing is promised without a writer.
        let _failing = FailOnPanic(&self.shared);
        let mut batch = Vec::with_capacity(COMMIT_RECORDS_MAX);
        while queue.blocking_recv_many(&mut batch, COMMIT_RECORDS_MAX) > 0 {
            gather(&mut queue, &mut batch);
            if let Err(error) = self.commit(&batch) {
                self.shared.failed.send_replace(true);
                let file = &self.file;
                tracing::error!(%error, file, "the ledger cannot be written; the server must stop");
                return;
            }
            self.settle(&mut batch);
        }
    }

    /// Writes a batch; when this returns well, it is on the disk.
    fn commit(&self, batch: &[Work]) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        let drawn = write(&transaction, batch)?;
        add_up(&transaction, drawn)?;
        Ok(transaction.commit()?)
    }

    /// Tells those who wait.
    fn settle(&self, batch: &mut Vec<Work>) {
        let mut records = 0;
        for work in batch.drain(..) {
            match work {
                Work::Append(_) => records += 1,
                Work::Change(_, done)
                | Work::Revise(_, done)
                | Work::Note(_, done)
                | Work::Flush(done) => {
                    // What came before is settled when this is heard.
                    self.settled(std::mem::take(&mut records));
                    // One who no longer waits needs no word.
                    let _ = done.try_send(());
                }
            }
        }
        self.settled(records);
    }

    fn settled(&self, records: usize) {
        self.shared.unsettled.fetch_sub(records, Ordering::AcqRel);
    }
}

/// Gives `batch` a moment to grow, unless somebody waits for it.
fn gather(queue: &mut mpsc::Receiver<Work>, batch: &mut Vec<Work>) {
    let is_awaited = |work: &Work| !matches!(work, Work::Append(_));
    if batch.iter().any(is_awaited) || queue.is_closed() {
        return;
    }
    // Whoever asks for more than a record ends this early.
    thread::park_timeout(COMMIT_GATHER);
    while batch.len() < COMMIT_RECORDS_MAX
        && let Ok(work) = queue.try_recv()
    {
        batch.push(work);
    }
}

/// Writes a batch but for the sums; what its new records draw.
fn write(transaction: &WriteTransaction, batch: &[Work]) -> Result<Totals, redb::Error> {
    let mut rows = Rows {
        records: transaction.open_table(RECORDS)?,
        drawn: Totals::new(),
        json: Vec::new(),
    };
    for work in batch {
        match work {
            Work::Append(record) => rows.insert(record)?,
            Work::Revise(revisions, _) => rows.revise(revisions)?,
            Work::Change(change, _) => set(transaction, change)?,
            Work::Note(line, _) => note(transaction, line)?,
            Work::Flush(_) => {}
        }
    }
    Ok(rows.drawn)
}

struct FailOnPanic<'a>(&'a Shared);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.failed.send_replace(true);
        }
    }
}

/// The records of one transaction, and what those that are new in it draw.
struct Rows<'t> {
    records: Table<'t, u128, &'static [u8]>,
    drawn: Totals,
    /// The last one's JSON.
    json: Vec<u8>,
}

impl Rows<'_> {
    /// Writes a record, unless it is there.
    fn insert(&mut self, record: &Record) -> Result<(), redb::Error> {
        let charge = record.charge.as_u128();
        self.write(record);
        let before = self.records.insert(charge, self.json.as_slice())?;
        // Looking first would cost each new one a second way through the tree.
        let Some(before) = before.map(|row| row.value().to_vec()) else {
            ledger::add(&mut self.drawn, record);
            return Ok(());
        };
        self.records.insert(charge, before.as_slice())?;
        Ok(())
    }

    /// Changes records and leaves their sums alone.
    fn revise(&mut self, revisions: &[Revision]) -> Result<(), redb::Error> {
        for revision in revisions {
            let charge = revision.charge().as_u128();
            let is_there = self.records.remove(charge)?.is_some();
            if let (Revision::Replace(record), true) = (revision, is_there) {
                self.write(record);
                self.records.insert(charge, self.json.as_slice())?;
            }
        }
        Ok(())
    }

    fn write(&mut self, record: &Record) {
        self.json.clear();
        // A record is strings and numbers, and memory takes them: it always serialises.
        let _ = serde_json::to_writer(&mut self.json, record);
    }
}

/// Adds what new records draw to the sums.
fn add_up(transaction: &WriteTransaction, drawn: Totals) -> Result<(), redb::Error> {
    let mut totals = transaction.open_table(TOTALS)?;
    for ((allocation, period), total) in drawn {
        let key = (&*allocation, period);
        let (posted, excess) = totals.get(key)?.map(|row| row.value()).unwrap_or_default();
        let sums = (
            posted.saturating_add(total.posted),
            excess.saturating_add(total.excess),
        );
        totals.insert(key, sums)?;
    }
    Ok(())
}

fn set(transaction: &WriteTransaction, change: &Change) -> Result<(), redb::Error> {
    let mut settings = transaction.open_table(SETTINGS)?;
    let key = (change.kind.name(), change.id.as_str());
    match &change.value {
        Some(value) => settings.insert(key, value.as_str())?,
        None => settings.remove(key)?,
    };
    note(transaction, &audit_line(change))
}

fn note(transaction: &WriteTransaction, line: &AuditLine) -> Result<(), redb::Error> {
    let mut audit = transaction.open_table(AUDIT)?;
    let number = audit.last()?.map_or(0, |(last, _)| last.value() + 1);
    let line = serde_json::to_string(line).unwrap_or_default();
    audit.insert(number, line.as_str())?;
    if let Some(old) = number.checked_sub(AUDIT_LINES_MAX as u64) {
        audit.remove(old)?;
    }
    Ok(())
}
