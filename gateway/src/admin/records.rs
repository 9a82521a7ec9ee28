//! Records as operators take them away: lines of CSV, and sums.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;

use crate::limits::ADMIN_PAGE_MAX;
use crate::quota::ledger::{Ledger, LedgerError, Record};

const COLUMNS: &str = "charge,request,organisation,project,key,model,site,purpose,prompt_tokens,cached_tokens,\
completion_tokens,gpu_us,money_micros,millijoules,micrograms,estimated,outcome,began_s,took_ms\r\n";

/// The records as CSV (RFC 4180), with a first line of names.
pub(super) fn csv(records: &[Record]) -> String {
    let mut text = COLUMNS.to_owned();
    for record in records {
        let outcome = serde_json::to_value(record.outcome).unwrap_or_default();
        let (tokens, amounts) = (record.tokens, record.amounts);
        let cells = [
            record.charge.to_string(),
            quoted(&record.request),
            quoted(&record.organisation),
            quoted(record.project.as_deref().unwrap_or_default()),
            quoted(&record.key),
            quoted(&record.model),
            quoted(&record.site),
            quoted(record.purpose.as_deref().unwrap_or_default()),
            tokens.prompt.to_string(),
            tokens.cached.to_string(),
            tokens.completion.to_string(),
            amounts.gpu_us.to_string(),
            amounts.money_micros.to_string(),
            amounts.millijoules.to_string(),
            record.micrograms.to_string(),
            record.estimated.to_string(),
            outcome.as_str().unwrap_or_default().to_owned(),
            record.began_s.to_string(),
            record.took_ms.to_string(),
        ];
        text.push_str(&cells.join(","));
        text.push_str("\r\n");
    }
    text
}

/// A cell of text. Names are what clients and operators chose: one that a spreadsheet would take for a formula is kept
/// from being one.
fn quoted(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@']);
    let guard = if formula { "'" } else { "" };
    if formula || text.contains([',', '"', '\r', '\n']) {
        return format!("\"{guard}{}\"", text.replace('"', "\"\""));
    }
    text.to_owned()
}

/// What one project used of one model at one site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Line {
    tenant: Arc<str>,
    site: Arc<str>,
    model: Arc<str>,
    requests: u64,
    prompt_tokens: u64,
    cached_tokens: u64,
    completion_tokens: u64,
    money_micros: u64,
    gpu_us: u64,
    millijoules: u64,
}

/// Sums of the records of requests that began in `span`, in seconds since the epoch.
pub(super) fn report(ledger: &dyn Ledger, span: Range<i64>) -> Result<Vec<Line>, LedgerError> {
    let mut lines = BTreeMap::new();
    let mut after = None;
    loop {
        let page = ledger.records(after, ADMIN_PAGE_MAX)?;
        let Some(last) = page.last() else {
            return Ok(lines.into_values().collect());
        };
        after = Some(last.charge);
        for record in page.iter().filter(|record| span.contains(&record.began_s)) {
            add(&mut lines, record);
        }
    }
}

type Lines = BTreeMap<(Arc<str>, Arc<str>, Arc<str>), Line>;

fn add(lines: &mut Lines, record: &Record) {
    let tenant = record.project.as_ref().unwrap_or(&record.organisation);
    let [tenant, site, model] = [tenant, &record.site, &record.model].map(Arc::clone);
    let key = (Arc::clone(&tenant), Arc::clone(&site), Arc::clone(&model));
    let line = lines.entry(key).or_insert_with(|| Line {
        tenant,
        site,
        model,
        requests: 0,
        prompt_tokens: 0,
        cached_tokens: 0,
        completion_tokens: 0,
        money_micros: 0,
        gpu_us: 0,
        millijoules: 0,
    });
    line.requests += 1;
    line.prompt_tokens += record.tokens.prompt;
    line.cached_tokens += record.tokens.cached;
    line.completion_tokens += record.tokens.completion;
    line.money_micros += record.amounts.money_micros;
    line.gpu_us += record.amounts.gpu_us;
    line.millijoules += record.amounts.millijoules;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_one_cell_and_never_a_formula() {
        for (text, cell) in [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("say \"x\"", "\"say \"\"x\"\"\""),
            ("=1+1", "\"'=1+1\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
        ] {
            assert_eq!(quoted(text), cell);
        }
    }
}
