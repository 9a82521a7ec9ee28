//! One decision: who may serve, what each would cost, and who does.

use std::sync::Arc;
use std::time::Duration;

use super::candidate::{Candidate, Moment};
use super::cost::{Load, Terms, Uncached};
use super::decision::{Attempt, Filtered, Reason};
use super::health::Standing;
use super::judge::Judge;
use super::load::{Credit, Work};
use super::means::Means;
use super::model::OUTPUT_TOKENS;
use super::options::Policy;
use super::policy::{DETOUR, ENDS, Eligible, Flaws, LATE, NOT_OWN, SILENT};
use super::sheet::Sheet;
use super::{Ask, Placement, Router, Ticket, Unplaced};

/// One look over the candidates of a model.
struct Look<'a> {
    ask: &'a Ask<'a>,
    now: Moment,
    /// Whether those may serve who may not be well.
    in_doubt: bool,
    /// Whether it goes nowhere that has had its share of retries.
    bounded: bool,
}

impl<'a> Look<'a> {
    fn new(ask: &'a Ask<'a>, now: Duration, in_doubt: bool) -> Self {
        Self {
            ask,
            now: Moment::from(now),
            in_doubt,
            // Those in doubt may all be dead, and get no more than retries would.
            bounded: in_doubt || matches!(ask.attempt, Attempt::Retry | Attempt::Hedge),
        }
    }
}

/// What a request brings to one of them.
#[derive(Clone, Copy)]
struct Brings<'a> {
    load: &'a Load,
    uncached: Uncached,
}

/// Flaws and why they are such, the worst first.
const FLAWS: [(Flaws, Reason); 5] = [
    (SILENT, Reason::Silent),
    // What is behind it is here by a shorter way, or was barred for a reason.
    (DETOUR, Reason::Detour),
    // An answer that may outlast its candidate goes there only where no other has the time; most are shorter than they may
    // be, and the rest goes on elsewhere.
    (ENDS, Reason::Walltime),
    // No price, and no carbon, is worth an answer that comes too late.
    (LATE, Reason::Late),
    (NOT_OWN, Reason::NotOwn),
];

/// What is known of a candidate once nothing speaks against it.
struct Passed {
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
        let Some(model) = self.by_name.get(ask.model).copied() else {
            self.eligible.clear();
            let decision = self.decision(ask, None, Filtered::default(), now);
            return Err(Unplaced(Arc::new(decision)));
        };
        let filtered = self.consider(model, ask, now);
        let pick = self.pick(model, ask);
        let decision = Arc::new(self.decision(ask, pick.as_ref(), filtered, now));
        let Some(pick) = pick else {
            return Err(Unplaced(decision));
        };
        Ok(Placement {
            candidate: pick.id,
            ticket: self.send(model, ask, &pick, now),
            decision,
        })
    }

    /// One of those who may serve, if there are any.
    fn pick(&mut self, model: usize, ask: &Ask<'_>) -> Option<Eligible> {
        if self.eligible.is_empty() {
            return None;
        }
        let session = ask.session.and_then(|s| self.prefixes.holders(s).next());
        let habit = &mut self.models.get_mut(model)?.habit;
        let place = habit.pick(&self.options, &self.eligible, session, &mut self.draw);
        self.eligible.get(place).copied()
    }

    /// Fills `eligible` with those who may serve and counts the others. Where nobody is known to be well, those may whom a
    /// request may find well all the same: its client would be refused otherwise, and only requests show who is back.
    fn consider(&mut self, model: usize, ask: &Ask<'_>, now: Duration) -> Filtered {
        let filtered = self.sift(model, &Look::new(ask, now, false));
        let lost = filtered.of(Reason::NotReady) + filtered.of(Reason::Ejected);
        // All others wait for a while until somebody is.
        let tries = ask.attempt == Attempt::First && filtered.of(Reason::Full) == 0;
        if !self.eligible.is_empty() || !tries || lost == 0 {
            return filtered;
        }
        let in_doubt = self.sift(model, &Look::new(ask, now, true));
        match self.eligible.is_empty() {
            true => filtered,
            false => in_doubt,
        }
    }

    /// The same once, with or without those who may not be well.
    fn sift(&mut self, model: usize, look: &Look<'_>) -> Filtered {
        let mut filtered = Filtered::default();
        self.eligible.clear();
        self.look_up_depths(model, look.ask.blocks);
        let Some(of) = self.models.get(model) else {
            return filtered;
        };
        let (load, unseen) = (of.load(look.ask), of.uncached(look.ask, 0));
        let mut judge = Judge::new(look.ask, &self.options);
        for (sheet, depth) in of.sheets.iter().zip(&self.depths) {
            let Some(candidate) = self.candidates.get(sheet.id.index()) else {
                continue;
            };
            judge.meet(candidate, sheet);
            let brings = Brings {
                load: &load,
                uncached: match depth {
                    0 => unseen,
                    depth => of.uncached(look.ask, *depth),
                },
            };
            let passed = match candidate.barred(sheet, look.ask, &judge, look.in_doubt) {
                Some(reason) => Err(reason),
                None => self.pass((candidate, sheet), brings, look, &mut judge),
            };
            match passed {
                Ok(passed) => {
                    let one = eligible(sheet, brings, look, &passed, judge.at_home);
                    self.eligible.push(one);
                }
                Err(reason) => filtered.count(reason),
            }
        }
        self.prefer_the_best(&mut filtered);
        self.foresee(model, look);
        filtered
    }

    /// Fills `depths` with the leading `blocks` that each candidate of the model has seen.
    fn look_up_depths(&mut self, model: usize, blocks: &[u64]) {
        let rows = self.models.get(model).map_or(0, |of| of.sheets.len());
        self.depths.clear();
        self.depths.resize(rows, 0);
        for (id, depth) in self.prefixes.depths(blocks) {
            let known = self.candidates.get(id.index());
            let known = known.filter(|candidate| candidate.row.model == model);
            let place = known.and_then(|candidate| self.depths.get_mut(candidate.row.row));
            if let Some(place) = place {
                *place = depth;
            }
        }
    }

    /// Leaves out those whom no cost makes as good as others, by one flaw after the other.
    fn prefer_the_best(&mut self, filtered: &mut Filtered) {
        let flaws = self.eligible.iter().map(|eligible| eligible.flaws);
        let (any, all) = flaws.fold((0, Flaws::MAX), |(any, all), one| (any | one, all & one));
        // Mostly they differ in cost alone.
        if any != all {
            for (flaw, reason) in FLAWS {
                self.prefer(filtered, flaw, reason);
            }
        }
    }

    /// Adds what others have likely sent to those who may serve since their figures were true.
    fn foresee(&mut self, model: usize, look: &Look<'_>) {
        let Some(model) = self.models.get_mut(model) else {
            return;
        };
        if self.options.policy != Policy::Cost {
            return;
        }
        if look.ask.attempt == Attempt::First {
            model.crowd.note(&self.eligible, look.now.at);
        }
        model.crowd.foresee(&mut self.eligible);
    }

    /// Keeps those without a flaw alone, where there are any.
    fn prefer(&mut self, filtered: &mut Filtered, flaw: Flaws, reason: Reason) {
        let is_good = |eligible: &Eligible| eligible.flaws & flaw == 0;
        if !self.eligible.iter().any(is_good) {
            return;
        }
        self.eligible.retain(|eligible| {
            let stays = is_good(eligible);
            if !stays {
                filtered.count(reason);
            }
            stays
        });
    }

    /// What a candidate that no rule bars would cost, or why it may not serve all the same.
    #[inline]
    fn pass(
        &self,
        (candidate, sheet): (&Candidate, &Sheet),
        brings: Brings<'_>,
        look: &Look<'_>,
        judge: &mut Judge<'_>,
    ) -> Result<Passed, Reason> {
        let (ask, now) = (look.ask, look.now);
        if ask.waits && sheet.full {
            return Err(Reason::Full);
        }
        let own = match judge.means(candidate) {
            Means::Own => true,
            Means::Any => false,
            Means::Nothing => return Err(Reason::Allocation),
        };
        let troubled = now.seconds < sheet.troubled_until_s;
        let ramp = match troubled {
            true => self.ramp(candidate, look)?,
            false => 1.0,
        };
        if look.bounded && !self.budget_allows(candidate.budget, now.at) {
            return Err(Reason::Budget);
        }
        let mut terms = sheet.terms(brings.load, brings.uncached, &self.options, now);
        if troubled {
            terms.ramp = ramp;
            terms.failures = candidate.penalty.seconds(now.at);
        }
        let takes_s = terms.first_content() + terms.decode;
        if sheet.ends_before(takes_s, now) {
            return Err(Reason::Walltime);
        }
        Ok(Passed {
            own,
            terms,
            takes_s,
        })
    }

    /// The part of its usual attraction that one has which has failed, if it may serve again.
    fn ramp(&self, candidate: &Candidate, look: &Look<'_>) -> Result<f64, Reason> {
        let ejection = &self.options.ejection;
        match candidate.health.standing(look.now.at, ejection) {
            Standing::In(ramp) => Ok(ramp),
            Standing::Probe => Ok(1.0),
            Standing::Out if look.in_doubt => Ok(1.0),
            Standing::Out => Err(Reason::Ejected),
        }
    }

    /// Counts the request as sent to the pick.
    fn send(&mut self, model: usize, ask: &Ask<'_>, pick: &Eligible, now: Duration) -> Ticket {
        self.number += 1;
        let uncached = pick.prompt - pick.cached;
        let mut output = OUTPUT_TOKENS;
        if let Some(model) = self.models.get_mut(model) {
            let load = model.load(ask);
            output = load.tokens;
            model.prompt.learn(uncached);
        }
        let work = Work {
            sequences: ask.n,
            prefill_tokens: uncached as u64,
            kv_tokens: (pick.prompt + output) as u64,
        };
        let (number, ejection) = (self.number, self.options.ejection);
        let sent = self.change(pick.id, |candidate| {
            let proves = candidate.is_unproven(now.as_secs_f64());
            candidate.health.sent(now, &ejection);
            let at = now;
            candidate.credits.sent(Credit { number, at, work });
            (candidate.company(), proves, candidate.budget)
        });
        let (company, proves, budget) = sent.unwrap_or((0.0, false, usize::MAX));
        self.pay(budget, ask, pick, now);
        Ticket::new(pick, number, now, (ask.n, company), proves)
    }

    /// Takes what is sent from the budget of its upstream, or adds to it.
    fn pay(&mut self, budget: usize, ask: &Ask<'_>, pick: &Eligible, now: Duration) {
        let bounds = &self.options.retry;
        let Some((_, budget)) = self.budgets.get_mut(budget) else {
            return;
        };
        match ask.attempt {
            _ if pick.in_doubt => budget.spend(bounds, now),
            Attempt::First => budget.earn(bounds),
            Attempt::Retry | Attempt::Hedge => budget.spend(bounds, now),
            // Counting is next to no work, and the others are bounded by how many may be on their way at once.
            Attempt::Count | Attempt::Move | Attempt::Resume => {}
        }
    }
}

/// A candidate that may serve as one of those to choose from.
#[inline]
fn eligible(
    sheet: &Sheet,
    brings: Brings<'_>,
    look: &Look<'_>,
    passed: &Passed,
    at_home: bool,
) -> Eligible {
    let Brings { load, uncached } = brings;
    let terms = passed.terms;
    let asked = look.ask.max_tokens.map_or(load.output, f64::from);
    let longest =
        || terms.first_content() + terms.decode * asked.max(load.output) / load.output.max(1.0);
    let outlasts = sheet.left_s < f64::INFINITY && sheet.ends_before(longest(), look.now);
    let late = |left: Duration| passed.takes_s > left.as_secs_f64();
    let is_late = look.ask.time_left.is_some_and(late);
    let flaw = |is: bool, flaw: Flaws| if is { flaw } else { 0 };
    Eligible {
        id: sheet.id,
        cost: terms.cost(),
        terms,
        drift: sheet.drift(load, &terms, look.now),
        cached: load.prompt - uncached.tokens,
        prompt: load.prompt,
        load: sheet.load,
        weight: sheet.weight,
        at_home,
        in_doubt: look.in_doubt,
        flaws: sheet.flaws
            | flaw(outlasts, ENDS)
            | flaw(is_late, LATE)
            | flaw(!passed.own, NOT_OWN),
    }
}
