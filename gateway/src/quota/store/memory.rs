//! A ledger that ends with the process: the newest records and the sums of all.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::limits::{AUDIT_LINES_MAX, MEMORY_RECORDS_MAX};
use crate::quota::charge::ChargeId;
use crate::quota::ledger::{
    self, AuditLine, Change, Kind, Ledger, LedgerError, Record, Revision, Totals,
};

/// In memory.
#[derive(Debug, Default)]
pub struct MemoryLedger {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    records: BTreeMap<ChargeId, Record>,
    totals: Totals,
    settings: BTreeMap<(Kind, String), String>,
    audit: VecDeque<AuditLine>,
}

impl MemoryLedger {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger for MemoryLedger {
    fn append(&self, record: Record) {
        let mut inner = self.inner();
        if inner.records.contains_key(&record.charge) {
            return;
        }
        ledger::add(&mut inner.totals, &record);
        inner.records.insert(record.charge, record);
        if inner.records.len() > MEMORY_RECORDS_MAX {
            inner.records.pop_first();
        }
    }

    fn unsettled(&self) -> usize {
        0
    }

    fn totals(&self) -> Result<Totals, LedgerError> {
        Ok(self.inner().totals.clone())
    }

    fn records(&self, after: Option<ChargeId>, limit: usize) -> Result<Vec<Record>, LedgerError> {
        let inner = self.inner();
        let later = inner.records.values();
        let later = later.filter(|record| after.is_none_or(|after| record.charge > after));
        Ok(later.take(limit).cloned().collect())
    }

    fn revise(&self, revisions: Vec<Revision>) -> Result<(), LedgerError> {
        let mut inner = self.inner();
        for revision in revisions {
            if !inner.records.contains_key(&revision.charge()) {
                continue;
            }
            match revision {
                Revision::Delete(charge) => inner.records.remove(&charge),
                Revision::Replace(record) => inner.records.insert(record.charge, *record),
            };
        }
        Ok(())
    }

    fn note(&self, line: AuditLine) -> Result<(), LedgerError> {
        let mut inner = self.inner();
        inner.audit.push_front(line);
        inner.audit.truncate(AUDIT_LINES_MAX);
        Ok(())
    }

    fn change(&self, change: Change) -> Result<(), LedgerError> {
        self.note(audit_line(&change))?;
        let mut inner = self.inner();
        let key = (change.kind, change.id);
        match change.value {
            Some(value) => inner.settings.insert(key, value),
            None => inner.settings.remove(&key),
        };
        Ok(())
    }

    fn settings(&self, kind: Kind) -> Result<Vec<(String, String)>, LedgerError> {
        let inner = self.inner();
        let of_kind = inner
            .settings
            .iter()
            .filter(|((found, _), _)| *found == kind);
        let of_kind = of_kind.map(|((_, id), value)| (id.clone(), value.clone()));
        Ok(of_kind.collect())
    }

    fn audit(&self, limit: usize) -> Result<Vec<AuditLine>, LedgerError> {
        Ok(self.inner().audit.iter().take(limit).cloned().collect())
    }

    fn flush(&self) -> Result<(), LedgerError> {
        Ok(())
    }
}

/// What the audit trail says of a change.
pub(super) fn audit_line(change: &Change) -> AuditLine {
    AuditLine {
        at_s: change.at_s,
        by: change.by.clone(),
        action: change.value.as_ref().map_or("remove", |_| "set").to_owned(),
        kind: change.kind.name().to_owned(),
        id: change.id.clone(),
    }
}
