//! What a grammar must be before the compiler sees it. Its own bounds are on work; these are on size and depth, which it
//! takes for granted.

use llguidance::api::TopLevelGrammar;
use serde_json::{Value, json};

use super::{CallSpec, GrammarError, GrammarSpec};
use crate::limits::{
    CALLS_BYTES_MAX, CALLS_FUNCTIONS_MAX, FORCED_LEXEME_BYTES_MAX, FORCED_TEXT_BYTES_MAX,
    GRAMMAR_DEPTH_MAX, JSON_SPACE_MAX, LARK_BYTES_MAX, REGEX_BYTES_MAX, SCHEMA_BYTES_MAX,
    SCHEMA_DIVISORS_MAX, SCHEMA_NODES_MAX, SCHEMA_PATTERNS_MET_MAX, SCHEMA_RANGES_MAX,
    SCHEMA_SQUARES_MAX,
};

/// Makes the compiler leave the cutting of what must come to the model: no text is looked for further than one token.
const NO_FORCING: &str = "%llguidance {\"no_forcing\": true}\n";

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
            let schema = with_little_space(schema);
            if size.forces_little() {
                return Ok(TopLevelGrammar::from_json_schema(schema));
            }
            let lark = format!("{NO_FORCING}start: %json {schema}");
            Ok(TopLevelGrammar::from_lark(lark))
        }
        GrammarSpec::Regex(text) => Ok(forcing(
            TopLevelGrammar::from_regex(text),
            expansion(text) <= FORCED_TEXT_BYTES_MAX,
        )),
        GrammarSpec::Lark(text) => {
            let mut forces_little = text.lines().all(is_of_short_lexemes);
            for schema in schemas_in(text) {
                let mut size = Size::default();
                size.add_schema(&schema);
                size.check()?;
                forces_little &= size.forces_little();
            }
            let grammar = TopLevelGrammar::from_lark(text.to_string());
            Ok(forcing(grammar, forces_little))
        }
        GrammarSpec::Calls(calls) => {
            // Together they may cost what one may.
            let mut size = Size::default();
            let schemas = calls
                .schemas()
                .map(|schema| parse_schema(schema, &mut size));
            let schemas = schemas.collect::<Result<_, _>>()?;
            size.check()?;
            Ok(forcing(calls.compose(schemas)?, size.forces_little()))
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
    size.add_schema(&schema);
    Ok(schema)
}

/// The grammar, with an order not to look for what must come where that may be long.
fn forcing(mut grammar: TopLevelGrammar, forces_little: bool) -> TopLevelGrammar {
    if !forces_little {
        let texts = grammar.grammars.iter_mut();
        texts
            .filter_map(|part| part.lark_grammar.as_mut())
            .for_each(|text| text.insert_str(0, NO_FORCING));
    }
    grammar
}

/// Whether no text of a line of Lark can be long, written or repeated. What many short ones give together is bounded by the
/// parser's own work.
fn is_of_short_lexemes(line: &str) -> bool {
    let longest = line.split(['"', '/']).map(str::len).max().unwrap_or(0);
    longest.saturating_mul(repetition(line)) <= FORCED_LEXEME_BYTES_MAX
}

/// The schemas that a Lark grammar holds. Where one cannot be read the compiler will say so.
fn schemas_in(lark: &str) -> impl Iterator<Item = Value> {
    let rests = lark.split("%json").skip(1);
    rests.filter_map(|rest| {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        values.next()?.ok()
    })
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

/// Keys of a schema that become a regular expression of its numbers or its text.
const RANGES: [&str; 5] = [
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "format",
];

/// Patterns of a schema, and what may lead to one elsewhere.
fn patterns_in(schema: &Value) -> usize {
    match schema {
        Value::Array(parts) => parts.iter().map(patterns_in).sum(),
        Value::Object(fields) => {
            let here = ["pattern", "$ref"].map(|key| usize::from(fields.contains_key(key)));
            here.iter().sum::<usize>() + fields.values().map(patterns_in).sum::<usize>()
        }
        _ => 0,
    }
}

/// What a schema would cost.
#[derive(Debug, Default)]
struct Size {
    nodes: usize,
    squares: usize,
    pattern_bytes: usize,
    pattern_depth: usize,
    /// Objects that bound a number or name a format; each becomes a regular expression.
    ranges: usize,
    /// Patterns under one `allOf`, at most; a text must match them all at once.
    met: usize,
    /// Sum of what numbers are to be multiples of; each costs a state for every remainder.
    divisors: usize,
    /// Bytes of the longest text that may have to be said, repetitions written out.
    text_longest: usize,
    /// Whether a schema brings options of the compiler.
    has_own_options: bool,
}

impl Size {
    /// Counts a schema.
    fn add_schema(&mut self, schema: &Value) {
        self.has_own_options |= schema.get("x-guidance").is_some();
        self.add(schema);
    }

    fn check(&self) -> Result<(), GrammarError> {
        at_most(self.ranges, "ranges and formats", SCHEMA_RANGES_MAX)?;
        let met = "patterns under one allOf";
        at_most(self.met, met, SCHEMA_PATTERNS_MET_MAX)?;
        at_most(self.divisors, "in sum of multipleOf", SCHEMA_DIVISORS_MAX)?;
        at_most(self.nodes, "nodes", SCHEMA_NODES_MAX)?;
        at_most(self.squares, "squared fields", SCHEMA_SQUARES_MAX)?;
        // One after another they cost no less than as one.
        at_most(self.pattern_bytes, "bytes of patterns", REGEX_BYTES_MAX)?;
        at_most(self.pattern_depth, "levels in a pattern", GRAMMAR_DEPTH_MAX)
    }

    /// Whether nothing that it forces is long. With space between its parts nothing is forced beyond one of them; who has
    /// options of his own may allow none.
    fn forces_little(&self) -> bool {
        let forced_max = if self.has_own_options {
            FORCED_LEXEME_BYTES_MAX
        } else {
            FORCED_TEXT_BYTES_MAX
        };
        self.text_longest <= forced_max
    }

    /// Counts a value; the parser bounds how deep it nests.
    fn add(&mut self, value: &Value) {
        self.nodes += 1;
        match value {
            Value::String(text) => self.text_longest = self.text_longest.max(expansion(text)),
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
                let is_range = RANGES.iter().any(|key| fields.contains_key(*key));
                self.ranges += usize::from(is_range);
                let met = fields.get("allOf").map_or(0, patterns_in);
                self.met = self.met.max(met);
                if let Some(divisor @ Value::Number(_)) = fields.get("multipleOf") {
                    let sum = self
                        .divisors
                        .saturating_add(coefficient(&divisor.to_string()));
                    self.divisors = sum;
                }
                for (name, field) in fields {
                    self.text_longest = self.text_longest.max(name.len());
                    self.add(field);
                }
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

/// The digits of a decimal number that count: 25 of 0.0025 and of 2.5e3.
fn coefficient(number: &str) -> usize {
    let mantissa = number.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digits = digits.trim_matches('0');
    digits
        .parse()
        .unwrap_or(if digits.is_empty() { 0 } else { usize::MAX })
}

/// Bytes of a text if every repetition in it were written out; more than they are, never fewer.
fn expansion(text: &str) -> usize {
    text.len().saturating_mul(repetition(text))
}

/// The product of the largest numbers in its braces.
fn repetition(text: &str) -> usize {
    let in_braces = text.split('{').skip(1);
    let largest = in_braces.map(|rest| {
        let inside = rest.split('}').next().unwrap_or_default();
        let numbers = inside.split(|c: char| !c.is_ascii_digit());
        let numbers = numbers.filter(|digits| !digits.is_empty());
        let largest = numbers
            .map(|digits| digits.parse().unwrap_or(usize::MAX))
            .max();
        largest.unwrap_or(1).max(1)
    });
    largest.fold(1, usize::saturating_mul)
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
