//! The messages of a chat, checked: with a role that chat templates know, with text as content, and with calls and results of
//! tools in OpenAI's own shape.

use bytes::Bytes;
use serde_json::{Value, json};

use super::error::ApiError;
use super::fault::ParamFault;
use super::fields;
use super::json::{Fields, Kind, Node, Object};
use super::tools::function_name;
use crate::limits;
use crate::upstream::{Conversation, Message, Text};

/// Where messages are read from.
pub(super) struct Source<'a, 'p> {
    pub(super) body: &'a Bytes,
    pub(super) messages: Node<'a, 'p>,
    /// The fields of each, where they were found with the body's own.
    pub(super) listed: Option<Vec<Fields<'a>>>,
}

impl Source<'_, '_> {
    /// The messages, of which there are at most `max`.
    ///
    /// # Errors
    /// The first thing that is wrong with them, by name.
    pub(super) fn read(self, max: usize) -> Result<Conversation, ApiError> {
        let (node, body) = (self.messages, self.body);
        let messages: Result<_, _> = match self.listed.filter(|listed| !listed.is_empty()) {
            Some(listed) => {
                let read =
                    |(index, fields)| message(&Object::new(fields, node.at().index(index))?, body);
                listed.into_iter().enumerate().map(read).collect()
            }
            None => {
                let read =
                    |(index, raw)| message(&Node::new(raw, node.at().index(index)).object()?, body);
                node.array(max)?.into_iter().enumerate().map(read).collect()
            }
        };
        messages.map(Conversation::new)
    }
}

fn message(object: &Object<'_, '_>, body: &Bytes) -> Result<Message, ApiError> {
    let role = role(&object.require("role")?)?;
    fields::check(object, &[fields::MESSAGE])?;
    let calls = calls(object, role)?;
    let content = match object.get("content") {
        None if calls.is_some() => None,
        _ => Some(content(&object.require("content")?, body)?),
    };
    let name = object.get("name").map(|name| name.string()).transpose()?;
    Ok(Message {
        role,
        content,
        name: name.map(Into::into),
        calls,
        result_of: result_id(object, role)?,
    })
}

/// The role as chat templates know it: `developer` is what OpenAI calls `system` since its reasoning models.
fn role(node: &Node<'_, '_>) -> Result<&'static str, ApiError> {
    match &*node.string()? {
        "system" | "developer" => Ok("system"),
        "user" => Ok("user"),
        "assistant" => Ok("assistant"),
        "tool" => Ok("tool"),
        "function" => Err(node.fault(ParamFault::UnsupportedValue {
            supported: "system, developer, user, assistant and tool".to_owned(),
        })),
        _ => Err(node.value_fault("system, developer, user, assistant or tool".to_owned())),
    }
}

/// The calls that an assistant made, if any.
fn calls(message: &Object<'_, '_>, role: &str) -> Result<Option<Vec<Value>>, ApiError> {
    let Some(node) = message.get("tool_calls") else {
        return Ok(None);
    };
    if node.kind() == Kind::Array && node.first_kind().is_none() {
        return Ok(None);
    }
    if role != "assistant" {
        let condition = "in messages of role 'assistant'";
        return Err(node.fault(ParamFault::OnlyWith { condition }));
    }
    let elements = node
        .array(limits::MESSAGE_CALLS_MAX)?
        .into_iter()
        .enumerate();
    let calls = elements.map(|(index, raw)| call(&Node::new(raw, node.at().index(index))));
    calls.collect::<Result<_, _>>().map(Some)
}

fn call(node: &Node<'_, '_>) -> Result<Value, ApiError> {
    let call = node.object()?;
    let kind = call.require("type")?;
    if kind.string()? != "function" {
        return Err(kind.value_fault("\"function\"".to_owned()));
    }
    fields::check(&call, &[fields::CALL])?;
    let id = call.require("id")?.string()?;
    let function = call.require("function")?.object()?;
    fields::check(&function, &[fields::CALLED_FUNCTION])?;
    let name = function_name(&function.require("name")?)?;
    let arguments = function.require("arguments")?.string()?;
    Ok(json!({"id": id, "type": "function", "function": {"name": &*name, "arguments": arguments}}))
}

/// The id of the call that a message gives the result of, which each result has and nothing else.
fn result_id(message: &Object<'_, '_>, role: &str) -> Result<Option<String>, ApiError> {
    match message.get("tool_call_id") {
        Some(node) if role == "tool" => Ok(Some(node.string()?.into_owned())),
        Some(node) => {
            let condition = "in messages of role 'tool'";
            Err(node.fault(ParamFault::OnlyWith { condition }))
        }
        None if role == "tool" => Err(message.fault("tool_call_id", ParamFault::Missing)),
        None => Ok(None),
    }
}

/// A string, or text parts, which are joined with nothing between them, as models' own templates do.
fn content(node: &Node<'_, '_>, body: &Bytes) -> Result<Vec<Text>, ApiError> {
    match node.kind() {
        Kind::String => Ok(vec![node.text_within(body)?]),
        Kind::Array => {
            let parts = node.array(limits::CONTENT_PARTS_MAX)?.into_iter();
            let read = |(index, raw)| text_part(&Node::new(raw, node.at().index(index)), body);
            parts.enumerate().map(read).collect()
        }
        _ => Err(node.type_fault("a string or an array of parts")),
    }
}

fn text_part(node: &Node<'_, '_>, body: &Bytes) -> Result<Text, ApiError> {
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
    part.require("text")?.text_within(body)
}
