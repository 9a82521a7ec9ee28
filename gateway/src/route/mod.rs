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
mod judge;
mod load;
mod model;
mod number;
mod outcome;
mod place;
mod policy;
mod record;
mod sheet;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use self::budget::Budget;
use self::candidate::Candidate;
use self::decision::{Attempt, Decision};
use self::draw::Draw;
use self::facts::{CandidateId, Facts, Figures};
use self::means::Means;
use self::model::Model;
use self::options::Options;
use self::policy::Eligible;
use self::prefix::PrefixIndex;
use self::residency::Rules;
use self::sheet::{Row, Sheet, are_alike};
use crate::limits::CANDIDATES_MAX;
use crate::map::Map;

pub use self::outcome::{End, Served, Ticket};

/// Routes the requests of one server. It is not thread-safe; no call takes long.
#[derive(Debug)]
pub struct Router {
    options: Options,
    candidates: Vec<Candidate>,
    /// As many as models that there ever were by name, which is few.
    models: Vec<Model>,
    by_name: Map<Arc<str>, usize>,
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
    /// What is left of the tenant's allocation at a candidate: the same at all of one site.
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
            models: Vec::new(),
            by_name: Map::default(),
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
        let model = self.place_of_model(&facts.model);
        let row = self.models.get(model)?.candidates.len();
        let row = Row { model, row };
        let candidate = Candidate::new((id, row), facts, budget, now);
        match self.candidates.get_mut(index) {
            Some(place) => *place = candidate,
            None => self.candidates.push(candidate),
        }
        self.models.get_mut(model)?.candidates.push(id);
        let alike = self.is_like_the_one_before(row);
        let sheet = Sheet::of(self.candidates.get(index)?, alike);
        self.models.get_mut(model)?.sheets.push(sheet);
        Some(id)
    }

    /// Place of the model of that name, which may be a new one.
    fn place_of_model(&mut self, name: &Arc<str>) -> usize {
        let place = *self
            .by_name
            .entry(Arc::clone(name))
            .or_insert(self.models.len());
        if place == self.models.len() {
            self.models.push(Model::new());
        }
        place
    }

    /// Whether rules cannot tell the candidate of a row from that of the row before.
    fn is_like_the_one_before(&self, Row { model, row }: Row) -> bool {
        let facts = |row: usize| {
            let id = self.models.get(model)?.candidates.get(row)?;
            Some(&self.candidates.get(id.index())?.facts)
        };
        let both = row.checked_sub(1).and_then(facts).zip(facts(row));
        both.is_some_and(|(before, facts)| are_alike(before, facts))
    }

    /// Lets equal names of candidates be one in memory: every decision's record shares some of them.
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
        let row = std::mem::replace(&mut candidate.row.row, usize::MAX);
        let model = candidate.row.model;
        self.close_up(Row { model, row });
    }

    /// Takes the row of a candidate that is gone out of its model, and lets the others move up.
    fn close_up(&mut self, Row { model, row }: Row) {
        let Some(of) = self
            .models
            .get_mut(model)
            .filter(|of| row < of.sheets.len())
        else {
            return;
        };
        of.candidates.remove(row);
        of.sheets.remove(row);
        for id in &of.candidates[row..] {
            if let Some(candidate) = self.candidates.get_mut(id.index()) {
                candidate.row.row -= 1;
            }
        }
        let alike = self.is_like_the_one_before(Row { model, row });
        let sheets = self.models.get_mut(model).map(|of| &mut of.sheets);
        if let Some(sheet) = sheets.and_then(|sheets| sheets.get_mut(row)) {
            sheet.alike = alike;
        }
    }

    /// Takes in what a candidate tells of itself.
    pub fn observe(&mut self, id: CandidateId, figures: Figures, now: Duration) {
        self.change(id, |candidate| candidate.observe(figures, now));
    }

    /// Lets something happen to a candidate. Nothing else may change one, for decisions look at its sheet.
    fn change<T>(
        &mut self,
        id: CandidateId,
        happens: impl FnOnce(&mut Candidate) -> T,
    ) -> Option<T> {
        let candidate = self.candidates.get_mut(id.index())?;
        let outcome = happens(candidate);
        if let Some(model) = self.models.get_mut(candidate.row.model) {
            model.show(candidate);
        }
        Some(outcome)
    }

    fn model(&self, name: &str) -> Option<&Model> {
        self.models.get(*self.by_name.get(name)?)
    }

    /// The candidates of a model.
    #[must_use]
    pub fn candidates(&self, model: &str) -> &[CandidateId] {
        self.model(model).map_or(&[], |model| &model.candidates)
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
        let sheets = self.model(model).map_or(&[][..], |model| &model.sheets);
        let mut ready = sheets.iter().filter(|sheet| sheet.ready).peekable();
        ready.peek().is_some() && ready.all(|sheet| sheet.full)
    }

    /// Tokens that a request of so many prompt bytes is expected to take, those of its answers weighing twice.
    #[must_use]
    pub fn weight(&self, model: &str, prompt_bytes: u64, max_tokens: Option<u32>, n: u32) -> u64 {
        let Some(model) = self.model(model) else {
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

impl std::fmt::Debug for Ask<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ask")
            .field("attempt", &self.attempt)
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}
