//! Serves only requests that are addressed to this machine by a name of its own.
//!
//! Without keys the loopback address is the only protection, and a web page can get around it: its own name is made to
//! resolve to 127.0.0.1, and the browser then takes our answers for the page's own (DNS rebinding). What it cannot do is
//! send another `Host`.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::uri::Authority;
use http::{HeaderValue, Version, header};

use crate::layers::peer::{ForPeersAlone, Peer};
use crate::openai::error::ApiError;

/// [`admit`] as a layer.
pub async fn check(request: Request, next: Next) -> Response {
    match admit(&request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Admits a request that names this machine, in `Host` or, on HTTP/2, in `:authority`; and one to a server for peers, which
/// no web page can be.
pub(crate) fn admit(request: &Request) -> Result<(), ApiError> {
    let extensions = request.extensions();
    if extensions.get::<Peer>().is_some() || extensions.get::<ForPeersAlone>().is_some() {
        return Ok(());
    }
    judge(request)
}

fn judge<B>(request: &http::Request<B>) -> Result<(), ApiError> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    let target = request.uri().authority();
    // HTTP/1.0 had no such header; no browser speaks it.
    let may_lack = request.version() < Version::HTTP_11;
    if another.is_some() || (host.is_none() && target.is_none() && !may_lack) {
        return Err(ApiError::invalid_host());
    }
    if host.is_none_or(is_header_ours) && target.is_none_or(is_ours) {
        Ok(())
    } else {
        Err(ApiError::foreign_host())
    }
}

fn is_header_ours(host: &HeaderValue) -> bool {
    Authority::try_from(host.as_bytes()).is_ok_and(|host| is_ours(&host))
}

/// Whether a name, with or without a port, can only mean this machine.
fn is_ours(authority: &Authority) -> bool {
    let host = authority.host();
    if authority.as_str().contains('@') {
        return false;
    }
    if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']').unwrap_or_default().parse();
        return address.is_ok_and(|address: Ipv6Addr| address.is_loopback());
    }
    let address = host.parse();
    host.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address: Ipv4Addr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(request: http::request::Builder) -> u16 {
        match judge(&request.body(()).unwrap()) {
            Ok(()) => 200,
            Err(refusal) => refusal.status().as_u16(),
        }
    }

    #[test]
    fn only_names_of_this_machine_pass() {
        for (host, expected) in [
            ("localhost", 200),
            ("LocalHost:8080", 200),
            ("127.0.0.1:8080", 200),
            ("127.8.9.1", 200),
            ("[::1]:8080", 200),
            ("[::1]", 200),
            ("evil.example:8080", 403),
            ("localhost.evil.example", 403),
            ("127.0.0.1.evil.example", 403),
            ("localhost@evil.example", 403),
            ("evil.example@localhost", 403),
            ("[::2]", 403),
            ("0.0.0.0:8080", 403),
            ("10.0.0.1", 403),
            ("", 403),
            ("a b", 403),
        ] {
            let request = http::Request::get("/").header("host", host);
            assert_eq!(status(request), expected, "{host:?}");
        }
    }

    #[test]
    fn the_target_counts_as_the_header_does() {
        let http2 = |uri: &str| http::Request::get(uri).version(Version::HTTP_2);
        assert_eq!(status(http2("http://localhost:1/")), 200);
        assert_eq!(status(http2("http://evil.example/")), 403);
        assert_eq!(status(http2("/")), 400);
        let both = http2("http://localhost/").header("host", "evil.example");
        assert_eq!(status(both), 403);
    }

    #[test]
    fn a_request_names_its_host_once() {
        let get = || http::Request::get("/");
        assert_eq!(status(get()), 400);
        assert_eq!(status(get().version(Version::HTTP_10)), 200);
        let twice = get()
            .header("host", "localhost")
            .header("host", "localhost");
        assert_eq!(status(twice), 400);
    }
}
