//! Which upstream serves which model of the API.
//!
//! What a client names is looked up here and nowhere else. The table is a snapshot that is replaced as a whole when a model
//! comes or goes, so that nobody who reads it waits. It must not know how an upstream works.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::future::join_all;

use crate::federation::reach::Part;
use crate::limits::MODELS_MAX;
use crate::route::decisions::Decisions;
use crate::upstream::usage::{Finished, Wanted};
use crate::upstream::{Readiness, Upstream, UpstreamStatus, UpstreamTotals};

/// The models of this server, those of the config first, in its order.
#[derive(Default)]
pub struct Models {
    entries: ArcSwap<Vec<Entry>>,
    /// Held while the table is replaced.
    changing: Mutex<()>,
    decisions: Arc<Decisions>,
}

#[derive(Clone)]
struct Entry {
    info: ModelInfo,
    upstream: Arc<dyn Upstream>,
    origin: Origin,
}

/// How a model came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The config lists it: the server is not ready before it is.
    Config,
    /// It was added while the server ran. Whether it is ready says nothing of the server, which served before it came.
    Added,
}

/// Why a model cannot be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// Another one has its id.
    #[error("a model of that id is served already")]
    Taken,
    /// There are as many as one process serves.
    #[error("no more than {MODELS_MAX} models are served at once")]
    Full,
}

/// A model as operators see it.
pub struct Listed {
    /// What clients know of it.
    pub info: ModelInfo,
    /// How it came here.
    pub origin: Origin,
    /// Who serves it.
    pub upstream: Arc<dyn Upstream>,
}

/// What `/v1/models` says of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// Name in the API.
    pub id: Arc<str>,
    /// When it came to be known, seconds since the epoch.
    pub created_s: i64,
    /// Who provides it.
    pub owned_by: &'static str,
}

impl Models {
    /// A table of these models. Ids are unique: the config is checked before it comes here, and of two equal ids the
    /// first would serve.
    #[must_use]
    pub fn new(models: Vec<(ModelInfo, Arc<dyn Upstream>)>) -> Self {
        let entries = models
            .into_iter()
            .map(|(info, upstream)| Entry {
                info,
                upstream,
                origin: Origin::Config,
            })
            .collect();
        Self {
            entries: ArcSwap::new(Arc::new(entries)),
            changing: Mutex::new(()),
            decisions: Arc::default(),
        }
    }

    /// The same models, whose requests leave their decisions in `decisions`.
    #[must_use]
    pub fn with_decisions(self, decisions: Arc<Decisions>) -> Self {
        Self { decisions, ..self }
    }

    /// Why requests went where they went.
    #[must_use]
    pub fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// Adds a model to a server that runs.
    ///
    /// # Errors
    /// [`AddError`], and nothing has changed.
    pub fn add(&self, info: ModelInfo, upstream: Arc<dyn Upstream>) -> Result<(), AddError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries = Vec::clone(&self.entries.load());
        if entries.iter().any(|entry| entry.info.id == info.id) {
            return Err(AddError::Taken);
        }
        if entries.len() >= MODELS_MAX {
            return Err(AddError::Full);
        }
        let origin = Origin::Added;
        entries.push(Entry {
            info,
            upstream,
            origin,
        });
        self.entries.store(Arc::new(entries));
        Ok(())
    }

    /// Takes a model out; requests that have it already go on with it.
    pub fn remove(&self, id: &str) -> Option<Arc<dyn Upstream>> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries = Vec::clone(&self.entries.load());
        let index = entries.iter().position(|entry| &*entry.info.id == id)?;
        let removed = entries.remove(index);
        self.entries.store(Arc::new(entries));
        Some(removed.upstream)
    }

    /// Every model with whoever serves it.
    #[must_use]
    pub fn listed(&self) -> Vec<Listed> {
        let entries = self.entries.load();
        let listed = entries.iter().cloned().map(|entry| Listed {
            info: entry.info,
            origin: entry.origin,
            upstream: entry.upstream,
        });
        listed.collect()
    }

    /// The upstream that serves `id`.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<dyn Upstream>> {
        self.entries
            .load()
            .iter()
            .find(|entry| &*entry.info.id == id)
            .map(|entry| Arc::clone(&entry.upstream))
    }

    /// Stops the request of that id wherever it runs.
    pub fn cancel(&self, request_id: &str) {
        for entry in self.entries.load().iter() {
            entry.upstream.cancel(request_id);
        }
    }

    /// What upstreams have kept of requests that are over.
    pub async fn finished(&self, wanted: Wanted) -> Vec<Finished> {
        let entries = self.entries.load_full();
        let asked = entries
            .iter()
            .map(|entry| entry.upstream.finished(wanted.clone()));
        join_all(asked).await.concat()
    }

    /// Lets upstreams forget what is settled.
    pub fn acknowledge(&self, request_ids: &[Arc<str>]) {
        for entry in self.entries.load().iter() {
            entry.upstream.acknowledge(request_ids);
        }
    }

    /// What is known of each model.
    #[must_use]
    pub fn list(&self) -> Vec<ModelInfo> {
        self.entries
            .load()
            .iter()
            .map(|entry| entry.info.clone())
            .collect()
    }

    /// Figures of each model at this moment.
    #[must_use]
    pub fn statuses(&self) -> Vec<(Arc<str>, UpstreamStatus)> {
        self.entries
            .load()
            .iter()
            .map(|entry| (Arc::clone(&entry.info.id), entry.upstream.status()))
            .collect()
    }

    /// The same by whose capacity it is, as peers are told.
    #[must_use]
    pub fn parts(&self) -> Vec<(Arc<str>, Vec<Part>)> {
        self.entries
            .load()
            .iter()
            .map(|entry| (Arc::clone(&entry.info.id), entry.upstream.parts()))
            .collect()
    }

    /// What the tokens of the model depend on, where that is known and the same wherever it is served: see
    /// [`UpstreamStatus::numerics`].
    #[must_use]
    pub fn numerics(&self, id: &str) -> Option<Arc<str>> {
        match &self.get(id)?.status().numerics[..] {
            [one] => Some(one.as_str().into()),
            _ => None,
        }
    }

    /// Work of each model since its start.
    #[must_use]
    pub fn totals(&self) -> Vec<(Arc<str>, UpstreamTotals)> {
        self.entries
            .load()
            .iter()
            .map(|entry| (Arc::clone(&entry.info.id), entry.upstream.totals()))
            .collect()
    }

    /// Lets every upstream finish for `grace` and fail what is left then.
    pub fn drain(&self, grace: Duration) {
        for entry in self.entries.load().iter() {
            entry.upstream.drain(grace);
        }
    }

    /// Whether there is a model and every one of the config takes requests.
    #[must_use]
    pub fn all_ready(&self) -> bool {
        let entries = self.entries.load();
        let mut wanted = entries
            .iter()
            .filter(|entry| entry.origin == Origin::Config);
        !entries.is_empty()
            && wanted.all(|entry| entry.upstream.status().readiness == Readiness::Ready)
    }

    /// Why the server is not ready, of the models of the config: the gravest state.
    #[must_use]
    pub fn gravest(&self) -> Option<Readiness> {
        let entries = self.entries.load();
        let wanted = entries
            .iter()
            .filter(|entry| entry.origin == Origin::Config);
        let states = wanted.map(|entry| entry.upstream.status().readiness);
        states.max_by_key(gravity)
    }
}

/// How much is wrong.
const fn gravity(readiness: &Readiness) -> u8 {
    match readiness {
        Readiness::Ready => 0,
        Readiness::Warming => 1,
        Readiness::Loading => 2,
        Readiness::Draining => 3,
        Readiness::Stalled => 4,
        Readiness::Failed(_) => 5,
    }
}

impl fmt::Debug for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listed").field(&self.info.id).finish()
    }
}

impl fmt::Debug for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.entries.load().iter().map(|entry| &entry.info.id))
            .finish()
    }
}

#[cfg(test)]
mod tests;
