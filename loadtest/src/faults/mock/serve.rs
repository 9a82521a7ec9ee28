//! A mock site on the wire: HTTP in either version, each token at the time that the cost model says.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep_until};

use super::Site;
use super::answer::{self, Asked, Kind};
use super::metrics::{self, Gauge};
use crate::clock::Nanos;
use crate::limits::{MAX_CARRIED, MOCK_BODY_BYTES};
use crate::rng::mix;

/// Any answer.
type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Serves until it is aborted.
pub(super) async fn accept(listener: TcpListener, site: Arc<Site>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            taken = listener.accept(), if connections.len() < MAX_CARRIED => if let Ok((stream, _)) = taken {
                connections.spawn(converse(stream, Arc::clone(&site)));
            },
        }
    }
}

async fn converse(stream: TcpStream, site: Arc<Site>) {
    // Where it cannot be set, tokens wait for each other, which the client sees.
    stream.set_nodelay(true).ok();
    let service = service_fn(move |request| {
        let site = Arc::clone(&site);
        async move { Ok::<_, Infallible>(reply(&site, request).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    // A connection that breaks has no one to tell.
    builder
        .serve_connection(TokioIo::new(stream), service)
        .await
        .ok();
}

async fn reply(site: &Arc<Site>, request: Request<Incoming>) -> Reply {
    let path = request.uri().path().to_owned();
    let mut reply = match (request.method(), path.as_str()) {
        (&Method::POST, "/v1/chat/completions") => complete(site, Kind::Chat, request).await,
        (&Method::POST, "/v1/completions") => complete(site, Kind::Completion, request).await,
        (&Method::GET, "/v1/models") => {
            plain(StatusCode::OK, JSON, answer::models(&site.options.model))
        }
        (&Method::GET, "/health" | "/health/ready") => {
            plain(StatusCode::OK, TEXT, Bytes::from_static(b"ready\n"))
        }
        (&Method::GET, "/metrics") => plain(StatusCode::OK, TEXT, metrics::text(site).into()),
        _ => refusal(
            StatusCode::NOT_FOUND,
            "not_found",
            "a mock serves chats, completions, models, health and metrics",
        ),
    };
    if let Ok(name) = HeaderValue::from_str(&site.name) {
        reply.headers_mut().insert("x-hansa-site", name);
    }
    reply
}

async fn complete(site: &Arc<Site>, kind: Kind, request: Request<Incoming>) -> Reply {
    let arrived = site.clock.now();
    let number = site.asked.fetch_add(1, Relaxed);
    let Ok(body) = Limited::new(request.into_body(), MOCK_BODY_BYTES)
        .collect()
        .await
    else {
        site.counts.bad.fetch_add(1, Relaxed);
        return refusal(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            "the body is too large or was cut off",
        );
    };
    let seed = mix(site.options.seed ^ number);
    let asked = match Asked::read(kind, &body.to_bytes(), number, seed) {
        Ok(asked) => asked,
        Err(what) => {
            site.counts.bad.fetch_add(1, Relaxed);
            return refusal(StatusCode::BAD_REQUEST, "invalid_request", &what);
        }
    };
    if asked.model != *site.options.model {
        return refusal(
            StatusCode::NOT_FOUND,
            "model_not_found",
            "this mock serves another model",
        );
    }
    let Some(permit) = slot(site).await else {
        site.counts.refused.fetch_add(1, Relaxed);
        return refusal(
            StatusCode::TOO_MANY_REQUESTS,
            "overloaded",
            "all slots and places to wait are taken",
        );
    };
    answer(site, asked, arrived, permit).await
}

/// Waits for a slot; None where too many wait.
async fn slot(site: &Arc<Site>) -> Option<OwnedSemaphorePermit> {
    if let Ok(permit) = Arc::clone(&site.slots).try_acquire_owned() {
        return Some(permit);
    }
    if site.counts.waiting.load(Relaxed) >= u64::from(site.options.cost.queue) {
        return None;
    }
    let _waiting = Gauge::of(site, |counts| &counts.waiting);
    Arc::clone(&site.slots).acquire_owned().await.ok()
}

/// Prefills and begins to answer.
async fn answer(
    site: &Arc<Site>,
    asked: Asked,
    arrived: Nanos,
    permit: OwnedSemaphorePermit,
) -> Reply {
    let first = site.clock.now() + site.options.cost.prefill(asked.prompt_tokens);
    let mut speech = Speech {
        _running: Gauge::of(site, |counts| &counts.running),
        site: Arc::clone(site),
        sleep: Box::pin(sleep_until(site.clock.instant_at(first))),
        due: first,
        index: 0,
        arrived,
        first: 0,
        asked,
        _permit: permit,
    };
    speech.sleep.as_mut().await;
    if speech.asked.stream {
        let mut reply = Response::new(speech.boxed_unsync());
        reply
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        return reply;
    }
    while speech.say() {
        speech.sleep.as_mut().await;
    }
    plain(StatusCode::OK, JSON, speech.asked.whole())
}

/// An answer that is being said.
struct Speech {
    site: Arc<Site>,
    asked: Asked,
    /// The next token.
    index: u32,
    /// When it is due.
    due: Nanos,
    sleep: Pin<Box<Sleep>>,
    arrived: Nanos,
    /// When the first token was said.
    first: Nanos,
    _running: Gauge,
    _permit: OwnedSemaphorePermit,
}

impl Speech {
    /// Says the next token, and whether another is to come. Its time follows from the one before and not from now, so
    /// that a late token makes no other late.
    fn say(&mut self) -> bool {
        let now = self.site.clock.now();
        let counts = &self.site.counts;
        if self.index == 0 {
            self.first = now;
            counts
                .prompt_tokens
                .fetch_add(self.asked.prompt_tokens, Relaxed);
            self.site
                .told()
                .ttft
                .record((now - self.arrived + 500) / 1_000);
        }
        self.index += 1;
        counts.output_tokens.fetch_add(1, Relaxed);
        if self.index == self.asked.tokens {
            counts.whole.fetch_add(1, Relaxed);
            if self.index > 1 {
                let mean = (now - self.first) / u64::from(self.index - 1);
                self.site.told().tpot.record((mean + 500) / 1_000);
            }
            return false;
        }
        self.due += self.site.options.cost.step(counts.running.load(Relaxed));
        self.sleep
            .as_mut()
            .reset(self.site.clock.instant_at(self.due));
        true
    }
}

impl Body for Speech {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.index == self.asked.tokens {
            return Poll::Ready(None);
        }
        std::task::ready!(self.sleep.as_mut().poll(context));
        let event = self.asked.event(self.index);
        self.say();
        Poll::Ready(Some(Ok(Frame::data(event))))
    }

    fn is_end_stream(&self) -> bool {
        self.index == self.asked.tokens
    }
}

impl Drop for Speech {
    fn drop(&mut self) {
        if self.index < self.asked.tokens {
            self.site.counts.left.fetch_add(1, Relaxed);
        }
    }
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; version=0.0.4";

fn plain(status: StatusCode, kind: &'static str, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body).boxed_unsync());
    *reply.status_mut() = status;
    reply
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Reply {
    let kind = match status {
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        _ => "invalid_request_error",
    };
    plain(status, JSON, answer::error(kind, code, message))
}
