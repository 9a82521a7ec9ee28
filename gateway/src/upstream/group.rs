//! The server behind one `[[node]]` or `[[site]]`, or one instance of several, and each of its models as an upstream.
//!
//! An instance that is no longer listed gets no new request; what runs on it goes on to its end.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::future::{BoxFuture, join_all};
use hansa_config::schema::{self, Kind, ModelName};
use hansa_config::secret::{Secret, SecretError};
use rustls::ClientConfig;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::federation::reach::{Part, ServerId};
use crate::federation::status::combined;
use crate::limits;
use crate::tls::{self, TlsError};
use crate::upstream::forward::Forward;
use crate::upstream::link::{Link, LinkTasks, Target, Times};
use crate::upstream::openai::Foreign;
use crate::upstream::remote::Remote;
use crate::upstream::usage::{Finished, Wanted};
use crate::upstream::{
    EmbedRequest, Embeddings, EventStream, GenerateRequest, Readiness, Upstream, UpstreamError,
    UpstreamErrorKind, UpstreamStatus,
};

/// Why an upstream of the config cannot be called.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// Its key, or the secret of peers, is not there.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Its certificates are not there.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// There are more than the router has places for.
    #[error(
        "there are too many nodes and sites with models; put a gateway in front of some of them"
    )]
    TooMany,
    /// Its URL is none.
    #[error("'{0}' is no URL of a server; write http:// or https://, a host and perhaps a port")]
    Url(String),
}

/// The instances of one section of the config. Clones share them.
#[derive(Clone)]
pub struct Group {
    shared: Arc<Shared>,
}

struct Shared {
    config: schema::Upstream,
    target: Target,
    secret: Option<Secret>,
    /// Who this server is to them.
    me: ServerId,
    clock: Clock,
    tasks: LinkTasks,
    instances: ArcSwap<Vec<Arc<Instance>>>,
    /// When an answer that could have come in one piece was last streamed, in milliseconds of the clock, and one more.
    streamed_ms: AtomicU64,
    draining: AtomicBool,
    closing: CancellationToken,
}

/// One server of the group.
struct Instance {
    address: Option<SocketAddr>,
    kind: Speaker,
    /// Ends its watching when it is no longer listed; what it serves goes on.
    tasks: LinkTasks,
}

enum Speaker {
    Ours(Remote),
    Foreign(Foreign),
}

impl Group {
    /// The group of `config` for the server `me`, without instances until [`Group::set`] lists some. Tasks run in `tasks`.
    ///
    /// # Errors
    /// [`GroupError`] names the file that is missing or wrong.
    pub fn new(
        config: &schema::Upstream,
        peer: &schema::Peer,
        me: ServerId,
        clock: &Clock,
        tasks: &LinkTasks,
    ) -> Result<Self, GroupError> {
        let ours = config.kind == Kind::Hansa;
        let source = if ours {
            &peer.secret_file
        } else {
            &config.key_file
        };
        let secret = source.as_ref().map(|source| source.read()).transpose()?;
        let tls: Option<Arc<ClientConfig>> = tls::connector(config, peer)?;
        let target = Target::parse(&config.url, tls, ours);
        let shared = Shared {
            target: target.ok_or_else(|| GroupError::Url(config.url.clone()))?,
            config: config.clone(),
            secret,
            me,
            clock: clock.clone(),
            tasks: tasks.clone(),
            instances: ArcSwap::default(),
            streamed_ms: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            closing: CancellationToken::new(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The group of one server that has called `me` over `link`. `config` has a URL for the names in its requests.
    ///
    /// # Errors
    /// [`GroupError`] names the file that is missing or wrong.
    pub(crate) fn called_back(
        config: &schema::Upstream,
        peer: &schema::Peer,
        me: ServerId,
        clock: &Clock,
        tasks: &LinkTasks,
        link: &Link,
    ) -> Result<Self, GroupError> {
        let group = Self::new(config, peer, me, clock, tasks)?;
        let instance = group.instance(None, group.shared.target.clone(), link.clone());
        let instances = vec![Arc::new(instance)];
        group.shared.instances.store(Arc::new(instances));
        Ok(group)
    }

    /// Name in the config.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.config.name
    }

    /// Host and port of the URL.
    #[must_use]
    pub fn host(&self) -> (String, u16) {
        let target = &self.shared.target;
        (target.host().to_owned(), target.port())
    }

    /// Lists the instances anew: `None` is the one at the URL. Those that stay keep their connections.
    pub fn set(&self, addresses: &[Option<SocketAddr>]) {
        let before = self.shared.instances.load_full();
        let keep = |address: &Option<SocketAddr>| {
            let known = before.iter().find(|instance| instance.address == *address);
            known.map_or_else(|| Arc::new(self.start(*address)), Arc::clone)
        };
        let now: Vec<Arc<Instance>> = addresses.iter().map(keep).collect();
        for gone in before
            .iter()
            .filter(|old| !addresses.contains(&old.address))
        {
            gone.tasks.cancel();
        }
        if now.len() != before.len() || now.iter().zip(&*before).any(|(a, b)| !Arc::ptr_eq(a, b)) {
            tracing::info!(
                upstream = self.name(),
                instances = now.len(),
                "instances listed"
            );
            self.shared.instances.store(Arc::new(now));
        }
    }

    fn start(&self, address: Option<SocketAddr>) -> Instance {
        let shared = &self.shared;
        let target = Target {
            address,
            ..shared.target.clone()
        };
        // Connections outlive the listing: what runs on them goes on.
        let link = Link::new(&target, Times::of(&shared.config), &shared.tasks);
        self.instance(address, target, link)
    }

    fn instance(&self, address: Option<SocketAddr>, target: Target, link: Link) -> Instance {
        let shared = &self.shared;
        let config = &shared.config;
        let name = match address {
            Some(address) => format!("{}@{address}", config.name),
            None => config.name.clone(),
        };
        let ours = config.kind == Kind::Hansa;
        let closing = shared.closing.clone();
        let forward = Forward::new(name.into(), target, link, ours, closing);
        let (secret, tasks) = (shared.secret.as_ref(), shared.tasks.child());
        let kind = match ours {
            true => {
                let clock = &shared.clock;
                Speaker::Ours(Remote::start(forward, secret, shared.me, clock, &tasks))
            }
            false => Speaker::Foreign(Foreign::start(forward, secret, &tasks)),
        };
        Instance {
            address,
            kind,
            tasks,
        }
    }

    /// The model `name` of the group as an upstream.
    #[must_use]
    pub fn model(&self, name: ModelName) -> GroupModel {
        GroupModel {
            group: self.clone(),
            name,
        }
    }
}

/// One model of a group.
#[derive(Debug, Clone)]
pub struct GroupModel {
    group: Group,
    name: ModelName,
}

impl GroupModel {
    /// The ready instance with the least to do for what it can do, as far as is known; where none is, one of which nothing is
    /// heard.
    fn pick(&self) -> Option<Arc<Instance>> {
        let instances = self.group.shared.instances.load();
        let able = instances.iter().filter_map(|instance| {
            let status = instance.status(&self.name.theirs);
            let ready = status.readiness == Readiness::Ready;
            let busy = (status.waiting, status.running.max(instance.in_flight()));
            (ready || status.unheard).then_some(((!ready, busy), instance))
        });
        let least = able.min_by_key(|(load, _)| *load);
        least.map(|(_, instance)| Arc::clone(instance))
    }

    /// Who takes the next request.
    fn ready(&self) -> Result<Arc<Instance>, UpstreamError> {
        if self.group.shared.draining.load(Ordering::Acquire) {
            return Err(UpstreamErrorKind::ShuttingDown.into());
        }
        Ok(self.pick().ok_or(UpstreamErrorKind::NotReady)?)
    }

    async fn start(&self, request: Arc<GenerateRequest>) -> Result<EventStream, UpstreamError> {
        let instance = self.ready()?;
        match &instance.kind {
            Speaker::Ours(remote) => remote.generate(request, &self.name.theirs).await,
            Speaker::Foreign(foreign) => foreign.generate(request, &self.name.theirs).await,
        }
    }
}

impl Shared {
    /// What the config, and the end of this server, say of whatever is reached there.
    fn mark(&self, status: &mut UpstreamStatus) {
        if self.draining.load(Ordering::Acquire) {
            status.readiness = Readiness::Draining;
        }
        status.experimental |= self.config.experimental;
    }

    /// Whether an answer was streamed within [`limits::STREAMED_PERIOD`]. Where none was, the one that asks is to be.
    fn streamed_lately(&self) -> bool {
        let (now, last_ms) = (self.clock.now(), self.streamed_ms.load(Ordering::Relaxed));
        let last = Duration::from_millis(last_ms);
        if last_ms > 0 && now < last + limits::STREAMED_PERIOD {
            return true;
        }
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let (order, failed) = (Ordering::Relaxed, Ordering::Relaxed);
        let streams =
            self.streamed_ms
                .compare_exchange(last_ms, now_ms.saturating_add(1), order, failed);
        // Of several at once one streams.
        streams.is_err()
    }
}

impl Instance {
    /// The server where it is one of ours.
    const fn ours(&self) -> Option<&Remote> {
        match &self.kind {
            Speaker::Ours(remote) => Some(remote),
            Speaker::Foreign(_) => None,
        }
    }

    fn status(&self, model: &str) -> UpstreamStatus {
        match &self.kind {
            Speaker::Ours(remote) => remote.status(model),
            Speaker::Foreign(foreign) => foreign.status(),
        }
    }

    fn parts(&self, model: &str) -> Vec<Part> {
        match &self.kind {
            Speaker::Ours(remote) => remote.parts(model),
            Speaker::Foreign(foreign) => vec![Part::here(foreign.status())],
        }
    }

    fn in_flight(&self) -> u32 {
        match &self.kind {
            Speaker::Ours(remote) => remote.in_flight(),
            Speaker::Foreign(foreign) => foreign.in_flight(),
        }
    }
}

impl Upstream for GroupModel {
    fn generate(
        &self,
        request: Arc<GenerateRequest>,
    ) -> BoxFuture<'_, Result<EventStream, UpstreamError>> {
        Box::pin(self.start(request))
    }

    fn embed(
        &self,
        request: Arc<EmbedRequest>,
    ) -> BoxFuture<'_, Result<Embeddings, UpstreamError>> {
        Box::pin(async move {
            let instance = self.ready()?;
            match &instance.kind {
                Speaker::Ours(remote) => remote.embed(request, &self.name.theirs).await,
                Speaker::Foreign(foreign) => foreign.embed(request, &self.name.theirs).await,
            }
        })
    }

    /// Others may answer in one piece. But what routing knows of when answers begin, and how fast they go on, comes from
    /// streams alone, so that one of them goes on being streamed from time to time.
    fn takes_whole(&self) -> bool {
        let shared = &self.group.shared;
        shared.config.kind == Kind::OpenAi && shared.streamed_lately()
    }

    fn counts_tokens(&self) -> bool {
        false
    }

    /// Asks every server of ours, and closes the connection to any other.
    fn cancel(&self, request_id: &str) {
        for instance in &**self.group.shared.instances.load() {
            match &instance.kind {
                Speaker::Ours(remote) => remote.cancel(request_id),
                Speaker::Foreign(foreign) => foreign.cancel(request_id),
            }
        }
    }

    fn keeps_usage(&self) -> bool {
        self.group.shared.config.kind == Kind::Hansa
    }

    fn finished(&self, wanted: Wanted) -> BoxFuture<'_, Vec<Finished>> {
        Box::pin(async move {
            let instances = self.group.shared.instances.load_full();
            let ours = instances.iter().filter_map(|i| i.ours());
            let found = join_all(ours.map(|remote| remote.finished(&wanted)));
            found.await.concat()
        })
    }

    fn acknowledge(&self, request_ids: &[Arc<str>]) {
        for instance in &**self.group.shared.instances.load() {
            if let Some(remote) = instance.ours() {
                remote.acknowledge(request_ids);
            }
        }
    }

    fn status(&self) -> UpstreamStatus {
        let instances = self.group.shared.instances.load();
        let parts = instances.iter().map(|i| i.status(&self.name.theirs));
        let mut status = combined(parts);
        self.group.shared.mark(&mut status);
        status
    }

    fn parts(&self) -> Vec<Part> {
        let instances = self.group.shared.instances.load();
        let parts = instances.iter().flat_map(|i| i.parts(&self.name.theirs));
        let mut parts: Vec<Part> = parts.collect();
        for part in &mut parts {
            self.group.shared.mark(&mut part.status);
        }
        parts
    }

    fn silence(&self) -> Option<BoxFuture<'static, ()>> {
        match &self.group.shared.instances.load()[..] {
            [one] => one.ours().map(Remote::silence),
            // Nobody knows here which of them serves.
            _ => None,
        }
    }

    fn drain(&self, grace: Duration) {
        let shared = &self.group.shared;
        // Several models share the group, and one timer is enough.
        if shared.draining.swap(true, Ordering::AcqRel) {
            return;
        }
        let closing = shared.closing.clone();
        shared.tasks.spawn(async move {
            sleep(grace).await;
            closing.cancel();
        });
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Group").field(&self.name()).finish()
    }
}
