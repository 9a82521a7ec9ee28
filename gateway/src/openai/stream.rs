//! When a stream's bytes go out: headers held back until there is something to say, pings while there is not, and a
//! proper end whatever happens.
//!
//! Until the first content the client has nothing, so an error is still an HTTP status and the work can be done
//! elsewhere. After `ping_after` of silence the headers go out, because clients and middlemen give up on silent
//! connections; from then on an error is an event. A stream ends with `[DONE]` or with an error event, never just so
//! (I3).

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http::{HeaderValue, header};
use http_body::Frame;
use tokio::time::Sleep;

use super::error::ApiError;
use super::run::Run;
use super::sse::Encoder;
use crate::federation::headers;
use crate::limits;
use crate::upstream::{Event, Usage};

/// Answers with a stream as soon as there is content, or the silence is too long.
///
/// # Errors
/// What went wrong before either.
pub(super) async fn respond(
    mut run: Run,
    mut encoder: Encoder,
    ping_after: Duration,
) -> Result<Response, ApiError> {
    let period = ping_after.max(Duration::from_millis(limits::PING_PERIOD_MS_MIN));
    let first = tokio::time::timeout(period, run.next()).await;
    let quiet = first.is_err();
    match first {
        // `Done` is never the first: each choice ends before.
        Ok(Some(Ok(event))) => encoder.event(&event),
        Ok(Some(Err(error))) if encoder.is_for_peer() => return Ok(refusal(error, run.total())),
        Ok(Some(Err(error))) => return Err(error),
        Ok(None) => return Err(ApiError::internal()),
        Err(_elapsed) => encoder.ping(),
    }
    let body = EventBody {
        run,
        encoder,
        timer: Box::pin(tokio::time::sleep(period)),
        period,
        quiet,
        over: false,
    };
    // Nothing of caches: nobody keeps the answer to a POST that does not ask for it (RFC 9110, 9.3.3), and one header more would
    // double the room that a connection holds for them.
    let names = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream"),
        ),
        // nginx would hold events back otherwise.
        (X_ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ];
    Ok((names, Body::new(body)).into_response())
}

/// An error answer to a peer, which pays for what was used until then.
pub(super) fn refusal(error: ApiError, used: Option<Usage>) -> Response {
    let mut response = error.into_response();
    let used = used.and_then(|used| serde_json::to_string(&used).ok());
    if let Some(used) = used.and_then(|used| HeaderValue::try_from(used).ok()) {
        response.headers_mut().insert(headers::USAGE, used);
    }
    response
}

const X_ACCEL_BUFFERING: header::HeaderName = header::HeaderName::from_static("x-accel-buffering");

/// The body of a stream. Dropping it, as happens when the client goes away, drops the run.
struct EventBody {
    run: Run,
    encoder: Encoder,
    timer: Pin<Box<Sleep>>,
    period: Duration,
    /// Whether no event was written since the timer was set. So a timer costs nothing per event, and a ping comes after
    /// one to two periods of silence.
    quiet: bool,
    over: bool,
}

impl http_body::Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.write_events(cx);
        if self.encoder.pending() == 0 && !self.over {
            self.write_ping(cx);
        }
        match (self.encoder.pending(), self.over) {
            (0, true) => Poll::Ready(None),
            (0, false) => Poll::Pending,
            _ => Poll::Ready(Some(Ok(Frame::data(self.encoder.take())))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.over && self.encoder.pending() == 0
    }
}

impl EventBody {
    /// Writes what the upstream has ready, up to one write's worth.
    fn write_events(&mut self, cx: &mut Context<'_>) {
        while !self.over && self.encoder.pending() < limits::SSE_WRITE_BYTES_MAX {
            match Pin::new(&mut self.run).poll_next(cx) {
                Poll::Ready(Some(Ok(event))) => {
                    self.encoder.event(&event);
                    self.quiet = false;
                    self.over = matches!(event, Event::Done(_));
                }
                Poll::Ready(Some(Err(error))) => self.fail(&error),
                // A run ends with `Done` or an error, both of which end this loop.
                Poll::Ready(None) => self.fail(&ApiError::internal()),
                Poll::Pending => return,
            }
        }
    }

    fn fail(&mut self, error: &ApiError) {
        self.encoder.error(error, self.run.total());
        self.over = true;
    }

    /// Writes a ping if the silence is long enough, and sees to being woken for the next one.
    fn write_ping(&mut self, cx: &mut Context<'_>) {
        while self.timer.as_mut().poll(cx).is_ready() {
            self.timer.set(tokio::time::sleep(self.period));
            if self.quiet {
                self.encoder.ping();
                return;
            }
            self.quiet = true;
        }
    }
}
