//! The record of one decision, made from what it was made of.

use std::sync::Arc;
use std::time::Duration;

use super::decision::{Decision, Filtered, Scored};
use super::policy::Eligible;
use super::{Ask, Router};
use crate::limits::DECISION_BEST_MAX;

impl Router {
    pub(super) fn decision(
        &self,
        ask: &Ask<'_>,
        pick: Option<&Eligible>,
        filtered: Filtered,
        now: Duration,
    ) -> Decision {
        let (places, count) = cheapest(&self.eligible);
        let mut best = Vec::with_capacity(count);
        let known = places
            .iter()
            .take(count)
            .filter_map(|place| self.eligible.get(*place));
        best.extend(known.filter_map(|eligible| self.scored(eligible)));
        Decision {
            at: now,
            attempt: ask.attempt,
            policy: self.options.policy,
            purpose: ask.rules.purpose,
            in_doubt: pick.is_some_and(|pick| pick.in_doubt),
            pick: pick.and_then(|pick| self.scored(pick)),
            best,
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
    let (mut best, mut count) = ([(f64::INFINITY, 0); DECISION_BEST_MAX], 0);
    let mut last = f64::INFINITY;
    for (place, candidate) in eligible.iter().enumerate() {
        let cost = candidate.cost;
        if cost >= last && count == DECISION_BEST_MAX {
            continue;
        }
        let at = best[..count].partition_point(|(known, _)| *known <= cost);
        count = (count + 1).min(DECISION_BEST_MAX);
        best[at..count].rotate_right(1);
        best[at] = (cost, place);
        last = best[count - 1].0;
    }
    (best.map(|(_, place)| place), count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::route::facts::CandidateId;

    proptest! {
        #[test]
        fn the_cheapest_are_the_first_of_all_by_cost(
            costs in prop::collection::vec(0..20_u8, 0..40),
        ) {
            let one = |cost: &u8| Eligible::example(CandidateId(0), f64::from(*cost));
            let eligible: Vec<Eligible> = costs.iter().map(one).collect();
            let mut sorted: Vec<usize> = (0..costs.len()).collect();
            sorted.sort_by_key(|place| costs[*place]);
            let (places, count) = cheapest(&eligible);
            prop_assert_eq!(count, costs.len().min(DECISION_BEST_MAX));
            prop_assert_eq!(&places[..count], &sorted[..count]);
        }
    }
}
