//! Truncations: min-p, then top-k, then top-p, and a draw from what is left.
//!
//! Few of a vocabulary's tokens ever have a chance. So only those above a floor are gathered, and the floor is lowered
//! until they are certain to hold all that the truncations keep.

use std::cmp::Ordering;

use super::passes::Weights;
use crate::api::SamplingParams;
use crate::limits::TOP_P_SELECTION;

/// Weights, relative to the best token's, above which candidates are gathered first, second and last.
const FLOORS: [f32; 3] = [1.0 / 4096.0, 1.0 / 16_777_216.0, 0.0];

/// A token that may be drawn, and its weight relative to the best one's.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    weight: f32,
    token: u32,
}

/// Candidates, in memory kept from row to row.
#[derive(Debug, Default)]
pub(super) struct Nucleus {
    candidates: Vec<Candidate>,
}

impl Nucleus {
    /// The token at `chance` of what the truncations keep.
    pub(super) fn draw(
        &mut self,
        weights: &[f32],
        sums: &Weights,
        sampling: &SamplingParams,
        chance: f64,
    ) -> Option<u32> {
        // Where neither min-p nor top-k takes anything away, top-p is of everything.
        let total = (sampling.min_p <= 0.0 && sampling.top_k == 0).then(|| sums.total());
        for floor in FLOORS {
            let floor = floor.max(sampling.min_p);
            self.gather(weights, sums, floor);
            if floor <= sampling.min_p || self.suffice(sampling, total) {
                break;
            }
        }
        self.keep_top_k(sampling.top_k);
        let mass = self.keep_top_p(sampling.top_p, total);
        self.pick(mass * chance)
    }

    fn gather(&mut self, weights: &[f32], sums: &Weights, floor: f32) {
        let kept = sums.at_least(weights, floor);
        self.candidates.clear();
        self.candidates
            .extend(kept.map(|(token, weight)| Candidate { weight, token }));
    }

    /// Whether the best candidates above a floor hold all that top-k or top-p keep.
    fn suffice(&self, sampling: &SamplingParams, total: Option<f64>) -> bool {
        match total {
            Some(total) => self.mass() >= total * f64::from(sampling.top_p),
            None => sampling.top_k > 0 && self.candidates.len() >= sampling.top_k as usize,
        }
    }

    fn mass(&self) -> f64 {
        self.candidates.iter().map(|c| f64::from(c.weight)).sum()
    }

    /// The `top_k` best candidates; 0 keeps all.
    fn keep_top_k(&mut self, top_k: u32) {
        let top_k = top_k as usize;
        if top_k > 0 && top_k < self.candidates.len() {
            self.candidates
                .select_nth_unstable_by(top_k - 1, best_first);
            self.candidates.truncate(top_k);
            // A selection leaves its part in no particular order, and sums must have one.
            self.candidates.sort_unstable_by_key(|c| c.token);
        }
    }

    /// The smallest set of best candidates with at least `top_p` of the mass, best first. Returns its mass.
    fn keep_top_p(&mut self, top_p: f32, total: Option<f64>) -> f64 {
        if top_p >= 1.0 {
            return self.mass();
        }
        let wanted = total.unwrap_or_else(|| self.mass()) * f64::from(top_p);
        let (mut mass, mut sorted) = (0.0, 0);
        let mut selection = TOP_P_SELECTION;
        while sorted < self.candidates.len() {
            let selected = self.sort_next(sorted, selection);
            for index in sorted..selected {
                mass += f64::from(self.candidates[index].weight);
                if mass >= wanted {
                    self.candidates.truncate(index + 1);
                    return mass;
                }
            }
            sorted = selected;
            selection *= 4;
        }
        mass
    }

    /// Sorts the next `count` best candidates after the first `sorted`, which are in place. Returns where they end.
    fn sort_next(&mut self, sorted: usize, count: usize) -> usize {
        let rest = &mut self.candidates[sorted..];
        let count = count.min(rest.len());
        if count < rest.len() {
            rest.select_nth_unstable_by(count, best_first);
        }
        rest[..count].sort_unstable_by(best_first);
        sorted + count
    }

    /// The candidate at `left` of the mass, in the candidates' order.
    fn pick(&self, mut left: f64) -> Option<u32> {
        for candidate in &self.candidates {
            left -= f64::from(candidate.weight);
            if left < 0.0 {
                return Some(candidate.token);
            }
        }
        self.candidates.last().map(|c| c.token)
    }
}

fn best_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token))
}
