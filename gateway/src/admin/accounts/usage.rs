//! What was used, as records and as sums, and what is held at the moment.

use std::ops::Range;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Uri, header};
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::{Caller, blocking, missing};
use crate::layers::authenticate::Gate;
use crate::limits::ADMIN_PAGE_MAX;
use crate::openai::error::ApiError;
use crate::openai::json as answer;
use crate::openai::query::parameter;
use crate::quota::export::csv;
use crate::quota::export::report::{self, Report};
use crate::quota::ledger::{Change, Kind, Record, Revision, before_second};
use crate::quota::retention::{self, ForgetError};

/// Requests that run, with what they hold.
pub(super) async fn reservations(State(gate): State<Gate>, caller: Caller) -> Response {
    let quota = gate.tenants.quota();
    super::list(quota.with_book(|book, at| {
        let open = book.pending().filter(|(_, pending)| {
            let account = &pending.claim().account;
            caller.sees(account.tenant(), &account.key)
        });
        let shown = open.take(ADMIN_PAGE_MAX).map(|(charge, pending)| {
            let claim = pending.claim();
            let age = at.now.saturating_sub(pending.taken().now);
            json!({
                "charge": charge,
                "key": claim.account.key,
                "tenant": claim.account.tenant(),
                "model": claim.model,
                "site": claim.site,
                "prompt_tokens_max": claim.bound.prompt,
                "completion_tokens_max": claim.bound.completion,
                "age_ms": u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            })
        });
        shown.collect()
    }))
}

/// What gateways that share a store have on lease of each pool; nothing where nobody shares.
pub(super) async fn leases(State(gate): State<Gate>, caller: Caller) -> Result<Response, ApiError> {
    caller.must_operate()?;
    let quota = gate.tenants.quota().clone();
    Ok(super::list(
        blocking(move || quota.leases(ADMIN_PAGE_MAX)).await?,
    ))
}

/// Some records that the caller may see.
#[derive(Serialize)]
struct Page {
    object: &'static str,
    data: Vec<Record>,
    /// What to name as `after` for the next page; null on the last one. A page may be empty and still not be the last.
    next: Option<Uuid>,
}

/// `?after=CHARGE&limit=N&from=SECOND&to=SECOND`
pub(super) async fn records(
    State(gate): State<Gate>,
    caller: Caller,
    uri: Uri,
) -> Result<Response, ApiError> {
    let (data, next) = page(&gate, caller, &uri).await?;
    let object = "list";
    Ok(answer(&Page { object, data, next }))
}

/// As [`records`] as CSV; `x-hansa-next` names what is `next` there.
pub(super) async fn records_csv(
    State(gate): State<Gate>,
    caller: Caller,
    uri: Uri,
) -> Result<Response, ApiError> {
    let (data, next) = page(&gate, caller, &uri).await?;
    let mut text = Vec::new();
    // A vector takes all that is written.
    let written = csv::head(&mut text).and_then(|()| csv::rows(&mut text, &data));
    written.map_err(|_| ApiError::internal())?;
    let kind = [(header::CONTENT_TYPE, "text/csv; charset=utf-8")];
    let mut response = (kind, text).into_response();
    let next = next.and_then(|next| HeaderValue::from_str(&next.to_string()).ok());
    if let Some(next) = next {
        response.headers_mut().insert("x-hansa-next", next);
    }
    Ok(response)
}

async fn page(
    gate: &Gate,
    caller: Caller,
    uri: &Uri,
) -> Result<(Vec<Record>, Option<Uuid>), ApiError> {
    let span = span(uri)?;
    let after = parameter::<Uuid>(uri, "after", "a charge")?;
    let after = after.max(before_second(span.start));
    let limit = parameter::<usize>(uri, "limit", "a number")?;
    let limit = limit.unwrap_or(ADMIN_PAGE_MAX).clamp(1, ADMIN_PAGE_MAX);
    let ledger = Arc::clone(gate.tenants.quota().ledger());
    let mut data = blocking(move || ledger.records(after, limit)).await?;
    let more = data.last().filter(|last| last.began_s < span.end);
    let next = more.map(|last| last.charge).filter(|_| data.len() == limit);
    data.retain(|record| span.contains(&record.began_s) && caller.sees_record(record));
    Ok((data, next))
}

/// What each project used at each site, model by model: `?from=SECOND&to=SECOND`.
pub(super) async fn report(
    State(gate): State<Gate>,
    caller: Caller,
    uri: Uri,
) -> Result<Response, ApiError> {
    let span = span(&uri)?;
    let ledger = Arc::clone(gate.tenants.quota().ledger());
    let lines = blocking(move || -> Result<_, ApiError> {
        let (mut sums, mut room) = (Report::default(), Ok(()));
        report::pages(&*ledger, span, |page| {
            let mut own = page.iter().filter(|record| caller.sees_record(record));
            room = own.try_for_each(|record| sums.add(record));
            room.is_ok()
        })?;
        room.map_err(|too_long| ApiError::unfit(too_long.to_string()))?;
        Ok(sums.into_lines())
    });
    Ok(super::list(lines.await?))
}

/// Deletes what leads from a request to a person; its figures stay counted.
pub(super) async fn forget(
    State(gate): State<Gate>,
    Path(request): Path<String>,
    caller: Caller,
) -> Result<Response, ApiError> {
    caller.must_operate()?;
    let (tenants, at_s) = (gate.tenants.clone(), gate.clock.unix_s());
    let id = request.clone();
    let forgotten = blocking(move || -> Result<usize, ForgetError> {
        let ledger = tenants.quota().ledger();
        let found = retention::forgotten(&**ledger, &id, at_s, |record| tenants.term(record))?;
        for record in &found {
            // By its charge: the request's own id is what must go.
            ledger.change(Change {
                kind: Kind::Record,
                id: record.charge.to_string(),
                value: None,
                by: caller.id(),
                at_s,
            })?;
        }
        let count = found.len();
        let revisions = found.into_iter().map(Box::new).map(Revision::Replace);
        ledger.revise(revisions.collect())?;
        Ok(count)
    });
    match forgotten.await? {
        0 => Err(missing(Kind::Record, &request)),
        records => Ok(answer(
            &json!({"id": request, "deleted": true, "records": records}),
        )),
    }
}

/// Seconds since the epoch.
fn span(uri: &Uri) -> Result<Range<i64>, ApiError> {
    let second = |name| parameter::<i64>(uri, name, "seconds since 1970");
    let from_s = second("from")?.unwrap_or(i64::MIN);
    let to_s = second("to")?.unwrap_or(i64::MAX);
    Ok(from_s..to_s)
}

impl From<ForgetError> for ApiError {
    fn from(error: ForgetError) -> Self {
        match error {
            ForgetError::Ledger(error) => error.into(),
            refused => Self::unfit(refused.to_string()),
        }
    }
}
