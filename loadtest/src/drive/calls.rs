//! The tool calls of one answer, put together from their parts, to see whether each is whole.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::limits::{MAX_CALLS, MAX_KEPT_BYTES};
use crate::workload::schema::Schema;

/// Calls as far as they came.
#[derive(Debug, Default)]
pub struct Calls {
    by_index: BTreeMap<u64, Call>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Call {
    name: String,
    arguments: String,
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    index: u64,
    function: Option<Function>,
}

#[derive(Deserialize)]
struct Function {
    name: Option<String>,
    arguments: Option<String>,
}

impl Calls {
    /// Takes in the `tool_calls` of one event.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn take(&mut self, parts: &RawValue) -> Result<(), &'static str> {
        let parts: Option<Vec<Part>> = serde_json::from_str(parts.get())
            .map_err(|_| "tool_calls that are no list of calls")?;
        for part in parts.into_iter().flatten() {
            let function = part.function.unwrap_or(Function {
                name: None,
                arguments: None,
            });
            let name = function.name.unwrap_or_default();
            let arguments = function.arguments.unwrap_or_default();
            self.bytes += name.len() + arguments.len();
            let call = self.by_index.entry(part.index).or_default();
            // A name comes whole, and some servers send it with every part.
            if call.name.is_empty() {
                call.name = name;
            }
            call.arguments.push_str(&arguments);
            if self.by_index.len() > MAX_CALLS || self.bytes > MAX_KEPT_BYTES {
                return Err("more or longer tool calls than the bound");
            }
        }
        Ok(())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_index.is_empty()
    }

    /// What is wrong with the calls of an answer that is over, in words.
    pub fn fault(&self) -> Option<&'static str> {
        let calls = || self.by_index.values();
        if calls().any(|call| call.name.is_empty()) {
            Some("a tool call without a name")
        } else if calls().any(|call| json(&call.arguments).is_none()) {
            Some("a tool call whose arguments are no JSON")
        } else {
            None
        }
    }

    /// Whether the arguments of every call keep the schema of its tool, where `schemas` has one.
    pub fn keep(&self, schemas: &[(String, Schema)]) -> bool {
        self.by_index.values().all(|call| {
            let of_call = schemas.iter().find(|(name, _)| *name == call.name);
            of_call.is_none_or(|(_, schema)| {
                json(&call.arguments).is_some_and(|arguments| schema.is_kept_by(&arguments))
            })
        })
    }
}

/// The one JSON value that a text is; None where it is anything else.
pub fn json(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(events: &[&str]) -> Result<Calls, &'static str> {
        let mut calls = Calls::default();
        for event in events {
            calls.take(&RawValue::from_string((*event).to_owned()).unwrap())?;
        }
        Ok(calls)
    }

    #[test]
    fn parts_of_two_calls_are_put_together() {
        let calls = calls(&[
            r#"[{"index":0,"id":"a","function":{"name":"weather","arguments":""}}]"#,
            r#"[{"index":0,"function":{"arguments":"{\"city\":"}},{"index":1,"function":{"name":"x","arguments":"{}"}}]"#,
            "[]",
            r#"[{"index":0,"function":{"arguments":"\"Riga\"}"}}]"#,
        ])
        .unwrap();
        assert!(!calls.is_empty());
        assert_eq!(calls.fault(), None);
    }

    #[test]
    fn a_call_that_is_not_whole_is_named() {
        let fault = |events: &[&str]| calls(events).map(|calls| calls.fault());
        let torn = r#"[{"index":0,"function":{"name":"f","arguments":"{\"a\":"}}]"#;
        assert_eq!(
            fault(&[torn]),
            Ok(Some("a tool call whose arguments are no JSON"))
        );
        let nameless = r#"[{"index":0,"function":{"arguments":"{}"}}]"#;
        assert_eq!(fault(&[nameless]), Ok(Some("a tool call without a name")));
        assert!(calls(&["7"]).is_err() && calls(&[r#"[{"index":"x"}]"#]).is_err());
        assert!(calls(&["null"]).unwrap().is_empty());
    }

    #[test]
    fn calls_are_bounded() {
        let many: Vec<String> = (0..=MAX_CALLS)
            .map(|index| format!(r#"{{"index":{index}}}"#))
            .collect();
        assert!(calls(&[&format!("[{}]", many.join(","))]).is_err());
    }
}
