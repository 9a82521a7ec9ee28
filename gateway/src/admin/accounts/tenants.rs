//! `/admin/v1/tenants`: organisations and their projects.

use axum::extract::{Path, Request, State};
use axum::response::Response;

use super::{Caller, delete, named, put, read};
use crate::layers::authenticate::Gate;
use crate::openai::error::ApiError;
use crate::openai::json as answer;
use crate::quota::ledger::Kind;
use crate::tenant::document::TenantDocument;

/// Those of the caller.
pub(super) async fn list(State(gate): State<Gate>, caller: Caller) -> Response {
    let directory = gate.tenants.directory();
    let own = directory
        .tenants()
        .filter(|tenant| caller.belongs_to(&tenant.id));
    super::list(own.collect())
}

/// Makes one, or puts another in its place.
pub(super) async fn set(
    State(gate): State<Gate>,
    Path(id): Path<String>,
    caller: Caller,
    request: Request,
) -> Result<Response, ApiError> {
    caller.must_operate()?;
    let mut tenant: TenantDocument = read(request).await?;
    named(&mut tenant.id, &id)?;
    put(&gate, caller.id(), Kind::Tenant, &id, &tenant).await?;
    Ok(answer(&tenant))
}

/// Takes one away.
pub(super) async fn remove(
    State(gate): State<Gate>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let is_there = gate.tenants.directory().known(&id).is_ok();
    delete(&gate, &caller, Kind::Tenant, id, is_there).await
}
