//! The body of an answer, wherever it comes from, and the end of the wait for one that has fallen silent.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep, timeout};

use super::kept::Answer;
use super::{LinkError, Place, innermost};

/// The body of an answer. Dropping it before its end resets the stream, which cancels what the server does for it.
#[derive(Debug)]
pub(crate) struct AnswerBody {
    source: Source,
    idle: Idle,
    _place: Place,
}

/// Where an answer's bytes come from.
#[derive(Debug)]
pub(super) enum Source {
    /// A connection that is the request's alone.
    Kept(Answer),
    /// One stream of a connection of many.
    Stream(Incoming),
}

impl Source {
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, LinkError>> {
        let body = match self {
            Self::Kept(answer) => return answer.poll_bytes(cx),
            Self::Stream(body) => body,
        };
        loop {
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                // Trailers say nothing that an answer needs.
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Ok(Some(data)));
                    }
                }
                Some(Err(error)) => {
                    return Poll::Ready(Err(LinkError::Broken(innermost(&error))));
                }
                None => return Poll::Ready(Ok(None)),
            }
        }
    }
}

impl AnswerBody {
    /// What comes from `source`, which may be silent for `idle`, and holds `place` until it is dropped.
    pub(super) const fn new(source: Source, idle: Duration, place: Place) -> Self {
        Self {
            source,
            idle: Idle::new(idle),
            _place: place,
        }
    }

    /// The next bytes; `None` at the end.
    pub(crate) fn poll_bytes(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, LinkError>> {
        match self.source.poll_bytes(cx) {
            Poll::Pending => self.idle.poll(cx).map(|()| Err(LinkError::Silent)),
            read => {
                self.idle.heard();
                read
            }
        }
    }

    /// All that matters was read: the connection may be used again, once what is left of this answer is there.
    pub(crate) fn finish(self) {
        match self.source {
            Source::Kept(answer) => answer.finish(),
            Source::Stream(_) => {}
        }
    }

    /// The whole body, of at most `max` bytes, within the time that silence may last.
    pub(crate) async fn whole(mut self, max: usize) -> Result<Bytes, LinkError> {
        let period = self.idle.period;
        let collected = timeout(period, self.collect(max)).await;
        collected.unwrap_or(Err(LinkError::Silent))
    }

    async fn collect(&mut self, max: usize) -> Result<Bytes, LinkError> {
        let (mut first, mut whole) = (Bytes::new(), BytesMut::new());
        while let Some(bytes) = poll_fn(|cx| self.source.poll_bytes(cx)).await? {
            if first.len() + whole.len() + bytes.len() > max {
                return Err(LinkError::Broken("the answer is too long".to_owned()));
            }
            // Most come in one piece.
            if first.is_empty() && whole.is_empty() {
                first = bytes;
                continue;
            }
            if whole.is_empty() {
                whole.extend_from_slice(&std::mem::take(&mut first));
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(if whole.is_empty() {
            first
        } else {
            whole.freeze()
        })
    }
}

/// Ends a wait after one to two periods without a word. So a timer costs nothing per event, and one that never waits has
/// none.
#[derive(Debug)]
struct Idle {
    timer: Option<Pin<Box<Sleep>>>,
    period: Duration,
    quiet: bool,
}

impl Idle {
    const fn new(period: Duration) -> Self {
        Self {
            timer: None,
            period,
            quiet: true,
        }
    }

    const fn heard(&mut self) {
        self.quiet = false;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let period = self.period;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(period)));
        while timer.as_mut().poll(cx).is_ready() {
            if self.quiet {
                return Poll::Ready(());
            }
            self.quiet = true;
            timer.set(sleep(period));
        }
        Poll::Pending
    }
}
