//! Truncations: min-p, then top-k, then top-p, and a draw from what is left.
//!
//! Few of a vocabulary's tokens ever have a chance. So only those above a floor are gathered, and the floor is lowered
//! until they are certain to hold all that the truncations keep. Where very many do have a chance nothing is sorted
//! either: see `line`.

use super::line::{Candidate, Line, best_first, mass_of};
use super::passes::Weights;
use crate::api::SamplingParams;

/// Weights, relative to the best token's, above which candidates are gathered first, second and last.
const FLOORS: [f32; 3] = [1.0 / 4096.0, 1.0 / 16_777_216.0, 0.0];

/// Candidates, in memory kept from row to row.
#[derive(Debug, Default)]
pub(super) struct Nucleus {
    /// In order of id.
    candidates: Vec<Candidate>,
    /// The same, in no particular order.
    selection: Vec<Candidate>,
    line: Line,
}

impl Nucleus {
    /// The token at `chance` of what the truncations keep: in order of id, or best first where top-p has a say.
    pub(super) fn draw(
        &mut self,
        weights: &[f32],
        sums: &Weights,
        sampling: &SamplingParams,
        chance: f64,
    ) -> Option<u32> {
        // Where neither min-p nor top-k takes anything away, top-p is of everything.
        let is_alone = sampling.min_p <= 0.0 && sampling.top_k == 0;
        let top_p = f64::from(sampling.top_p);
        let wanted = is_alone.then(|| mass_of(sums.total() * top_p));
        for floor in FLOORS {
            let floor = floor.max(sampling.min_p);
            self.gather(weights, sums, floor);
            if floor <= sampling.min_p || self.suffice(sampling, wanted) {
                break;
            }
        }
        self.keep_top_k(sampling.top_k);
        let mass = self.mass();
        if sampling.top_p >= 1.0 {
            return self.in_order_of_id(share(mass, chance));
        }
        let wanted = wanted.unwrap_or_else(|| (mass as f64 * top_p).ceil() as u64);
        // Rounding may leave a little less than what is wanted.
        let wanted = wanted.clamp(1, mass.max(1));
        let kept = self.line.at(&self.candidates, wanted - 1)?.end;
        let drawn = self.line.at(&self.candidates, share(kept, chance))?;
        Some(drawn.token)
    }

    fn gather(&mut self, weights: &[f32], sums: &Weights, floor: f32) {
        let kept = sums.at_least(weights, floor);
        self.candidates.clear();
        self.candidates
            .extend(kept.map(|(token, weight)| Candidate { weight, token }));
    }

    /// Whether the best candidates above a floor hold all that top-k or top-p keep.
    fn suffice(&self, sampling: &SamplingParams, wanted: Option<u64>) -> bool {
        match wanted {
            Some(wanted) => self.mass() >= wanted,
            None => sampling.top_k > 0 && self.candidates.len() >= sampling.top_k as usize,
        }
    }

    fn mass(&self) -> u64 {
        self.candidates.iter().map(Candidate::mass).sum()
    }

    /// The `top_k` best candidates; 0 keeps all.
    fn keep_top_k(&mut self, top_k: u32) {
        let top_k = top_k as usize;
        if top_k > 0 && top_k < self.candidates.len() {
            self.selection.clone_from(&self.candidates);
            let (_, last, _) = self.selection.select_nth_unstable_by(top_k - 1, best_first);
            let last = *last;
            self.candidates.retain(|c| best_first(c, &last).is_le());
        }
    }

    /// The candidate that covers `point` of all of them in order of id.
    fn in_order_of_id(&self, point: u64) -> Option<u32> {
        let mut end = 0;
        let covers = |candidate: &&Candidate| {
            end += candidate.mass();
            point < end
        };
        self.candidates.iter().find(covers).map(|c| c.token)
    }
}

/// A point at `share` of a mass, before its end.
fn share(mass: u64, share: f64) -> u64 {
    ((mass as f64 * share) as u64).min(mass.saturating_sub(1))
}
