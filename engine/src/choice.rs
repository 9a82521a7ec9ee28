//! One choice's way from token ids to certain text, and when it ends.

use std::sync::Arc;

use hansa_models::text::{Detokenizer, TextCodec};

use crate::api::{FinishReason, Submission};
use crate::stop::StopStrings;

/// Detokenizer, stop strings and length of one choice.
pub(crate) struct Choice {
    text: Arc<dyn TextCodec>,
    detokenizer: Box<dyn Detokenizer>,
    stop: StopStrings,
    ignore_eos: bool,
    /// Tokens that it may still produce.
    tokens_left: u32,
    /// What the detokenizer printed for the token in hand, kept for its memory.
    printed: String,
}

impl Choice {
    /// Choice `index` of a submission that may hold `context_len` tokens, prompt and completion together.
    pub(crate) fn new(
        submission: &Submission,
        index: u32,
        text: &Arc<dyn TextCodec>,
        context_len: u32,
    ) -> Self {
        let room = context_len.saturating_sub(submission.prompt.len() as u32);
        Self {
            text: Arc::clone(text),
            detokenizer: text.detokenizer(submission.seed, index),
            stop: StopStrings::new(&submission.stop.strings),
            ignore_eos: submission.stop.ignore_eos,
            tokens_left: submission.stop.max_tokens.min(room),
            printed: String::new(),
        }
    }

    /// Goes through tokens that were produced before and tells nothing of them, so that everything that depends on them
    /// stands where it stood. False where the choice has ended with them.
    pub(crate) fn replay(&mut self, tokens: &[u32]) -> bool {
        let mut told = String::new();
        tokens
            .iter()
            .all(|&token| self.push(token, &mut told).is_none())
    }

    /// Takes the next token and appends to `out` the text that became certain. `Some` where the choice ends.
    pub(crate) fn push(&mut self, token: u32, out: &mut String) -> Option<FinishReason> {
        self.tokens_left = self.tokens_left.saturating_sub(1);
        if !self.ignore_eos && self.text.end_of_generation().contains(&token) {
            return Some(self.finish(FinishReason::Stop, out));
        }
        self.printed.clear();
        self.detokenizer.push(token, &mut self.printed);
        if self.stop.push(&self.printed, out) {
            return Some(FinishReason::Stop);
        }
        (self.tokens_left == 0).then(|| self.finish(FinishReason::Length, out))
    }

    /// Lets out what was held back; the last of it may still complete a stop string.
    fn finish(&mut self, reason: FinishReason, out: &mut String) -> FinishReason {
        self.printed.clear();
        self.detokenizer.finish(&mut self.printed);
        if self.stop.push(&self.printed, out) {
            return FinishReason::Stop;
        }
        self.stop.finish(out);
        reason
    }
}
