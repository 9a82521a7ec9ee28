//! The admin API of tenants, keys, allocations and the ledger, for operators' keys alone.
//!
//! What the config says is shown and cannot be changed here. Every change is safe in the ledger, with its line in the
//! audit trail, before it is answered. A key's secret is in the answer to its making and nowhere else.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use http::{Uri, header};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::records;
use crate::layers::authenticate::{self, Gate};
use crate::limits::{ADMIN_BODY_BYTES_MAX, ADMIN_PAGE_MAX, KEY_OVERLAP_S};
use crate::openai::error::ApiError;
use crate::openai::query::parameter;
use crate::openai::{json as answer, read_json_body};
use crate::quota::allocation::Grant;
use crate::quota::ledger::{Change, Kind, LedgerError, Record};
use crate::quota::standing::AllocationUsage;
use crate::tenant::document::{KeyDocument, TenantDocument};
use crate::tenant::principal::Principal;
use crate::tenant::secret::Secret;
use crate::tenant::{TenantError, Tenants};

/// Below `/admin/v1/`; nobody gets in without an operator's key.
pub(super) fn router(gate: Gate) -> Router {
    Router::new()
        .route("/admin/v1/tenants", get(tenants))
        .route(
            "/admin/v1/tenants/{*id}",
            put(put_tenant).delete(delete_tenant),
        )
        .route("/admin/v1/keys", get(keys).post(make_key))
        .route("/admin/v1/keys/{id}/revoke", post(revoke_key))
        .route("/admin/v1/keys/{id}/rotate", post(rotate_key))
        .route("/admin/v1/allocations", get(allocations))
        .route(
            "/admin/v1/allocations/{id}",
            put(put_allocation).delete(delete_allocation),
        )
        .route("/admin/v1/reservations", get(reservations))
        .route("/admin/v1/records", get(records_page))
        .route("/admin/v1/records.csv", get(records_csv))
        .route("/admin/v1/report", get(report))
        .route("/admin/v1/audit", get(audit))
        // Around the routes alone: what else the listener answers needs no key.
        .route_layer(from_fn_with_state(gate.clone(), authenticate::operators))
        .with_state(gate)
}

#[derive(Serialize)]
struct List<T> {
    object: &'static str,
    data: Vec<T>,
}

fn list<T: Serialize>(data: Vec<T>) -> Response {
    let object = "list";
    answer(&List { object, data })
}

async fn tenants(State(gate): State<Gate>) -> Response {
    let directory = gate.tenants.directory();
    list(directory.tenants().collect())
}

async fn put_tenant(
    State(gate): State<Gate>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let by = operator(&request);
    let mut tenant: TenantDocument = read(request).await?;
    named(&mut tenant.id, &id)?;
    set(&gate, by, Kind::Tenant, &id, &tenant).await?;
    Ok(answer(&tenant))
}

async fn delete_tenant(
    State(gate): State<Gate>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    if gate.tenants.directory().known(&id).is_err() {
        let kind = Kind::Tenant.name();
        return Err(TenantError::Missing { kind, id }.into());
    }
    remove(&gate, operator(&request), Kind::Tenant, id).await
}

async fn keys(State(gate): State<Gate>) -> Response {
    let directory = gate.tenants.directory();
    list(directory.keys().collect())
}

async fn make_key(State(gate): State<Gate>, request: Request) -> Result<Response, ApiError> {
    let by = operator(&request);
    let mut key: KeyDocument = read(request).await?;
    if key.id.is_empty() {
        key.id = Uuid::new_v4().to_string();
    }
    if gate.tenants.directory().key(&key.id).is_some() {
        let message = format!(
            "there is a key '{}' already; rotate it, or choose another id",
            key.id
        );
        return Err(ApiError::unfit(message));
    }
    make(&gate, by, key).await
}

/// Gives `key` a new secret and shows it.
async fn make(gate: &Gate, by: String, mut key: KeyDocument) -> Result<Response, ApiError> {
    let secret = Secret::new();
    key.sha256 = secret.digest().to_string();
    let id = key.id.clone();
    set(gate, by, Kind::Key, &id, &key).await?;
    let mut shown = json!(key);
    shown["key"] = secret.reveal().into();
    Ok(answer(&shown))
}

async fn revoke_key(
    State(gate): State<Gate>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let revoked = KeyDocument {
        revoked: true,
        ..key(&gate.tenants, &id)?
    };
    set(&gate, operator(&request), Kind::Key, &id, &revoked).await?;
    Ok(answer(&revoked))
}

/// How a key is replaced.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotation {
    /// Seconds for which both work.
    #[serde(default = "key_overlap_s")]
    overlap_s: u32,
    /// Id of the new one.
    id: Option<String>,
}

const fn key_overlap_s() -> u32 {
    KEY_OVERLAP_S
}

/// Makes another key with the same rights, and lets the first one end after a while.
async fn rotate_key(
    State(gate): State<Gate>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let by = operator(&request);
    let rotation: Rotation = read(request).await?;
    let old = key(&gate.tenants, &id)?;
    if old.revoked {
        let message = format!("the key '{id}' was revoked; make a new one");
        return Err(ApiError::unfit(message));
    }
    let new_id = rotation.id.unwrap_or_else(|| Uuid::new_v4().to_string());
    if gate.tenants.directory().key(&new_id).is_some() {
        return Err(ApiError::unfit(format!(
            "there is a key '{new_id}' already"
        )));
    }
    let end_s = gate
        .clock
        .unix_s()
        .saturating_add(rotation.overlap_s.into());
    let ending = KeyDocument {
        expires_s: Some(old.expires_s.map_or(end_s, |before_s| before_s.min(end_s))),
        ..old.clone()
    };
    // First what can be refused: a key of the config cannot be given an end here.
    set(&gate, by.clone(), Kind::Key, &id, &ending).await?;
    make(&gate, by, KeyDocument { id: new_id, ..old }).await
}

fn key(tenants: &Tenants, id: &str) -> Result<KeyDocument, ApiError> {
    let directory = tenants.directory();
    let missing = || TenantError::Missing {
        kind: Kind::Key.name(),
        id: id.to_owned(),
    };
    Ok(directory.key(id).ok_or_else(missing)?.clone())
}

async fn allocations(State(gate): State<Gate>) -> Response {
    let quota = gate.tenants.quota();
    quota.look(None).await;
    let mut all: Vec<AllocationUsage> = quota.with_book(|book, at| {
        book.roll(at);
        book.allocations().map(AllocationUsage::from).collect()
    });
    all.sort_by(|a, b| a.id.cmp(&b.id));
    list(all)
}

async fn put_allocation(
    State(gate): State<Gate>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let by = operator(&request);
    let mut body: Value = read(request).await?;
    if let Value::Object(fields) = &mut body {
        fields.entry("id").or_insert_with(|| id.as_str().into());
    }
    let grant: Grant =
        serde_json::from_value(body).map_err(|error| ApiError::unfit(error.to_string()))?;
    if *grant.id != *id {
        return Err(ApiError::unfit(
            "the id of the body is not that of the path".to_owned(),
        ));
    }
    set(&gate, by, Kind::Allocation, &id, &grant).await?;
    Ok(answer(&grant))
}

async fn delete_allocation(
    State(gate): State<Gate>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let quota = gate.tenants.quota();
    let is_there =
        quota.with_book(|book, _| book.allocations().any(|found| *found.grant().id == *id));
    if !is_there {
        let kind = Kind::Allocation.name();
        return Err(TenantError::Missing { kind, id }.into());
    }
    remove(&gate, operator(&request), Kind::Allocation, id).await
}

async fn reservations(State(gate): State<Gate>) -> Response {
    let quota = gate.tenants.quota();
    list(quota.with_book(|book, at| {
        let open = book.pending().take(ADMIN_PAGE_MAX);
        let shown = open.map(|(charge, pending)| {
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

/// `?after=CHARGE&limit=N`
async fn records_page(State(gate): State<Gate>, uri: Uri) -> Result<Response, ApiError> {
    Ok(list(page(&gate, &uri).await?))
}

/// A page as CSV; its last line's charge is the `after` of the next one.
async fn records_csv(State(gate): State<Gate>, uri: Uri) -> Result<Response, ApiError> {
    let text = records::csv(&page(&gate, &uri).await?);
    Ok(([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], text).into_response())
}

async fn page(gate: &Gate, uri: &Uri) -> Result<Vec<Record>, ApiError> {
    let after = parameter::<Uuid>(uri, "after", "a charge")?;
    let limit = parameter::<usize>(uri, "limit", "a number")?;
    let limit = limit.unwrap_or(ADMIN_PAGE_MAX).min(ADMIN_PAGE_MAX);
    let ledger = Arc::clone(gate.tenants.quota().ledger());
    blocking(move || ledger.records(after, limit)).await
}

/// What each project used at each site, model by model: `?from=SECOND&to=SECOND`, both since the epoch.
async fn report(State(gate): State<Gate>, uri: Uri) -> Result<Response, ApiError> {
    let seconds = |name| parameter::<i64>(&uri, name, "seconds since 1970");
    let from_s = seconds("from")?.unwrap_or(i64::MIN);
    let to_s = seconds("to")?.unwrap_or(i64::MAX);
    let ledger = Arc::clone(gate.tenants.quota().ledger());
    let read = move || records::report(&*ledger, from_s..to_s);
    Ok(list(blocking(read).await?))
}

async fn audit(State(gate): State<Gate>) -> Result<Response, ApiError> {
    let ledger = Arc::clone(gate.tenants.quota().ledger());
    Ok(list(blocking(move || ledger.audit(ADMIN_PAGE_MAX)).await?))
}

/// Id of the key that the operator showed.
fn operator(request: &Request) -> String {
    let principal = Principal::of(request.extensions());
    principal.map_or_else(String::new, |principal| principal.account.key.to_string())
}

async fn read<T: DeserializeOwned>(request: Request) -> Result<T, ApiError> {
    let body = read_json_body(request, ADMIN_BODY_BYTES_MAX).await?;
    serde_json::from_slice(&body).map_err(|error| ApiError::unfit(error.to_string()))
}

/// The id in a body may be left out, and must be that of the path.
fn named(in_body: &mut String, in_path: &str) -> Result<(), ApiError> {
    if in_body.is_empty() {
        in_path.clone_into(in_body);
    }
    if in_body == in_path {
        return Ok(());
    }
    Err(ApiError::unfit(
        "the id of the body is not that of the path".to_owned(),
    ))
}

async fn set(
    gate: &Gate,
    by: String,
    kind: Kind,
    id: &str,
    value: &impl Serialize,
) -> Result<(), ApiError> {
    let value = serde_json::to_string(value).map_err(|_| ApiError::internal())?;
    change(gate, by, kind, id.to_owned(), Some(value)).await
}

async fn remove(gate: &Gate, by: String, kind: Kind, id: String) -> Result<Response, ApiError> {
    let shown = json!({"id": id, "deleted": true});
    change(gate, by, kind, id, None).await?;
    Ok(answer(&shown))
}

async fn change(
    gate: &Gate,
    by: String,
    kind: Kind,
    id: String,
    value: Option<String>,
) -> Result<(), ApiError> {
    let change = Change {
        kind,
        id,
        value,
        by,
        at_s: gate.clock.unix_s(),
    };
    let tenants = gate.tenants.clone();
    let changing = tokio::task::spawn_blocking(move || tenants.change(change));
    changing.await.map_err(|_panicked| ApiError::internal())??;
    Ok(())
}

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, ApiError> {
    let read = tokio::task::spawn_blocking(read).await;
    let read = read.map_err(|_panicked| ApiError::internal())?;
    read.map_err(|error| TenantError::from(error).into())
}

impl From<TenantError> for ApiError {
    fn from(error: TenantError) -> Self {
        let message = error.to_string();
        match error {
            TenantError::Missing { .. } => Self::missing(message),
            TenantError::Configured { .. } | TenantError::Directory(_) => Self::unfit(message),
            TenantError::Unreadable { what, .. } => Self::unfit(what),
            TenantError::Ledger(_) => {
                tracing::error!(%error, "the admin API cannot use the ledger");
                Self::internal()
            }
        }
    }
}
