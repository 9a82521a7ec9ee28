//! One HTTP/1.1 connection to a server, driven by whoever waits for its answer.
//!
//! hyper's client is made for any use: it keeps buffers and channels for each connection and hands on chunk by chunk. Here
//! a connection that waits holds no buffer at all, and all chunks that one read brings are one piece of the answer. So
//! thousands of streams stay open in little memory, and events cost little. It must not know what an answer means.

mod framing;
mod head;

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::buf::Chain;
use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Response, Uri};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio_util::io::poll_write_buf;

use super::connect::Wire;
use super::pieces::Pieces;
use crate::limits;
use framing::{Framing, FramingError};
use head::{Head, HeadError};

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Http1Error {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Head(#[from] HeadError),
    #[error("its answer cannot be read: {0}")]
    Body(#[from] FramingError),
    #[error("the head of its answer is too long")]
    HeadTooLong,
    #[error("the connection was closed before the answer")]
    Closed,
    #[error("the connection was closed in the middle of the answer")]
    Cut,
}

/// An exchange that failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: Http1Error,
    /// Whether the server can have seen nothing of the request.
    pub(super) unsent: bool,
}

/// One connection. It has at most one request at a time.
#[derive(Debug)]
pub(super) struct Connection {
    wire: Wire,
}

/// The body of an answer as far as it was not read yet.
#[derive(Debug)]
pub(super) struct Unread {
    framing: Framing,
    /// What came with the head.
    ready: BytesMut,
    /// Whether the connection is of use after it.
    keeps: bool,
}

impl Unread {
    /// Whether all was read, and the connection may take the next request.
    pub(super) fn leaves_connection(&self) -> bool {
        self.keeps && self.framing.is_done()
    }
}

/// The head of a request to `host`, whose body has `length` bytes.
pub(super) fn request_head(
    method: &Method,
    path: &Uri,
    host: &HeaderValue,
    headers: &HeaderMap,
    length: usize,
) -> Bytes {
    head::write(method, path, host, headers, length as u64)
}

impl Connection {
    /// One that has just been made.
    pub(super) const fn new(wire: Wire) -> Self {
        Self { wire }
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn exchange(
        &mut self,
        head: Bytes,
        body: Pieces,
    ) -> Result<Response<Unread>, Failed> {
        let mut exchange = Exchange::new(head, body);
        let answer = poll_fn(|cx| exchange.poll(&mut self.wire, cx)).await;
        answer.map_err(|error| Failed {
            error,
            unsent: exchange.written == 0,
        })
    }

    /// The next bytes of `body`; `None` at its end.
    pub(super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut Unread,
    ) -> Poll<Result<Option<Bytes>, Http1Error>> {
        loop {
            if !body.ready.is_empty() {
                let ready = std::mem::take(&mut body.ready);
                return Poll::Ready(Ok(Some(ready.freeze())));
            }
            if body.framing.is_done() {
                return Poll::Ready(Ok(None));
            }
            let read = self.wire.poll_some(cx, |bytes| body.take(bytes));
            match ready!(read)? {
                Some(taken) => taken?,
                None if body.framing == Framing::UntilClose => return Poll::Ready(Ok(None)),
                None => return Poll::Ready(Err(Http1Error::Cut)),
            }
        }
    }

    /// Whether it is open and has nothing to say. Nobody is woken when that changes.
    pub(super) fn is_quiet(&mut self, cx: &mut Context<'_>) -> bool {
        self.wire.poll_some(cx, |_| ()).is_pending()
    }
}

impl Unread {
    /// Takes what has come of the body; more than its own makes the connection useless.
    fn take(&mut self, bytes: &[u8]) -> Result<(), FramingError> {
        self.ready.reserve(bytes.len());
        let taken = self.framing.take(bytes, &mut self.ready)?;
        self.keeps &= taken == bytes.len();
        Ok(())
    }
}

/// A request on its way and the head of its answer as far as it has come.
struct Exchange {
    out: Chain<Bytes, Pieces>,
    written: usize,
    flushed: bool,
    come: BytesMut,
    /// Bytes in which no end of a head was found.
    seen: usize,
}

impl Exchange {
    fn new(head: Bytes, body: Pieces) -> Self {
        Self {
            out: head.chain(body),
            written: 0,
            flushed: false,
            come: BytesMut::new(),
            seen: 0,
        }
    }

    /// Sends and listens at once: a server may refuse a request before it has all of it, and close the connection.
    fn poll(
        &mut self,
        wire: &mut Wire,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<Unread>, Http1Error>> {
        let sent = self.poll_send(wire, cx);
        match (self.poll_head(wire, cx), sent) {
            (Poll::Ready(Ok(head)), sent) => {
                let sent = matches!(sent, Poll::Ready(Ok(())));
                Poll::Ready(self.answer(head, sent))
            }
            (_, Poll::Ready(Err(error))) => Poll::Ready(Err(error.into())),
            (Poll::Ready(Err(error)), _) => Poll::Ready(Err(error)),
            (Poll::Pending, _) => Poll::Pending,
        }
    }

    fn poll_send(&mut self, wire: &mut Wire, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.out.has_remaining() {
            let written = poll_write_buf(Pin::new(&mut *wire), cx, &mut self.out);
            match ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        if !self.flushed {
            ready!(Pin::new(wire).poll_flush(cx))?;
            self.flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_head(
        &mut self,
        wire: &mut Wire,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head, Http1Error>> {
        loop {
            while let Some(end) = head::end(&self.come, self.seen) {
                let head = self.come.split_to(end);
                self.seen = 0;
                if let Some(head) = head::read(&head)? {
                    return Poll::Ready(Ok(head));
                }
            }
            self.seen = self.come.len();
            if self.seen > limits::H1_HEAD_BYTES_MAX {
                return Poll::Ready(Err(Http1Error::HeadTooLong));
            }
            let come = &mut self.come;
            let read = wire.poll_some(cx, |bytes| come.extend_from_slice(bytes));
            if ready!(read)?.is_none() {
                return Poll::Ready(Err(Http1Error::Closed));
            }
        }
    }

    /// The answer that begins with `head`. Where not all of the request was `sent`, the connection is of no use after it.
    fn answer(&mut self, head: Head, sent: bool) -> Result<Response<Unread>, Http1Error> {
        let mut body = Unread {
            framing: head.framing,
            ready: BytesMut::new(),
            keeps: head.keeps && sent,
        };
        let come = std::mem::take(&mut self.come);
        if !come.is_empty() {
            body.take(&come)?;
        }
        Ok(head.answer.map(|()| body))
    }
}

impl Wire {
    /// Hands what has come to `read`; `None` where nothing will any more. Until something comes, no memory is held for it.
    fn poll_some<T>(
        &mut self,
        cx: &mut Context<'_>,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Poll<io::Result<Option<T>>> {
        let mut buffer = [const { MaybeUninit::uninit() }; limits::H1_READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut buffer);
        ready!(Pin::new(self).poll_read(cx, &mut buffer))?;
        let come = buffer.filled();
        Poll::Ready(Ok((!come.is_empty()).then(|| read(come))))
    }
}
