//! One decision: who may serve, what each would cost, and who does.

use std::sync::Arc;
use std::time::Duration;

use super::candidate::Moment;
use super::cost::{Load, Terms, Uncached};
use super::decision::{Attempt, Filtered, Reason};
use super::health::Standing;
use super::judge::Judge;
use super::load::Work;
use super::means::Means;
use super::model::OUTPUT_TOKENS;
use super::options::Policy;
use super::policy::{DETOUR, ENDS, Eligible, Flaws, LATE, NOT_OWN, SILENT};
use super::sheet::Sheet;
use super::{Ask, Placement, Router, Ticket, Unplaced};

/// One look over the candidates of a model.
struct Look<'a> {
    ask: &'a Ask<'a>,
    load: Load,
    now: Moment,
    /// Whether those may serve who may not be well.
    in_doubt: bool,
    /// Whether it goes nowhere that has had its share of retries.
    bounded: bool,
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
        let filtered = self.sift(model, ask, now, false);
        let lost = filtered.of(Reason::NotReady) + filtered.of(Reason::Ejected);
        // All others wait for a while until somebody is.
        let tries = ask.attempt == Attempt::First && filtered.of(Reason::Full) == 0;
        if !self.eligible.is_empty() || !tries || lost == 0 {
            return filtered;
        }
        let in_doubt = self.sift(model, ask, now, true);
        match self.eligible.is_empty() {
            true => filtered,
            false => in_doubt,
        }
    }

    /// The same once, with or without those who may not be well.
    fn sift(&mut self, model: usize, ask: &Ask<'_>, now: Duration, in_doubt: bool) -> Filtered {
        let mut filtered = Filtered::default();
        self.eligible.clear();
        self.look_up_depths(model, ask.blocks);
        let Some(of) = self.models.get(model) else {
            return filtered;
        };
        let look = Look {
            ask,
            load: of.load(ask),
            now: Moment::from(now),
            in_doubt,
            // Those in doubt may all be dead, and get no more than retries would.
            bounded: in_doubt || matches!(ask.attempt, Attempt::Retry | Attempt::Hedge),
        };
        let unseen = of.uncached(ask, 0);
        let mut judge = Judge::new(ask, &self.options, &self.candidates, in_doubt);
        for (sheet, depth) in of.sheets.iter().zip(&self.depths) {
            let uncached = match depth {
                0 => unseen,
                depth => of.uncached(ask, *depth),
            };
            let judged = match judge.bar(sheet) {
                Some(reason) => Err(reason),
                None => self.pass(sheet, uncached, &look, &mut judge),
            };
            match judged {
                Ok(one) => self.eligible.push(one),
                Err(reason) => filtered.count(reason),
            }
        }
        self.prefer_the_best(&mut filtered);
        self.share_out(model, ask, now);
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

    /// Shares requests out over those who may serve, where others send to them too.
    fn share_out(&mut self, model: usize, ask: &Ask<'_>, now: Duration) {
        let Some(model) = self.models.get_mut(model) else {
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

    /// A candidate that no rule bars as one of those to choose from, or why it may not serve all the same.
    #[inline]
    fn pass(
        &self,
        sheet: &Sheet,
        uncached: Uncached,
        look: &Look<'_>,
        judge: &mut Judge<'_>,
    ) -> Result<Eligible, Reason> {
        let (ask, now) = (look.ask, look.now);
        if ask.waits && sheet.full {
            return Err(Reason::Full);
        }
        let own = match judge.means() {
            Means::Own => true,
            Means::Any => false,
            Means::Nothing => return Err(Reason::Allocation),
        };
        let trouble = match now.seconds < sheet.troubled_until_s {
            true => self.trouble(sheet, look)?,
            false => Trouble::NONE,
        };
        if look.bounded && !self.budget_allows(sheet.budget, now.at) {
            return Err(Reason::Budget);
        }
        let mut terms = sheet.terms(&look.load, uncached, &self.options, now);
        (terms.ramp, terms.failures) = (trouble.ramp, trouble.failures_s);
        let takes_s = terms.first_content() + terms.decode;
        if sheet.ends_before(takes_s, now) {
            return Err(Reason::Walltime);
        }
        let late = |left: Duration| takes_s > left.as_secs_f64();
        Ok(Eligible {
            id: sheet.id,
            cost: terms.cost(),
            terms,
            drift: sheet.drift(&look.load, &terms, now),
            cached: look.load.prompt - uncached.tokens,
            prompt: look.load.prompt,
            load: sheet.load,
            weight: sheet.weight,
            at_home: judge.is_at_home(),
            in_doubt: look.in_doubt,
            flaws: sheet.flaws
                | flaw(ENDS, look.is_outlasted(sheet, &terms))
                | flaw(LATE, ask.time_left.is_some_and(late))
                | flaw(NOT_OWN, !own),
        })
    }

    /// What past failures of a candidate are worth, if it may serve again.
    fn trouble(&self, sheet: &Sheet, look: &Look<'_>) -> Result<Trouble, Reason> {
        let Some(candidate) = self.candidates.get(sheet.id.index()) else {
            return Err(Reason::NotReady);
        };
        let standing = candidate
            .health
            .standing(look.now.at, &self.options.ejection);
        let ramp = match standing {
            Standing::In(ramp) => ramp,
            Standing::Probe => 1.0,
            Standing::Out if look.in_doubt => 1.0,
            Standing::Out => return Err(Reason::Ejected),
        };
        let failures_s = candidate.penalty.seconds(look.now.at);
        Ok(Trouble { ramp, failures_s })
    }

    /// Counts the request as sent to the pick.
    fn send(&mut self, model: usize, ask: &Ask<'_>, pick: &Eligible, now: Duration) -> Ticket {
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
        let ejection = self.options.ejection;
        let sent = self.change(pick.id, |candidate| {
            let proves = candidate.is_unproven(now.as_secs_f64());
            candidate.health.sent(now, &ejection);
            candidate.credits.sent(work, now);
            (candidate.company(), proves, candidate.budget)
        });
        let (company, proves, budget) = sent.unwrap_or((0.0, false, usize::MAX));
        self.pay(budget, ask, pick, now);
        Ticket::new(pick, now, (work, company), proves)
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

impl Look<'_> {
    /// Whether a candidate ends before the longest answer would that may come.
    #[inline]
    fn is_outlasted(&self, sheet: &Sheet, terms: &Terms) -> bool {
        let usual = self.load.output;
        let asked = self.ask.max_tokens.map_or(usual, f64::from);
        let longest = || terms.decode * asked.max(usual) / usual.max(1.0);
        sheet.ends() && sheet.ends_before(terms.first_content() + longest(), self.now)
    }
}

/// What past failures of a candidate are worth: the part of its usual attraction that it has, and seconds of cost.
struct Trouble {
    ramp: f64,
    failures_s: f64,
}

impl Trouble {
    const NONE: Self = Self {
        ramp: 1.0,
        failures_s: 0.0,
    };
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

const fn flaw(flaw: Flaws, is: bool) -> Flaws {
    if is { flaw } else { 0 }
}
