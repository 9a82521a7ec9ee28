//! The admin API of tenants, keys, allocations and the ledger.
//!
//! What the config says is shown and cannot be changed here. Every change is safe in the ledger, with its line in the
//! audit trail, before it is answered. Whoever shows a key or a token gets in; what of it is theirs, `caller` says.

mod allocations;
mod keys;
mod tenants;
mod usage;

use axum::extract::{Request, State};
use axum::response::Response;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use std::sync::Arc;

use super::caller::Caller;
use super::routes::Routes;
use crate::layers::authenticate::Gate;
use crate::limits::{ADMIN_BODY_BYTES_MAX, ADMIN_PAGE_MAX};
use crate::openai::error::ApiError;
use crate::openai::{json as answer, read_json_body};
use crate::quota::ledger::{Change, Kind, LedgerError};
use crate::tenant::TenantError;

/// Below `/admin/v1/`.
pub(super) fn routes() -> Routes<Gate> {
    Routes::new()
        .get("/admin/v1/tenants", tenants::list)
        // A project's id has a slash.
        .put("/admin/v1/tenants/{*id}", tenants::set)
        .delete("/admin/v1/tenants/{*id}", tenants::remove)
        .get("/admin/v1/keys", keys::list)
        .post("/admin/v1/keys", keys::make)
        .post("/admin/v1/keys/{id}/revoke", keys::revoke)
        .post("/admin/v1/keys/{id}/rotate", keys::rotate)
        .get("/admin/v1/allocations", allocations::list)
        .put("/admin/v1/allocations/{id}", allocations::set)
        .delete("/admin/v1/allocations/{id}", allocations::remove)
        .get("/admin/v1/reservations", usage::reservations)
        .get("/admin/v1/leases", usage::leases)
        .get("/admin/v1/records", usage::records)
        .get("/admin/v1/records.csv", usage::records_csv)
        .delete("/admin/v1/records/{*request}", usage::forget)
        .get("/admin/v1/report", usage::report)
        .get("/admin/v1/audit", audit)
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

/// The last changes, latest first.
async fn audit(State(gate): State<Gate>, caller: Caller) -> Result<Response, ApiError> {
    caller.must_operate()?;
    let ledger = Arc::clone(gate.tenants.quota().ledger());
    Ok(list(blocking(move || ledger.audit(ADMIN_PAGE_MAX)).await?))
}

async fn read<T: DeserializeOwned>(request: Request) -> Result<T, ApiError> {
    let body = read_json_body(request, ADMIN_BODY_BYTES_MAX).await?;
    serde_json::from_slice(&body).map_err(|error| ApiError::unfit(error.to_string()))
}

/// The id in a body may be left out, and must be that of the path.
fn named(in_body: &mut Arc<str>, in_path: &str) -> Result<(), ApiError> {
    if in_body.is_empty() {
        *in_body = in_path.into();
    }
    if **in_body == *in_path {
        return Ok(());
    }
    Err(ApiError::unfit(
        "the id of the body is not that of the path".to_owned(),
    ))
}

async fn put(
    gate: &Gate,
    by: String,
    kind: Kind,
    id: &str,
    value: &impl Serialize,
) -> Result<(), ApiError> {
    let value = serde_json::to_string(value).map_err(|_| ApiError::internal())?;
    change(gate, by, kind, id.to_owned(), Some(value)).await
}

/// Takes away what an operator may, if it `is_there`.
async fn delete(
    gate: &Gate,
    caller: &Caller,
    kind: Kind,
    id: String,
    is_there: bool,
) -> Result<Response, ApiError> {
    caller.must_operate()?;
    if !is_there {
        return Err(missing(kind, &id));
    }
    let shown = json!({"id": id, "deleted": true});
    change(gate, caller.id(), kind, id, None).await?;
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

async fn blocking<T, E>(read: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, ApiError>
where
    T: Send + 'static,
    E: Into<ApiError> + Send + 'static,
{
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|_panicked| ApiError::internal())?
        .map_err(Into::into)
}

fn missing(kind: Kind, id: &str) -> ApiError {
    let (kind, id) = (kind.name(), id.to_owned());
    TenantError::Missing { kind, id }.into()
}

impl From<LedgerError> for ApiError {
    fn from(error: LedgerError) -> Self {
        TenantError::from(error).into()
    }
}

impl From<TenantError> for ApiError {
    fn from(error: TenantError) -> Self {
        let message = error.to_string();
        match error {
            TenantError::Missing { .. } => Self::missing(message),
            TenantError::Configured { .. } | TenantError::Directory(_) => Self::unfit(message),
            TenantError::Unreadable { what, .. } => Self::unfit(what),
            TenantError::Ledger(LedgerError::Fixed) => Self::unfit(message),
            TenantError::Ledger(_) | TenantError::Issuer(_) => {
                tracing::error!(%error, "the admin API cannot use the ledger");
                Self::internal()
            }
        }
    }
}
