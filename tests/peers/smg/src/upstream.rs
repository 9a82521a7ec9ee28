//! A server that answers at once, whatever it is asked: the same whole answer, or the same [`EVENTS`] events without pause.
//! A prompt that says `in few words` gets a stream of a few events, and one that says `stay open` gets its first event and then nothing for as long as the client listens.

use std::convert::Infallible;
use std::net::SocketAddr;

use anyhow::Result;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;

/// Events of a stream that bear content, its end and its usage.
pub const EVENTS: usize = 68;
/// The model that it says it has.
pub const MODEL: &str = "instant";

/// Asked for by a prompt.
pub const FEW: &str = "in few words";
/// The same.
pub const STAY_OPEN: &str = "stay open";

/// Bytes of a body that are looked at.
const BEGINNING_BYTES: usize = 1024;

pub struct Upstream {
    pub address: SocketAddr,
}

type Body = BoxBody<Bytes, Infallible>;

impl Upstream {
    /// Serves for as long as the process runs.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).ok();
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service_fn(answer)),
                );
            }
        });
        Ok(Self { address })
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let path = request.uri().path().to_owned();
    if !path.ends_with("/chat/completions") {
        let body = match path.as_str() {
            "/v1/models" => json!({"object": "list", "data": [{"id": MODEL, "object": "model",
                "created": 1, "owned_by": "nobody"}]}),
            "/get_model_info" | "/model_info" => {
                json!({"model_path": MODEL, "is_generation": true})
            }
            _ => json!({"status": "ok", "model_path": MODEL, "model_id": MODEL}),
        };
        return Ok(whole("application/json", body.to_string()));
    }
    let body = beginning(request.into_body()).await?;
    let says = |text: &str| body.windows(text.len()).any(|part| part == text.as_bytes());
    if says(STAY_OPEN) {
        let first = stream::iter([event(&delta(0))]).chain(stream::pending());
        return Ok(streamed(first));
    }
    if says(FEW) {
        let events = events();
        let last = events.len() - 3;
        return Ok(streamed(stream::iter(events.into_iter().skip(last))));
    }
    if says("\"stream\":true") {
        return Ok(streamed(stream::iter(events())));
    }
    let answer = json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Lübeck, Visby and Riga."},
            "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 50, "completion_tokens": 9, "total_tokens": 59}});
    Ok(whole("application/json", answer.to_string()))
}

/// What a body asks for, which is all of a short one. Long prompts ask for nothing but the usual, and to keep or look through
/// them would take time and cache from the gateway beside this.
async fn beginning(mut body: Incoming) -> Result<Vec<u8>, hyper::Error> {
    let mut first = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            let missing = BEGINNING_BYTES.saturating_sub(first.len());
            first.extend_from_slice(&data[..missing.min(data.len())]);
        }
    }
    Ok(first)
}

fn whole(kind: &str, body: String) -> Response<Body> {
    respond(kind, Full::new(Bytes::from(body)).boxed())
}

fn streamed(events: impl futures::Stream<Item = Bytes> + Send + Sync + 'static) -> Response<Body> {
    let frames = events.map(|event| Ok(Frame::data(event)));
    respond("text/event-stream", BodyExt::boxed(StreamBody::new(frames)))
}

fn respond(kind: &str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    if let Ok(kind) = kind.parse() {
        response.headers_mut().insert("content-type", kind);
    }
    response
}

/// All of a stream, its `[DONE]` beside the last.
fn events() -> Vec<Bytes> {
    let content = EVENTS - 2;
    let mut events: Vec<Bytes> = (0..content).map(|i| event(&delta(i))).collect();
    events.push(event(&chunk(
        &json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]),
        None,
    )));
    let usage =
        json!({"prompt_tokens": 50, "completion_tokens": content, "total_tokens": 50 + content});
    let mut last = event(&chunk(&json!([]), Some(&usage))).to_vec();
    last.extend_from_slice(b"data: [DONE]\n\n");
    events.push(last.into());
    events
}

fn delta(i: usize) -> String {
    let delta = match i {
        0 => json!({"role": "assistant", "content": "Lübeck"}),
        _ => json!({"content": " and"}),
    };
    chunk(
        &json!([{"index": 0, "delta": delta, "finish_reason": null}]),
        None,
    )
}

fn chunk(choices: &serde_json::Value, usage: Option<&serde_json::Value>) -> String {
    let mut chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL,
        "choices": choices});
    if let Some(usage) = usage {
        chunk["usage"] = usage.clone();
    }
    chunk.to_string()
}

fn event(data: &str) -> Bytes {
    format!("data: {data}\n\n").into()
}
