//! Answers the two questions of probes: is the process alive, and may it be sent requests.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use http::header::ALLOW;
use serde_json::{Value, json};

use crate::drain::{DrainWatch, Phase};
use crate::openai::error::ApiError;
use crate::upstream::Readiness;
use crate::upstream::registry::Models;

/// What readiness depends on.
#[derive(Debug, Clone)]
pub struct Health {
    /// Every one of the config must be ready.
    pub models: Arc<Models>,
    /// A server that leaves is not ready, though it still serves.
    pub drain: DrainWatch,
}

impl Health {
    /// `/health/live` and `/health/ready`; and `/health`, which clients and probes of vLLM and of llama.cpp's server ask for:
    /// the same as the first, since a probe that restarts what it finds dead must not meet a server that loads.
    pub fn router(self) -> Router {
        Router::new()
            .route("/health", get(live).fallback(only_get))
            .route("/health/live", get(live).fallback(only_get))
            .route("/health/ready", get(ready).fallback(only_get))
            .with_state(self)
    }

    fn is_ready(&self) -> bool {
        self.drain.phase() == Phase::Serving && self.models.all_ready()
    }

    /// What keeps a server that serves from being ready.
    fn state(&self) -> &'static str {
        match self.models.gravest() {
            Some(readiness) => names(&readiness).0,
            None => "starting",
        }
    }
}

/// Whether a path is that of a probe.
pub(crate) fn is_probe(path: &str) -> bool {
    path == "/health" || path.starts_with("/health/")
}

async fn only_get() -> Response {
    let allowed = [(ALLOW, "GET,HEAD")];
    (allowed, ApiError::method_not_allowed()).into_response()
}

/// 200 as long as the process answers at all.
async fn live() -> Json<Value> {
    Json(json!({ "status": "live" }))
}

/// 200 where every model of the config takes requests and nobody asked the server to leave; 503 otherwise. Either way the body says
/// where each model stands.
async fn ready(State(health): State<Health>) -> Response {
    let (code, status) = match (health.is_ready(), health.drain.phase()) {
        (true, _) => (StatusCode::OK, "ready"),
        (false, Phase::Serving) => (StatusCode::SERVICE_UNAVAILABLE, health.state()),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
    };
    let models: Vec<Value> = health
        .models
        .statuses()
        .into_iter()
        .map(|(id, status)| describe(&id, &status.readiness))
        .collect();
    (code, Json(json!({ "status": status, "models": models }))).into_response()
}

/// `state` says whether requests are taken, `phase` what is going on.
fn describe(id: &str, readiness: &Readiness) -> Value {
    let (state, phase) = names(readiness);
    json!({ "id": id, "state": state, "phase": phase })
}

/// State and phase in words.
pub(crate) const fn names(readiness: &Readiness) -> (&'static str, &'static str) {
    match readiness {
        Readiness::Loading => ("starting", "loading"),
        Readiness::Warming => ("starting", "warming"),
        Readiness::Ready => ("ready", "serving"),
        Readiness::Stalled => ("stalled", "serving"),
        Readiness::Draining => ("draining", "draining"),
        Readiness::Failed(_) => ("failed", "failed"),
    }
}
