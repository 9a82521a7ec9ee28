//! `/admin/v1/models`: models that come and go while the server runs.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use hansa_config::limits::FILE_BYTES_MAX;
use hansa_config::{Problems, model_from_json};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::routes::Routes;
use crate::fleet::{Fleet, FleetError};
use crate::health;
use crate::openai::body;
use crate::openai::error::ApiError;
use crate::upstream::Readiness;
use crate::upstream::registry::{AddError, Listed, Origin};

/// A change that was made, in the extensions of its answer: the audit trail has it before the answer leaves.
#[derive(Debug, Clone)]
pub(super) struct Changed {
    /// `set` or `remove`.
    pub(super) action: &'static str,
    /// Id of the model.
    pub(super) id: String,
}

/// The three routes.
pub(super) fn routes() -> Routes<Fleet> {
    Routes::new()
        .get("/admin/v1/models", list)
        .post("/admin/v1/models", add)
        .delete("/admin/v1/models/{*id}", remove)
}

/// `GET`: where each model stands.
async fn list(State(fleet): State<Fleet>) -> Json<Value> {
    let models: Vec<Value> = fleet.list().iter().map(describe).collect();
    Json(json!({ "models": models }))
}

/// `POST`: a `[[model]]` section as JSON. 202 as soon as it is listed; it may still not load, which `GET` shows.
async fn add(State(fleet): State<Fleet>, request: Request) -> Result<Response, ApiError> {
    let body = body::read(request, FILE_BYTES_MAX as u64).await?;
    let section: Map<String, Value> = serde_json::from_slice(&body).map_err(|error| {
        if error.is_data() {
            ApiError::not_an_object()
        } else {
            ApiError::json(error.to_string())
        }
    })?;
    let model = model_from_json(section).map_err(|problems| refused(&problems))?;
    fleet.add(&model).map_err(|error| match error {
        FleetError::Add(AddError::Taken) => ApiError::model_exists(&model.id),
        FleetError::Leaving => ApiError::shutting_down(),
        error => ApiError::invalid_model(error.to_string()),
    })?;
    let listed = fleet.list();
    let shown = listed.iter().find(|listed| *listed.info.id == *model.id);
    let answer = (StatusCode::ACCEPTED, Json(shown.map(describe))).into_response();
    Ok(changed(answer, "set", &model.id))
}

/// `DELETE`: answers once the model's requests have ended and its memory is free.
async fn remove(
    State(fleet): State<Fleet>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::model_not_found(""))?;
    if fleet.remove(&id).await {
        let answer = Json(json!({ "id": id, "deleted": true })).into_response();
        Ok(changed(answer, "remove", &id))
    } else {
        Err(ApiError::model_not_found(&id))
    }
}

fn changed(mut answer: Response, action: &'static str, id: &str) -> Response {
    let id = id.to_owned();
    answer.extensions_mut().insert(Changed { action, id });
    answer
}

/// All problems at once, one a line.
fn refused(problems: &Problems) -> ApiError {
    let line = |problem: &hansa_config::Problem| {
        let path = match problem.path.as_str() {
            "" => "the section",
            path => path,
        };
        format!("{path}: {}; {}", problem.message, problem.help)
    };
    let lines: Vec<String> = problems.list().iter().map(line).collect();
    ApiError::invalid_model(lines.join("\n"))
}

fn describe(listed: &Listed) -> Value {
    let (upstream, info) = (Arc::clone(&listed.upstream), &listed.info);
    let (status, resident) = (upstream.status(), upstream.resident());
    let (state, phase) = health::names(&status.readiness);
    let reason = match &status.readiness {
        Readiness::Failed(reason) => Some(reason),
        _ => None,
    };
    json!({
        "id": &*info.id,
        "origin": match listed.origin { Origin::Config => "config", Origin::Added => "added" },
        "created": info.created_s,
        "state": state,
        "phase": phase,
        "reason": reason,
        "running": status.running,
        "waiting": status.waiting,
        "kv_blocks": {
            "total": status.kv_blocks_total,
            "free": status.kv_blocks_free,
            "cached": status.kv_blocks_cached,
        },
        "resident_bytes": {
            "weights": resident.weights_bytes,
            "kv": resident.kv_bytes,
        },
    })
}
