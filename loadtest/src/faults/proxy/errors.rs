//! Answers every request of a connection with an error, in either version of HTTP.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;

use super::Shared;
use super::connection::Wire;
use crate::limits::ERRORS_LINGER;

/// The error in the form of the API.
const BODY: &str = r#"{"error":{"message":"refused by a fault of the load tester's proxy","type":"server_error","param":null,"code":"injected_fault"}}"#;

/// Serves a new connection until its errors are healed or it ends.
pub(super) async fn serve(near: TcpStream, status: u16, mut wire: Wire, shared: Arc<Shared>) {
    let service = service_fn(move |_: Request<Incoming>| {
        shared.counts.refused.fetch_add(1, Relaxed);
        std::future::ready(Ok::<_, Infallible>(answer(status)))
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection(TokioIo::new(near), service);
    let mut connection = pin!(connection);
    loop {
        tokio::select! {
            // Whatever went wrong, the connection is over.
            _ = connection.as_mut() => return,
            told = wire.change() => {
                if !told || wire.conditions().ending(0).is_some() {
                    return;
                }
                if wire.conditions().status.is_none() {
                    break;
                }
            }
        }
    }
    connection.as_mut().graceful_shutdown();
    // A client that does not go away by itself is left.
    tokio::time::timeout(ERRORS_LINGER, connection).await.ok();
}

/// The answer as bytes of HTTP/1.1, for a connection that ends with it.
pub(super) fn written(status: u16) -> Vec<u8> {
    let reason = code(status).canonical_reason().unwrap_or("Error");
    let length = BODY.len();
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    (head + BODY).into_bytes()
}

fn answer(status: u16) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from_static(BODY.as_bytes())));
    *answer.status_mut() = code(status);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}

fn code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
}
