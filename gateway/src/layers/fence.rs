//! Keeps a panic to the request that it happened in.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::FutureExt;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::openai::error::ApiError;
use crate::telemetry::Metrics;

/// [`contain`] as a layer.
pub async fn around(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    contain(&metrics, next.run(request)).await
}

/// Answers 500 where a handler panics, and cuts the stream where an answer's body does. What panicked is dropped and
/// never used again, which is why asserting unwind safety is sound.
pub(crate) async fn contain(metrics: &Metrics, answer: impl Future<Output = Response>) -> Response {
    match AssertUnwindSafe(answer).catch_unwind().await {
        Ok(response) => response.map(|body| {
            Body::new(FencedBody {
                body: Some(body),
                metrics: metrics.clone(),
            })
        }),
        Err(_) => {
            metrics.panicked();
            ApiError::internal().into_response()
        }
    }
}

/// A body whose panic ends it with an error: the client sees a broken stream, not a complete one (I3).
struct FencedBody {
    body: Option<Body>,
    metrics: Metrics,
}

impl HttpBody for FencedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = self.body.as_mut() else {
            return Poll::Ready(None);
        };
        match catch_unwind(AssertUnwindSafe(|| Pin::new(body).poll_frame(cx))) {
            Ok(polled) => polled,
            Err(_) => {
                self.body = None;
                self.metrics.panicked();
                Poll::Ready(Some(Err(axum::Error::new(Panicked))))
            }
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

/// The body panicked; where and why is in the log.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off")]
struct Panicked;
