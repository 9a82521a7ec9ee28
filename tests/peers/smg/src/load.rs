//! A closed loop over keep-alive connections.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::buf::Chain;
use bytes::{Buf, Bytes};
use futures::future::try_join_all;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;

use crate::gateway::Gateway;
use crate::upstream::{FEW, MODEL, STAY_OPEN, Upstream};

/// Who is asked, and with which key.
pub trait Served: Sync {
    fn address(&self) -> SocketAddr;
    fn key(&self) -> &str;
}

impl Served for Gateway {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn key(&self) -> &str {
        self.key
    }
}

impl Served for Upstream {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn key(&self) -> &str {
        "none"
    }
}

/// What is asked again and again.
pub struct Case {
    pub name: &'static str,
    pub prompt_bytes: usize,
    /// What the prompt repeats.
    pub text: &'static str,
    pub answer: Answer,
    /// What is counted, and how many of it a request has.
    pub unit: &'static str,
    pub per_request: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Whole,
    Stream,
}

/// What a run did.
pub struct Ran {
    pub requests: usize,
    pub took: Duration,
}

/// Asks over `connections` connections for `time`.
pub async fn run(
    gateway: &Gateway,
    case: &Case,
    connections: usize,
    time: Duration,
) -> Result<Ran> {
    let start = Instant::now();
    let users = (0..connections).map(|user| async move {
        let mut sender = connect(gateway).await?;
        let mut requests = 0;
        let prompt = Prompt::new(case);
        while start.elapsed() < time {
            let body = prompt.body(user, requests);
            let answer = ask(&mut sender, gateway, body).await?;
            check(case, answer).await?;
            requests += 1;
        }
        anyhow::Ok(requests)
    });
    let requests = try_join_all(users).await?;
    Ok(Ran {
        requests: requests.iter().sum(),
        took: start.elapsed(),
    })
}

/// Times to the first event of streams that begin at `rate` a second for `time`, sorted. Each connection has its turn at an
/// even pace, whether the one before is quick or not.
pub async fn first_events(to: &impl Served, rate: u32, time: Duration) -> Result<Vec<Duration>> {
    const CONNECTIONS: u32 = 64;
    let start = Instant::now();
    let users = (0..CONNECTIONS).map(|user| async move {
        let mut sender = connect(to).await?;
        let mut waits = Vec::new();
        for turn in 0.. {
            let due = Duration::from_secs(1) * (turn * CONNECTIONS + user) / rate;
            if due > time {
                return anyhow::Ok(waits);
            }
            tokio::time::sleep(due.saturating_sub(start.elapsed())).await;
            let body = json!({"model": MODEL, "stream": true, "max_tokens": 80,
                "messages": [{"role": "user", "content": format!("user {user} asks for the {turn}th time {FEW}")}]});
            let body = text(&body);
            let asked = Instant::now();
            let mut answer = ask(&mut sender, to, body).await?;
            answer.frame().await.context("no first event")??;
            waits.push(asked.elapsed());
            answer.into_body().collect().await?;
        }
        Ok(waits)
    });
    let mut waits = try_join_all(users).await?.concat();
    waits.sort_unstable();
    Ok(waits)
}

/// Streams that have begun and are still open.
pub async fn open(
    gateway: &Gateway,
    streams: usize,
) -> Result<Vec<(Response<Incoming>, SendRequest<Full<Text>>)>> {
    let mut open = Vec::new();
    for _ in 0..streams {
        let mut sender = connect(gateway).await?;
        let body = json!({"model": MODEL, "stream": true, "max_tokens": 80,
            "messages": [{"role": "user", "content": STAY_OPEN}]});
        let mut answer = ask(&mut sender, gateway, text(&body)).await?;
        answer.frame().await.context("no first event")??;
        open.push((answer, sender));
    }
    Ok(open)
}

/// Whether a short request is answered.
pub async fn ready(gateway: &Gateway) -> bool {
    let asked = async {
        let body = json!({"model": MODEL, "max_tokens": 80, "messages": [{"role": "user", "content": "ready?"}]});
        ask(&mut connect(gateway).await?, gateway, text(&body)).await
    };
    asked.await.is_ok()
}

async fn connect(to: &impl Served) -> Result<SendRequest<Full<Text>>> {
    let stream = TcpStream::connect(to.address()).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn ask(
    sender: &mut SendRequest<Full<Text>>,
    to: &impl Served,
    body: Text,
) -> Result<Response<Incoming>> {
    sender.ready().await?;
    let request = Request::post("/v1/chat/completions")
        .header("host", to.address().to_string())
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {}", to.key()))
        .body(Full::new(body))?;
    let answer = sender.send_request(request).await?;
    if !answer.status().is_success() {
        let status = answer.status();
        let text = answer.into_body().collect().await?.to_bytes();
        anyhow::bail!("{status}: {}", String::from_utf8_lossy(&text));
    }
    Ok(answer)
}

/// What a connection asks again and again, but for how it begins. It is put together once: a loader that writes long prompts
/// anew takes more time than the gateway, and its cache.
struct Prompt {
    before: String,
    after: Bytes,
}

impl Prompt {
    fn new(case: &Case) -> Self {
        const BEGINNING: &str = "BEGINNING";
        let mut text = BEGINNING.to_owned();
        while text.len() < case.prompt_bytes {
            text.push_str(case.text);
        }
        text.truncate(case.prompt_bytes);
        let mut body = json!({"model": MODEL, "max_tokens": 80, "messages": [{"role": "user", "content": text}]});
        if case.answer == Answer::Stream {
            body["stream"] = true.into();
            body["stream_options"] = json!({"include_usage": true});
        }
        let body = body.to_string();
        let (before, after) = body.split_once(BEGINNING).unwrap_or((&body, ""));
        Self {
            before: before.to_owned(),
            after: Bytes::copy_from_slice(after.as_bytes()),
        }
    }

    /// A prompt that differs from all others of the run at its start.
    fn body(&self, user: usize, request: usize) -> Text {
        let before = format!("{}user {user} asks for the {request}th time: ", self.before);
        Bytes::from(before).chain(self.after.clone())
    }
}

/// A body in two pieces.
type Text = Chain<Bytes, Bytes>;

fn text(whole: &serde_json::Value) -> Text {
    Bytes::from(whole.to_string()).chain(Bytes::new())
}

/// That everything came: a gateway that breaks streams early is not fast.
async fn check(case: &Case, answer: Response<Incoming>) -> Result<()> {
    let body = answer.into_body().collect().await?.to_bytes();
    match case.answer {
        Answer::Whole => ensure!(body.len() > 100, "a short answer"),
        Answer::Stream => {
            let events = body.windows(6).filter(|part| *part == b"data: ").count();
            ensure!(events > case.per_request, "{events} events");
        }
    }
    Ok(())
}
