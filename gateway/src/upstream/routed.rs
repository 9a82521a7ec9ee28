//! Several upstreams of a model as one: what `route` decides, done.
//!
//! [`Routed`] is one model of a [`Roster`] as an [`Upstream`]. A request becomes a `Journey` (`journey.rs`), which tries
//! (`retry.rs`) and goes on elsewhere (`resume.rs`).

mod embed;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::{BoxFuture, join_all};

use crate::federation::reach::{Part, sum, told};
use crate::route::Unplaced;
use crate::route::decision::{Attempt, Reason};
use crate::upstream::journey::Journey;
use crate::upstream::retry::{Leg, Trip};
use crate::upstream::roster::{Inner, Roster};
use crate::upstream::sums::{resident, total};
use crate::upstream::usage::{Finished, Wanted};
use crate::upstream::{
    EmbedRequest, Embeddings, EventStream, GenerateRequest, Readiness, Resident, Upstream,
    UpstreamError, UpstreamErrorKind, UpstreamStatus, UpstreamTotals,
};

/// One model of a roster as an upstream.
#[derive(Clone)]
pub struct Routed {
    roster: Roster,
    model: Arc<str>,
}

impl Routed {
    /// The model `model` of `roster`.
    pub(super) const fn new(roster: Roster, model: Arc<str>) -> Self {
        Self { roster, model }
    }

    /// Who counts tokens for a request: anyone who may see it.
    fn counter(&self, request: &Arc<GenerateRequest>) -> Result<Leg, UpstreamError> {
        let mut trip = Trip::new(&self.roster.inner, request);
        trip.depart(Attempt::Count)
            .map_err(|unplaced| self.nobody(&unplaced))
    }

    /// Why nobody serves, as an error.
    fn nobody(&self, unplaced: &Unplaced) -> UpstreamError {
        nobody(unplaced, &self.roster.inner, &self.model)
    }
}

/// Why nobody serves, as an error: what the rules forbid is for ever, everything else may pass.
pub(super) fn nobody(unplaced: &Unplaced, roster: &Inner, model: &str) -> UpstreamError {
    let filtered = &unplaced.0.filtered;
    let reasons = [Reason::Residency, Reason::Experimental, Reason::Purpose];
    let barred: u32 = reasons.map(|reason| filtered.of(reason)).iter().sum();
    let all: u32 = filtered.iter().map(|(_, count)| count).sum();
    if all > 0 && barred == all {
        return UpstreamErrorKind::NoSiteAllowed.into();
    }
    if all > 0 && barred + filtered.of(Reason::Allocation) == all {
        return UpstreamErrorKind::NothingLeft.into();
    }
    let upstreams = roster.upstreams(model);
    let all_leave = upstreams.iter().all(|upstream| leaves(upstream.as_ref()));
    match !upstreams.is_empty() && all_leave {
        true => UpstreamErrorKind::ShuttingDown.into(),
        false => UpstreamErrorKind::NotReady.into(),
    }
}

/// Whether someone may take a request soon whom nobody takes now: a candidate has failed it, or is ejected, or takes nothing
/// at the moment. Whoever has one upstream alone does not try it twice, and nobody waits for a fleet that leaves.
pub(super) fn may_come_back(unplaced: &Unplaced, roster: &Inner, model: &str) -> bool {
    let filtered = &unplaced.0.filtered;
    let reasons = [Reason::Tried, Reason::NotReady, Reason::Ejected];
    let hopeful = reasons.iter().any(|reason| filtered.of(*reason) > 0);
    let upstreams = roster.upstreams(model);
    hopeful && upstreams.len() > 1 && !upstreams.iter().all(|one| leaves(one.as_ref()))
}

fn leaves(upstream: &dyn Upstream) -> bool {
    upstream.status().readiness == Readiness::Draining
}

impl Upstream for Routed {
    fn generate(
        &self,
        request: Arc<GenerateRequest>,
    ) -> BoxFuture<'_, Result<EventStream, UpstreamError>> {
        let journey = Journey::new(&self.roster.inner, &request);
        Box::pin(async move { Ok(journey.boxed()) })
    }

    fn counts_tokens(&self) -> bool {
        let roster = &self.roster.inner;
        roster.any(&self.model, |upstream| upstream.counts_tokens())
    }

    fn count_tokens(
        &self,
        request: Arc<GenerateRequest>,
    ) -> BoxFuture<'_, Result<u32, UpstreamError>> {
        Box::pin(async move {
            if !self.counts_tokens() {
                return Ok(request.prompt_tokens_max());
            }
            let leg = self.counter(&request)?;
            leg.upstream.count_tokens(request).await
        })
    }

    fn embed(
        &self,
        request: Arc<EmbedRequest>,
    ) -> BoxFuture<'_, Result<Embeddings, UpstreamError>> {
        Box::pin(embed::embed(&self.roster.inner, request))
    }

    fn cancel(&self, request_id: &str) {
        for upstream in self.roster.inner.upstreams(&self.model) {
            upstream.cancel(request_id);
        }
    }

    fn keeps_usage(&self) -> bool {
        let roster = &self.roster.inner;
        roster.any(&self.model, |upstream| upstream.keeps_usage())
    }

    fn finished(&self, wanted: Wanted) -> BoxFuture<'_, Vec<Finished>> {
        Box::pin(async move {
            let served = self.roster.inner.places(&self.model);
            let asked = served.iter().map(async |(site, upstream)| {
                let mut found = upstream.finished(wanted.clone()).await;
                let here = |one: &mut Finished| one.site = Some(Arc::clone(site));
                found.iter_mut().for_each(here);
                found
            });
            join_all(asked).await.concat()
        })
    }

    fn acknowledge(&self, request_ids: &[Arc<str>]) {
        for upstream in self.roster.inner.upstreams(&self.model) {
            upstream.acknowledge(request_ids);
        }
    }

    fn status(&self) -> UpstreamStatus {
        let upstreams = self.roster.inner.upstreams(&self.model);
        sum(upstreams.iter().flat_map(|upstream| upstream.parts()))
    }

    fn parts(&self) -> Vec<Part> {
        let roster = &self.roster.inner;
        let upstreams = roster.upstreams(&self.model);
        let parts = upstreams.iter().flat_map(|upstream| upstream.parts());
        told(parts, !roster.asks_others(&self.model))
    }

    fn totals(&self) -> UpstreamTotals {
        let upstreams = self.roster.inner.upstreams(&self.model);
        total(upstreams.iter().map(|upstream| upstream.totals()))
    }

    fn sequences_in_flight_max(&self) -> Option<u32> {
        let upstreams = self.roster.inner.upstreams(&self.model);
        let each = upstreams.iter().map(|u| u.sequences_in_flight_max());
        // One that does not tell may hold any number.
        let all: Option<Vec<u32>> = each.collect();
        all?.into_iter().max()
    }

    fn drain(&self, grace: Duration) {
        for upstream in self.roster.inner.upstreams(&self.model) {
            upstream.drain(grace);
        }
    }

    fn ended(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            for upstream in self.roster.inner.upstreams(&self.model) {
                upstream.ended().await;
            }
        })
    }

    fn resident(&self) -> Resident {
        let upstreams = self.roster.inner.upstreams(&self.model);
        resident(upstreams.iter().map(|upstream| upstream.resident()))
    }
}

impl fmt::Debug for Routed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Routed").field(&self.model).finish()
    }
}

#[cfg(test)]
#[cfg(feature = "engine")]
mod tests;
