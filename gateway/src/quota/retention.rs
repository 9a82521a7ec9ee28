//! How long records are kept: as long as their tenant wants, at least as long as the law wants, and no longer.
//!
//! A record that goes stays counted: allocations know what was spent by their sums. A single request can be forgotten
//! before its time: then its record loses everything that leads to a person, and keeps its figures.

use std::sync::Arc;

use super::charge::ChargeId;
use super::ledger::{Ledger, LedgerError, Record, Revision};
use crate::limits::{COMMIT_RECORDS_MAX, FORGOTTEN_MAX, HIGH_RISK_DAYS};

/// What stands in a record where something was deleted.
pub const DELETED: &str = "(deleted)";

const DAY_S: i64 = 86_400;

/// How long the records of one tenant are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Term {
    /// Days after which they go; never where `None`.
    pub days: Option<u32>,
    /// Whether they must be kept for [`HIGH_RISK_DAYS`].
    pub high_risk: bool,
}

impl Term {
    /// First second, since the epoch, at which a record that began at `began_s` may go at all.
    #[must_use]
    pub const fn may_go_s(self, began_s: i64) -> i64 {
        let days = if self.high_risk { HIGH_RISK_DAYS } else { 0 };
        began_s.saturating_add(days as i64 * DAY_S)
    }

    /// First second at which it goes by itself.
    #[must_use]
    pub fn goes_s(self, began_s: i64) -> Option<i64> {
        let ends_s = began_s.saturating_add(i64::from(self.days?) * DAY_S);
        Some(ends_s.max(self.may_go_s(began_s)))
    }
}

/// Why a request is not forgotten.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForgetError {
    /// The law wants it kept.
    #[error(
        "the tenant '{tenant}' is high-risk, so the record must be kept until second {until_s} since 1970; delete it then"
    )]
    TooEarly {
        /// Whose it is.
        tenant: Arc<str>,
        /// First second at which it may go.
        until_s: i64,
    },
    /// There are more records of it than can be changed at once.
    #[error("more than {FORGOTTEN_MAX} requests have this id; delete them by another one")]
    TooMany,
    /// The ledger cannot.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Deletes every record whose time is over; how many there were. Reads the whole ledger: call it seldom, off the event loop.
///
/// # Errors
/// [`LedgerError`]; what was deleted before stays so.
pub fn sweep(
    ledger: &dyn Ledger,
    now_s: i64,
    term: impl Fn(&Record) -> Term,
) -> Result<u64, LedgerError> {
    let mut swept = 0;
    each_page(ledger, |page| {
        let over = page.iter().filter(|record| {
            let goes_s = term(record).goes_s(record.began_s);
            goes_s.is_some_and(|goes_s| goes_s <= now_s)
        });
        let over: Vec<_> = over.map(|record| Revision::Delete(record.charge)).collect();
        if !over.is_empty() {
            swept += over.len() as u64;
            ledger.revise(over)?;
        }
        Ok(())
    })?;
    Ok(swept)
}

/// The records of the request with that id, without anything that leads to a person: what is to be put in their place.
///
/// # Errors
/// [`ForgetError`], where one of them must be kept.
pub fn forgotten(
    ledger: &dyn Ledger,
    request: &str,
    now_s: i64,
    term: impl Fn(&Record) -> Term,
) -> Result<Vec<Record>, ForgetError> {
    let mut found: Vec<Record> = Vec::new();
    each_page(ledger, |page| {
        let of_request = page
            .into_iter()
            .filter(|record| *record.request == *request);
        found.extend(of_request.take(FORGOTTEN_MAX + 1 - found.len()));
        Ok(())
    })?;
    if found.len() > FORGOTTEN_MAX {
        return Err(ForgetError::TooMany);
    }
    for record in &found {
        let until_s = term(record).may_go_s(record.began_s);
        if until_s > now_s {
            let tenant = Arc::clone(record.tenant());
            return Err(ForgetError::TooEarly { tenant, until_s });
        }
    }
    Ok(found.into_iter().map(without_person).collect())
}

fn without_person(record: Record) -> Record {
    Record {
        request: DELETED.into(),
        key: DELETED.into(),
        purpose: None,
        ..record
    }
}

fn each_page(
    ledger: &dyn Ledger,
    mut with: impl FnMut(Vec<Record>) -> Result<(), LedgerError>,
) -> Result<(), LedgerError> {
    let mut after: Option<ChargeId> = None;
    loop {
        let page = ledger.records(after, COMMIT_RECORDS_MAX)?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some(last.charge);
        with(page)?;
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::quota::export::tests::record;
    use crate::quota::store::embedded::EmbeddedLedger;
    use crate::quota::store::memory::MemoryLedger;

    const NOW_S: i64 = 1_700_000_000;

    fn ledgers() -> [Box<dyn Ledger>; 2] {
        let file = EmbeddedLedger::on(redb::backends::InMemoryBackend::new()).unwrap();
        [Box::new(MemoryLedger::default()), Box::new(file)]
    }

    fn fill(ledger: &dyn Ledger) {
        for age_days in 0..400_i64 {
            let tenant = if age_days % 2 == 0 { "acme" } else { "risky" };
            ledger.append(record(
                age_days as u128 + 1,
                tenant,
                NOW_S - age_days * DAY_S,
            ));
        }
        ledger.flush().unwrap();
    }

    fn term(record: &Record) -> Term {
        Term {
            days: Some(30),
            high_risk: &*record.organisation == "risky",
        }
    }

    #[test]
    fn records_go_when_their_time_is_over_and_stay_counted() {
        for ledger in ledgers() {
            fill(&*ledger);
            let before = ledger.totals().unwrap();
            let kept_for_ever = sweep(&*ledger, NOW_S, |_| Term::default());
            assert_eq!(kept_for_ever, Ok(0));
            let swept = sweep(&*ledger, NOW_S, term).unwrap();
            let left = ledger.records(None, usize::MAX).unwrap();
            assert_eq!(left.len() as u64 + swept, 400);
            for record in &left {
                let age_days = (NOW_S - record.began_s) / DAY_S;
                let most = if &*record.organisation == "acme" {
                    30
                } else {
                    184
                };
                assert!(
                    age_days < most,
                    "{age_days} days of {}",
                    record.organisation
                );
            }
            assert_eq!(left.len(), 15 + 92);
            assert_eq!(ledger.totals().unwrap(), before);
            assert_eq!(sweep(&*ledger, NOW_S, term), Ok(0));
        }
    }

    #[test]
    fn a_request_is_forgotten_and_its_figures_are_not() {
        for ledger in ledgers() {
            fill(&*ledger);
            let told = ledger.records(None, usize::MAX).unwrap();
            let request = Arc::clone(&told[1].request);
            let sum = |records: &[Record]| records.iter().map(|r| r.tokens.total()).sum::<u64>();
            // The same id again, of an old high-risk request.
            let again = Record {
                request: Arc::clone(&request),
                ..record(9_999, "acme", NOW_S)
            };
            ledger.append(again);
            ledger.flush().unwrap();
            let before = ledger.records(None, usize::MAX).unwrap();
            let early = forgotten(&*ledger, &request, NOW_S, |_| Term {
                days: None,
                high_risk: true,
            });
            assert!(
                matches!(early, Err(ForgetError::TooEarly { .. })),
                "{early:?}"
            );
            let found = forgotten(&*ledger, &request, NOW_S, |_| Term::default()).unwrap();
            assert_eq!(found.len(), 2);
            let revisions = found.into_iter().map(Box::new).map(Revision::Replace);
            ledger.revise(revisions.collect()).unwrap();
            let after = ledger.records(None, usize::MAX).unwrap();
            assert_eq!((after.len(), sum(&after)), (before.len(), sum(&before)));
            assert!(after.iter().all(|record| record.request != request));
            assert_eq!(
                after
                    .iter()
                    .filter(|record| &*record.key == DELETED)
                    .count(),
                2
            );
            // What is not there is passed over, and makes no record.
            let nobody = Box::new(record(77_777, "acme", NOW_S));
            let delete = Revision::Delete(Uuid::from_u128(88_888));
            ledger
                .revise(vec![Revision::Replace(nobody), delete])
                .unwrap();
            assert_eq!(
                ledger.records(None, usize::MAX).unwrap().len(),
                before.len()
            );
        }
    }
}
