//! How many tokens of a sequence are guessed ahead, and what came of it.
//!
//! A guess is checked in the very step that it is part of: its tokens are computed like a prompt's, each row is drawn as it
//! would be anyway, and as long as a draw is the token that was guessed, the next row stands on what was really said. So the
//! output is that of the plain engine to the bit, and a guess costs time alone. Whether it pays is a matter of that time and
//! of luck: a token counts as likely as others were after a run as long, and the engine names the price, the likelihood from
//! which a guessed token is cheaper than one of a step of its own. It must not know steps, blocks or grammars.

use crate::draft::{DraftIndex, RUNS, Text};
use crate::limits::{DRAFT_PROBE_EVERY, DRAFT_PROBE_TOKENS};

/// Weight that a check keeps in a rate when the next one comes: some ten count.
const MEMORY: f64 = 0.9;
/// Checks that the first guess of a rate is worth.
const PRIOR_CHECKS: f64 = 2.0;
/// How many guesses are taken to be right after runs of [`RUNS`] tokens before any was checked.
const PRIORS: [f64; 3] = [0.9, 0.75, 0.45];

/// The guesses of one sequence.
#[derive(Debug)]
pub(crate) struct Speculator {
    index: DraftIndex,
    /// How often guesses were right, by the length of the run that they followed.
    rates: [Rate; RUNS.len()],
    /// The guess in hand, perhaps none, and the run that it follows.
    draft: Vec<u32>,
    run: usize,
    /// Guesses that were not made for their price since the last one that was.
    withheld: u32,
}

/// Tokens that were right among those that were checked, over the recent ones.
#[derive(Debug, Clone, Copy)]
struct Rate {
    right: f64,
    checked: f64,
}

impl Default for Speculator {
    fn default() -> Self {
        Self {
            index: DraftIndex::default(),
            rates: PRIORS.map(|prior| Rate {
                right: prior * PRIOR_CHECKS,
                checked: PRIOR_CHECKS,
            }),
            draft: Vec::new(),
            run: 0,
            withheld: 0,
        }
    }
}

impl Speculator {
    /// Guesses up to `max` next tokens of `text`, as many as are each worth `price`.
    pub(crate) fn guess(&mut self, text: Text<'_>, max: u32, price: f64) {
        self.draft.clear();
        let Some(found) = self.index.find(text) else {
            return;
        };
        let length = match length(self.rates[found.run].chance(), price).min(max) {
            0 => self.probe().min(max),
            length => length,
        };
        self.run = found.run;
        text.extend_draft(found.after, length as usize, &mut self.draft);
    }

    /// Tokens of a guess that is not worth its price: once in a while a few, since times and texts change.
    fn probe(&mut self) -> u32 {
        self.withheld += 1;
        if self.withheld < DRAFT_PROBE_EVERY {
            return 0;
        }
        self.withheld = 0;
        DRAFT_PROBE_TOKENS
    }

    /// The guess in hand.
    pub(crate) fn draft(&self) -> &[u32] {
        &self.draft
    }

    /// Keeps the first `count` tokens of the guess.
    pub(crate) fn truncate(&mut self, count: usize) {
        self.draft.truncate(count);
    }

    /// Ends the guess in hand, of which the first `right` tokens were said and the next one, if any, was not.
    pub(crate) fn check(&mut self, right: usize) {
        if !self.draft.is_empty() {
            let checked = self.draft.len().min(right + 1);
            self.rates[self.run].note(right, checked);
            self.draft.clear();
        }
    }

    /// Gives back what its memory holds, and the guess in hand.
    pub(crate) fn forget(&mut self) {
        self.index = DraftIndex::default();
        self.draft.clear();
    }
}

impl Rate {
    fn chance(&self) -> f64 {
        self.right / self.checked
    }

    fn note(&mut self, right: usize, checked: usize) {
        let kept = MEMORY.powi(i32::try_from(checked).unwrap_or(i32::MAX));
        self.right = self.right * kept + right as f64;
        self.checked = self.checked * kept + checked as f64;
    }
}

/// The largest number `j` with `chance^j >= price`: the `j`-th guess counts only where all before it were right.
fn length(chance: f64, price: f64) -> u32 {
    if price <= 0.0 || chance >= 1.0 && price <= 1.0 {
        return u32::MAX;
    }
    if chance < price || chance <= 0.0 {
        return 0;
    }
    // Both logarithms are below 0; the quotient saturates.
    (price.ln() / chance.ln()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_guessed_as_are_worth_it() {
        assert_eq!(length(0.5, 0.2), 2);
        assert_eq!(length(0.9, 0.2), 15);
        assert_eq!(length(0.3, 0.35), 0);
        assert_eq!(length(0.9, 1.5), 0);
        assert_eq!(length(0.01, 0.0), u32::MAX);
        assert_eq!(length(1.0, 0.9), u32::MAX);
        assert_eq!(length(0.0, 0.1), 0);
    }

    /// Guesses of a text that goes round in a circle, of which `right` tokens turn out right each time; their lengths.
    fn lengths(right: usize, price: f64, steps: usize) -> Vec<usize> {
        let circle: Vec<u32> = (0..64).map(|i| i % 16).collect();
        let text = Text {
            prompt: &circle,
            output: &[],
        };
        let mut speculator = Speculator::default();
        let mut step = || {
            speculator.guess(text, 15, price);
            let length = speculator.draft().len();
            speculator.check(right.min(length));
            length
        };
        (0..steps).map(|_| step()).collect()
    }

    #[test]
    fn guesses_grow_while_they_are_right() {
        let lengths = lengths(15, 0.5, 20);
        assert!(lengths[0] < 10, "{lengths:?}");
        assert_eq!(lengths.last(), Some(&15));
    }

    #[test]
    fn guesses_that_are_wrong_stop_but_for_rare_probes() {
        let lengths = lengths(0, 0.2, 1000);
        let wasted: usize = lengths.iter().take(30).sum();
        assert!(wasted < 60, "{lengths:?}");
        let later = &lengths[100..];
        let probes = later.iter().filter(|&&length| length > 0).count();
        let expected = later.len() / DRAFT_PROBE_EVERY as usize;
        assert!(probes > 0 && probes <= expected + 1, "{probes} probes");
        assert!(later.iter().all(|&l| l <= DRAFT_PROBE_TOKENS as usize));
    }

    #[test]
    fn where_a_guess_costs_as_much_as_a_step_none_is_made() {
        assert_eq!(lengths(15, 1.2, 10), [0; 10]);
    }
}
