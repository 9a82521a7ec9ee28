//! Which tokens a sequence holds and how often it said them: what penalties count.
//!
//! Kept from token to token, because counting again would make a long completion quadratic. Only sequences with a penalty
//! have one.

use std::collections::HashMap;

use crate::api::SamplingParams;

/// Tokens of a prompt and its completion so far.
#[derive(Debug, Default)]
pub struct History {
    tokens: Vec<Counted>,
    places: HashMap<u32, usize>,
}

/// A token that a sequence holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counted {
    /// The token.
    pub(crate) token: u32,
    /// How often it was produced; 0 where only the prompt holds it.
    pub(crate) produced: u32,
}

impl History {
    /// The history of a sequence that has produced nothing yet, where `sampling` has a use for one.
    pub(crate) fn of(prompt: &[u32], sampling: &SamplingParams) -> Option<Self> {
        let mut history = sampling.has_penalty().then(Self::default)?;
        // Frequency and presence look at the completion alone.
        if sampling.penalises_the_prompt() {
            for &token in prompt {
                history.entry(token);
            }
        }
        Some(history)
    }

    /// Counts a token that was produced.
    pub(crate) fn push(&mut self, token: u32) {
        self.entry(token).produced += 1;
    }

    /// Every token that it holds, once, as if `drafted` had been produced too.
    pub(crate) fn tokens_with<'a>(
        &'a self,
        drafted: &'a [u32],
    ) -> impl Iterator<Item = Counted> + 'a {
        let drafts_of = |token| drafted.iter().filter(|&&other| other == token).count() as u32;
        let held = self.tokens.iter().map(move |counted| Counted {
            produced: counted.produced + drafts_of(counted.token),
            ..*counted
        });
        let is_new = |&(place, token): &(usize, &u32)| {
            !self.places.contains_key(token) && !drafted[..place].contains(token)
        };
        let new = drafted.iter().enumerate().filter(is_new);
        let new = new.map(move |(_, &token)| Counted {
            token,
            produced: drafts_of(token),
        });
        held.chain(new)
    }

    fn entry(&mut self, token: u32) -> &mut Counted {
        let place = *self.places.entry(token).or_insert(self.tokens.len());
        if place == self.tokens.len() {
            self.tokens.push(Counted { token, produced: 0 });
        }
        &mut self.tokens[place]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What is drafted counts as if it had been produced, and nothing is kept of it.
        #[test]
        fn drafts_count_like_what_was_said(
            prompt in prop::collection::vec(0..6_u32, 1..10),
            said in prop::collection::vec(0..9_u32, 0..10),
            drafted in prop::collection::vec(0..12_u32, 0..8),
        ) {
            let sampling = SamplingParams { repetition_penalty: 1.1, ..SamplingParams::default() };
            let history = |said: &[u32]| {
                let mut history = History::of(&prompt, &sampling).expect("there is a penalty");
                said.iter().for_each(|&token| history.push(token));
                history
            };
            let sorted = |history: &History, drafted: &[u32]| {
                let mut all: Vec<_> = history.tokens_with(drafted).map(|c| (c.token, c.produced)).collect();
                all.sort_unstable();
                all
            };
            let drafting = history(&said);
            let whole = history(&[said.clone(), drafted.clone()].concat());
            prop_assert_eq!(sorted(&drafting, &drafted), sorted(&whole, &[]));
            prop_assert_eq!(sorted(&drafting, &[]), sorted(&history(&said), &[]));
        }
    }
}
