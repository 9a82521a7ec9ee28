//! TLS of the listener and of calls to other servers, made from the config's PEM files once at start.
//!
//! The cryptography is ring's: it builds with a C compiler alone and is among the dependencies already, where aws-lc
//! would need CMake and minutes.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hansa_config::schema::{Kind, Peer, Server, Upstream};
use rustls::client::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls::{ConfigBuilder, ConfigSide, RootCertStore, WantsVerifier, WantsVersions};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Protocols that the listener speaks, the better one first.
const OFFERED: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// TLS of a listener.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

impl Acceptor {
    /// Shakes hands over `io`; whether the caller showed a certificate, which then is a good one.
    ///
    /// # Errors
    /// What rustls or the connection says.
    pub async fn accept<Io>(&self, io: Io) -> io::Result<(TlsStream<Io>, bool)>
    where
        Io: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = self.0.accept(io).await?;
        let certified = stream.get_ref().1.peer_certificates().is_some();
        Ok((stream, certified))
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing or holds nothing of use.
    #[error("{}: {problem}; name a PEM file with {wanted}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What it should hold.
        wanted: &'static str,
    },
    /// The files do not fit together.
    #[error("{}: {error}", path.display())]
    Unfit {
        /// The file that was used last.
        path: PathBuf,
        /// What rustls says.
        error: rustls::Error,
    },
    /// The certificates cannot verify anyone.
    #[error("{}: {error}", path.display())]
    Verifier {
        /// The file with the certificates.
        path: PathBuf,
        /// What rustls says.
        error: io::Error,
    },
}

/// TLS of the listener; `None` where the config names no certificate. With `peer.ca`, callers may show a certificate,
/// and one that this authority did not sign is refused.
///
/// # Errors
/// [`TlsError`] names the file.
pub fn acceptor(server: &Server, peer: &Peer) -> Result<Option<Acceptor>, TlsError> {
    let (Some(cert), Some(key)) = (&server.tls_cert, &server.tls_key) else {
        return Ok(None);
    };
    let builder = versions(ServerConfig::builder_with_provider(provider()), cert)?;
    let builder = match &peer.ca {
        Some(ca) => {
            let roots = Arc::new(roots(ca)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                .allow_unauthenticated()
                .build();
            builder.with_client_cert_verifier(verifier.map_err(|error| TlsError::Verifier {
                path: ca.clone(),
                error: io::Error::other(error),
            })?)
        }
        None => builder.with_no_client_auth(),
    };
    let config = builder.with_single_cert(certificates(cert)?, private_key(key)?);
    let mut config = config.map_err(unfit(key))?;
    config.alpn_protocols = OFFERED.map(<[u8]>::to_vec).to_vec();
    Ok(Some(Acceptor(TlsAcceptor::from(Arc::new(config)))))
}

/// TLS of calls to `upstream`; `None` where its URL wants none. Servers of ours are shown `peer.cert`, and nobody else is.
///
/// # Errors
/// [`TlsError`] names the file.
pub fn connector(upstream: &Upstream, peer: &Peer) -> Result<Option<Arc<ClientConfig>>, TlsError> {
    if !upstream.url.starts_with("https://") {
        return Ok(None);
    }
    let ours = upstream.kind == Kind::Hansa;
    let ca = upstream
        .ca_file
        .as_ref()
        .or(peer.ca.as_ref().filter(|_| ours));
    let path = ca.map_or_else(|| Path::new("the public authorities"), PathBuf::as_path);
    let builder = versions(ClientConfig::builder_with_provider(provider()), path)?;
    let builder = builder.with_root_certificates(trusted(ca)?);
    let mut config = match (&peer.cert, &peer.key) {
        (Some(cert), Some(key)) if ours => builder
            .with_client_auth_cert(certificates(cert)?, private_key(key)?)
            .map_err(unfit(key))?,
        _ => builder.with_no_client_auth(),
    };
    let [h2, http1] = OFFERED.map(<[u8]>::to_vec);
    config.alpn_protocols = vec![if ours { h2 } else { http1 }];
    Ok(Some(Arc::new(config)))
}

/// TLS of calls over HTTP/1.1 to whoever has a certificate that `ca` signed, or a public authority where there is none.
///
/// # Errors
/// [`TlsError`] names the file.
pub fn trusting(ca: Option<&PathBuf>) -> Result<Arc<ClientConfig>, TlsError> {
    let path = ca.map_or_else(|| Path::new("the public authorities"), PathBuf::as_path);
    let builder = versions(ClientConfig::builder_with_provider(provider()), path)?;
    let builder = builder.with_root_certificates(trusted(ca)?);
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![OFFERED[1].to_vec()];
    Ok(Arc::new(config))
}

/// The authorities of `ca`, or the public ones.
fn trusted(ca: Option<&PathBuf>) -> Result<RootCertStore, TlsError> {
    match ca {
        Some(ca) => roots(ca),
        None => Ok(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn versions<S: ConfigSide>(
    builder: ConfigBuilder<S, WantsVersions>,
    path: &Path,
) -> Result<ConfigBuilder<S, WantsVerifier>, TlsError> {
    let builder = builder.with_safe_default_protocol_versions();
    builder.map_err(unfit(path))
}

fn unfit(path: &Path) -> impl FnOnce(rustls::Error) -> TlsError {
    let path = path.to_owned();
    move |error| TlsError::Unfit { path, error }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    const WANTED: &str = "certificates";
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| unusable(path, error.to_string(), WANTED))?;
    match found.is_empty() {
        true => Err(unusable(path, "holds none".to_owned(), WANTED)),
        false => Ok(found),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let read = PrivateKeyDer::from_pem_file(path);
    read.map_err(|error| unusable(path, error.to_string(), "a private key"))
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(unfit(path))?;
    }
    Ok(store)
}

fn unusable(path: &Path, problem: String, wanted: &'static str) -> TlsError {
    TlsError::File {
        path: path.to_owned(),
        problem,
        wanted,
    }
}
