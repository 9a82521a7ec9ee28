//! Servers of ours with the simulated engine, a bare HTTP/1 client, and a mock of another make.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hansa_config::secret::SecretSource;
use hansa_config::{Config, schema};
use hansa_gateway::drain::Drained;
use hansa_gateway::serve::{App, ServeError};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Longer than anything here may take; a test that hangs fails by it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A server of ours in this process.
pub(crate) struct Server {
    pub(crate) clients: SocketAddr,
    pub(crate) operators: SocketAddr,
    pub(crate) signal: mpsc::Sender<()>,
    pub(crate) run: JoinHandle<Result<Drained, ServeError>>,
}

/// A config without models on free ports.
pub(crate) fn bare() -> Config {
    let mut config = Config::default();
    config.server.listen.set_port(0);
    config.server.grace_ms = 300;
    config.admin.listen = Some(config.server.listen);
    config.models.clear();
    config.peer.secret_file = Some(secret("the-secret-of-all-peers"));
    config
}

/// A node with the simulated model `sim`.
pub(crate) fn node() -> Config {
    let mut config = bare();
    config.models = vec![schema::Model {
        id: "sim".to_owned(),
        runner: schema::Runner::Sim,
        ..schema::Model::default()
    }];
    config
}

/// A gateway in front of `upstreams`.
pub(crate) fn gateway(upstreams: Vec<schema::Upstream>) -> Config {
    let mut config = bare();
    config.nodes = upstreams;
    config
}

/// The server of ours at `address` as a node that serves `sim`.
pub(crate) fn ours(name: &str, address: SocketAddr) -> schema::Upstream {
    schema::Upstream {
        name: name.to_owned(),
        url: format!("http://{address}"),
        models: vec![model("sim", "sim")],
        ..schema::Upstream::default()
    }
}

/// The server of another make at `address`, which knows `sim` as `their/sim`.
pub(crate) fn foreign(address: SocketAddr) -> schema::Upstream {
    schema::Upstream {
        kind: schema::Kind::OpenAi,
        models: vec![model("sim", "their/sim")],
        key_file: Some(secret("the-key-of-the-engine")),
        ..ours("foreign", address)
    }
}

pub(crate) fn model(ours: &str, theirs: &str) -> schema::ModelName {
    schema::ModelName {
        ours: ours.to_owned(),
        theirs: theirs.to_owned(),
    }
}

/// A file with `text` as a secret.
pub(crate) fn secret(text: &str) -> SecretSource {
    SecretSource::File(file(text, text))
}

/// A file that is named after `name` and this process, and holds `text`.
pub(crate) fn file(name: &str, text: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join(format!("{name}-{}", std::process::id()));
    // Renamed into place, since several tests write the same one.
    let own = folder.join(format!("{name}-{:?}", std::thread::current().id()));
    std::fs::write(&own, text).unwrap();
    std::fs::rename(&own, &path).unwrap();
    path
}

impl Server {
    /// Starts a server and waits until all of its models are ready.
    pub(crate) async fn start(config: Config) -> Self {
        let server = Self::launch(config).await;
        server
            .wait_for("/health/ready", |answer| answer.status == 200)
            .await;
        server
    }

    /// Starts a server that may never be ready.
    pub(crate) async fn launch(config: Config) -> Self {
        let app = App::build(config).await.unwrap();
        let addresses = app.addresses();
        let (signal, mut signals) = mpsc::channel(2);
        let run = async move {
            app.run(async move || {
                let _ = signals.recv().await;
            })
            .await
        };
        Self {
            clients: addresses.listen,
            operators: addresses.admin.unwrap(),
            signal,
            run: spawn(run),
        }
    }

    /// Asks operators' `path` until `good`.
    pub(crate) async fn wait_for(&self, path: &str, good: impl Fn(&Answer) -> bool) {
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let asking = async {
            while !good(&exchange(self.operators, &request).await) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, asking).await.unwrap();
    }

    /// Waits until the metrics have this line.
    pub(crate) async fn wait_for_metric(&self, line: &str) {
        self.wait_for("/metrics", |answer| {
            answer.body.lines().any(|seen| seen == line)
        })
        .await;
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        exchange(self.clients, &post(path, "", body)).await
    }

    pub(crate) async fn stop(self) -> Drained {
        self.signal.send(()).await.unwrap();
        timeout(PATIENCE, self.run).await.unwrap().unwrap().unwrap()
    }
}

/// A request with `headers`, each with its line's end.
pub(crate) fn post(path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

pub(crate) fn chat(fields: &str) -> String {
    format!(r#"{{"model":"sim","seed":7,"messages":[{{"role":"user","content":"hi"}}],{fields}}}"#)
}

#[expect(clippy::disallowed_methods, reason = "the test waits for it, or ends")]
pub(crate) fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(future)
}

/// An answer on the wire.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// In lower case.
    pub(crate) head: String,
    /// Without the marks of its chunks.
    pub(crate) body: String,
    /// As it came.
    pub(crate) raw: String,
}

impl Answer {
    pub(crate) fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let head = head.to_ascii_lowercase();
        let body = match head.contains("transfer-encoding: chunked") {
            true => dechunked(body),
            false => body.to_owned(),
        };
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
        Self {
            status: status.unwrap_or(0),
            head,
            body,
            raw: text.to_owned(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of an error; empty where the body is none.
    pub(crate) fn code(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_default();
        body["error"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let found = lines.find(|(found, _)| *found == name);
        found.map(|(_, value)| value)
    }

    /// The node that served, as the gateway tells; empty where it does not.
    pub(crate) fn node(&self) -> String {
        let site = |line: &str| {
            line.strip_prefix("x-hansa-site: ")?
                .split_once('/')
                .map(|(_, node)| node.to_owned())
        };
        self.head.lines().find_map(site).unwrap_or_default()
    }

    /// The data of all events.
    pub(crate) fn events(&self) -> Vec<String> {
        let data = self
            .body
            .lines()
            .filter_map(|line| line.strip_prefix("data: "));
        data.map(str::to_owned).collect()
    }

    /// The whole answer with what differs from one to the next taken out.
    pub(crate) fn comparable(&self) -> String {
        let mut text = String::new();
        for line in self.body.lines() {
            let (mark, json) = line.split_at(line.find('{').unwrap_or(line.len()));
            text += mark;
            if let Ok(mut json) = serde_json::from_str::<Value>(json) {
                for name in ["id", "created"] {
                    json.as_object_mut().and_then(|object| object.remove(name));
                }
                text += &json.to_string();
            }
            text.push('\n');
        }
        text
    }
}

fn dechunked(body: &str) -> String {
    let (mut rest, mut whole) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let Some(chunk) = after.get(..size).filter(|_| size > 0) else {
            break;
        };
        whole += chunk;
        rest = after.get(size + 2..).unwrap_or_default();
    }
    whole
}

/// Sends `request` as it is and reads until the server closes.
pub(crate) async fn exchange(address: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (mut read, mut write) = stream.split();
    let mut answer = Vec::new();
    let send = async {
        // The server may answer and close before all is sent.
        let _ = write.write_all(request.as_bytes()).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = send => {}
        // What was read before a reset counts.
        _ = timeout(PATIENCE, read.read_to_end(&mut answer)) => {}
    }
    Answer::parse(&String::from_utf8_lossy(&answer))
}

/// A server of another make: answers every POST, remembers what it was sent, and holds the connection open until the other
/// side closes it.
pub(crate) struct Mock {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

/// What a mock answers to a request.
type Script = dyn Fn(&str) -> Vec<u8> + Send + Sync;

impl Mock {
    /// A mock that always answers with the same bytes.
    pub(crate) async fn start(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::following(move |_| answer.clone()).await
    }

    pub(crate) async fn following(
        script: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answer, asked): (Arc<Script>, _) = (Arc::new(script), Arc::new(Mutex::default()));
        let seen = Arc::clone(&asked);
        spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                spawn(serve(stream, Arc::clone(&answer), Arc::clone(&seen)));
            }
        });
        Self { address, asked }
    }

    /// A mock that streams `events` and says `[DONE]`.
    pub(crate) async fn streaming(events: &[&str]) -> Self {
        let events: String = events
            .iter()
            .map(|event| format!("data: {event}\n\n"))
            .collect();
        Self::start(stream_of(&format!("{events}data: [DONE]\n\n"))).await
    }

    /// The requests of clients that came.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// A wire to a server, which can be cut: all connections die at once, and no new one is made. Or it falls silent: connections
/// stay and can be made, and carry nothing.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    whole: CancellationToken,
    silent: CancellationToken,
    /// Ends the connections of this moment.
    strands: Arc<Mutex<CancellationToken>>,
}

impl Wire {
    pub(crate) async fn to(there: SocketAddr) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), there).await
    }

    /// A wire whose near end is at `here`, where one may have been cut before.
    pub(crate) async fn at(here: SocketAddr, there: SocketAddr) -> Self {
        let listener = TcpListener::bind(here).await.unwrap();
        let address = listener.local_addr().unwrap();
        let whole = CancellationToken::new();
        let cut = whole.clone();
        let silent = CancellationToken::new();
        let carries = silent.clone();
        let strands = Arc::new(Mutex::new(whole.child_token()));
        let carried = Arc::clone(&strands);
        spawn(async move {
            let accept = async move {
                while let Ok((near, _)) = listener.accept().await {
                    let cut = carried.lock().unwrap().clone();
                    let carrying = carry(near, there, carries.clone());
                    spawn(async move { cut.run_until_cancelled(carrying).await });
                }
            };
            cut.run_until_cancelled(accept).await;
        });
        Self {
            address,
            whole,
            silent,
            strands,
        }
    }

    pub(crate) fn cut(&self) {
        self.whole.cancel();
    }

    pub(crate) fn fall_silent(&self) {
        self.silent.cancel();
    }

    /// Breaks the connections that there are; new ones can be made.
    pub(crate) fn shake(&self) {
        let next = self.whole.child_token();
        let strands = std::mem::replace(&mut *self.strands.lock().unwrap(), next);
        strands.cancel();
    }
}

async fn carry(mut near: TcpStream, there: SocketAddr, silent: CancellationToken) {
    let Ok(mut far) = TcpStream::connect(there).await else {
        return;
    };
    let carrying = copy_bidirectional(&mut near, &mut far);
    if silent.run_until_cancelled(carrying).await.is_none() {
        // Both ends stay open.
        std::future::pending::<()>().await;
    }
}

/// A whole answer with `body` as a stream.
pub(crate) fn stream_of(body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

async fn serve(mut stream: TcpStream, script: Arc<Script>, asked: Arc<Mutex<Vec<String>>>) {
    loop {
        let Some(request) = read_request(&mut stream).await else {
            return;
        };
        let there = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
        if request.starts_with("GET ") {
            let _ = stream.write_all(there).await;
            continue;
        }
        let answer = script(&request);
        asked.lock().unwrap().push(request);
        let _ = stream.write_all(&answer).await;
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.to_ascii_lowercase();
            let length = length
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Some(text.into_owned());
            }
        }
        let mut piece = [0; 4096];
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&piece[..read]),
        }
    }
}

/// The text of `count` tokens of choice 0, by the published formula: 16 hex digits of `s(s(s(seed) + c) + i)` and a space,
/// where `s` is one step of SplitMix64.
pub(crate) fn sim_text(seed: u64, choice: u64, count: u64) -> String {
    let of_choice = step(step(seed).wrapping_add(choice));
    (0..count)
        .map(|index| format!("{:016x} ", step(of_choice.wrapping_add(index))))
        .collect()
}

fn step(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
