//! Makes one connection: an address, TCP, TLS where the URL wants it, all within one time.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::Uri;
use http::uri::{Authority, Scheme};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tower::Service;

use crate::socket::{self, Patience};

/// A server: what its URL says, and the address where discovery found it.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// `http` or `https`.
    pub(crate) scheme: Scheme,
    /// Host and perhaps port, as in the URL: what the server takes itself for, and the only one that gets its key.
    pub(crate) authority: Authority,
    /// Path below which the API's `/v1` lies; empty or beginning with a slash.
    pub(crate) base: Arc<str>,
    /// Where it is; `None` leaves it to a look-up at each connection.
    pub(crate) address: Option<SocketAddr>,
    /// How to speak TLS with it.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    /// Whether it speaks HTTP/2: by prior knowledge, or by ALPN on TLS.
    pub(crate) http2: bool,
}

impl Target {
    /// The server at `url`; `None` where it is none.
    pub(crate) fn parse(url: &str, tls: Option<Arc<ClientConfig>>, http2: bool) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        Some(Self {
            scheme: uri.scheme().cloned()?,
            authority: uri.authority().cloned()?,
            base: uri.path().trim_end_matches('/').into(),
            address: None,
            tls,
            http2,
        })
    }

    /// The port of the URL.
    pub(crate) fn port(&self) -> u16 {
        let default = if self.scheme == Scheme::HTTPS {
            443
        } else {
            80
        };
        self.authority.port_u16().unwrap_or(default)
    }

    /// The absolute URI of `path`, which begins with a slash.
    pub(crate) fn uri(&self, path: &str) -> Option<Uri> {
        let path = format!("{}{path}", self.base);
        let builder = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone());
        builder.path_and_query(path).build().ok()
    }

    /// Host of the URL without brackets.
    pub(crate) fn host(&self) -> &str {
        let host = self.authority.host();
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// What its requests name as their host: the port only where it is not the scheme's own.
    pub(super) fn host_and_port(&self) -> String {
        let host = self.authority.host();
        let own = [(Scheme::HTTP, 80), (Scheme::HTTPS, 443)]
            .contains(&(self.scheme.clone(), self.port()));
        match own {
            true => host.to_owned(),
            false => format!("{host}:{}", self.port()),
        }
    }

    /// A connection to it, on which it may be silent as `patience` says; how long that may take is the caller's to bound.
    pub(crate) async fn connect(self, patience: Patience) -> io::Result<Wire> {
        let tcp = match self.address {
            Some(address) => TcpStream::connect(address).await?,
            None => TcpStream::connect((self.host(), self.port())).await?,
        };
        socket::prepare(&tcp, patience);
        let Some(tls) = &self.tls else {
            return Ok(Wire(Either::Left(tcp)));
        };
        let name = ServerName::try_from(self.host().to_owned()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::clone(tls))
            .connect(name, tcp)
            .await?;
        Ok(Wire(Either::Right(Box::new(stream))))
    }
}

/// Connects to one target, whatever URI is asked for: a redirect or a wrong URI cannot send a key elsewhere.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    target: Target,
    time: Duration,
}

impl Connector {
    pub(super) const fn new(target: Target, time: Duration) -> Self {
        Self { target, time }
    }

    /// A connection, in time or not at all.
    pub(super) async fn connect(&self) -> io::Result<Wire> {
        // Servers of ours alone are spoken to by HTTP/2.
        let patience = match self.target.http2 {
            true => Patience::OURS,
            false => Patience::OTHERS,
        };
        match timeout(self.time, self.target.clone().connect(patience)).await {
            Ok(connected) => connected,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "no connection in time",
            )),
        }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Wire>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<Wire>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect().await.map(TokioIo::new) })
    }
}

/// A connection, plain or in TLS.
#[derive(Debug)]
pub(crate) struct Wire(Either<TcpStream, Box<TlsStream<TcpStream>>>);

impl Connection for Wire {
    fn connected(&self) -> Connected {
        let h2 = match &self.0 {
            Either::Left(_) => false,
            Either::Right(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        };
        match h2 {
            true => Connected::new().negotiated_h2(),
            false => Connected::new(),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn asked_for(http2: bool) -> io::Result<Patience> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let target = Target::parse(&url, None, http2).ok_or(io::ErrorKind::InvalidInput)?;
        let connector = Connector::new(target, Duration::from_secs(5));
        match connector.connect().await?.0 {
            Either::Left(tcp) => socket::asked_for(&tcp),
            Either::Right(_) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    #[tokio::test]
    async fn a_machine_that_is_gone_breaks_its_connections() -> io::Result<()> {
        assert_eq!(asked_for(true).await?, Patience::OURS);
        assert_eq!(asked_for(false).await?, Patience::OTHERS);
        Ok(())
    }
}
