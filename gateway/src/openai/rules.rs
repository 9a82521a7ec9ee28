//! What a body may say beyond what everyone may: a peer's extensions, and fields that a foreign engine alone knows.

use std::collections::HashMap;

use hansa_config::Config;
use hansa_config::schema::{Limits, Upstream};
use serde::Deserialize;

use super::error::ApiError;
use super::fields::{self, Field};
use super::json::{Node, Object};
use crate::limits;

/// By what a body is judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) limits: &'a Limits,
    pub(super) passed: &'a Passed,
    /// Whether a peer sent it.
    pub(super) peer: bool,
}

/// The field in which servers of ours tell each other what the client's body does not say.
const EXTENSION: &str = "hansa";

impl Rules<'_> {
    /// Holds every field of the whole body against the tables, as [`fields::check`] does.
    ///
    /// # Errors
    /// The first field that is unknown, not supported, or has a value that is not.
    pub(super) fn check(&self, body: &Object<'_, '_>, tables: &[&[Field]]) -> Result<(), ApiError> {
        let model = body.get("model").and_then(|node| node.string().ok());
        let passed = model.and_then(|model| self.passed.0.get(&*model));
        fields::check_but(body, tables, |name| {
            let passed = passed.is_some_and(|names| names.iter().any(|passed| passed == name));
            passed || (self.peer && name == EXTENSION)
        })
    }

    /// What a peer says in the body.
    ///
    /// # Errors
    /// An extension that makes no sense: the servers do not fit together.
    pub(super) fn extension(&self, body: &Object<'_, '_>) -> Result<Extension, ApiError> {
        match body.get(EXTENSION).filter(|_| self.peer) {
            Some(node) => Extension::read(&node),
            None => Ok(Extension::default()),
        }
    }
}

/// What the server before this one has fixed already.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Extension {
    pub(super) seed: Option<u64>,
    /// Seconds since the epoch.
    pub(super) template_time: Option<i64>,
    pub(super) resume_token_ids: Vec<Vec<u32>>,
    pub(super) want_token_ids: bool,
    /// Tokens that were reserved for a choice where the client names no number.
    pub(super) default_max_tokens: Option<u32>,
}

impl Extension {
    fn read(node: &Node<'_, '_>) -> Result<Self, ApiError> {
        let wanted = || node.value_fault("what a server of the same version sends".to_owned());
        let extension: Self = serde_json::from_str(node.text()).map_err(|_| wanted())?;
        let long = |ids: &Vec<u32>| ids.len() > limits::RESUME_TOKENS_MAX;
        match extension.resume_token_ids.iter().any(long) {
            true => Err(wanted()),
            false => Ok(extension),
        }
    }
}

/// For each model, the fields that its upstreams know and we do not.
#[derive(Debug, Clone, Default)]
pub struct Passed(HashMap<String, Vec<String>>);

impl Passed {
    /// As the nodes of `config` list them.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let mut passed: HashMap<String, Vec<String>> = HashMap::new();
        let listing = |node: &&Upstream| !node.pass_fields.is_empty();
        for node in config.nodes.iter().filter(listing) {
            for model in &node.models {
                let names = passed.entry(model.ours.clone()).or_default();
                names.extend(node.pass_fields.iter().cloned());
            }
        }
        Self(passed)
    }
}
