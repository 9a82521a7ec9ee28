//! Makes models of the config, and those that come later, into upstreams, and says how each is loaded.

use std::sync::Arc;

use futures::future::BoxFuture;
use hansa_config::schema;

use crate::clock::Clock;
use crate::route::decisions::Decisions;
use crate::route::facts::Facts;
use crate::route::options::Options;
use crate::route::residency::{Rules, allow_list};
use crate::telemetry::Metrics;
use crate::upstream::Upstream;
#[cfg(feature = "engine")]
use crate::upstream::local::Devices;
use crate::upstream::registry::{ModelInfo, Models};
use crate::upstream::routed::Roster;

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

/// What models of this process are made with. Clones share the devices.
#[derive(Debug, Clone)]
pub struct Starter {
    metrics: Metrics,
    clock: Clock,
    route: schema::Route,
    decisions: Arc<Decisions>,
    #[cfg(feature = "engine")]
    devices: Devices,
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
const HERE: &str = "local";

impl Starter {
    /// A starter without any device in use, which routes by the defaults.
    #[must_use]
    pub fn new(metrics: Metrics, clock: Clock) -> Self {
        Self {
            metrics,
            clock,
            route: schema::Route::default(),
            decisions: Arc::default(),
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

    /// Upstreams for `models`, none of them ready, and what makes them so.
    ///
    /// # Errors
    /// [`StartFailed`] in a build without an engine.
    pub fn prepare(&self, models: &[schema::Model]) -> Result<(Models, Vec<Load>), StartFailed> {
        let roster = self.roster();
        let (mut table, mut loads) = (Vec::new(), Vec::new());
        for model in models {
            let started = self.start_in(&roster, model)?;
            table.push((started.info, started.upstream));
            loads.push(started.load);
        }
        let models = Models::new(table).with_decisions(Arc::clone(&self.decisions));
        Ok((models, loads))
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
        let info = ModelInfo {
            id: Arc::from(model.id.as_str()),
            created_s: self.clock.unix_s(),
            owned_by: OWNER,
        };
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
        let site = self.route.home_site.as_deref().unwrap_or(HERE);
        Facts {
            country: self.route.home_country.as_deref().map(Arc::from),
            ..Facts::new(&format!("local:{}", model.id), site, "", &model.id)
        }
    }

    #[cfg(feature = "engine")]
    fn local(&self, model: &schema::Model) -> Result<(Arc<dyn Upstream>, Load), StartFailed> {
        use crate::upstream::local::LocalUpstream;
        use crate::upstream::measured::Measured;

        let local = LocalUpstream::new(model.clone(), self.clock.clone(), self.devices.clone());
        let (id, loading) = (model.id.clone(), local.clone());
        let load = async move {
            let failed = |reason| StartFailed { model: id, reason };
            loading.load().await.map_err(failed)
        };
        let id = Arc::from(model.id.as_str());
        let (metrics, clock) = (self.metrics.clone(), self.clock.clone());
        let measured = Measured::new(local, id, metrics, clock);
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

impl std::fmt::Debug for Started {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Started").field(&self.info.id).finish()
    }
}
