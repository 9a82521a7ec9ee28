//! What operators and their machines ask, on a listener of its own that no client reaches.

mod accounts;
mod audited;
mod caller;
mod document;
mod models;
mod routes;

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::json;

use self::routes::Routes;
use crate::clock::Clock;
use crate::fleet::Fleet;
use crate::health::Health;
use crate::layers::authenticate::{self, Gate};
use crate::layers::{fence, host};
use crate::openai::error::ApiError;
use crate::quota::{Quota, invariants};
use crate::telemetry::Metrics;
use crate::upstream::registry::Models;

/// Version of Prometheus' text form that [`Metrics::render`] writes.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Debug, Clone)]
struct Admin {
    metrics: Metrics,
    models: Arc<Models>,
    quota: Quota,
    clock: Clock,
}

/// `/metrics`, `/health`, `/health/live`, `/health/ready`, the models under `/admin/v1/models`, and for keys and tokens the rest of the
/// admin API: on a server with keys `/admin/v1/decisions/{id}` for operators alone, since it tells what others asked for.
pub fn router(metrics: &Metrics, health: Health, fleet: Fleet, gate: Gate) -> Router {
    let admin = Admin {
        metrics: metrics.clone(),
        models: Arc::clone(&health.models),
        quota: gate.tenants.quota().clone(),
        clock: gate.clock.clone(),
    };
    let operators = from_fn_with_state(gate.clone(), authenticate::operators_if_keys);
    let of_models = models::routes().into_router().with_state(fleet);
    let of_models = of_models.route_layer(from_fn_with_state(gate.clone(), audited::note));
    // Models may be changed, and others' requests looked at, without a key only where no keys are.
    let of_operators = Router::new()
        .merge(decision_routes().into_router().with_state(admin.clone()))
        .merge(of_models)
        .route_layer(operators);
    let known = from_fn_with_state(gate.clone(), authenticate::anyone_known);
    let of_accounts = accounts::routes().into_router().with_state(gate);
    // Around the routes alone: what else the listener answers needs no key.
    let of_accounts = of_accounts.route_layer(known);
    Router::new()
        .route("/metrics", get(scrape))
        .with_state(admin)
        .merge(health.router())
        .merge(of_operators)
        .merge(of_accounts)
        .route(document::PATH, get(document::get))
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        // As in `stack`: a web page must not read this through a name that is made to resolve here.
        .layer(from_fn(host::check))
        .layer(from_fn_with_state(metrics.clone(), fence::around))
}

fn decision_routes() -> Routes<Admin> {
    // Ids of the prompts of one request are told apart behind a slash.
    Routes::new().get("/admin/v1/decisions/{*id}", decisions)
}

async fn scrape(State(admin): State<Admin>) -> Response {
    let unsettled = admin.quota.ledger().unsettled();
    let figures = (admin.quota).with_book(|book, _| (book.pending().len(), invariants::l1(book)));
    let (open, l1) = figures;
    if let Err(violation) = &l1 {
        tracing::error!(%violation, "quota is broken; please report it");
    }
    admin.metrics.quota(open, unsettled, l1.is_err());
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
