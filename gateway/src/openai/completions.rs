//! `/v1/completions`: the prompts that a body holds, as text or as token ids.

use std::sync::Arc;

use hansa_config::schema::Limits;

use super::error::ApiError;
use super::fault::ParamFault;
use super::fields;
use super::json::{self, Kind, Node, Object};
use super::params::{Ask, Params, count};
use crate::upstream::Prompt;

/// Reads a body of this endpoint.
///
/// # Errors
/// The first thing that is wrong with it, by name.
pub(super) fn parse(body: &[u8], limits: &Limits) -> Result<Ask, ApiError> {
    let body = json::parse(body)?;
    fields::check(&body, &[fields::COMPLETIONS, fields::SHARED])?;
    let params = Params::read(&body, limits)?;
    check_best_of(&body, params.n, limits)?;
    let prompts = prompts(&body.require("prompt")?, limits)?;
    Ok(Ask { params, prompts })
}

/// Choosing the best of more candidates than are shown is not supported; choosing all of them is what happens anyway.
fn check_best_of(body: &Object<'_, '_>, n: u32, limits: &Limits) -> Result<(), ApiError> {
    match count(body, "best_of", limits.n_max)? {
        Some(best_of) if best_of != n => {
            let supported = format!("the value of 'n', {n},");
            Err(body.fault("best_of", ParamFault::UnsupportedValue { supported }))
        }
        _ => Ok(()),
    }
}

/// A string, an array of strings, an array of token ids, or an array of such arrays.
fn prompts(node: &Node<'_, '_>, limits: &Limits) -> Result<Vec<Prompt>, ApiError> {
    match (node.kind(), node.first_kind()) {
        (Kind::Array, Some(Kind::Integer | Kind::Decimal)) => Ok(vec![prompt(node)?]),
        (Kind::Array, _) => {
            let elements = node.array(limits.prompts_max as usize)?;
            let read = |(index, raw)| prompt(&Node::new(raw, node.at().index(index)));
            elements.into_iter().enumerate().map(read).collect()
        }
        _ => Ok(vec![prompt(node)?]),
    }
}

fn prompt(node: &Node<'_, '_>) -> Result<Prompt, ApiError> {
    match node.kind() {
        Kind::String => Ok(Prompt::Text(Arc::from(&*node.string()?))),
        Kind::Array => Ok(Prompt::Tokens(node.token_ids()?.into())),
        _ => Err(node.type_fault("a string or an array of token ids")),
    }
}
