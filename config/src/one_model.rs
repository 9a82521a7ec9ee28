//! One `[[model]]` section written as JSON, for models that are loaded while a server runs: the same keys, bounds and
//! messages as in the file.

use std::path::Path;

use serde_json::{Map, Value};

use crate::problems::{Fault, Problems};
use crate::schema::{Config, Model};

/// What messages call the text.
const NAME: &str = "model";

/// The model that a JSON object describes, by the keys of a `[[model]]` section.
///
/// # Errors
/// Every problem at once. Their paths begin at the section (`sim.context_tokens`); places in the text are not known.
pub fn model_from_json(section: Map<String, Value>) -> Result<Model, Problems> {
    // JSON's values are TOML's but for null and for integers beyond 64 bits with sign.
    let mut document = Map::new();
    document.insert(
        "model".to_owned(),
        Value::Array(vec![Value::Object(section)]),
    );
    let text = toml::to_string(&document).map_err(|error| {
        let help = "leave keys without a value out, and write numbers of at most 63 bits";
        Problems::of_file(Path::new(NAME), Fault::new(error.to_string(), help))
    })?;
    let mut config = Config::parse(&text, Path::new(NAME)).map_err(below_the_section)?;
    match config.models.pop() {
        Some(model) => Ok(model),
        None => Err(Problems::of_file(
            Path::new(NAME),
            Fault::new("is empty", "name at least its id"),
        )),
    }
}

/// Paths from the section on, and no lines: those are of a text that nobody wrote.
fn below_the_section(problems: Problems) -> Problems {
    problems.each(|mut problem| {
        let path = problem
            .path
            .strip_prefix("model[0]")
            .unwrap_or(&problem.path);
        problem.path = path.trim_start_matches('.').to_owned();
        (problem.line, problem.column) = (0, 0);
        problem
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::Runner;

    fn read(section: Value) -> Result<Model, Problems> {
        match section {
            Value::Object(section) => model_from_json(section),
            _ => panic!("an object"),
        }
    }

    #[test]
    fn keys_are_those_of_the_file() {
        let model = read(json!({
            "id": "m", "runner": "sim", "kv_bytes_max": "64MiB", "queue_max": 3,
            "sim": { "context_tokens": 100 },
        }));
        let model = model.unwrap();
        assert_eq!((model.id.as_str(), model.runner), ("m", Runner::Sim));
        assert_eq!((model.kv_bytes_max, model.queue_max), (Some(64 << 20), 3));
        assert_eq!(model.sim.context_tokens, 100);
        let model = read(json!({ "id": "all-minilm-l6-v2" })).unwrap();
        assert_eq!(model.source, "all-minilm-l6-v2");
    }

    #[test]
    fn all_problems_are_told_at_once_with_paths_and_without_lines() {
        let section = json!({
            "runner": "sim", "device": "cpu", "kv_typ": "f16", "queue_max": "many",
            "sim": { "context_tokens": 0 },
        });
        let problems = read(section).unwrap_err();
        let paths: Vec<&str> = problems.list().iter().map(|p| p.path.as_str()).collect();
        for path in ["device", "kv_typ", "queue_max", "sim.context_tokens", "id"] {
            assert!(paths.contains(&path), "{path} in {paths:?}");
        }
        assert!(
            problems
                .list()
                .iter()
                .all(|p| p.line == 0 && !p.help.is_empty())
        );
    }

    #[test]
    fn what_toml_cannot_say_is_refused() {
        assert!(read(json!({ "id": "m", "threads": null })).is_err());
        assert!(read(json!({ "id": "m", "queue_max": u64::MAX })).is_err());
        assert!(read(json!({})).is_err());
    }
}
