//! A server that says exactly what a test wants it to say, on a real loopback socket and a thread of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// What the server does for one request, in order. After the last step the connection is kept for the next request.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Writes bytes.
    Write(Vec<u8>),
    /// Does nothing for a while.
    Pause(Duration),
    /// Closes the connection.
    Close,
}

/// Answers request number `n` (from 0), whose body is given.
pub(crate) type Script = Arc<dyn Fn(usize, &str) -> Vec<Step> + Send + Sync>;

/// What serves at a port and on a thread of its own; ends when dropped.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Served {
    pub(crate) fn start<F>(serve: impl FnOnce(TcpListener) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()>,
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                tokio::select! {
                    () = serve(TcpListener::from_std(listener).unwrap()) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// The running server; ends when dropped.
pub(crate) struct Mock {
    pub(crate) url: String,
    accepted: Arc<AtomicUsize>,
    served: Served,
}

impl Mock {
    pub(crate) fn start(script: impl Fn(usize, &str) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let accepted = Arc::new(AtomicUsize::new(0));
        let (script, count): (Script, _) = (Arc::new(script), accepted.clone());
        let served = Served::start(|listener| accept(listener, script, count));
        Self {
            url: format!("http://{}", served.address),
            accepted,
            served,
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.served.address
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, script: Script, accepted: Arc<AtomicUsize>) {
    let served = Arc::new(AtomicUsize::new(0));
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        accepted.fetch_add(1, Ordering::SeqCst);
        connections.spawn(converse(stream, script.clone(), served.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn converse(mut stream: TcpStream, script: Script, served: Arc<AtomicUsize>) {
    stream.set_nodelay(true).ok();
    while let Some(body) = read_request(&mut stream).await {
        for step in script(served.fetch_add(1, Ordering::SeqCst), &body) {
            match step {
                Step::Write(bytes) => {
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Step::Pause(time) => tokio::time::sleep(time).await,
                Step::Close => return,
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut piece = [0; 8_192];
    loop {
        if let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
            // A request without a body need not say so.
            let length = text.split("content-length:").nth(1);
            let length = length.and_then(|rest| rest.lines().next()?.trim().parse().ok());
            let whole = head + 4 + length.unwrap_or(0_usize);
            if bytes.len() >= whole {
                return Some(String::from_utf8_lossy(&bytes[head + 4..whole]).into_owned());
            }
        }
        let read = stream
            .read(&mut piece)
            .await
            .ok()
            .filter(|&read| read > 0)?;
        bytes.extend_from_slice(&piece[..read]);
    }
}

pub(crate) const MODEL: &str = "mock";

/// Response headers of a stream.
pub(crate) fn stream_head() -> Vec<u8> {
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        .to_vec()
}

/// One event as one chunk of the body.
pub(crate) fn event(data: &str) -> Vec<u8> {
    chunk(format!("data: {data}\n\n").as_bytes())
}

/// One chunk of the body.
pub(crate) fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// The end of the body.
pub(crate) fn stream_end() -> Vec<u8> {
    b"0\r\n\r\n".to_vec()
}

/// A whole answer without a body worth reading.
pub(crate) fn plain(status: &str, kind: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

pub(crate) fn content(text: &str) -> String {
    format!(r#"{{"model":"{MODEL}","choices":[{{"index":0,"delta":{{"content":"{text}"}}}}]}}"#)
}

pub(crate) fn finish() -> String {
    format!(
        r#"{{"model":"{MODEL}","choices":[{{"index":0,"delta":{{}},"finish_reason":"length"}}]}}"#
    )
}

pub(crate) fn usage(tokens: usize) -> String {
    format!(
        r#"{{"model":"{MODEL}","choices":[],"usage":{{"prompt_tokens":7,"completion_tokens":{tokens},"total_tokens":{}}}}}"#,
        tokens + 7
    )
}

/// The events of a good answer.
pub(crate) fn good_events(texts: &[&str]) -> Vec<String> {
    let mut events: Vec<String> = texts.iter().map(|text| content(text)).collect();
    events.extend([finish(), usage(texts.len()), "[DONE]".to_owned()]);
    events
}

/// A whole answer of these events.
pub(crate) fn stream(events: &[String]) -> Vec<u8> {
    let mut bytes = stream_head();
    events.iter().for_each(|data| bytes.extend(event(data)));
    bytes.extend(stream_end());
    bytes
}

/// A good answer of three tokens.
pub(crate) fn good() -> Vec<u8> {
    stream(&good_events(&["a", "b", "c"]))
}
