//! A server of another make as an upstream: vLLM, SGLang, llama.cpp, anything with OpenAI's API.
//!
//! Its key goes to the configured authority alone, since a link connects nowhere else and follows no redirect. It tells
//! nothing about its load, so it is only asked from time to time whether it is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use hansa_config::secret::Secret;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::time::sleep;

use crate::limits;
use crate::upstream::forward::Forward;
use crate::upstream::link::LinkTasks;
use crate::upstream::remote::{common, sensitive};
use crate::upstream::{
    EmbedRequest, Embeddings, EventStream, GenerateRequest, Readiness, UpstreamError,
    UpstreamStatus,
};

/// One server of another make.
#[derive(Debug)]
pub(super) struct Foreign {
    forward: Arc<Forward>,
    key: Option<HeaderValue>,
    presence: Arc<Presence>,
}

impl Foreign {
    /// Asks the server behind `forward` from now on, in `tasks`, whether it is there.
    pub(super) fn start(forward: Forward, key: Option<&Secret>, tasks: &LinkTasks) -> Self {
        let (forward, presence) = (Arc::new(forward), Arc::new(Presence::default()));
        let key = key.and_then(|key| sensitive(&format!("Bearer {}", key.expose())));
        let (asked, seen) = (Arc::clone(&forward), Arc::clone(&presence));
        let headers = credentials(key.as_ref());
        tasks.spawn(async move { keep_asking(&asked, &headers, &seen).await });
        Self {
            forward,
            key,
            presence,
        }
    }

    pub(super) async fn generate(
        &self,
        request: Arc<GenerateRequest>,
        model: &str,
    ) -> Result<EventStream, UpstreamError> {
        let mut headers = credentials(self.key.as_ref());
        common(&mut headers, &request.id, request.hops);
        self.forward.generate(request, model, headers).await
    }

    pub(super) async fn embed(
        &self,
        request: Arc<EmbedRequest>,
        model: &str,
    ) -> Result<Embeddings, UpstreamError> {
        let mut headers = credentials(self.key.as_ref());
        common(&mut headers, &request.id, request.hops);
        self.forward.embed(request, model, headers).await
    }

    /// Stops a request: it knows no message for that, but the end of a connection.
    pub(super) fn cancel(&self, request_id: &str) {
        self.forward.stop(request_id);
    }

    /// What is known: whether it is there, and what we sent.
    pub(super) fn status(&self) -> UpstreamStatus {
        UpstreamStatus {
            readiness: self.presence.readiness(),
            unheard: self.presence.is_gone(),
            running: self.forward.in_flight(),
            ..UpstreamStatus::default()
        }
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.forward.in_flight()
    }
}

fn credentials(key: Option<&HeaderValue>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(key) = key {
        headers.insert(header::AUTHORIZATION, key.clone());
    }
    headers
}

/// Whether a server is there, as it was last seen.
#[derive(Debug, Default)]
struct Presence(AtomicU8);

const UNKNOWN: u8 = 0;
const THERE: u8 = 1;
const GONE: u8 = 2;
const REFUSES: u8 = 3;

impl Presence {
    fn readiness(&self) -> Readiness {
        match self.0.load(Ordering::Relaxed) {
            UNKNOWN => Readiness::Loading,
            THERE => Readiness::Ready,
            _ => Readiness::Stalled,
        }
    }

    fn is_gone(&self) -> bool {
        self.0.load(Ordering::Relaxed) == GONE
    }
}

async fn keep_asking(forward: &Forward, headers: &HeaderMap, presence: &Presence) {
    loop {
        let answer = forward.send(Method::GET, "/v1/models", headers.clone(), Bytes::new());
        let answer = answer.await.map(|answer| answer.status());
        let (upstream, before) = (forward.name(), presence.0.load(Ordering::Relaxed));
        // Whatever it says, it speaks; some have no list of models. That it starts or refuses our key is no answer.
        let useless = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
        let now = match &answer {
            Ok(status) if useless.contains(status) => REFUSES,
            Ok(status) if !status.is_server_error() => THERE,
            _ => GONE,
        };
        let there = now == THERE;
        presence.0.store(now, Ordering::Relaxed);
        match (before, answer) {
            (before, _) if before == now => {}
            (_, _) if there => tracing::info!(upstream, "the upstream is there"),
            (_, Ok(status)) => {
                tracing::warn!(
                    upstream,
                    status = status.as_u16(),
                    "the upstream is not ready"
                );
            }
            (_, Err(error)) => tracing::warn!(upstream, %error, "the upstream is gone"),
        }
        sleep(if there {
            limits::PROBE_PERIOD
        } else {
            limits::PROBE_RETRY
        })
        .await;
    }
}
