//! `/v1/completions`: the prompts that a body holds, as text or as token ids.

use std::sync::Arc;

use bytes::Bytes;
use hansa_config::schema::Limits;

use super::error::ApiError;
use super::fault::ParamFault;
use super::fields;
use super::json::{self, Kind, Node, Object};
use super::params::{Ask, Params, boolean, count};
use super::rules::Rules;
use super::sampling;
use crate::upstream::{Body, Prompt};

/// Reads a body of this endpoint.
///
/// # Errors
/// The first thing that is wrong with it, by name.
pub(super) fn parse(bytes: &Bytes, rules: Rules<'_>) -> Result<Ask, ApiError> {
    let body = json::parse(bytes)?;
    rules.check(&body, &[fields::COMPLETIONS, fields::SHARED])?;
    let limits = rules.limits;
    let params = Params::read(&body, rules)?;
    let logprobs = sampling::completion_logprobs(&body)?;
    let best_of = best_of(&body, &params, limits)?;
    let params = Params {
        logprobs,
        echo: echo(&body, logprobs, best_of > params.n)?,
        best_of,
        ..params
    };
    let prompts = prompts(&body.require("prompt")?, limits)?;
    Ok(Ask {
        body: Body::new(bytes.clone(), body.texts()),
        params,
        prompts,
    })
}

/// Candidates are compared by what they say, so the log-probabilities of a prompt, which are those of all, stay out of it.
fn echo(body: &Object<'_, '_>, logprobs: Option<u32>, chooses: bool) -> Result<bool, ApiError> {
    let echo = boolean(body, "echo")?.unwrap_or(false);
    if echo && logprobs.is_some() && chooses {
        let with = "best_of";
        return Err(body.fault("echo", ParamFault::Conflict { with }));
    }
    Ok(echo)
}

/// Candidates of which the `n` best are shown; which these are is known only at the end.
fn best_of(body: &Object<'_, '_>, params: &Params, limits: &Limits) -> Result<u32, ApiError> {
    let n = params.n;
    let Some(best_of) = count(body, "best_of", limits.n_max)? else {
        return Ok(n);
    };
    if best_of < n {
        let expected = format!("a number of at least 'n', which is {n}");
        return Err(body.fault("best_of", ParamFault::Value { expected }));
    }
    if best_of > n && params.stream.is_some() {
        let condition = "to be more than 'n' when 'stream' is false";
        return Err(body.fault("best_of", ParamFault::OnlyWith { condition }));
    }
    Ok(best_of)
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
