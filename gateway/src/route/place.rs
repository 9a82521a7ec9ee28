//! One decision: who may serve, what each would cost, who does, and the record of it.

use std::sync::Arc;
use std::time::Duration;

use super::candidate::{Candidate, Moment};
use super::cost::{Load, Terms};
use super::decision::{Attempt, Decision, Filtered, Reason, Scored};
use super::health::Standing;
use super::load::Work;
use super::means::Means;
use super::options::Policy;
use super::policy::Eligible;
use super::residency::Judge;
use super::{Ask, OUTPUT_TOKENS, Placement, Router, Ticket, Unplaced};
use crate::limits::DECISION_BEST_MAX;

/// What is known of a candidate once nothing speaks against it.
struct Passed {
    now: Moment,
    in_doubt: bool,
    own: bool,
    terms: Terms,
    /// Seconds until its answer is over.
    takes_s: f64,
}

impl Router {
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

    /// Fills `eligible` with those who may serve and counts the others. Where nobody is known to be well, those may whom a
    /// request may find well all the same: its client would be refused otherwise, and only requests show who is back.
    fn consider(&mut self, ask: &Ask<'_>, now: Duration) -> Filtered {
        let filtered = self.sift(ask, now, false);
        let lost = filtered.of(Reason::NotReady) + filtered.of(Reason::Ejected);
        // All others wait for a while until somebody is.
        let tries = ask.attempt == Attempt::First && filtered.of(Reason::Full) == 0;
        if !self.eligible.is_empty() || !tries || lost == 0 {
            return filtered;
        }
        let in_doubt = self.sift(ask, now, true);
        match self.eligible.is_empty() {
            true => filtered,
            false => in_doubt,
        }
    }

    /// The same once, with or without those who may not be well.
    fn sift(&mut self, ask: &Ask<'_>, now: Duration, in_doubt: bool) -> Filtered {
        let mut filtered = Filtered::default();
        self.eligible.clear();
        let Some(model) = self.models.get(ask.model) else {
            return filtered;
        };
        self.depths.resize(self.candidates.len(), 0);
        self.prefixes.depths(ask.blocks, &mut self.depths);
        let (unseen, moment) = (model.load(ask, 0), Moment::from(now));
        let mut rules = Judge::new(ask.rules);
        for id in &model.candidates {
            let Some(candidate) = self.candidates.get(id.index()) else {
                continue;
            };
            let depth = self.depths.get(id.index()).copied().unwrap_or_default();
            let load = match depth {
                0 => unseen,
                _ => model.load(ask, depth),
            };
            let judged = match candidate.barred(ask, &mut rules, in_doubt) {
                Some(reason) => Err(reason),
                None => self.pass(candidate, &load, ask, (moment, in_doubt)),
            };
            match judged {
                Ok(passed) => self
                    .eligible
                    .push(self.score(candidate, &load, ask, &passed)),
                Err(reason) => filtered.count(reason),
            }
        }
        if !self.are_alike() {
            self.prefer_the_best(&mut filtered);
        }
        self.share_out(ask, now);
        filtered
    }

    /// Whether those who may serve differ in cost alone, as they do most of the time.
    fn are_alike(&self) -> bool {
        let kind = |e: &Eligible| (e.silent, e.detour, e.to_the_end, e.late, e.own);
        let mut kinds = self.eligible.iter().map(kind);
        let first = kinds.next();
        kinds.all(|kind| Some(kind) == first)
    }

    /// Leaves out those whom no cost makes as good as others.
    fn prefer_the_best(&mut self, filtered: &mut Filtered) {
        self.prefer(filtered, Reason::Silent, |eligible| !eligible.silent);
        // What is behind it is here by a shorter way, or was barred for a reason.
        self.prefer(filtered, Reason::Detour, |eligible| !eligible.detour);
        // An answer that may outlast its candidate goes there only where no other has the time; most are shorter than they
        // may be, and the rest goes on elsewhere.
        self.prefer(filtered, Reason::Walltime, |eligible| eligible.to_the_end);
        // No price, and no carbon, is worth an answer that comes too late.
        self.prefer(filtered, Reason::Late, |eligible| !eligible.late);
        self.prefer(filtered, Reason::NotOwn, |eligible| eligible.own);
    }

    /// Shares requests out over those who may serve, where others send to them too.
    fn share_out(&mut self, ask: &Ask<'_>, now: Duration) {
        let Some(model) = self.models.get_mut(ask.model) else {
            return;
        };
        if self.options.policy != Policy::Cost {
            return;
        }
        if ask.attempt == Attempt::First {
            model.crowd.note(&self.eligible, now);
        }
        model.crowd.share_out(&mut self.eligible);
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

    /// What a candidate that no rule bars would cost, or why it may not serve all the same.
    #[inline]
    fn pass(
        &self,
        candidate: &Candidate,
        load: &Load,
        ask: &Ask<'_>,
        (now, in_doubt): (Moment, bool),
    ) -> Result<Passed, Reason> {
        if ask.waits && candidate.is_full() {
            return Err(Reason::Full);
        }
        let own = match (ask.allocation)(&candidate.facts) {
            Means::Own => true,
            Means::Any => false,
            Means::Nothing => return Err(Reason::Allocation),
        };
        let ramp = match candidate.health.standing(now.at, &self.options.ejection) {
            Standing::In(ramp) => ramp,
            Standing::Probe => 1.0,
            Standing::Out if in_doubt => 1.0,
            Standing::Out => return Err(Reason::Ejected),
        };
        // Those in doubt may all be dead, and get no more than retries would.
        let bounded = in_doubt || matches!(ask.attempt, Attempt::Retry | Attempt::Hedge);
        if bounded && !self.budget_allows(candidate.budget, now.at) {
            return Err(Reason::Budget);
        }
        let terms = candidate.terms(load, &self.options, now, ramp);
        let takes_s = terms.first_content() + terms.decode;
        if candidate.ends_before(takes_s, now) {
            return Err(Reason::Walltime);
        }
        Ok(Passed {
            now,
            in_doubt,
            own,
            terms,
            takes_s,
        })
    }

    /// The score of a candidate that may serve.
    #[inline]
    fn score(
        &self,
        candidate: &Candidate,
        load: &Load,
        ask: &Ask<'_>,
        passed: &Passed,
    ) -> Eligible {
        let Passed {
            now,
            in_doubt,
            own,
            terms,
            takes_s,
        } = *passed;
        let (asked, usual) = (ask.max_tokens.map_or(load.output, f64::from), load.output);
        let longest = || terms.first_content() + terms.decode * asked.max(usual) / usual.max(1.0);
        let has_end = candidate.figures.walltime_left.is_some();
        let late = |left: Duration| takes_s > left.as_secs_f64();
        Eligible {
            id: candidate.id,
            cost: terms.cost(),
            terms,
            drift: candidate.drift(load, &terms, now),
            cached: load.prompt - load.uncached,
            prompt: load.prompt,
            load: candidate.company() / f64::from(candidate.facts.weight.max(1)),
            weight: candidate.facts.weight,
            at_home: self.options.is_home(&candidate.facts.site),
            own,
            silent: candidate.figures.silent,
            in_doubt,
            detour: candidate.figures.detour,
            late: ask.time_left.is_some_and(late),
            to_the_end: !has_end || !candidate.ends_before(longest(), now),
        }
    }

    /// Counts the request as sent to the pick.
    fn send(&mut self, ask: &Ask<'_>, pick: &Eligible, now: Duration) -> Ticket {
        let bounds = &self.options.retry;
        let candidate = self.candidates.get_mut(pick.id.index());
        let uncached = pick.prompt - pick.cached;
        let mut output = OUTPUT_TOKENS;
        if let Some(model) = self.models.get_mut(ask.model) {
            let load = model.load(ask, 0);
            output = load.tokens;
            model.prompt.learn(uncached);
        }
        let work = Work {
            sequences: ask.n,
            prefill_tokens: uncached as u64,
            kv_tokens: (pick.prompt + output) as u64,
        };
        let (mut company, mut proves) = (0.0, false);
        if let Some(candidate) = candidate {
            proves = candidate.is_unproven(now.as_secs_f64());
            candidate.health.sent(now, &self.options.ejection);
            candidate.credits.sent(work, now);
            company = candidate.company();
            if let Some((_, budget)) = self.budgets.get_mut(candidate.budget) {
                match ask.attempt {
                    _ if pick.in_doubt => budget.spend(bounds, now),
                    Attempt::First => budget.earn(bounds),
                    Attempt::Retry | Attempt::Hedge => budget.spend(bounds, now),
                    // Counting is next to no work, and the others are bounded by how many may be on their way at once.
                    Attempt::Count | Attempt::Move | Attempt::Resume => {}
                }
            }
        }
        Ticket::new(pick, now, (work, company), proves)
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
            in_doubt: pick.is_some_and(|pick| pick.in_doubt),
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
}

/// Places of those with the lowest cost, lowest first, and how many there are. They are not sorted themselves: they are
/// large, and few are asked for.
fn cheapest(eligible: &[Eligible]) -> ([usize; DECISION_BEST_MAX], usize) {
    let (mut best, mut count) = ([0; DECISION_BEST_MAX], 0);
    let cost = |place: usize| eligible.get(place).map_or(f64::INFINITY, |e| e.cost);
    let mut last = f64::INFINITY;
    for (place, candidate) in eligible.iter().enumerate() {
        if count == DECISION_BEST_MAX && candidate.cost >= last {
            continue;
        }
        let at = best[..count].partition_point(|known| cost(*known) <= candidate.cost);
        count = (count + 1).min(DECISION_BEST_MAX);
        best[at..count].rotate_right(1);
        best[at] = place;
        last = cost(best[count - 1]);
    }
    (best, count)
}
