//! Values of `[route]`: lists of names.

use toml::de::DeValue;

use super::remote::list;
use super::{id, string};
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

/// Two capital letters.
pub(super) fn country(value: &DeValue<'_>) -> Result<String, Fault> {
    let help = "two capital letters of ISO 3166, as in \"FI\"";
    let text = string(value, "a country in quotes", help)?;
    match text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_uppercase()) {
        true => Ok(text.to_owned()),
        false => Err(Fault::new(format!("{} is no country", quote(text)), help)),
    }
}
