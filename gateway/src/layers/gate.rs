//! Turns new requests away once the server drains. They come on connections that were open before.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::drain::{DrainWatch, Phase};
use crate::openai::error::ApiError;

/// Lets a request pass while the server serves.
pub async fn pass(State(drain): State<DrainWatch>, request: Request, next: Next) -> Response {
    if drain.phase() >= Phase::Draining {
        return ApiError::shutting_down().into_response();
    }
    next.run(request).await
}
