//! `/v1/chat/completions`: the conversation that a body holds.

use std::sync::Arc;

use super::error::ApiError;
use super::params::{Ask, Params};
use super::rules::Rules;
use super::{fields, json, messages, sampling, tools};
use crate::upstream::Prompt;

/// Reads a body of this endpoint.
///
/// # Errors
/// The first thing that is wrong with it, by name.
pub(super) fn parse(body: &[u8], rules: Rules<'_>) -> Result<Ask, ApiError> {
    let body = json::parse(body)?;
    rules.check(&body, &[fields::CHAT, fields::SHARED])?;
    let shared = Params::read(&body, rules)?;
    let params = Params {
        logprobs: sampling::chat_logprobs(&body)?,
        tools: tools::read(&body, shared.structure.as_ref())?.map(Arc::new),
        ..shared
    };
    let messages = messages::read(&body.require("messages")?, rules.limits)?;
    Ok(Ask {
        params,
        prompts: vec![Prompt::Chat(messages.into())],
    })
}
