//! A gateway's side: takes in servers that call, and makes each an upstream for as long as it has a connection.
//!
//! Each server that calls is a candidate of its own, so that a stream can go on from one to the next of the same node. It
//! must not know how requests are sent (`upstream/link.rs`) or routed.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use hansa_config::schema;
use http::Uri;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioTimer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::turn::{agree, turned};
use super::{PATH, Who};
use crate::layers::peer::Peer;
use crate::limits;
use crate::openai::error::ApiError;
use crate::route::facts::CandidateId;
use crate::start::{Starter, UpstreamFailed};
use crate::upstream::group::Group;
use crate::upstream::link::{Link, LinkTasks, Pieces, Shard, Times};
use crate::upstream::roster::Roster;

/// What names a server in requests to it: it listens on its own machine, where this is its name.
const URL: &str = "http://localhost";

/// The servers that call this one. Clones share them.
#[derive(Clone)]
pub struct Callers {
    inner: Arc<Inner>,
}

struct Inner {
    /// Those that may call.
    nodes: Vec<schema::Upstream>,
    peer: schema::Peer,
    starter: Starter,
    roster: Roster,
    tasks: LinkTasks,
    places: Arc<Semaphore>,
    here: Mutex<HashMap<Key, Member>>,
}

/// Node and instance.
type Key = (Arc<str>, Arc<str>);

/// A server that has called.
struct Member {
    /// Its number among those of its node.
    slot: usize,
    link: Link,
    group: Group,
    candidates: Vec<CandidateId>,
}

/// The path of calls, for peers.
pub fn router(callers: Callers) -> Router {
    Router::new()
        .route(PATH, get(welcome))
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .with_state(callers)
}

/// `GET /hansa/v1/agent`: turns the connection around.
async fn welcome(
    State(callers): State<Callers>,
    peer: Option<Extension<Peer>>,
    mut request: Request,
) -> Result<Response, ApiError> {
    if peer.is_none() {
        return Err(ApiError::peers_only());
    }
    let who = Who::read(request.headers()).ok_or_else(ApiError::peer_header)?;
    if callers.node(&who.node).is_none() {
        tracing::warn!(
            node = &*who.node,
            "a server called that is no [[node]] with discover = \"agent\" here"
        );
        return Err(ApiError::route_not_found());
    }
    let place = Arc::clone(&callers.inner.places).try_acquire_owned();
    let place = place.map_err(|_| ApiError::overloaded())?;
    let (answer, turning) = agree(&mut request)?;
    let tasks = callers.inner.tasks.clone();
    tasks.spawn(async move { callers.hold(who, turning, place).await });
    Ok(answer)
}

impl Callers {
    /// Lets those of `nodes` call that are found so, and adds them to `roster` by `starter`.
    #[must_use]
    pub fn new(
        nodes: &[schema::Upstream],
        peer: &schema::Peer,
        (starter, roster): (Starter, Roster),
        tasks: &LinkTasks,
    ) -> Self {
        let calls = |node: &&schema::Upstream| node.discover == schema::Discover::Agent;
        let nodes: Vec<schema::Upstream> = nodes.iter().filter(calls).cloned().collect();
        if !nodes.is_empty() {
            roster.grows();
        }
        let inner = Inner {
            nodes,
            peer: peer.clone(),
            starter,
            roster,
            tasks: tasks.clone(),
            places: Arc::new(Semaphore::new(limits::TURNED_MAX)),
            here: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    fn node(&self, name: &str) -> Option<&schema::Upstream> {
        self.inner.nodes.iter().find(|node| node.name == name)
    }

    /// Holds one connection to its end.
    async fn hold(&self, who: Who, turning: OnUpgrade, place: OwnedSemaphorePermit) {
        let Some(io) = turned(turning).await else {
            return;
        };
        let shaken = http2_client(&self.inner.tasks)
            .handshake(io.into_inner())
            .await;
        let Ok((connection, driver)) = shaken else {
            return;
        };
        let mut driver = std::pin::pin!(driver);
        let answers = tokio::select! {
            answers = greet(connection.clone()) => answers,
            _ = &mut driver => false,
        };
        let (node, instance) = (&*who.node, &*who.instance);
        if !answers {
            tracing::warn!(node, instance, "a server called and did not answer");
            return;
        }
        match self.join(&who, connection) {
            Ok(Some(shard)) => {
                tracing::info!(node, instance, job = who.job, "a server called");
                // Why it ended shows in what ran on it.
                let _ = driver.await;
                self.leave(&who, &shard);
                tracing::info!(
                    node,
                    instance,
                    job = who.job,
                    "the connection of a server ended"
                );
            }
            Ok(None) => tracing::warn!(
                node,
                instance,
                "a server has more connections than are used"
            ),
            Err(error) => {
                tracing::error!(node, instance, %error, "a server that called cannot be used")
            }
        }
        drop(place);
    }

    /// Adds a connection to its server, which may be new.
    fn join(
        &self,
        who: &Who,
        connection: SendRequest<Pieces>,
    ) -> Result<Option<Arc<Shard>>, UpstreamFailed> {
        let mut here = self.here();
        let key = (Arc::clone(&who.node), Arc::clone(&who.instance));
        if let Some(member) = here.get(&key) {
            return Ok(member.link.join(connection));
        }
        let Some(slot) = free_slot(&here, &who.node) else {
            return Ok(None);
        };
        let config = self.node(&who.node).cloned().unwrap_or_default();
        let link = Link::turned(Times::of(&config));
        // Before it is watched, or the first look would find nobody.
        let shard = link.join(connection);
        here.insert(key, self.member(config, slot, link)?);
        Ok(shard)
    }

    fn member(
        &self,
        config: schema::Upstream,
        slot: usize,
        link: Link,
    ) -> Result<Member, UpstreamFailed> {
        let inner = &self.inner;
        let config = schema::Upstream {
            name: format!("{}/{slot}", config.name),
            url: URL.to_owned(),
            ..config
        };
        let (me, clock) = (inner.starter.me(), inner.starter.clock());
        let group = Group::called_back(&config, &inner.peer, me, clock, &inner.tasks, &link);
        let group = group.map_err(|reason| UpstreamFailed {
            name: config.name.clone(),
            reason,
        })?;
        let candidates = inner.starter.enlist_node(&config, &group, &inner.roster)?;
        Ok(Member {
            slot,
            link,
            group,
            candidates,
        })
    }

    /// Takes a connection out, and with its last one the server.
    fn leave(&self, who: &Who, shard: &Arc<Shard>) {
        let mut here = self.here();
        let key = (Arc::clone(&who.node), Arc::clone(&who.instance));
        let others = here
            .get(&key)
            .is_some_and(|member| member.link.leave(shard));
        if others {
            return;
        }
        if let Some(member) = here.remove(&key) {
            for id in member.candidates {
                self.inner.roster.remove(id);
            }
            member.group.set(&[]);
        }
    }

    fn here(&self) -> MutexGuard<'_, HashMap<Key, Member>> {
        self.inner
            .here
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lowest number that no server of the node has; `None` where there are as many as one node may have.
fn free_slot(here: &HashMap<Key, Member>, node: &Arc<str>) -> Option<usize> {
    let of_node = here.iter().filter(|((name, _), _)| name == node);
    let taken: Vec<usize> = of_node.map(|(_, member)| member.slot).collect();
    (0..limits::INSTANCES_MAX).find(|slot| !taken.contains(slot))
}

/// HTTP/2 as we speak it to servers of ours: as over connections that we open.
fn http2_client(tasks: &LinkTasks) -> http2::Builder<LinkTasks> {
    let mut builder = http2::Builder::new(tasks.clone());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits::H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::H2_CONNECTION_WINDOW_BYTES)
        .max_header_list_size(limits::H2_HEADER_LIST_BYTES_MAX)
        .max_send_buf_size(limits::H2_SEND_BUFFER_BYTES_MAX)
        .keep_alive_interval(limits::LINK_PING_INTERVAL)
        .keep_alive_timeout(limits::LINK_PING_TIMEOUT)
        // A connection that carries nothing now will carry something later.
        .keep_alive_while_idle(true);
    builder
}

/// Whether there is someone at the other end.
async fn greet(mut connection: SendRequest<Pieces>) -> bool {
    let mut request = http::Request::new(Pieces::default());
    *request.uri_mut() = Uri::from_static("http://localhost/health/live");
    let answer = timeout(limits::DIAL_TIME, connection.send_request(request)).await;
    matches!(answer, Ok(Ok(answer)) if answer.status().is_success())
}

impl fmt::Debug for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let here = self.here();
        f.debug_list().entries(here.keys()).finish()
    }
}
