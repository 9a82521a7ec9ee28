//! Makes models of the config, and those that come later, into upstreams, and says how each is loaded.

use std::sync::Arc;

use futures::future::BoxFuture;
use hansa_config::{Config, schema};

use crate::clock::Clock;
use crate::serve::ServeError;
use crate::telemetry::Metrics;
use crate::upstream::first_ready::FirstReady;
use crate::upstream::group::{Group, GroupError};
use crate::upstream::link::LinkTasks;
#[cfg(feature = "engine")]
use crate::upstream::local::Devices;
use crate::upstream::measured::Measured;
use crate::upstream::registry::{ModelInfo, Models};
use crate::upstream::{Upstream, discover};

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

/// Models with one upstream each time they are found.
type Found = Vec<(ModelInfo, Arc<dyn Upstream>)>;

/// Each model once, in the order in which they were found, with all of its upstreams as one.
fn by_model(found: Found) -> Found {
    let mut models: Vec<(ModelInfo, Vec<Arc<dyn Upstream>>)> = Vec::new();
    for (info, upstream) in found {
        match models.iter_mut().find(|(known, _)| known.id == info.id) {
            Some((_, upstreams)) => upstreams.push(upstream),
            None => models.push((info, vec![upstream])),
        }
    }
    let as_one = |(info, upstreams)| (info, FirstReady::of(upstreams));
    models.into_iter().map(as_one).collect()
}

impl Starter {
    /// A starter without any device in use.
    #[must_use]
    pub fn new(metrics: Metrics, clock: Clock) -> Self {
        Self {
            metrics,
            clock,
            #[cfg(feature = "engine")]
            devices: Devices::default(),
        }
    }

    /// Upstreams for the models, nodes and sites of `config`, none of them ready, and what makes the models so; nodes and
    /// sites are watched in `links` from now on.
    ///
    /// # Errors
    /// [`StartFailed`] in a build without an engine; [`UpstreamFailed`] where a key or certificate is missing.
    pub fn prepare(
        &self,
        config: &Config,
        links: &LinkTasks,
    ) -> Result<(Models, Vec<Load>), ServeError> {
        let (mut found, mut loads) = (Vec::new(), Vec::new());
        for model in &config.models {
            let started = self.start(model)?;
            found.push((started.info, started.upstream));
            loads.push(started.load);
        }
        for upstream in config.nodes.iter().chain(&config.sites) {
            found.extend(self.remote(upstream, config, links)?);
        }
        Ok((Models::new(by_model(found)), loads))
    }

    /// An upstream for each model of a node or site.
    fn remote(
        &self,
        upstream: &schema::Upstream,
        config: &Config,
        links: &LinkTasks,
    ) -> Result<Found, UpstreamFailed> {
        let group = Group::new(upstream, &config.peer, &self.clock, links);
        let group = group.map_err(|reason| UpstreamFailed {
            name: upstream.name.clone(),
            reason,
        })?;
        discover::start(upstream, &group, links);
        let entry = |name: &schema::ModelName| {
            let (metrics, clock) = (self.metrics.clone(), self.clock.clone());
            let id = Arc::from(name.ours.as_str());
            let model = group.model(name.clone());
            let measured: Arc<dyn Upstream> = Arc::new(Measured::new(model, id, metrics, clock));
            (self.info(&name.ours), measured)
        };
        Ok(upstream.models.iter().map(entry).collect())
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
        let (upstream, load) = self.local(model)?;
        let info = self.info(&model.id);
        Ok(Started {
            info,
            upstream,
            load,
        })
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
