//! Kept HTTP/1.1 connections to one server, each driven by whoever uses it.
//!
//! A pool that gives each connection a task of its own makes every piece of an answer a switch between that task and the
//! one that reads. Here the one that reads moves the connection on, so that all pieces that have come are taken at once,
//! and a request costs no switch at all. It must not know what a request or an answer means.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes};
use http::{HeaderValue, Request, Response};
use tokio::task::coop::unconstrained;
use tokio::time::sleep;

use super::connect::Connector;
use super::http1::{self, Connection, Failed, Unread};
use super::pieces::Pieces;
use super::{LinkError, LinkTasks};
use crate::limits;

/// The connections of one server that wait for a request. Each was used before; the last one that came back goes first.
#[derive(Debug)]
pub(super) struct Kept {
    connector: Connector,
    host: HeaderValue,
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    /// An answer of which all that matters was read, and only its end may not have come.
    rest: Option<Unread>,
    /// Whether it waited already when old ones were last taken out.
    old: bool,
}

impl Kept {
    /// None yet; they are made by `connector` for requests to `host`. What waits too long is closed by a task in `tasks`.
    pub(super) fn new(connector: Connector, host: &str, tasks: &LinkTasks) -> Arc<Self> {
        let kept = Arc::new(Self {
            connector,
            // The authority of a URL is a header's value.
            host: HeaderValue::from_str(host).unwrap_or_else(|_| HeaderValue::from_static("")),
            idle: Mutex::default(),
        });
        tasks.spawn(retire(Arc::downgrade(&kept)));
        kept
    }

    /// Sends `request` and waits for the head of the answer.
    pub(super) async fn request(
        self: &Arc<Self>,
        request: Request<Pieces>,
    ) -> Result<Response<Answer>, LinkError> {
        let (parts, body) = request.into_parts();
        let length = body.remaining();
        let (method, uri) = (&parts.method, &parts.uri);
        let head = http1::request_head(method, uri, &self.host, &parts.headers, length);
        while let Some(mut kept) = self.take() {
            match kept.exchange(head.clone(), body.clone()).await {
                Ok(answer) => return Ok(answer.map(|body| self.answer(body, kept))),
                // The server may have closed it while it waited.
                Err(Failed { unsent: true, .. }) => {}
                Err(failed) => return Err(LinkError::Broken(failed.error.to_string())),
            }
        }
        let mut fresh = self.connect().await?;
        match fresh.exchange(head, body).await {
            Ok(answer) => Ok(answer.map(|body| self.answer(body, fresh))),
            Err(failed) => Err(LinkError::Broken(failed.error.to_string())),
        }
    }

    fn answer(self: &Arc<Self>, body: Unread, connection: Connection) -> Answer {
        Answer {
            body,
            connection: Some(connection),
            home: Arc::clone(self),
        }
    }

    async fn connect(&self) -> Result<Connection, LinkError> {
        let wire = self.connector.connect().await;
        let wire = wire.map_err(|error| LinkError::Connect(error.to_string()))?;
        Ok(Connection::new(wire))
    }

    /// The last connection that came back and is still open.
    fn take(&self) -> Option<Connection> {
        loop {
            // In a statement of its own, so that the lock is not held while it is looked at.
            let last = self.idle().pop();
            let mut last = last?;
            if last.is_ready() {
                return Some(last.connection);
            }
        }
    }

    /// Keeps a connection for the next request. One that is of no use any more is found out then.
    fn give_back(&self, connection: Connection, rest: Option<Unread>) {
        let mut idle = self.idle();
        if idle.len() < limits::LINK_HTTP1_IDLE_MAX {
            idle.push(Idle {
                connection,
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

impl Idle {
    /// Whether it is open and waits for a request. Nobody is woken for it before it has one.
    fn is_ready(&mut self) -> bool {
        let mut nobody = Context::from_waker(Waker::noop());
        if let Some(mut rest) = self.rest.take() {
            let connection = &mut self.connection;
            let mut end = pin!(unconstrained(poll_fn(
                |cx| connection.poll_body(cx, &mut rest)
            )));
            let ended = matches!(end.as_mut().poll(&mut nobody), Poll::Ready(Ok(None)));
            if !ended || !rest.leaves_connection() {
                return false;
            }
        }
        let connection = &mut self.connection;
        let mut quiet = pin!(unconstrained(poll_fn(|cx| match connection.is_quiet(cx) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })));
        quiet.as_mut().poll(&mut nobody).is_ready()
    }
}

/// The body of an answer with its connection, which goes back when all of it was read. Dropping it before that closes
/// the connection, which cancels what the server does for it.
#[derive(Debug)]
pub(super) struct Answer {
    body: Unread,
    connection: Option<Connection>,
    home: Arc<Kept>,
}

impl Answer {
    /// All that matters was read.
    pub(super) fn finish(self) {
        if let Some(connection) = self.connection {
            self.home.give_back(connection, Some(self.body));
        }
    }

    /// The next bytes; `None` at the end.
    pub(super) fn poll_bytes(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, LinkError>> {
        let Some(connection) = &mut self.connection else {
            return Poll::Ready(Ok(None));
        };
        match ready!(connection.poll_body(cx, &mut self.body)) {
            Ok(Some(bytes)) => Poll::Ready(Ok(Some(bytes))),
            Ok(None) => {
                let done = self.connection.take();
                if let Some(connection) = done.filter(|_| self.body.leaves_connection()) {
                    self.home.give_back(connection, None);
                }
                Poll::Ready(Ok(None))
            }
            Err(error) => {
                self.connection = None;
                Poll::Ready(Err(LinkError::Broken(error.to_string())))
            }
        }
    }
}

#[cfg(test)]
mod tests;
