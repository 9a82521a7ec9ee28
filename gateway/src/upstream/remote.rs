//! Another server of ours as an upstream: what we tell it beside the client's body, and how it is watched.
//!
//! It believes what we say because the link is authenticated, by the shared secret or by our certificate.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use hansa_config::secret::Secret;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde::Deserialize;

use crate::clock::Clock;
use crate::fairness::Class;
use crate::federation::follow::{self, Picture};
use crate::federation::headers;
use crate::federation::reach::{Part, ServerId};
use crate::limits;
use crate::route::residency::{AllowList, Purpose};
use crate::upstream::forward::Forward;
use crate::upstream::link::LinkTasks;
use crate::upstream::usage::{Finished, Lives, Wanted};
use crate::upstream::{
    EmbedRequest, Embeddings, EventStream, GenerateRequest, UpstreamError, UpstreamStatus, Wishes,
};

/// One server of ours.
#[derive(Debug)]
pub(super) struct Remote {
    forward: Arc<Forward>,
    secret: Option<HeaderValue>,
    picture: Arc<Picture>,
    clock: Clock,
    tasks: LinkTasks,
}

/// A page of usage that a server has kept.
#[derive(Deserialize)]
struct Page {
    data: Vec<Finished>,
}

impl Remote {
    /// Watches the server behind `forward` from now on for the server `me`, in `tasks`.
    pub(super) fn start(
        forward: Forward,
        secret: Option<&Secret>,
        me: ServerId,
        clock: &Clock,
        tasks: &LinkTasks,
    ) -> Self {
        let (forward, picture) = (Arc::new(forward), Arc::new(Picture::of(me)));
        let secret = secret.and_then(|secret| sensitive(secret.expose()));
        let mut credentials = HeaderMap::new();
        authenticate(&mut credentials, secret.as_ref());
        let seen = Arc::clone(&picture);
        tasks.spawn(follow::follow(
            Arc::clone(&forward),
            credentials,
            seen,
            clock.clone(),
        ));
        Self {
            forward,
            secret,
            picture,
            clock: clock.clone(),
            tasks: tasks.clone(),
        }
    }

    pub(super) async fn generate(
        &self,
        request: Arc<GenerateRequest>,
        model: &str,
    ) -> Result<EventStream, UpstreamError> {
        let headers = self.headers(&request);
        let events = self.forward.generate(request, model, headers).await;
        if events.is_ok() {
            self.picture.is_there();
        }
        events
    }

    pub(super) async fn embed(
        &self,
        request: Arc<EmbedRequest>,
        model: &str,
    ) -> Result<Embeddings, UpstreamError> {
        let mut headers = self.credentials();
        common(&mut headers, &request.id, request.hops);
        self.deadline(&mut headers, request.deadline);
        text(&mut headers, headers::CHARGE, request.charge.as_deref());
        way(&mut headers, &request.wishes);
        self.forward.embed(request, model, headers).await
    }

    /// Figures of its model `model`, pessimistic where it has been silent.
    pub(super) fn status(&self, model: &str) -> UpstreamStatus {
        self.picture.status(model, self.clock.now())
    }

    /// The same by whose capacity it is.
    pub(super) fn parts(&self, model: &str) -> Vec<Part> {
        self.picture.parts(model, self.clock.now())
    }

    /// Resolves when it says nothing any more.
    pub(super) fn silence(&self) -> BoxFuture<'static, ()> {
        self.picture.silence()
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.forward.in_flight()
    }

    /// Tells it to stop a request, where it has it from here.
    pub(super) fn cancel(&self, request_id: &str) {
        if !self.forward.serves(request_id) {
            return;
        }
        let body = serde_json::json!({ "id": request_id }).to_string();
        self.tell("/hansa/v1/cancel", body);
    }

    /// What it has kept of requests that are over; nothing where it does not answer.
    pub(super) async fn finished(&self, wanted: &Wanted) -> Vec<Finished> {
        let query = match wanted {
            Wanted::Request { id, hops } => format!("id={id}&hops={}", hops.saturating_add(1)),
            Wanted::Of { owner, lives } => match lives {
                Lives::But(run) => format!("owner={owner}&but={run}"),
                Lives::One(run) => format!("owner={owner}&of={run}"),
            },
        };
        let path = format!("/hansa/v1/usage?{query}");
        let sent = self
            .forward
            .send(Method::GET, &path, self.credentials(), Bytes::new());
        let Ok(answer) = sent.await else {
            return Vec::new();
        };
        if answer.status() != StatusCode::OK {
            return Vec::new();
        }
        let body = answer.into_body().whole(limits::USAGE_ANSWER_BYTES_MAX);
        let body = body.await.unwrap_or_default();
        let page: Result<Page, _> = serde_json::from_slice(&body);
        let mut found = page.map(|page| page.data).unwrap_or_default();
        found.truncate(limits::USAGE_PAGE_MAX);
        found
    }

    /// Tells it that these requests are settled.
    pub(super) fn acknowledge(&self, request_ids: &[Arc<str>]) {
        let body = serde_json::json!({ "ids": request_ids }).to_string();
        self.tell("/hansa/v1/usage", body);
    }

    /// Posts `body` to `path`. It may be gone: nobody waits for an answer.
    fn tell(&self, path: &'static str, body: String) {
        let headers = self.credentials();
        let forward = Arc::clone(&self.forward);
        self.tasks.spawn(async move {
            let sent = forward.send(Method::POST, path, headers, Bytes::from(body));
            if let Err(error) = sent.await {
                tracing::info!(upstream = forward.name(), path, %error, "the upstream could not be told");
            }
        });
    }

    fn credentials(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        authenticate(&mut headers, self.secret.as_ref());
        headers
    }

    fn deadline(&self, headers: &mut HeaderMap, deadline: Option<Duration>) {
        if let Some(deadline) = deadline {
            let left = deadline.saturating_sub(self.clock.now());
            number(headers, headers::DEADLINE_MS, millis(left));
        }
    }

    fn headers(&self, request: &GenerateRequest) -> HeaderMap {
        let mut headers = self.credentials();
        common(&mut headers, &request.id, request.hops);
        self.deadline(&mut headers, request.deadline);
        number(&mut headers, headers::POOL, request.pool);
        number(&mut headers, headers::FLOW, request.flow);
        text(&mut headers, headers::TENANT, request.tenant.as_deref());
        text(&mut headers, headers::CHARGE, request.charge.as_deref());
        way(&mut headers, &request.wishes);
        headers
    }
}

/// Where the request may go from there (I4), and what its client wants of the way.
fn way(headers: &mut HeaderMap, wishes: &Wishes) {
    let rules = &wishes.rules;
    let joined = |list: &AllowList| list.as_ref().map(|names| names.join(","));
    let (sites, countries) = (joined(&rules.sites), joined(&rules.countries));
    text(headers, headers::ALLOW_SITES, sites.as_deref());
    text(headers, headers::ALLOW_COUNTRIES, countries.as_deref());
    text(headers, headers::PURPOSE, rules.purpose.map(Purpose::name));
    let opted_in = rules.experimental.then_some("on");
    text(headers, headers::EXPERIMENTAL, opted_in);
    let stays = (!wishes.resume).then_some("off");
    text(headers, headers::RESUME, stays);
    let may_wait = (wishes.class == Class::Batch).then_some("batch");
    text(headers, headers::CLASS, may_wait);
}

/// What every server is told: which request this is, and how many servers it has crossed.
pub(super) fn common(headers: &mut HeaderMap, request_id: &str, hops: u8) {
    text(headers, headers::REQUEST_ID, Some(request_id));
    number(headers, headers::HOPS, u64::from(hops.saturating_add(1)));
}

/// A header value that is never shown; `None` where the text cannot be one.
pub(super) fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn authenticate(headers: &mut HeaderMap, secret: Option<&HeaderValue>) {
    if let Some(secret) = secret {
        headers.insert(headers::PEER, secret.clone());
    }
}

fn number(headers: &mut HeaderMap, name: HeaderName, value: u64) {
    headers.insert(name, HeaderValue::from(value));
}

fn text(headers: &mut HeaderMap, name: HeaderName, value: Option<&str>) {
    let value = value.and_then(|value| HeaderValue::from_str(value).ok());
    if let Some(value) = value {
        headers.insert(name, value);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis())
        .unwrap_or(u64::MAX)
        .min(limits::DEADLINE_MS_MAX)
}
