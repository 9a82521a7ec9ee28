//! Kept HTTP/1.1 connections to one server, each driven by whoever uses it.
//!
//! A pool that gives each connection a task of its own makes every piece of an answer a switch between that task and the
//! one that reads. Here the one that reads moves the connection on, so that all pieces that have come are taken at once,
//! and a request costs no switch at all. It must not know what a request or an answer means.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::coop::unconstrained;
use tokio::time::sleep;
use tower::Service as _;

use super::connect::{Connector, Wire};
use super::pieces::Pieces;
use super::{LinkError, LinkTasks, innermost};
use crate::limits;

/// The connections of one server that wait for a request. Each was used before; the last one that came back goes first.
#[derive(Debug)]
pub(super) struct Kept {
    connector: Connector,
    host: Option<HeaderValue>,
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    channel: Box<Channel>,
    /// An answer of which all that matters was read, and only its end may not have come.
    rest: Option<Incoming>,
    /// Whether it waited already when old ones were last taken out.
    old: bool,
}

/// One connection: the end that takes a request, and what moves its bytes for as long as it is polled.
#[derive(Debug)]
struct Channel {
    sender: SendRequest<Pieces>,
    connection: Connection<TokioIo<Wire>, Pieces>,
}

impl Kept {
    /// None yet; they are made by `connector` for requests to `host`. What waits too long is closed by a task in `tasks`.
    pub(super) fn new(connector: Connector, host: &str, tasks: &LinkTasks) -> Arc<Self> {
        let kept = Arc::new(Self {
            connector,
            host: HeaderValue::from_str(host).ok(),
            idle: Mutex::default(),
        });
        tasks.spawn(retire(Arc::downgrade(&kept)));
        kept
    }

    /// Sends `request`, whose URI is absolute, and waits for the head of the answer.
    pub(super) async fn request(
        self: &Arc<Self>,
        mut request: Request<Pieces>,
    ) -> Result<Response<Answer>, LinkError> {
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map_or_else(Uri::default, Uri::from);
        if let Some(host) = &self.host {
            request.headers_mut().insert(header::HOST, host.clone());
        }
        loop {
            let (mut channel, fresh) = match self.take() {
                Some(channel) => (channel, false),
                None => (self.connect().await?, true),
            };
            let Failed { error, unsent } = match channel.exchange(request).await {
                Ok(answer) => return Ok(answer.map(|body| self.answer(body, channel))),
                Err(failed) => *failed,
            };
            // The server may have closed it while it waited, and has seen nothing of the request.
            match unsent.filter(|_| !fresh) {
                Some(unsent) => request = unsent,
                None => return Err(LinkError::Broken(innermost(&error))),
            }
        }
    }

    fn answer(self: &Arc<Self>, body: Incoming, channel: Box<Channel>) -> Answer {
        Answer {
            body,
            channel: Some(channel),
            home: Arc::clone(self),
        }
    }

    async fn connect(&self) -> Result<Box<Channel>, LinkError> {
        let io = self.connector.clone().call(Uri::default()).await;
        let io = io.map_err(|error| LinkError::Connect(error.to_string()))?;
        let mut http = http1::Builder::new();
        http.max_buf_size(limits::H1_BUFFER_BYTES_MAX);
        let (sender, connection) = http
            .handshake(io)
            .await
            .map_err(|error| LinkError::Connect(innermost(&error)))?;
        Ok(Box::new(Channel { sender, connection }))
    }

    /// The last connection that came back and is still open.
    fn take(&self) -> Option<Box<Channel>> {
        loop {
            // In a statement of its own, so that the lock is not held while it is looked at.
            let last = self.idle().pop();
            let mut last = last?;
            if last.is_ready() {
                return Some(last.channel);
            }
        }
    }

    /// Keeps a connection for the next request. One that is of no use any more is found out then.
    fn give_back(&self, channel: Box<Channel>, rest: Option<Incoming>) {
        let mut idle = self.idle();
        if idle.len() < limits::LINK_HTTP1_IDLE_MAX {
            idle.push(Idle {
                channel,
                rest,
                old: false,
            });
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes what has waited for half of [`limits::LINK_IDLE`] to all of it, again and again.
async fn retire(kept: Weak<Kept>) {
    loop {
        sleep(limits::LINK_IDLE / 2).await;
        let Some(kept) = kept.upgrade() else {
            return;
        };
        let mut idle = kept.idle();
        idle.retain(|idle| !idle.old);
        idle.iter_mut().for_each(|idle| idle.old = true);
    }
}

impl Channel {
    /// Sends a request and waits for the head of its answer.
    async fn exchange(
        &mut self,
        request: Request<Pieces>,
    ) -> Result<Response<Incoming>, Box<Failed>> {
        let Self { sender, connection } = self;
        let mut answer = pin!(unconstrained(sender.try_send_request(request)));
        let exchanged = std::future::poll_fn(|cx| {
            let over = Pin::new(&mut *connection).poll(cx).is_ready();
            // The connection alone brings it, and is polled here: there is nobody else whom it would have to wake. However
            // the connection ends, the answer or its error is there afterwards.
            let mut nobody = Context::from_waker(Waker::noop());
            match answer.as_mut().poll(&mut nobody) {
                Poll::Pending if over => answer.as_mut().poll(cx),
                polled => polled,
            }
        });
        exchanged.await.map_err(|mut failed| {
            let unsent = failed.take_message();
            let error = failed.into_error();
            Box::new(Failed { error, unsent })
        })
    }
}

/// Why there is no answer, and the request where nothing of it was sent.
struct Failed {
    error: hyper::Error,
    unsent: Option<Request<Pieces>>,
}

impl Idle {
    /// Whether it is open and waits for a request. Nobody is woken for it before it has one.
    fn is_ready(&mut self) -> bool {
        let mut nobody = Context::from_waker(Waker::noop());
        let Channel { sender, connection } = &mut *self.channel;
        let moved = std::future::poll_fn(|cx| Pin::new(&mut *connection).poll(cx));
        let open = pin!(unconstrained(moved)).poll(&mut nobody).is_pending();
        let read = self.rest.as_mut().is_none_or(|rest| {
            let end = Pin::new(rest).poll_frame(&mut nobody);
            matches!(end, Poll::Ready(None))
        });
        open && read && sender.is_ready()
    }
}

/// The body of an answer with its connection, which goes back when all of it was read. Dropping it before that closes
/// the connection, which cancels what the server does for it.
#[derive(Debug)]
pub(super) struct Answer {
    body: Incoming,
    channel: Option<Box<Channel>>,
    home: Arc<Kept>,
}

impl Answer {
    /// All that matters was read.
    pub(super) fn finish(self) {
        if let Some(channel) = self.channel {
            self.home.give_back(channel, Some(self.body));
        }
    }

    /// The next bytes; `None` at the end.
    pub(super) fn poll_bytes(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, LinkError>> {
        let mut nobody = Context::from_waker(Waker::noop());
        let mut moved = false;
        loop {
            match Pin::new(&mut self.body).poll_frame(&mut nobody) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers say nothing that an answer needs.
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Ok(Some(data)));
                    }
                    continue;
                }
                Poll::Ready(Some(Err(error))) => {
                    self.channel = None;
                    return Poll::Ready(Err(LinkError::Broken(innermost(&error))));
                }
                Poll::Ready(None) => {
                    if let Some(channel) = self.channel.take() {
                        self.home.give_back(channel, None);
                    }
                    return Poll::Ready(Ok(None));
                }
                Poll::Pending if moved => return Poll::Pending,
                Poll::Pending => {}
            }
            // Only its connection fills the body.
            match &mut self.channel {
                Some(channel) => {
                    if Pin::new(&mut channel.connection).poll(cx).is_ready() {
                        self.channel = None;
                    }
                    moved = self.channel.is_some();
                }
                None => {
                    let gone = "the connection ended before the answer".to_owned();
                    return Poll::Ready(Err(LinkError::Broken(gone)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
