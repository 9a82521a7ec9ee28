//! Makes the models of the config into upstreams, and says how each is loaded.

use std::sync::Arc;

use futures::future::BoxFuture;
use hansa_config::schema;

use crate::clock::Clock;
use crate::telemetry::Metrics;
use crate::upstream::Upstream;
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

/// Who provides the models of this process, as `/v1/models` says.
const OWNER: &str = "hansa";

/// Upstreams for `models`, none of them ready, and what makes them so.
///
/// # Errors
/// [`StartFailed`] in a build without an engine.
pub fn prepare(
    models: &[schema::Model],
    metrics: &Metrics,
    clock: &Clock,
) -> Result<(Models, Vec<Load>), StartFailed> {
    let (mut table, mut loads) = (Vec::new(), Vec::new());
    for model in models {
        let id: Arc<str> = Arc::from(model.id.as_str());
        let (upstream, load) = local(model, metrics, clock)?;
        let info = ModelInfo {
            id,
            created_s: clock.unix_s(),
            owned_by: OWNER,
        };
        table.push((info, upstream));
        loads.push(load);
    }
    Ok((Models::new(table), loads))
}

#[cfg(feature = "engine")]
fn local(
    model: &schema::Model,
    metrics: &Metrics,
    clock: &Clock,
) -> Result<(Arc<dyn Upstream>, Load), StartFailed> {
    use crate::upstream::local::LocalUpstream;
    use crate::upstream::measured::Measured;

    let local = LocalUpstream::new(model.clone(), clock.clone());
    let (id, loading) = (model.id.clone(), local.clone());
    let load = async move {
        let failed = |reason| StartFailed { model: id, reason };
        loading.load().await.map_err(failed)
    };
    let id = Arc::from(model.id.as_str());
    let measured = Measured::new(local, id, metrics.clone(), clock.clone());
    Ok((Arc::new(measured), Box::pin(load)))
}

#[cfg(not(feature = "engine"))]
fn local(
    model: &schema::Model,
    _: &Metrics,
    _: &Clock,
) -> Result<(Arc<dyn Upstream>, Load), StartFailed> {
    Err(StartFailed {
        model: model.id.clone(),
        reason: "this build has no engine; build with the cargo feature `engine`".to_owned(),
    })
}
