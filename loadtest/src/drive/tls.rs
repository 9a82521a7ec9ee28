//! TLS of the client: whom it trusts, and the bytes of a connection that is plain or secured. Knows no HTTP.

use std::io::{self, IoSlice};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How a server is spoken to in TLS. Clones share it.
#[derive(Debug, Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    /// The name that its certificate must have.
    name: ServerName<'static>,
}

/// Why TLS cannot be spoken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// No certificate can be for this host.
    #[error("{0:?} is neither a host name nor an IP address")]
    Name(String),
    /// A file with no certificates of authorities.
    #[error("{0}: {1}; name a PEM file with the certificates of those to be trusted")]
    Authorities(String, String),
    /// The library has no protocol to offer.
    #[error("{0}")]
    Library(String),
}

impl Tls {
    /// TLS with `host`, whose certificate one of the public authorities must have signed.
    ///
    /// # Errors
    /// The host can have no certificate.
    pub fn with(host: &str) -> Result<Self, TlsError> {
        let name = ServerName::try_from(host.to_owned());
        let roots = webpki_roots::TLS_SERVER_ROOTS.iter().cloned();
        Ok(Self {
            config: config(roots.collect())?,
            name: name.map_err(|_| TlsError::Name(host.to_owned()))?,
        })
    }

    /// The same, but only the authorities of a PEM file are trusted.
    ///
    /// # Errors
    /// The file cannot be read or holds none.
    pub fn trusting(self, file: &Path) -> Result<Self, TlsError> {
        let unfit = |what: String| TlsError::Authorities(file.display().to_string(), what);
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_file_iter(file);
        for certificate in certificates.map_err(|error| unfit(error.to_string()))? {
            let certificate = certificate.map_err(|error| unfit(error.to_string()))?;
            let added = roots.add(certificate);
            added.map_err(|error| unfit(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(unfit("holds no certificate".to_owned()));
        }
        Ok(Self {
            config: config(roots)?,
            ..self
        })
    }

    /// Shakes hands over a connection.
    ///
    /// # Errors
    /// What rustls or the connection says.
    pub async fn shake_hands(&self, stream: TcpStream) -> io::Result<Wire> {
        let connector = TlsConnector::from(self.config.clone());
        let stream = connector.connect(self.name.clone(), stream).await?;
        Ok(Wire::Secured(Box::new(stream)))
    }
}

fn config(roots: RootCertStore) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Library(error.to_string()))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A connection stands for a user: none of them remembers what another one agreed upon.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The bytes of a connection.
#[derive(Debug)]
pub enum Wire {
    /// As they are.
    Plain(TcpStream),
    /// In TLS.
    Secured(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Secured(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Secured(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Self::Secured(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Secured(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Secured(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Secured(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
