//! `[[form]]` of a scenario: what form answers must have, with weights.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::read::Section;
use crate::limits::MAX_SCENARIO_BYTES;
use crate::workload::form::{Form, SCHEMA, TOOLS};
use crate::workload::mix::Mix;

/// Kinds of forms, as they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Text,
    Json,
    Schema,
    Tools,
}

/// All forms; files are looked for in `folder`.
pub(super) fn forms(root: &Section<'_, '_>, folder: &Path) -> Mix<Arc<Form>> {
    let mut forms = Vec::new();
    for section in root.sections("form") {
        let weight = section.number("weight", 1e-9..=1e9).unwrap_or(1.0);
        forms.extend(form(&section, folder).map(|form| (Arc::new(form), weight)));
        section.finish();
    }
    Mix::of(forms)
}

fn form(section: &Section<'_, '_>, folder: &Path) -> Option<Form> {
    let kind = section.choice::<Kind>("kind");
    let (name, file, choice) = (
        section.text("name"),
        section.text("file"),
        section.text("choice"),
    );
    if !section.peek("kind") {
        section.fault("needs a kind: text, json, schema or tools");
    }
    let kind = kind?;
    if choice.is_some() && kind != Kind::Tools {
        section.fault_of("choice", "needs kind = \"tools\"");
    }
    if file.is_some() && !matches!(kind, Kind::Schema | Kind::Tools) {
        section.fault_of("file", "needs kind = \"schema\" or \"tools\"");
    }
    let name: Arc<str> = name
        .unwrap_or_else(|| format!("{kind:?}").to_lowercase())
        .into();
    let given = match file {
        Some(file) => Some(
            json(&folder.join(file))
                .map_err(|what| section.fault_of("file", what))
                .ok()?,
        ),
        None => None,
    };
    Some(match kind {
        Kind::Text => Form::text(name),
        Kind::Json => Form::json(name),
        Kind::Schema => sound(
            section,
            Form::schema(name, &given.or_else(|| built_in(SCHEMA))?),
        )?,
        Kind::Tools => {
            let tools = given.or_else(|| built_in(TOOLS))?;
            if !tools.is_array() {
                section.fault_of("file", "holds no list of tools");
            }
            let choice = choice.as_deref().unwrap_or("auto");
            sound(section, Form::tools(name, &tools, choice))?
        }
    })
}

/// The form, where its schemas are some.
fn sound(section: &Section<'_, '_>, form: Result<Form, String>) -> Option<Form> {
    form.map_err(|what| section.fault_of("file", what)).ok()
}

fn built_in(text: &str) -> Option<serde_json::Value> {
    serde_json::from_str(text).ok()
}

fn json(path: &Path) -> Result<serde_json::Value, String> {
    let unreadable = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    if fs::metadata(path).map_err(unreadable)?.len() > MAX_SCENARIO_BYTES {
        return Err(format!(
            "{} has more than {MAX_SCENARIO_BYTES} bytes",
            path.display()
        ));
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    serde_json::from_str(&text).map_err(|error| format!("{} is no JSON: {error}", path.display()))
}
