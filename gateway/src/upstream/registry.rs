//! Which upstream serves which model of the API.
//!
//! The table is fixed when the server is built; what a client names is looked up here and nowhere else. It must not know
//! how an upstream works.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::route::decisions::Decisions;
use crate::upstream::{Readiness, Upstream, UpstreamStatus, UpstreamTotals};

/// The models of this server, in the order of the config.
#[derive(Default)]
pub struct Models {
    entries: Vec<Entry>,
    decisions: Arc<Decisions>,
}

struct Entry {
    info: ModelInfo,
    upstream: Arc<dyn Upstream>,
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
            .map(|(info, upstream)| Entry { info, upstream })
            .collect();
        Self {
            entries,
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

    /// The upstream that serves `id`.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<dyn Upstream>> {
        self.entries
            .iter()
            .find(|entry| &*entry.info.id == id)
            .map(|entry| Arc::clone(&entry.upstream))
    }

    /// What is known of each model.
    #[must_use]
    pub fn list(&self) -> Vec<ModelInfo> {
        self.entries
            .iter()
            .map(|entry| entry.info.clone())
            .collect()
    }

    /// Figures of each model at this moment.
    #[must_use]
    pub fn statuses(&self) -> Vec<(Arc<str>, UpstreamStatus)> {
        self.entries
            .iter()
            .map(|entry| (Arc::clone(&entry.info.id), entry.upstream.status()))
            .collect()
    }

    /// Work of each model since its start.
    #[must_use]
    pub fn totals(&self) -> Vec<(Arc<str>, UpstreamTotals)> {
        self.entries
            .iter()
            .map(|entry| (Arc::clone(&entry.info.id), entry.upstream.totals()))
            .collect()
    }

    /// Lets every upstream finish for `grace` and fail what is left then.
    pub fn drain(&self, grace: Duration) {
        for entry in &self.entries {
            entry.upstream.drain(grace);
        }
    }

    /// Whether there is a model and every one takes requests.
    #[must_use]
    pub fn all_ready(&self) -> bool {
        !self.entries.is_empty()
            && self
                .entries
                .iter()
                .all(|entry| entry.upstream.status().readiness == Readiness::Ready)
    }
}

impl fmt::Debug for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.entries.iter().map(|entry| &entry.info.id))
            .finish()
    }
}
