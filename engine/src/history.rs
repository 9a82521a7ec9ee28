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

    /// Every token that it holds, once.
    pub(crate) fn tokens(&self) -> &[Counted] {
        &self.tokens
    }

    fn entry(&mut self, token: u32) -> &mut Counted {
        let place = *self.places.entry(token).or_insert(self.tokens.len());
        if place == self.tokens.len() {
            self.tokens.push(Counted { token, produced: 0 });
        }
        &mut self.tokens[place]
    }
}
