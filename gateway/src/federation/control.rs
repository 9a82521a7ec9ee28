//! What a peer may ask of this server beside serving a request: to stop one.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use http::StatusCode;
use serde::Deserialize;

use crate::drain::DrainWatch;
use crate::layers::peer::Peer;
use crate::limits;
use crate::openai::body;
use crate::openai::error::ApiError;
use crate::upstream::registry::Models;

/// What the paths for peers work on. Clones share it.
#[derive(Debug, Clone)]
pub struct Control {
    /// The models whose figures are told and whose requests are stopped.
    pub models: Arc<Models>,
    /// Ends streams of status.
    pub drain: DrainWatch,
}

#[derive(Deserialize)]
struct Cancel {
    id: String,
}

/// `POST /hansa/v1/cancel` with `{"id": ...}`: stops the request of that id. One that is unknown or over is no error: the
/// caller cannot know how far it has come.
pub(super) async fn cancel(
    State(control): State<Control>,
    peer: Option<Extension<Peer>>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    if peer.is_none() {
        return Err(ApiError::peers_only());
    }
    let body = body::read(request, limits::PEER_CALL_BYTES_MAX).await?;
    let cancel: Cancel = serde_json::from_slice(&body).map_err(|_| ApiError::not_an_object())?;
    control.models.cancel(&cancel.id);
    Ok(StatusCode::NO_CONTENT)
}
