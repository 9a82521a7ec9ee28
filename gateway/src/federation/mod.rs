//! What servers of ours tell each other beside OpenAI's API: who they are, how they stand, and what to stop.
//!
//! It knows links between peers; how a request is served or routed it must not know.

pub mod control;
pub mod follow;
pub mod headers;
pub mod kept;
pub mod publish;
pub mod reach;
pub mod status;
mod wire;

use axum::Router;
use axum::routing::{get, post};

pub use control::Control;

use crate::openai::error::ApiError;

/// The paths for peers. Whoever is none is refused by name.
pub fn router(control: Control) -> Router {
    Router::new()
        .route("/hansa/v1/status", get(publish::status))
        .route("/hansa/v1/cancel", post(control::cancel))
        .route(
            "/hansa/v1/usage",
            get(control::usage).post(control::settled),
        )
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .with_state(control)
}
