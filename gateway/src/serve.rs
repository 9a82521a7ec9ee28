//! A whole server: bound, loading, serving, drained.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use hansa_config::Config;
use hansa_config::secret::SecretError;
use metrics_exporter_prometheus::BuildError;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use crate::admin;
use crate::agent::keep::Keeper;
use crate::agent::turn::DiallerError;
use crate::agent::welcome::{self, Callers};
use crate::clock::Clock;
use crate::collect::collect;
use crate::drain::{Drain, DrainTimes, Drained, Phase};
use crate::energy::{self, Energy};
use crate::federation::kept::Kept;
use crate::federation::{self, Control};
use crate::fleet::Fleet;
use crate::health::Health;
use crate::layers::authenticate::Gate;
use crate::layers::peer::Peers;
use crate::limits::{ADMIN_CONNECTIONS_MAX, METRICS_UPKEEP, RETENTION_PERIOD};
use crate::listener::{Listener, ListenerOptions};
use crate::openai::metering::Metering;
use crate::openai::{Api, Passed};
use crate::quota;
use crate::quota::ledger::LedgerError;
use crate::quota::open::OpenError;
use crate::quota::retention;
use crate::stack::{self, Shared, Stack};
use crate::start::{Load, StartFailed, Starter, UpstreamFailed};
use crate::telemetry::Metrics;
use crate::tenant::{TenantError, Tenants};
use crate::tls::{self, Acceptor, TlsError};
use crate::upstream::link::LinkTasks;
use crate::upstream::registry::Models;
use crate::walltime;

/// A server with its listeners bound. Nothing is loaded or accepted before [`App::run`].
pub struct App {
    core: Core,
    loads: Vec<Load>,
    keeper: Option<Keeper>,
    clients: TcpListener,
    operators: Option<TcpListener>,
}

/// What everything in the server shares.
struct Core {
    config: Config,
    clock: Clock,
    metrics: Metrics,
    models: Arc<Models>,
    starter: Starter,
    drain: Drain,
    tasks: TaskTracker,
    /// Connections to nodes and sites, and what watches them.
    links: LinkTasks,
    tls: Option<Acceptor>,
    peers: Peers,
    tenants: Tenants,
    /// What peers' requests used that are over.
    kept: Kept,
    energy: Energy,
    /// Servers that call this one.
    callers: Callers,
    /// When this machine is taken away.
    ends: Option<Duration>,
}

/// Where a server listens, as it tells whoever started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Addresses {
    /// For clients.
    pub listen: SocketAddr,
    /// For operators.
    pub admin: Option<SocketAddr>,
}

/// Why a server does not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Without authentication everyone who reaches the address could use the models.
    #[error(
        "{key} = \"{address}\" can be reached from other machines, but nobody has to prove who they are: no API keys are \
         configured; add some with [[tenant]] and [[key]], or listen on 127.0.0.1 and put a proxy that authenticates in front, \
         or for a server that only peers call, configure [peer]"
    )]
    NotLoopback {
        /// The key of the config.
        key: &'static str,
        /// Its value.
        address: SocketAddr,
    },
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {error}; choose another, or port 0 for a free one")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// A model cannot be served.
    #[error(transparent)]
    Start(#[from] StartFailed),
    /// A node or site cannot be called.
    #[error(transparent)]
    Upstream(#[from] UpstreamFailed),
    /// A certificate is missing or wrong.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The secret of peers is missing.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The gateway of `[dial]` or `[agent]` cannot be called.
    #[error(transparent)]
    Dial(#[from] DiallerError),
    /// The ledger stopped working.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The quotas cannot be opened.
    #[error(transparent)]
    Quota(#[from] OpenError),
    /// Tenants and keys do not fit together.
    #[error(transparent)]
    Tenants(#[from] TenantError),
    /// This process does not know where it is.
    #[error("the folder or program of this process cannot be found: {0}")]
    Place(io::Error),
    /// The metrics cannot be set up.
    #[error("the metrics cannot be set up: {0}")]
    Metrics(#[from] BuildError),
}

impl App {
    /// Checks what can be checked without loading, and binds.
    ///
    /// # Errors
    /// [`ServeError`], with nothing bound.
    pub async fn build(config: Config) -> Result<Self, ServeError> {
        check(&config)?;
        let (clock, metrics) = (Clock::system(), Metrics::new()?);
        let (tls, peers) = (
            tls::acceptor(&config.server, &config.peer)?,
            peers(&config)?,
        );
        let links = LinkTasks::default();
        let tenants = Tenants::open(&config, quota::open::open(&config, &clock)?)?;
        tenants.quota().replay()?;
        let energy = Energy::here(&config.energy);
        let ends = walltime::find(&config.server, &clock).await;
        let starter = Starter::new(metrics.clone(), clock.clone());
        let starter = starter.routed_by(&config.route).ending(ends);
        let starter = starter.with_energy(&energy);
        let prepared = starter.prepare(&config, &links)?;
        let keeper = Keeper::of(&config, &clock)?;
        let clients = bind(config.server.listen).await?;
        let operators = match config.admin.listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let core = Core {
            config,
            kept: Kept::new(clock.clone()),
            energy,
            clock,
            metrics,
            models: Arc::new(prepared.models),
            starter,
            drain: Drain::new(),
            tasks: TaskTracker::new(),
            links,
            tls,
            peers,
            tenants,
            callers: prepared.callers,
            ends,
        };
        Ok(Self {
            core,
            loads: prepared.loads,
            keeper,
            clients,
            operators,
        })
    }

    /// Where the server listens; free ports are known by now.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        let bound = |listener: &TcpListener| listener.local_addr().ok();
        Addresses {
            listen: bound(&self.clients).unwrap_or(self.core.config.server.listen),
            admin: self.operators.as_ref().and_then(bound),
        }
    }

    /// Accepts at once, loads the models meanwhile, and serves until `signal` resolves; then drains. A second signal
    /// cuts the drain short.
    ///
    /// # Errors
    /// [`ServeError::Start`] where a model does not load.
    pub async fn run(self, mut signal: impl AsyncFnMut()) -> Result<Drained, ServeError> {
        let Addresses { listen, admin } = self.addresses();
        let admin = admin.map(tracing::field::display);
        tracing::info!(%listen, admin, "listening; loading the models");
        let Self {
            core,
            loads,
            keeper,
            clients,
            operators,
        } = self;
        let listener = core.accept(clients, operators);
        core.keep_metrics();
        core.share_quota();
        core.keep_retention();
        core.keep_energy();
        core.collect();
        let ledger_failed = core.tenants.quota().failed();
        tokio::select! {
            () = ledger_failed => {
                core.drain(DrainTimes::NONE, std::future::pending()).await;
                return Err(LedgerError::Failed.into());
            }
            failed = core.load(loads, keeper, listener) => {
                core.drain(DrainTimes::NONE, std::future::pending()).await;
                return Err(failed.into());
            }
            () = signal() => {}
            () = core.ends_soon() => tracing::info!("the time of this machine is nearly over"),
        }
        tracing::info!("draining");
        let times = walltime::within(core.drain_times(), core.ends, core.clock.now());
        let drained = core.drain(times, signal()).await;
        core.tenants.quota().leave().await;
        core.close_ledger().await?;
        tracing::info!(?drained, "stopped");
        Ok(drained)
    }
}

impl Core {
    /// Starts both accept loops; they end when the drain begins. Gives what serves clients.
    fn accept(&self, clients: TcpListener, operators: Option<TcpListener>) -> Listener {
        let health = Health {
            models: Arc::clone(&self.models),
            drain: self.drain.watch(),
        };
        if let Some(acceptor) = operators {
            let service = admin::router(&self.metrics, health.clone(), self.fleet(), self.gate());
            let listener = self.listener(service, ADMIN_CONNECTIONS_MAX);
            self.tasks.spawn(listener.run(acceptor));
        }
        let control = Control {
            models: Arc::clone(&self.models),
            me: self.starter.me(),
            drain: self.drain.watch(),
            kept: self.kept.clone(),
        };
        let calls = welcome::router(self.callers.clone());
        let others = federation::router(control).merge(calls);
        let service = stack::build(self.api(), others, &self.shared(health));
        let listener = self.listener(service, self.config.server.connections_max);
        let listener = listener.with_tls(self.tls.clone());
        self.tasks.spawn(listener.clone().run(clients));
        listener
    }

    fn fleet(&self) -> Fleet {
        Fleet::new(
            Arc::clone(&self.models),
            self.starter.clone(),
            self.metrics.clone(),
            self.drain.watch(),
            (self.tasks.clone(), self.drain_times().grace),
        )
    }

    fn api(&self) -> Api {
        Api::new(
            Arc::clone(&self.models),
            self.config.limits.clone(),
            Passed::of(&self.config),
            Duration::from_millis(self.config.server.ping_after_ms),
            self.clock.clone(),
        )
        .metered(Metering {
            quota: self.tenants.quota().clone(),
            tasks: self.tasks.clone(),
            links: self.links.clone(),
            kept: self.kept.clone(),
        })
    }

    /// Keeps up with other gateways, where they share quotas with this one; until the last request is over.
    fn share_quota(&self) {
        self.links.spawn(self.tenants.quota().clone().keep_leases());
        self.links.spawn(self.tenants.clone().follow());
    }

    /// Waits until all that was settled is safe.
    async fn close_ledger(&self) -> Result<(), LedgerError> {
        let ledger = Arc::clone(self.tenants.quota().ledger());
        let flushed = tokio::task::spawn_blocking(move || ledger.flush()).await;
        flushed.unwrap_or(Err(LedgerError::Failed))
    }

    fn gate(&self) -> Gate {
        Gate {
            tenants: self.tenants.clone(),
            clock: self.clock.clone(),
        }
    }

    fn shared(&self, health: Health) -> Shared {
        Shared {
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            health,
            body_bytes_max: self.config.limits.body_bytes_max,
            body_timeout: Duration::from_millis(self.config.server.body_timeout_ms),
            peers: self.peers.clone(),
            tasks: self.tasks.clone(),
            gate: self.gate(),
        }
    }

    fn listener(&self, service: impl Into<Stack>, connections_max: u32) -> Listener {
        let server = &self.config.server;
        let options = ListenerOptions {
            connections_max,
            header_timeout: Duration::from_millis(server.header_timeout_ms),
            write_timeout: Duration::from_millis(server.write_timeout_ms),
        };
        Listener::new(service, options, self.drain.watch(), self.tasks.clone())
    }

    /// Settles what an earlier life of this server left open.
    fn collect(&self) {
        let quota = self.tenants.quota().clone();
        self.links.spawn(collect(Arc::clone(&self.models), quota));
    }

    fn keep_energy(&self) {
        let (config, clock) = (self.config.energy.clone(), self.clock.clone());
        let (energy, models) = (self.energy.clone(), Arc::clone(&self.models));
        self.links
            .spawn(energy::watch(energy, config, models, clock));
    }

    fn keep_metrics(&self) {
        let (metrics, drain) = (self.metrics.clone(), self.drain.watch());
        self.tasks.spawn(async move {
            let upkeep = async {
                loop {
                    sleep(METRICS_UPKEEP).await;
                    metrics.upkeep();
                }
            };
            tokio::select! {
                () = upkeep => {}
                () = drain.reached(Phase::Draining) => {}
            }
        });
    }

    /// Deletes records whose time is over, now and then.
    fn keep_retention(&self) {
        let (tenants, clock) = (self.tenants.clone(), self.clock.clone());
        let drain = self.drain.watch();
        self.tasks.spawn(async move {
            let keeping = async {
                loop {
                    sweep(tenants.clone(), clock.unix_s()).await;
                    sleep(RETENTION_PERIOD).await;
                }
            };
            tokio::select! {
                () = keeping => {}
                () = drain.reached(Phase::Draining) => {}
            }
        });
    }

    /// Loads every model, then calls the gateway where there is one to call, and waits for ever; resolves only where one
    /// fails.
    async fn load(
        &self,
        loads: Vec<Load>,
        keeper: Option<Keeper>,
        listener: Listener,
    ) -> StartFailed {
        let began = self.clock.now();
        if let Err(failed) = try_join_all(loads).await {
            return failed;
        }
        let seconds = self.clock.now().saturating_sub(began).as_secs_f64();
        let models = self.models.list().len();
        tracing::info!(models, seconds, "ready");
        if let Some(keeper) = keeper {
            let connections = self.config.dial.connections;
            keeper.start(connections, listener, &self.drain.watch(), &self.tasks);
        }
        std::future::pending().await
    }

    /// Resolves when this machine is about to be taken away; never where no end is known.
    async fn ends_soon(&self) {
        let Some(ends) = self.ends else {
            return std::future::pending().await;
        };
        let now = self.clock.now();
        let left = walltime::leave_at(ends, self.drain_times(), now).saturating_sub(now);
        tracing::info!(
            seconds = left.as_secs(),
            "this machine is lent for some time"
        );
        sleep(left).await;
    }

    fn drain_times(&self) -> DrainTimes {
        DrainTimes {
            delay: Duration::from_millis(self.config.server.drain_delay_ms),
            grace: Duration::from_millis(self.config.server.grace_ms),
        }
    }

    async fn drain(&self, times: DrainTimes, force: impl Future<Output = ()>) -> Drained {
        let drained = self.drain.run(times, &self.models, &self.tasks, force);
        let drained = drained.await;
        self.links.stop().await;
        drained
    }
}

/// Reads the ledger through, off the event loop.
async fn sweep(tenants: Tenants, now_s: i64) {
    if tenants.keep_for_ever() {
        return;
    }
    let swept = tokio::task::spawn_blocking(move || {
        let ledger = tenants.quota().ledger();
        retention::sweep(&**ledger, now_s, |record| tenants.term(record))
    });
    match swept.await {
        Ok(Ok(0) | Err(LedgerError::Fixed)) | Err(_) => {}
        Ok(Ok(records)) => tracing::info!(records, "deleted records whose time is over"),
        Ok(Err(error)) => tracing::warn!(%error, "records whose time is over cannot be deleted"),
    }
}

fn check(config: &Config) -> Result<(), ServeError> {
    // Where strangers reach a listener, keys keep them out, or only peers are served.
    if !config.authenticates() && !config.peer.can_authenticate() {
        loopback("server.listen", Some(config.server.listen))?;
    }
    check_operators(config)
}

/// Operators prove nothing, so only this machine may reach their listener.
pub(crate) fn check_operators(config: &Config) -> Result<(), ServeError> {
    loopback("admin.listen", config.admin.listen)
}

/// How peers are known.
pub(crate) fn peers(config: &Config) -> Result<Peers, SecretError> {
    let source = config.peer.secret_file.as_ref();
    let secret = source.map(|source| source.read()).transpose()?;
    Ok(Peers {
        secret: secret.map(Arc::new),
        alone: !config.authenticates() && !config.server.listen.ip().is_loopback(),
    })
}

fn loopback(key: &'static str, address: Option<SocketAddr>) -> Result<(), ServeError> {
    match address {
        Some(address) if !address.ip().is_loopback() => {
            Err(ServeError::NotLoopback { key, address })
        }
        _ => Ok(()),
    }
}

pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| ServeError::Bind { address, error })
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("addresses", &self.addresses())
            .field("models", &self.core.models)
            .finish_non_exhaustive()
    }
}
