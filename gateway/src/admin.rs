//! What operators and their machines ask, on a listener of its own that no client reaches.

mod models;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::CONTENT_TYPE;

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
}

/// `/metrics`, `/health/live`, `/health/ready`, and the models under `/admin/v1/models`.
pub fn router(metrics: &Metrics, health: Health, fleet: Fleet) -> Router {
    let admin = Admin {
        metrics: metrics.clone(),
        models: Arc::clone(&health.models),
    };
    Router::new()
        .route("/metrics", get(scrape))
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
