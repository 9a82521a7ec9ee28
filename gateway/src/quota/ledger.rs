//! What is written down of a request that is over, and who keeps it.
//!
//! A record is one line of the account: who, what, where, how much, and how it ended; never a word of prompt or answer.
//! It is written once: its key is the charge id, which this server made.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use super::allocation::Total;
use super::amount::{Amounts, Price, Tokens};
use super::charge::ChargeId;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Whole.
    Finished,
    /// With an error.
    Failed,
    /// Its client left or cancelled it.
    Aborted,
    /// Nobody told what it used: it is charged with all that it had reserved.
    Abandoned,
}

/// A settled charge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its id.
    pub charge: ChargeId,
    /// Id of the request, as clients and logs know it.
    pub request: Arc<str>,
    /// The organisation.
    pub organisation: Arc<str>,
    /// The project, as `organisation/project`.
    pub project: Option<Arc<str>>,
    /// Id of the key.
    pub key: Arc<str>,
    /// The model, as the client named it.
    pub model: Arc<str>,
    /// The site that served it.
    pub site: Arc<str>,
    /// What it was for, as the client said.
    pub purpose: Option<Arc<str>>,
    /// Tokens of prompt and completion.
    pub tokens: Tokens,
    /// What these came to.
    pub amounts: Amounts,
    /// Millionths of a gram of CO2, as far as told.
    #[serde(default)]
    pub micrograms: u64,
    /// Whether the tokens are an upper bound, or counted from events, and not what whoever served says.
    pub estimated: bool,
    /// How it ended.
    pub outcome: Outcome,
    /// When it was let in, seconds since the epoch.
    pub began_s: i64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// What was drawn from which allocation.
    pub drawn: Vec<Drawn>,
    /// By whom and by what rules.
    #[serde(default)]
    pub served: Served,
}

impl Record {
    /// Its project, or its organisation where it has none.
    #[must_use]
    pub fn tenant(&self) -> &Arc<str> {
        self.project.as_ref().unwrap_or(&self.organisation)
    }
}

/// By whom and by what rules a request was served.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Served {
    /// The node at its site, as routing names it; `None` where it came to no content.
    pub node: Option<Arc<str>>,
    /// Digest of the model as it ran there: weights, tokenizer, template, engine. `None` where that is not told.
    pub build: Option<Arc<str>>,
    /// What a million tokens cost then.
    pub price: Price,
    /// Version of the config's rules: who may use what, at which price, and where it goes. What operators changed since stands
    /// in the audit trail with its time.
    pub policy: Option<Arc<str>>,
}

/// What one record draws from one allocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drawn {
    /// Id of the allocation.
    pub allocation: Arc<str>,
    /// Number of its period.
    pub period: u64,
    /// How much.
    #[serde(flatten)]
    pub total: Total,
}

/// Sums by allocation and period.
pub type Totals = BTreeMap<(Arc<str>, u64), Total>;

/// Adds what `record` draws.
pub fn add(totals: &mut Totals, record: &Record) {
    for drawn in &record.drawn {
        let key = (Arc::clone(&drawn.allocation), drawn.period);
        let total = totals.entry(key).or_default();
        total.posted = total.posted.saturating_add(drawn.total.posted);
        total.excess = total.excess.saturating_add(drawn.total.excess);
    }
}

/// What an operator set at run time, kept beside the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An organisation or a project.
    Tenant,
    /// A key, without its secret.
    Key,
    /// An allocation.
    Allocation,
    /// The record of a request: nothing is set, but its deletion stands in the audit trail.
    Record,
}

impl Kind {
    /// Every kind that can be set, in the order in which they must be read.
    pub const ALL: [Self; 3] = [Self::Tenant, Self::Key, Self::Allocation];

    /// Its name in stores and paths.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Key => "key",
            Self::Allocation => "allocation",
            Self::Record => "record",
        }
    }
}

/// A change of what operators set, with who made it and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What it is about.
    pub kind: Kind,
    /// Id of that.
    pub id: String,
    /// Its JSON from now on; `None` takes it away.
    pub value: Option<String>,
    /// Id of the operator's key.
    pub by: String,
    /// Seconds since the epoch.
    pub at_s: i64,
}

/// One line of the audit trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLine {
    /// Seconds since the epoch.
    pub at_s: i64,
    /// Id of the operator's key.
    pub by: String,
    /// `set` or `remove`.
    pub action: String,
    /// What it is about.
    pub kind: String,
    /// Id of that.
    pub id: String,
}

/// A change of records that are there. What they add up to stays counted, and so does what a deleted one drew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revision {
    /// Takes a record away.
    Delete(ChargeId),
    /// Puts this one in the place of that with its charge.
    Replace(Box<Record>),
}

impl Revision {
    /// The charge of the record.
    #[must_use]
    pub fn charge(&self) -> ChargeId {
        match self {
            Self::Delete(charge) => *charge,
            Self::Replace(record) => record.charge,
        }
    }
}

/// The last id before all charges that began in this second, since the epoch, or later: where a page of records begins
/// that is to hold them.
#[must_use]
pub fn before_second(unix_s: i64) -> Option<ChargeId> {
    let ms = u128::try_from(unix_s).ok()?.checked_mul(1_000)?;
    // The first 48 bits of an id are its time in milliseconds.
    let first = ms.checked_shl(80).filter(|_| ms < 1 << 48)?;
    first.checked_sub(1).map(ChargeId::from_u128)
}

/// Why a ledger cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The file is not one that can be read; nothing was changed.
    #[error(
        "the ledger {file} is damaged ({what}); put the last backup in its place, or move it away to start an empty one"
    )]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong with it.
        what: String,
    },
    /// The file was written by a later version.
    #[error(
        "the ledger {file} has version {found}, and this program knows {known}; use the newer program"
    )]
    Newer {
        /// The file.
        file: String,
        /// Its version.
        found: u64,
        /// Ours.
        known: u64,
    },
    /// Another process has it open.
    #[error("the ledger {file} is in use by another process; give each server a file of its own")]
    InUse {
        /// The file.
        file: String,
    },
    /// The system refuses.
    #[error("the ledger {file} cannot be used: {what}")]
    Io {
        /// The file.
        file: String,
        /// What the system says.
        what: String,
    },
    /// The address of a store is none.
    #[error(
        "quota.store is not the URL of a PostgreSQL database; write postgres://user:password@host/database"
    )]
    Url,
    /// The store does not answer.
    #[error(
        "the {store} does not answer: {what}; see that it runs and that this server may use it"
    )]
    Away {
        /// The store, without user and password.
        store: String,
        /// What is known of the reason.
        what: String,
    },
    /// It has no way to change what it has.
    #[error("this kind of ledger cannot do that")]
    Fixed,
    /// It stopped working earlier.
    #[error("the ledger has failed; the log says why")]
    Failed,
}

/// Who keeps the records.
pub trait Ledger: Send + Sync + fmt::Debug {
    /// Takes a record. Never waits; it is settled once [`Ledger::unsettled`] has gone down again, and kept once whatever
    /// happens. The caller keeps open charges and unsettled records together below [`crate::limits::RESERVATIONS_MAX`].
    fn append(&self, record: Record);

    /// Records that were taken and are not safe yet.
    fn unsettled(&self) -> usize;

    /// Its id, the same in every life of whoever writes it; `None` where it ends with the process.
    fn owner(&self) -> Option<Uuid> {
        None
    }

    /// Sums of all records.
    ///
    /// # Errors
    /// [`LedgerError`], where they cannot be read.
    fn totals(&self) -> Result<Totals, LedgerError>;

    /// At most `limit` records after the one with that id, in the order of their ids, which is that of their time.
    ///
    /// # Errors
    /// As [`Ledger::totals`].
    fn records(&self, after: Option<ChargeId>, limit: usize) -> Result<Vec<Record>, LedgerError>;

    /// Changes records that are there, all or none; when it returns, the change is as safe as a settled record. A charge
    /// that has no record is passed over. Blocks: call it off the event loop.
    ///
    /// # Errors
    /// [`LedgerError`], and nothing is changed.
    fn revise(&self, revisions: Vec<Revision>) -> Result<(), LedgerError> {
        let _ = revisions;
        Err(LedgerError::Fixed)
    }

    /// Writes a line into the audit trail, of a change that is kept elsewhere. Blocks: call it off the event loop.
    ///
    /// # Errors
    /// [`LedgerError`], and nothing is written.
    fn note(&self, line: AuditLine) -> Result<(), LedgerError> {
        let _ = line;
        Err(LedgerError::Fixed)
    }

    /// Makes a change; when it returns, the change is as safe as a settled record. Blocks: call it off the event loop.
    ///
    /// # Errors
    /// [`LedgerError`], and nothing is changed.
    fn change(&self, change: Change) -> Result<(), LedgerError>;

    /// What operators have set of one kind: ids and JSON.
    ///
    /// # Errors
    /// As [`Ledger::totals`].
    fn settings(&self, kind: Kind) -> Result<Vec<(String, String)>, LedgerError>;

    /// The last `limit` lines of the audit trail, latest first.
    ///
    /// # Errors
    /// As [`Ledger::totals`].
    fn audit(&self, limit: usize) -> Result<Vec<AuditLine>, LedgerError>;

    /// Waits until everything taken before is safe. Blocks.
    ///
    /// # Errors
    /// [`LedgerError`], where it never will be.
    fn flush(&self) -> Result<(), LedgerError>;

    /// Where other servers change what operators set: a number that changes with it.
    fn revisions(&self) -> Option<watch::Receiver<i64>> {
        None
    }

    /// Resolves where it stops working: then nothing more may be promised, and the process must end.
    fn failed(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

#[cfg(test)]
mod tests {
    use uuid::{NoContext, Timestamp, Uuid};

    use super::*;

    #[test]
    fn a_second_parts_the_charges_before_it_from_the_others() {
        let charge = |unix_s| Uuid::new_v7(Timestamp::from_unix(NoContext, unix_s, 0));
        let parts = before_second(1_700_000_000).unwrap();
        assert!(charge(1_699_999_999) <= parts);
        assert!(charge(1_700_000_000) > parts);
        for nonsense in [-1, 0, i64::MIN, i64::MAX] {
            assert_eq!(before_second(nonsense), None);
        }
    }
}
