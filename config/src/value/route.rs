//! Values of `[route]`: lists of names.

use toml::de::DeValue;

use super::{id, string, wrong_type};
use crate::limits;
use crate::problems::{Fault, quote};

/// Names of sites.
pub(super) fn sites(value: &DeValue<'_>) -> Result<Vec<String>, Fault> {
    list(value, limits::ALLOW_LIST_MAX, id)
}

/// Countries.
pub(super) fn countries(value: &DeValue<'_>) -> Result<Vec<String>, Fault> {
    list(value, limits::ALLOW_LIST_MAX, country)
}

/// An array of at most `max` values, each read by `one`.
fn list<T>(
    value: &DeValue<'_>,
    max: usize,
    one: impl Fn(&DeValue<'_>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let Some(items) = value.as_array() else {
        let help = "write names in quotes between brackets, as in [\"one\", \"two\"]";
        return Err(wrong_type(value, "an array", help));
    };
    if items.len() > max {
        let help = format!("at most {max} are allowed");
        return Err(Fault::new("has too many entries", help));
    }
    items.iter().map(|item| one(item.get_ref())).collect()
}

/// Two capital letters.
pub(super) fn country(value: &DeValue<'_>) -> Result<String, Fault> {
    let help = "two capital letters of ISO 3166, as in \"FI\"";
    let text = string(value, "a country in quotes", help)?;
    match text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_uppercase()) {
        true => Ok(text.to_owned()),
        false => Err(Fault::new(format!("{} is no country", quote(text)), help)),
    }
}
