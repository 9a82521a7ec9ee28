//! Connections to one other server: HTTP/2 to servers of ours, kept HTTP/1.1 connections to others (`kept.rs`), and those
//! that a server opened itself because nobody can call it.
//!
//! A server takes a bounded number of HTTP/2 streams on a connection, and a stream beyond it would wait behind its
//! neighbours. So the link spreads its requests over as many connections as they need. On each, the connection's window
//! holds every stream's window at once: a stream that nobody reads fills its own and holds back no other.
//!
//! It must not know what a request or an answer means.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hansa_config::schema::Upstream;
use http::{Request, Response};
use hyper::client::conn::http2::SendRequest;
use hyper::rt::Executor;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioTimer;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::limits;

mod answer;
mod connect;
mod http1;
mod kept;
mod pieces;

pub(crate) use answer::AnswerBody;
pub(crate) use connect::{Connector, Target};
pub(crate) use pieces::{Pieces, Splicer};

use answer::Source;
use kept::Kept;

/// Times that an upstream has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// For a connection to be there.
    pub(crate) connect: Duration,
    /// From sending a request to the head of its answer.
    pub(crate) first_byte: Duration,
    /// Of silence on an answer.
    pub(crate) idle: Duration,
}

impl Times {
    /// As the config says of `upstream`.
    pub(crate) const fn of(upstream: &Upstream) -> Self {
        Self {
            connect: Duration::from_millis(upstream.connect_timeout_ms),
            first_byte: Duration::from_millis(upstream.first_byte_timeout_ms),
            idle: Duration::from_millis(upstream.idle_timeout_ms),
        }
    }
}

/// Why an exchange failed, in words for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LinkError {
    /// No connection, or none in time.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// All connections are full.
    #[error("has as many requests of ours as it takes at once")]
    Busy,
    /// No head of an answer in time.
    #[error("did not answer in time")]
    Late,
    /// The connection died or the peer broke the protocol.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// Silence in the middle of an answer.
    #[error("fell silent in the middle of its answer")]
    Silent,
}

/// Tasks of all links of a server. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct LinkTasks {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl LinkTasks {
    /// Runs `task` until it ends or all are stopped.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = task => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// Ends every task, connections among them, and waits until they are gone.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Tasks for as long as one upstream is listed: they end with it, or with all.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            tasks: self.tasks.clone(),
            stop: self.stop.child_token(),
        }
    }

    /// Asks these tasks to end, without waiting.
    pub fn cancel(&self) {
        self.stop.cancel();
    }
}

impl<F> Executor<F> for LinkTasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}

/// The connections to one server. Clones share them.
#[derive(Clone)]
pub(crate) struct Link {
    shards: Arc<ArcSwap<Vec<Arc<Shard>>>>,
    streams_max: u32,
    times: Times,
}

/// One HTTP/2 connection, or all HTTP/1.1 connections.
pub(crate) struct Shard {
    way: Way,
    streams: AtomicU32,
}

enum Way {
    /// We call over HTTP/2; a lost connection is replaced at the next request.
    Called(Box<Client<Connector, Pieces>>),
    /// We call over HTTP/1.1, each request on a connection of its own.
    Kept(Arc<Kept>),
    /// The server called, and this is what it opened.
    Turned(SendRequest<Pieces>),
}

impl Link {
    /// A link to `target`; connects at the first request. Its connections' tasks run in `tasks`.
    pub(crate) fn new(target: &Target, times: Times, tasks: &LinkTasks) -> Self {
        let (shards, streams_max) = match target.http2 {
            true => (limits::LINK_CONNECTIONS_MAX, limits::LINK_STREAMS_MAX),
            false => (1, limits::LINK_HTTP1_MAX),
        };
        let shard = |_| {
            let connector = Connector::new(target.clone(), times.connect);
            Shard::of(match target.http2 {
                true => Way::Called(Box::new(client(connector, tasks))),
                false => Way::Kept(Kept::new(connector, &target.host_and_port(), tasks)),
            })
        };
        let shards: Vec<Arc<Shard>> = (0..shards).map(shard).collect();
        Self {
            shards: Arc::new(ArcSwap::from_pointee(shards)),
            streams_max,
            times,
        }
    }

    /// A link to a server that calls us, over the connections that it opens; none yet.
    pub(crate) fn turned(times: Times) -> Self {
        Self {
            shards: Arc::default(),
            streams_max: limits::LINK_STREAMS_MAX,
            times,
        }
    }

    /// Adds a connection that the server has opened; `None` where there are as many as one server may have.
    pub(crate) fn join(&self, connection: SendRequest<Pieces>) -> Option<Arc<Shard>> {
        let shard = Shard::of(Way::Turned(connection));
        let before = self.shards.rcu(|shards| {
            let mut shards = Vec::clone(shards);
            if shards.len() < limits::LINK_CONNECTIONS_MAX {
                shards.push(Arc::clone(&shard));
            }
            shards
        });
        (before.len() < limits::LINK_CONNECTIONS_MAX).then_some(shard)
    }

    /// Takes a connection out; whether others are left.
    pub(crate) fn leave(&self, gone: &Arc<Shard>) -> bool {
        let others = |shards: &Arc<Vec<Arc<Shard>>>| -> Vec<Arc<Shard>> {
            let others = shards.iter().filter(|shard| !Arc::ptr_eq(shard, gone));
            others.map(Arc::clone).collect()
        };
        let before = self.shards.rcu(others);
        !others(&before).is_empty()
    }

    /// Sends `request`, whose URI is absolute, and waits for the head of the answer.
    pub(crate) async fn send(
        &self,
        request: Request<Pieces>,
    ) -> Result<Response<AnswerBody>, LinkError> {
        let place = self.enter()?;
        let answer = timeout(self.times.first_byte, place.0.request(request)).await;
        let answer = answer.map_err(|_| LinkError::Late)??;
        Ok(answer.map(|source| AnswerBody::new(source, self.times.idle, place)))
    }

    /// Requests in flight.
    pub(crate) fn in_flight(&self) -> u32 {
        let shards = self.shards.load();
        let streams = shards.iter().map(|s| s.streams.load(Ordering::Relaxed));
        streams.sum()
    }

    /// A place on the first connection that has one: later ones stay closed until they are needed.
    fn enter(&self) -> Result<Place, LinkError> {
        let shards = self.shards.load();
        for shard in &**shards {
            let more = |now: u32| (now < self.streams_max).then_some(now + 1);
            let entered = shard
                .streams
                .fetch_update(Ordering::AcqRel, Ordering::Relaxed, more);
            if entered.is_ok() {
                return Ok(Place(Arc::clone(shard)));
            }
        }
        match shards.is_empty() {
            true => Err(LinkError::Connect("the server has not called".to_owned())),
            false => Err(LinkError::Busy),
        }
    }
}

impl Shard {
    fn of(way: Way) -> Arc<Self> {
        Arc::new(Self {
            way,
            streams: AtomicU32::new(0),
        })
    }

    async fn request(&self, request: Request<Pieces>) -> Result<Response<Source>, LinkError> {
        let answer = match &self.way {
            Way::Kept(kept) => {
                let answer = kept.request(request).await?;
                return Ok(answer.map(Source::Kept));
            }
            Way::Called(client) => client.request(request).await.map_err(|error| {
                let why = innermost(&error);
                match error.is_connect() {
                    true => LinkError::Connect(why),
                    false => LinkError::Broken(why),
                }
            }),
            Way::Turned(connection) => {
                let answer = connection.clone().send_request(request).await;
                answer.map_err(|error| LinkError::Broken(innermost(&error)))
            }
        };
        Ok(answer?.map(Source::Stream))
    }
}

fn client(connector: Connector, tasks: &LinkTasks) -> Client<Connector, Pieces> {
    let mut builder = Client::builder(tasks.clone());
    builder
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(limits::LINK_IDLE)
        .http2_only(true)
        .http2_initial_stream_window_size(limits::H2_STREAM_WINDOW_BYTES)
        .http2_initial_connection_window_size(limits::H2_CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(limits::H2_HEADER_LIST_BYTES_MAX)
        .http2_max_send_buf_size(limits::H2_SEND_BUFFER_BYTES_MAX)
        .http2_keep_alive_interval(limits::LINK_PING_INTERVAL)
        .http2_keep_alive_timeout(limits::LINK_PING_TIMEOUT);
    builder.build(connector)
}

/// A request's place on a connection; given back when dropped (I10).
struct Place(Arc<Shard>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").finish_non_exhaustive()
    }
}

/// The cause that says most: hyper's outer ones are all alike.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}
