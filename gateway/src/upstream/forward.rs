//! Sends a request to one other server and reads its answer as events.
//!
//! What differs between servers of ours and others is in `remote.rs` and `openai.rs`; what is alike is here: the body,
//! the head of the answer, errors, and a stream that ends with its usage or with an error, never just so (I3).

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::Stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use tokio::task::spawn_blocking;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::federation::headers;
use crate::limits;
use crate::upstream::chunk::{Decoder, Fault};
use crate::upstream::link::{AnswerBody, Link, LinkError, Target};
use crate::upstream::sse::Reader;
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
        headers.insert(header::ACCEPT, HeaderValue::from_static(EVENT_STREAM));
        let path = request.endpoint.path();
        let breaking = self.breaking.load_full();
        let ending = self.stops.enter(&request.id, &breaking);
        let stopped = ending.token.clone();
        let sending = self.send(Method::POST, path, headers, body);
        let answer = tokio::select! {
            answer = sending => answer.map_err(|error| self.failed(&request.id, &error))?,
            () = stopped.cancelled(), if !self.ours => return Err(self.ended(Usage::default())),
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
        if !is_event_stream(answer.headers()) {
            return Err(self.broken(&request.id, "answered with something else than a stream"));
        }
        Ok(Box::pin(self.events(&request, answer.into_body(), ending)))
    }

    /// What a server of ours says in an error answer that the request used.
    fn used(&self, request: &GenerateRequest, head: &HeaderMap) -> Option<Usage> {
        let told = head.get(headers::USAGE).filter(|_| self.ours)?;
        let told = serde_json::from_slice(told.as_bytes()).ok()?;
        Some(Decoder::new(request, self.ours).believed(told))
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
        let sending = self.send(Method::POST, "/v1/embeddings", headers, body);
        let failed = |error: LinkError| self.failed(&request.id, &error);
        let answer = sending.await.map_err(failed)?;
        if answer.status() != StatusCode::OK {
            return Err(self.refused(&request.id, answer).await);
        }
        let whole = answer.into_body().whole(limits::EMBED_ANSWER_BYTES_MAX);
        let whole = whole.await.map_err(failed)?;
        let asked = Arc::clone(&request);
        // Megabytes of numbers are nothing for the event loop.
        let reading = spawn_blocking(move || vectors::read(&whole, &asked)).await;
        match reading {
            Ok(read) => read.map_err(|what| self.broken(&request.id, what)),
            Err(_panicked) => Err(UpstreamErrorKind::Internal.into()),
        }
    }

    /// Why a request was ended from here that had used `usage`.
    fn ended(&self, usage: Usage) -> UpstreamError {
        ended(self.closing.is_cancelled(), usage)
    }

    /// Sends anything to the server; `path` begins with a slash.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<AnswerBody>, LinkError> {
        let uri = self.target.uri(path);
        let uri = uri.ok_or_else(|| LinkError::Broken("the path makes no URL".to_owned()))?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let content_type = HeaderValue::from_static("application/json");
        request
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type);
        self.link.send(request).await
    }

    fn events(&self, request: &GenerateRequest, body: AnswerBody, ending: Ending) -> Events {
        Events {
            name: Arc::clone(&self.name),
            id: Arc::clone(&request.id),
            ours: self.ours,
            body: Some(body),
            bytes: 0,
            reader: Reader::new(event_bytes_max(request)),
            decoder: Decoder::new(request, self.ours),
            ready: VecDeque::new(),
            end: None,
            closing: self.closing.clone(),
            ended: Box::pin(ending.token.clone().cancelled_owned()),
            ending,
        }
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

/// Bytes of one event: a prompt that is echoed comes in one piece.
fn event_bytes_max(request: &GenerateRequest) -> usize {
    let echoed = if request.echo { request.body.len() } else { 0 };
    let tops = request.logprobs.filter(|_| request.prompt_logprobs);
    // A character takes six bytes at most as JSON; a token's log-probability, told in two shapes, some hundred each.
    let each = tops.map_or(6, |top| 6 + 256 * (1 + top as usize));
    let echoed = echoed.saturating_mul(each);
    limits::EVENT_BYTES_MAX + echoed.min(limits::ECHO_EVENT_BYTES_MAX)
}

const EVENT_STREAM: &str = "text/event-stream";

fn is_event_stream(headers: &HeaderMap) -> bool {
    let declared = headers.get(header::CONTENT_TYPE);
    let declared = declared.and_then(|value| value.to_str().ok());
    declared.is_some_and(|value| value.to_ascii_lowercase().starts_with(EVENT_STREAM))
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

/// The events of one answer. Dropping it cancels the request.
struct Events {
    name: Arc<str>,
    id: Arc<str>,
    ours: bool,
    /// None after the end.
    body: Option<AnswerBody>,
    /// Read so far.
    bytes: u64,
    reader: Reader,
    decoder: Decoder,
    ready: VecDeque<Event>,
    /// How the stream ends once `ready` is empty.
    end: Option<Result<Event, UpstreamError>>,
    /// Whether the drain's grace is over.
    closing: CancellationToken,
    /// Resolves where the request is ended from here.
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    ending: Ending,
}

impl Stream for Events {
    type Item = Result<Event, UpstreamError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            if let Some(end) = self.end.take() {
                self.body = None;
                return Poll::Ready(Some(end));
            }
            // A server that never pauses is stopped all the same.
            if !self.ours && self.was_stopped() {
                continue;
            }
            let Some(body) = self.body.as_mut() else {
                return Poll::Ready(None);
            };
            match body.poll_bytes(cx) {
                Poll::Ready(Ok(Some(bytes))) => self.read(&bytes),
                Poll::Ready(Ok(None)) => self.closed(),
                Poll::Ready(Err(error)) => {
                    let reason = error.to_string();
                    self.end_by(&reason, of_link(&error));
                }
                Poll::Pending if self.ended.as_mut().poll(cx).is_ready() => {
                    self.end = Some(Err(self.ended()));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Events {
    /// Whether it was ended from here, which is noted then.
    fn was_stopped(&mut self) -> bool {
        let ends = self.body.is_some() && self.ending.token.is_cancelled();
        if ends {
            self.end = Some(Err(self.ended()));
        }
        ends
    }

    /// Why it was ended from here. A server of ours says itself what it did.
    fn ended(&self) -> UpstreamError {
        let closing = self.closing.is_cancelled();
        match self.ours {
            true => UpstreamErrorKind::ShuttingDown.into(),
            false => ended(closing, self.decoder.usage()),
        }
    }

    fn read(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if self.bytes > limits::ANSWER_BYTES_MAX {
            return self.end_by("sent more than any answer holds", nonsense());
        }
        let Self {
            reader,
            decoder,
            ready,
            ..
        } = self;
        let mut end = None;
        let read = reader.read(bytes, |data| {
            if end.is_none() {
                end = event(data, decoder, ready);
            }
        });
        if let Err(error) = read {
            self.end_by(&error.to_string(), nonsense());
        }
        match end {
            Some(Ok(done)) => self.done(done),
            Some(Err(fault)) => self.faulted(fault),
            None => {}
        }
    }

    /// The server closed the stream. Some others do so without a last word; ours never do.
    fn closed(&mut self) {
        match self.decoder.done() {
            Ok(usage) if !self.ours => self.done(Event::Done(usage)),
            _ => self.end_by(
                "broke off its stream",
                UpstreamErrorKind::Unreachable.into(),
            ),
        }
    }

    fn done(&mut self, done: Event) {
        if self.decoder.usage_is_impossible() {
            tracing::warn!(
                request_id = &*self.id,
                upstream = &*self.name,
                "the upstream tells a usage that cannot be; it is counted from the events"
            );
        }
        self.end = Some(Ok(done));
    }

    fn faulted(&mut self, fault: Fault) {
        match fault {
            Fault::Told(error) => self.end_by("ended its stream with an error", *error),
            Fault::Nonsense(what) => self.end_by(what, nonsense()),
        }
    }

    /// Ends the stream with `error`, after the events that are ready: they are the answer's true beginning.
    fn end_by(&mut self, reason: &str, error: UpstreamError) {
        tracing::warn!(
            request_id = &*self.id,
            upstream = &*self.name,
            reason,
            "the upstream failed a stream"
        );
        self.end = Some(Err(error));
    }
}

fn ended(closing: bool, usage: Usage) -> UpstreamError {
    let kind = match closing {
        true => UpstreamErrorKind::ShuttingDown,
        false => UpstreamErrorKind::Cancelled,
    };
    UpstreamError::from(kind).after(usage)
}

/// What one event of the stream means: chunks are added to `ready`, the end is told.
fn event(
    data: &[u8],
    decoder: &mut Decoder,
    ready: &mut VecDeque<Event>,
) -> Option<Result<Event, Fault>> {
    match data {
        b"[DONE]" => Some(decoder.done().map(Event::Done)),
        _ => decoder.chunk(data, ready).err().map(Err),
    }
}

fn nonsense() -> UpstreamError {
    UpstreamErrorKind::Internal.into()
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward")
            .field("name", &self.name)
            .field("target", &self.target.authority)
            .finish_non_exhaustive()
    }
}
