//! Several upstreams of a model as one: what `route` decides, done.
//!
//! [`Roster`] holds the router and everyone that it may pick, for all models of a server; [`Routed`] is one model of it as
//! an [`Upstream`]. A request becomes a `Journey` (`journey.rs`), which tries (`retry.rs`) and goes on elsewhere
//! (`resume.rs`). No lock is held across a wait.

mod embed;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::{BoxFuture, join_all};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::clock::Clock;
use crate::fairness::Claim;
use crate::federation::status::combined;
use crate::limits::FIGURES_KEPT;
use crate::route::decision::{Attempt, Reason};
use crate::route::decisions::Decisions;
use crate::route::facts::{CandidateId, Facts, Figures};
use crate::route::means::Means;
use crate::route::options::Options;
use crate::route::prefix::HashKey;
use crate::route::residency::Rules;
use crate::route::{Ask, End, Router, Ticket, Unplaced};
use crate::telemetry::Metrics;
use crate::upstream::journey::Journey;
use crate::upstream::purse::Purse;
use crate::upstream::queue::Queue;
use crate::upstream::retry::{Leg, Trip};
use crate::upstream::sums::{resident, total};
use crate::upstream::usage::{Finished, Wanted};
use crate::upstream::{
    EmbedRequest, Embeddings, EventStream, GenerateRequest, Readiness, Resident, Upstream,
    UpstreamError, UpstreamErrorKind, UpstreamStatus, UpstreamTotals,
};

/// Everyone who may serve a request of this server. Clones share it.
#[derive(Clone)]
pub struct Roster {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    state: Mutex<State>,
    /// What every request of this server is held to.
    base: Rules,
    pub(super) options: Options,
    /// Places on the way for requests whose connection died.
    pub(super) moves: Semaphore,
    /// Where requests wait while every candidate has a line.
    pub(super) queue: Queue,
    pub(super) decisions: Arc<Decisions>,
    pub(super) clock: Clock,
    metrics: Metrics,
    pub(super) key: HashKey,
    /// Whether upstreams may come later than the requests that go on there.
    grows: AtomicBool,
}

struct State {
    router: Router,
    /// By the candidate's index.
    members: Vec<Option<Member>>,
}

struct Member {
    upstream: Arc<dyn Upstream>,
    /// When its figures were read.
    read_at: Option<Duration>,
}

impl Roster {
    /// A roster of nobody, which routes by `options`, lets nothing beyond `base`, and notes in `decisions`.
    #[must_use]
    pub fn new(
        options: Options,
        base: Rules,
        decisions: Arc<Decisions>,
        clock: Clock,
        metrics: Metrics,
    ) -> Self {
        let seed = Uuid::new_v4().as_u64_pair();
        let state = State {
            router: Router::new(options.clone(), seed.0 ^ seed.1),
            members: Vec::new(),
        };
        let moves = options.moves_in_flight_max as usize;
        let inner = Inner {
            state: Mutex::new(state),
            base,
            queue: Queue::new(options.queue_max, clock.clone(), metrics.clone()),
            options,
            moves: Semaphore::new(moves),
            decisions,
            clock,
            metrics,
            key: HashKey::new(Uuid::new_v4().as_u64_pair()),
            grows: AtomicBool::new(false),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Adds who serves `facts.model`, under the name and in the place that `facts` give. `None` where there are too many.
    pub fn add(&self, facts: Facts, upstream: Arc<dyn Upstream>) -> Option<CandidateId> {
        let now = self.inner.clock.now();
        let mut state = self.inner.state();
        let id = state.router.add(facts, now)?;
        let places = state.members.len().max(id.index() + 1);
        state.members.resize_with(places, || None);
        if let Some(place) = state.members.get_mut(id.index()) {
            *place = Some(Member {
                upstream,
                read_at: None,
            });
        }
        Some(id)
    }

    /// Takes out a candidate; what it serves goes on.
    pub fn remove(&self, id: CandidateId) {
        let mut state = self.inner.state();
        state.router.remove(id);
        if let Some(place) = state.members.get_mut(id.index()) {
            *place = None;
        }
    }

    /// Says that upstreams will come and go: a stream may have to go on with one that is not there when it begins.
    pub fn grows(&self) {
        self.inner.grows.store(true, Ordering::Relaxed);
    }

    /// One model of the roster.
    #[must_use]
    pub fn model(&self, model: &str) -> Routed {
        Routed {
            roster: self.clone(),
            model: model.into(),
        }
    }

    /// Why requests went where they went.
    #[must_use]
    pub fn decisions(&self) -> Arc<Decisions> {
        Arc::clone(&self.inner.decisions)
    }

    /// Requests in flight over all candidates of a model (I10).
    #[must_use]
    pub fn in_flight(&self, model: &str) -> u32 {
        let state = self.inner.state();
        let router = &state.router;
        let ids = router.candidates(model).iter();
        ids.map(|id| router.in_flight(*id)).sum()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a stream that begins now may have to go on elsewhere.
    pub(super) fn may_move(&self, candidates: usize) -> bool {
        candidates > 1 || self.grows.load(Ordering::Relaxed)
    }

    /// Candidates of a model.
    pub(super) fn candidates(&self, model: &str) -> usize {
        self.state().router.candidates(model).len()
    }

    /// Whether candidates of a model take requests and all of these have a long line.
    pub(super) fn is_full(&self, model: &str) -> bool {
        let now = self.clock.now();
        let mut state = self.state();
        state.read_figures(model, now, FIGURES_KEPT);
        state.router.is_full(model)
    }

    /// What a request counts where requests wait.
    pub(super) fn claim(&self, request: &GenerateRequest, prompt_bytes: u64) -> Claim {
        let state = self.state();
        let router = &state.router;
        Claim {
            class: request.wishes.class,
            flow: request.flow,
            cost: router.weight(&request.model, prompt_bytes, request.max_tokens, request.n),
        }
    }

    /// The rules of a request within those of this server.
    pub(super) fn rules(&self, rules: &Rules) -> Rules {
        rules.within(&self.base)
    }

    /// Time until `deadline`.
    pub(super) fn time_left(&self, deadline: Option<Duration>) -> Option<Duration> {
        Some(deadline?.saturating_sub(self.clock.now()))
    }

    /// Sends a request somewhere that its `purse` pays for, and notes why there.
    pub(super) fn depart(
        self: &Arc<Self>,
        id: &Arc<str>,
        ask: &Ask<'_>,
        purse: Option<&dyn Purse>,
    ) -> Result<Leg, Unplaced> {
        let Some(purse) = purse else {
            return self.send(id, ask);
        };
        // Each site refuses once at most: what was left there has just gone to others.
        let mut refused: Vec<Arc<str>> = Vec::new();
        loop {
            let means = |facts: &Facts| match refused.contains(&facts.site) {
                true => Means::Nothing,
                false => purse.at(&facts.site),
            };
            let leg = self.send(
                id,
                &Ask {
                    allocation: &means,
                    ..*ask
                },
            )?;
            // A hedge is paid once it has won.
            let moves = !matches!(ask.attempt, Attempt::Hedge | Attempt::Count);
            let Some(pick) = leg.decision.pick.as_ref().filter(|_| moves) else {
                return Ok(leg);
            };
            if purse.move_to(&pick.site) {
                return Ok(leg);
            }
            refused.push(Arc::clone(&pick.site));
        }
    }

    fn send(self: &Arc<Self>, id: &Arc<str>, ask: &Ask<'_>) -> Result<Leg, Unplaced> {
        let now = self.clock.now();
        let placed = self.state().place_by_figures(ask, now);
        let decision = match &placed {
            Ok((placement, ..)) => &placement.decision,
            Err(Unplaced(decision)) => decision,
        };
        self.decisions.note(id, Arc::clone(decision));
        let site = decision.pick.as_ref().map_or("none", |pick| &*pick.site);
        self.metrics.routed(site, ask.attempt.name());
        let (placement, upstream, name, digest) = placed?;
        Ok(Leg {
            sent: Sent {
                roster: Arc::clone(self),
                ticket: Some(placement.ticket),
            },
            upstream,
            name,
            digest,
            decision: placement.decision,
        })
    }

    /// The upstreams of a model.
    fn upstreams(&self, model: &str) -> Vec<Arc<dyn Upstream>> {
        let places = self.places(model);
        places.into_iter().map(|(_, upstream)| upstream).collect()
    }

    /// The upstreams of a model, each with its site.
    fn places(&self, model: &str) -> Vec<(Arc<str>, Arc<dyn Upstream>)> {
        let state = self.state();
        let ids = state.router.candidates(model).iter();
        let place = |id: &CandidateId| {
            let member = state.members.get(id.index())?.as_ref()?;
            let site = Arc::clone(&state.router.facts(*id)?.site);
            Some((site, Arc::clone(&member.upstream)))
        };
        ids.filter_map(place).collect()
    }
}

/// A placement, who serves it under which name, and the digest of its stream.
type Placed = (
    crate::route::Placement,
    Arc<dyn Upstream>,
    Arc<str>,
    Option<Arc<str>>,
);

impl State {
    /// Places a request by figures that are not too old; what they said a moment ago turns nobody away.
    fn place_by_figures(&mut self, ask: &Ask<'_>, now: Duration) -> Result<Placed, Unplaced> {
        self.read_figures(ask.model, now, FIGURES_KEPT);
        self.place(ask, now).or_else(|_| {
            self.read_figures(ask.model, now, Duration::ZERO);
            self.place(ask, now)
        })
    }

    /// Reads the figures of a model's candidates where the last reading is older than `kept`.
    fn read_figures(&mut self, model: &str, now: Duration, kept: Duration) {
        for index in 0..self.router.candidates(model).len() {
            let Some(id) = self.router.candidates(model).get(index).copied() else {
                return;
            };
            let Some(Some(member)) = self.members.get_mut(id.index()) else {
                continue;
            };
            if member.read_at.is_none_or(|at| now >= at + kept) {
                member.read_at = Some(now);
                let figures = figures(member.upstream.status());
                self.router.observe(id, figures, now);
            }
        }
    }

    fn place(&mut self, ask: &Ask<'_>, now: Duration) -> Result<Placed, Unplaced> {
        let placement = self.router.place(ask, now)?;
        let id = placement.candidate;
        let member = self.members.get(id.index()).and_then(Option::as_ref);
        let facts = self.router.facts(id);
        let (Some(member), Some(facts)) = (member, facts) else {
            // Members and candidates change together, under this lock.
            let decision = Arc::clone(&placement.decision);
            self.router.ended(placement.ticket, End::Left, now);
            return Err(Unplaced(decision));
        };
        let (upstream, name) = (Arc::clone(&member.upstream), Arc::clone(&facts.upstream));
        let digest = self.router.digest(id).map(Arc::from);
        Ok((placement, upstream, name, digest))
    }
}

/// What the router needs to know of an upstream's status.
fn figures(status: UpstreamStatus) -> Figures {
    let (blocks, free) = (status.kv_blocks_total, status.kv_blocks_free);
    // Of several nodes the blocks add up, and the free tokens are those of one node: the share must come from the blocks.
    let kv_tokens_free = match blocks {
        0 => status.kv_tokens_free.min(status.kv_tokens_total),
        _ => status.kv_tokens_total * u64::from(free.min(blocks)) / u64::from(blocks),
    };
    Figures {
        ready: status.readiness == Readiness::Ready,
        sequence: status.sequence,
        age: status.age,
        silent: status.silent,
        running: status.running,
        waiting: status.waiting,
        queued_tokens: status.waiting_prefill_tokens,
        kv_tokens_total: status.kv_tokens_total,
        kv_tokens_free,
        prefill_tokens_per_s: status.prefill_tokens_per_s,
        decode_tokens_per_s: status.decode_tokens_per_s,
        rtt: None,
        walltime_left: status.walltime_left,
        numerics: status.numerics,
        joules_per_token: status.joules_per_token,
        grams_per_kwh: status.grams_per_kwh,
        experimental: status.experimental,
    }
}

/// A request that was sent. Its end is told to the router whatever happens (I10).
pub(super) struct Sent {
    roster: Arc<Inner>,
    ticket: Option<Ticket>,
}

impl Sent {
    /// The first content came, or all of it at once where it came `whole`; the candidate has served what hashes to `seen`
    /// by now.
    pub(super) fn first_content(&mut self, seen: &[u64], whole: bool) {
        let now = self.roster.clock.now();
        let Some(ticket) = &mut self.ticket else {
            return;
        };
        let mut state = self.roster.state();
        match whole {
            true => state.router.answered(ticket, seen, now),
            false => state.router.first_content(ticket, seen, now),
        }
    }

    /// Seconds after which the first content was expected.
    pub(super) fn expected_s(&self) -> f64 {
        self.ticket.as_ref().map_or(0.0, Ticket::expected_s)
    }

    /// It is over.
    pub(super) fn end(&mut self, end: End) {
        if let Some(ticket) = self.ticket.take() {
            let now = self.roster.clock.now();
            self.roster.state().router.ended(ticket, end, now);
        }
    }

    /// It is over by this error.
    pub(super) fn fail(&mut self, error: &UpstreamError) {
        use UpstreamErrorKind as Kind;
        self.end(match error.kind {
            Kind::Overloaded | Kind::NotReady | Kind::ShuttingDown | Kind::DeadlineExceeded => {
                End::Overloaded(None)
            }
            Kind::Unreachable | Kind::TimedOut | Kind::Internal => End::Failed,
            _ => End::Left,
        });
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        // Who was not told otherwise lost its client, or a race.
        self.end(End::Left);
    }
}

/// One model of a roster as an upstream.
#[derive(Clone)]
pub struct Routed {
    roster: Roster,
    model: Arc<str>,
}

impl Routed {
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

    fn count_tokens(
        &self,
        request: Arc<GenerateRequest>,
    ) -> BoxFuture<'_, Result<u32, UpstreamError>> {
        Box::pin(async move {
            let upstreams = self.roster.inner.upstreams(&self.model);
            if !upstreams.iter().any(|upstream| upstream.counts_tokens()) {
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
        let upstreams = self.roster.inner.upstreams(&self.model);
        upstreams.iter().any(|upstream| upstream.keeps_usage())
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
        combined(upstreams.iter().map(|upstream| upstream.status()))
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

impl fmt::Debug for Roster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roster").finish_non_exhaustive()
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
