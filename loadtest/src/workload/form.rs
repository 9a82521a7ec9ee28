//! What form answers must have: plain text, JSON, JSON of a schema, or calls of tools. A form is written once and sent
//! as it is with every request that has it.

use std::sync::Arc;

use serde_json::Value;
use serde_json::value::RawValue;

use super::schema::Schema;

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
    /// What whole texts must keep.
    pub schema: Option<Schema>,
    /// What arguments must keep, by the name of the tool: of those whose function is `strict`, as the server then promises.
    pub strict: Vec<(String, Schema)>,
}

/// What a whole answer must be; one that was cut at its longest can be nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Anything.
    Nothing,
    /// One JSON value; where there is a schema, it keeps it.
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
            schema: None,
            strict: Vec::new(),
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
    ///
    /// # Errors
    /// What is wrong with the schema, in words.
    pub fn schema(name: Arc<str>, schema: &Value) -> Result<Self, String> {
        let format = serde_json::json!({
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": true, "schema": schema},
        });
        Ok(Self {
            demand: Demand::Json,
            response_format: raw(&format),
            schema: Some(Schema::of(schema)?),
            ..Self::text(name)
        })
    }

    /// Calls of these tools: `auto`, `required`, `none`, or the name of one that must be called.
    ///
    /// # Errors
    /// What is wrong with the schema of a strict tool, in words.
    pub fn tools(name: Arc<str>, tools: &Value, choice: &str) -> Result<Self, String> {
        let demand = match choice {
            "auto" | "none" => Demand::WholeCalls,
            _ => Demand::SomeCall,
        };
        let choice = match choice {
            "auto" | "required" | "none" => serde_json::json!(choice),
            function => serde_json::json!({"type": "function", "function": {"name": function}}),
        };
        Ok(Self {
            demand,
            tools: raw(tools),
            tool_choice: raw(&choice),
            strict: strict(tools)?,
            ..Self::text(name)
        })
    }
}

/// The parameters of all tools that promise to keep them, by name.
fn strict(tools: &Value) -> Result<Vec<(String, Schema)>, String> {
    let functions = tools.as_array().into_iter().flatten();
    let functions = functions.filter_map(|tool| tool.get("function"));
    let mut strict = Vec::new();
    for function in functions.filter(|function| function["strict"] == true) {
        let name = function["name"].as_str().unwrap_or_default();
        if let Some(parameters) = function.get("parameters") {
            let schema = Schema::of(parameters);
            let schema = schema.map_err(|what| format!("the function {name:?} {what}"))?;
            strict.push((name.to_owned(), schema));
        }
    }
    Ok(strict)
}

/// A value as it is sent. Values of JSON can always be written.
fn raw(value: &Value) -> Option<Box<RawValue>> {
    RawValue::from_string(value.to_string()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_in_is_json() {
        for text in [SCHEMA, TOOLS] {
            assert!(serde_json::from_str::<Value>(text).is_ok());
        }
    }

    #[test]
    fn a_named_function_must_be_called() {
        let tools = serde_json::from_str(TOOLS).unwrap();
        let form = |choice| Form::tools("t".into(), &tools, choice).unwrap();
        assert_eq!(form("auto").demand, Demand::WholeCalls);
        assert_eq!(form("required").demand, Demand::SomeCall);
        assert_eq!(form("weather").demand, Demand::SomeCall);
        let choice = form("weather").tool_choice.unwrap().to_string();
        assert_eq!(
            choice,
            r#"{"type":"function","function":{"name":"weather"}}"#
        );
    }
    #[test]
    fn only_strict_functions_promise_their_parameters() {
        let tools = |strict: bool, kind: &str| {
            serde_json::json!([{"type": "function", "function": {"name": "f", "strict": strict,
                "parameters": {"type": kind}}}])
        };
        let names = |tools: &Value| {
            let form = Form::tools("t".into(), tools, "auto")?;
            Ok::<_, String>(form.strict.len())
        };
        assert_eq!(names(&tools(true, "object")), Ok(1));
        assert_eq!(names(&tools(false, "object")), Ok(0));
        let error = names(&tools(true, "wrong")).unwrap_err();
        assert!(
            error.starts_with("the function \"f\" is no JSON schema"),
            "{error}"
        );
    }
}
