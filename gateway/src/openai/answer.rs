//! An answer in one piece: collected from the events, then written as `chat.completion` or `text_completion`.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use http::{HeaderMap, HeaderValue, header};
use serde::Serialize;

use super::error::ApiError;
use super::logprobs::Logprobs;
use super::run::Run;
use crate::upstream::tools::CallHead;
use crate::upstream::{self, Endpoint, Event, FinishReason, TokenLogprob};

/// What all parts of an answer repeat.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) endpoint: Endpoint,
    /// `chatcmpl-...` or `cmpl-...`
    pub(super) id: String,
    pub(super) created_s: i64,
    /// As the client named it.
    pub(super) model: Arc<str>,
    /// Choices shown for each prompt.
    pub(super) n: u32,
    /// Choices made for each prompt.
    pub(super) best_of: u32,
    /// Whether choices show log-probabilities.
    pub(super) logprobs: bool,
    /// Whether the ids of tokens are told, to a peer.
    pub(super) token_ids: bool,
    /// Whether a peer reads it.
    pub(super) peer: bool,
}

/// Collects the whole answer. A client that goes away drops this future, and with it the run.
///
/// # Errors
/// Any error of the run: half an answer is none.
pub(super) async fn respond(mut run: Run, head: &Head) -> Result<Response, ApiError> {
    let mut choices: Vec<Collected> = Vec::new();
    while let Some(event) = run.next().await {
        match event? {
            Event::Delta {
                choice,
                text,
                logprobs,
                ..
            } => {
                let collected = at(&mut choices, choice);
                collected.text.push_str(&text);
                collected.logprobs.extend(logprobs);
            }
            Event::ToolCall {
                choice,
                index,
                head,
                arguments,
            } => at(&mut choices, choice).call(index, head, &arguments),
            Event::ToolSyntax(_) => {}
            Event::Finished { choice, reason } => at(&mut choices, choice).reason = Some(reason),
            Event::Done(usage) => {
                let shown = best(choices, head);
                let mut response = json(&body(head, &shown, usage.into()));
                tell_energy(&usage, response.headers_mut());
                return Ok(response);
            }
        }
    }
    Err(ApiError::internal())
}

/// Tells what the request took beside the answer, for those who look at no body.
fn tell_energy(usage: &upstream::Usage, headers: &mut HeaderMap) {
    let said = UsageExtension::of(usage);
    let (joules, grams) = said.map_or((None, None), |said| (said.joules, said.grams));
    for (name, figure) in [("x-hansa-joules", joules), ("x-hansa-grams", grams)] {
        let value = figure.and_then(|figure| HeaderValue::try_from(figure.to_string()).ok());
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
}

#[derive(Default)]
struct Collected {
    text: String,
    calls: Vec<Call>,
    reason: Option<FinishReason>,
    logprobs: Vec<TokenLogprob>,
}

/// A call of a function.
struct Call {
    /// Its number among the calls of the choice.
    number: u32,
    head: CallHead,
    arguments: String,
}

impl Collected {
    /// Begins a call, or goes on with one.
    fn call(&mut self, number: u32, head: Option<CallHead>, arguments: &str) {
        if let Some(head) = head {
            let arguments = String::new();
            self.calls.push(Call {
                number,
                head,
                arguments,
            });
        }
        let call = self.calls.iter_mut().find(|call| call.number == number);
        // Arguments of a call that never began would be those of nobody.
        if let Some(call) = call {
            call.arguments.push_str(arguments);
        }
    }

    /// By which candidates are compared: the mean, since a sum would favour the shortest. One without a token, which
    /// ended at once, said nothing unlikely.
    fn mean_logprob(&self) -> f64 {
        let all = self
            .logprobs
            .iter()
            .filter_map(|l| l.chosen.logprob.map(f64::from));
        let sum: f64 = all.sum();
        sum / self.logprobs.len().max(1) as f64
    }
}

/// The `n` best of each prompt's candidates, best first; all of them in their order where as many were made.
fn best(mut choices: Vec<Collected>, head: &Head) -> Vec<Collected> {
    if head.best_of == head.n {
        return choices;
    }
    let mut shown = Vec::new();
    while !choices.is_empty() {
        let others = choices.split_off(choices.len().min(head.best_of as usize));
        // The sort is stable: of equals the earlier one comes first.
        choices.sort_by(|a, b| b.mean_logprob().total_cmp(&a.mean_logprob()));
        choices.truncate(head.n as usize);
        shown.append(&mut choices);
        choices = others;
    }
    shown
}

/// The choice with that number; a run bounds the numbers.
fn at(choices: &mut Vec<Collected>, choice: u32) -> &mut Collected {
    let index = choice as usize;
    if choices.len() <= index {
        choices.resize_with(index + 1, Collected::default);
    }
    &mut choices[index]
}

fn body<'a>(head: &'a Head, choices: &'a [Collected], usage: Usage) -> Body<'a> {
    let object = match head.endpoint {
        Endpoint::Chat => "chat.completion",
        Endpoint::Completions => "text_completion",
    };
    let choices = choices.iter().zip(0..);
    let choices = choices.map(|(collected, index)| Choice {
        index,
        content: Content::of(head.endpoint, collected),
        logprobs: (head.logprobs).then(|| Logprobs::of(head.endpoint, &collected.logprobs, 0)),
        finish_reason: collected.reason.map(finish_reason),
    });
    Body {
        id: &head.id,
        object,
        created: head.created_s,
        model: &head.model,
        choices: choices.collect(),
        usage,
    }
}

/// Bytes that most answers fit in.
const ANSWER_BYTES: usize = 1024;

/// A JSON answer.
pub(crate) fn json(body: &impl Serialize) -> Response {
    let mut json = Vec::with_capacity(ANSWER_BYTES);
    match serde_json::to_writer(&mut json, body) {
        Ok(()) => {
            let content_type = HeaderValue::from_static("application/json");
            ([(header::CONTENT_TYPE, content_type)], json).into_response()
        }
        Err(_) => ApiError::internal().into_response(),
    }
}

/// OpenAI's word for why a choice ended.
pub(super) const fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ToolCalls => "tool_calls",
    }
}

#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    model: &'a str,
    choices: Vec<Choice<'a>>,
    usage: Usage,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    #[serde(flatten)]
    content: Content<'a>,
    /// Null where nobody asked.
    logprobs: Option<Logprobs<'a>>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Content<'a> {
    Message(Message<'a>),
    Text(&'a str),
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    /// Null where there are calls alone.
    content: Option<&'a str>,
    /// Always null.
    refusal: (),
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall<'a>>,
}

#[derive(Serialize)]
struct ToolCall<'a> {
    id: &'a str,
    r#type: &'static str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    arguments: &'a str,
}

impl<'a> From<&'a Call> for ToolCall<'a> {
    fn from(call: &'a Call) -> Self {
        Self {
            id: &call.head.id,
            r#type: "function",
            function: Function {
                name: &call.head.name,
                arguments: &call.arguments,
            },
        }
    }
}

impl<'a> Content<'a> {
    fn of(endpoint: Endpoint, Collected { text, calls, .. }: &'a Collected) -> Self {
        match endpoint {
            Endpoint::Chat => Self::Message(Message {
                role: "assistant",
                content: (calls.is_empty() || !text.is_empty()).then_some(&**text),
                refusal: (),
                tool_calls: calls.iter().map(Into::into).collect(),
            }),
            Endpoint::Completions => Self::Text(text),
        }
    }
}

/// Usage as OpenAI writes it.
#[derive(Debug, Serialize)]
pub(super) struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u64,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
    /// What OpenAI has no words for, where there is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    hansa: Option<UsageExtension>,
}

/// What a usage says that OpenAI has no words for.
#[derive(Debug, Serialize)]
pub(super) struct UsageExtension {
    /// Whether the figures were counted from events, since whoever served told none.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    estimated: bool,
    /// Energy, overheads of the building included.
    #[serde(skip_serializing_if = "Option::is_none")]
    joules: Option<f64>,
    /// Grams of CO2.
    #[serde(skip_serializing_if = "Option::is_none")]
    grams: Option<f64>,
    /// Seconds of the device; for a peer, which pays for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu_seconds: Option<f64>,
}

impl UsageExtension {
    /// That of `usage`, where it says anything.
    pub(super) fn of(usage: &upstream::Usage) -> Option<Self> {
        let upstream::Usage {
            estimated,
            millijoules,
            micrograms,
            gpu_us,
            ..
        } = *usage;
        let figures = [millijoules, micrograms, gpu_us];
        let says = estimated || figures.iter().any(Option::is_some);
        says.then_some(Self {
            estimated,
            joules: millijoules.map(|units| f64::from(units) / 1e3),
            grams: micrograms.map(|units| f64::from(units) / 1e6),
            gpu_seconds: gpu_us.map(|units| f64::from(units) / 1e6),
        })
    }
}

#[derive(Debug, Serialize)]
struct PromptDetails {
    cached_tokens: u32,
}

#[derive(Debug, Serialize)]
struct CompletionDetails {
    reasoning_tokens: u32,
}

impl From<upstream::Usage> for Usage {
    /// What a client is told.
    fn from(usage: upstream::Usage) -> Self {
        Self::for_peer(upstream::Usage {
            gpu_us: None,
            ..usage
        })
    }
}

impl Usage {
    /// What another server of ours is told.
    pub(super) fn for_peer(usage: upstream::Usage) -> Self {
        let cached_tokens = usage.cached_tokens;
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: u64::from(usage.prompt_tokens) + u64::from(usage.completion_tokens),
            prompt_tokens_details: PromptDetails { cached_tokens },
            completion_tokens_details: CompletionDetails {
                reasoning_tokens: 0,
            },
            hansa: UsageExtension::of(&usage),
        }
    }
}
