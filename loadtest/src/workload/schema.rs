//! A JSON schema that answers are held against. It reads nothing but what it is given: one that refers to a document
//! elsewhere is refused, since a load must be the same wherever it runs.

use std::error::Error;
use std::fmt;

use boon::{Compiler, SchemaIndex, Schemas, UrlLoader};
use serde_json::Value;

/// Where the schema stands for its own references; nothing is ever fetched.
const PLACE: &str = "http://localhost/schema.json";

/// A compiled schema.
pub struct Schema {
    schemas: Schemas,
    root: SchemaIndex,
}

/// Refuses every other document.
struct Nothing;

impl UrlLoader for Nothing {
    fn load(&self, url: &str) -> Result<Value, Box<dyn Error>> {
        Err(format!("{url} is another document, and none is fetched").into())
    }
}

impl Schema {
    /// Compiles a schema of drafts 4 to 2020-12; the newest, where it names none.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn of(schema: &Value) -> Result<Self, String> {
        let mut schemas = Schemas::new();
        let mut compiler = Compiler::new();
        compiler.use_loader(Box::new(Nothing));
        let added = compiler.add_resource(PLACE, schema.clone());
        added.map_err(|error| wrong(&error))?;
        let root = compiler.compile(PLACE, &mut schemas);
        let root = root.map_err(|error| wrong(&error))?;
        Ok(Self { schemas, root })
    }

    /// Whether a value keeps it.
    pub fn is_kept_by(&self, value: &Value) -> bool {
        self.schemas.validate(value, self.root).is_ok()
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema").finish_non_exhaustive()
    }
}

/// The error and its causes in one line, where the library writes several.
fn wrong(error: &dyn Error) -> String {
    let text = format!("{error:#}").replace(PLACE, "");
    let words: Vec<&str> = text.split_whitespace().collect();
    format!("is no JSON schema: {}", words.join(" "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_held_against_all_of_a_schema() {
        let schema: Value = serde_json::from_str(crate::workload::form::SCHEMA).unwrap();
        let schema = Schema::of(&schema).unwrap();
        let good = json!({"city": "Riga", "founded": 1201, "trade": "fur"});
        assert!(schema.is_kept_by(&good));
        for bad in [
            json!({"city": "Riga", "founded": 1201}),
            json!({"city": "Riga", "founded": 1201.5, "trade": "fur"}),
            json!({"city": "Riga", "founded": 1201, "trade": "silk"}),
            json!({"city": "Riga", "founded": 1201, "trade": "fur", "more": 1}),
            json!({"city": "R".repeat(25), "founded": 1201, "trade": "fur"}),
            json!([good]),
        ] {
            assert!(!schema.is_kept_by(&bad), "{bad}");
        }
    }

    #[test]
    fn references_within_are_followed_and_others_refused() {
        let node = json!({"$defs": {"node": {"type": "object", "required": ["v"], "properties": {
            "v": {"type": "integer"}, "next": {"$ref": "#/$defs/node"}}}}, "$ref": "#/$defs/node"});
        let schema = Schema::of(&node).unwrap();
        assert!(schema.is_kept_by(&json!({"v": 1, "next": {"v": 2}})));
        assert!(!schema.is_kept_by(&json!({"v": 1, "next": {"v": "2"}})));
        let elsewhere = json!({"$ref": "http://example.com/other.json"});
        let error = Schema::of(&elsewhere).unwrap_err();
        assert!(error.contains("none is fetched"), "{error}");
        let error = Schema::of(&json!({"type": "wrong"})).unwrap_err();
        assert!(error.starts_with("is no JSON schema: "), "{error}");
    }
}
