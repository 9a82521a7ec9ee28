//! Where a request goes: the heart of the gateway, without a socket, a task or a clock.
//!
//! Events and `now` go in, decisions come out: [`Router::place`] filters the candidates of a model, scores them in seconds
//! and picks one; [`Router::observe`], [`Router::first_content`] and [`Router::ended`] tell it what became of the world.
//! Whoever drives it (`upstream/routed.rs`, the simulator, a test) does the waiting.

pub mod cost;
pub mod decision;
pub mod decisions;
pub mod facts;
pub mod means;
pub mod options;
pub mod prefix;
pub mod residency;

mod budget;
mod candidate;
mod draw;
mod estimate;
mod health;
mod load;
mod outcome;
mod policy;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use self::budget::Budget;
use self::candidate::Candidate;
use self::cost::Load;
use self::decision::{Attempt, Decision, Filtered, Reason, Scored};
use self::draw::Draw;
use self::estimate::{Mean, PrefillLine};
use self::facts::{CandidateId, Facts, Figures};
use self::health::Standing;
use self::load::{Credit, Work};
use self::means::Means;
use self::options::Options;
use self::policy::{Eligible, Habit};
use self::prefix::PrefixIndex;
use self::residency::Rules;
use crate::limits::{CANDIDATES_MAX, DECISION_BEST_MAX, PREFIX_BLOCK_BYTES};

pub use self::outcome::{End, Served, Ticket};

/// Tokens of an answer of a model that has not answered yet.
const OUTPUT_TOKENS: f64 = 256.0;
/// Bytes of a token of a model that has not told yet.
const BYTES_PER_TOKEN: f64 = 4.0;

/// Routes the requests of one server. It is not thread-safe; no call takes long.
#[derive(Debug)]
pub struct Router {
    options: Options,
    candidates: Vec<Candidate>,
    models: HashMap<Arc<str>, Model>,
    /// By upstream.
    budgets: Vec<(Arc<str>, Budget)>,
    prefixes: PrefixIndex,
    draw: Draw,
    /// Numbers dispatches.
    number: u64,
    /// Kept for their memory.
    eligible: Vec<Eligible>,
    depths: Vec<u32>,
}

/// What is known of a model over all candidates.
#[derive(Debug)]
struct Model {
    candidates: Vec<CandidateId>,
    /// Tokens of an answer.
    output: Mean,
    /// Seconds of a token and of a prompt, over all candidates.
    tpot: Mean,
    prefill: PrefillLine,
    bytes_per_token: Mean,
    habit: Habit,
}

/// What is asked of the router.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// Why.
    pub attempt: Attempt,
    /// Name of the model.
    pub model: &'a str,
    /// Bytes of the prompt.
    pub prompt_bytes: u64,
    /// Hashes of its beginnings.
    pub blocks: &'a [u64],
    /// Hash of its session.
    pub session: Option<u64>,
    /// Tokens of a choice at most.
    pub max_tokens: Option<u32>,
    /// Choices.
    pub n: u32,
    /// Where it may go.
    pub rules: &'a Rules,
    /// Servers of ours that it has crossed.
    pub hops: u8,
    /// Upstreams that have failed it.
    pub tried: &'a [Arc<str>],
    /// The digest that a candidate must have, and no other.
    pub numerics: Option<&'a str>,
    /// What is left of the tenant's allocation at a candidate.
    pub allocation: &'a (dyn Fn(&Facts) -> Means + Sync),
    /// Time until nobody waits for the answer any more.
    pub time_left: Option<Duration>,
}

/// A request's place.
#[derive(Debug)]
pub struct Placement {
    /// Who serves.
    pub candidate: CandidateId,
    /// To be handed back to [`Router::ended`], whatever happens.
    pub ticket: Ticket,
    /// Why there.
    pub decision: Arc<Decision>,
}

/// There is nobody who may serve; the decision says why.
#[derive(Debug, Clone)]
pub struct Unplaced(pub Arc<Decision>);

impl Router {
    /// A router without candidates whose chances follow from `seed`.
    #[must_use]
    pub fn new(options: Options, seed: u64) -> Self {
        Self {
            prefixes: PrefixIndex::new(options.prefix_index_bytes),
            options,
            candidates: Vec::new(),
            models: HashMap::new(),
            budgets: Vec::new(),
            draw: Draw::new(seed),
            number: 0,
            eligible: Vec::new(),
            depths: Vec::new(),
        }
    }

    /// How it routes.
    #[must_use]
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// A new candidate; it serves nothing before it was observed to be ready. `None` beyond the bound.
    pub fn add(&mut self, facts: Facts, now: Duration) -> Option<CandidateId> {
        let free = self.candidates.iter().position(|candidate| {
            // With requests in flight its number still means the old one.
            candidate.gone && candidate.credits.in_flight() == 0
        });
        let index = free.unwrap_or(self.candidates.len());
        if index >= CANDIDATES_MAX {
            return None;
        }
        let id = CandidateId(u16::try_from(index).ok()?);
        let budget = self.budget(&facts.upstream, now);
        let model = self.models.entry(Arc::clone(&facts.model));
        model.or_insert_with(Model::new).candidates.push(id);
        let candidate = Candidate::new(id, facts, budget, now);
        match self.candidates.get_mut(index) {
            Some(place) => *place = candidate,
            None => self.candidates.push(candidate),
        }
        Some(id)
    }

    /// Takes a candidate out. What is in flight there ends as it does.
    pub fn remove(&mut self, id: CandidateId) {
        let Some(candidate) = self.candidates.get_mut(id.index()) else {
            return;
        };
        candidate.gone = true;
        if let Some(model) = self.models.get_mut(&candidate.facts.model) {
            model.candidates.retain(|known| *known != id);
        }
    }

    /// Takes in what a candidate tells of itself.
    pub fn observe(&mut self, id: CandidateId, figures: Figures, now: Duration) {
        if let Some(candidate) = self.candidates.get_mut(id.index()) {
            candidate.observe(figures, now);
        }
    }

    /// The candidates of a model.
    #[must_use]
    pub fn candidates(&self, model: &str) -> &[CandidateId] {
        let model = self.models.get(model);
        model.map_or(&[], |model| &model.candidates)
    }

    /// What the config says of a candidate.
    #[must_use]
    pub fn facts(&self, id: CandidateId) -> Option<&Facts> {
        let candidate = self.candidates.get(id.index())?;
        (!candidate.gone).then_some(&candidate.facts)
    }

    /// The digest of a candidate's streams, where it has one for all.
    #[must_use]
    pub fn digest(&self, id: CandidateId) -> Option<&str> {
        self.candidates.get(id.index())?.figures.digest()
    }

    /// Requests in flight at a candidate (I10).
    #[must_use]
    pub fn in_flight(&self, id: CandidateId) -> u32 {
        let candidate = self.candidates.get(id.index());
        candidate.map_or(0, |candidate| candidate.credits.in_flight())
    }

    /// Picks who serves `ask` and counts it as sent there.
    ///
    /// # Errors
    /// [`Unplaced`] where nobody may.
    pub fn place(&mut self, ask: &Ask<'_>, now: Duration) -> Result<Placement, Unplaced> {
        let filtered = self.consider(ask, now);
        let session = ask.session.and_then(|s| self.prefixes.holders(s).next());
        let pick = self.models.get_mut(ask.model).and_then(|model| {
            if self.eligible.is_empty() {
                return None;
            }
            let (options, draw) = (&self.options, &mut self.draw);
            let place = model.habit.pick(options, &self.eligible, session, draw);
            self.eligible.get(place).copied()
        });
        let decision = Arc::new(self.decision(ask, pick.as_ref(), filtered, now));
        let Some(pick) = pick else {
            return Err(Unplaced(decision));
        };
        Ok(Placement {
            candidate: pick.id,
            ticket: self.send(ask, &pick, now),
            decision,
        })
    }

    /// Fills `eligible` with those who may serve and counts the others.
    fn consider(&mut self, ask: &Ask<'_>, now: Duration) -> Filtered {
        let mut filtered = Filtered::default();
        self.eligible.clear();
        let Some(model) = self.models.get(ask.model) else {
            return filtered;
        };
        self.depths.resize(self.candidates.len(), 0);
        self.prefixes.depths(ask.blocks, &mut self.depths);
        for id in &model.candidates {
            let Some(candidate) = self.candidates.get(id.index()) else {
                continue;
            };
            let depth = self.depths.get(id.index()).copied().unwrap_or_default();
            match self.judge(candidate, model, ask, depth, now) {
                Ok(eligible) => self.eligible.push(eligible),
                Err(reason) => filtered.count(reason),
            }
        }
        // An answer that may outlast its candidate goes there only where no other has the time; most are shorter than they
        // may be, and the rest goes on elsewhere.
        self.prefer(&mut filtered, Reason::Walltime, |eligible| {
            eligible.to_the_end
        });
        // No price, and no carbon, is worth an answer that comes too late.
        self.prefer(&mut filtered, Reason::Late, |eligible| !eligible.late);
        self.prefer(&mut filtered, Reason::NotOwn, |eligible| eligible.own);
        filtered
    }

    /// Keeps those that are `good` alone, where there are any.
    fn prefer(
        &mut self,
        filtered: &mut Filtered,
        others: Reason,
        good: impl Fn(&Eligible) -> bool,
    ) {
        if !self.eligible.iter().any(&good) {
            return;
        }
        self.eligible.retain(|eligible| {
            let stays = good(eligible);
            if !stays {
                filtered.count(others);
            }
            stays
        });
    }

    /// A candidate's score, or why it may not serve.
    fn judge(
        &self,
        candidate: &Candidate,
        model: &Model,
        ask: &Ask<'_>,
        depth: u32,
        now: Duration,
    ) -> Result<Eligible, Reason> {
        if let Some(reason) = candidate.barred(ask) {
            return Err(reason);
        }
        let own = match (ask.allocation)(&candidate.facts) {
            Means::Own => true,
            Means::Any => false,
            Means::Nothing => return Err(Reason::Allocation),
        };
        let ramp = match candidate.health.standing(now, &self.options.ejection) {
            Standing::In(ramp) => ramp,
            Standing::Probe => 1.0,
            Standing::Out => return Err(Reason::Ejected),
        };
        if matches!(ask.attempt, Attempt::Retry | Attempt::Hedge)
            && !self.budget_allows(candidate.budget, now)
        {
            return Err(Reason::Budget);
        }
        let load = model.load(ask, depth);
        let terms = candidate.terms(&load, &self.options, now, ramp);
        let takes_s = terms.first_content() + terms.decode;
        if candidate.ends_before(takes_s, now) {
            return Err(Reason::Walltime);
        }
        let cached = load.prompt - load.uncached;
        let longest = ask
            .max_tokens
            .map_or(load.output, f64::from)
            .max(load.output);
        let longest = terms.decode * longest / load.output.max(1.0);
        let late = |left: Duration| takes_s > left.as_secs_f64();
        let eligible = candidate.eligible(terms, load.prompt, cached, &self.options.home);
        Ok(Eligible {
            own,
            late: ask.time_left.is_some_and(late),
            to_the_end: !candidate.ends_before(terms.first_content() + longest, now),
            ..eligible
        })
    }

    /// Counts the request as sent to the pick.
    fn send(&mut self, ask: &Ask<'_>, pick: &Eligible, now: Duration) -> Ticket {
        self.number += 1;
        let bounds = &self.options.retry;
        let candidate = self.candidates.get_mut(pick.id.index());
        let load = self.models.get(ask.model).map(|model| model.load(ask, 0));
        let output = load.map_or(OUTPUT_TOKENS, |load| load.output * load.sequences);
        let uncached = pick.prompt - pick.cached;
        let mut company = 0.0;
        if let Some(candidate) = candidate {
            candidate.health.sent(now, &self.options.ejection);
            let work = Work {
                sequences: ask.n,
                prefill_tokens: uncached as u64,
                kv_tokens: (pick.prompt + output) as u64,
            };
            let (number, at) = (self.number, now);
            candidate.credits.sent(Credit { number, at, work });
            company = candidate.company();
            if let Some((_, budget)) = self.budgets.get_mut(candidate.budget) {
                match ask.attempt {
                    Attempt::First => budget.earn(bounds),
                    Attempt::Retry | Attempt::Hedge => budget.spend(bounds, now),
                    // Counting is next to no work, and the others are bounded by how many may be on their way at once.
                    Attempt::Count | Attempt::Move | Attempt::Resume => {}
                }
            }
        }
        Ticket::new(pick, self.number, now, company)
    }

    fn decision(
        &self,
        ask: &Ask<'_>,
        pick: Option<&Eligible>,
        filtered: Filtered,
        now: Duration,
    ) -> Decision {
        let (best, count) = cheapest(&self.eligible);
        let best = best.iter().take(count);
        Decision {
            at: now,
            attempt: ask.attempt,
            policy: self.options.policy,
            purpose: ask.rules.purpose,
            pick: pick.and_then(|pick| self.scored(pick)),
            best: best
                .filter_map(|place| self.scored(self.eligible.get(*place)?))
                .collect(),
            eligible: u32::try_from(self.eligible.len()).unwrap_or(u32::MAX),
            filtered,
        }
    }

    fn scored(&self, eligible: &Eligible) -> Option<Scored> {
        let facts = &self.candidates.get(eligible.id.index())?.facts;
        Some(Scored {
            site: Arc::clone(&facts.site),
            node: Arc::clone(&facts.node),
            cost: eligible.cost,
            terms: eligible.terms,
            cached_tokens: eligible.cached as u32,
        })
    }

    fn budget_allows(&self, budget: usize, now: Duration) -> bool {
        let budget = self.budgets.get(budget);
        budget.is_some_and(|(_, budget)| budget.allows(&self.options.retry, now))
    }

    /// Place of an upstream's budget. As many as upstreams that there ever were by name, which is few.
    fn budget(&mut self, upstream: &Arc<str>, now: Duration) -> usize {
        let known = self.budgets.iter().position(|(name, _)| name == upstream);
        known.unwrap_or_else(|| {
            let budget = Budget::new(&self.options.retry, now);
            self.budgets.push((Arc::clone(upstream), budget));
            self.budgets.len() - 1
        })
    }
}

/// Places of those with the lowest cost, lowest first, and how many there are. They are not sorted themselves: they are
/// large, and few are asked for.
fn cheapest(eligible: &[Eligible]) -> ([usize; DECISION_BEST_MAX], usize) {
    let (mut best, mut count) = ([0; DECISION_BEST_MAX], 0);
    let cost = |place: usize| eligible.get(place).map_or(f64::INFINITY, |e| e.cost);
    for (place, candidate) in eligible.iter().enumerate() {
        let at = best[..count].partition_point(|known| cost(*known) <= candidate.cost);
        if at == DECISION_BEST_MAX {
            continue;
        }
        count = (count + 1).min(DECISION_BEST_MAX);
        best[at..count].rotate_right(1);
        best[at] = place;
    }
    (best, count)
}

impl Model {
    fn new() -> Self {
        Self {
            candidates: Vec::new(),
            output: Mean::new(OUTPUT_TOKENS),
            tpot: Mean::tpot(),
            prefill: PrefillLine::default(),
            bytes_per_token: Mean::new(BYTES_PER_TOKEN),
            habit: Habit::default(),
        }
    }

    /// What `ask` brings to a candidate that has seen so many of its blocks.
    fn load(&self, ask: &Ask<'_>, depth: u32) -> Load {
        let bytes_per_token = self.bytes_per_token.get().max(0.1);
        let seen = u64::from(depth) * PREFIX_BLOCK_BYTES as u64;
        let unseen = ask.prompt_bytes.saturating_sub(seen);
        let usual_output = self.output.get().max(1.0);
        let uncached = unseen as f64 / bytes_per_token;
        Load {
            uncached,
            prompt: ask.prompt_bytes as f64 / bytes_per_token,
            output: ask
                .max_tokens
                .map_or(usual_output, |max| usual_output.min(f64::from(max))),
            sequences: f64::from(ask.n),
            usual_output,
            usual_tpot: self.tpot.get(),
            usual_prefill: self.prefill.seconds(uncached),
        }
    }
}

impl std::fmt::Debug for Ask<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ask")
            .field("attempt", &self.attempt)
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}
