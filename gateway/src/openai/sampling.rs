//! How tokens are drawn, as a body says it: OpenAI's fields, and those that vLLM's clients add.

use super::error::ApiError;
use super::fault::ParamFault;
use super::json::Object;
use super::params::boolean;
use crate::limits;
use crate::upstream::Sampling;

/// Reads the fields that say how tokens are drawn.
pub(super) fn read(body: &Object<'_, '_>) -> Result<Sampling, ApiError> {
    let neutral = Sampling::default();
    let penalty = limits::PENALTY_ABS_MAX;
    let penalties = (-penalty, penalty);
    let repetition = (
        limits::REPETITION_PENALTY_MAX.recip(),
        limits::REPETITION_PENALTY_MAX,
    );
    Ok(Sampling {
        temperature: decimal(body, "temperature", (0.0, 2.0))?.unwrap_or(neutral.temperature),
        top_p: top_p(body)?.unwrap_or(neutral.top_p),
        top_k: top_k(body)?.unwrap_or(neutral.top_k),
        min_p: decimal(body, "min_p", (0.0, 1.0))?.unwrap_or(neutral.min_p),
        repetition_penalty: decimal(body, "repetition_penalty", repetition)?
            .unwrap_or(neutral.repetition_penalty),
        frequency_penalty: decimal(body, "frequency_penalty", penalties)?
            .unwrap_or(neutral.frequency_penalty),
        presence_penalty: decimal(body, "presence_penalty", penalties)?
            .unwrap_or(neutral.presence_penalty),
        logit_bias: logit_bias(body)?.into(),
        ignore_eos: boolean(body, "ignore_eos")?.unwrap_or(neutral.ignore_eos),
    })
}

/// `logprobs` and `top_logprobs` of a chat: log-probabilities of so many best tokens beside each, if of any.
pub(super) fn chat_logprobs(body: &Object<'_, '_>) -> Result<Option<u32>, ApiError> {
    let wanted = boolean(body, "logprobs")?.unwrap_or(false);
    match top(body, "top_logprobs")? {
        Some(top) if top > 0 && !wanted => {
            let condition = "when 'logprobs' is true";
            Err(body.fault("top_logprobs", ParamFault::OnlyWith { condition }))
        }
        top => Ok(wanted.then(|| top.unwrap_or(0))),
    }
}

/// `logprobs` of a completion, a number there.
pub(super) fn completion_logprobs(body: &Object<'_, '_>) -> Result<Option<u32>, ApiError> {
    top(body, "logprobs")
}

fn top(body: &Object<'_, '_>, name: &str) -> Result<Option<u32>, ApiError> {
    let Some(node) = body.get(name) else {
        return Ok(None);
    };
    let top = node.integer(0..=i128::from(limits::TOP_LOGPROBS_MAX))?;
    Ok(u32::try_from(top).ok())
}

/// Above 0: an empty set of tokens has nothing to draw from.
fn top_p(body: &Object<'_, '_>) -> Result<Option<f32>, ApiError> {
    match decimal(body, "top_p", (0.0, 1.0))? {
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

/// Token ids as an object's keys, each with what is added to its logit. Whether a model has the token, only the model
/// knows.
fn logit_bias(body: &Object<'_, '_>) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(node) = body.get("logit_bias") else {
        return Ok(Vec::new());
    };
    let entries = node.object_of(limits::LOGIT_BIAS_MAX)?;
    let max = limits::LOGIT_BIAS_ABS_MAX;
    let read = |(name, node): (&str, super::json::Node<'_, '_>)| {
        // "+5" and "05" would be numbers too, and two names of one token contradict each other.
        let canonical = |id: &u32| id.to_string() == name;
        let id = name.parse().ok().filter(canonical);
        let fault = || node.value_fault("a token id as the key".to_owned());
        Ok((id.ok_or_else(fault)?, node.decimal(-max..=max)?))
    };
    entries.nodes().map(read).collect()
}

fn decimal(
    object: &Object<'_, '_>,
    name: &str,
    (min, max): (f32, f32),
) -> Result<Option<f32>, ApiError> {
    object
        .get(name)
        .map(|node| node.decimal(min..=max))
        .transpose()
}
