//! Each fault over real sockets, before a mock site.

use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::testing::{Answer, PATIENCE, exchange, post};
use super::*;
use crate::faults::fault::FaultKind;
use crate::faults::mock::{Cost, Mock, MockOptions};

/// A mock that answers at once, behind a proxy that looks out for "needle".
async fn world(step_ms: u64) -> (Mock, Proxy) {
    let cost = Cost {
        prefill: Duration::ZERO,
        prefill_token: Duration::ZERO,
        step: Duration::from_millis(step_ms),
        ..Cost::default()
    };
    let mock = Mock::start(MockOptions {
        cost,
        ..MockOptions::default()
    })
    .await
    .unwrap();
    let proxy = Proxy::start(ProxyOptions::to(mock.address()).watching_for("needle"))
        .await
        .unwrap();
    (mock, proxy)
}

fn request(tokens: u32) -> Value {
    json!({"model": "mock", "prompt": "hay needle hay", "max_tokens": tokens, "stream": true})
}

async fn ask(proxy: &Proxy, tokens: u32) -> Answer {
    exchange(proxy.address(), &post("/v1/completions", &request(tokens))).await
}

/// Whether the answer came to its end.
fn is_whole(answer: &Answer) -> bool {
    answer.status == 200 && answer.body.ends_with("data: [DONE]\n\n") && answer.end == Ok(())
}

#[tokio::test]
async fn without_faults_all_passes_and_is_counted() {
    let (mock, proxy) = world(0).await;
    for _ in 0..3 {
        assert!(is_whole(&ask(&proxy, 5).await));
    }
    let seen = proxy.seen();
    assert_eq!((seen.connections, seen.sightings, mock.asked()), (3, 3, 3));
    assert!(seen.bytes_up > 300 && seen.bytes_down > 900, "{seen:?}");
}

#[tokio::test]
async fn a_killed_server_refuses_and_comes_back_on_the_same_port() {
    let (_mock, proxy) = world(20).await;
    let (running, kill) = tokio::join!(ask(&proxy, 4_000), async {
        while proxy.seen().bytes_down < 500 {
            tokio::task::yield_now().await;
        }
        proxy.inject(FaultKind::Kill)
    });
    assert!(
        !is_whole(&running) && running.end == Err(io::ErrorKind::ConnectionReset),
        "{running:?}"
    );
    // The reset may come before the port is given up.
    let refused = async { while TcpStream::connect(proxy.address()).await.is_ok() {} };
    timeout(PATIENCE, refused).await.unwrap();
    proxy.heal(kill);
    let back = async { while !is_whole(&ask(&proxy, 1).await) {} };
    timeout(PATIENCE, back).await.unwrap();
}

#[tokio::test]
async fn resets_and_truncations_come_after_so_many_bytes() {
    let (_mock, proxy) = world(0).await;
    let reset = proxy.inject(FaultKind::Reset { after_bytes: 700 });
    let answer = ask(&proxy, 50).await;
    assert_eq!(answer.end, Err(io::ErrorKind::ConnectionReset));
    proxy.heal(reset);
    proxy.inject(FaultKind::Truncate { after_bytes: 700 });
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    let text = post("/v1/completions", &request(50));
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut bytes))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(bytes.len(), 700);
    assert!(bytes.starts_with(b"HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn a_stalled_answer_goes_on_when_healed_and_is_whole() {
    let (_mock, proxy) = world(0).await;
    for kind in [FaultKind::Stall { after_bytes: 300 }, FaultKind::Partition] {
        let stall = proxy.inject(kind);
        let mut answer = Box::pin(ask(&proxy, 20));
        assert!(
            timeout(Duration::from_millis(100), &mut answer)
                .await
                .is_err(),
            "{kind}"
        );
        proxy.heal(stall);
        assert!(is_whole(&answer.await), "{kind}");
    }
}

#[tokio::test]
async fn what_a_black_hole_swallowed_never_comes_out() {
    let (mock, proxy) = world(0).await;
    let hole = proxy.inject(FaultKind::BlackHole);
    let mut answer = Box::pin(ask(&proxy, 20));
    assert!(
        timeout(Duration::from_millis(100), &mut answer)
            .await
            .is_err()
    );
    assert_eq!((proxy.seen().sightings, mock.asked()), (0, 0));
    drop(answer);
    proxy.heal(hole);
    assert!(is_whole(&ask(&proxy, 2).await));
}

#[tokio::test]
async fn latency_and_slow_heads_take_the_time_that_they_say() {
    let (_mock, proxy) = world(0).await;
    let clock = Clock::start();
    let took = async || {
        let before = clock.now();
        assert!(is_whole(&ask(&proxy, 3).await));
        Duration::from_nanos(clock.now() - before)
    };
    let (delay, jitter) = (Duration::from_millis(120), Duration::from_millis(10));
    let slow = proxy.inject(FaultKind::Latency { delay, jitter });
    assert!(took().await >= delay);
    proxy.heal(slow);
    let pause = Duration::from_millis(2);
    proxy.inject(FaultKind::SlowHeaders { pause });
    assert!(took().await >= 80 * pause, "a head has more than 80 bytes");
}

#[tokio::test]
async fn a_narrow_line_takes_its_time() {
    let (_mock, proxy) = world(0).await;
    let clock = Clock::start();
    proxy.inject(FaultKind::Bandwidth {
        bytes_per_s: 20_000,
    });
    let answer = ask(&proxy, 30).await;
    assert!(is_whole(&answer) && answer.body.len() > 4_000);
    let least = answer.body.len() as u64 * 1_000_000_000 / 20_000;
    assert!(clock.now() >= least * 9 / 10, "{least}");
}

#[tokio::test]
async fn errors_befall_new_requests_and_spare_those_on_their_way() {
    let (_mock, proxy) = world(5).await;
    let (running, refused) = tokio::join!(ask(&proxy, 100), async {
        while proxy.seen().bytes_down < 500 {
            tokio::task::yield_now().await;
        }
        proxy.inject(FaultKind::Errors { status: 500 });
        ask(&proxy, 1).await
    });
    assert!(is_whole(&running), "{running:?}");
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (500, Some("1"))
    );
    assert!(refused.body.contains("injected_fault"));
    proxy.heal_all();
    // A kept connection is refused at its next request.
    let mut kept = TcpStream::connect(proxy.address()).await.unwrap();
    let get = b"GET /health HTTP/1.1\r\nhost: h\r\n\r\n";
    let mut piece = vec![0; 4_096];
    kept.write_all(get).await.unwrap();
    let read = kept.read(&mut piece).await.unwrap();
    assert!(piece[..read].starts_with(b"HTTP/1.1 200"));
    proxy.inject(FaultKind::Drain);
    kept.write_all(get).await.unwrap();
    let mut rest = String::new();
    timeout(PATIENCE, kept.read_to_string(&mut rest))
        .await
        .unwrap()
        .unwrap();
    assert!(rest.contains("503 Service Unavailable\r\n"), "{rest}");
    assert_eq!(proxy.seen().refused, 2);
}

#[tokio::test]
async fn clients_of_http2_are_sent_away_and_finish_what_they_have() {
    let (_mock, proxy) = world(5).await;
    let open = async || {
        let stream = TcpStream::connect(proxy.address()).await.unwrap();
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            connection.await.ok();
        });
        (sender, tasks)
    };
    let message = |tokens: u32| {
        let body = http_body_util::Full::new(bytes::Bytes::from(request(tokens).to_string()));
        http::Request::post("http://h/v1/completions")
            .body(body)
            .unwrap()
    };
    let (mut first, tasks) = open().await;
    let mut long = first.send_request(message(60)).await.unwrap();
    proxy.inject(FaultKind::Drain);
    use http_body_util::BodyExt as _;
    let mut text = Vec::new();
    let reading = async {
        while let Some(frame) = long.frame().await {
            text.extend_from_slice(&frame.unwrap().into_data().unwrap_or_default());
        }
    };
    timeout(PATIENCE, reading).await.unwrap();
    assert!(
        text.ends_with(b"data: [DONE]\n\n"),
        "what was on its way comes to its end"
    );
    let over = async {
        while first.ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, over).await.expect("told to go elsewhere");
    drop(tasks);
    let (mut second, _tasks) = open().await;
    let refused = second.send_request(message(1)).await.unwrap();
    assert_eq!(refused.status(), 503);
}
