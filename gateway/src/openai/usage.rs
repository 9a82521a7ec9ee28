//! `/v1/usage`: what is left for whoever asks, and for managers what their tenant spent it on.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use http::Uri;
use serde::Serialize;
use uuid::Uuid;

use super::Api;
use super::answer::json;
use super::error::ApiError;
use super::metering::Metering;
use super::query::parameter;
use crate::limits::ADMIN_PAGE_MAX;
use crate::quota::charge::Account;
use crate::quota::ledger::Record;
use crate::tenant::principal::{Principal, Role};

/// Whoever showed a key; nobody on a server without.
type Caller = Option<Extension<Arc<Principal>>>;

/// `GET /v1/usage`
pub(super) async fn get(State(api): State<Api>, caller: Caller) -> Result<Response, ApiError> {
    let (metering, principal) = known(&api, caller)?;
    metering.quota.look(Some(&principal.account)).await;
    Ok(json(&metering.quota.usage(&principal.account)))
}

#[derive(Serialize)]
struct Records {
    object: &'static str,
    data: Vec<Record>,
    /// Where the next page begins; null after the last one. A page may hold nothing and still not be the last one.
    next: Option<Uuid>,
}

/// `GET /v1/usage/records?after=CHARGE`
pub(super) async fn records(
    State(api): State<Api>,
    caller: Caller,
    uri: Uri,
) -> Result<Response, ApiError> {
    let (metering, principal) = known(&api, caller)?;
    if principal.role < Role::Manager {
        return Err(ApiError::managers_only());
    }
    let after = parameter::<Uuid>(&uri, "after", "a charge")?;
    let ledger = Arc::clone(metering.quota.ledger());
    let read = move || ledger.records(after, ADMIN_PAGE_MAX);
    let read = tokio::task::spawn_blocking(read).await;
    let Ok(Ok(mut data)) = read else {
        return Err(ApiError::internal());
    };
    let last = data.last().map(|record| record.charge);
    let next = last.filter(|_| data.len() == ADMIN_PAGE_MAX);
    data.retain(|record| is_of(record, &principal.account));
    let object = "list";
    Ok(json(&Records { object, data, next }))
}

/// A server without keys has no accounts, and so no such path.
fn known(api: &Api, caller: Caller) -> Result<(&Metering, Arc<Principal>), ApiError> {
    let (Some(metering), Some(Extension(principal))) = (&api.metering, caller) else {
        return Err(ApiError::route_not_found());
    };
    Ok((metering, principal))
}

/// Whether a record is the account's project's, or its organisation's where it has no project.
fn is_of(record: &Record, account: &Account) -> bool {
    match &account.project {
        Some(project) => record.project.as_ref() == Some(project),
        None => record.organisation == account.organisation,
    }
}
