//! Opens the request's span, counts it, and writes its one log line when the last byte has left.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::{Method, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tracing::Span;

use crate::clock::Clock;
use crate::health::is_probe;
use crate::stack::RequestId;
use crate::telemetry::Metrics;

/// Route of a path that we do not serve: one label for all of them.
const ROUTE_OTHER: &str = "other";

/// What observing needs.
#[derive(Debug, Clone)]
pub struct Observer {
    /// Where requests are counted.
    pub metrics: Metrics,
    /// What they are timed by.
    pub clock: Clock,
}

/// One request, observed from its head to the end of its answer, however it ends; counted and logged when dropped (I10).
pub(crate) struct Record {
    observer: Observer,
    span: Span,
    method: &'static str,
    route: Cow<'static, str>,
    began: Duration,
    /// Whether somebody asked for something, who is no peer that listens.
    asked: bool,
    /// None until there is an answer.
    status: Option<StatusCode>,
    complete: bool,
}

impl Record {
    /// A request that has come, for what is served at `route`.
    pub(crate) fn begin(
        observer: Observer,
        route: Option<Cow<'static, str>>,
        request: &Request,
    ) -> Self {
        let asked = !is_of_peers(request.uri().path());
        if asked {
            observer.metrics.request_began();
        }
        let id: Option<&RequestId> = request.extensions().get();
        let id = id.map(|id| Arc::clone(&id.0)).unwrap_or_default();
        Self {
            began: observer.clock.now(),
            asked,
            observer,
            span: tracing::info_span!("request", %id),
            method: method_label(request.method()),
            route: route.unwrap_or(ROUTE_OTHER.into()),
            status: None,
            complete: false,
        }
    }

    /// What is logged in here names the request.
    pub(crate) const fn span(&self) -> &Span {
        &self.span
    }

    /// The answer, which takes the record along.
    pub(crate) fn of(mut self, response: Response) -> Response {
        self.status = Some(response.status());
        response.map(|body| Body::new(ObservedBody { body, record: self }))
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let took = self.observer.clock.now().saturating_sub(self.began);
        // 499 is the usual figure for a client that left before there was an answer; nobody is sent it.
        let gone = StatusCode::from_u16(499).unwrap_or(StatusCode::REQUEST_TIMEOUT);
        let status = self.status.unwrap_or(gone);
        let route = &*self.route;
        if self.asked {
            self.observer.metrics.request_left();
        }
        self.observer.metrics.request_ended(route, status, took);
        let _in_span = self.span.enter();
        let seconds = took.as_secs_f64();
        let (method, status, complete) = (self.method, status.as_u16(), self.complete);
        if is_probe(route) {
            // Probes come every few seconds and say nothing that the metrics do not.
            tracing::debug!(method, route, status, seconds, complete, "request");
        } else {
            tracing::info!(method, route, status, seconds, complete, "request");
        }
    }
}

/// Whether it is a path between servers of ours, whose streams last as long as they do.
fn is_of_peers(path: &str) -> bool {
    path.starts_with("/hansa/")
}

fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// An answer's body, and with it the request's record.
struct ObservedBody {
    body: Body,
    record: Record,
}

impl HttpBody for ObservedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let span = self.record.span.clone();
        let _in_span = span.enter();
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None)) {
            self.record.complete = true;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ObservedBody {
    fn drop(&mut self) {
        // A body of known length is not polled beyond its end.
        self.record.complete |= self.body.is_end_stream();
    }
}
