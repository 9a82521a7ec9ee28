//! What goes wrong around a body: its size, its type, its path.

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use http::{Request, StatusCode};

use super::super::error::ApiError;
use super::{CHAT, Server, error, hello, post, with};

#[tokio::test]
async fn a_body_over_the_limit_is_refused_declared_or_not() {
    let server = Server::saying(hello());
    let limit = 4 << 20;
    let declared = server.post(CHAT, vec![b' '; limit + 1]).await;
    assert_eq!(error(declared).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    let pieces = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 1 << 16])));
    let endless = server.post(CHAT, Body::from_stream(pieces)).await;
    assert_eq!(error(endless).await.0, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_told_as_such() {
    let server = Server::saying(hello());
    let pieces = || stream::once(async { Err::<Bytes, _>(std::io::Error::other("secret")) });
    let (status, code, _) = error(server.post(CHAT, Body::from_stream(pieces())).await).await;
    assert_eq!((status.as_u16(), &*code), (400, "body_unreadable"));
    let late = stream::once(async { Err::<Bytes, _>(ApiError::request_timeout()) });
    let (status, ..) = error(server.post(CHAT, Body::from_stream(late)).await).await;
    assert_eq!(status, StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test]
async fn a_body_must_be_declared_as_plain_json() {
    let server = Server::saying(hello());
    let send = async |name: &str, value: &str| {
        let request = Request::post(CHAT)
            .header(name, value)
            .body(Body::from(with("\"n\":1")));
        server.send(request.unwrap()).await
    };
    for accepted in [
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/x+json",
    ] {
        assert_eq!(
            send("content-type", accepted).await.status(),
            StatusCode::OK,
            "{accepted}"
        );
    }
    for refused in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "",
    ] {
        let (status, code, _) = error(send("content-type", refused).await).await;
        assert_eq!(
            (status.as_u16(), &*code),
            (415, "unsupported_media_type"),
            "{refused}"
        );
    }
    let mut request = post(CHAT, with("\"n\":1"));
    request
        .headers_mut()
        .insert("content-encoding", "gzip".parse().unwrap());
    let (status, code, _) = error(server.send(request).await).await;
    assert_eq!((status.as_u16(), &*code), (415, "unsupported_encoding"));
}

#[tokio::test]
async fn a_circle_of_servers_is_cut() {
    let server = Server::saying(hello());
    for hops in ["4", "300", "-1", "x"] {
        let mut request = post(CHAT, with("\"n\":1"));
        request
            .headers_mut()
            .insert("x-hansa-hops", hops.parse().unwrap());
        let (status, code, _) = error(server.send(request).await).await;
        assert_eq!((status.as_u16(), &*code), (508, "too_many_hops"), "{hops}");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_get_an_error_object() {
    let server = Server::saying(hello());
    for path in [
        "/",
        "/v1",
        "/v1/chat",
        "/v1/chat/completions/x",
        "/v2/models",
    ] {
        let (status, code, _) = error(server.post(path, "{}").await).await;
        assert_eq!((status.as_u16(), &*code), (404, "unknown_url"), "{path}");
    }
    let request = Request::get("/v1/models/%ff").body(Body::empty()).unwrap();
    let (status, code, _) = error(server.send(request).await).await;
    assert_eq!((status.as_u16(), &*code), (404, "model_not_found"));
    let request = Request::get(CHAT).body(Body::empty()).unwrap();
    let response = server.send(request).await;
    assert_eq!(response.headers()["allow"], "POST");
    let (status, code, _) = error(response).await;
    assert_eq!((status.as_u16(), &*code), (405, "method_not_allowed"));
}
