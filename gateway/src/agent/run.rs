//! The agent as a process: listens for its nodes, keeps their jobs, and carries their connections.
//!
//! It ends when it is told to and leaves the jobs running: the agent that comes after it finds them by their names.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hansa_config::Config;
use hansa_config::schema::agent::Job;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use super::chain::{Chain, Command, Rules, Stage};
use super::relay::{Connected, Relay};
use super::script::{self, Common};
use super::slurm::Slurm;
use super::turn::Dialler;
use crate::clock::Clock;
use crate::drain::{Drain, DrainTimes};
use crate::layers::{host, peer};
use crate::limits::{ADMIN_CONNECTIONS_MAX, COMMANDS_PER_ROUND_MAX};
use crate::listener::{Listener, ListenerOptions};
use crate::serve::{self, Addresses, ServeError};
use crate::tls;
use crate::upstream::link::LinkTasks;
use crate::upstream::registry::Models;

/// An agent with its listeners bound. Nothing is submitted or accepted before [`AgentApp::run`].
pub struct AgentApp {
    config: Config,
    clock: Clock,
    relay: Relay,
    links: LinkTasks,
    nodes: (TcpListener, Router),
    operators: Option<TcpListener>,
    common: Common,
}

/// The jobs of one replica, and how they are made.
struct Replica {
    job: Job,
    name: String,
    chain: Chain,
}

/// Works on all replicas.
struct Foreman {
    replicas: Vec<Replica>,
    slurm: Slurm,
    common: Common,
    connected: Connected,
    clock: Clock,
    poll: Duration,
    board: Board,
    /// Whether Slurm did not answer the last time.
    deaf: bool,
}

/// What operators see of the jobs. Clones share it.
#[derive(Debug, Clone, Default)]
struct Board {
    told: Arc<Mutex<Vec<Value>>>,
}

impl AgentApp {
    /// Checks what can be checked without submitting, and binds.
    ///
    /// # Errors
    /// [`ServeError`], with nothing bound.
    pub async fn build(config: Config) -> Result<Self, ServeError> {
        serve::check_operators(&config)?;
        let gateway = config.agent.gateway.as_deref().unwrap_or_default();
        let dialler = Dialler::new(gateway, &config.peer)?;
        let mut peers = serve::peers(&config)?;
        // Nodes are all that has any business here.
        peers.alone = true;
        let links = LinkTasks::default();
        let relay = Relay::new(dialler, &links);
        let layer = from_fn_with_state(peers, peer::identify);
        let service = relay.clone().router().layer(layer);
        let nodes = serve::bind(config.server.listen).await?;
        let operators = match config.admin.listen {
            Some(address) => Some(serve::bind(address).await?),
            None => None,
        };
        let listen = nodes.local_addr().unwrap_or(config.server.listen);
        Ok(Self {
            common: common(&config, listen)?,
            clock: Clock::system(),
            config,
            relay,
            links,
            nodes: (nodes, service),
            operators,
        })
    }

    /// Where the agent listens: for nodes, and for operators.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        let bound = |listener: &TcpListener| listener.local_addr().ok();
        Addresses {
            listen: bound(&self.nodes.0).unwrap_or(self.config.server.listen),
            admin: self.operators.as_ref().and_then(bound),
        }
    }

    /// Keeps jobs and connections until `signal` resolves.
    ///
    /// # Errors
    /// [`ServeError::Tls`] where a certificate is missing.
    pub async fn run(self, signal: impl Future<Output = ()>) -> Result<(), ServeError> {
        let addresses = self.addresses();
        tracing::info!(listen = %addresses.listen, url = self.common.url, "listening for nodes; keeping jobs");
        let (drain, tasks) = (Drain::new(), TaskTracker::new());
        let acceptor = tls::acceptor(&self.config.server, &self.config.peer)?;
        let server = &self.config.server;
        let listener = |service, connections_max| {
            let options = ListenerOptions {
                connections_max,
                header_timeout: Duration::from_millis(server.header_timeout_ms),
                write_timeout: Duration::from_millis(server.write_timeout_ms),
            };
            Listener::new(service, options, drain.watch(), tasks.clone())
        };
        let mut foreman = Foreman::new(&self);
        let (socket, service) = self.nodes;
        let nodes = listener(service, server.connections_max).with_tls(acceptor);
        tasks.spawn(nodes.run(socket));
        if let Some(socket) = self.operators {
            let service = operators(foreman.board.clone());
            tasks.spawn(listener(service, ADMIN_CONNECTIONS_MAX).run(socket));
        }
        tokio::select! {
            () = foreman.work() => {}
            () = signal => {}
        }
        tracing::info!("stopping; the jobs stay");
        // Connections have nothing to finish here: nodes call again, and streams go on elsewhere.
        let none = Arc::new(Models::default());
        self.links.stop().await;
        drain
            .run(DrainTimes::NONE, &none, &tasks, std::future::pending())
            .await;
        Ok(())
    }
}

impl Foreman {
    fn new(app: &AgentApp) -> Self {
        let config = &app.config;
        let poll = Duration::from_secs(config.agent.poll_s);
        let replica = |job: &Job, number| Replica {
            name: script::name(job, number),
            chain: Chain::new(rules(job, poll)),
            job: job.clone(),
        };
        let jobs = config.jobs.iter();
        let replicas =
            jobs.flat_map(|job| (0..job.replicas).map(move |number| replica(job, number)));
        Self {
            replicas: replicas.collect(),
            slurm: Slurm::new(config.agent.slurm.clone()),
            common: app.common.clone(),
            connected: app.relay.connected(),
            clock: app.clock.clone(),
            poll,
            board: Board::default(),
            deaf: false,
        }
    }

    /// Looks and acts, for ever: at every poll, and when a node comes or goes.
    async fn work(&mut self) {
        let mut look_at = Duration::ZERO;
        loop {
            if self.clock.now() >= look_at {
                self.look().await;
                look_at = self.clock.now() + self.poll;
            }
            self.act().await;
            let wait = look_at.saturating_sub(self.clock.now());
            tokio::select! {
                () = sleep(wait) => {}
                () = self.connected.changed() => {}
            }
        }
    }

    /// Asks Slurm how the jobs stand. Where it does not say, nothing has changed as far as we know.
    async fn look(&mut self) {
        let asked = self.clock.now();
        let seen = match self.slurm.list().await {
            Ok(seen) => seen,
            Err(error) => {
                if !std::mem::replace(&mut self.deaf, true) {
                    tracing::warn!(%error, "Slurm does not say how the jobs stand; asking again");
                }
                return;
            }
        };
        if std::mem::replace(&mut self.deaf, false) {
            tracing::info!("Slurm answers again");
        }
        let mut by_name: HashMap<&str, Vec<_>> = HashMap::new();
        for job in &seen {
            by_name.entry(&job.name).or_default().push(job);
        }
        let now = self.clock.now();
        for replica in &mut self.replicas {
            let seen = by_name.get(replica.name.as_str());
            replica
                .chain
                .observed(seen.map_or(&[], Vec::as_slice), asked, now);
        }
    }

    /// Does what every replica needs.
    async fn act(&mut self) {
        let connected = self.connected.list();
        let (slurm, clock, common) = (&self.slurm, &self.clock, &self.common);
        for replica in &mut self.replicas {
            replica.chain.connected(&connected, clock.now());
            for _ in 0..COMMANDS_PER_ROUND_MAX {
                let Some(command) = replica.chain.next(clock.now()) else {
                    break;
                };
                if !replica.obey(command, slurm, common, clock).await {
                    break;
                }
            }
        }
        self.board.write(&self.replicas, clock.now());
    }
}

impl Replica {
    /// Does it; whether it went through.
    async fn obey(
        &mut self,
        command: Command,
        slurm: &Slurm,
        common: &Common,
        clock: &Clock,
    ) -> bool {
        let name = self.name.as_str();
        let (job, done) = match command {
            Command::Submit => {
                let arguments = script::arguments(&self.job, name, common);
                let submitted = slurm
                    .submit(&arguments, script::script(&self.job, common))
                    .await;
                let job = submitted.as_ref().ok().copied();
                self.chain.submitted(job, clock.now());
                (job, submitted.map(|_| ()))
            }
            Command::Finish(job) => (Some(job), slurm.finish(job).await),
            Command::Cancel(job) => (Some(job), slurm.cancel(job).await),
        };
        match &done {
            Ok(()) => tracing::info!(name, job, ?command, "told Slurm"),
            Err(error) => {
                tracing::warn!(name, job, ?command, %error, "Slurm did not do it; trying again");
                job.into_iter().for_each(|job| self.chain.refused(job));
            }
        }
        done.is_ok()
    }
}

impl Board {
    fn write(&self, replicas: &[Replica], now: Duration) {
        let told = replicas.iter().map(|replica| describe(replica, now));
        let told: Vec<Value> = told.collect();
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = told;
    }

    fn read(&self) -> Vec<Value> {
        let told = self.told.lock();
        told.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A replica as operators see it.
fn describe(replica: &Replica, now: Duration) -> Value {
    let jobs = replica.chain.jobs().iter().map(|job| {
        let state = match (job.stage, job.is_connected()) {
            (Stage::Waiting, _) => "waiting",
            (Stage::Running, true) => "serving",
            (Stage::Running, false) => "starting",
            (Stage::Leaving, _) => "leaving",
        };
        let left = job.ends.map(|ends| ends.saturating_sub(now).as_secs());
        json!({ "id": job.id, "state": state, "walltime_left_s": left })
    });
    json!({
        "name": replica.name,
        "node": replica.job.node,
        "serves": replica.chain.serves(),
        "lead_s": replica.chain.lead().as_secs(),
        "jobs": jobs.collect::<Vec<Value>>(),
    })
}

/// `/health/live`, `/health/ready` and `/admin/v1/jobs`.
fn operators(board: Board) -> Router {
    Router::new()
        .route(
            "/health/live",
            get(async || Json(json!({ "status": "live" }))),
        )
        .route("/health/ready", get(ready))
        .route("/admin/v1/jobs", get(jobs))
        .with_state(board)
        .layer(from_fn(host::check))
}

/// 200 where every replica serves.
async fn ready(State(board): State<Board>) -> Response {
    let replicas = board.read();
    let all = !replicas.is_empty() && replicas.iter().all(|replica| replica["serves"] == true);
    let (code, status) = match all {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
    };
    (
        code,
        Json(json!({ "status": status, "replicas": replicas })),
    )
        .into_response()
}

async fn jobs(State(board): State<Board>) -> Json<Value> {
    Json(json!({ "replicas": board.read() }))
}

fn rules(job: &Job, poll: Duration) -> Rules {
    Rules {
        time_limit: Duration::from_secs(job.time_limit_s),
        grace: Duration::from_secs(job.grace_s),
        load: Duration::from_secs(job.load_s),
        start_max: Duration::from_secs(job.start_max_s),
        poll,
    }
}

/// What jobs have in common, as the compute nodes see it.
fn common(config: &Config, listen: SocketAddr) -> Result<Common, ServeError> {
    let agent = &config.agent;
    let program = match &agent.program {
        Some(program) => Ok(program.clone()),
        None => std::env::current_exe(),
    };
    let output = absolute(agent.output.as_deref().unwrap_or(Path::new(".")));
    let scheme = if config.server.tls_cert.is_some() {
        "https"
    } else {
        "http"
    };
    let url = agent.url.clone();
    Ok(Common {
        program: program.map_err(ServeError::Place)?,
        output: output.map_err(ServeError::Place)?,
        url: url.unwrap_or_else(|| format!("{scheme}://{listen}")),
    })
}

fn absolute(path: &Path) -> io::Result<PathBuf> {
    std::path::absolute(path)
}

impl fmt::Debug for AgentApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentApp")
            .field("addresses", &self.addresses())
            .finish_non_exhaustive()
    }
}
