//! Which fields a request may have, and what becomes of those that we do not read.
//!
//! Nothing is silently ignored: a field is read, or has no effect here by its nature, or may only have the value that
//! changes nothing; everything else is refused by name. The tables are the one place that says so.

use super::error::ApiError;
use super::fault::ParamFault;
use super::json::{Kind, Node, Object};
use crate::limits;

/// A field's name and what becomes of it.
pub(super) type Field = (&'static str, Rule);

/// What becomes of a field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rule {
    /// The parser reads and checks it.
    Read,
    /// It has no effect on the answer: any value of the type passes.
    NoEffect(Kind),
    /// Only these values pass, written as JSON; they change nothing.
    Only(&'static [&'static str]),
    /// Known to OpenAI, not supported here.
    Unsupported,
    /// What OpenAI has replaced by another field; these values, written as JSON, change nothing and pass.
    Former(&'static [&'static str], &'static str),
    /// Another API's name for a field of ours.
    Meant(&'static str),
}

use Rule::{Former, Meant, NoEffect, Only, Read, Unsupported};

/// Fields of both endpoints.
pub(super) const SHARED: &[Field] = &[
    ("model", Read),
    ("n", Read),
    ("max_tokens", Read),
    ("temperature", Read),
    ("top_p", Read),
    ("top_k", Read),
    ("min_p", Read),
    ("stop", Read),
    ("seed", Read),
    ("stream", Read),
    ("stream_options", Read),
    ("ignore_eos", Read),
    ("user", NoEffect(Kind::String)),
    ("metadata", NoEffect(Kind::Object)),
    ("frequency_penalty", Read),
    ("presence_penalty", Read),
    ("repetition_penalty", Read),
    ("logit_bias", Read),
    ("stop_token_ids", Read),
    ("min_tokens", Read),
    ("service_tier", Only(&[r#""auto""#, r#""default""#])),
    ("store", Only(&["false"])),
    ("response_format", Read),
    ("structured_outputs", Read),
    ("guided_json", Read),
    ("guided_regex", Read),
    ("guided_grammar", Read),
    ("guided_choice", Read),
    ("max_output_tokens", Meant("max_tokens")),
    ("max_new_tokens", Meant("max_tokens")),
    ("n_predict", Meant("max_tokens")),
];

/// Fields of `/v1/chat/completions` alone.
pub(super) const CHAT: &[Field] = &[
    ("messages", Read),
    ("max_completion_tokens", Read),
    ("safety_identifier", NoEffect(Kind::String)),
    ("prompt_cache_key", Read),
    ("parallel_tool_calls", Read),
    ("logprobs", Read),
    ("top_logprobs", Read),
    ("tools", Read),
    ("tool_choice", Read),
    ("functions", Former(&["[]"], "tools")),
    (
        "function_call",
        Former(&[r#""none""#, r#""auto""#], "tool_choice"),
    ),
    ("modalities", Only(&[r#"["text"]"#])),
    ("reasoning_effort", Only(&[r#""none""#])),
    ("verbosity", Only(&[r#""medium""#])),
    ("audio", Unsupported),
    ("prediction", Unsupported),
    ("web_search_options", Unsupported),
    ("prompt_cache_retention", Unsupported),
    ("prompt", Meant("messages")),
    ("input", Meant("messages")),
];

/// Fields of `/v1/completions` alone.
pub(super) const COMPLETIONS: &[Field] = &[
    ("prompt", Read),
    ("best_of", Read),
    ("echo", Read),
    ("logprobs", Read),
    ("suffix", Only(&[r#""""#])),
    ("max_completion_tokens", Meant("max_tokens")),
    ("messages", Meant("prompt")),
    ("input", Meant("prompt")),
];

/// Fields of `/v1/embeddings`.
pub(super) const EMBEDDINGS: &[Field] = &[
    ("model", Read),
    ("input", Read),
    ("encoding_format", Read),
    ("dimensions", Read),
    ("user", NoEffect(Kind::String)),
    ("prompt", Meant("input")),
    ("messages", Meant("input")),
];

/// Fields of a message. The last ones are those that come back when a client sends our own answer again.
pub(super) const MESSAGE: &[Field] = &[
    ("role", Read),
    ("content", Read),
    ("name", Read),
    ("tool_calls", Read),
    ("tool_call_id", Read),
    ("function_call", Former(&[], "tool_calls")),
    ("audio", Unsupported),
    ("refusal", Only(&[r#""""#])),
    ("annotations", Only(&["[]"])),
];

/// Fields of one of `tools`, and of what names one.
pub(super) const TOOL: &[Field] = &[("type", Read), ("function", Read)];

/// Fields of its `function`. A schema always holds to the letter, so that `strict` changes nothing.
pub(super) const FUNCTION: &[Field] = &[
    ("name", Read),
    ("description", Read),
    ("parameters", Read),
    ("strict", Read),
];

/// Fields of a `function` that is only named.
pub(super) const FUNCTION_NAME: &[Field] = &[("name", Read)];

/// Fields of a `tool_choice` of several functions.
pub(super) const CHOICE_ALLOWED: &[Field] = &[("type", Read), ("allowed_tools", Read)];

/// Fields of its `allowed_tools`.
pub(super) const ALLOWED_TOOLS: &[Field] = &[("mode", Read), ("tools", Read)];

/// Fields of one of a message's `tool_calls`; clients that put a stream together may leave its index there.
pub(super) const CALL: &[Field] = &[
    ("id", Read),
    ("type", Read),
    ("function", Read),
    ("index", NoEffect(Kind::Integer)),
];

/// Fields of its `function`.
pub(super) const CALLED_FUNCTION: &[Field] = &[("name", Read), ("arguments", Read)];

/// Fields of a part of a message's content.
pub(super) const TEXT_PART: &[Field] = &[("type", Read), ("text", Read)];

/// Fields of a `response_format` that is no schema.
pub(super) const FORMAT_TEXT: &[Field] = &[("type", Read)];

/// Fields of a `response_format` with a schema.
pub(super) const FORMAT_SCHEMA: &[Field] = &[("type", Read), ("json_schema", Read)];

/// Fields of its `json_schema`. A schema always holds to the letter, so that `strict` changes nothing.
pub(super) const JSON_SCHEMA: &[Field] = &[
    ("name", Read),
    ("schema", Read),
    ("strict", Read),
    ("description", NoEffect(Kind::String)),
];

/// Fields of vLLM's `structured_outputs`.
pub(super) const STRUCTURED_OUTPUTS: &[Field] = &[
    ("json", Read),
    ("regex", Read),
    ("grammar", Read),
    ("choice", Read),
    ("json_object", Read),
];

/// Fields of `stream_options`.
pub(super) const STREAM_OPTIONS: &[Field] = &[
    ("include_usage", Read),
    // vLLM's; its clients send it whatever they read. The last event tells the usage all the same.
    ("continuous_usage_stats", NoEffect(Kind::Boolean)),
    ("include_obfuscation", Only(&["false"])),
];

/// Holds every field of `object` against the tables.
///
/// # Errors
/// The first field that is unknown, not supported, or has a value that is not.
pub(super) fn check(object: &Object<'_, '_>, tables: &[&[Field]]) -> Result<(), ApiError> {
    check_but(object, tables, |_| false)
}

/// The same for all but the unknown fields that `passes` names: somebody behind us knows those.
pub(super) fn check_but(
    object: &Object<'_, '_>,
    tables: &[&[Field]],
    passes: impl Fn(&str) -> bool,
) -> Result<(), ApiError> {
    for (name, node) in object.nodes() {
        let rule = tables
            .iter()
            .copied()
            .flatten()
            .find(|(field, _)| *field == name);
        match rule {
            Some((_, rule)) => rule.check(&node)?,
            None if passes(name) => {}
            None => {
                let meant = suggestion(name, tables);
                return Err(node.fault(ParamFault::Unknown { meant }));
            }
        }
    }
    Ok(())
}

impl Rule {
    fn check(self, node: &Node<'_, '_>) -> Result<(), ApiError> {
        match self {
            Read => Ok(()),
            NoEffect(kind) if node.kind() == kind => Ok(()),
            NoEffect(kind) => Err(node.type_fault(kind.name())),
            Only(neutral) if node.is_one_of(neutral) => Ok(()),
            Only(neutral) => {
                let supported = neutral.join(" or ");
                Err(node.fault(ParamFault::UnsupportedValue { supported }))
            }
            Unsupported => Err(node.fault(ParamFault::Unsupported)),
            Former(neutral, _) if node.is_one_of(neutral) => Ok(()),
            Former(_, by) => Err(node.fault(ParamFault::Former { by })),
            Meant(field) => Err(node.fault(ParamFault::Unknown { meant: Some(field) })),
        }
    }
}

/// The known field that looks most like `name`, if one does.
fn suggestion(name: &str, tables: &[&[Field]]) -> Option<&'static str> {
    if name.len() > limits::SUGGESTION_BYTES_MAX {
        return None;
    }
    let plain = plain(name);
    let edits_max = limits::SUGGESTION_EDITS_MAX.min(plain.len() / 3);
    tables
        .iter()
        .copied()
        .flatten()
        .filter(|(_, rule)| !matches!(rule, Unsupported | Former(..) | Meant(_)))
        .map(|(field, _)| (strsim::osa_distance(&plain, &self::plain(field)), *field))
        .filter(|(edits, _)| *edits <= edits_max)
        .min()
        .map(|(_, field)| field)
}

/// Without case and word marks, so that `maxTokens` is `max_tokens`.
fn plain(name: &str) -> String {
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    letters.map(|letter| letter.to_ascii_lowercase()).collect()
}
