//! What each project used of each model at each site: sums of records.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::limits::{ADMIN_PAGE_MAX, REPORT_LINES_MAX};
use crate::quota::ledger::{Ledger, LedgerError, Record, before_second};

/// What one project used of one model at one site.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The project, or the organisation itself.
    pub tenant: Arc<str>,
    /// The site.
    pub site: Arc<str>,
    /// The model.
    pub model: Arc<str>,
    /// Requests.
    pub requests: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Of these, found in a prefix cache.
    pub cached_tokens: u64,
    /// Tokens of completions.
    pub completion_tokens: u64,
    /// Millionths of the unit of money.
    pub money_micros: u64,
    /// Microseconds of accelerators.
    pub gpu_us: u64,
    /// Thousandths of a joule.
    pub millijoules: u64,
}

/// Project, site and model.
type Key = (Arc<str>, Arc<str>, Arc<str>);

/// Sums in the making.
#[derive(Debug, Default)]
pub struct Report {
    lines: BTreeMap<Key, Line>,
}

/// There are more projects, sites and models than a report may have lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the report would have more than {REPORT_LINES_MAX} lines; ask for a shorter time")]
pub struct TooLong;

impl Report {
    /// Counts a record.
    ///
    /// # Errors
    /// [`TooLong`], and the record is not counted.
    pub fn add(&mut self, record: &Record) -> Result<(), TooLong> {
        let [tenant, site, model] = [record.tenant(), &record.site, &record.model].map(Arc::clone);
        let key = (Arc::clone(&tenant), Arc::clone(&site), Arc::clone(&model));
        if self.lines.len() >= REPORT_LINES_MAX && !self.lines.contains_key(&key) {
            return Err(TooLong);
        }
        let line = self.lines.entry(key).or_insert_with(|| Line {
            tenant,
            site,
            model,
            ..Line::default()
        });
        line.add(record);
        Ok(())
    }

    /// The lines, by project, site and model.
    #[must_use]
    pub fn into_lines(self) -> Vec<Line> {
        self.lines.into_values().collect()
    }
}

impl Line {
    /// Counts a record, whose project, site and model are the line's.
    pub(super) fn add(&mut self, record: &Record) {
        for (sum, part) in [
            (&mut self.requests, 1),
            (&mut self.prompt_tokens, record.tokens.prompt),
            (&mut self.cached_tokens, record.tokens.cached),
            (&mut self.completion_tokens, record.tokens.completion),
            (&mut self.money_micros, record.amounts.money_micros),
            (&mut self.gpu_us, record.amounts.gpu_us),
            (&mut self.millijoules, record.amounts.millijoules),
        ] {
            *sum = sum.saturating_add(part);
        }
    }
}

/// Hands every record of requests that began in `span`, in seconds since the epoch, to `with`, page by page, until it
/// says that it has enough.
///
/// # Errors
/// [`LedgerError`], where they cannot be read.
pub fn pages(
    ledger: &dyn Ledger,
    span: Range<i64>,
    mut with: impl FnMut(&[Record]) -> bool,
) -> Result<(), LedgerError> {
    let mut after = before_second(span.start);
    loop {
        let mut page = ledger.records(after, ADMIN_PAGE_MAX)?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        // Records are in the order of their time.
        let is_last = last.began_s >= span.end;
        after = Some(last.charge);
        page.retain(|record| span.contains(&record.began_s));
        if !with(&page) || is_last {
            return Ok(());
        }
    }
}
