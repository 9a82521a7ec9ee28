//! The filter `tojson` as Hugging Face defines it: Python's `json.dumps`, not Jinja's escaping for HTML.

use std::io::{self, Write};

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind, State};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::CappedBuffer;
use crate::limits;

/// `value | tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`
#[expect(
    clippy::needless_pass_by_value,
    reason = "the template engine hands arguments over"
)]
pub(super) fn tojson(state: &mut State, value: &Value, kwargs: Kwargs) -> Result<String, Error> {
    let options = Options::of(&kwargs)?;
    let json = if options.sort_keys {
        let mut sorted = serde_json::to_value(value).map_err(|error| failed(&error))?;
        sorted.sort_all_objects();
        options.print(&sorted)?
    } else {
        options.print(value)?
    };
    // Serialising walks the whole value: dearer than the copy of bytes that the engine charges for the result.
    state.consume_fuel(json.len() as u64 / 8)?;
    Ok(json)
}

struct Options {
    ensure_ascii: bool,
    indent: Option<usize>,
    separators: Option<(String, String)>,
    sort_keys: bool,
}

impl Options {
    fn of(kwargs: &Kwargs) -> Result<Self, Error> {
        let separators: Option<Vec<String>> = kwargs.get("separators")?;
        let options = Self {
            ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
            indent: kwargs.get("indent")?,
            separators: match separators.as_deref() {
                None => None,
                Some([item, key]) => Some((item.clone(), key.clone())),
                Some(_) => return Err(wrong("separators are a pair of strings")),
            },
            sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        };
        kwargs.assert_all_used()?;
        match options.indent {
            Some(indent) if indent > limits::TEMPLATE_INDENT_MAX => {
                Err(wrong("the indent is too wide"))
            }
            Some(_) if options.separators.is_some() => {
                Err(wrong("indent and separators exclude each other here"))
            }
            _ => Ok(options),
        }
    }

    fn print(&self, value: &impl Serialize) -> Result<String, Error> {
        let json = match (&self.separators, self.indent) {
            (Some((item, key)), _) => write(value, OneLine { item, key })?,
            (None, None) => write(
                value,
                OneLine {
                    item: ", ",
                    key: ": ",
                },
            )?,
            (None, Some(indent)) => {
                let indent = " ".repeat(indent);
                write(value, PrettyFormatter::with_indent(indent.as_bytes()))?
            }
        };
        Ok(if self.ensure_ascii {
            escape_non_ascii(&json)
        } else {
            json
        })
    }
}

/// Python's separators, which put a space where serde's compact form puts none.
struct OneLine<'a> {
    item: &'a str,
    key: &'a str,
}

impl Formatter for OneLine<'_> {
    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            out.write_all(self.item.as_bytes())
        }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.begin_array_value(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(self.key.as_bytes())
    }
}

/// Outside of its strings JSON is ASCII, so the whole text may be escaped at once.
fn escape_non_ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for char in json.chars() {
        if char.is_ascii() {
            out.push(char);
            continue;
        }
        for unit in char.encode_utf16(&mut [0; 2]) {
            out.push_str(&format!("\\u{unit:04x}"));
        }
    }
    out
}

fn write(value: &impl Serialize, formatter: impl Formatter) -> Result<String, Error> {
    let mut out = CappedBuffer::default();
    value
        .serialize(&mut Serializer::with_formatter(&mut out, formatter))
        .map_err(|error| failed(&error))?;
    String::from_utf8(out.bytes).map_err(|_| wrong("JSON is text"))
}

fn failed(error: &serde_json::Error) -> Error {
    wrong(if error.is_io() {
        "the JSON is too long"
    } else {
        "the value has no JSON form"
    })
}

fn wrong(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {message}"))
}
