//! Several upstreams of one model as one: the first that is ready serves. The simplest choice there is, in the place where a
//! router belongs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::federation::status::combined;
use crate::upstream::embedding::{EmbedRequest, Embeddings};
use crate::upstream::{
    EventStream, GenerateRequest, Readiness, Upstream, UpstreamError, UpstreamErrorKind,
    UpstreamStatus, UpstreamTotals,
};

/// Upstreams of one model, at least one.
pub struct FirstReady(Vec<Arc<dyn Upstream>>);

impl FirstReady {
    /// The one of `upstreams`, or all of them as one.
    #[must_use]
    pub fn of(mut upstreams: Vec<Arc<dyn Upstream>>) -> Arc<dyn Upstream> {
        match (upstreams.len(), upstreams.pop()) {
            (1, Some(only)) => only,
            (_, last) => {
                upstreams.extend(last);
                Arc::new(Self(upstreams))
            }
        }
    }

    fn pick(&self) -> Result<&Arc<dyn Upstream>, UpstreamError> {
        let ready = |one: &&Arc<dyn Upstream>| one.status().readiness == Readiness::Ready;
        let ready = self.0.iter().find(ready);
        ready.ok_or_else(|| UpstreamErrorKind::NotReady.into())
    }
}

impl Upstream for FirstReady {
    fn generate(
        &self,
        request: Arc<GenerateRequest>,
    ) -> BoxFuture<'_, Result<EventStream, UpstreamError>> {
        Box::pin(async move { self.pick()?.generate(request).await })
    }

    fn count_tokens(
        &self,
        request: Arc<GenerateRequest>,
    ) -> BoxFuture<'_, Result<u32, UpstreamError>> {
        Box::pin(async move { self.pick()?.count_tokens(request).await })
    }

    fn embed(
        &self,
        request: Arc<EmbedRequest>,
    ) -> BoxFuture<'_, Result<Embeddings, UpstreamError>> {
        Box::pin(async move { self.pick()?.embed(request).await })
    }

    fn cancel(&self, request_id: &str) {
        for one in &self.0 {
            one.cancel(request_id);
        }
    }

    fn status(&self) -> UpstreamStatus {
        combined(self.0.iter().map(|one| one.status()))
    }

    fn totals(&self) -> UpstreamTotals {
        let totals = self.0.iter().map(|one| one.totals());
        totals.fold(UpstreamTotals::default(), |sum, one| UpstreamTotals {
            steps: sum.steps + one.steps,
            prefill_tokens: sum.prefill_tokens + one.prefill_tokens,
            decode_tokens: sum.decode_tokens + one.decode_tokens,
            preemptions: sum.preemptions + one.preemptions,
            prefix_tokens: sum.prefix_tokens + one.prefix_tokens,
            prefix_hit_tokens: sum.prefix_hit_tokens + one.prefix_hit_tokens,
        })
    }

    fn drain(&self, grace: Duration) {
        for one in &self.0 {
            one.drain(grace);
        }
    }
}

impl fmt::Debug for FirstReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FirstReady").field(&self.0.len()).finish()
    }
}
