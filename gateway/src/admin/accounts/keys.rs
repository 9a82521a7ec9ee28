//! `/admin/v1/keys`: a key's secret is in the answer to its making and nowhere else.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::{Caller, missing, put, read};
use crate::layers::authenticate::Gate;
use crate::limits::KEY_OVERLAP_S;
use crate::openai::error::ApiError;
use crate::openai::json as answer;
use crate::quota::ledger::Kind;
use crate::tenant::document::KeyDocument;
use crate::tenant::secret::Secret;

/// Those of the caller: a member's own.
pub(super) async fn list(State(gate): State<Gate>, caller: Caller) -> Response {
    let directory = gate.tenants.directory();
    let own = directory
        .keys()
        .filter(|key| caller.sees(&key.tenant, &key.id));
    super::list(own.collect())
}

/// Makes one and shows it.
pub(super) async fn make(
    State(gate): State<Gate>,
    caller: Caller,
    request: Request,
) -> Result<Response, ApiError> {
    let mut key: KeyDocument = read(request).await?;
    caller.must_hold(&key)?;
    if key.id.is_empty() {
        key.id = Uuid::new_v4().to_string().into();
    }
    refuse_taken(&gate, &key.id)?;
    show_new(&gate, caller.id(), key).await
}

/// Takes one back; it stops working at once.
pub(super) async fn revoke(
    State(gate): State<Gate>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let revoked = KeyDocument {
        revoked: true,
        ..key(&gate, &caller, &id)?
    };
    put(&gate, caller.id(), Kind::Key, &id, &revoked).await?;
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
pub(super) async fn rotate(
    State(gate): State<Gate>,
    Path(id): Path<String>,
    caller: Caller,
    request: Request,
) -> Result<Response, ApiError> {
    let rotation: Rotation = read(request).await?;
    let old = key(&gate, &caller, &id)?;
    if old.revoked {
        let message = format!("the key '{id}' was revoked; make a new one");
        return Err(ApiError::unfit(message));
    }
    let new_id = rotation.id.unwrap_or_else(|| Uuid::new_v4().to_string());
    refuse_taken(&gate, &new_id)?;
    let end_s = gate
        .clock
        .unix_s()
        .saturating_add(rotation.overlap_s.into());
    let ending = KeyDocument {
        expires_s: Some(old.expires_s.map_or(end_s, |before_s| before_s.min(end_s))),
        ..old.clone()
    };
    // First what can be refused: a key of the config cannot be given an end here.
    put(&gate, caller.id(), Kind::Key, &id, &ending).await?;
    show_new(
        &gate,
        caller.id(),
        KeyDocument {
            id: new_id.into(),
            ..old
        },
    )
    .await
}

/// Gives `key` a new secret and shows it.
async fn show_new(gate: &Gate, by: String, mut key: KeyDocument) -> Result<Response, ApiError> {
    let secret = Secret::new();
    key.sha256 = secret.digest().to_string();
    let id = Arc::clone(&key.id);
    put(gate, by, Kind::Key, &id, &key).await?;
    let mut shown = json!(key);
    shown["key"] = secret.reveal().into();
    Ok(answer(&shown))
}

/// A key that the caller may take back; that there is another's is not told.
fn key(gate: &Gate, caller: &Caller, id: &str) -> Result<KeyDocument, ApiError> {
    let directory = gate.tenants.directory();
    let found = directory.key(id).filter(|key| caller.manages(&key.tenant));
    let found = found.ok_or_else(|| missing(Kind::Key, id))?;
    caller.must_hold(found)?;
    Ok(found.clone())
}

fn refuse_taken(gate: &Gate, id: &str) -> Result<(), ApiError> {
    if gate.tenants.directory().key(id).is_none() {
        return Ok(());
    }
    let message = format!("there is a key '{id}' already; rotate it, or choose another id");
    Err(ApiError::unfit(message))
}
