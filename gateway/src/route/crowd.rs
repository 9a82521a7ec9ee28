//! How requests are shared out where others send to the same candidates.
//!
//! Figures are old, and whoever else reads them reads the same: everybody goes to who looked idle last, until the next
//! report says that it is not (Mitzenmacher, "How useful is old information?", 2000). Our own requests are counted as they
//! leave and as they come back (`load.rs`); those of others are not to be seen. So where there are others, nobody takes the
//! best. Each candidate has a share: as many requests as would bring all of them to one level of cost in some time, if
//! everybody shared out so (after Dahlin, "Interpreting stale load information", 2000). That is what comes in place of what
//! ends there meanwhile, and more or less by how far its cost lies below or above the level. The time is several times the
//! age of the figures: who corrects faster than the news of it comes back corrects too much, and all gateways at once. So
//! the older the figures, the more things stay as they are, and a gateway that is alone shares nothing out.

use std::time::Duration;

use super::cost::Terms;
use super::number::{larger, smaller};
use super::policy::Eligible;

/// Seconds over which requests are counted: some reports, and less than loads take to change.
const MEMORY_S: f64 = 10.0;
/// Share of all that others must have for us to see them at all: figures and requests are never counted at one moment.
const OTHERS_MIN: f64 = 0.1;
/// Ages of the figures in which costs shall become one: at 2 the correction still overshoots somewhat, and from 4 to 8 nothing
/// changes (the simulator's example of 19 sites).
const AGES: f64 = 4.0;
/// Requests below which nothing is worth sharing out.
const AMOUNT_MIN: f64 = 0.25;
/// Steps towards the level; four or five are usual.
const ROUNDS_MAX: usize = 64;
/// Share of the amount within which the level is found.
const LEVEL_WITHIN: f64 = 0.02;

/// How many requests for one model others send beside ours, by what figures show and we did not send.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    at: Duration,
    /// Our requests, and at each of them the sequences of all and ours, and the seconds since figures were true; older ones count
    /// less and less.
    sent: f64,
    all: f64,
    ours: f64,
    ages_s: f64,
    /// Kept for their memory.
    vessels: Vec<Vessel>,
}

/// What tells how many requests a candidate should get.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Drift {
    /// Seconds since its figures were true.
    pub(super) age_s: f64,
    /// Seconds that one more request adds to its cost, and requests that add a second.
    pub(super) one_more_s: f64,
    pub(super) per_s: f64,
    /// Sequences that the figures show, and sequences of ours there now.
    pub(super) all: f64,
    pub(super) ours: f64,
    /// Requests that it should get of those that are shared out; 0 everywhere where none are.
    pub(super) share: f64,
}

/// A candidate that fills.
#[derive(Debug, Clone, Copy)]
struct Vessel {
    /// Its cost once those that end meanwhile are gone.
    empty: f64,
    per_s: f64,
}

impl Crowd {
    /// Notes a request of ours, and what figures show at that moment of all candidates together.
    pub(super) fn note(&mut self, eligible: &[Eligible], now: Duration) {
        let keep = (-now.saturating_sub(self.at).as_secs_f64() / MEMORY_S).exp();
        let sum = |of: fn(&Drift) -> f64| eligible.iter().map(|e| of(&e.drift)).sum::<f64>();
        let age_s = sum(|drift| drift.age_s) / eligible.len().max(1) as f64;
        self.at = now;
        self.sent = self.sent * keep + 1.0;
        self.all = self.all * keep + sum(|drift| drift.all);
        self.ours = self.ours * keep + sum(|drift| drift.ours);
        self.ages_s = self.ages_s * keep + age_s;
    }

    fn has_others(&self) -> bool {
        self.all - self.ours > OTHERS_MIN * self.all
    }

    /// Requests a second of everybody: as many for each of ours as there are in flight for each of ours (Little's law, where
    /// requests are alike).
    fn per_s(&self) -> f64 {
        // At the first requests of ours there may be none in flight yet.
        self.sent / MEMORY_S * self.all / (self.ours + 1.0)
    }

    /// Seconds in which costs shall become one.
    fn horizon_s(&self) -> f64 {
        AGES * self.ages_s / self.sent.max(1.0)
    }

    /// Gives each candidate its share, where there are others.
    pub(super) fn share_out(&mut self, eligible: &mut [Eligible]) {
        if !self.has_others() || eligible.len() < 2 {
            return;
        }
        let horizon_s = self.horizon_s();
        let amount = horizon_s * self.per_s();
        if amount < AMOUNT_MIN {
            return;
        }
        self.vessels.clear();
        let vessels = eligible.iter().map(|e| Vessel::of(e, horizon_s));
        self.vessels.extend(vessels);
        let level = level(&self.vessels, amount);
        for (candidate, vessel) in eligible.iter_mut().zip(&self.vessels) {
            candidate.drift.share = vessel.holds(level);
        }
    }
}

impl Vessel {
    fn of(candidate: &Eligible, horizon_s: f64) -> Self {
        let (drift, terms) = (&candidate.drift, &candidate.terms);
        // 1 - e^-x by its first Pade approximant: this is done for every candidate of every decision.
        let gone = horizon_s / (horizon_s + stays(terms)).max(1e-6);
        // What has just failed keeps nothing for having had it.
        let ended = if terms.failures > 0.0 {
            0.0
        } else {
            drift.all * gone
        };
        let ramp = terms.ramp.max(1e-3);
        Self {
            empty: candidate.cost - ended * drift.one_more_s / ramp,
            per_s: drift.per_s * ramp,
        }
    }

    /// Requests that fill it up to `level`.
    fn holds(&self, level: f64) -> f64 {
        larger((level - self.empty) * self.per_s, 0.0)
    }
}

/// Seconds that a request like ours is there.
fn stays(terms: &Terms) -> f64 {
    terms.wait + terms.prefill + terms.decode
}

/// The cost up to which `amount` requests fill the candidates. By Newton's method: what they hold grows ever faster with the level,
/// so that after its first step it comes down to the right one and never passes it.
fn level(vessels: &[Vessel], amount: f64) -> f64 {
    let empty = vessels.iter().map(|one| one.empty);
    let lowest = empty.fold(f64::INFINITY, smaller);
    // Were all as cheap as the cheapest, it would be here: it lies higher.
    let mut level = lowest + amount / vessels.iter().map(|one| one.per_s).sum::<f64>();
    for _ in 0..ROUNDS_MAX {
        let (mut held, mut grows) = (0.0, 0.0);
        for one in vessels {
            held += one.holds(level);
            grows += if level > one.empty { one.per_s } else { 0.0 };
        }
        if (held - amount).abs() <= LEVEL_WITHIN * amount || grows <= 0.0 {
            break;
        }
        level += (amount - held) / grows;
    }
    level
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::route::facts::CandidateId;

    /// Candidates with these costs, requests a second of cost and sequences, which stay for ten seconds, by figures of `age_s`.
    fn some(candidates: &[(f64, f64, f64)], age_s: f64) -> Vec<Eligible> {
        let one = |(index, (cost, per_s, all)): (usize, &(f64, f64, f64))| {
            let mut one = Eligible::example(CandidateId(index as u16), *cost);
            one.terms.decode = 10.0;
            one.drift = Drift {
                age_s,
                one_more_s: 1.0 / per_s,
                per_s: *per_s,
                all: *all,
                ..Drift::default()
            };
            one
        };
        candidates.iter().enumerate().map(one).collect()
    }

    /// A crowd that sends 100 requests a second by figures of `age_s`, one of so many gateways of which is ours.
    fn crowd(gateways: f64, age_s: f64) -> Crowd {
        let sent = 100.0 * MEMORY_S / gateways;
        let ours = 1e6;
        Crowd {
            sent,
            all: ours * gateways,
            ours,
            ages_s: sent * age_s,
            ..Crowd::default()
        }
    }

    /// What each gets of all.
    fn shares(gateways: f64, candidates: &[(f64, f64, f64)], age_s: f64) -> Vec<f64> {
        let mut eligible = some(candidates, age_s);
        crowd(gateways, age_s).share_out(&mut eligible);
        let all: f64 = eligible.iter().map(|e| e.drift.share).sum();
        eligible
            .iter()
            .map(|e| e.drift.share / all.max(1.0))
            .collect()
    }

    #[test]
    fn a_gateway_alone_shares_nothing_out() {
        let two = [(1.0, 10.0, 100.0), (2.0, 10.0, 100.0)];
        assert_eq!(shares(1.05, &two, 2.0), [0.0, 0.0]);
    }

    #[test]
    fn at_one_cost_each_gets_what_ends_there() {
        let shares = shares(9.0, &[(3.0, 10.0, 300.0), (3.0, 30.0, 900.0)], 2.0);
        assert!((shares[0] - 0.25).abs() < 0.02, "{shares:?}");
    }

    #[test]
    fn old_figures_move_less_than_fresh_ones() {
        let two = [(3.0, 50.0, 500.0), (4.0, 50.0, 500.0)];
        let cheaper = |age_s| shares(9.0, &two, age_s)[0];
        // A second dearer is 50 requests more: at once all go to the cheaper one until it is as dear.
        assert!(cheaper(0.05) > 0.99, "{}", cheaper(0.05));
        assert!((0.5..0.65).contains(&cheaper(2.0)), "{}", cheaper(2.0));
        assert!(cheaper(0.5) > cheaper(2.0));
    }

    #[test]
    fn who_has_failed_keeps_nothing_for_having_had_it() {
        let mut eligible = some(&[(3.0, 50.0, 500.0), (8.0, 50.0, 500.0)], 2.0);
        let crowd = || crowd(9.0, 2.0);
        crowd().share_out(&mut eligible);
        let before = eligible[1].drift.share;
        eligible[1].terms.failures = 5.0;
        crowd().share_out(&mut eligible);
        let after = eligible[1].drift.share;
        assert!(after < 0.7 * before, "{before} {after}");
    }

    #[test]
    fn an_idle_candidate_gets_its_part() {
        let shares = shares(9.0, &[(3.0, 50.0, 500.0), (1.0, 50.0, 0.0)], 2.0);
        assert!(shares[1] > 0.1, "{shares:?}");
    }

    proptest! {
        #[test]
        fn shares_add_up_to_what_comes(
            parts in prop::collection::vec((0.0..20.0_f64, 0.01..1e4_f64, 0.0..500.0_f64), 2..40),
            gateways in 1.2..100.0_f64,
            age_s in 0.01..5.0_f64,
        ) {
            let (mut eligible, mut crowd) = (some(&parts, age_s), crowd(gateways, age_s));
            crowd.share_out(&mut eligible);
            let amount = crowd.horizon_s() * crowd.per_s();
            let all: f64 = eligible.iter().map(|e| e.drift.share).sum();
            prop_assert!((all - amount).abs() <= 1.5 * LEVEL_WITHIN * amount, "{all} of {amount}");
            for one in &eligible {
                prop_assert!(one.drift.share.is_finite() && one.drift.share >= 0.0);
            }
        }
    }
}
