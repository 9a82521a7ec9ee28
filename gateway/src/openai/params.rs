//! The parameters that chat and plain completions share: how much, how drawn, when to stop, how to answer.
//!
//! What comes out is checked against the limits and ready to use; nothing later needs to look at the JSON.

use std::sync::Arc;

use hansa_config::schema::Limits;

use super::error::ApiError;
use super::fault::ParamFault;
use super::fields;
use super::json::{Kind, Node, Object};
use super::rules::{Extension, Rules};
use super::sampling;
use super::structure;
use crate::limits;
use crate::upstream::tools::Tools;
use crate::upstream::{Body, Prompt, Sampling, Structure};

/// A request as far as its body tells.
#[derive(Debug)]
pub(super) struct Ask {
    /// It itself, and where its fields stand.
    pub(super) body: Body,
    pub(super) params: Params,
    /// At least one; each is continued on its own.
    pub(super) prompts: Vec<Prompt>,
}

/// What both endpoints share.
#[derive(Debug)]
pub(super) struct Params {
    pub(super) model: Arc<str>,
    pub(super) n: u32,
    pub(super) max_tokens: Option<u32>,
    pub(super) sampling: Sampling,
    pub(super) stop: Vec<String>,
    pub(super) stop_token_ids: Vec<u32>,
    pub(super) min_tokens: u32,
    /// Whether tokens come with their log-probability, and those of so many best ones.
    pub(super) logprobs: Option<u32>,
    /// Whether each choice begins with the prompt.
    pub(super) echo: bool,
    /// Choices to make; `n` of them, the most likely ones, are shown.
    pub(super) best_of: u32,
    /// What each choice must look like.
    pub(super) structure: Option<Structure>,
    /// Functions that may be called.
    pub(super) tools: Option<Arc<Tools>>,
    pub(super) seed: Option<u64>,
    /// What a peer says beside.
    pub(super) extension: Extension,
    /// Requests of one name share a beginning, and are best served by the same upstream.
    pub(super) session: Option<Arc<str>>,
    /// `None` for one answer in one piece.
    pub(super) stream: Option<StreamOptions>,
}

/// How a stream is to be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct StreamOptions {
    /// Whether a last chunk tells the usage.
    pub(super) include_usage: bool,
}

impl Params {
    /// Reads the shared parameters of a body whose fields were checked.
    pub(super) fn read(body: &Object<'_, '_>, rules: Rules<'_>) -> Result<Self, ApiError> {
        let limits = rules.limits;
        let n = count(body, "n", limits.n_max)?.unwrap_or(1);
        Ok(Self {
            model: Arc::from(&*body.require("model")?.string()?),
            n,
            max_tokens: max_tokens(body)?,
            sampling: sampling::read(body)?,
            stop: stop(body, limits)?,
            stop_token_ids: stop_token_ids(body)?,
            min_tokens: min_tokens(body)?,
            // The endpoints have each their own way to ask for these.
            logprobs: None,
            echo: false,
            best_of: n,
            structure: structure::read(body)?,
            tools: None,
            seed: seed(body)?,
            extension: rules.extension(body)?,
            session: None,
            stream: stream(body)?,
        })
    }
}

impl Params {
    /// Whether the answer is wanted in one piece and is so short that it may be asked for so, where a choice has `default`
    /// tokens unless the client says otherwise. What is told of single tokens comes in streams.
    pub(super) fn whole(&self, default: Option<u32>) -> bool {
        let tokens = self.max_tokens.or(default).unwrap_or(u32::MAX);
        self.stream.is_none()
            && self.logprobs_needed().is_none()
            && !self.echo
            && !self.extension.want_token_ids
            && tokens.saturating_mul(self.best_of) <= limits::WHOLE_TOKENS_MAX
    }

    /// The log-probabilities that the upstream must give: candidates are compared by theirs, shown or not.
    pub(super) fn logprobs_needed(&self) -> Option<u32> {
        self.logprobs.or((self.best_of > self.n).then_some(0))
    }
}

/// An integer from 1 to `max`.
pub(super) fn count(body: &Object<'_, '_>, name: &str, max: u32) -> Result<Option<u32>, ApiError> {
    let Some(node) = body.get(name) else {
        return Ok(None);
    };
    let number = node.integer(1..=i128::from(max))?;
    Ok(Some(u32::try_from(number).unwrap_or(max)))
}

/// `max_completion_tokens` supersedes `max_tokens`; as at OpenAI, two that differ are a contradiction.
fn max_tokens(body: &Object<'_, '_>) -> Result<Option<u32>, ApiError> {
    let old = match body.get("max_tokens") {
        Some(node) if weighs_prompt(body)? => {
            u32::try_from(node.integer(0..=i128::from(u32::MAX))?).ok()
        }
        _ => count(body, "max_tokens", u32::MAX)?,
    };
    let new = count(body, "max_completion_tokens", u32::MAX)?;
    match (new, old) {
        (Some(new), Some(old)) if new != old => {
            let with = "max_completion_tokens";
            Err(body.fault("max_tokens", ParamFault::Conflict { with }))
        }
        _ => Ok(new.or(old)),
    }
}

/// Whether the answer tells how likely the prompt was, which is something even where nothing comes after it.
fn weighs_prompt(body: &Object<'_, '_>) -> Result<bool, ApiError> {
    let echo = boolean(body, "echo")?.unwrap_or(false);
    Ok(echo && body.get("logprobs").is_some())
}

/// Any 64 bits; a negative number stands for its two's complement.
fn seed(body: &Object<'_, '_>) -> Result<Option<u64>, ApiError> {
    let Some(node) = body.get("seed") else {
        return Ok(None);
    };
    let seed = node.integer(i128::from(i64::MIN)..=i128::from(u64::MAX))?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range allows 64 bits, and wrapping is what is wanted"
    )]
    Ok(Some(seed as u64))
}

/// At most `max_tokens`, which the engine checks where the client leaves that one open.
fn min_tokens(body: &Object<'_, '_>) -> Result<u32, ApiError> {
    let Some(node) = body.get("min_tokens") else {
        return Ok(0);
    };
    let max = max_tokens(body)?.unwrap_or(u32::MAX);
    let number = node.integer(0..=i128::from(max))?;
    Ok(u32::try_from(number).unwrap_or(max))
}

fn stop_token_ids(body: &Object<'_, '_>) -> Result<Vec<u32>, ApiError> {
    match body.get("stop_token_ids") {
        Some(node) if node.kind() != Kind::Array || node.first_kind().is_some() => {
            let ids = node.token_ids()?;
            let max = limits::STOP_TOKENS_MAX;
            if ids.len() > max {
                return Err(node.fault(ParamFault::TooMany { max }));
            }
            Ok(ids)
        }
        _ => Ok(Vec::new()),
    }
}

fn stop(body: &Object<'_, '_>, limits: &Limits) -> Result<Vec<String>, ApiError> {
    let Some(node) = body.get("stop") else {
        return Ok(Vec::new());
    };
    match node.kind() {
        Kind::String => Ok(vec![stop_string(&node, limits)?]),
        // As good as none.
        Kind::Array if node.first_kind().is_none() => Ok(Vec::new()),
        Kind::Array => {
            let elements = node.array(limits.stop_strings_max as usize)?;
            let read = |(index, raw): (usize, &_)| {
                stop_string(&Node::new(raw, node.at().index(index)), limits)
            };
            elements.into_iter().enumerate().map(read).collect()
        }
        _ => Err(node.type_fault("a string or an array of strings")),
    }
}

fn stop_string(node: &Node<'_, '_>, limits: &Limits) -> Result<String, ApiError> {
    let text = node.string()?;
    let max_bytes = limits.stop_bytes_max as usize;
    match text.len() {
        0 => Err(node.value_fault("a string that is not empty".to_owned())),
        length if length > max_bytes => Err(node.fault(ParamFault::TooLong { max_bytes })),
        _ => Ok(text.into_owned()),
    }
}

fn stream(body: &Object<'_, '_>) -> Result<Option<StreamOptions>, ApiError> {
    let wanted = boolean(body, "stream")?.unwrap_or(false);
    let Some(node) = body.get("stream_options") else {
        return Ok(wanted.then(StreamOptions::default));
    };
    let options = node.object()?;
    fields::check(&options, &[fields::STREAM_OPTIONS])?;
    let include_usage = boolean(&options, "include_usage")?.unwrap_or(false);
    if wanted {
        Ok(Some(StreamOptions { include_usage }))
    } else {
        let condition = "when 'stream' is true";
        Err(node.fault(ParamFault::OnlyWith { condition }))
    }
}

pub(super) fn boolean(object: &Object<'_, '_>, name: &str) -> Result<Option<bool>, ApiError> {
    object.get(name).map(|node| node.boolean()).transpose()
}
