//! Makes models of the config, and those that come later, into upstreams, and says how each is loaded.

use std::sync::Arc;

use futures::future::BoxFuture;
use hansa_config::schema;

use crate::clock::Clock;
use crate::telemetry::Metrics;
use crate::upstream::Upstream;
#[cfg(feature = "engine")]
use crate::upstream::local::Devices;
use crate::upstream::registry::{ModelInfo, Models};

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

    /// Upstreams for `models`, none of them ready, and what makes them so.
    ///
    /// # Errors
    /// [`StartFailed`] in a build without an engine.
    pub fn prepare(&self, models: &[schema::Model]) -> Result<(Models, Vec<Load>), StartFailed> {
        let (mut table, mut loads) = (Vec::new(), Vec::new());
        for model in models {
            let started = self.start(model)?;
            table.push((started.info, started.upstream));
            loads.push(started.load);
        }
        Ok((Models::new(table), loads))
    }

    /// An upstream for `model` that is not ready, and what makes it so.
    ///
    /// # Errors
    /// [`StartFailed`] in a build without an engine.
    pub fn start(&self, model: &schema::Model) -> Result<Started, StartFailed> {
        let (upstream, load) = self.local(model)?;
        let info = ModelInfo {
            id: Arc::from(model.id.as_str()),
            created_s: self.clock.unix_s(),
            owned_by: OWNER,
        };
        Ok(Started {
            info,
            upstream,
            load,
        })
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
