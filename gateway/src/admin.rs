//! What operators and their machines ask, on a listener of its own that no client reaches.

mod models;

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::json;

use crate::clock::Clock;
use crate::fleet::Fleet;
use crate::health::Health;
use crate::layers::{fence, host};
use crate::telemetry::Metrics;
use crate::upstream::registry::Models;

/// Version of Prometheus' text form that [`Metrics::render`] writes.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Debug, Clone)]
struct Admin {
    metrics: Metrics,
    models: Arc<Models>,
    clock: Clock,
}

/// `/metrics`, `/health/live`, `/health/ready`, the models under `/admin/v1/models`, and `/admin/v1/decisions/{id}`.
pub fn router(metrics: &Metrics, health: Health, fleet: Fleet, clock: Clock) -> Router {
    let admin = Admin {
        metrics: metrics.clone(),
        models: Arc::clone(&health.models),
        clock,
    };
    Router::new()
        .route("/metrics", get(scrape))
        // Ids of the prompts of one request are told apart behind a slash.
        .route("/admin/v1/decisions/{*id}", get(decisions))
        .with_state(admin)
        .merge(health.router())
        .merge(models::router(fleet))
        // As in `stack`: a web page must not read this through a name that is made to resolve here.
        .layer(from_fn(host::check))
        .layer(from_fn_with_state(metrics.clone(), fence::contain))
}

async fn scrape(State(admin): State<Admin>) -> Response {
    let text = admin.metrics.render(&admin.models);
    ([(CONTENT_TYPE, PROMETHEUS_TEXT)], text).into_response()
}

/// Where the request with that id went and why: every decision that was made for it, for some minutes.
async fn decisions(State(admin): State<Admin>, Path(id): Path<String>) -> Response {
    let now = admin.clock.now();
    match admin.models.decisions().get(&id, now) {
        Some(decisions) => Json(json!({ "id": id, "decisions": decisions })).into_response(),
        None => {
            let error = "no decision of this request is kept: it is too long ago, or never came";
            (StatusCode::NOT_FOUND, Json(json!({ "error": error }))).into_response()
        }
    }
}
