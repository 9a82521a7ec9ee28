//! `/admin/v1/allocations`: what tenants may spend in all, and what is left of it.

use axum::extract::{Path, Request, State};
use axum::response::Response;
use serde_json::Value;

use super::{Caller, delete, put, read};
use crate::layers::authenticate::Gate;
use crate::openai::error::ApiError;
use crate::openai::json as answer;
use crate::quota::allocation::Grant;
use crate::quota::ledger::Kind;
use crate::quota::standing::AllocationUsage;

/// Those that the caller spends from or manages.
pub(super) async fn list(State(gate): State<Gate>, caller: Caller) -> Response {
    let quota = gate.tenants.quota();
    quota.look(None).await;
    let mut all: Vec<AllocationUsage> = quota.with_book(|book, at| {
        book.roll(at);
        let own = book
            .allocations()
            .filter(|found| caller.belongs_to(&found.grant().tenant));
        own.map(AllocationUsage::from).collect()
    });
    all.sort_by(|a, b| a.id.cmp(&b.id));
    super::list(all)
}

/// Makes one, or puts another in its place; what was spent of it stays spent.
pub(super) async fn set(
    State(gate): State<Gate>,
    Path(id): Path<String>,
    caller: Caller,
    request: Request,
) -> Result<Response, ApiError> {
    caller.must_operate()?;
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
    put(&gate, caller.id(), Kind::Allocation, &id, &grant).await?;
    Ok(answer(&grant))
}

/// Takes one away.
pub(super) async fn remove(
    State(gate): State<Gate>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let quota = gate.tenants.quota();
    let is_there =
        quota.with_book(|book, _| book.allocations().any(|found| *found.grant().id == *id));
    delete(&gate, &caller, Kind::Allocation, id, is_there).await
}
