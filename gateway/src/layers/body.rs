//! Receives a request's body within a cap and a time, and lets a refused one run out.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::drain::{DrainWatch, Phase};
use crate::limits::{REFUSED_BODY_BYTES_MAX, REFUSED_BODY_TIME_MAX};
use crate::openai::error::ApiError;

/// Bounds of a body.
#[derive(Debug, Clone)]
pub struct BodyLimits {
    /// Bytes.
    pub bytes_max: u64,
    /// Time for the client to send all of it.
    pub timeout: Duration,
    /// A body that is not here when the server drains is refused.
    pub drain: DrainWatch,
    /// Where the rest of a refused body is thrown away.
    pub tasks: TaskTracker,
}

/// The request with a body that ends in an [`ApiError`] where it passes the cap or the time, or the server drains.
///
/// # Errors
/// A body that is declared too large is refused before any of it is read.
pub(crate) fn bound(limits: &BodyLimits, request: Request) -> Result<Request, ApiError> {
    if request.body().is_end_stream() {
        return Ok(request);
    }
    let declared = request.body().size_hint().lower();
    let request = request.map(|body| Body::new(BoundBody::new(body, limits.clone())));
    match declared > limits.bytes_max {
        // What comes of it is read and thrown away.
        true => Err(ApiError::payload_too_large(limits.bytes_max)),
        false => Ok(request),
    }
}

/// A body within its bounds. Dropped before its end, it goes on reading for a while and throws away what comes: a
/// connection closed on a client that still sends is reset, and the client would see that instead of its answer.
struct BoundBody {
    /// None after the end.
    body: Option<Body>,
    limits: BodyLimits,
    received: u64,
    /// Resolves when nobody waits for the rest any more; made once there is something to wait for.
    given_up: Option<BoxFuture<'static, ApiError>>,
}

impl BoundBody {
    const fn new(body: Body, limits: BodyLimits) -> Self {
        Self {
            body: Some(body),
            limits,
            received: 0,
            given_up: None,
        }
    }

    fn poll_given_up(&mut self, cx: &mut Context<'_>) -> Poll<ApiError> {
        let BodyLimits { timeout, drain, .. } = &self.limits;
        let made = || Box::pin(given_up(*timeout, drain.clone())) as BoxFuture<'static, _>;
        self.given_up.get_or_insert_with(made).as_mut().poll(cx)
    }

    fn count(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, axum::Error> {
        self.received += frame.data_ref().map_or(0, Bytes::len) as u64;
        if self.received > self.limits.bytes_max {
            let verdict = ApiError::payload_too_large(self.limits.bytes_max);
            return Err(axum::Error::new(verdict));
        }
        Ok(frame)
    }
}

impl HttpBody for BoundBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = self.body.as_mut() else {
            return Poll::Ready(None);
        };
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(self.count(frame))),
            Poll::Ready(ended) => {
                self.body = None;
                Poll::Ready(ended)
            }
            Poll::Pending => self
                .poll_given_up(cx)
                .map(|verdict| Some(Err(axum::Error::new(verdict)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

async fn given_up(time: Duration, drain: DrainWatch) -> ApiError {
    tokio::select! {
        () = sleep(time) => ApiError::request_timeout(),
        () = drain.reached(Phase::Draining) => ApiError::shutting_down(),
    }
}

impl Drop for BoundBody {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) {
            // A client that is slower than this loses its connection.
            let discarded = timeout(REFUSED_BODY_TIME_MAX, discard(body));
            self.limits.tasks.spawn(discarded);
        }
    }
}

async fn discard(mut body: Body) {
    let mut discarded = 0;
    while let Some(Ok(frame)) = body.frame().await {
        discarded += frame.data_ref().map_or(0, Bytes::len) as u64;
        if discarded > REFUSED_BODY_BYTES_MAX {
            return;
        }
    }
}
