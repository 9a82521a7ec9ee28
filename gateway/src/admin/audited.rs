//! Writes changes of models into the audit trail, which no ledger keeps otherwise.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use super::models::Changed;
use crate::layers::authenticate::Gate;
use crate::quota::ledger::AuditLine;
use crate::tenant::principal::Principal;

/// Hands on a request, and notes what it changed before its answer leaves.
pub(super) async fn note(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let by = Principal::of(request.extensions()).map(|principal| principal.account.key.to_string());
    let answer = next.run(request).await;
    if let Some(Changed { action, id }) = answer.extensions().get() {
        let line = AuditLine {
            at_s: gate.clock.unix_s(),
            // Without keys nobody knows who it was.
            by: by.unwrap_or_default(),
            action: (*action).to_owned(),
            kind: "model".to_owned(),
            id: id.clone(),
        };
        let ledger = Arc::clone(gate.tenants.quota().ledger());
        let noted = tokio::task::spawn_blocking(move || ledger.note(line)).await;
        if !matches!(noted, Ok(Ok(()))) {
            tracing::error!(
                model = id,
                "a change of models could not be noted in the audit trail"
            );
        }
    }
    answer
}
