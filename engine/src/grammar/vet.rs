//! What a grammar must be before the compiler sees it. Its own bounds are on work; these are on size and depth, which it
//! takes for granted.

use llguidance::api::TopLevelGrammar;
use serde_json::{Value, json};

use super::{CallSpec, GrammarError, GrammarSpec};
use crate::limits::{
    CALLS_BYTES_MAX, CALLS_FUNCTIONS_MAX, GRAMMAR_DEPTH_MAX, JSON_SPACE_MAX, LARK_BYTES_MAX,
    REGEX_BYTES_MAX, SCHEMA_BYTES_MAX, SCHEMA_NODES_MAX, SCHEMA_SQUARES_MAX,
};

/// Checks what can be seen without understanding it.
pub(super) fn check(spec: &GrammarSpec) -> Result<(), GrammarError> {
    match spec {
        GrammarSpec::JsonSchema(text) => at_most(text.len(), "bytes", SCHEMA_BYTES_MAX),
        GrammarSpec::Lark(text) => {
            at_most(text.len(), "bytes", LARK_BYTES_MAX)?;
            at_most(depth(text), "levels", GRAMMAR_DEPTH_MAX)
        }
        GrammarSpec::Regex(text) => check_regex(text),
        GrammarSpec::Calls(calls) => check_calls(calls),
    }
}

/// The grammar as the compiler takes it.
pub(super) fn parse(spec: &GrammarSpec) -> Result<TopLevelGrammar, GrammarError> {
    match spec {
        GrammarSpec::JsonSchema(text) => {
            let mut size = Size::default();
            let schema = parse_schema(text, &mut size)?;
            size.check()?;
            Ok(TopLevelGrammar::from_json_schema(with_little_space(schema)))
        }
        GrammarSpec::Regex(text) => Ok(TopLevelGrammar::from_regex(text)),
        GrammarSpec::Lark(text) => Ok(TopLevelGrammar::from_lark(text.to_string())),
        GrammarSpec::Calls(calls) => {
            // Together they may cost what one may.
            let mut size = Size::default();
            let schemas = calls
                .schemas()
                .map(|schema| parse_schema(schema, &mut size));
            let schemas = schemas.collect::<Result<_, _>>()?;
            size.check()?;
            calls.compose(schemas)
        }
    }
}

/// A schema, whose cost is added to `size`.
fn parse_schema(text: &str, size: &mut Size) -> Result<Value, GrammarError> {
    let schema: Value = serde_json::from_str(text)
        .map_err(|error| GrammarError::Invalid(format!("the schema is no JSON: {error}")))?;
    if !schema.is_object() && !schema.is_boolean() {
        let what = "a schema is an object, true or false";
        return Err(GrammarError::Invalid(what.to_owned()));
    }
    size.add(&schema);
    Ok(schema)
}

/// Between the parts of a JSON value a model may put space, but not for ever, as small ones are prone to do.
pub(super) fn with_little_space(mut schema: Value) -> Value {
    let options = json!({"whitespace_pattern": format!("[ \\n\\r\\t]{{1,{JSON_SPACE_MAX}}}")});
    if schema == Value::Bool(true) {
        schema = json!({});
    }
    if let Some(fields) = schema.as_object_mut() {
        fields.entry("x-guidance").or_insert(options);
    }
    schema
}

fn check_regex(text: &str) -> Result<(), GrammarError> {
    at_most(text.len(), "bytes", REGEX_BYTES_MAX)?;
    at_most(depth(text), "levels", GRAMMAR_DEPTH_MAX)
}

fn check_calls(calls: &CallSpec) -> Result<(), GrammarError> {
    at_most(calls.functions.len(), "functions", CALLS_FUNCTIONS_MAX)?;
    at_most(calls.bytes(), "bytes", CALLS_BYTES_MAX)?;
    calls
        .schemas()
        .try_for_each(|schema| at_most(schema.len(), "bytes", SCHEMA_BYTES_MAX))
}

/// What a schema would cost.
#[derive(Debug, Default)]
struct Size {
    nodes: usize,
    squares: usize,
    pattern_bytes: usize,
    pattern_depth: usize,
}

impl Size {
    fn check(&self) -> Result<(), GrammarError> {
        at_most(self.nodes, "nodes", SCHEMA_NODES_MAX)?;
        at_most(self.squares, "squared fields", SCHEMA_SQUARES_MAX)?;
        // One after another they cost no less than as one.
        at_most(self.pattern_bytes, "bytes of patterns", REGEX_BYTES_MAX)?;
        at_most(self.pattern_depth, "levels in a pattern", GRAMMAR_DEPTH_MAX)
    }

    /// Counts a value; the parser bounds how deep it nests.
    fn add(&mut self, value: &Value) {
        self.nodes += 1;
        match value {
            Value::Array(elements) => elements.iter().for_each(|element| self.add(element)),
            Value::Object(fields) => {
                self.squares += fields.len() * fields.len();
                let names = fields.get("patternProperties").and_then(Value::as_object);
                names
                    .into_iter()
                    .flatten()
                    .for_each(|(name, _)| self.add_pattern(name));
                if let Some(pattern) = fields.get("pattern").and_then(Value::as_str) {
                    self.add_pattern(pattern);
                }
                fields.values().for_each(|field| self.add(field));
            }
            _ => {}
        }
    }

    fn add_pattern(&mut self, pattern: &str) {
        self.pattern_bytes += pattern.len();
        self.pattern_depth = self.pattern_depth.max(depth(pattern));
    }
}

fn at_most(size: usize, unit: &'static str, size_max: usize) -> Result<(), GrammarError> {
    if size <= size_max {
        return Ok(());
    }
    Err(GrammarError::TooLarge {
        size,
        unit,
        size_max,
    })
}

/// How deep brackets nest at most. Those in strings count too, which is rarely wrong and never dangerous.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}
