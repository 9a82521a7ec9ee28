//! Makes models of the config, and those that come later, into upstreams, and says how each is loaded.

mod found;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use hansa_config::schema::Discover;
use hansa_config::{Config, schema};

use self::found::Found;
use crate::agent::welcome::Callers;
use crate::clock::Clock;
use crate::energy::Energy;
use crate::federation::reach::ServerId;
use crate::route::decisions::Decisions;
use crate::route::facts::{CandidateId, Facts};
use crate::route::options::Options;
use crate::route::residency::{Rules, allow_list};
use crate::serve::ServeError;
use crate::telemetry::Metrics;
use crate::upstream::group::{Group, GroupError};
use crate::upstream::link::LinkTasks;
#[cfg(feature = "engine")]
use crate::upstream::local::Devices;
use crate::upstream::measured::Measured;
use crate::upstream::registry::{ModelInfo, Models};
use crate::upstream::roster::Roster;
use crate::upstream::{Upstream, discover};
use crate::walltime::moment;

/// Loads one model; resolves when it takes requests.
pub type Load = BoxFuture<'static, Result<(), StartFailed>>;

/// Why a model cannot be served, in one line that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("model '{model}': {reason}")]
pub struct StartFailed {
    /// Id of the model.
    pub model: String,
    /// What is wrong and what to do.
    pub reason: String,
}

/// Why a node or site cannot be called, in one line that says what to do.
#[derive(Debug, thiserror::Error)]
#[error("upstream '{name}': {reason}")]
pub struct UpstreamFailed {
    /// Its name in the config.
    pub name: String,
    /// What is wrong and what to do.
    pub reason: GroupError,
}

/// What models of this process are made with. Clones share the devices.
#[derive(Debug, Clone)]
pub struct Starter {
    metrics: Metrics,
    clock: Clock,
    route: schema::Route,
    energy: Energy,
    decisions: Arc<Decisions>,
    /// Who this server is to its peers.
    me: ServerId,
    /// When this machine is taken away.
    ends: Option<Duration>,
    #[cfg(feature = "engine")]
    devices: Devices,
}

/// What a server serves.
pub struct Prepared {
    /// Every model, none of them ready.
    pub models: Models,
    /// What makes those of this process so.
    pub loads: Vec<Load>,
    /// Servers that will call.
    pub callers: Callers,
}

/// A model that is not ready yet.
pub struct Started {
    /// What clients know of it.
    pub info: ModelInfo,
    /// Who serves it once it is loaded.
    pub upstream: Arc<dyn Upstream>,
    /// What loads it.
    pub load: Load,
}

/// Who provides the models of this process, as `/v1/models` says.
const OWNER: &str = "hansa";

/// Name of the site of models of this process where the config gives none.
pub(crate) const HERE: &str = "local";

/// What a section of the config lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A server of this site.
    Node,
    /// A gateway of another one.
    Site,
}

impl Starter {
    /// A starter without any device in use, which routes by the defaults.
    #[must_use]
    pub fn new(metrics: Metrics, clock: Clock) -> Self {
        Self {
            metrics,
            clock,
            route: schema::Route::default(),
            energy: Energy::default(),
            decisions: Arc::default(),
            me: ServerId::draw(),
            ends: None,
            #[cfg(feature = "engine")]
            devices: Devices::default(),
        }
    }

    /// The same one, which routes as `route` says.
    #[must_use]
    pub fn routed_by(self, route: &schema::Route) -> Self {
        let route = route.clone();
        Self { route, ..self }
    }

    /// The same one, where work of this process takes `energy`.
    #[must_use]
    pub fn with_energy(self, energy: &Energy) -> Self {
        let energy = energy.clone();
        Self { energy, ..self }
    }

    /// The same one, on a machine that is taken away at `ends` on its clock.
    #[must_use]
    pub fn ending(self, ends: Option<Duration>) -> Self {
        Self { ends, ..self }
    }

    /// Who this server is to its peers.
    #[must_use]
    pub const fn me(&self) -> ServerId {
        self.me
    }

    /// What tells the time.
    #[must_use]
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Upstreams for the models, nodes and sites of `config`, none of them ready, and what makes the models so; nodes and
    /// sites are watched in `links` from now on. One model of several of them is served by whom the router picks.
    ///
    /// # Errors
    /// [`StartFailed`] in a build without an engine; [`UpstreamFailed`] where a key or certificate is missing.
    pub fn prepare(&self, config: &Config, links: &LinkTasks) -> Result<Prepared, ServeError> {
        let roster = self.roster();
        let (mut table, mut loads) = (Vec::new(), Vec::new());
        for model in &config.models {
            let started = self.start_in(&roster, model)?;
            table.push((started.info, started.upstream));
            loads.push(started.load);
        }
        let nodes = config.nodes.iter().map(|node| (Place::Node, node));
        let sites = config.sites.iter().map(|site| (Place::Site, site));
        for (place, upstream) in nodes.chain(sites) {
            self.remote((place, upstream), &config.peer, &roster, links)?;
        }
        let remote = config.nodes.iter().chain(&config.sites);
        for name in remote.flat_map(|upstream| &upstream.models) {
            if !table.iter().any(|(known, _)| *known.id == *name.ours) {
                let routed: Arc<dyn Upstream> = Arc::new(roster.model(&name.ours));
                table.push((self.info(&name.ours), routed));
            }
        }
        let models = Models::new(table).with_decisions(Arc::clone(&self.decisions));
        let makers = (self.clone(), roster);
        Ok(Prepared {
            models,
            loads,
            callers: Callers::new(&config.nodes, &config.peer, makers, links),
        })
    }

    /// Adds each model of a node or site to `roster`.
    fn remote(
        &self,
        (place, upstream): (Place, &schema::Upstream),
        peer: &schema::Peer,
        roster: &Roster,
        links: &LinkTasks,
    ) -> Result<(), UpstreamFailed> {
        match upstream.discover {
            // They come by themselves.
            Discover::Agent => Ok(()),
            Discover::Static => {
                let group = Group::new(upstream, peer, self.me, &self.clock, links);
                let group = group.map_err(failed(upstream))?;
                group.set(&[None]);
                self.enlist((place, upstream), &group, roster).map(|_| ())
            }
            Discover::Dns | Discover::File => {
                let found = Found::new(self, (place, upstream), peer, roster, links)?;
                discover::start(upstream, found, links);
                Ok(())
            }
        }
    }

    /// Adds each model of a node that has called to `roster`, as candidates whose numbers it gives.
    ///
    /// # Errors
    /// [`UpstreamFailed`] where the roster is full; then nothing was added.
    pub(crate) fn enlist_node(
        &self,
        node: &schema::Upstream,
        group: &Group,
        roster: &Roster,
    ) -> Result<Vec<CandidateId>, UpstreamFailed> {
        self.enlist((Place::Node, node), group, roster)
    }

    fn enlist(
        &self,
        (place, upstream): (Place, &schema::Upstream),
        group: &Group,
        roster: &Roster,
    ) -> Result<Vec<CandidateId>, UpstreamFailed> {
        let ends = upstream.ends_at_s.map(|at| moment(at, &self.clock));
        let mut added = Vec::new();
        for name in &upstream.models {
            let (metrics, clock) = (self.metrics.clone(), self.clock.clone());
            let id = Arc::from(name.ours.as_str());
            let model = Measured::new(group.model(name.clone()), id, metrics, clock);
            let model = model.until(ends).taking(Energy::there(upstream));
            let facts = self.there(place, upstream, &name.ours);
            let Some(id) = roster.add(facts, Arc::new(model)) else {
                added.into_iter().for_each(|id| roster.remove(id));
                return Err(failed(upstream)(GroupError::TooMany));
            };
            added.push(id);
        }
        Ok(added)
    }

    fn info(&self, id: &str) -> ModelInfo {
        ModelInfo {
            id: Arc::from(id),
            created_s: self.clock.unix_s(),
            owned_by: OWNER,
        }
    }

    /// An upstream for `model` that is not ready, and what makes it so.
    ///
    /// # Errors
    /// [`StartFailed`] in a build without an engine.
    pub fn start(&self, model: &schema::Model) -> Result<Started, StartFailed> {
        // Nobody else serves a model that comes later. Alone in a roster it goes as a whole, and one of the same id that
        // comes after it has nothing to do with it.
        self.start_in(&self.roster(), model)
    }

    fn start_in(&self, roster: &Roster, model: &schema::Model) -> Result<Started, StartFailed> {
        let (upstream, load) = self.local(model)?;
        // The config has fewer models than a roster has places.
        let _ = roster.add(self.here(model), upstream);
        let info = self.info(&model.id);
        Ok(Started {
            info,
            upstream: Arc::new(roster.model(&model.id)),
            load,
        })
    }

    /// A roster of nobody that routes as the config says.
    fn roster(&self) -> Roster {
        let base = Rules {
            countries: allow_list(&self.route.allow_countries),
            sites: allow_list(&self.route.allow_sites),
            // Whether to opt in is each request's to say.
            experimental: true,
            purpose: None,
        };
        let options = Options::from(&self.route);
        let (clock, metrics) = (self.clock.clone(), self.metrics.clone());
        Roster::new(options, base, Arc::clone(&self.decisions), clock, metrics)
    }

    /// What is known of a model of this process.
    fn here(&self, model: &schema::Model) -> Facts {
        Facts {
            country: self.route.home_country.as_deref().map(Arc::from),
            ..Facts::new(&format!("local:{}", model.id), self.home(), "", &model.id)
        }
    }

    /// What the config says of a model of a node or site. A node stands where its site does, unless it says otherwise.
    fn there(&self, place: Place, upstream: &schema::Upstream, model: &str) -> Facts {
        let name = upstream.name.as_str();
        let (site, node, country) = match place {
            Place::Node => (self.home(), name, self.route.home_country.as_deref()),
            Place::Site => {
                // One of several gateways of a site has its number behind the site's name.
                let (site, gateway) = name.split_once('/').unwrap_or((name, ""));
                (site, gateway, None)
            }
        };
        let country = upstream.country.as_deref().or(country);
        Facts {
            country: country.map(Arc::from),
            experimental: upstream.experimental,
            rtt: Duration::from_millis(upstream.rtt_ms.unwrap_or(0).into()),
            hop: upstream.kind == schema::Kind::Hansa,
            ..Facts::new(name, site, node, model)
        }
    }

    fn home(&self) -> &str {
        self.route.home_site.as_deref().unwrap_or(HERE)
    }

    #[cfg(feature = "engine")]
    fn local(&self, model: &schema::Model) -> Result<(Arc<dyn Upstream>, Load), StartFailed> {
        use crate::upstream::local::LocalUpstream;

        let local = LocalUpstream::new(model.clone(), self.clock.clone(), self.devices.clone());
        let (id, loading) = (model.id.clone(), local.clone());
        let load = async move {
            let failed = |reason| StartFailed { model: id, reason };
            loading.load().await.map_err(failed)
        };
        let id = Arc::from(model.id.as_str());
        let (metrics, clock) = (self.metrics.clone(), self.clock.clone());
        let measured = Measured::new(local, id, metrics, clock);
        let measured = measured.until(self.ends).taking(self.energy.clone());
        Ok((Arc::new(measured), Box::pin(load)))
    }

    #[cfg(not(feature = "engine"))]
    fn local(&self, model: &schema::Model) -> Result<(Arc<dyn Upstream>, Load), StartFailed> {
        Err(StartFailed {
            model: model.id.clone(),
            reason: "this build has no engine; build with the cargo feature `engine`".to_owned(),
        })
    }
}

fn failed(upstream: &schema::Upstream) -> impl Fn(GroupError) -> UpstreamFailed {
    let name = upstream.name.clone();
    move |reason| UpstreamFailed {
        name: name.clone(),
        reason,
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared")
            .field("models", &self.models)
            .field("callers", &self.callers)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Started {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Started").field(&self.info.id).finish()
    }
}
