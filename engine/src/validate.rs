//! What a submission must be before anything is held for it.
//!
//! The engine trusts nothing that crosses its boundary: past this check every loop it causes is bounded and every sequence
//! fits the cache alone, which is what lets the scheduler be free of errors.

use crate::api::{SamplingParams, StopParams, Submission, SubmitError};
use crate::limits::{
    CHOICES_MAX, LOGIT_BIAS_ABS_MAX, LOGIT_BIAS_MAX, PENALTY_ABS_MAX, REPETITION_PENALTY_MAX,
    STOP_STRING_BYTES_MAX, STOP_STRINGS_MAX, STOP_TOKENS_MAX, TOP_LOGPROBS_MAX,
};

/// Bounds of the engine that a submission meets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Tokens of prompt and completion together.
    pub(crate) context_len: u32,
    /// Every prompt token is below it.
    pub(crate) vocab_size: u32,
    /// Choices that could ever be in flight at once.
    pub(crate) seats_max: u32,
}

/// Checks everything but whether there is room now.
pub(crate) fn validate(submission: &Submission, bounds: &Bounds) -> Result<(), SubmitError> {
    check_prompt(&submission.prompt, bounds)?;
    check_resume(submission, bounds)?;
    let choices_max = CHOICES_MAX.min(bounds.seats_max);
    require((1..=choices_max).contains(&submission.n), || {
        format!("n must be between 1 and {choices_max}")
    })?;
    check_sampling(&submission.sampling)?;
    check_penalties(&submission.sampling)?;
    check_logits(&submission.sampling, bounds)?;
    check_length(submission)?;
    check_stop(&submission.stop)?;
    check_stop_tokens(&submission.stop, bounds)?;
    check_grammar(submission)
}

/// Where a grammar is over nothing may follow, and nothing but it may say when that is.
fn check_grammar(submission: &Submission) -> Result<(), SubmitError> {
    let (has_grammar, stop) = (submission.grammar.is_some(), &submission.stop);
    require(!(has_grammar && stop.ignore_eos), || {
        "ignore_eos contradicts a grammar, which ends where it ends".to_owned()
    })?;
    require(!(has_grammar && stop.min_tokens > 0), || {
        "min_tokens contradicts a grammar, which ends where it ends".to_owned()
    })
}

fn check_prompt(prompt: &[u32], bounds: &Bounds) -> Result<(), SubmitError> {
    require(!prompt.is_empty(), || "the prompt is empty".to_owned())?;
    if prompt.len() >= bounds.context_len as usize {
        return Err(SubmitError::PromptTooLong {
            prompt: u32::try_from(prompt.len()).unwrap_or(u32::MAX),
            context: bounds.context_len,
        });
    }
    require(prompt.iter().all(|&id| id < bounds.vocab_size), || {
        format!(
            "token ids of the prompt must be below {}",
            bounds.vocab_size
        )
    })
}

/// What a choice produced already counts like its prompt: it must leave room for one more token.
fn check_resume(submission: &Submission, bounds: &Bounds) -> Result<(), SubmitError> {
    let choices = &submission.resume;
    require(choices.len() <= submission.n as usize, || {
        "resume has tokens of more choices than n".to_owned()
    })?;
    let room = bounds.context_len as usize - submission.prompt.len();
    require(choices.iter().all(|tokens| tokens.len() < room), || {
        format!(
            "resume must leave room in a context of {}",
            bounds.context_len
        )
    })?;
    let mut ids = choices.iter().flatten();
    require(ids.all(|&id| id < bounds.vocab_size), || {
        format!("resume must have token ids below {}", bounds.vocab_size)
    })
}

fn check_sampling(sampling: &SamplingParams) -> Result<(), SubmitError> {
    let temperature = sampling.temperature;
    require(temperature.is_finite() && temperature >= 0.0, || {
        "temperature must be a number of at least 0".to_owned()
    })?;
    require(sampling.top_p > 0.0 && sampling.top_p <= 1.0, || {
        "top_p must be above 0 and at most 1".to_owned()
    })?;
    require((0.0..=1.0).contains(&sampling.min_p), || {
        "min_p must be between 0 and 1".to_owned()
    })
}

fn check_penalties(sampling: &SamplingParams) -> Result<(), SubmitError> {
    let range = -PENALTY_ABS_MAX..=PENALTY_ABS_MAX;
    for (name, penalty) in [
        ("frequency_penalty", sampling.frequency_penalty),
        ("presence_penalty", sampling.presence_penalty),
    ] {
        require(range.contains(&penalty), || {
            format!("{name} must be between -{PENALTY_ABS_MAX} and {PENALTY_ABS_MAX}")
        })?;
    }
    let least = REPETITION_PENALTY_MAX.recip();
    require(
        (least..=REPETITION_PENALTY_MAX).contains(&sampling.repetition_penalty),
        || format!("repetition_penalty must be between {least} and {REPETITION_PENALTY_MAX}"),
    )
}

/// The bound is the width of the logits, which is what an id is used to index; a tokenizer may know more or fewer.
fn check_logits(sampling: &SamplingParams, bounds: &Bounds) -> Result<(), SubmitError> {
    let bias = &sampling.logit_bias;
    require(bias.len() <= LOGIT_BIAS_MAX, || {
        format!("logit_bias takes at most {LOGIT_BIAS_MAX} tokens")
    })?;
    let width = bounds.vocab_size;
    if let Some((id, _)) = bias.iter().find(|(id, _)| *id >= width) {
        let complaint = format!("logit_bias names token {id}, and the model has {width} tokens");
        return Err(SubmitError::Invalid(complaint));
    }
    let range = -LOGIT_BIAS_ABS_MAX..=LOGIT_BIAS_ABS_MAX;
    require(bias.iter().all(|(_, bias)| range.contains(bias)), || {
        format!("logit_bias values must be between -{LOGIT_BIAS_ABS_MAX} and {LOGIT_BIAS_ABS_MAX}")
    })?;
    require(
        sampling.logprobs.is_none_or(|top| top <= TOP_LOGPROBS_MAX),
        || format!("logprobs must be between 0 and {TOP_LOGPROBS_MAX}"),
    )
}

fn check_stop_tokens(stop: &StopParams, bounds: &Bounds) -> Result<(), SubmitError> {
    require(stop.min_tokens <= stop.max_tokens, || {
        format!(
            "min_tokens must be at most max_tokens, which is {}",
            stop.max_tokens
        )
    })?;
    require(stop.token_ids.len() <= STOP_TOKENS_MAX, || {
        format!("stop_token_ids takes at most {STOP_TOKENS_MAX} tokens")
    })?;
    let width = bounds.vocab_size;
    match stop.token_ids.iter().find(|id| **id >= width) {
        Some(id) => {
            let complaint =
                format!("stop_token_ids names token {id}, and the model has {width} tokens");
            Err(SubmitError::Invalid(complaint))
        }
        None => Ok(()),
    }
}

/// Nothing is produced only where there is something else to tell.
fn check_length(submission: &Submission) -> Result<(), SubmitError> {
    let weighs = submission.prompt_logprobs;
    require(submission.stop.max_tokens > 0 || weighs, || {
        "max_tokens must be at least 1".to_owned()
    })?;
    require(!weighs || submission.sampling.logprobs.is_some(), || {
        "logprobs must be given where those of the prompt are wanted".to_owned()
    })
}

fn check_stop(stop: &StopParams) -> Result<(), SubmitError> {
    require(stop.strings.len() <= STOP_STRINGS_MAX, || {
        format!("stop takes at most {STOP_STRINGS_MAX} strings")
    })?;
    let lengths = 1..=STOP_STRING_BYTES_MAX;
    require(
        stop.strings.iter().all(|s| lengths.contains(&s.len())),
        || format!("a stop string has between 1 and {STOP_STRING_BYTES_MAX} bytes"),
    )
}

fn require(holds: bool, complaint: impl FnOnce() -> String) -> Result<(), SubmitError> {
    if holds {
        Ok(())
    } else {
        Err(SubmitError::Invalid(complaint()))
    }
}
