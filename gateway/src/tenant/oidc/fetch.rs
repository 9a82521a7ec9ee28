//! Asks an issuer for its keys: first its discovery document, then the key set that this names.
//!
//! An issuer is trusted to say who people are, and with nothing else: its answers are small, whole and in time, or they
//! are no answers. Redirects are not followed.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use hansa_config::schema::issuer::Issuer;
use http::uri::Scheme;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::IssuerError;
use super::key_set::{KeySet, NoKeySet};
use crate::limits::{ISSUER_DOCUMENT_BYTES_MAX, ISSUER_TIME_MAX};
use crate::tls;

/// How one issuer is asked.
pub(super) struct Fetcher {
    /// As tokens name it, without a slash at its end.
    url: String,
    discovery: Uri,
    tls: Arc<ClientConfig>,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("no connection: {0}")]
    Connect(#[from] io::Error),
    #[error("the exchange failed: {0}")]
    Http(#[from] hyper::Error),
    #[error("{0} answers with status {1}")]
    Status(String, u16),
    #[error("{0} answers with more than {ISSUER_DOCUMENT_BYTES_MAX} bytes, or breaks off")]
    Body(String),
    #[error("its discovery document is none, or names another issuer than issuer.url")]
    Discovery,
    #[error("its jwks_uri is no URL that may be asked")]
    KeysUri,
    #[error("its key set cannot be used: {0}")]
    Keys(#[from] NoKeySet),
    #[error("it takes too long")]
    Slow,
}

/// What is read of a discovery document.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Fetcher {
    pub(super) fn new(issuer: &Issuer) -> Result<Self, IssuerError> {
        let url = issuer.url.trim_end_matches('/').to_owned();
        let discovery = format!("{url}/.well-known/openid-configuration").parse();
        let (id, ca) = (issuer.id.clone(), issuer.ca_file.as_deref());
        let Ok(discovery) = discovery else {
            return Err(IssuerError::Url { id, url });
        };
        let tls = tls::trusting(ca.map(Path::to_owned).as_ref());
        let tls = tls.map_err(|error| IssuerError::Tls { id, error })?;
        Ok(Self {
            url,
            discovery,
            tls,
        })
    }

    /// The keys that the issuer publishes now.
    pub(super) async fn keys(&self) -> Result<KeySet, FetchError> {
        let asked = timeout(ISSUER_TIME_MAX, self.ask()).await;
        asked.map_err(|_late| FetchError::Slow)?
    }

    async fn ask(&self) -> Result<KeySet, FetchError> {
        let document = self.get(&self.discovery).await?;
        let document: Discovery =
            serde_json::from_slice(&document).map_err(|_| FetchError::Discovery)?;
        if document.issuer.trim_end_matches('/') != self.url {
            return Err(FetchError::Discovery);
        }
        let uri: Uri = document.jwks_uri.parse().map_err(|_| FetchError::KeysUri)?;
        // Never less safe than the issuer's own URL.
        let safe = uri.scheme() == Some(&Scheme::HTTPS)
            || (uri.scheme() == self.discovery.scheme() && uri.host() == self.discovery.host());
        if !safe {
            return Err(FetchError::KeysUri);
        }
        Ok(KeySet::parse(&self.get(&uri).await?)?)
    }

    async fn get(&self, uri: &Uri) -> Result<Bytes, FetchError> {
        let host = uri.host().ok_or(FetchError::KeysUri)?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let secure = uri.scheme() == Some(&Scheme::HTTPS);
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tcp = TcpStream::connect((bare, port)).await?;
        if !secure {
            return exchange(tcp, uri).await;
        }
        let name = ServerName::try_from(bare.to_owned()).map_err(io::Error::other)?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        exchange(connector.connect(name, tcp).await?, uri).await
    }
}

/// One request on one connection.
async fn exchange<Io>(io: Io, uri: &Uri) -> Result<Bytes, FetchError>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new());
    let request = request.map_err(|_| FetchError::KeysUri)?;
    let asked = async move {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            let status = response.status().as_u16();
            return Err(FetchError::Status(uri.to_string(), status));
        }
        let body = Limited::new(response.into_body(), ISSUER_DOCUMENT_BYTES_MAX);
        let read = body.collect().await;
        let read = read.map_err(|_| FetchError::Body(uri.to_string()))?;
        Ok(read.to_bytes())
    };
    tokio::pin!(asked);
    // The connection works only while it is asked to.
    tokio::select! {
        answer = &mut asked => answer,
        ended = connection => {
            ended?;
            asked.await
        }
    }
}
