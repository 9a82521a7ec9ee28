//! The listener over pipes under a virtual clock.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::*;
use crate::clock::paused_now;
use crate::drain::{Drain, DrainTimes, Drained};
use crate::upstream::registry::Models;

const OPTIONS: ListenerOptions = ListenerOptions {
    connections_max: 2,
    header_timeout: Duration::from_secs(10),
    write_timeout: Duration::from_secs(30),
};

/// Connections that a test puts in, after failures that it ordered.
struct Pipes {
    failures: VecDeque<io::Error>,
    incoming: mpsc::Receiver<DuplexStream>,
}

impl Accept for Pipes {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<DuplexStream> {
        if let Some(failure) = self.failures.pop_front() {
            return Err(failure);
        }
        match self.incoming.recv().await {
            Some(pipe) => Ok(pipe),
            None => std::future::pending().await,
        }
    }
}

/// A listener that runs.
struct Served {
    drain: Drain,
    tasks: TaskTracker,
    connect: mpsc::Sender<DuplexStream>,
}

impl Served {
    fn start(service: Router) -> Self {
        Self::start_after(service, VecDeque::new())
    }

    fn start_after(service: Router, failures: VecDeque<io::Error>) -> Self {
        let (drain, tasks) = (Drain::new(), TaskTracker::new());
        let (connect, incoming) = mpsc::channel(8);
        let listener = Listener::new(service, OPTIONS, drain.watch(), tasks.clone());
        tasks.spawn(listener.run(Pipes { failures, incoming }));
        Self {
            drain,
            tasks,
            connect,
        }
    }

    async fn connect(&self) -> DuplexStream {
        let (ours, theirs) = duplex(4 << 10);
        self.connect.send(theirs).await.unwrap();
        ours
    }

    async fn drain(&self, grace: Duration) -> Drained {
        let times = DrainTimes {
            delay: Duration::ZERO,
            grace,
        };
        let models = Arc::new(Models::default());
        let never = std::future::pending();
        self.drain.run(times, &models, &self.tasks, never).await
    }
}

fn hello() -> Router {
    Router::new().route("/", get(async || "hello"))
}

async fn ask(pipe: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> String {
    pipe.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    while !answer.ends_with("hello") {
        let mut buffer = [0; 256];
        let read = pipe.read(&mut buffer).await.unwrap();
        assert_ne!(read, 0, "the connection closed after {answer:?}");
        answer.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    answer
}

/// Reads until the other side closes, and says how long that took.
async fn closes_after(pipe: &mut DuplexStream) -> Duration {
    let began = paused_now();
    let mut rest = Vec::new();
    // A connection that was cut instead of closed is closed as well.
    let _ = pipe.read_to_end(&mut rest).await;
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn failed_accepts_do_not_end_the_listener() {
    let failures = (0..5).map(|_| io::Error::from_raw_os_error(24)).collect();
    let served = Served::start_after(hello(), failures);
    let mut pipe = served.connect().await;
    let began = paused_now();
    assert!(ask(&mut pipe).await.starts_with("HTTP/1.1 200"));
    assert!(began.elapsed() <= 5 * limits::ACCEPT_BACKOFF);
}

#[tokio::test(start_paused = true)]
async fn connections_beyond_the_cap_wait_for_a_place() {
    let served = Served::start(hello());
    let mut first = served.connect().await;
    let mut second = served.connect().await;
    ask(&mut first).await;
    ask(&mut second).await;
    let mut third = served.connect().await;
    let early = timeout(Duration::from_secs(1), ask(&mut third)).await;
    assert!(early.is_err(), "a third connection was served: {early:?}");
    drop(first);
    third.shutdown().await.unwrap_or_default();
    drop(third);
    let mut fourth = served.connect().await;
    assert!(ask(&mut fourth).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(start_paused = true)]
async fn a_dripped_head_is_cut_off_however_it_drips() {
    let served = Served::start(hello());
    for head in [
        &b"GET / HTTP/1.1\r\nhost: x\r\nx-long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"[..],
        b"PRI * HTTP/2.0\r\n\r\nS",
        b"",
    ] {
        let mut pipe = served.connect().await;
        let began = paused_now();
        let (mut read, mut write) = tokio::io::split(&mut pipe);
        let drip = async {
            for byte in head {
                if write.write_all(&[*byte]).await.is_err() {
                    break;
                }
                sleep(Duration::from_secs(1)).await;
            }
            std::future::pending::<()>().await;
        };
        let mut rest = Vec::new();
        tokio::select! {
            () = drip => {}
            _ = read.read_to_end(&mut rest) => {}
        }
        let took = began.elapsed();
        assert!(took < Duration::from_secs(12), "{took:?} for {head:?}");
    }
}

/// What is answered to a request whose head has one header of so many bytes.
async fn ask_with_head_of(served: &Served, bytes: usize) -> String {
    let pipe = served.connect().await;
    let (mut read, mut write) = tokio::io::split(pipe);
    let send = async {
        let long = "a".repeat(bytes);
        let head = format!("GET / HTTP/1.1\r\nconnection: close\r\nx-long: {long}\r\n\r\n");
        // Whoever refuses it need not read it all.
        let _ = write.write_all(head.as_bytes()).await;
    };
    let mut answer = Vec::new();
    let ((), read) = tokio::join!(send, read.read_to_end(&mut answer));
    read.unwrap_or_default();
    String::from_utf8(answer).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_head_has_its_own_bound_below_that_of_the_buffer() {
    let served = Served::start(hello());
    let fits = ask_with_head_of(&served, limits::H1_HEAD_BYTES_MAX - 1_024).await;
    assert!(fits.starts_with("HTTP/1.1 200"), "{fits}");
    let beyond = ask_with_head_of(&served, limits::H1_HEAD_BYTES_MAX + 8_192).await;
    assert!(beyond.starts_with("HTTP/1.1 431"), "{beyond}");
}

#[tokio::test(start_paused = true)]
async fn a_busy_connection_stays_open() {
    let served = Served::start(hello());
    let mut pipe = served.connect().await;
    for _ in 0..60 {
        ask(&mut pipe).await;
        sleep(Duration::from_secs(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_loses_its_stream() {
    let (held, released) = oneshot::channel::<Infallible>();
    let held = Arc::new(std::sync::Mutex::new(Some(held)));
    let endless = Router::new().route(
        "/",
        get(async move || {
            let held = held.lock().unwrap().take();
            let chunk = Bytes::from_static(&[b'x'; 1024]);
            // The stream holds the sender for as long as it lives.
            Body::from_stream(stream::repeat_with(move || {
                let _held = &held;
                Ok::<_, Infallible>(chunk.clone())
            }))
        }),
    );
    let served = Served::start(endless);
    let mut pipe = served.connect().await;
    let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    pipe.write_all(request).await.unwrap();
    let began = paused_now();
    assert!(released.await.is_err());
    let took = began.elapsed();
    assert!(
        took < OPTIONS.write_timeout + Duration::from_secs(1),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_http2_stream_that_nobody_reads_ends_and_its_neighbours_go_on() {
    let mut unread_answers = Vec::new();
    for unread in ["/endless", "/whole"] {
        let service = hello()
            .route(
                "/endless",
                get(async || {
                    let chunk = Bytes::from_static(&[b'x'; 1024]);
                    Body::from_stream(stream::repeat_with(move || {
                        Ok::<_, Infallible>(chunk.clone())
                    }))
                }),
            )
            .route("/whole", get(async || vec![b'x'; 1 << 20]));
        let served = Served::start(service);
        let pipe = served.connect().await;
        let (mut client, connection) =
            hyper::client::conn::http2::Builder::new(TokioExecutor::new())
                .timer(hyper_util::rt::TokioTimer::new())
                .initial_stream_window_size(1024)
                .handshake::<_, Empty<Bytes>>(TokioIo::new(pipe))
                .await
                .unwrap();
        let connection = served.tasks.spawn(connection);
        let ask = |path: &str| http::Request::get(format!("http://x{path}")).body(Empty::new());
        let standing = client.send_request(ask(unread).unwrap()).await.unwrap();
        let began = paused_now();
        sleep(2 * OPTIONS.write_timeout + Duration::from_secs(1)).await;
        if unread == "/endless" {
            let rest = standing.into_body().collect().await;
            assert!(rest.is_err(), "the stream was not reset");
        } else {
            // It is in h2's hands whole and holds nothing else, so it may stay until its connection goes.
            unread_answers.push(standing);
        }
        let neighbour = client.send_request(ask("/").unwrap()).await.unwrap();
        let body = neighbour.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "hello");
        // With nothing in flight any more, it idles out.
        let _ = connection.await;
        let took = began.elapsed();
        let idle = limits::CONNECTION_IDLE_MAX + Duration::from_secs(2);
        assert!(
            took < 2 * OPTIONS.write_timeout + idle,
            "{unread}: {took:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn http2_is_spoken_and_an_idle_connection_closed() {
    let served = Served::start(hello());
    let pipe = served.connect().await;
    let (mut client, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(pipe))
        .await
        .unwrap();
    let connection = served.tasks.spawn(connection);
    let request = http::Request::get("http://x/").body(Empty::<Bytes>::new());
    let response = client.send_request(request.unwrap()).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "hello");
    let began = paused_now();
    // Its own end tells when the server has closed.
    let _ = connection.await;
    let took = began.elapsed();
    assert!(
        took < limits::CONNECTION_IDLE_MAX + Duration::from_secs(1),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_drain_closes_idle_and_half_open_connections_at_once() {
    let served = Served::start(hello());
    let (mut idle, mut half_open) = (served.connect().await, served.connect().await);
    ask(&mut idle).await;
    half_open.write_all(b"GET / HT").await.unwrap();
    sleep(Duration::from_millis(10)).await;
    let (drained, idle_took, half_open_took) = tokio::join!(
        served.drain(Duration::from_secs(30)),
        closes_after(&mut idle),
        closes_after(&mut half_open),
    );
    assert_eq!(drained, Drained::InOrder);
    assert!(idle_took < Duration::from_secs(1), "{idle_took:?}");
    assert!(
        half_open_took < Duration::from_secs(1),
        "{half_open_took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_a_running_answer_finish() {
    let slow = Router::new().route(
        "/",
        get(async || {
            sleep(Duration::from_secs(20)).await;
            "hello"
        }),
    );
    let served = Served::start(slow);
    let mut pipe = served.connect().await;
    let (answer, drained) = tokio::join!(ask(&mut pipe), async {
        sleep(Duration::from_secs(1)).await;
        served.drain(Duration::from_secs(30)).await
    });
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(drained, Drained::InOrder);
}

/// A listener on loopback that hands out a second handle of each connection.
#[cfg(target_os = "linux")]
struct Watched {
    listener: TcpListener,
    accepted: mpsc::Sender<socket2::Socket>,
}

#[cfg(target_os = "linux")]
impl Accept for Watched {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<TcpStream> {
        let stream = Accept::accept(&mut self.listener).await?;
        let handle = socket2::SockRef::from(&stream).try_clone()?;
        let _ = self.accepted.send(handle).await;
        Ok(stream)
    }

    fn prepare(io: &TcpStream, write_timeout: Duration) {
        <TcpListener as Accept>::prepare(io, write_timeout);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_client_that_is_gone_without_a_word_is_noticed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (accepted, mut handles) = mpsc::channel(1);
    let (drain, tasks) = (Drain::new(), TaskTracker::new());
    let serves = Listener::new(hello(), OPTIONS, drain.watch(), tasks.clone());
    tasks.spawn(serves.run(Watched { listener, accepted }));
    let mut client = TcpStream::connect(address).await.unwrap();
    ask(&mut client).await;
    let handle = handles.recv().await.unwrap();
    let given = socket::asked_for(&handle).unwrap();
    assert_eq!(given, Patience::with_client(OPTIONS.write_timeout));
}
