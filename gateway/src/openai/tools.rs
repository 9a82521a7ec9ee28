//! `tools`, `tool_choice` and `parallel_tool_calls`: the functions that a chat may call.
//!
//! Whether a schema of parameters is one, only its compiler knows, and that is the upstream's.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::fault::ParamFault;
use super::fields;
use super::json::{Kind, Node, Object};
use super::params::boolean;
use crate::limits;
use crate::upstream::tools::{Function, Tools};
use crate::upstream::{Grammar, Structure};

/// Reads what a chat may call; `None` where there is nothing, or nothing may be called: the model is not told of it then.
pub(super) fn read(
    body: &Object<'_, '_>,
    structure: Option<&Structure>,
) -> Result<Option<Tools>, ApiError> {
    let parallel = boolean(body, "parallel_tool_calls")?.unwrap_or(true);
    let defined = body
        .get("tools")
        .map(|node| definitions(&node))
        .transpose()?;
    let defined = defined.filter(|defined| !defined.is_empty());
    let choice = body.get("tool_choice");
    let Some(defined) = defined else {
        return match choice.map(|node| choice_of(&node, &[])).transpose()? {
            None | Some(Choice::None | Choice::Any { must_call: false }) => Ok(None),
            Some(_) => {
                let condition = "when 'tools' are given";
                Err(body.fault("tool_choice", ParamFault::OnlyWith { condition }))
            }
        };
    };
    let (definitions, functions): (Vec<Value>, Vec<Function>) = defined.into_iter().unzip();
    let choice = choice
        .map(|node| choice_of(&node, &functions))
        .transpose()?;
    let (callable, must_call) = match choice {
        Some(Choice::None) => return Ok(None),
        None => (functions, false),
        Some(Choice::Any { must_call }) => (functions, must_call),
        Some(Choice::Among { names, must_call }) => {
            let is_named = |function: &Function| names.iter().any(|name| **name == *function.name);
            (functions.into_iter().filter(is_named).collect(), must_call)
        }
    };
    check_structure(body, structure)?;
    Ok(Some(Tools {
        definitions: definitions.into(),
        callable,
        must_call,
        parallel,
    }))
}

/// An answer is a call or JSON of a schema; other grammars would have to know how the model writes calls.
fn check_structure(body: &Object<'_, '_>, structure: Option<&Structure>) -> Result<(), ApiError> {
    match structure {
        Some(structure) if !matches!(structure.grammar, Grammar::JsonSchema(_)) => {
            Err(body.fault(structure.param, ParamFault::Conflict { with: "tools" }))
        }
        _ => Ok(()),
    }
}

/// Each function as templates take it, and as it is called.
fn definitions(node: &Node<'_, '_>) -> Result<Vec<(Value, Function)>, ApiError> {
    if node.kind() == Kind::Array && node.first_kind().is_none() {
        return Ok(Vec::new());
    }
    let max_bytes = limits::TOOLS_BYTES_MAX;
    if node.text().len() > max_bytes {
        return Err(node.fault(ParamFault::TooLong { max_bytes }));
    }
    let mut read: Vec<(Value, Function)> = Vec::new();
    for (index, raw) in node.array(limits::TOOLS_MAX)?.into_iter().enumerate() {
        let at = node.at();
        let tool = Node::new(raw, at.index(index)).object()?;
        function_type(&tool)?;
        fields::check(&tool, &[fields::TOOL])?;
        let function = tool.require("function")?.object()?;
        let defined = definition(&function)?;
        if read
            .iter()
            .any(|(_, earlier)| earlier.name == defined.1.name)
        {
            let expected = "a name that no other function has".to_owned();
            return Err(function.fault("name", ParamFault::Value { expected }));
        }
        read.push(defined);
    }
    Ok(read)
}

fn definition(function: &Object<'_, '_>) -> Result<(Value, Function), ApiError> {
    fields::check(function, &[fields::FUNCTION])?;
    let name = function_name(&function.require("name")?)?;
    let mut told = Map::new();
    told.insert("name".to_owned(), (&*name).into());
    if let Some(node) = function.get("description") {
        told.insert("description".to_owned(), node.string()?.into());
    }
    boolean(function, "strict")?;
    let parameters = match function.get("parameters") {
        Some(node) => {
            let (told_parameters, schema) = parameters(&node)?;
            told.insert("parameters".to_owned(), told_parameters);
            schema
        }
        None => json!({"type": "object", "properties": {}, "additionalProperties": false}),
    };
    let parameters = parameters.to_string().into();
    Ok((
        json!({"type": "function", "function": told}),
        Function { name, parameters },
    ))
}

/// The schema as it was written, and as what it must be: one of an object.
fn parameters(node: &Node<'_, '_>) -> Result<(Value, Value), ApiError> {
    if node.kind() != Kind::Object {
        return Err(node.type_fault("a JSON schema, which is an object"));
    }
    let fault = |expected: &str| node.value_fault(expected.to_owned());
    let told: Value = serde_json::from_str(node.text())
        .map_err(|_| fault("a JSON schema of at most 127 levels and whole characters"))?;
    let mut schema = told.clone();
    if let Some(fields) = schema.as_object_mut() {
        let kind = fields.entry("type").or_insert_with(|| "object".into());
        if *kind != "object" {
            return Err(fault("a schema of \"type\": \"object\""));
        }
    }
    Ok((told, schema))
}

fn function_type(object: &Object<'_, '_>) -> Result<(), ApiError> {
    let kind = object.require("type")?;
    match &*kind.string()? {
        "function" => Ok(()),
        "custom" => {
            let supported = "\"function\"".to_owned();
            Err(kind.fault(ParamFault::UnsupportedValue { supported }))
        }
        _ => Err(kind.value_fault("\"function\"".to_owned())),
    }
}

/// A name that OpenAI would take.
pub(super) fn function_name(node: &Node<'_, '_>) -> Result<Arc<str>, ApiError> {
    let name = node.string()?;
    let max = limits::TOOL_NAME_CHARS_MAX;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if (1..=max).contains(&name.len()) && name.bytes().all(is_plain) {
        Ok(name.into())
    } else {
        let expected = format!("1 to {max} letters, digits, underscores and dashes");
        Err(node.value_fault(expected))
    }
}

/// Who may call what.
enum Choice {
    None,
    Any {
        must_call: bool,
    },
    Among {
        names: Vec<Arc<str>>,
        must_call: bool,
    },
}

fn choice_of(node: &Node<'_, '_>, functions: &[Function]) -> Result<Choice, ApiError> {
    match node.kind() {
        Kind::String => match &*node.string()? {
            "none" => Ok(Choice::None),
            "auto" => Ok(Choice::Any { must_call: false }),
            "required" => Ok(Choice::Any { must_call: true }),
            _ => Err(node.value_fault("none, auto, required or an object".to_owned())),
        },
        Kind::Object => {
            let choice = node.object()?;
            let kind = choice.require("type")?;
            if kind.string()? == "allowed_tools" {
                fields::check(&choice, &[fields::CHOICE_ALLOWED])?;
                return allowed(&choice.require("allowed_tools")?, functions);
            }
            let names = vec![named(&choice, functions)?];
            let must_call = true;
            Ok(Choice::Among { names, must_call })
        }
        _ => Err(node.type_fault("a string or an object")),
    }
}

/// Some of the functions, as if the others were not there, though the model is told of them.
fn allowed(node: &Node<'_, '_>, functions: &[Function]) -> Result<Choice, ApiError> {
    let allowed = node.object()?;
    fields::check(&allowed, &[fields::ALLOWED_TOOLS])?;
    let mode = allowed.require("mode")?;
    let must_call = match &*mode.string()? {
        "auto" => false,
        "required" => true,
        _ => return Err(mode.value_fault("auto or required".to_owned())),
    };
    let tools = allowed.require("tools")?;
    let elements = tools.array(limits::TOOLS_MAX)?.into_iter().enumerate();
    let names = elements.map(|(index, raw)| {
        let at = tools.at();
        let tool = Node::new(raw, at.index(index)).object()?;
        named(&tool, functions)
    });
    let names = names.collect::<Result<_, _>>()?;
    Ok(Choice::Among { names, must_call })
}

/// `{"type": "function", "function": {"name": ..}}`, the name of one of the functions.
fn named(tool: &Object<'_, '_>, functions: &[Function]) -> Result<Arc<str>, ApiError> {
    function_type(tool)?;
    fields::check(tool, &[fields::TOOL])?;
    let function = tool.require("function")?.object()?;
    fields::check(&function, &[fields::FUNCTION_NAME])?;
    let node = function.require("name")?;
    let name = node.string()?;
    let known = functions.iter().find(|function| *function.name == *name);
    let fault = || node.value_fault("the name of a function in 'tools'".to_owned());
    known
        .map(|function| Arc::clone(&function.name))
        .ok_or_else(fault)
}
