//! Sends a request to one other server and reads its answer as events.
//!
//! What differs between servers of ours and others is in `remote.rs` and `openai.rs`; what is alike is here: the body,
//! the head of the answer, errors, and a stream that ends with its usage or with an error, never just so (I3).

mod events;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures::stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use self::events::Events;
use crate::federation::headers;
use crate::limits;
use crate::upstream::chunk::{Decoder, Fault};
use crate::upstream::link::{AnswerBody, Link, LinkError, Pieces, Target};
use crate::upstream::stops::{Ending, Stops};
use crate::upstream::{
    EmbedRequest, Embeddings, Event, EventStream, GenerateRequest, UpstreamError,
    UpstreamErrorKind, Usage, body, refusal, vectors,
};

/// One other server.
pub(crate) struct Forward {
    /// As the config names it.
    name: Arc<str>,
    target: Target,
    link: Link,
    /// Whether it is a server of ours.
    ours: bool,
    /// Ends what still runs when a drain's grace is over.
    closing: CancellationToken,
    /// Breaks off what runs there now, and nothing that comes later.
    breaking: ArcSwap<CancellationToken>,
    /// The requests in flight there. One to a server of another make is stopped by its connection alone.
    stops: Stops,
}

impl Forward {
    /// The server `name` at `target`, over `link`; `closing` fails what runs.
    pub(crate) fn new(
        name: Arc<str>,
        target: Target,
        link: Link,
        ours: bool,
        closing: CancellationToken,
    ) -> Self {
        Self {
            name,
            target,
            link,
            ours,
            breaking: ArcSwap::from_pointee(closing.child_token()),
            closing,
            stops: Stops::default(),
        }
    }

    /// As the config names it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Requests in flight.
    pub(crate) fn in_flight(&self) -> u32 {
        self.link.in_flight()
    }

    /// Closes the connection of the request with this id at once; its stream ends with what was read by then.
    pub(crate) fn stop(&self, request_id: &str) {
        self.stops.stop(request_id);
    }

    /// Gives up every answer that is on its way: its server is taken for dead.
    pub(crate) fn break_off(&self) {
        let next = Arc::new(self.closing.child_token());
        self.breaking.swap(next).cancel();
    }

    /// Whether the request with this id is in flight there.
    pub(crate) fn serves(&self, request_id: &str) -> bool {
        self.stops.has(request_id)
    }

    /// Sends `request` for the model that the server knows as `model`, with `headers` beside the usual ones.
    ///
    /// # Errors
    /// Whatever happens before the head of a good answer.
    pub(crate) async fn generate(
        &self,
        request: Arc<GenerateRequest>,
        model: &str,
        mut headers: HeaderMap,
    ) -> Result<EventStream, UpstreamError> {
        if self.closing.is_cancelled() {
            return Err(UpstreamErrorKind::ShuttingDown.into());
        }
        let body = body::outgoing(&request, model, self.ours);
        let body = body.ok_or(UpstreamErrorKind::Internal)?;
        let whole = request.whole && !self.ours;
        let accepted = if whole { JSON } else { EVENT_STREAM };
        headers.insert(header::ACCEPT, HeaderValue::from_static(accepted));
        let path = request.endpoint.path();
        let breaking = self.breaking.load_full();
        let ending = self.stops.enter(&request.id, &breaking);
        let sending = self.send(Method::POST, path, headers, body);
        let answer = tokio::select! {
            answer = sending => answer.map_err(|error| self.failed(&request.id, &error))?,
            () = ending.token.cancelled(), if !self.ours => return Err(self.stopped(whole)),
            () = breaking.cancelled(), if self.ours => return Err(UpstreamErrorKind::Unreachable.into()),
        };
        if answer.status() != StatusCode::OK {
            let used = self.used(&request, answer.headers());
            let error = self.refused(&request.id, answer).await;
            return Err(match used {
                Some(used) => error.after(used),
                None => error,
            });
        }
        if is_event_stream(answer.headers()) {
            let events = Events::new(self, &request, answer.into_body(), ending);
            return Ok(Box::pin(events));
        }
        match whole {
            true => self.whole(&request, answer.into_body(), &ending).await,
            false => Err(self.broken(&request.id, "answered with something else than a stream")),
        }
    }

    /// The events of an answer that comes in one piece. Before all of it is here and makes sense nothing of it is told, so
    /// that whatever is wrong with it another server may still be asked.
    async fn whole(
        &self,
        request: &GenerateRequest,
        body: AnswerBody,
        ending: &Ending,
    ) -> Result<EventStream, UpstreamError> {
        let answer = tokio::select! {
            answer = body.whole(limits::WHOLE_ANSWER_BYTES_MAX) => answer,
            () = ending.token.cancelled() => return Err(self.stopped(true)),
        };
        let answer = answer.map_err(|error| self.failed(&request.id, &error))?;
        let mut decoder = Decoder::new(request, self.ours);
        let mut events = VecDeque::with_capacity(4);
        let used = decoder.whole(&answer, &mut events);
        let used = used.map_err(|fault| match fault {
            Fault::Told(error) => *error,
            Fault::Nonsense(what) => self.broken(&request.id, what),
        })?;
        if decoder.usage_is_impossible() {
            lied(&request.id, &self.name);
        }
        events.push_back(Event::Done(used));
        Ok(Box::pin(stream::iter(events.into_iter().map(Ok))))
    }

    /// Why a request was stopped from here before its answer began. One that asked for all of it in one piece may have been
    /// worked on for as long as it waited, and nobody can say how far that came.
    fn stopped(&self, whole: bool) -> UpstreamError {
        let closing = self.closing.is_cancelled();
        match whole {
            true => UpstreamErrorKind::ended(closing).into(),
            false => UpstreamError::from(UpstreamErrorKind::ended(closing)).after(Usage::default()),
        }
    }

    /// What a server of ours says in an error answer that the request used.
    fn used(&self, request: &GenerateRequest, head: &HeaderMap) -> Option<Usage> {
        let told = self.told(head)?;
        Some(Decoder::new(request, self.ours).believed(told))
    }

    fn told(&self, head: &HeaderMap) -> Option<Usage> {
        let told = head.get(headers::USAGE).filter(|_| self.ours)?;
        serde_json::from_slice(told.as_bytes()).ok()
    }

    /// Asks for vectors of the model that the server knows as `model`.
    ///
    /// # Errors
    /// Whatever happens before there are all of them.
    pub(crate) async fn embed(
        &self,
        request: Arc<EmbedRequest>,
        model: &str,
        headers: HeaderMap,
    ) -> Result<Embeddings, UpstreamError> {
        if self.closing.is_cancelled() {
            return Err(UpstreamErrorKind::ShuttingDown.into());
        }
        let body = vectors::outgoing(&request, model, self.ours);
        let body = body.ok_or(UpstreamErrorKind::Internal)?;
        // One of another make goes on to its end: nobody could tell what it had done by then.
        let _there = self
            .ours
            .then(|| self.stops.enter(&request.id, &self.closing));
        let sending = self.send(Method::POST, "/v1/embeddings", headers, body);
        let failed = |error: LinkError| self.failed(&request.id, &error);
        let answer = sending.await.map_err(failed)?;
        if answer.status() != StatusCode::OK {
            let used = self.told(answer.headers());
            let error = self.refused(&request.id, answer).await;
            return Err(match used {
                Some(used) => error.after(vectors::believed(used, &request)),
                None => error,
            });
        }
        let whole = answer.into_body().whole(limits::EMBED_ANSWER_BYTES_MAX);
        let whole = whole.await.map_err(failed)?;
        let (asked, ours) = (Arc::clone(&request), self.ours);
        // Megabytes of numbers are nothing for the event loop.
        let reading = spawn_blocking(move || vectors::read(&whole, &asked, ours)).await;
        match reading {
            Ok(read) => read.map_err(|what| self.broken(&request.id, what)),
            Err(_panicked) => Err(UpstreamErrorKind::Internal.into()),
        }
    }

    /// Sends anything to the server; `path` begins with a slash.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: impl Into<Pieces>,
    ) -> Result<Response<AnswerBody>, LinkError> {
        let uri = self.target.uri(path);
        let uri = uri.ok_or_else(|| LinkError::Broken("the path makes no URL".to_owned()))?;
        let mut request = Request::new(body.into());
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let content_type = HeaderValue::from_static(JSON);
        request
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type);
        self.link.send(request).await
    }

    async fn refused(&self, id: &str, answer: Response<AnswerBody>) -> UpstreamError {
        let status = answer.status();
        let body = answer.into_body().whole(limits::REFUSAL_BYTES_MAX).await;
        let error = refusal::of_answer(status, &body.unwrap_or_default(), self.ours);
        let (upstream, status) = (&*self.name, status.as_u16());
        match (status, &error.kind) {
            (401 | 403, _) => {
                tracing::error!(upstream, status, "the upstream refuses our key or secret");
            }
            (_, UpstreamErrorKind::Refused(_)) => {}
            _ => tracing::warn!(
                request_id = id,
                upstream,
                status,
                "the upstream failed a request"
            ),
        }
        error
    }

    fn failed(&self, id: &str, error: &LinkError) -> UpstreamError {
        tracing::warn!(request_id = id, upstream = &*self.name, %error, "the upstream failed a request");
        of_link(error)
    }

    fn broken(&self, id: &str, how: &str) -> UpstreamError {
        tracing::warn!(
            request_id = id,
            upstream = &*self.name,
            "the upstream {how}"
        );
        UpstreamErrorKind::Internal.into()
    }
}

const EVENT_STREAM: &str = "text/event-stream";
const JSON: &str = "application/json";

fn is_event_stream(headers: &HeaderMap) -> bool {
    let declared = headers.get(header::CONTENT_TYPE);
    let declared = declared.and_then(|value| value.to_str().ok());
    let essence = declared.and_then(|value| value.get(..EVENT_STREAM.len()));
    essence.is_some_and(|essence| essence.eq_ignore_ascii_case(EVENT_STREAM))
}

/// What a failed exchange means for the request.
fn of_link(error: &LinkError) -> UpstreamError {
    let kind = match error {
        LinkError::Busy => UpstreamErrorKind::Overloaded,
        LinkError::Connect(_) | LinkError::Broken(_) => UpstreamErrorKind::Unreachable,
        LinkError::Late | LinkError::Silent => UpstreamErrorKind::TimedOut,
    };
    kind.into()
}

/// Notes that `upstream` tells a usage that cannot be.
fn lied(id: &str, upstream: &str) {
    tracing::warn!(
        request_id = id,
        upstream,
        "the upstream tells a usage that cannot be; it is counted from the answer"
    );
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward")
            .field("name", &self.name)
            .field("target", &self.target.authority)
            .finish_non_exhaustive()
    }
}
