//! Connections that are kept, over loopback.

use std::time::Duration;

use http::uri::Scheme;
use http::{Method, Uri};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::yield_now;

use super::*;
use crate::upstream::link::Target;

const WHOLE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
const BEGINS: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n";

async fn world() -> (TcpListener, Arc<Kept>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let target = Target {
        scheme: Scheme::HTTP,
        authority: "x.example:8000".parse().unwrap(),
        base: "".into(),
        address: Some(address),
        tls: None,
        http2: false,
    };
    let connector = Connector::new(target.clone(), Duration::from_secs(5));
    let kept = Kept::new(connector, &target.host_and_port(), &LinkTasks::default());
    (listener, kept)
}

async fn ask(kept: &Arc<Kept>) -> Result<Answer, LinkError> {
    let mut request = Request::new(Pieces::from(Bytes::from_static(b"{}")));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static("http://x.example:8000/v1/x?y");
    let answer = kept.request(request).await;
    answer.map(Response::into_body)
}

async fn read(answer: &mut Answer) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(bytes) = std::future::poll_fn(|cx| answer.poll_bytes(cx))
        .await
        .unwrap()
    {
        all.extend_from_slice(&bytes);
    }
    all
}

/// Reads one request and answers it.
async fn answer(stream: &mut TcpStream, with: &str) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n{}") {
        assert!(stream.read_buf(&mut request).await.unwrap() > 0);
    }
    stream.write_all(with.as_bytes()).await.unwrap();
    String::from_utf8(request).unwrap()
}

#[tokio::test]
async fn a_connection_is_used_again_once_its_answer_was_read() {
    let (listener, kept) = world().await;
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = answer(&mut stream, WHOLE).await;
        answer(&mut stream, WHOLE).await;
        request
    };
    let use_it = async {
        for _ in 0..2 {
            assert_eq!(read(&mut ask(&kept).await.unwrap()).await, b"hi");
        }
    };
    let (request, ()) = tokio::join!(serve, use_it);
    assert!(
        request.starts_with("POST /v1/x?y HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(request.contains("host: x.example:8000\r\n"), "{request}");
}

#[tokio::test]
async fn one_that_its_server_closed_is_replaced() {
    let (listener, kept) = world().await;
    let serve = async {
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().await.unwrap();
            answer(&mut stream, WHOLE).await;
        }
    };
    let use_it = async {
        for _ in 0..3 {
            assert_eq!(read(&mut ask(&kept).await.unwrap()).await, b"hi");
            // What has come to the socket is known after that.
            yield_now().await;
        }
    };
    tokio::join!(serve, use_it);
}

#[tokio::test]
async fn what_is_left_of_an_answer_may_come_later() {
    let (listener, kept) = world().await;
    let (mut stream, first) = {
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            answer(&mut stream, BEGINS).await;
            stream
        };
        tokio::join!(serve, ask(&kept))
    };
    let mut first = first.unwrap();
    let begins = std::future::poll_fn(|cx| first.poll_bytes(cx)).await;
    assert_eq!(begins.unwrap().unwrap(), "hi");
    first.finish();
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    yield_now().await;
    let (_, second) = tokio::join!(answer(&mut stream, WHOLE), ask(&kept));
    assert_eq!(read(&mut second.unwrap()).await, b"hi");
}

#[tokio::test]
async fn an_answer_that_is_given_up_closes_its_connection() {
    let (listener, kept) = world().await;
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        answer(&mut stream, BEGINS).await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        rest
    };
    let use_it = async { drop(ask(&kept).await.unwrap()) };
    let (rest, ()) = tokio::join!(serve, use_it);
    assert!(rest.is_empty());
    assert!(kept.idle().is_empty());
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_whole_one() {
    let (listener, kept) = world().await;
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        answer(&mut stream, BEGINS).await;
    };
    let use_it = async {
        let mut answer = ask(&kept).await.unwrap();
        loop {
            match std::future::poll_fn(|cx| answer.poll_bytes(cx)).await {
                Ok(Some(_)) => {}
                end => return end,
            }
        }
    };
    let ((), end) = tokio::join!(serve, use_it);
    assert!(matches!(end, Err(LinkError::Broken(_))), "{end:?}");
    assert!(kept.idle().is_empty());
}
