//! What each connection carries: a count of its requests, guards against clients that do not read, and an executor whose
//! tasks somebody waits for.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::Service;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use tokio_util::task::TaskTracker;

use crate::layers::peer::Caller;
use crate::unread::{Progress, run_while_read};

/// The requests of one connection. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Activity {
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    in_flight: AtomicU32,
    started: AtomicU64,
}

impl Activity {
    /// Whether no request is in flight: none whose answer has not wholly left for the connection.
    pub(crate) fn is_idle(&self) -> bool {
        self.counts.in_flight.load(Ordering::Acquire) == 0
    }

    /// Resolves once no request has come for `first` since the start, or for `later` since the last one ended. hyper's
    /// header timeout covers neither the wait for the first byte nor HTTP/2.
    ///
    /// No request wakes it: it looks whenever its connection moves, and when its timer fires, which is moved on only then.
    pub(crate) async fn idle_for(&self, first: Duration, later: Duration) {
        let mut timer = pin!(sleep(first));
        let mut seen = 0;
        let mut idle_until = Some(timer.deadline());
        poll_fn(|cx| {
            loop {
                let started = self.counts.started.load(Ordering::Acquire);
                if !self.is_idle() {
                    idle_until = None;
                } else if idle_until.is_none() || started != seen {
                    idle_until = Some(sleep(later).deadline());
                }
                seen = started;
                ready!(timer.as_mut().poll(cx));
                match idle_until {
                    Some(moment) if moment <= timer.deadline() => return Poll::Ready(()),
                    Some(moment) => timer.as_mut().reset(moment),
                    None => timer.set(sleep(later)),
                }
            }
        })
        .await;
    }

    fn enter(&self) -> InFlight {
        self.counts.started.fetch_add(1, Ordering::AcqRel);
        self.counts.in_flight.fetch_add(1, Ordering::AcqRel);
        InFlight {
            activity: self.clone(),
        }
    }
}

/// One request in flight; ends when dropped (I10).
#[derive(Debug)]
struct InFlight {
    activity: Activity,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let counts = &self.activity.counts;
        counts.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Counts the requests that pass to `inner`, each until its answer's body ended or was dropped.
#[derive(Debug, Clone)]
pub(crate) struct CountedService<S> {
    inner: S,
    activity: Activity,
    caller: Caller,
}

impl<S> CountedService<S> {
    /// `caller` is at the other end of the connection; each request is told.
    pub(crate) fn new(inner: S, activity: Activity, caller: Caller) -> Self {
        Self {
            inner,
            activity,
            caller,
        }
    }
}

impl<S> Service<Request<Incoming>> for CountedService<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<CountedBody>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let in_flight = self.activity.enter();
        request.extensions_mut().insert(self.caller);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            let progress = Progress::of_this_stream();
            progress.as_ref().inspect(|progress| progress.offered());
            Ok(response.map(|body| CountedBody {
                body,
                progress,
                _in_flight: in_flight,
            }))
        })
    }
}

/// An answer's body, and with it the request's place in the count. It tells how far it has come.
#[derive(Debug)]
pub(crate) struct CountedBody {
    body: Body,
    progress: Option<Progress>,
    _in_flight: InFlight,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &self.progress {
            Some(progress) if polled.is_ready() => progress.offered(),
            Some(progress) => progress.awaited(),
            None => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Fails a connection whose peer takes no byte for `limit` while there is something to write.
#[derive(Debug)]
pub(crate) struct StallGuard<Io> {
    io: Io,
    limit: Duration,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<Io> StallGuard<Io> {
    pub(crate) fn new(io: Io, limit: Duration) -> Self {
        Self {
            io,
            limit,
            stalled: None,
        }
    }

    /// Passes `written` on; one that waits starts the timer, one that went through ends it.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let limit = self.limit;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client reads nothing",
        )))
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for StallGuard<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for StallGuard<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.watch(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.io).poll_shutdown(cx);
        self.watch(cx, closed)
    }
}

/// Runs hyper's tasks (one for each HTTP/2 stream) where the drain waits for them, each for as long as its client reads.
#[derive(Debug, Clone)]
pub(crate) struct TrackedExecutor {
    tasks: TaskTracker,
    write_timeout: Duration,
}

impl TrackedExecutor {
    pub(crate) fn new(tasks: TaskTracker, write_timeout: Duration) -> Self {
        Self {
            tasks,
            write_timeout,
        }
    }
}

impl<F> Executor<F> for TrackedExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.tasks.spawn(run_while_read(task, self.write_timeout));
    }
}
