//! Makes the models of the config into upstreams, and says how each is loaded.

use std::sync::Arc;

use futures::future::BoxFuture;
use hansa_config::{Config, schema};

use crate::clock::Clock;
use crate::serve::ServeError;
use crate::telemetry::Metrics;
use crate::upstream::group::{Group, GroupError};
use crate::upstream::link::LinkTasks;
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

/// Who provides the models of this process, as `/v1/models` says.
const OWNER: &str = "hansa";

type Table = Vec<(ModelInfo, Arc<dyn Upstream>)>;

/// Upstreams for the models, nodes and sites of `config`, none of them ready, and what makes the models so; nodes and sites
/// are watched in `links` from now on.
///
/// # Errors
/// [`StartFailed`] in a build without an engine; [`UpstreamFailed`] where a key or certificate is missing.
pub fn prepare(
    config: &Config,
    metrics: &Metrics,
    clock: &Clock,
    links: &LinkTasks,
) -> Result<(Models, Vec<Load>), ServeError> {
    let (mut table, mut loads): (Table, _) = (Vec::new(), Vec::new());
    for model in &config.models {
        let (upstream, load) = local(model, metrics, clock)?;
        table.push((info(&model.id, clock), upstream));
        loads.push(load);
    }
    for upstream in config.nodes.iter().chain(&config.sites) {
        table.extend(remote(upstream, config, metrics, clock, links)?);
    }
    Ok((Models::new(table), loads))
}

fn info(id: &str, clock: &Clock) -> ModelInfo {
    ModelInfo {
        id: Arc::from(id),
        created_s: clock.unix_s(),
        owned_by: OWNER,
    }
}

/// An upstream for each model of a node or site.
fn remote(
    upstream: &schema::Upstream,
    config: &Config,
    metrics: &Metrics,
    clock: &Clock,
    links: &LinkTasks,
) -> Result<Table, UpstreamFailed> {
    let group = Group::new(upstream, &config.peer, clock, links);
    let group = group.map_err(|reason| UpstreamFailed {
        name: upstream.name.clone(),
        reason,
    })?;
    discover::start(upstream, &group, links);
    let entry = |name: &schema::ModelName| {
        let model = group.model(name.clone());
        let id = Arc::from(name.ours.as_str());
        let measured = Measured::new(model, id, metrics.clone(), clock.clone());
        let measured: Arc<dyn Upstream> = Arc::new(measured);
        (info(&name.ours, clock), measured)
    };
    Ok(upstream.models.iter().map(entry).collect())
}

#[cfg(feature = "engine")]
fn local(
    model: &schema::Model,
    metrics: &Metrics,
    clock: &Clock,
) -> Result<(Arc<dyn Upstream>, Load), StartFailed> {
    use crate::upstream::local::LocalUpstream;

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
