//! Whatever an upstream sends, the client gets a clean error, and the gateway holds little of it.

use std::net::SocketAddr;
use std::time::Duration;

use hansa_config::schema::{Policy, Upstream};
use tokio::time::timeout;

use crate::harness::{Answer, Mock, Server, chat, foreign, gateway, stream_of};

const PATH: &str = "/v1/chat/completions";
const ONE: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\n";

/// What a client gets of an upstream that answers with these bytes.
async fn through(answer: impl Into<Vec<u8>>, fields: &str) -> Answer {
    let mock = Mock::start(answer).await;
    let mut upstream = foreign(mock.address);
    upstream.first_byte_timeout_ms = 300;
    upstream.idle_timeout_ms = 300;
    let edge = Server::start(gateway(vec![upstream])).await;
    let answer = timeout(Duration::from_secs(20), edge.post(PATH, &chat(fields)))
        .await
        .unwrap();
    edge.wait_for_metric("hansa_requests_in_flight 0").await;
    edge.stop().await;
    answer
}

fn endless(head: &str, body: Vec<u8>) -> Vec<u8> {
    let mut answer = head.as_bytes().to_vec();
    answer.extend_from_slice(b"\r\n\r\n");
    answer.extend(body);
    answer
}

#[tokio::test]
async fn nonsense_before_the_first_content_is_a_status() {
    let stream = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 999999999";
    let line = [&b"data: "[..], &vec![b'x'; 3 << 20]].concat();
    let lines = "data: x\n".repeat(1 << 18).into_bytes();
    let headers = format!("HTTP/1.1 200 OK\r\n{}", "x-long: y\r\n".repeat(20_000));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no HTTP", b"\x00\xff\xfe nonsense\r\n\r\n".to_vec()),
        ("endless headers", headers.into_bytes()),
        (
            "an endless header",
            [&b"HTTP/1.1 200 OK\r\nx: "[..], &vec![b'y'; 1 << 20]].concat(),
        ),
        ("silence", Vec::new()),
        ("an endless line", endless(stream, line)),
        ("an endless event", endless(stream, lines)),
        (
            "silence in the stream",
            endless(stream, b": ping\n\n".to_vec()),
        ),
        (
            "bad UTF-8",
            endless(
                stream,
                b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\xff\"}}]}\n\n"
                    .to_vec(),
            ),
        ),
        (
            "no stream",
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_vec(),
        ),
        (
            "a choice of nobody",
            stream_of("data: {\"choices\":[{\"index\":7,\"delta\":{\"content\":\"x\"}}]}\n\n")
                .into_bytes(),
        ),
        ("a sudden end", stream_of("").into_bytes()),
        (
            "an end without content",
            stream_of("data: [DONE]\n\n").into_bytes(),
        ),
        (
            "a redirect",
            b"HTTP/1.1 302 Found\r\nlocation: http://evil.example/\r\ncontent-length: 0\r\n\r\n"
                .to_vec(),
        ),
        (
            "a refusal of our key",
            b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n".to_vec(),
        ),
    ];
    // A connection that ends or makes no sense is as good as none.
    let lost = [
        "no HTTP",
        "endless headers",
        "an endless header",
        "a sudden end",
    ];
    for (name, answer) in cases {
        let answer = through(answer, r#""stream":true"#).await;
        let expected = match lost.contains(&name) {
            true => (502, "upstream_unreachable"),
            false => (500, "internal_error"),
        };
        assert_eq!(
            (answer.status, answer.code().as_str()),
            expected,
            "{name}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn nonsense_after_content_is_an_error_in_the_stream() {
    let stop = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    let cases = [
        stream_of(ONE),
        stream_of(&format!("{ONE}data: nonsense\n\n")),
        stream_of(&format!("{ONE}data: [DONE]\n\n")),
        stream_of(&format!("{stop}{ONE}data: [DONE]\n\n")),
        stream_of(&format!(
            "{ONE}data: {{\"error\":{{\"message\":\"secret prompt\",\"code\":500}}}}\n\n"
        )),
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9999\r\n\r\n{ONE}"
        ),
    ];
    for case in cases {
        let answer = through(case.clone(), r#""stream":true"#).await;
        let errors = answer
            .events()
            .into_iter()
            .filter(|event| event.starts_with(r#"{"error""#));
        assert_eq!(
            (answer.status, errors.count()),
            (200, 1),
            "{case}: {answer:?}"
        );
        assert!(
            !answer.body.contains("[DONE]") && !answer.body.contains("secret"),
            "{answer:?}"
        );
    }
}

/// Another serves what it spoils, and soon it is not asked any more.
#[tokio::test]
async fn who_answers_nonsense_is_left_out_and_costs_no_request() {
    let spoils = Mock::start(stream_of("data: {]\n\n")).await;
    let serves = Mock::streaming(&[
        r#"{"choices":[{"index":0,"delta":{"content":"x"}}]}"#,
        r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
    ]);
    let serves = serves.await;
    let mut config = gateway(vec![
        named("spoils", spoils.address),
        named("serves", serves.address),
    ]);
    config.route.policy = Policy::RoundRobin;
    let ejects_at = config.route.eject_failures as usize;
    let edge = Server::start(config).await;
    for _ in 0..40 {
        let answer = edge.post(PATH, &chat(r#""max_tokens":1"#)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let asked = spoils.asked().len();
    // A probe may come besides, on a slow machine.
    assert!((1..=ejects_at + 3).contains(&asked), "{asked}");
    edge.stop().await;
}

fn named(name: &str, address: SocketAddr) -> Upstream {
    Upstream {
        name: name.to_owned(),
        ..foreign(address)
    }
}

#[tokio::test]
async fn lies_about_usage_are_counted_instead() {
    let stop = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":4000000000}}\n\n";
    let answer = stream_of(&format!("{ONE}{ONE}{stop}{usage}data: [DONE]\n\n"));
    let answer = through(answer, r#""max_tokens":9"#).await;
    assert_eq!(answer.json()["usage"]["completion_tokens"], 2, "{answer:?}");
}

#[tokio::test]
async fn a_refusal_comes_through_in_the_upstreams_words() {
    let body = r#"{"object":"error","error":{"message":"no such thing","type":"BadRequestError","param":"top_a","code":400}}"#;
    let refusal = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = through(refusal, r#""n":1"#).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (400, "invalid_value")
    );
    assert_eq!(answer.json()["error"]["message"], "no such thing");
    assert_eq!(answer.json()["error"]["param"], "top_a");
}

#[tokio::test]
async fn overload_is_told_as_such() {
    for status in ["429 Too Many Requests", "503 Service Unavailable"] {
        let answer = through(
            format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n"),
            r#""n":1"#,
        )
        .await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "overloaded"));
    }
}
