//! Receives a request's body within a cap and a time, before anybody looks at it.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::limits::{REFUSED_BODY_BYTES_MAX, REFUSED_BODY_TIME_MAX};
use crate::openai::error::ApiError;

/// Bounds of a body.
#[derive(Debug, Clone)]
pub struct BodyLimits {
    /// Bytes.
    pub bytes_max: u64,
    /// Time for the client to send all of it.
    pub timeout: Duration,
    /// Where the rest of a refused body is thrown away.
    pub tasks: TaskTracker,
}

/// Hands the request on with its body complete, or answers 413, 408 or 400.
pub async fn receive(State(limits): State<BodyLimits>, request: Request, next: Next) -> Response {
    let (head, mut body) = request.into_parts();
    if declared_bytes(&head.headers) > limits.bytes_max {
        return refuse(&limits, body);
    }
    match timeout(limits.timeout, collect(&mut body, limits.bytes_max)).await {
        Ok(Ok(bytes)) => next.run(Request::from_parts(head, Body::from(bytes))).await,
        Ok(Err(Broken::TooLarge)) => refuse(&limits, body),
        Ok(Err(Broken::Cut)) => ApiError::body_unreadable().into_response(),
        Err(_) => ApiError::request_timeout().into_response(),
    }
}

enum Broken {
    TooLarge,
    Cut,
}

fn declared_bytes(headers: &HeaderMap) -> u64 {
    let length = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok());
    // hyper has refused a length that is no number; one that is missing is counted as it comes.
    length.and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// The whole body, or the moment where it passes the cap: never more than the cap and one frame in memory.
async fn collect(body: &mut Body, bytes_max: u64) -> Result<Bytes, Broken> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        // Trailers carry nothing for us.
        let Ok(data) = frame.map_err(|_| Broken::Cut)?.into_data() else {
            continue;
        };
        if (whole.len() + data.len()) as u64 > bytes_max {
            return Err(Broken::TooLarge);
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// Answers at once and goes on reading for a while: a connection closed on a client that still sends is reset, and the
/// client would see that instead of the answer.
fn refuse(limits: &BodyLimits, mut body: Body) -> Response {
    let rest = async move {
        let mut discarded = 0;
        while let Some(Ok(frame)) = body.frame().await {
            discarded += frame.data_ref().map_or(0, Bytes::len) as u64;
            if discarded > REFUSED_BODY_BYTES_MAX {
                return;
            }
        }
    };
    limits.tasks.spawn(async move {
        // A client that is slower than this loses its connection, as it would have without.
        let _ = timeout(REFUSED_BODY_TIME_MAX, rest).await;
    });
    ApiError::payload_too_large(limits.bytes_max).into_response()
}
