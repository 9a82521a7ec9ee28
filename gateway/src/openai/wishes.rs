//! What a request says of its way in headers, and what it is told of it.
//!
//! Where a tenant may go is put beside the request by whoever authenticated it; headers can only ask for what is theirs to
//! choose.

use axum::extract::Request;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::error::ApiError;
use super::fault::ParamFault;
use crate::fairness::Class;
use crate::federation::headers::{CLASS, EXPERIMENTAL, PURPOSE, RESUME, Said};
use crate::route::decisions::Decisions;
use crate::route::residency::{Purpose, Rules};
use crate::upstream::Wishes;

/// Site, and node where known, that serves.
const SITE: HeaderName = HeaderName::from_static("x-hansa-site");
/// The decision in short.
const ROUTE: HeaderName = HeaderName::from_static("x-hansa-route");

/// Reads the wishes of a request.
///
/// # Errors
/// A header with a value that it cannot have: to ignore one could send the request where it must not go.
pub(super) fn read(request: &Request, said: &Said) -> Result<Wishes, ApiError> {
    let allowed = request.extensions().get::<Rules>();
    let mut rules = allowed.cloned().unwrap_or_default();
    let headers = request.headers();
    if let Some(text) = text(headers, &PURPOSE, PURPOSES)? {
        let purpose = Purpose::parse(text).ok_or_else(|| fault(&PURPOSE, PURPOSES))?;
        rules.purpose = Some(purpose);
    }
    let asked = switch(headers, &EXPERIMENTAL)?;
    rules.experimental = match allowed {
        Some(allowed) => allowed.experimental && asked.unwrap_or(true),
        None => asked.unwrap_or(false),
    };
    Ok(Wishes {
        rules: rules.within(&said.rules()),
        session: None,
        resume: switch(headers, &RESUME)?.unwrap_or(true),
        class: class(headers)?,
    })
}

fn class(headers: &HeaderMap) -> Result<Class, ApiError> {
    const EXPECTED: &str = "interactive or batch";
    match text(headers, &CLASS, EXPECTED)? {
        None | Some("interactive") => Ok(Class::Interactive),
        Some("batch") => Ok(Class::Batch),
        Some(_) => Err(fault(&CLASS, EXPECTED)),
    }
}

const PURPOSES: &str = "research, pilot, evaluation or production";

/// Tells the client where its request went.
pub(super) fn tell(decisions: &Decisions, id: &str, headers: &mut HeaderMap) {
    // The prompts of one request may go to different places; the first one stands for all.
    let first_prompt = || decisions.serving(&format!("{id}/0"));
    let Some(decision) = decisions.serving(id).or_else(first_prompt) else {
        return;
    };
    let site = decision.place().and_then(|s| HeaderValue::try_from(s).ok());
    if let Some(site) = site {
        headers.insert(SITE, site);
    }
    if let Ok(route) = HeaderValue::try_from(decision.to_string()) {
        headers.insert(ROUTE, route);
    }
}

fn switch(headers: &HeaderMap, name: &HeaderName) -> Result<Option<bool>, ApiError> {
    const EXPECTED: &str = "on or off";
    match text(headers, name, EXPECTED)? {
        None => Ok(None),
        Some("on") => Ok(Some(true)),
        Some("off") => Ok(Some(false)),
        Some(_) => Err(fault(name, EXPECTED)),
    }
}

fn text<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
    expected: &str,
) -> Result<Option<&'h str>, ApiError> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let text = value.to_str().map_err(|_| fault(name, expected))?;
    Ok(Some(text))
}

fn fault(name: &HeaderName, expected: &str) -> ApiError {
    let expected = expected.to_owned();
    ApiError::param(name, ParamFault::Value { expected })
}
