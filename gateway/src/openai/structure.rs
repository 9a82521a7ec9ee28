//! Structured output: `response_format` as OpenAI has it, and vLLM's names for schemas, regular expressions and grammars.
//!
//! Whether a grammar is one, only its compiler knows, and that is the upstream's.

use std::sync::Arc;

use super::error::ApiError;
use super::fault::ParamFault;
use super::fields;
use super::json::{Kind, Node, Object};
use super::params::boolean;
use crate::limits;
use crate::upstream::{Grammar, Structure};

/// Any object.
const JSON_OBJECT: &str = r#"{"type":"object"}"#;

/// Reads what choices must look like; at most one of the fields may say so.
pub(super) fn read(body: &Object<'_, '_>) -> Result<Option<Structure>, ApiError> {
    let mut found: Option<Structure> = None;
    for (param, read) in FIELDS {
        let Some(node) = body.get(param) else {
            continue;
        };
        let Some(grammar) = read(&node)? else {
            continue;
        };
        if let Some(found) = found {
            let with = found.param;
            return Err(body.fault(param, ParamFault::Conflict { with }));
        }
        found = Some(Structure { grammar, param });
    }
    Ok(found)
}

type Read = fn(&Node<'_, '_>) -> Result<Option<Grammar>, ApiError>;

const FIELDS: [(&str, Read); 6] = [
    ("response_format", response_format),
    ("structured_outputs", structured_outputs),
    ("guided_json", |node| schema(node).map(Some)),
    ("guided_regex", |node| regex(node).map(Some)),
    ("guided_grammar", |node| lark(node).map(Some)),
    ("guided_choice", |node| choice(node).map(Some)),
];

fn response_format(node: &Node<'_, '_>) -> Result<Option<Grammar>, ApiError> {
    let format = node.object()?;
    let kind = format.require("type")?;
    match &*kind.string()? {
        "text" => {
            fields::check(&format, &[fields::FORMAT_TEXT])?;
            Ok(None)
        }
        "json_object" => {
            fields::check(&format, &[fields::FORMAT_TEXT])?;
            Ok(Some(Grammar::JsonSchema(JSON_OBJECT.into())))
        }
        "json_schema" => {
            fields::check(&format, &[fields::FORMAT_SCHEMA])?;
            json_schema(&format).map(Some)
        }
        _ => Err(kind.value_fault("text, json_object or json_schema".to_owned())),
    }
}

fn json_schema(format: &Object<'_, '_>) -> Result<Grammar, ApiError> {
    let named = format.require("json_schema")?;
    let named = named.object()?;
    fields::check(&named, &[fields::JSON_SCHEMA])?;
    named.require("name")?.string()?;
    boolean(&named, "strict")?;
    // Without a schema OpenAI takes any object.
    match named.get("schema") {
        Some(node) => schema(&node),
        None => Ok(Grammar::JsonSchema(JSON_OBJECT.into())),
    }
}

fn structured_outputs(node: &Node<'_, '_>) -> Result<Option<Grammar>, ApiError> {
    let outputs = node.object()?;
    fields::check(&outputs, &[fields::STRUCTURED_OUTPUTS])?;
    let mut given = outputs.nodes();
    let (first, second) = (given.next(), given.next());
    let Some((name, node)) = first else {
        return Ok(None);
    };
    if let Some((_, other)) = second {
        let condition = "without other members beside it";
        return Err(other.fault(ParamFault::OnlyWith { condition }));
    }
    match name {
        "json" => schema(&node).map(Some),
        "regex" => regex(&node).map(Some),
        "grammar" => lark(&node).map(Some),
        "choice" => choice(&node).map(Some),
        _ => Ok(node
            .boolean()?
            .then(|| Grammar::JsonSchema(JSON_OBJECT.into()))),
    }
}

/// An object, or as vLLM's clients may send it, the text of one.
fn schema(node: &Node<'_, '_>) -> Result<Grammar, ApiError> {
    let text: Arc<str> = match node.kind() {
        Kind::String => node.string()?.into(),
        Kind::Object | Kind::Boolean => node.text().into(),
        _ => return Err(node.type_fault("a JSON schema")),
    };
    Ok(Grammar::JsonSchema(text))
}

fn regex(node: &Node<'_, '_>) -> Result<Grammar, ApiError> {
    Ok(Grammar::Regex(node.string()?.into()))
}

fn lark(node: &Node<'_, '_>) -> Result<Grammar, ApiError> {
    Ok(Grammar::Lark(node.string()?.into()))
}

/// One of several texts. Lark writes strings as JSON does.
fn choice(node: &Node<'_, '_>) -> Result<Grammar, ApiError> {
    let words = node.array(limits::CHOICE_WORDS_MAX)?;
    let mut grammar = String::from("start: ");
    for (index, raw) in words.into_iter().enumerate() {
        let word = Node::new(raw, node.at().index(index)).string()?;
        if index > 0 {
            grammar.push_str(" | ");
        }
        grammar.push_str(&serde_json::Value::from(&*word).to_string());
    }
    Ok(Grammar::Lark(grammar.into()))
}
