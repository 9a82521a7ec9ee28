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
mod crowd;
mod draw;
mod estimate;
mod health;
mod load;
mod outcome;
mod place;
mod policy;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use self::budget::Budget;
use self::candidate::Candidate;
use self::cost::Load;
use self::crowd::Crowd;
use self::decision::{Attempt, Decision};
use self::draw::Draw;
use self::estimate::{Mean, PrefillLine};
use self::facts::{CandidateId, Facts, Figures};
use self::means::Means;
use self::options::Options;
use self::policy::{Eligible, Habit};
use self::prefix::PrefixIndex;
use self::residency::Rules;
use crate::limits::CANDIDATES_MAX;
use crate::map::Map;

pub use self::outcome::{End, Served, Ticket};

/// Tokens of an answer of a model that has not answered yet.
const OUTPUT_TOKENS: f64 = 256.0;
/// Tokens of a prompt of a model that was not asked yet.
const PROMPT_TOKENS: f64 = 500.0;
/// Bytes of a token of a model that has not told yet.
const BYTES_PER_TOKEN: f64 = 4.0;

/// Routes the requests of one server. It is not thread-safe; no call takes long.
#[derive(Debug)]
pub struct Router {
    options: Options,
    candidates: Vec<Candidate>,
    models: Map<Arc<str>, Model>,
    /// By upstream.
    budgets: Vec<(Arc<str>, Budget)>,
    prefixes: PrefixIndex,
    draw: Draw,
    /// Names of candidates, each once.
    names: HashSet<Arc<str>>,
    /// Kept for their memory.
    eligible: Vec<Eligible>,
    depths: Vec<u32>,
}

/// What is known of a model over all candidates.
#[derive(Debug)]
struct Model {
    candidates: Vec<CandidateId>,
    /// Tokens of an answer, and of what is not cached of a prompt.
    output: Mean,
    prompt: Mean,
    /// Others who ask the same candidates.
    crowd: Crowd,
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
    /// Whether it would rather wait here than in a long line there.
    pub waits: bool,
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
            models: Map::default(),
            budgets: Vec::new(),
            draw: Draw::new(seed),
            names: HashSet::new(),
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
    pub fn add(&mut self, mut facts: Facts, now: Duration) -> Option<CandidateId> {
        let free = self.candidates.iter().position(|candidate| {
            // With requests in flight its number still means the old one.
            candidate.gone && candidate.credits.in_flight() == 0
        });
        let index = free.unwrap_or(self.candidates.len());
        if index >= CANDIDATES_MAX {
            return None;
        }
        let id = CandidateId(u16::try_from(index).ok()?);
        self.share_names(&mut facts);
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

    /// Lets equal names of candidates be one in memory: every decision reads those of all candidates.
    fn share_names(&mut self, facts: &mut Facts) {
        let names = [
            &mut facts.upstream,
            &mut facts.site,
            &mut facts.node,
            &mut facts.model,
        ];
        for name in names.into_iter().chain(&mut facts.country) {
            if let Some(known) = self.names.get(&**name) {
                *name = Arc::clone(known);
            } else {
                self.names.insert(Arc::clone(name));
            }
        }
    }

    /// Takes a candidate out. What is in flight there ends as it does.
    pub fn remove(&mut self, id: CandidateId) {
        let Some(candidate) = self.candidates.get_mut(id.index()) else {
            return;
        };
        candidate.gone = true;
        self.names.retain(|name| Arc::strong_count(name) > 1);
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

    /// Whether candidates of `model` take requests and all of these have a long line.
    #[must_use]
    pub fn is_full(&self, model: &str) -> bool {
        let candidates = self.candidates(model).iter();
        let known = candidates.filter_map(|id| self.candidates.get(id.index()));
        let mut ready = known.filter(|candidate| candidate.figures.ready).peekable();
        ready.peek().is_some() && ready.all(Candidate::is_full)
    }

    /// Tokens that a request of so many prompt bytes is expected to take, those of its answers weighing twice.
    #[must_use]
    pub fn weight(&self, model: &str, prompt_bytes: u64, max_tokens: Option<u32>, n: u32) -> u64 {
        let Some(model) = self.models.get(model) else {
            return prompt_bytes;
        };
        let usual = model.output.get();
        let output = max_tokens.map_or(usual, |max| usual.min(f64::from(max)));
        let prompt = prompt_bytes as f64 / model.bytes_per_token.get().max(0.1);
        (prompt + 2.0 * output * f64::from(n)) as u64
    }

    /// Requests in flight at a candidate (I10).
    #[must_use]
    pub fn in_flight(&self, id: CandidateId) -> u32 {
        let candidate = self.candidates.get(id.index());
        candidate.map_or(0, |candidate| candidate.credits.in_flight())
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

impl Model {
    fn new() -> Self {
        Self {
            candidates: Vec::new(),
            output: Mean::new(OUTPUT_TOKENS),
            prompt: Mean::new(PROMPT_TOKENS),
            crowd: Crowd::default(),
            tpot: Mean::tpot(),
            prefill: PrefillLine::default(),
            bytes_per_token: Mean::new(BYTES_PER_TOKEN),
            habit: Habit::default(),
        }
    }

    /// What `ask` brings to a candidate that has seen so many of its blocks.
    fn load(&self, ask: &Ask<'_>, depth: u32) -> Load {
        let tokens_per_byte = 1.0 / self.bytes_per_token.get().max(0.1);
        let seen = prefix::covered(depth as usize) as u64;
        let uncached = ask.prompt_bytes.saturating_sub(seen) as f64 * tokens_per_byte;
        let prompt = ask.prompt_bytes as f64 * tokens_per_byte;
        let usual_output = self.output.get().max(1.0);
        let output = ask
            .max_tokens
            .map_or(usual_output, |max| usual_output.min(f64::from(max)));
        let tokens = output * f64::from(ask.n);
        Load {
            uncached,
            prompt,
            output,
            sequences: f64::from(ask.n),
            tokens,
            kv_tokens: prompt + tokens,
            usual_output,
            usual_prompt: self.prompt.get(),
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
