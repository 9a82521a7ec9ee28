//! Accepts connections and speaks HTTP/1.1 and HTTP/2 on them, within bounds and timers.
//!
//! It knows connections, not what requests mean: the service that answers them is handed in. The IO type is generic, so
//! that a test can serve pipes under a virtual clock.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::connection::{Activity, CountedService, StallGuard, TrackedExecutor};
use crate::drain::{DrainWatch, Phase};
use crate::layers::peer::Caller;
use crate::limits;
use crate::preface::{self, Version};
use crate::socket::{self, Patience};
use crate::stack::Stack;
use crate::tls::Acceptor;

/// Where connections come from.
pub trait Accept: Send + 'static {
    /// One connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Io>> + Send;

    /// Sees to it that a client which is gone without a word is noticed, where it may leave its answer unread for
    /// `write_timeout`; pipes always tell.
    fn prepare(_io: &Self::Io, _write_timeout: Duration) {}

    /// Where it comes from; unknown for pipes.
    fn address(_io: &Self::Io) -> Option<SocketAddr> {
        None
    }
}

impl Accept for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<TcpStream> {
        let (stream, _peer) = TcpListener::accept(self).await?;
        Ok(stream)
    }

    fn prepare(io: &TcpStream, write_timeout: Duration) {
        socket::prepare(io, Patience::with_client(write_timeout));
    }

    fn address(io: &TcpStream) -> Option<SocketAddr> {
        io.peer_addr().ok()
    }
}

/// Bounds of one listener.
#[derive(Debug, Clone, Copy)]
pub struct ListenerOptions {
    /// Connections at once; further ones wait in the kernel's queue.
    pub connections_max: u32,
    /// Time for a client to send a whole request head.
    pub header_timeout: Duration,
    /// Time after which a client that reads nothing loses its connection, or its stream on HTTP/2.
    pub write_timeout: Duration,
}

/// A listener with everything that its connections share.
#[derive(Debug, Clone)]
pub struct Listener {
    options: ListenerOptions,
    drain: DrainWatch,
    tasks: TaskTracker,
    http: Arc<Http>,
    service: Stack,
    tls: Option<Acceptor>,
    /// Time that a connection may stay open without a request once there was one.
    idle_max: Duration,
}

impl Listener {
    /// Serves `service`; every connection's task is in `tasks`.
    #[must_use]
    pub fn new(
        service: impl Into<Stack>,
        options: ListenerOptions,
        drain: DrainWatch,
        tasks: TaskTracker,
    ) -> Self {
        let http = Arc::new(Http::new(&options, &tasks));
        Self {
            options,
            drain,
            tasks,
            http,
            service: service.into(),
            tls: None,
            idle_max: limits::CONNECTION_IDLE_MAX,
        }
    }

    /// For connections that are kept open on purpose, by us: nobody closes an idle one, and pings find out a dead one.
    #[must_use]
    pub(crate) fn for_links(mut self) -> Self {
        let mut http = Http::new(&self.options, &self.tasks);
        http.two
            .keep_alive_interval(limits::LINK_PING_INTERVAL)
            .keep_alive_timeout(limits::LINK_PING_TIMEOUT);
        self.http = Arc::new(http);
        self.idle_max = Duration::MAX;
        self
    }

    /// Speaks TLS where `tls` is there.
    #[must_use]
    pub fn with_tls(self, tls: Option<Acceptor>) -> Self {
        Self { tls, ..self }
    }

    /// Accepts until the server drains. No error ends it: a listener that gives up is an outage.
    pub async fn run<A: Accept>(self, mut acceptor: A) {
        let permits = Arc::new(Semaphore::new(self.options.connections_max as usize));
        let mut draining = pin!(self.drain.reached(Phase::Draining));
        loop {
            let accepted = tokio::select! {
                accepted = async {
                    // Before accepting, so that what is beyond the cap waits in the kernel and costs us nothing.
                    let permit = Arc::clone(&permits).acquire_owned().await;
                    (acceptor.accept().await, permit)
                } => accepted,
                () = &mut draining => return,
            };
            match accepted {
                (Ok(io), permit) => {
                    let listener = self.clone();
                    let address = A::address(&io);
                    self.tasks.spawn(async move {
                        A::prepare(&io, listener.options.write_timeout);
                        listener.welcome(io, address).await;
                        drop(permit);
                    });
                }
                (Err(error), _) => pause_after(&error).await,
            }
        }
    }

    /// Serves one connection to its end, after its handshake where there is TLS. A handshake takes as long as a request's
    /// head may, in the connection's own task.
    async fn welcome<Io>(&self, io: Io, address: Option<SocketAddr>)
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut caller = Caller {
            address,
            certified: false,
        };
        let Some(tls) = &self.tls else {
            return self.serve(io, caller).await;
        };
        let shaken = tokio::select! {
            shaken = timeout(self.options.header_timeout, tls.accept(io)) => shaken,
            () = self.drain.reached(Phase::Draining) => return,
        };
        match shaken {
            Ok(Ok((io, certified))) => {
                caller.certified = certified;
                // In a place of its own: without TLS a connection should not hold room for it.
                Box::pin(self.serve(io, caller)).await;
            }
            Ok(Err(error)) => {
                let address = address.map(tracing::field::display);
                tracing::warn!(address, %error, "a caller was refused: no TLS, or a certificate that is not valid here");
            }
            Err(_) => {}
        }
    }

    /// Serves one connection to its end.
    pub(crate) async fn serve<Io>(&self, io: Io, caller: Caller)
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = StallGuard::new(io, self.options.write_timeout);
        let header_timeout = self.options.header_timeout;
        let begun = tokio::select! {
            begun = timeout(header_timeout, preface::read(io)) => begun,
            () = self.drain.reached(Phase::Draining) => return,
        };
        let Ok(Ok((version, io))) = begun else {
            return;
        };
        let activity = Activity::default();
        let service = CountedService::new(self.service.clone(), activity.clone(), caller);
        let io = TokioIo::new(io);
        match version {
            Version::One => {
                let connection = self.http.one.serve_connection(io, service);
                let connection = pin!(connection.with_upgrades());
                let leave = |connection: Pin<&mut http1::UpgradeableConnection<_, _>>| {
                    connection.graceful_shutdown();
                };
                self.keep(connection, leave, activity).await;
            }
            Version::Two => {
                // In a place of its own: one over HTTP/1.1 is much smaller.
                let mut connection = Box::pin(self.http.two.serve_connection(io, service));
                let leave = |connection: Pin<&mut http2::Connection<_, _, _>>| {
                    connection.graceful_shutdown();
                };
                self.keep(connection.as_mut(), leave, activity).await;
            }
        }
    }

    /// Drives a connection to its end; `leave` asks it to end after what is in flight. It is pinned by the caller, since what a
    /// future is given and then pins takes its place twice.
    async fn keep<C>(
        &self,
        mut connection: Pin<&mut C>,
        leave: impl FnOnce(Pin<&mut C>),
        activity: Activity,
    ) where
        C: Future<Output = hyper::Result<()>>,
    {
        tokio::select! {
            // What becomes of its requests is looked at after it has moved.
            biased;
            result = connection.as_mut() => return log_end(result),
            () = activity.idle_for(self.options.header_timeout, self.idle_max) => {}
            () = self.drain.reached(Phase::Draining) => {}
        }
        leave(connection.as_mut());
        let idle = activity.is_idle();
        tokio::select! {
            result = connection.as_mut() => log_end(result),
            // With nothing in flight only half a request head or a peer that is gone can keep it open. With something
            // in flight hyper closes after the last answer, and a slow reader has the rest of the grace period.
            () = sleep(limits::CLOSE_LINGER), if idle => {}
            () = self.drain.reached(Phase::Closed) => {}
        }
    }
}

/// HTTP as this server speaks it, in both versions.
#[derive(Debug)]
struct Http {
    one: http1::Builder,
    two: http2::Builder<TrackedExecutor>,
}

impl Http {
    /// Without a timer hyper drops its header timeout silently.
    fn new(options: &ListenerOptions, tasks: &TaskTracker) -> Self {
        let mut one = http1::Builder::new();
        one.timer(TokioTimer::new())
            .header_read_timeout(options.header_timeout)
            .max_headers(limits::HEADERS_MAX)
            .max_header_size(limits::H1_HEAD_BYTES_MAX)
            .max_buf_size(limits::H1_BUFFER_BYTES_MAX)
            // A client that closes its side in the middle of a stream has left: its sequence must not run on.
            .half_close(false)
            .keep_alive(true);
        let executor = TrackedExecutor::new(tasks.clone(), options.write_timeout);
        let mut two = http2::Builder::new(executor);
        two.timer(TokioTimer::new())
            .max_header_list_size(limits::H2_HEADER_LIST_BYTES_MAX)
            .max_concurrent_streams(limits::H2_STREAMS_MAX)
            .initial_stream_window_size(limits::H2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::H2_CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(limits::H2_SEND_BUFFER_BYTES_MAX)
            .max_pending_accept_reset_streams(limits::H2_PENDING_RESETS_MAX)
            .keep_alive_interval(limits::H2_PING_INTERVAL)
            .keep_alive_timeout(limits::H2_PING_TIMEOUT);
        Self { one, two }
    }
}

/// A connection that died while it waited is the client's affair; anything else (no file descriptor left) passes only
/// with time.
async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    if matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted
    ) {
        return;
    }
    tracing::warn!(%error, "accepting a connection failed; trying again");
    sleep(limits::ACCEPT_BACKOFF).await;
}

/// How a connection ended is of interest when debugging alone: clients leave in many ways.
fn log_end<E: std::fmt::Display>(result: Result<(), E>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests;
