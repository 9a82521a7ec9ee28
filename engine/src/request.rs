//! One submission on its way through the engine: its choices' text, its usage, its events.

use std::sync::Arc;
use std::time::Duration;

use hansa_models::text::TextCodec;

use crate::api::{EngineError, Event, FinishReason, Submission, SubmitError, TokenLogprob, Usage};
use crate::choice::{Choice, Said};
use crate::events::Outlet;
use crate::runner::Scores;
use crate::scheduler::Fate;
use crate::stop::StopStrings;

/// An accepted submission. Held here: I2, it ends exactly once, with [`Event::Done`], by [`Request::fail`], or by being
/// dropped, as when the engine's thread stops, or panics: then it says so.
pub(crate) struct Request {
    /// What was asked.
    pub(crate) submission: Arc<Submission>,
    choices: Vec<Choice>,
    choices_open: u32,
    usage: Usage,
    /// Log-probabilities of the prompt, until they are told.
    prompt: Vec<TokenLogprob>,
    outlet: Outlet,
}

/// The choices of a submission, each past the tokens that it resumes from.
///
/// # Errors
/// [`SubmitError::Invalid`] where a choice has nothing left to produce.
pub(crate) fn choices(
    submission: &Submission,
    text: &Arc<dyn TextCodec>,
    context_len: u32,
) -> Result<Vec<Choice>, SubmitError> {
    let stop = StopStrings::new(&submission.stop.strings);
    let resumed = |index| {
        let mut choice = Choice::new(submission, index, stop.clone(), text, context_len);
        let emitted = submission.resume.get(index as usize);
        let goes_on = emitted.is_none_or(|tokens| choice.replay(tokens));
        goes_on.then_some(choice)
    };
    let choices: Option<_> = (0..submission.n).map(resumed).collect();
    choices.ok_or_else(|| SubmitError::Invalid("resume ends a choice that is over".to_owned()))
}

impl Request {
    /// A submission whose choices have produced nothing here yet.
    pub(crate) fn new(submission: Arc<Submission>, choices: Vec<Choice>, outlet: Outlet) -> Self {
        Self {
            usage: Usage {
                prompt_tokens: submission.prompt.len() as u32,
                ..Usage::default()
            },
            choices_open: choices.len() as u32,
            prompt: Vec::new(),
            submission,
            choices,
            outlet,
        }
    }

    /// Takes how likely the next token of the prompt was.
    pub(crate) fn weigh(&mut self, token: u32, scores: &Scores) {
        self.prompt.extend(
            self.choices
                .first()
                .map(|choice| choice.scored(token, scores)),
        );
    }

    /// Takes the next token of a choice and tells the reader. The first one comes after all of the prompt was weighed.
    pub(crate) fn push(&mut self, choice: u32, token: u32, scores: Option<&Scores>) -> Fate {
        self.outlet.is_prefilled();
        if !self.prompt.is_empty() {
            let prompt = std::mem::take(&mut self.prompt);
            self.outlet.send(Event::Prompt(prompt));
        }
        if self.submission.stop.max_tokens == 0 {
            return self.finish(choice, FinishReason::Length);
        }
        self.usage.completion_tokens += 1;
        let mut said = Said::default();
        let finished = self.choices[choice as usize].push(token, scores, &mut said);
        let Said { text, logprobs } = said;
        let token_ids = if self.submission.want_token_ids {
            vec![token]
        } else {
            Vec::new()
        };
        if !text.is_empty() || !token_ids.is_empty() || !logprobs.is_empty() {
            self.outlet.send(Event::Delta {
                choice,
                text,
                token_ids,
                logprobs,
            });
        }
        match finished {
            None => Fate::GoesOn,
            Some(reason) => self.finish(choice, reason),
        }
    }

    fn finish(&mut self, choice: u32, reason: FinishReason) -> Fate {
        self.outlet.send(Event::Finished { choice, reason });
        self.choices_open -= 1;
        if self.is_done() {
            self.outlet.end(Event::Done(self.usage));
        }
        Fate::Ends
    }

    /// It had the device for so long.
    pub(crate) fn takes(&mut self, time: Duration) {
        self.usage.device_time += time;
    }

    /// Prompt tokens that came from the prefix cache.
    pub(crate) fn note_cached(&mut self, tokens: u32) {
        self.usage.cached_tokens = tokens;
    }

    /// Ends it with an error; the usage tells what was really produced.
    pub(crate) fn fail(mut self, error: EngineError) {
        self.outlet.end(Event::Failed(error, self.usage));
    }

    /// Whether all choices ended.
    pub(crate) fn is_done(&self) -> bool {
        self.choices_open == 0
    }

    /// Whether its reader is behind, after trying once more to send.
    pub(crate) fn is_behind(&mut self) -> bool {
        if self.outlet.is_behind() {
            self.outlet.flush();
        }
        self.outlet.is_behind()
    }

    /// Whether nobody wants the answer any more.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.outlet.is_cancelled()
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let error = if std::thread::panicking() {
            EngineError::StepFailed
        } else {
            EngineError::ShuttingDown
        };
        self.outlet.end(Event::Failed(error, self.usage));
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("id", &self.submission.id)
            .field("choices_open", &self.choices_open)
            .field("usage", &self.usage)
            .finish_non_exhaustive()
    }
}
