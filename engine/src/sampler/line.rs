//! Candidates in a line, the best first, each as long as its mass: who covers a point of it, found without a sort.
//!
//! A sort would answer that, and takes milliseconds where a whole vocabulary is likely. Here weights go into drawers by
//! their leading bits, drawers are summed, and only the one that covers the point is opened, until few are left in it.
//! Masses are whole numbers, whose sums are the same in any order: the answer is the sort's, to the token.

use std::cmp::Ordering;

use crate::limits::SAMPLER_SORT_MAX;

/// Mass of the best token. Rows of 2^24 tokens cannot overflow a sum, and what weighs less than a unit is not drawn.
const MASS_OF_BEST: f32 = 1_099_511_627_776.0; // 2^40

/// Leading bits of a weight's distance from the best one that say its drawer: three rounds tell any two weights apart.
const DRAWER_BITS: u32 = 10;

/// A token that may be drawn, and its weight relative to the best one's, above 0 and at most 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub(super) weight: f32,
    pub(super) token: u32,
}

/// Where a candidate lies in the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) token: u32,
    /// The first point behind it.
    pub(super) end: u64,
}

/// Looks into lines, in memory kept from row to row.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// What is in the drawer that was opened last.
    inside: Vec<Candidate>,
}

impl Line {
    /// Who covers `point` of the line of `candidates`; `None` where it ends before.
    pub(super) fn at(&mut self, candidates: &[Candidate], point: u64) -> Option<Place> {
        let inside = &mut self.inside;
        inside.clear();
        let mut start = 0;
        if candidates.len() <= SAMPLER_SORT_MAX {
            inside.extend_from_slice(candidates);
        } else {
            let mut drawer = Drawer::at(candidates, start, point)?;
            inside.extend(candidates.iter().filter(|c| drawer.holds(c)));
            while inside.len() > SAMPLER_SORT_MAX && drawer.has_several_weights() {
                drawer = Drawer::at(inside, drawer.start, point)?;
                inside.retain(|c| drawer.holds(c));
            }
            start = drawer.start;
        }
        inside.sort_unstable_by(best_first);
        inside.iter().find_map(|candidate| {
            start += candidate.mass();
            (point < start).then_some(Place {
                token: candidate.token,
                end: start,
            })
        })
    }
}

/// Candidates whose weights begin with the same bits.
#[derive(Debug, Clone, Copy)]
struct Drawer {
    /// Order of the best candidate of all drawers.
    best: u32,
    /// Bits that the weights of one drawer may differ in.
    bits: u32,
    /// Drawers before it.
    index: u32,
    /// Where it begins in the line.
    start: u64,
}

impl Drawer {
    /// The drawer that covers `point`, where the line of `candidates` begins at `start`.
    fn at(candidates: &[Candidate], mut start: u64, point: u64) -> Option<Self> {
        let orders = || candidates.iter().map(Candidate::order);
        let (best, least) = (orders().max()?, orders().min()?);
        let bits = (u32::BITS - (best - least).leading_zeros()).saturating_sub(DRAWER_BITS);
        let mut masses = [0_u64; 1 << DRAWER_BITS];
        for candidate in candidates {
            masses[((best - candidate.order()) >> bits) as usize] += candidate.mass();
        }
        for (mass, index) in masses.into_iter().zip(0..) {
            if point < start + mass {
                return Some(Self {
                    best,
                    bits,
                    index,
                    start,
                });
            }
            start += mass;
        }
        None
    }

    fn holds(&self, candidate: &Candidate) -> bool {
        (self.best - candidate.order()) >> self.bits == self.index
    }

    fn has_several_weights(&self) -> bool {
        self.bits > 0
    }
}

impl Candidate {
    /// How much of the line it covers, without the fraction of a unit.
    pub(super) fn mass(&self) -> u64 {
        (self.weight * MASS_OF_BEST) as u64
    }

    /// The bits of a number above 0 are in its order.
    fn order(&self) -> u32 {
        self.weight.to_bits()
    }
}

/// The mass of a sum of weights, rounded up.
pub(super) fn mass_of(weights: f64) -> u64 {
    (weights * f64::from(MASS_OF_BEST)).ceil() as u64
}

/// The heavier first, and of equals the lower id.
pub(super) fn best_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// By definition: all in a row.
    fn sorted(candidates: &[Candidate], point: u64) -> Option<Place> {
        let mut all = candidates.to_vec();
        all.sort_by(best_first);
        let mut end = 0;
        all.into_iter().find_map(|candidate| {
            end += candidate.mass();
            let token = candidate.token;
            (point < end).then_some(Place { token, end })
        })
    }

    /// Weights of every kind: equal ones, nearly equal ones, ones beside a much better one, ones of any size.
    fn weights() -> impl Strategy<Value = Vec<f32>> {
        let any = prop::collection::vec((0.0_f32..28.0).prop_map(|x| (-x).exp()), 1..900);
        let near = prop::collection::vec(0.999_9_f32..1.0, 1..900);
        let below = prop::collection::vec(1e-6_f32..1.01e-6, 1..900);
        let equal = (1..900_usize).prop_map(|count| vec![0.25; count]);
        let below = below.prop_map(|mut weights| {
            weights.push(1.0);
            weights
        });
        let mixed = (near.clone(), below.clone(), any.clone())
            .prop_map(|(a, b, c)| [a, b, c, vec![0.5; 70]].concat());
        prop_oneof![any, near, below, equal, mixed]
    }

    proptest! {
        #[test]
        fn a_point_is_covered_by_whom_a_sort_puts_there(
            weights in weights(),
            points in prop::collection::vec(0.0_f64..1.0, 1..20),
        ) {
            let candidates: Vec<Candidate> = (0..)
                .zip(weights)
                .map(|(token, weight)| Candidate { weight, token })
                .collect();
            let total: u64 = candidates.iter().map(Candidate::mass).sum();
            let mut line = Line::default();
            let points = points.into_iter().map(|share| (share * total as f64) as u64);
            let edges = [0, total.saturating_sub(1), total];
            // The ends of those that were found are edges too.
            for point in points.chain(edges) {
                let found = line.at(&candidates, point);
                prop_assert_eq!(found, sorted(&candidates, point));
                if let Some(Place { end, .. }) = found {
                    prop_assert_eq!(line.at(&candidates, end - 1), found);
                    prop_assert_eq!(line.at(&candidates, end), sorted(&candidates, end));
                }
            }
        }
    }
}
