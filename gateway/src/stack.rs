//! THE layer order: what a request passes through, outermost first, and why each layer stands where it does.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use http::Method;
use hyper::body::Incoming;
use tokio_util::task::TaskTracker;
use tower::Service as _;
use tracing::Instrument as _;

use crate::clock::Clock;
use crate::drain::DrainWatch;
use crate::health::Health;
use crate::layers::authenticate::Gate;
use crate::layers::body::BodyLimits;
use crate::layers::observe::{Observer, Record};
use crate::layers::peer::Peers;
use crate::layers::{body, fence, gate, host, request_id};
use crate::openai::Api;
use crate::openai::error::ApiError;
use crate::telemetry::Metrics;
use crate::upstream::Endpoint;

/// Id of a request, ours or the client's: in its log line, in `x-request-id`, and in its extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(pub Arc<str>);

/// What the layers share with the rest of the server.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Times requests and dates their ids.
    pub clock: Clock,
    /// Counts requests and panics.
    pub metrics: Metrics,
    /// Readiness, and the drain that the gate watches.
    pub health: Health,
    /// Bytes of a request body.
    pub body_bytes_max: u64,
    /// Time for a client to send it.
    pub body_timeout: Duration,
    /// How peers are known.
    pub peers: Peers,
    /// Tasks that the drain waits for.
    pub tasks: TaskTracker,
    /// Who may come in.
    pub gate: Gate,
}

/// Puts the layers around `api` and `others`, which answer every path that is not a health probe.
///
/// Three stand outside, in [`crate::listener`]: connection caps (a connection beyond them must cost nothing), caps and
/// timers of a request's head (nothing can be said of a request before its head is there), and the end of streams that
/// nobody reads (it drops a request with all that its layers hold).
pub fn build(api: Api, others: Router, shared: &Shared) -> Stack {
    let layers = layers(shared);
    Stack {
        routed: around(api.clone().router().merge(others), &layers, shared),
        direct: Some(Direct { layers, api }),
    }
}

fn layers(shared: &Shared) -> Arc<Layers> {
    Arc::new(Layers {
        observer: Observer {
            metrics: shared.metrics.clone(),
            clock: shared.clock.clone(),
        },
        peers: shared.peers.clone(),
        drain: shared.health.drain.clone(),
        gate: shared.gate.clone(),
        body: body_limits(shared),
    })
}

fn around(api: Router, layers: &Arc<Layers>, shared: &Shared) -> Router {
    // Inside, in the order in which `openai` and the upstreams go through them:
    // Parse and validate against the limits: nothing is reserved or queued for a request that cannot be served.
    // Deadline: fixed here once, as a moment on the server's clock; tokenizer, queue and engine all give up at it.
    // Quota reservation, in `openai::metering`: cheap, so before any queue: who has nothing left must not take a place in
    // line. Only the count of the prompt's tokens comes before it, and before that a look whether anything is left.
    // Line by class and fair, in `upstream::queue`: only where everyone who could serve has a long line already.
    // Route: by the model's name in `upstream::registry`, then among those who serve it in `upstream::roster`.
    let api = api.layer(from_fn_with_state(Arc::clone(layers), of_api));
    let router = shared.health.clone().router().merge(api);
    router.layer(from_fn_with_state(Arc::clone(layers), of_all))
}

/// All that a listener serves. Generations, which are most of what comes, go straight through the layers: a router that finds
/// them and boxes each layer would take a sixth of the time of a short one.
#[derive(Clone)]
pub struct Stack {
    routed: Router,
    direct: Option<Direct>,
}

#[derive(Clone)]
struct Direct {
    layers: Arc<Layers>,
    api: Api,
}

/// An answer on its way.
pub type Answering = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

impl Stack {
    fn answer(&self, request: Request) -> Answering {
        match self.direct.as_ref().zip(generation(&request)) {
            Some((direct, endpoint)) => {
                let direct = direct.clone();
                Box::pin(async move { Ok(direct.answer(endpoint, request).await) })
            }
            None => Box::pin(self.routed.clone().call(request)),
        }
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack").finish_non_exhaustive()
    }
}

impl Direct {
    async fn answer(self, endpoint: Endpoint, request: Request) -> Response {
        let Self { layers, api } = self;
        // In a place of its own: the layers hand on what is inside of them, and would copy it each time.
        let serve = async |request| Box::pin(api.serve(endpoint, request)).await.into_response();
        let inside = async |request| in_api(&layers, request, serve).await;
        in_all(&layers, Some(endpoint.path().into()), request, inside).await
    }
}

/// The endpoint that a request for a generation comes to.
fn generation(request: &Request) -> Option<Endpoint> {
    let mut all = [Endpoint::Chat, Endpoint::Completions].into_iter();
    let path = request.uri().path();
    all.find(|endpoint| request.method() == Method::POST && path == endpoint.path())
}

/// A router with whatever layers it has.
impl From<Router> for Stack {
    fn from(routed: Router) -> Self {
        Self {
            routed,
            direct: None,
        }
    }
}

impl hyper::service::Service<http::Request<Incoming>> for Stack {
    type Response = Response;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: http::Request<Incoming>) -> Answering {
        self.answer(request.map(Body::new))
    }
}

/// What each layer works with.
struct Layers {
    observer: Observer,
    peers: Peers,
    drain: DrainWatch,
    gate: Gate,
    body: BodyLimits,
}

async fn of_all(State(layers): State<Arc<Layers>>, request: Request, next: Next) -> Response {
    let route: Option<&MatchedPath> = request.extensions().get();
    let route = route.map(|route| route.as_str().to_owned().into());
    in_all(&layers, route, request, async |request| {
        next.run(request).await
    })
    .await
}

/// Around every path, probes among them.
async fn in_all(
    layers: &Layers,
    route: Option<Cow<'static, str>>,
    mut request: Request,
    next: impl AsyncFnOnce(Request) -> Response,
) -> Response {
    let Observer { metrics, clock } = &layers.observer;
    // Request id: outside of everything that can refuse, so that each answer and each log line carries it.
    let id = request_id::assign(clock, &mut request);
    // Span, log line and counts: inside the id, which they name, and outside the fence, so that panics are counted.
    let record = Record::begin(layers.observer.clone(), route, &request);
    let span = record.span().clone();
    // Panic fence: outside of all code that handles content.
    let answer = fence::contain(metrics, async {
        match admit(layers, &mut request) {
            Ok(()) => next(request).await,
            Err(refusal) => refusal.into_response(),
        }
    });
    let mut response = record.of(answer.instrument(span).await);
    request_id::echo(&id, &mut response);
    response
}

/// Who may ask anything at all.
fn admit(layers: &Layers, request: &mut Request) -> Result<(), ApiError> {
    // Peer: before everything that asks who calls, since a peer's requests were let in by the server before it; inside
    // the log line, so that an operator sees who is refused.
    layers.peers.identify(request)?;
    // Host: before any handler and probes too, since a web page whose name is made to resolve to this machine (DNS
    // rebinding) must learn nothing; inside the id and the log line, so that an operator sees who is refused. With keys any
    // name will do: they, and not the address, keep strangers out.
    match layers.gate.tenants.require_keys() {
        true => Ok(()),
        false => host::admit(request),
    }
}

async fn of_api(State(layers): State<Arc<Layers>>, request: Request, next: Next) -> Response {
    let next = async |mut request: Request| {
        // The cap is the operator's; axum's own of 2 MB would undercut it.
        DefaultBodyLimit::disable().apply(&mut request);
        next.run(request).await
    };
    in_api(&layers, request, next).await
}

/// Around the API alone.
async fn in_api(
    layers: &Layers,
    request: Request,
    next: impl AsyncFnOnce(Request) -> Response,
) -> Response {
    match let_in(layers, request).await {
        Ok(request) => next(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

async fn let_in(layers: &Layers, mut request: Request) -> Result<Request, ApiError> {
    // Drain gate: before any work on a request that will not be served. Probes pass beside it: they must go on.
    gate::admit(&layers.drain)?;
    // Authentication: nothing below runs for strangers. Without keys everyone passes, and `serve` listens on loopback only.
    layers.gate.check(&mut request).await?;
    // Body limits: after authentication, so that a stranger cannot make us hold a body, and after the id, so that a refusal
    // carries it. The length that a client declares is judged before a byte is read.
    body::bound(&layers.body, request)
}

fn body_limits(shared: &Shared) -> BodyLimits {
    BodyLimits {
        bytes_max: shared.body_bytes_max,
        timeout: shared.body_timeout,
        drain: shared.health.drain.clone(),
        tasks: shared.tasks.clone(),
    }
}

#[cfg(test)]
mod tests;
