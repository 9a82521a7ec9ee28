//! `/v1/chat/completions`: the conversation that a body holds.

use std::sync::Arc;

use bytes::Bytes;

use super::error::ApiError;
use super::json::{self, Object};
use super::params::{Ask, Params};
use super::rules::Rules;
use super::{fields, messages, sampling, tools};
use crate::upstream::{Body, Prompt};

/// Reads a body of this endpoint.
///
/// # Errors
/// The first thing that is wrong with it, by name.
pub(super) fn parse(bytes: &Bytes, rules: Rules<'_>) -> Result<Ask, ApiError> {
    let messages_max = rules.limits.messages_max as usize;
    let (body, listed) = json::parse_with(bytes, "messages", messages_max)?;
    rules.check(&body, &[fields::CHAT, fields::SHARED])?;
    let shared = Params::read(&body, rules)?;
    let params = Params {
        logprobs: sampling::chat_logprobs(&body)?,
        session: session(&body)?,
        tools: tools::read(&body, shared.structure.as_ref())?.map(Arc::new),
        ..shared
    };
    let source = messages::Source {
        body: bytes,
        messages: body.require("messages")?,
        listed,
    };
    let messages = source.read(messages_max)?;
    Ok(Ask {
        body: Body::new(bytes.clone(), body.texts()),
        params,
        prompts: vec![Prompt::Chat(messages.into())],
    })
}

/// OpenAI's name for requests whose prompts begin alike.
fn session(body: &Object<'_, '_>) -> Result<Option<Arc<str>>, ApiError> {
    let Some(node) = body.get("prompt_cache_key") else {
        return Ok(None);
    };
    Ok(Some(Arc::from(&*node.string()?)))
}
