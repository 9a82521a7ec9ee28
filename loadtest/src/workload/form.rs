//! What form answers must have: plain text, JSON, JSON of a schema, or calls of tools. A form is written once and sent
//! as it is with every request that has it.

use std::sync::Arc;

use serde_json::value::RawValue;

/// Some schema, where a scenario names none: flat, closed, with a word, a number and a choice.
pub const SCHEMA: &str = r#"{"type":"object","properties":{"city":{"type":"string","maxLength":24},"founded":{"type":"integer"},"trade":{"enum":["salt","grain","cloth","fur"]}},"required":["city","founded","trade"],"additionalProperties":false}"#;

/// Two tools, where a scenario names none.
pub const TOOLS: &str = r#"[{"type":"function","function":{"name":"ship_to","description":"Sends goods to a city","parameters":{"type":"object","properties":{"city":{"type":"string","maxLength":24},"tons":{"type":"integer"}},"required":["city","tons"],"additionalProperties":false}}},{"type":"function","function":{"name":"weather","description":"Says how the weather is","parameters":{"type":"object","properties":{"city":{"type":"string","maxLength":24}},"required":["city"],"additionalProperties":false}}}]"#;

/// A form of answers.
#[derive(Debug)]
pub struct Form {
    /// The name in reports.
    pub name: Arc<str>,
    /// What a whole answer must be.
    pub demand: Demand,
    /// `response_format`, as it is sent.
    pub response_format: Option<Box<RawValue>>,
    /// `tools`, as they are sent.
    pub tools: Option<Box<RawValue>>,
    /// `tool_choice`, as it is sent.
    pub tool_choice: Option<Box<RawValue>>,
}

/// What a whole answer must be; one that was cut at its longest can be nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Anything.
    Nothing,
    /// One JSON value. Whether it keeps the schema is the server's promise, which is not checked here.
    Json,
    /// Tool calls, if there are any, have names and arguments in JSON.
    WholeCalls,
    /// The same, and there is at least one.
    SomeCall,
}

impl Form {
    /// Plain text.
    pub fn text(name: Arc<str>) -> Self {
        Self {
            name,
            demand: Demand::Nothing,
            response_format: None,
            tools: None,
            tool_choice: None,
        }
    }

    /// Some JSON object.
    pub fn json(name: Arc<str>) -> Self {
        let format = serde_json::json!({"type": "json_object"});
        Self {
            demand: Demand::Json,
            response_format: raw(&format),
            ..Self::text(name)
        }
    }

    /// JSON of this schema.
    pub fn schema(name: Arc<str>, schema: &serde_json::Value) -> Self {
        let format = serde_json::json!({
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": true, "schema": schema},
        });
        Self {
            demand: Demand::Json,
            response_format: raw(&format),
            ..Self::text(name)
        }
    }

    /// Calls of these tools: `auto`, `required`, `none`, or the name of one that must be called.
    pub fn tools(name: Arc<str>, tools: &serde_json::Value, choice: &str) -> Self {
        let demand = match choice {
            "auto" | "none" => Demand::WholeCalls,
            _ => Demand::SomeCall,
        };
        let choice = match choice {
            "auto" | "required" | "none" => serde_json::json!(choice),
            function => serde_json::json!({"type": "function", "function": {"name": function}}),
        };
        Self {
            demand,
            tools: raw(tools),
            tool_choice: raw(&choice),
            ..Self::text(name)
        }
    }
}

/// A value as it is sent. Values of JSON can always be written.
fn raw(value: &serde_json::Value) -> Option<Box<RawValue>> {
    RawValue::from_string(value.to_string()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_in_is_json() {
        for text in [SCHEMA, TOOLS] {
            assert!(serde_json::from_str::<serde_json::Value>(text).is_ok());
        }
    }

    #[test]
    fn a_named_function_must_be_called() {
        let tools = serde_json::from_str(TOOLS).unwrap();
        let form = |choice| Form::tools("t".into(), &tools, choice);
        assert_eq!(form("auto").demand, Demand::WholeCalls);
        assert_eq!(form("required").demand, Demand::SomeCall);
        assert_eq!(form("weather").demand, Demand::SomeCall);
        let choice = form("weather").tool_choice.unwrap().to_string();
        assert_eq!(
            choice,
            r#"{"type":"function","function":{"name":"weather"}}"#
        );
    }
}
