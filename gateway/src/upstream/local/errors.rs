//! The engine's refusals and failures as ours.

use hansa_engine::api::{EngineError, SubmitError};

use crate::upstream::{UpstreamError, UpstreamErrorKind};

pub(super) fn refused(error: SubmitError) -> UpstreamError {
    let kind = match error {
        SubmitError::QueueFull => UpstreamErrorKind::Overloaded,
        SubmitError::Draining => UpstreamErrorKind::ShuttingDown,
        SubmitError::DeadlineExceeded => UpstreamErrorKind::DeadlineExceeded,
        SubmitError::PromptTooLong { prompt, context } => {
            UpstreamErrorKind::ContextLength { prompt, context }
        }
        SubmitError::Invalid(message) => UpstreamErrorKind::InvalidRequest {
            param: named(&message),
            message,
        },
        _ => UpstreamErrorKind::NotReady,
    };
    kind.into()
}

pub(super) fn invalid(param: &'static str, message: String) -> UpstreamError {
    UpstreamErrorKind::InvalidRequest {
        param: Some(param),
        message,
    }
    .into()
}

/// The parameter that the engine's message begins with, as clients name it.
fn named(message: &str) -> Option<&'static str> {
    let (first, _) = message.split_once(' ')?;
    ENGINE_PARAMS.into_iter().find(|param| *param == first)
}

/// What the engine's complaints are about.
const ENGINE_PARAMS: [&str; 14] = [
    "n",
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "logprobs",
    "max_tokens",
    "min_tokens",
    "ignore_eos",
    "stop",
    "stop_token_ids",
];

pub(super) fn failed(error: &EngineError) -> UpstreamError {
    let kind = match error {
        EngineError::Aborted => UpstreamErrorKind::Cancelled,
        EngineError::DeadlineExceeded => UpstreamErrorKind::DeadlineExceeded,
        EngineError::ShuttingDown => UpstreamErrorKind::ShuttingDown,
        _ => {
            tracing::error!(%error, "the engine failed a request");
            UpstreamErrorKind::Internal
        }
    };
    kind.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_parameter() {
        for (message, param) in [
            ("n must be between 1 and 4", Some("n")),
            ("top_p must be above 0 and at most 1", Some("top_p")),
            (
                "logit_bias names token 9, and the model has 5 tokens",
                Some("logit_bias"),
            ),
            ("the prompt is empty", None),
        ] {
            let error = refused(SubmitError::Invalid(message.to_owned()));
            let message = message.to_owned();
            let kind = UpstreamErrorKind::InvalidRequest { param, message };
            assert_eq!(error.kind, kind);
        }
    }
}
