//! An agent's side: a node that calls it is connected to the gateway, byte for byte.
//!
//! What the bytes mean is not known here: HTTP/2 with its windows and pings goes from end to end, so a slow reader holds
//! back only itself and a dead end shows at the other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use hyper::upgrade::OnUpgrade;
use tokio::io::{AsyncWriteExt, BufReader, copy_buf, split};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::turn::{Dialler, Turned, agree, turned};
use super::{JobId, PATH, Who};
use crate::layers::peer::Peer;
use crate::limits;
use crate::openai::error::ApiError;
use crate::upstream::link::LinkTasks;

/// Connects nodes with the gateway. Clones share everything.
#[derive(Debug, Clone)]
pub struct Relay {
    dialler: Dialler,
    tasks: LinkTasks,
    places: Arc<Semaphore>,
    connected: Connected,
}

/// The jobs whose servers are connected. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Connected {
    /// Connections of each job; as many entries as there are connections at most.
    jobs: Arc<Mutex<HashMap<JobId, u32>>>,
    changed: Arc<Notify>,
}

impl Relay {
    /// Connects with whom `dialler` calls, in `tasks`.
    #[must_use]
    pub fn new(dialler: Dialler, tasks: &LinkTasks) -> Self {
        Self {
            dialler,
            tasks: tasks.clone(),
            places: Arc::new(Semaphore::new(limits::TURNED_MAX)),
            connected: Connected::default(),
        }
    }

    /// The jobs that are connected.
    #[must_use]
    pub fn connected(&self) -> Connected {
        self.connected.clone()
    }

    /// The path that nodes call.
    pub fn router(self) -> Router {
        Router::new()
            .route(PATH, get(relay))
            .method_not_allowed_fallback(async || ApiError::method_not_allowed())
            .with_state(self)
    }

    async fn join(&self, who: Who, near: OnUpgrade, far: Turned, place: OwnedSemaphorePermit) {
        let Some(near) = turned(near).await else {
            return;
        };
        let connection = who.job.map(|job| self.connected.enter(job));
        carry(near, far).await;
        drop((connection, place));
    }
}

/// `GET /hansa/v1/agent` of a node: calls the gateway as that node, and turns the connection only once that has.
async fn relay(
    State(relay): State<Relay>,
    peer: Option<Extension<Peer>>,
    mut request: Request,
) -> Result<Response, ApiError> {
    if peer.is_none() {
        return Err(ApiError::peers_only());
    }
    let who = Who::read(request.headers()).ok_or_else(ApiError::peer_header)?;
    let place = Arc::clone(&relay.places).try_acquire_owned();
    let place = place.map_err(|_| ApiError::overloaded())?;
    let dialled = relay.dialler.dial(&who).await;
    let far = dialled.map_err(|error| {
        tracing::warn!(node = &*who.node, %error, "the gateway cannot be called for a node");
        ApiError::unreachable()
    })?;
    let (answer, near) = agree(&mut request)?;
    let tasks = relay.tasks.clone();
    tasks.spawn(async move { relay.join(who, near, far, place).await });
    Ok(answer)
}

/// Carries bytes both ways until one side ends: nothing on it makes sense with half a connection.
async fn carry(near: Turned, far: Turned) {
    let ((near_read, mut near_write), (far_read, mut far_write)) = (split(near), split(far));
    let mut out = BufReader::with_capacity(limits::RELAY_BUFFER_BYTES, near_read);
    let mut back = BufReader::with_capacity(limits::RELAY_BUFFER_BYTES, far_read);
    tokio::select! {
        _ = copy_buf(&mut out, &mut far_write) => {}
        _ = copy_buf(&mut back, &mut near_write) => {}
    }
    // What was read is out; a side that is gone has no use for a farewell.
    let farewell = async { futures::join!(near_write.shutdown(), far_write.shutdown()) };
    let _ = timeout(limits::CLOSE_LINGER, farewell).await;
}

impl Connected {
    fn enter(&self, job: JobId) -> Connection {
        *self.jobs().entry(job).or_default() += 1;
        self.changed.notify_one();
        Connection {
            connected: self.clone(),
            job,
        }
    }

    /// The jobs that have a connection now.
    #[must_use]
    pub fn list(&self) -> Vec<JobId> {
        self.jobs().keys().copied().collect()
    }

    /// Resolves when one came or went since the last call.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn jobs(&self) -> std::sync::MutexGuard<'_, HashMap<JobId, u32>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection of a job; given back when dropped.
#[derive(Debug)]
struct Connection {
    connected: Connected,
    job: JobId,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut jobs = self.connected.jobs();
        let left = jobs.get_mut(&self.job).map(|count| {
            *count -= 1;
            *count
        });
        if left == Some(0) {
            jobs.remove(&self.job);
        }
        self.connected.changed.notify_one();
    }
}
