//! What a step holds in all, in figures that pace and stats read.

use crate::sequence::Sequence;

/// What a step holds in all; each sequence's own share is its `scheduled`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Tokens of prompts, and of sequences that are computed again.
    pub(crate) prefill_tokens: u32,
    /// Sequences that go on by one token.
    pub(crate) decodes: u32,
    /// Further tokens of these, which their grammars forced.
    pub(crate) forced_tokens: u32,
    /// Further tokens of these, which are guessed.
    pub(crate) drafted_tokens: u32,
    /// Rows that say how likely tokens of prompts were.
    pub(crate) prompt_rows: u32,
    /// Sequences that lost their blocks to it.
    pub(crate) preemptions: u32,
}

impl Step {
    /// Tokens of the step.
    pub(crate) fn tokens(&self) -> u32 {
        self.prefill_tokens + self.decodes + self.forced_tokens + self.drafted_tokens
    }

    /// Forgets the tokens of a sequence that leaves the step.
    pub(super) fn take_out(&mut self, sequence: &Sequence) {
        if sequence.scheduled == 0 {
            return;
        }
        self.prompt_rows -= sequence.prompt_rows().len() as u32;
        if sequence.is_decoding() {
            // Whoever goes on by more than one token was forced to.
            self.decodes -= 1;
            self.forced_tokens -= sequence.scheduled - 1;
        } else {
            self.prefill_tokens -= sequence.scheduled;
        }
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.tokens() == 0
    }
}
