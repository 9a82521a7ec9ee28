//! Everyone who may serve a request of this server: the router, whom it may pick, and the figures that it picks by.
//!
//! One lock holds the router and its candidates together, and none is held across a wait. It must not know how a request is tried
//! again or goes on elsewhere.

mod sent;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use uuid::Uuid;

pub(super) use self::sent::Sent;
use crate::clock::Clock;
use crate::fairness::Claim;
use crate::federation::reach::ways;
use crate::limits::FIGURES_KEPT;
use crate::route::decision::Attempt;
use crate::route::decisions::Decisions;
use crate::route::facts::{CandidateId, Facts, Figures};
use crate::route::means::Means;
use crate::route::options::Options;
use crate::route::prefix::HashKey;
use crate::route::residency::Rules;
use crate::route::{Ask, End, Router, Unplaced};
use crate::telemetry::Metrics;
use crate::upstream::purse::Purse;
use crate::upstream::queue::Queue;
use crate::upstream::retry::Leg;
use crate::upstream::routed::Routed;
use crate::upstream::{GenerateRequest, Readiness, Upstream, UpstreamStatus};

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
        Routed::new(self.clone(), model.into())
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

    /// Whether a model may be served by another server of ours.
    pub(super) fn asks_others(&self, model: &str) -> bool {
        let state = self.state();
        let mut ids = state.router.candidates(model).iter();
        ids.any(|id| state.router.facts(*id).is_some_and(|facts| facts.hop))
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
            sent: Sent::new(self, placement.ticket),
            upstream,
            name,
            digest,
            decision: placement.decision,
        })
    }

    /// Whether `is` says so of any upstream of a model; it is asked under the lock.
    pub(super) fn any(&self, model: &str, is: impl Fn(&dyn Upstream) -> bool) -> bool {
        let state = self.state();
        let ids = state.router.candidates(model).iter();
        let mut members = ids.filter_map(|id| state.members.get(id.index())?.as_ref());
        members.any(|member| is(&*member.upstream))
    }

    /// The upstreams of a model.
    pub(super) fn upstreams(&self, model: &str) -> Vec<Arc<dyn Upstream>> {
        let places = self.places(model);
        places.into_iter().map(|(_, upstream)| upstream).collect()
    }

    /// The upstreams of a model, each with its site.
    pub(super) fn places(&self, model: &str) -> Vec<(Arc<str>, Arc<dyn Upstream>)> {
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
        let mut relays = Vec::new();
        for index in 0..self.router.candidates(model).len() {
            let Some(id) = self.router.candidates(model).get(index).copied() else {
                return;
            };
            let Some(Some(member)) = self.members.get_mut(id.index()) else {
                continue;
            };
            if member.read_at.is_none_or(|at| now >= at + kept) {
                member.read_at = Some(now);
                let status = member.upstream.status();
                if status.beyond {
                    relays.push(id);
                } else {
                    self.router.observe(id, figures(status), now);
                }
            }
        }
        if !relays.is_empty() {
            self.read_ways(model, &relays, now);
        }
    }

    /// Reads the figures of those candidates of a model that pass requests on to others, which only all together tell.
    fn read_ways(&mut self, model: &str, relays: &[CandidateId], now: Duration) {
        let ids = self.router.candidates(model).to_vec();
        let member = |id: &CandidateId| self.members.get(id.index())?.as_ref();
        let parts = |id| member(id).map_or_else(Vec::new, |member| member.upstream.parts());
        let reached = ids.iter().map(parts).collect();
        for (id, status) in ids.into_iter().zip(ways(reached)) {
            if relays.contains(&id) {
                self.router.observe(id, figures(status), now);
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
        unheard: status.unheard,
        detour: status.detour,
    }
}

impl fmt::Debug for Roster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roster").finish_non_exhaustive()
    }
}
