//! Which upstream serves which model of the API.
//!
//! The table is fixed when the server is built; what a client names is looked up here and nowhere else. It must not know
//! how an upstream works.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::federation::status::combined;
use crate::upstream::{Readiness, Upstream, UpstreamStatus, UpstreamTotals};

/// The models of this server, in the order of the config.
#[derive(Default)]
pub struct Models {
    entries: Vec<Entry>,
}

struct Entry {
    info: ModelInfo,
    /// At least one.
    upstreams: Vec<Arc<dyn Upstream>>,
}

impl Entry {
    /// The upstream for the next request: the first that is ready.
    fn pick(&self) -> Option<&Arc<dyn Upstream>> {
        let ready = |upstream: &&Arc<dyn Upstream>| upstream.status().readiness == Readiness::Ready;
        let alone = self.upstreams.len() == 1;
        let ready = self
            .upstreams
            .iter()
            .find(|upstream| alone || ready(upstream));
        ready.or_else(|| self.upstreams.first())
    }

    /// The work of all of them.
    fn totals(&self) -> UpstreamTotals {
        let totals = self.upstreams.iter().map(|upstream| upstream.totals());
        totals.fold(UpstreamTotals::default(), |sum, one| UpstreamTotals {
            steps: sum.steps + one.steps,
            prefill_tokens: sum.prefill_tokens + one.prefill_tokens,
            decode_tokens: sum.decode_tokens + one.decode_tokens,
            preemptions: sum.preemptions + one.preemptions,
            prefix_tokens: sum.prefix_tokens + one.prefix_tokens,
            prefix_hit_tokens: sum.prefix_hit_tokens + one.prefix_hit_tokens,
        })
    }

    /// The figures of all of them as those of one.
    fn status(&self) -> UpstreamStatus {
        combined(self.upstreams.iter().map(|upstream| upstream.status()))
    }
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
    /// A table of these models. An id that comes again is one more upstream of the same model.
    #[must_use]
    pub fn new(models: Vec<(ModelInfo, Arc<dyn Upstream>)>) -> Self {
        let mut entries: Vec<Entry> = Vec::new();
        for (info, upstream) in models {
            match entries.iter_mut().find(|entry| entry.info.id == info.id) {
                Some(entry) => entry.upstreams.push(upstream),
                None => entries.push(Entry {
                    info,
                    upstreams: vec![upstream],
                }),
            }
        }
        Self { entries }
    }

    /// Stops the request of that id wherever it runs.
    pub fn cancel(&self, request_id: &str) {
        for upstream in self.upstreams() {
            upstream.cancel(request_id);
        }
    }

    fn upstreams(&self) -> impl Iterator<Item = &Arc<dyn Upstream>> {
        self.entries.iter().flat_map(|entry| &entry.upstreams)
    }

    /// The upstream that serves `id`.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<dyn Upstream>> {
        let entry = self.entries.iter().find(|entry| &*entry.info.id == id)?;
        entry.pick().cloned()
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
            .map(|entry| (Arc::clone(&entry.info.id), entry.status()))
            .collect()
    }

    /// Work of each model since its start.
    #[must_use]
    pub fn totals(&self) -> Vec<(Arc<str>, UpstreamTotals)> {
        self.entries
            .iter()
            .map(|entry| (Arc::clone(&entry.info.id), entry.totals()))
            .collect()
    }

    /// Lets every upstream finish for `grace` and fail what is left then.
    pub fn drain(&self, grace: Duration) {
        for upstream in self.upstreams() {
            upstream.drain(grace);
        }
    }

    /// Whether there is a model and every one takes requests.
    #[must_use]
    pub fn all_ready(&self) -> bool {
        !self.entries.is_empty()
            && self
                .entries
                .iter()
                .all(|entry| entry.status().readiness == Readiness::Ready)
    }
}

impl fmt::Debug for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.entries.iter().map(|entry| &entry.info.id))
            .finish()
    }
}
