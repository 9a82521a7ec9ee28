//! One choice's way from token ids to certain text, and when it ends.

use std::collections::VecDeque;
use std::sync::Arc;

use hansa_models::text::{Detokenizer, TextCodec};

use crate::api::{FinishReason, Likely, Submission, TokenLogprob};
use crate::runner::Scores;
use crate::stop::StopStrings;

/// Detokenizer, stop strings and length of one choice.
pub(crate) struct Choice {
    text: Arc<dyn TextCodec>,
    detokenizer: Box<dyn Detokenizer>,
    stop: StopStrings,
    ignore_eos: bool,
    /// Tokens before which nothing but the length ends it.
    min_tokens: u32,
    /// Tokens that end it beside the model's own.
    stop_tokens: Arc<[u32]>,
    seed: u64,
    index: u32,
    /// Tokens that it has produced.
    produced: u32,
    /// Tokens that it may produce.
    tokens_max: u32,
    /// What the detokenizer printed for the token in hand, kept for its memory.
    printed: String,
    /// Bytes that the detokenizer has printed, and how many of them became certain.
    printed_bytes: usize,
    certain_bytes: usize,
    /// Log-probabilities of tokens whose text is held back.
    held: VecDeque<Held>,
}

/// What became certain by a token.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// Text, perhaps none.
    pub(crate) text: String,
    /// Log-probabilities of the tokens behind it, where wanted.
    pub(crate) logprobs: Vec<TokenLogprob>,
}

/// A token's log-probability, and where its text lies among all that was printed.
struct Held {
    starts: usize,
    ends: usize,
    logprob: TokenLogprob,
}

impl Choice {
    /// Choice `index` of a submission that may hold `context_len` tokens, prompt and completion together; `stop` watches for
    /// its stop strings and has seen nothing yet.
    pub(crate) fn new(
        submission: &Submission,
        index: u32,
        stop: StopStrings,
        text: &Arc<dyn TextCodec>,
        context_len: u32,
    ) -> Self {
        let room = context_len.saturating_sub(submission.prompt.len() as u32);
        Self {
            text: Arc::clone(text),
            detokenizer: text.detokenizer(submission.seed, index),
            stop,
            ignore_eos: submission.stop.ignore_eos,
            min_tokens: submission.stop.min_tokens,
            stop_tokens: Arc::clone(&submission.stop.token_ids),
            seed: submission.seed,
            index,
            produced: 0,
            tokens_max: submission.stop.max_tokens.min(room),
            printed: String::new(),
            printed_bytes: 0,
            certain_bytes: 0,
            held: VecDeque::new(),
        }
    }

    /// Goes through tokens that were produced before and tells nothing of them, so that everything that depends on them
    /// stands where it stood. False where the choice has ended with them.
    pub(crate) fn replay(&mut self, tokens: &[u32]) -> bool {
        let mut told = Said::default();
        let ends = |token| self.push(token, None, &mut told).is_some();
        !tokens.iter().copied().any(ends)
    }

    /// Takes the next token and appends to `said` what became certain. `Some` where the choice ends.
    pub(crate) fn push(
        &mut self,
        token: u32,
        scores: Option<&Scores>,
        said: &mut Said,
    ) -> Option<FinishReason> {
        self.produced += 1;
        if self.is_last(token) {
            return Some(self.finish(FinishReason::Stop, said));
        }
        self.printed.clear();
        self.detokenizer.push(token, &mut self.printed);
        if let Some(scores) = scores {
            self.hold(token, scores);
        }
        if self.take_printed(said) {
            return Some(FinishReason::Stop);
        }
        (self.produced >= self.tokens_max).then(|| self.finish(FinishReason::Length, said))
    }

    /// Whether the token ends the choice and is no text.
    fn is_last(&self, token: u32) -> bool {
        let ends = !self.ignore_eos && self.text.end_of_generation().contains(&token);
        self.produced > self.min_tokens && (ends || self.stop_tokens.contains(&token))
    }

    /// Lets out what was held back; the last of it may still complete a stop string.
    fn finish(&mut self, reason: FinishReason, said: &mut Said) -> FinishReason {
        self.printed.clear();
        self.detokenizer.finish(&mut self.printed);
        if self.take_printed(said) {
            return FinishReason::Stop;
        }
        self.stop.finish(&mut said.text);
        self.certain_bytes = self.printed_bytes;
        self.let_out(said);
        reason
    }

    /// Sends what was printed through the stop strings. True where one is complete.
    fn take_printed(&mut self, said: &mut Said) -> bool {
        self.printed_bytes += self.printed.len();
        let certain_before = said.text.len();
        let stopped = if self.produced <= self.min_tokens {
            said.text.push_str(&self.printed);
            false
        } else {
            self.stop.push(&self.printed, &mut said.text)
        };
        self.certain_bytes += said.text.len() - certain_before;
        self.let_out(said);
        if stopped {
            self.let_out_the_cut(said);
        }
        stopped
    }

    /// A token and its scores, with the texts that they have.
    pub(crate) fn scored(&self, token: u32, scores: &Scores) -> TokenLogprob {
        let likely = |token: u32, logprob: f32| Likely {
            token,
            bytes: self.text.piece(self.seed, self.index, token).into_owned(),
            logprob,
        };
        TokenLogprob {
            chosen: likely(token, scores.logprob),
            top: scores.top.iter().map(|&(t, p)| likely(t, p)).collect(),
        }
    }

    fn hold(&mut self, token: u32, scores: &Scores) {
        let logprob = self.scored(token, scores);
        self.held.push_back(Held {
            starts: self.printed_bytes,
            ends: self.printed_bytes + self.printed.len(),
            logprob,
        });
    }

    /// The log-probabilities of tokens whose whole text is certain.
    fn let_out(&mut self, said: &mut Said) {
        while let Some(held) = self.held.pop_front_if(|h| h.ends <= self.certain_bytes) {
            said.logprobs.push(held.logprob);
        }
    }

    /// A stop string cut the text: the token that it cut in two still said something.
    fn let_out_the_cut(&mut self, said: &mut Said) {
        if let Some(held) = self.held.pop_front_if(|h| h.starts < self.certain_bytes) {
            said.logprobs.push(held.logprob);
        }
    }
}

#[cfg(test)]
mod tests;
