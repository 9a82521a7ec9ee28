//! The config that shows everything: every key with its meaning, bounds and default.

use super::{Fact, Form, facts};
use crate::keys::{self, Section};
use crate::schema::Choice;
use crate::units::show_size;

const HEAD: &str = "\
#:schema ../schema.json

# Every key of Hansa's config with its default: a server with this file is the server without any.
# A key that is commented out has no value by default. Unknown keys are refused, so a typing error
# cannot hide. `hansa check --config FILE` tells what is wrong with a file, or what it makes.
";

/// Characters of a line.
const WIDTH: usize = 100;

/// The text of `examples/reference.toml`.
pub fn reference() -> String {
    let sections = keys::sections().map(section_text);
    std::iter::once(HEAD.to_owned()).chain(sections).collect()
}

fn section_text(section: &Section) -> String {
    let only = section
        .only
        .map(|runner| format!("Only with runner = {:?}.", runner.name()));
    let doc = comment(section.doc) + &only.map(|text| comment(&text)).unwrap_or_default();
    let left_out = section.only.is_some() || section.optional;
    let mark = if left_out { "# " } else { "" };
    let header = match section.many {
        true => format!("[[{}]]", section.path),
        false => format!("[{}]", section.path),
    };
    let keys: String = facts(section.path)
        .iter()
        .map(|fact| key_text(fact, mark))
        .collect();
    format!("\n\n{doc}{mark}{header}\n{keys}")
}

fn key_text(fact: &Fact, mark: &str) -> String {
    let comments = comment(fact.doc) + &comment(&fact.allowed());
    let name = fact.name;
    match (default(&fact.form), fact.example) {
        (Some(value), _) => format!("\n{comments}{mark}{name} = {value}\n"),
        // Leaving it out is the empty list.
        (None, None) if matches!(fact.form, Form::List(..)) => {
            format!("\n{comments}{mark}{name} = []\n")
        }
        (None, example) => format!("\n{comments}# {name} = {}\n", example.unwrap_or_default()),
    }
}

/// The default as TOML.
fn default(form: &Form) -> Option<String> {
    match form {
        Form::Whole(_, default) => default.map(|number| number.to_string()),
        Form::Size(_, default) => default.map(|bytes| format!("{:?}", show_size(bytes))),
        Form::Text(_, _, default) => default.as_ref().map(|text| format!("{text:?}")),
        Form::Word(_, default) => Some(format!("{default:?}")),
        Form::Flag(default) => Some(default.to_string()),
        Form::List(..) | Form::Date => None,
    }
}

/// `text` as comment lines of at most `WIDTH` characters.
fn comment(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= WIDTH => *line += &format!(" {word}"),
            _ => lines.push(format!("# {word}")),
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}
