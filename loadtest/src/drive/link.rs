//! One HTTP/1.1 connection, polled by the request that uses it: what the socket delivers is stamped by the same task
//! that read it, with no wake-up of another task in between. Knows no OpenAI.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::tls::{Tls, Wire};
use super::verdict::{Class, Failure};

/// A connection, idle or in the hands of one request.
#[derive(Debug)]
pub struct Link {
    sender: SendRequest<Full<Bytes>>,
    /// None once the connection is over.
    connection: Driven,
}

/// A connection until it is over.
type Driven = Option<Pin<Box<Connection<TokioIo<Wire>, Full<Bytes>>>>>;

/// Why a request got no response headers.
#[derive(Debug)]
pub enum SendError {
    /// The connection was over before a byte of the request was written.
    Unsent,
    /// The server closed it before a byte of its answer.
    Closed,
    /// The request may have reached the server.
    Lost(Failure),
}

impl Link {
    /// Opens a connection to the first address that accepts one, in TLS where it is given.
    ///
    /// # Errors
    /// Class `connect`, or `not_sent` where the client ran out of files or ports.
    pub async fn connect(addresses: &[SocketAddr], tls: Option<&Tls>) -> Result<Self, Failure> {
        let stream = TcpStream::connect(addresses)
            .await
            .map_err(|error| refusal(&error))?;
        // Without it the kernel may hold back a small request; where it cannot be set, the numbers show it.
        stream.set_nodelay(true).ok();
        let wire = match tls {
            None => Wire::Plain(stream),
            Some(tls) => {
                let shaken = tls.shake_hands(stream).await;
                shaken.map_err(|error| Class::Connect.because(format!("TLS: {error}")))?
            }
        };
        let (sender, connection) = http1::handshake(TokioIo::new(wire))
            .await
            .map_err(|_| Class::Connect.because("lost at once"))?;
        Ok(Self {
            sender,
            connection: Some(Box::pin(connection)),
        })
    }

    /// Whether the server has kept this idle connection open, as far as the runtime has heard.
    pub fn is_open(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        poll_once(&mut self.connection, &mut context);
        self.connection.is_some() && !self.sender.is_closed()
    }

    /// Sends a request and waits for the response headers.
    ///
    /// # Errors
    /// The connection ended before they came.
    pub async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, SendError> {
        let Self { sender, connection } = self;
        if alongside(connection, sender.ready()).await.is_err() {
            return Err(SendError::Unsent);
        }
        let answer = alongside(connection, sender.try_send_request(request)).await;
        answer.map_err(|mut error| match error.take_message() {
            Some(_) => SendError::Unsent,
            None if error.error().is_incomplete_message() => SendError::Closed,
            None => SendError::Lost(loss(error.error())),
        })
    }

    /// The next piece of a body that this connection brings; None at its proper end.
    pub async fn next_frame(
        &mut self,
        body: &mut Incoming,
    ) -> Option<Result<Frame<Bytes>, hyper::Error>> {
        alongside(&mut self.connection, body.frame()).await
    }
}

/// Polls the connection and `future` together until the latter is ready.
async fn alongside<F: Future>(connection: &mut Driven, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|context| {
        poll_once(connection, context);
        future.as_mut().poll(context)
    })
    .await
}

/// The error of a connection that ends is dropped here: the request that uses it gets one of its own.
fn poll_once(connection: &mut Driven, context: &mut Context<'_>) {
    if let Some(running) = connection
        && let Poll::Ready(_) = running.as_mut().poll(context)
    {
        *connection = None;
    }
}

fn refusal(error: &std::io::Error) -> Failure {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => Class::NotSent.because("client out of open files"),
        Some(libc::EADDRNOTAVAIL) => Class::NotSent.because("client out of local ports"),
        _ => Class::Connect.because(error.kind().to_string()),
    }
}

fn loss(error: &hyper::Error) -> Failure {
    Class::NoAnswer.because(if error.is_parse() {
        "not an HTTP answer"
    } else {
        "connection lost"
    })
}
