//! Models that come and go while the server runs.
//!
//! A model that is added is listed at once and loads beside the others; whether it succeeds shows in its state. One that is
//! removed is not found any more from that moment on, ends what it has, and gives its memory back.

use std::sync::Arc;
use std::time::Duration;

use hansa_config::schema;
use tokio_util::task::TaskTracker;

use crate::drain::{DrainWatch, Phase};
use crate::start::{StartFailed, Started, Starter};
use crate::telemetry::Metrics;
use crate::upstream::Upstream;
use crate::upstream::registry::{AddError, Listed, Models};

/// Adds and removes models. Clones share everything.
#[derive(Debug, Clone)]
pub struct Fleet {
    models: Arc<Models>,
    starter: Starter,
    metrics: Metrics,
    drain: DrainWatch,
    tasks: TaskTracker,
    grace: Duration,
}

/// Why a model was not added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FleetError {
    /// The table has no place for it.
    #[error(transparent)]
    Add(#[from] AddError),
    /// This build cannot run it.
    #[error(transparent)]
    Start(#[from] StartFailed),
    /// The server is leaving.
    #[error("the server is shutting down")]
    Leaving,
}

impl Fleet {
    /// The models of a server whose background work runs as `tasks`, and whose streams get `grace` when their model goes.
    #[must_use]
    pub fn new(
        models: Arc<Models>,
        starter: Starter,
        metrics: Metrics,
        drain: DrainWatch,
        (tasks, grace): (TaskTracker, Duration),
    ) -> Self {
        Self {
            models,
            starter,
            metrics,
            drain,
            tasks,
            grace,
        }
    }

    /// Every model.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        self.models.listed()
    }

    /// Lists `model` and begins to load it.
    ///
    /// # Errors
    /// [`FleetError`], and nothing has changed.
    pub fn add(&self, model: &schema::Model) -> Result<(), FleetError> {
        if self.drain.phase() != Phase::Serving {
            return Err(FleetError::Leaving);
        }
        let Started {
            info,
            upstream,
            load,
        } = self.starter.start(model)?;
        self.models.add(info, upstream)?;
        let (id, drain) = (model.id.clone(), self.drain.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                loaded = load => match loaded {
                    Ok(()) => tracing::info!(model = id, "added"),
                    Err(error) => tracing::error!(%error, "a model that was added does not load"),
                },
                () = drain.reached(Phase::Draining) => {}
            }
        });
        Ok(())
    }

    /// Removes a model and waits until it has ended and its memory is free. It goes on to its end if nobody waits.
    /// False where there is none of that id.
    pub async fn remove(&self, id: &str) -> bool {
        let Some(upstream) = self.models.remove(id) else {
            return false;
        };
        let last = upstream.status();
        upstream.drain(self.grace);
        let (id, metrics, drain) = (Arc::from(id), self.metrics.clone(), self.drain.clone());
        let ending = self.tasks.spawn(async move {
            ended(upstream, drain).await;
            metrics.model_left(&id, &last);
            tracing::info!(model = &*id, "removed");
        });
        // A panic of the task is logged where it happened; the model is out of the table either way.
        let _ = ending.await;
        true
    }
}

async fn ended(upstream: Arc<dyn Upstream>, drain: DrainWatch) {
    tokio::select! {
        () = upstream.ended() => {}
        () = drain.reached(Phase::Closed) => {}
    }
}

#[cfg(test)]
#[cfg(feature = "engine")]
mod tests;
