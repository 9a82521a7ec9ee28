//! Tools in a chat template: what form a template's own calls have, and what is said in its stead where it knows none.
//!
//! A template that knows tools gets OpenAI's definitions in `tools` and calls in `tool_calls`, as `transformers` hands them
//! over. For any other template, tools become text: the first message lists them and says how to call, calls are written
//! into the assistant's words, and results come back as the user's. So every model that chats can call functions, more or
//! less well. Nothing here knows what a function is good for.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::text::{ChatInput, ToolSyntax};

/// How a template takes tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ToolSupport {
    /// It renders them itself, and teaches this form of calls.
    Own(ToolSyntax),
    /// They are put into the messages, in the form of [`ToolSyntax::Tagged`].
    None,
}

/// Marks of forms of calls that nobody here reads: a template that teaches one is better not told of tools.
const FOREIGN: [&str; 4] = ["<function=", "<arg_key>", "[ARGS]", "tool▁call"];

impl ToolSupport {
    /// What the template's text shows of it.
    pub(super) fn of(template: &str) -> Self {
        let has = |mark: &str| template.contains(mark);
        if !has("tools") || FOREIGN.into_iter().any(has) {
            Self::None
        } else if has("[TOOL_CALLS]") {
            Self::Own(ToolSyntax::List)
        } else if has("<tool_call>") && has(r#""arguments""#) {
            Self::Own(ToolSyntax::Tagged)
        } else if has(r#""parameters": "#) && has("ipython") {
            Self::Own(ToolSyntax::Object)
        } else {
            Self::None
        }
    }

    /// The form of calls that a model with this template is shown.
    pub(super) const fn syntax(self) -> ToolSyntax {
        match self {
            Self::Own(syntax) => syntax,
            Self::None => ToolSyntax::Tagged,
        }
    }

    /// Whether the template is to see the definitions.
    pub(super) const fn is_own(self) -> bool {
        matches!(self, Self::Own(_))
    }

    /// The messages as the template is to see them.
    pub(super) fn messages<'a>(self, chat: &ChatInput<'a>) -> Cow<'a, [Value]> {
        if chat.tools.is_empty() && !chat.messages.iter().any(is_about_tools) {
            return chat.messages.into();
        }
        match self {
            Self::Own(syntax) => {
                let adapted = chat.messages.iter().map(|message| adapted(message, syntax));
                Cow::Owned(adapted.collect())
            }
            Self::None => Cow::Owned(in_words(chat)),
        }
    }
}

fn is_about_tools(message: &Value) -> bool {
    message["role"] == "tool" || !message["tool_calls"].is_null()
}

/// The message with its calls as templates want them: arguments are objects, though OpenAI's are text.
fn adapted(message: &Value, syntax: ToolSyntax) -> Value {
    let mut message = message.clone();
    if let Some(content) = message
        .get_mut("content")
        .filter(|content| content.is_null())
    {
        *content = "".into();
    }
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
    for call in calls.into_iter().flatten() {
        let arguments = arguments(call);
        if let Some(told) = call.pointer_mut("/function/arguments") {
            *told = arguments;
        }
        shorten_id(call, "id", syntax);
    }
    shorten_id(&mut message, "tool_call_id", syntax);
    message
}

/// The arguments of a call as an object; text that is none, which a cut answer may hold, stays text.
fn arguments(call: &Value) -> Value {
    let arguments = &call["function"]["arguments"];
    let parsed = arguments.as_str().map(serde_json::from_str::<Value>);
    match parsed {
        Some(Ok(parsed)) if parsed.is_object() => parsed,
        _ => arguments.clone(),
    }
}

/// Mistral's templates take ids of nine letters and digits alone: another one becomes its hash, equal ones the same.
fn shorten_id(holder: &mut Value, field: &str, syntax: ToolSyntax) {
    const LENGTH: usize = 9;
    let Some(id) = holder.get(field).and_then(Value::as_str) else {
        return;
    };
    let fits = id.len() == LENGTH && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if syntax == ToolSyntax::List && !fits {
        let mut hash = fnv(id.as_bytes());
        let digits = (0..LENGTH).map(|_| {
            let digit = char::from_digit((hash % 36) as u32, 36);
            hash /= 36;
            digit.unwrap_or('0')
        });
        let short: String = digits.collect();
        if let Some(id) = holder.get_mut(field) {
            *id = short.into();
        }
    }
}

/// FNV-1a, 64 bits: <https://datatracker.ietf.org/doc/draft-eastlake-fnv/>.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// The conversation without a word of tools but in its texts.
fn in_words(chat: &ChatInput<'_>) -> Vec<Value> {
    let mut messages: Vec<Value> = Vec::with_capacity(chat.messages.len() + 1);
    // Whether the last message holds results, to which more may be added: many templates want roles to take turns.
    let mut after_results = false;
    for message in chat.messages {
        let content = message["content"].as_str().unwrap_or_default();
        let is_result = message["role"] == "tool";
        let text = match message["role"].as_str() {
            Some("tool") => format!("<tool_response>\n{content}\n</tool_response>"),
            Some("assistant") => with_calls(content, message),
            _ => content.to_owned(),
        };
        match messages.last_mut() {
            Some(results) if after_results && (is_result || message["role"] == "user") => {
                *results = says("user", &joined(results, "\n", &text));
            }
            _ if is_result => messages.push(says("user", &text)),
            _ => messages.push(plain(message, text)),
        }
        after_results = is_result;
    }
    if !chat.tools.is_empty() {
        introduce(&mut messages, &preamble(chat.tools));
    }
    messages
}

/// Says `words` before all else, but after the client's own system message. A message of the user's takes them where there
/// is none: some templates refuse any system message, and others have one of their own.
fn introduce(messages: &mut Vec<Value>, words: &str) {
    let takes = |first: &Value| first["role"] == "system" || first["role"] == "user";
    let Some(first) = messages.first_mut().filter(|first| takes(first)) else {
        messages.insert(0, says("user", words));
        return;
    };
    let text = if first["role"] == "system" {
        joined(first, "\n\n", words)
    } else {
        joined(
            &says("user", words),
            "\n\n",
            first["content"].as_str().unwrap_or_default(),
        )
    };
    *first = plain(first, text);
}

fn joined(message: &Value, between: &str, text: &str) -> String {
    let said = message["content"].as_str().unwrap_or_default();
    format!("{said}{between}{text}")
}

fn says(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// The message with this text in place of content and calls.
fn plain(message: &Value, text: String) -> Value {
    let mut plain: Map<String, Value> = message.as_object().cloned().unwrap_or_default();
    plain.remove("tool_calls");
    plain.insert("content".to_owned(), text.into());
    plain.into()
}

fn with_calls(content: &str, message: &Value) -> String {
    let calls = message["tool_calls"].as_array();
    let calls = calls.into_iter().flatten().map(|call| {
        let name = &call["function"]["name"];
        let arguments = arguments(call);
        format!("<tool_call>\n{{\"name\": {name}, \"arguments\": {arguments}}}\n</tool_call>")
    });
    let said = (!content.is_empty()).then(|| content.to_owned());
    said.into_iter().chain(calls).collect::<Vec<_>>().join("\n")
}

/// What a model is told that has no words of its own for tools.
fn preamble(tools: &[Value]) -> String {
    let functions: Vec<String> = tools
        .iter()
        .map(|tool| tool["function"].to_string())
        .collect();
    let functions = functions.join("\n");
    format!(
        "You can call these functions; each line describes one, with a JSON schema of its parameters:\n\
         {functions}\n\n\
         To call a function, write its name and its arguments as JSON between tags, and nothing after them:\n\
         <tool_call>\n{{\"name\": \"FUNCTION\", \"arguments\": {{\"PARAMETER\": VALUE}}}}\n</tool_call>\n\
         Several calls follow one another, each in its own tags. What they give comes back between <tool_response> and \
         </tool_response>. Where no function helps, answer in words."
    )
}

#[cfg(test)]
mod tests;
