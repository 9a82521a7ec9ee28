//! What others have sent to a candidate since its figures were true.
//!
//! Figures are old, and whoever else reads them reads the same: everybody goes to who looked idle last, until the next
//! report says that it is not (Mitzenmacher, "How useful is old information?", 2000). Our own requests are counted as they
//! leave (`load.rs`). Those of others are foreseen here by what they would do who decide as we do: all that came since then
//! fills the cheapest candidates up to one level, as water does (Dahlin, "Interpreting stale load information", 2000). So
//! the older the figures and the more requests, the more candidates are equals, and a gateway that is alone foresees nothing.

use std::time::Duration;

use super::cost::Terms;
use super::number::{larger, smaller};
use super::policy::Eligible;

/// Seconds over which requests are counted: some reports, and less than loads take to change.
const MEMORY_S: f64 = 10.0;
/// Share of all that others must have for us to see them at all: figures and requests are never counted at one moment.
const OTHERS_MIN: f64 = 0.1;
/// Requests of others below which nothing is worth foreseeing.
const AMOUNT_MIN: f64 = 0.25;
/// Steps towards the level; four or five are usual. Where candidates are so unlike that the first of them do not find it,
/// each of the rest halves what is left.
const ROUNDS_MAX: usize = 64;
const ROUNDS_BY_SLOPE: usize = 16;
/// Share of the amount within which the level is found.
const LEVEL_WITHIN: f64 = 0.02;

/// How many requests for one model others send beside ours, by what figures show and we did not send.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    at: Duration,
    /// Our requests, and at each of them the sequences of all and ours; older ones count less and less.
    sent: f64,
    all: f64,
    ours: f64,
    /// Kept for their memory.
    vessels: Vec<Vessel>,
}

/// How one candidate may have changed since its figures.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Drift {
    /// Seconds since they were true.
    pub(super) age_s: f64,
    /// Seconds that one more request adds to its cost, and requests that add a second.
    pub(super) one_more_s: f64,
    pub(super) per_s: f64,
    /// Sequences that the figures show, and sequences of ours there now.
    pub(super) all: f64,
    pub(super) ours: f64,
}

/// A candidate that fills.
#[derive(Debug, Clone, Copy)]
struct Vessel {
    /// Its cost once those of others that have ended by now are gone.
    empty: f64,
    per_s: f64,
    /// Sequences of others that have ended by now.
    ended: f64,
    /// All that may have come.
    most: f64,
}

impl Crowd {
    /// Notes a request of ours, and what figures show at that moment of all candidates together.
    pub(super) fn note(&mut self, eligible: &[Eligible], now: Duration) {
        let keep = (-now.saturating_sub(self.at).as_secs_f64() / MEMORY_S).exp();
        let (mut all, mut ours) = (0.0, 0.0);
        for one in eligible {
            all += one.drift.all;
            ours += one.drift.ours;
        }
        self.at = now;
        self.sent = self.sent * keep + 1.0;
        self.all = self.all * keep + all;
        self.ours = self.ours * keep + ours;
    }

    /// Share of all requests that are others', from 0 to 1.
    fn share(&self) -> f64 {
        let others = self.all - self.ours;
        if others <= OTHERS_MIN * self.all {
            return 0.0;
        }
        others / self.all
    }

    /// Requests a second of others: as many for each of ours as they have in flight for each of ours (Little's law, where
    /// requests are alike).
    fn others_per_s(&self) -> f64 {
        // At the first requests of ours there may be none in flight yet.
        self.sent / MEMORY_S * (self.all - self.ours).max(0.0) / (self.ours + 1.0)
    }

    /// Adds to each candidate's cost what others have likely sent there since its figures were true.
    pub(super) fn foresee(&mut self, eligible: &mut [Eligible]) {
        let share = self.share();
        if share == 0.0 {
            return;
        }
        let per_s = self.others_per_s();
        let ages = eligible.iter().map(|e| e.drift.age_s).sum::<f64>();
        let amount = per_s * ages / eligible.len().max(1) as f64;
        if amount < AMOUNT_MIN || eligible.len() < 2 {
            return;
        }
        let vessels = eligible.iter().map(|e| Vessel::of(e, share, per_s));
        self.vessels.clear();
        self.vessels.extend(vessels);
        let level = level(&self.vessels, amount);
        for (candidate, vessel) in eligible.iter_mut().zip(&self.vessels) {
            // What came in place of what ended is in the figures; nobody is taken for emptier than it said.
            let more = vessel.holds(level) - vessel.ended;
            if more > 0.0 {
                candidate.terms.crowd = more * candidate.drift.one_more_s;
                candidate.cost = candidate.terms.cost();
            }
        }
    }
}

impl Vessel {
    fn of(candidate: &Eligible, share: f64, others_per_s: f64) -> Self {
        let (drift, stays_s) = (&candidate.drift, stays(&candidate.terms));
        // 1 - e^-x by its first Pade approximant: this is done for every candidate of every decision.
        let gone = drift.age_s / larger(drift.age_s + stays_s, 1e-6);
        let ramp = larger(candidate.terms.ramp, 1e-3);
        let ended = share * drift.all * gone;
        Self {
            empty: candidate.cost - ended * drift.one_more_s / ramp,
            per_s: drift.per_s * ramp,
            ended,
            most: others_per_s * drift.age_s,
        }
    }

    /// Requests that fill it up to `level`.
    fn holds(&self, level: f64) -> f64 {
        let more = (level - self.empty) * self.per_s;
        smaller(larger(more, 0.0), self.most)
    }
}

/// Seconds that a request like ours is there.
fn stays(terms: &Terms) -> f64 {
    terms.wait + terms.prefill + terms.decode
}

/// The cost up to which `amount` requests fill the candidates: by Newton's method, within what is known of the level.
fn level(vessels: &[Vessel], amount: f64) -> f64 {
    let (mut lowest, mut all_per_s) = (f64::INFINITY, 0.0);
    for one in vessels.iter().filter(|vessel| vessel.most > 0.0) {
        lowest = smaller(one.empty, lowest);
        all_per_s += one.per_s;
    }
    // Were all as cheap as the cheapest, it would be here: it lies higher.
    let first = amount / all_per_s;
    let (mut low, mut high, mut level) = (lowest, f64::INFINITY, lowest + first);
    for round in 0..ROUNDS_MAX {
        let (mut held, mut grows) = (0.0, 0.0);
        for one in vessels {
            let holds = one.holds(level);
            held += holds;
            // Without branches, which nobody could foresee.
            let fills = one.empty <= level && holds < one.most;
            grows += if fills { one.per_s } else { 0.0 };
        }
        if (held - amount).abs() <= LEVEL_WITHIN * amount {
            break;
        }
        if held < amount {
            low = level;
        } else {
            high = level;
        }
        // Where nobody takes more, it lies above the next one that will.
        let guess = match grows > 0.0 {
            true => level + (amount - held) / grows,
            false => next_above(vessels, level) + first,
        };
        if round < ROUNDS_BY_SLOPE && guess > low && guess < high {
            level = guess;
            continue;
        }
        if high.is_infinite() {
            high = full(vessels);
        }
        if low >= high {
            break;
        }
        level = f64::midpoint(low, high);
    }
    level
}

/// The cost of the cheapest that is dearer than `level`.
fn next_above(vessels: &[Vessel], level: f64) -> f64 {
    let dry = vessels.iter().filter(|vessel| vessel.empty > level);
    dry.map(|one| one.empty).fold(f64::INFINITY, f64::min)
}

/// The cost at which nobody takes more.
fn full(vessels: &[Vessel]) -> f64 {
    let able = vessels.iter().filter(|vessel| vessel.most > 0.0);
    let costs = able.map(|one| one.empty + one.most / one.per_s);
    costs.fold(f64::NEG_INFINITY, f64::max)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::route::facts::CandidateId;

    /// Candidates with these costs and requests a second of cost, figures of `age_s`, nothing to do as far as they say.
    fn idle(costs: &[(f64, f64)], age_s: f64) -> Vec<Eligible> {
        let one = |(index, (cost, per_s)): (usize, &(f64, f64))| Eligible {
            drift: Drift {
                age_s,
                one_more_s: 1.0 / per_s,
                per_s: *per_s,
                ..Drift::default()
            },
            ..Eligible::example(CandidateId(index as u16), *cost)
        };
        costs.iter().enumerate().map(one).collect()
    }

    /// A crowd in which others send `times` what we do, and we send 10 a second.
    fn crowd(times: f64) -> Crowd {
        Crowd {
            at: Duration::ZERO,
            sent: 100.0,
            all: 100.0 * (1.0 + times),
            ours: 100.0,
            vessels: Vec::new(),
        }
    }

    fn costs(eligible: &[Eligible]) -> Vec<f64> {
        eligible.iter().map(|e| e.cost).collect()
    }

    #[test]
    fn a_gateway_alone_foresees_nothing() {
        let mut eligible = idle(&[(1.0, 10.0), (2.0, 10.0)], 2.0);
        let before = costs(&eligible);
        crowd(0.05).foresee(&mut eligible);
        assert_eq!(costs(&eligible), before);
    }

    #[test]
    fn others_fill_the_cheapest_up_to_one_level() {
        // 9 times 10 requests a second for 2 s: 180 requests. The first takes 10 to be as dear as the second; of the other
        // 170 the two take 85 each, which is less than the third costs.
        let mut eligible = idle(&[(1.0, 10.0), (2.0, 10.0), (50.0, 10.0)], 2.0);
        crowd(9.0).foresee(&mut eligible);
        let after = costs(&eligible);
        assert!((after[0] - 10.5).abs() < 0.3, "{after:?}");
        assert!((after[0] - after[1]).abs() < 1e-9, "{after:?}");
        assert!((after[2] - 50.0).abs() < 1e-9, "{after:?}");
    }

    #[test]
    fn fresh_figures_hide_nobody() {
        let mut eligible = idle(&[(1.0, 10.0), (1.0, 10.0)], 2.0);
        eligible[0].drift.age_s = 0.0;
        crowd(9.0).foresee(&mut eligible);
        let after = costs(&eligible);
        assert!((after[0] - 1.0).abs() < 1e-9 && after[1] > 5.0, "{after:?}");
    }

    #[test]
    fn where_as_many_end_as_come_nothing_changes() {
        // Answers take a second, so that nearly all that the figures show are over, and as many have come.
        let mut eligible = idle(&[(1.0, 100.0), (1.0, 100.0)], 1.0);
        for one in &mut eligible {
            one.terms.decode = 1.0;
            one.drift.all = 200.0;
        }
        crowd(9.0).foresee(&mut eligible);
        assert!(costs(&eligible).iter().all(|cost| *cost < 1.1));
    }

    proptest! {
        #[test]
        fn the_level_holds_what_came_and_no_cost_falls(
            parts in prop::collection::vec((0.0..20.0_f64, 0.01..1e4_f64, 0.0..5.0_f64, 0.0..500.0_f64), 2..40),
            times in 0.2..100.0_f64,
        ) {
            let mut eligible = idle(&[], 0.0);
            for (index, (cost, per_s, age_s, all)) in parts.iter().enumerate() {
                let drift = Drift {
                    age_s: *age_s,
                    one_more_s: 1.0 / per_s,
                    per_s: *per_s,
                    all: *all,
                    ours: 0.0,
                };
                let one = Eligible::example(CandidateId(index as u16), *cost);
                eligible.push(Eligible { drift, ..one });
            }
            let (before, mut crowd) = (eligible.clone(), crowd(times));
            crowd.foresee(&mut eligible);
            let per_s = crowd.others_per_s();
            let amount = per_s * parts.iter().map(|part| part.2).sum::<f64>() / parts.len() as f64;
            let vessels = before.iter().map(|e| Vessel::of(e, crowd.share(), per_s));
            let vessels: Vec<Vessel> = vessels.collect();
            let level = level(&vessels, amount);
            let held: f64 = vessels.iter().map(|vessel| vessel.holds(level)).sum();
            prop_assert!((held - amount).abs() <= 0.1 * amount + 1e-6, "{held} of {amount}");
            for (before, after) in before.iter().zip(&eligible) {
                prop_assert!(after.cost.is_finite() && after.cost >= before.cost - 1e-9);
            }
        }
    }
}
