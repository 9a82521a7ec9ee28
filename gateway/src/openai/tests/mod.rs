//! The API from outside: bytes in, bytes out, and a scripted upstream behind it.

mod accepted;
mod answers;
mod errors;
mod logprobs;
mod mutations;
mod refused;
mod streams;
mod tools;
mod transport;
mod wishes;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use hansa_config::schema::Limits;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

use super::{Api, Passed};
use crate::clock::Clock;
use crate::upstream::registry::{ModelInfo, Models};
use crate::upstream::{
    Event, EventStream, FinishReason, GenerateRequest, Likely, Origin, Readiness, Retry,
    TokenLogprob, Upstream, UpstreamError, UpstreamErrorKind, UpstreamStatus, Usage,
};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const PING_AFTER: Duration = Duration::from_secs(15);
const NOW_S: i64 = 1_700_000_000;

/// One thing that the scripted upstream does.
#[derive(Debug, Clone)]
enum Step {
    Say(Event),
    Fail(UpstreamErrorKind),
    Wait(Duration),
    Hang,
}

/// Choice `choice` goes on with `text`.
fn delta(choice: u32, text: &str) -> Step {
    Step::Say(Event::Delta {
        choice,
        text: text.to_owned(),
        token_ids: Vec::new(),
        logprobs: Vec::new(),
    })
}

/// Choice `choice` goes on with a token of `text` and its log-probability, beside which only "é" was likely.
fn scored(choice: u32, text: &[u8], logprob: f32) -> Step {
    let likely = |bytes: &[u8], logprob| Likely {
        bytes: bytes.to_vec(),
        logprob: Some(logprob),
    };
    Step::Say(Event::Delta {
        choice,
        text: String::from_utf8(text.to_vec()).unwrap_or_default(),
        token_ids: Vec::new(),
        logprobs: vec![TokenLogprob {
            chosen: likely(text, logprob),
            top: vec![likely("é".as_bytes(), -0.5)],
        }],
    })
}

fn finished(choice: u32) -> Step {
    Step::Say(Event::Finished {
        choice,
        reason: FinishReason::Stop,
    })
}

fn done() -> Step {
    Step::Say(Event::Done(Usage {
        prompt_tokens: 5,
        cached_tokens: 2,
        completion_tokens: 3,
        ..Usage::default()
    }))
}

/// "Hello" and "!", then the end.
fn hello() -> Vec<Step> {
    vec![delta(0, "Hello"), delta(0, "!"), finished(0), done()]
}

fn failure(kind: UpstreamErrorKind) -> UpstreamError {
    UpstreamError {
        kind,
        origin: Origin::Upstream,
        retry: Retry::Never,
        usage: None,
    }
}

type Script = dyn Fn(&GenerateRequest) -> Result<Vec<Step>, UpstreamErrorKind> + Send + Sync;

/// An upstream that follows a script and remembers what it was asked.
struct Scripted {
    script: Box<Script>,
    asked: Mutex<Vec<Arc<GenerateRequest>>>,
    open: Arc<AtomicUsize>,
}

impl Upstream for Scripted {
    fn generate(
        &self,
        request: Arc<GenerateRequest>,
    ) -> BoxFuture<'_, Result<EventStream, UpstreamError>> {
        let steps = (self.script)(&request).map_err(failure);
        self.asked.lock().unwrap().push(request);
        let open = Open::new(&self.open);
        async move { Ok(play(steps?, open)) }.boxed()
    }

    fn count_tokens(
        &self,
        _request: Arc<GenerateRequest>,
    ) -> BoxFuture<'_, Result<u32, UpstreamError>> {
        async { Ok(5) }.boxed()
    }

    fn cancel(&self, _request_id: &str) {}

    fn status(&self) -> UpstreamStatus {
        UpstreamStatus {
            readiness: Readiness::Ready,
            ..UpstreamStatus::default()
        }
    }
}

/// Counts a stream for as long as it lives.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn play(steps: Vec<Step>, open: Open) -> EventStream {
    stream::unfold((steps.into_iter(), open), |(mut steps, open)| async move {
        loop {
            let item = match steps.next()? {
                Step::Say(event) => Ok(event),
                Step::Fail(kind) => Err(failure(kind)),
                Step::Hang => futures::future::pending().await,
                Step::Wait(time) => {
                    tokio::time::sleep(time).await;
                    continue;
                }
            };
            return Some((item, (steps, open)));
        }
    })
    .boxed()
}

/// A server with the model `m`, which follows a script.
#[derive(Clone)]
struct Server {
    api: Api,
    upstream: Arc<Scripted>,
}

impl Server {
    fn new(
        script: impl Fn(&GenerateRequest) -> Result<Vec<Step>, UpstreamErrorKind>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let upstream = Arc::new(Scripted {
            script: Box::new(script),
            asked: Mutex::default(),
            open: Arc::default(),
        });
        let info = |id: &str| ModelInfo {
            id: id.into(),
            created_s: 1_600_000_000,
            owned_by: "hansa",
        };
        let serving = || Arc::clone(&upstream) as Arc<dyn Upstream>;
        let models = vec![(info("m"), serving()), (info("org/m2"), serving())];
        let models = Arc::new(Models::new(models));
        let clock = Clock::manual(NOW_S);
        let api = Api::new(
            models,
            Limits::default(),
            Passed::default(),
            PING_AFTER,
            clock,
        );
        Self { api, upstream }
    }

    /// A server that says the same to every request.
    fn saying(steps: Vec<Step>) -> Self {
        Self::new(move |_| Ok(steps.clone()))
    }

    async fn send(&self, request: Request<Body>) -> Response {
        self.api.clone().router().oneshot(request).await.unwrap()
    }

    async fn post(&self, path: &str, body: impl Into<Body>) -> Response {
        self.send(post(path, body)).await
    }

    async fn chat(&self, body: &str) -> Response {
        self.post(CHAT, body.to_owned()).await
    }

    /// Streams that are open at the upstream.
    fn open(&self) -> usize {
        self.upstream.open.load(Ordering::SeqCst)
    }

    fn asked(&self) -> Vec<Arc<GenerateRequest>> {
        self.upstream.asked.lock().unwrap().clone()
    }
}

fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path)
        .header("content-type", "application/json")
        .body(body.into())
        .unwrap()
}

/// A chat body with these fields beside model and messages.
fn with(fields: &str) -> String {
    let messages = r#"[{"role":"user","content":"Hi"}]"#;
    format!(r#"{{"model":"m","messages":{messages},{fields}}}"#)
}

/// A chat body with these messages.
fn saying(messages: &str) -> String {
    format!(r#"{{"model":"m","messages":{messages}}}"#)
}

/// The whole body, with the random part of the answer's id replaced.
async fn text(response: Response) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    fixed_id(std::str::from_utf8(&bytes).unwrap())
}

fn fixed_id(text: &str) -> String {
    let Some((start, _)) = text.match_indices("cmpl-").next() else {
        return text.to_owned();
    };
    let start = start + "cmpl-".len();
    text.replace(&text[start..start + 32], "ID")
}

async fn json(response: Response) -> Value {
    serde_json::from_str(&text(response).await).unwrap()
}

/// The error of an answer: status, code and param. All four keys must be there, and nothing else.
async fn error(response: Response) -> (StatusCode, String, Option<String>) {
    let status = response.status();
    let body = json(response).await;
    let error = body["error"].as_object().unwrap();
    let mut keys: Vec<_> = error.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["code", "message", "param", "type"]);
    assert!(!error["message"].as_str().unwrap().is_empty());
    assert!(!error["type"].as_str().unwrap().is_empty());
    let code = error["code"].as_str().unwrap().to_owned();
    (status, code, error["param"].as_str().map(str::to_owned))
}
