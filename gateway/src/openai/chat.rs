//! `/v1/chat/completions`: the conversation that a body holds.
//!
//! Messages leave here as the chat template wants them: an object with `role`, a string `content`, and `name`
//! where given.

use hansa_config::schema::Limits;
use serde_json::{Map, Value};

use super::error::ApiError;
use super::fault::ParamFault;
use super::fields;
use super::json::{self, Kind, Node};
use super::params::{Ask, Params};
use super::rules::Rules;
use super::sampling;
use crate::limits;
use crate::upstream::Prompt;

/// Reads a body of this endpoint.
///
/// # Errors
/// The first thing that is wrong with it, by name.
pub(super) fn parse(body: &[u8], rules: Rules<'_>) -> Result<Ask, ApiError> {
    let body = json::parse(body)?;
    rules.check(&body, &[fields::CHAT, fields::SHARED])?;
    let params = Params {
        logprobs: sampling::chat_logprobs(&body)?,
        ..Params::read(&body, rules)?
    };
    let messages = messages(&body.require("messages")?, rules.limits)?;
    Ok(Ask {
        params,
        prompts: vec![Prompt::Chat(messages.into())],
    })
}

fn messages(node: &Node<'_, '_>, limits: &Limits) -> Result<Vec<Value>, ApiError> {
    let elements = node.array(limits.messages_max as usize)?;
    let read = |(index, raw)| message(&Node::new(raw, node.at().index(index)));
    elements.into_iter().enumerate().map(read).collect()
}

fn message(node: &Node<'_, '_>) -> Result<Value, ApiError> {
    let object = node.object()?;
    let role = role(&object.require("role")?)?;
    fields::check(&object, &[fields::MESSAGE])?;
    let mut message = Map::new();
    message.insert("role".to_owned(), role.into());
    message.insert(
        "content".to_owned(),
        content(&object.require("content")?)?.into(),
    );
    if let Some(name) = object.get("name") {
        message.insert("name".to_owned(), name.string()?.into());
    }
    Ok(Value::Object(message))
}

/// The role as chat templates know it: `developer` is what OpenAI calls `system` since its reasoning models.
fn role(node: &Node<'_, '_>) -> Result<&'static str, ApiError> {
    match &*node.string()? {
        "system" | "developer" => Ok("system"),
        "user" => Ok("user"),
        "assistant" => Ok("assistant"),
        "tool" | "function" => Err(node.fault(ParamFault::UnsupportedValue {
            supported: "system, developer, user and assistant".to_owned(),
        })),
        _ => Err(node.value_fault("system, developer, user or assistant".to_owned())),
    }
}

/// A string, or text parts, which are joined with nothing between them, as models' own templates do.
fn content(node: &Node<'_, '_>) -> Result<String, ApiError> {
    match node.kind() {
        Kind::String => Ok(node.string()?.into_owned()),
        Kind::Array => {
            let mut text = String::new();
            for (index, raw) in node
                .array(limits::CONTENT_PARTS_MAX)?
                .into_iter()
                .enumerate()
            {
                text.push_str(&text_part(&Node::new(raw, node.at().index(index)))?);
            }
            Ok(text)
        }
        _ => Err(node.type_fault("a string or an array of parts")),
    }
}

fn text_part(node: &Node<'_, '_>) -> Result<String, ApiError> {
    let part = node.object()?;
    let kind = part.require("type")?;
    // The type comes first: that images are not understood says more than that `image_url` is unknown.
    match &*kind.string()? {
        "text" => {}
        "image_url" | "input_audio" | "file" | "video_url" | "refusal" => {
            let supported = "\"text\"".to_owned();
            return Err(kind.fault(ParamFault::UnsupportedValue { supported }));
        }
        _ => return Err(kind.value_fault("\"text\"".to_owned())),
    }
    fields::check(&part, &[fields::TEXT_PART])?;
    Ok(part.require("text")?.string()?.into_owned())
}
