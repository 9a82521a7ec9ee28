//! What a peer may ask of this server beside serving a request: to stop one, and what one used that is over.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use http::{StatusCode, Uri};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::kept::Kept;
use super::reach::ServerId;
use crate::drain::DrainWatch;
use crate::layers::peer::Peer;
use crate::limits;
use crate::openai::error::ApiError;
use crate::openai::query::parameter;
use crate::openai::{body, json};
use crate::upstream::registry::Models;
use crate::upstream::usage::{Finished, Lives, Wanted};

/// What the paths for peers work on. Clones share it.
#[derive(Debug, Clone)]
pub struct Control {
    /// The models whose figures are told and whose requests are stopped.
    pub models: Arc<Models>,
    /// Who this server is to its peers.
    pub me: ServerId,
    /// Ends streams of status.
    pub drain: DrainWatch,
    /// What is kept of requests that are over.
    pub kept: Kept,
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

#[derive(Serialize)]
struct Page {
    data: Vec<Finished>,
}

/// `GET /hansa/v1/usage?id=ID`, `?owner=LEDGER&but=RUN` or `?owner=LEDGER&of=RUN`: what requests used that are over. One that
/// went on from here is asked for there, where nothing of it is known here.
pub(super) async fn usage(
    State(control): State<Control>,
    peer: Option<Extension<Peer>>,
    uri: Uri,
) -> Result<Response, ApiError> {
    if peer.is_none() {
        return Err(ApiError::peers_only());
    }
    let wanted = wanted(&uri)?;
    let mut data = control.kept.find(&wanted);
    if data.is_empty() && matches!(wanted, Wanted::Request { hops, .. } if hops < limits::HOPS_MAX)
    {
        data = control.models.finished(wanted).await;
    }
    Ok(json(&Page { data }))
}

fn wanted(uri: &Uri) -> Result<Wanted, ApiError> {
    if let Some(id) = parameter::<String>(uri, "id", "an id")? {
        let hops = parameter::<u8>(uri, "hops", "a number")?.unwrap_or(limits::HOPS_MAX);
        let id = id.into();
        return Ok(Wanted::Request { id, hops });
    }
    let id = |name| parameter::<Uuid>(uri, name, "a UUID");
    let lives = match (id("but")?, id("of")?) {
        (Some(run), None) => Some(Lives::But(run)),
        (None, Some(run)) => Some(Lives::One(run)),
        _ => None,
    };
    match (id("owner")?, lives) {
        (Some(owner), Some(lives)) => Ok(Wanted::Of { owner, lives }),
        _ => Err(ApiError::not_an_object()),
    }
}

#[derive(Deserialize)]
struct Settled {
    ids: Vec<Arc<str>>,
}

/// `POST /hansa/v1/usage` with `{"ids": [...]}`: these are settled, and need not be kept.
pub(super) async fn settled(
    State(control): State<Control>,
    peer: Option<Extension<Peer>>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    if peer.is_none() {
        return Err(ApiError::peers_only());
    }
    let body = body::read(request, limits::USAGE_ANSWER_BYTES_MAX as u64).await?;
    let settled: Settled = serde_json::from_slice(&body).map_err(|_| ApiError::not_an_object())?;
    // Only what was here: servers in a circle must not tell each other for ever.
    let released = control.kept.release(settled.ids);
    if !released.is_empty() {
        control.models.acknowledge(&released);
    }
    Ok(StatusCode::NO_CONTENT)
}
