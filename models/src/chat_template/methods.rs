//! Python's methods on strings, lists and maps, as templates call them.
//!
//! minijinja-contrib brings them, but three of them make a large string out of a small one without asking the fuel gauge;
//! those are fenced here. Nothing else is.

use minijinja::value::{Value, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat;

use crate::limits;

/// Calls `value.method(args)` where minijinja itself knows no such method.
pub(super) fn call(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match (value.as_str(), method) {
        (Some(separator), "join") => join(state, separator, args),
        (Some(text), "replace") => {
            ensure_replacement_fits(text, args)?;
            pycompat::unknown_method_callback(state, value, method, args)
        }
        (Some(text), "format") => {
            ensure_no_wide_field(text)?;
            pycompat::unknown_method_callback(state, value, method, args)
        }
        _ => pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// The filter of the same name does the same and pays for what it builds.
fn join(state: &mut State, separator: &str, args: &[Value]) -> Result<Value, Error> {
    let (values,): (&Value,) = from_args(args)?;
    state.apply_filter("join", &[values.clone(), Value::from(separator)])
}

fn ensure_replacement_fits(text: &str, args: &[Value]) -> Result<(), Error> {
    let (old, new, _count): (&str, &str, Option<i32>) = from_args(args)?;
    let growth = text.matches(old).count().saturating_mul(new.len());
    if text.len().saturating_add(growth) > limits::CHAT_PROMPT_BYTES_MAX {
        return Err(too_long());
    }
    Ok(())
}

/// A width or precision of five digits and more pads without end.
fn ensure_no_wide_field(format: &str) -> Result<(), Error> {
    let mut digits_in_a_row = 0;
    for byte in format.bytes() {
        digits_in_a_row = if byte.is_ascii_digit() {
            digits_in_a_row + 1
        } else {
            0
        };
        if digits_in_a_row >= 5 {
            return Err(too_long());
        }
    }
    Ok(())
}

fn too_long() -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        "it makes a string that is too long",
    )
}
