//! The parameters that chat and plain completions share: how much, how drawn, when to stop, how to answer.
//!
//! What comes out is checked against the limits and ready to use; nothing later needs to look at the JSON.

use std::sync::Arc;

use hansa_config::schema::Limits;

use super::error::ApiError;
use super::fault::ParamFault;
use super::fields;
use super::json::{Kind, Node, Object};
use crate::upstream::{Prompt, Sampling};

/// A request as far as its body tells.
#[derive(Debug)]
pub(super) struct Ask {
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
    pub(super) seed: Option<u64>,
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
    pub(super) fn read(body: &Object<'_, '_>, limits: &Limits) -> Result<Self, ApiError> {
        Ok(Self {
            model: Arc::from(&*body.require("model")?.string()?),
            n: count(body, "n", limits.n_max)?.unwrap_or(1),
            max_tokens: max_tokens(body)?,
            sampling: sampling(body)?,
            stop: stop(body, limits)?,
            seed: seed(body)?,
            stream: stream(body)?,
        })
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
    let old = count(body, "max_tokens", u32::MAX)?;
    let new = count(body, "max_completion_tokens", u32::MAX)?;
    match (new, old) {
        (Some(new), Some(old)) if new != old => {
            let with = "max_completion_tokens";
            Err(body.fault("max_tokens", ParamFault::Conflict { with }))
        }
        _ => Ok(new.or(old)),
    }
}

fn sampling(body: &Object<'_, '_>) -> Result<Sampling, ApiError> {
    let neutral = Sampling::default();
    Ok(Sampling {
        temperature: decimal(body, "temperature", 2.0)?.unwrap_or(neutral.temperature),
        top_p: top_p(body)?.unwrap_or(neutral.top_p),
        top_k: top_k(body)?.unwrap_or(neutral.top_k),
        min_p: decimal(body, "min_p", 1.0)?.unwrap_or(neutral.min_p),
        ignore_eos: boolean(body, "ignore_eos")?.unwrap_or(neutral.ignore_eos),
    })
}

/// Above 0: an empty set of tokens has nothing to draw from.
fn top_p(body: &Object<'_, '_>) -> Result<Option<f32>, ApiError> {
    match decimal(body, "top_p", 1.0)? {
        Some(0.0) => {
            let expected = "a number above 0, up to 1".to_owned();
            Err(body.fault("top_p", ParamFault::Value { expected }))
        }
        top_p => Ok(top_p),
    }
}

/// 0 is off, and so is -1, which vLLM's clients send.
fn top_k(body: &Object<'_, '_>) -> Result<Option<u32>, ApiError> {
    let Some(node) = body.get("top_k") else {
        return Ok(None);
    };
    let top_k = node.integer(-1..=i128::from(u32::MAX))?;
    Ok(Some(u32::try_from(top_k).unwrap_or(0)))
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

fn boolean(object: &Object<'_, '_>, name: &str) -> Result<Option<bool>, ApiError> {
    object.get(name).map(|node| node.boolean()).transpose()
}

/// A number from 0 to `max`.
fn decimal(object: &Object<'_, '_>, name: &str, max: f32) -> Result<Option<f32>, ApiError> {
    object
        .get(name)
        .map(|node| node.decimal(0.0..=max))
        .transpose()
}
