//! A connection whose roles are reversed: asked for by who calls, agreed to by who is called.
//!
//! Who asks speaks HTTP/1.1 up to the `101`; what the connection carries from there is the next one's affair.

use std::io;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use hansa_config::schema::{Kind, Peer, Upstream};
use hansa_config::secret::SecretError;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::upgrade::{self, OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::{PATH, Who};
use crate::federation::headers;
use crate::limits;
use crate::openai::error::ApiError;
use crate::socket::Patience;
use crate::tls::{self, TlsError};
use crate::upstream::link::{Target, innermost};

/// A connection that was turned.
pub(crate) type Turned = TokioIo<Upgraded>;

/// What the connection speaks after the upgrade.
const PROTOCOL: HeaderValue = HeaderValue::from_static("hansa-agent");

/// Calls one server.
#[derive(Debug, Clone)]
pub struct Dialler {
    target: Target,
    secret: Option<HeaderValue>,
}

/// Why nobody can be called.
#[derive(Debug, thiserror::Error)]
pub enum DiallerError {
    /// The secret of peers is missing.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A certificate is missing or wrong.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The URL is none.
    #[error("'{0}' is no URL of a server; write http:// or https://, a host and perhaps a port")]
    Url(String),
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// The other side broke the protocol, or the connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The other side does not want it.
    #[error(
        "it answered {0}; 401 and 403 mean another [peer] secret or certificate, 404 that it has no [[node]] of this name \
         with discover = \"agent\""
    )]
    Refused(StatusCode),
    /// All of it took too long.
    #[error("no connection in time")]
    Late,
}

impl Dialler {
    /// Calls the server at `url` as a peer.
    ///
    /// # Errors
    /// [`DiallerError`] names what is missing.
    pub fn new(url: &str, peer: &Peer) -> Result<Self, DiallerError> {
        let upstream = Upstream {
            url: url.to_owned(),
            kind: Kind::Hansa,
            ..Upstream::default()
        };
        let tls = tls::connector(&upstream, peer)?;
        // Only HTTP/1.1 turns a whole connection around.
        let tls = tls.map(|config| {
            let mut config = rustls::ClientConfig::clone(&config);
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            config.into()
        });
        let target = Target::parse(url, tls, false);
        let secret = peer.secret_file.as_ref();
        let secret = secret.map(|source| source.read()).transpose()?;
        let secret = secret.and_then(|secret| {
            let mut value = HeaderValue::from_str(secret.expose()).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        Ok(Self {
            target: target.ok_or_else(|| DiallerError::Url(url.to_owned()))?,
            secret,
        })
    }

    /// Whether the other side proves who it is by a certificate that the authority of peers signed.
    #[must_use]
    pub fn knows_whom_it_calls(&self, peer: &Peer) -> bool {
        self.target.tls.is_some() && peer.ca.is_some()
    }

    /// Calls as `who`.
    ///
    /// # Errors
    /// [`DialError`].
    pub(crate) async fn dial(&self, who: &Who) -> Result<Turned, DialError> {
        let dialled = timeout(limits::DIAL_TIME, self.call(who)).await;
        dialled.unwrap_or(Err(DialError::Late))
    }

    async fn call(&self, who: &Who) -> Result<Turned, DialError> {
        // Once it is turned, both sides ask on it whether the other is there, and what they ask must be acknowledged.
        let wire = self.target.clone().connect(Patience::OURS).await;
        let wire = TokioIo::new(wire.map_err(DialError::Connect)?);
        let (mut sender, connection) = http1::handshake(wire).await?;
        let request = self.request(who)?;
        let exchange = async move {
            let answer = sender.send_request(request).await?;
            match answer.status() {
                StatusCode::SWITCHING_PROTOCOLS => Ok(upgrade::on(answer).await?),
                status => Err(DialError::Refused(status)),
            }
        };
        // The connection ends when it is turned, or when the exchange has let go of it.
        let (turned, _) = futures::join!(exchange, connection.with_upgrades());
        turned.map(TokioIo::new)
    }

    fn request(&self, who: &Who) -> Result<Request<Empty<Bytes>>, DialError> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::GET;
        let path = format!("{}{PATH}", self.target.base);
        let uri = path.parse();
        *request.uri_mut() = uri.map_err(|_| DialError::Broken("the path is none".to_owned()))?;
        let host = HeaderValue::from_str(self.target.authority.as_str());
        let to = request.headers_mut();
        to.insert(HOST, host.unwrap_or(HeaderValue::from_static("localhost")));
        to.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        to.insert(UPGRADE, PROTOCOL);
        who.write(to);
        if let Some(secret) = &self.secret {
            to.insert(headers::PEER, secret.clone());
        }
        Ok(request)
    }
}

impl From<hyper::Error> for DialError {
    fn from(error: hyper::Error) -> Self {
        Self::Broken(innermost(&error))
    }
}

/// Agrees to turn the connection of `request` around: the answer, and what then resolves to the connection.
///
/// # Errors
/// A request that asks for no such thing, or came over HTTP/2, where a connection is not its own.
pub(crate) fn agree(
    request: &mut axum::extract::Request,
) -> Result<(Response, OnUpgrade), ApiError> {
    let asked = request.headers().get(UPGRADE) == Some(&PROTOCOL);
    let turning = request.extensions_mut().remove::<OnUpgrade>();
    let turning = turning
        .filter(|_| asked)
        .ok_or_else(ApiError::peer_header)?;
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, PROTOCOL);
    Ok((answer, turning))
}

/// The connection of `turning`, once the answer has left.
pub(crate) async fn turned(turning: OnUpgrade) -> Option<Turned> {
    let turned = timeout(limits::DIAL_TIME, turning);
    turned.await.ok()?.ok().map(TokioIo::new)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// What a call comes to at a server that answers so, and keeps the connection.
    async fn called(answer: &'static str) -> Result<(), DialError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let dialler = Dialler::new(&url, &Peer::default()).unwrap();
        let who = Who {
            node: "gpu".into(),
            instance: "i".into(),
            job: None,
        };
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let read = stream.read(&mut head).await.unwrap();
            let head = std::str::from_utf8(&head[..read]).unwrap();
            assert!(
                head.starts_with("GET /hansa/v1/agent HTTP/1.1\r\n"),
                "{head}"
            );
            assert!(head.contains("upgrade: hansa-agent\r\n"), "{head}");
            stream.write_all(answer.as_bytes()).await.unwrap();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            dialled = dialler.dial(&who) => dialled.map(|_| ()),
            () = serve => Ok(()),
        }
    }

    #[tokio::test]
    async fn a_call_is_turned_or_refused_by_name() {
        let turned = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: hansa-agent\r\n\r\n";
        assert!(called(turned).await.is_ok());
        let refused = called("HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nhello").await;
        let Err(DialError::Refused(status)) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(status, 404);
        let nonsense = called("220 mail.example ESMTP\r\n").await;
        assert!(
            matches!(nonsense, Err(DialError::Broken(_))),
            "{nonsense:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_late() {
        let silent = called("").await;
        assert!(matches!(silent, Err(DialError::Late)), "{silent:?}");
    }
}
