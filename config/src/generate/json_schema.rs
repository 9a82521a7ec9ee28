//! The JSON schema, draft 7, which editors such as VS Code and Helix understand for TOML.

use serde_json::{Map, Value, json};

use super::{Fact, Form, facts};
use crate::keys::{self, Section};
use crate::limits::{self, ID_BYTES_MAX};
use crate::schema::{Choice, Runner};

/// Bytes of a time with fractions and zone.
const DATE_BYTES_MAX: usize = 40;

/// The text of `schema.json`.
pub fn json_schema() -> String {
    let top = keys::sections().filter(|section| !section.path.contains('.'));
    let properties: Map<String, Value> = top
        .map(|section| (section.path.to_owned(), section_schema(section)))
        .collect();
    let schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Config of Hansa",
        "type": "object",
        "additionalProperties": false,
        "anyOf": [{ "required": ["model"] }, { "required": ["node"] }, { "required": ["site"] }, { "required": ["job"] }],
        "properties": properties,
    });
    format!("{schema:#}\n")
}

fn section_schema(section: &Section) -> Value {
    if !section.many {
        return table_schema(section);
    }
    json!({
        "description": section.doc,
        "type": "array",
        "minItems": 1,
        "maxItems": entries_max(section.path),
        "items": table_schema(section),
    })
}

/// Entries of `[[section]]` in one config.
fn entries_max(section: &str) -> usize {
    match section {
        "tenant" => limits::TENANTS_MAX,
        "key" => limits::KEYS_MAX,
        "allocation" => limits::ALLOCATIONS_MAX,
        "price" => limits::PRICES_MAX,
        "rate" => limits::RATES_MAX,
        "node" | "site" => limits::UPSTREAMS_MAX,
        "job" => limits::JOBS_MAX,
        _ => limits::MODELS_MAX,
    }
}

fn table_schema(section: &Section) -> Value {
    let facts = facts(section.path);
    let mut properties: Map<String, Value> = facts
        .iter()
        .map(|fact| (fact.name.to_owned(), key_schema(fact)))
        .collect();
    let inner = keys::sections().filter_map(|inner| {
        let name = inner.path.strip_prefix(section.path)?.strip_prefix('.')?;
        Some((name, inner))
    });
    let mut schema = json!({
        "description": section.doc,
        "type": "object",
        "additionalProperties": false,
    });
    let required: Vec<&str> = facts
        .iter()
        .filter(|fact| fact.required)
        .map(|fact| fact.name)
        .collect();
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    let mut only: Vec<(Runner, &str)> = facts
        .iter()
        .filter_map(|fact| Some((fact.only?, fact.name)))
        .collect();
    for (name, section) in inner {
        properties.insert(name.to_owned(), table_schema(section));
        only.extend(section.only.map(|runner| (runner, name)));
    }
    schema["properties"] = json!(properties);
    if !only.is_empty() {
        forbid_by_runner(&mut schema, &only);
    }
    schema
}

/// Keys of the one runner are refused beside the other.
fn forbid_by_runner(schema: &mut Value, only: &[(Runner, &str)]) {
    let forbidden = |present: Runner| -> Value {
        let others = only.iter().filter(|(runner, _)| *runner != present);
        let names: Map<String, Value> = others
            .map(|(_, name)| ((*name).to_owned(), json!(false)))
            .collect();
        json!({ "properties": names })
    };
    schema["if"] = json!({
        "required": ["runner"],
        "properties": { "runner": { "const": Runner::Sim.name() } },
    });
    schema["then"] = forbidden(Runner::Sim);
    schema["else"] = forbidden(Runner::Candle);
}

fn key_schema(fact: &Fact) -> Value {
    let description = format!("{} {}", fact.doc, fact.allowed());
    let mut schema = json!({ "description": description.trim() });
    let (rules, default) = match &fact.form {
        Form::Whole(range, default) => (
            json!({ "type": "integer", "minimum": range.min, "maximum": range.max }),
            default.map(Value::from),
        ),
        Form::Size(range, default) => {
            let bytes = json!({ "type": "integer", "minimum": range.min, "maximum": range.max });
            let text = json!({ "type": "string", "pattern": "^[0-9]+ *(B|KiB|MiB|GiB|TiB)$" });
            (json!({ "anyOf": [bytes, text] }), default.map(Value::from))
        }
        Form::Text(pattern, length_max, default) => (
            json!({ "type": "string", "pattern": pattern, "maxLength": length_max }),
            default.clone().filter(|_| !fact.required).map(Value::from),
        ),
        Form::Flag(default) => (json!({ "type": "boolean" }), Some(Value::from(*default))),
        // Editors take TOML's dates for texts.
        Form::Date => (
            json!({ "type": "string", "maxLength": DATE_BYTES_MAX }),
            None,
        ),
        Form::List(pattern, max) => {
            let length_max = 2 * ID_BYTES_MAX + " = ".len();
            let item = json!({ "type": "string", "pattern": pattern, "maxLength": length_max });
            (
                json!({ "type": "array", "items": item, "maxItems": max }),
                None,
            )
        }
        Form::Word(words, default) => (
            json!({ "type": "string", "enum": words }),
            Some(Value::from(*default)),
        ),
    };
    if let (Value::Object(schema), Value::Object(rules)) = (&mut schema, rules) {
        schema.extend(rules);
        schema.extend(default.map(|default| ("default".to_owned(), default)));
    }
    schema
}
