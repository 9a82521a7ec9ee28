//! Makes the models of the config into upstreams, and says how each is loaded.

use std::sync::Arc;

use futures::future::BoxFuture;
use hansa_config::schema;

use crate::clock::Clock;
use crate::route::facts::Facts;
use crate::route::options::Options;
use crate::route::residency::{Rules, allow_list};
use crate::telemetry::Metrics;
use crate::upstream::Upstream;
use crate::upstream::registry::{ModelInfo, Models};
use crate::upstream::routed::Fleet;

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

/// Name of the site of models of this process where the config gives none.
const HERE: &str = "local";

/// The upstreams of `config`'s models, none of them ready, and what makes them so.
///
/// # Errors
/// [`StartFailed`] in a build without an engine.
pub fn prepare(
    config: &schema::Config,
    metrics: &Metrics,
    clock: &Clock,
) -> Result<(Models, Vec<Load>), StartFailed> {
    let fleet = fleet(&config.route, metrics, clock);
    let (mut table, mut loads) = (Vec::new(), Vec::new());
    for model in &config.models {
        let (upstream, load) = local(model, metrics, clock)?;
        loads.push(load);
        // The config has fewer models than a fleet has places.
        let _ = fleet.add(here(&config.route, model), upstream);
        let info = ModelInfo {
            id: Arc::from(model.id.as_str()),
            created_s: clock.unix_s(),
            owned_by: OWNER,
        };
        let routed: Arc<dyn Upstream> = Arc::new(fleet.model(&model.id));
        table.push((info, routed));
    }
    let models = Models::new(table).with_decisions(fleet.decisions());
    Ok((models, loads))
}

/// A fleet of nobody that routes as the config says.
fn fleet(route: &schema::Route, metrics: &Metrics, clock: &Clock) -> Fleet {
    let base = Rules {
        countries: allow_list(&route.allow_countries),
        sites: allow_list(&route.allow_sites),
        // Whether to opt in is each request's to say.
        experimental: true,
        purpose: None,
    };
    Fleet::new(Options::from(route), base, clock.clone(), metrics.clone())
}

/// What is known of a model of this process.
fn here(route: &schema::Route, model: &schema::Model) -> Facts {
    let site = route.home_site.as_deref().unwrap_or(HERE);
    Facts {
        country: route.home_country.as_deref().map(Arc::from),
        ..Facts::new(&format!("local:{}", model.id), site, "", &model.id)
    }
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
