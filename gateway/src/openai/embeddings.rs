//! `/v1/embeddings`: texts or token ids in, vectors out, as numbers or as base64.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use super::answer::{UsageExtension, json};
use super::error::ApiError;
use super::fault::ParamFault;
use super::json::{self, Kind, Node, Object};
use super::meter::Payer;
use super::params::count;
use super::{Api, Caller, body, fields, request_id, stream, wishes};
use crate::federation::headers::Said;
use crate::layers::peer::Peer;
use crate::limits::{self, CANCEL_AGAIN_AFTER, USAGE_DRAIN_MAX};
use crate::quota::amount::Tokens;
use crate::quota::ledger::Outcome;
use crate::upstream::purse::Purse;
use crate::upstream::{
    self, EmbedInput, EmbedRequest, Embeddings, Upstream, UpstreamError, UpstreamErrorKind,
};

/// `POST /v1/embeddings`
pub(super) async fn serve(State(api): State<Api>, request: Request) -> Result<Response, ApiError> {
    let started = api.shared.clock.now();
    let said = Said::read(request.headers())?;
    let wishes = Arc::new(wishes::read(&request, &said)?);
    let id = request_id(&request);
    let peer = request.extensions().get::<Peer>().is_some();
    let caller = Caller::of(&request);
    let body = body::read(request, api.shared.limits.body_bytes_max).await?;
    let bytes = body.len();
    let ask = api.off_loop(bytes, move |_| parse(&body)).await?;
    let model = Arc::clone(&ask.model);
    let client = api.client(&caller, &model)?;
    let upstream = api.models().get(&model);
    let upstream = upstream.ok_or_else(|| ApiError::model_not_found(&model))?;
    let bound = Tokens {
        prompt: ask.inputs.iter().map(EmbedInput::tokens_max).sum(),
        ..Tokens::default()
    };
    let held = match &client {
        Some(client) => Some(Arc::new(client.hold(&id, &model, bound).await?)),
        None => None,
    };
    let charge = match &held {
        Some(held) => held.tag(0).filter(|_| upstream.keeps_usage()),
        None => said.charge.clone(),
    };
    let tenant = held.clone().map(Payer::Tenant);
    let payer = tenant.or_else(|| api.peer(&id, &said));
    let time = api.time_for(&said);
    let request = Arc::new(EmbedRequest {
        id,
        model: Arc::clone(&model),
        inputs: ask.inputs,
        dimensions: ask.dimensions,
        deadline: Some(started + time),
        hops: said.hops,
        charge,
        wishes,
        purse: held.map(|held| held as Arc<dyn Purse>),
    });
    let left = (started + time).saturating_sub(api.shared.clock.now());
    let made = match timeout(left, make(&api, payer, upstream, request)).await {
        Ok(Ok(made)) => made,
        Ok(Err(error)) if peer => return Ok(refusal(error)),
        Ok(Err(error)) => return Err(error.into()),
        Err(_elapsed) => return Err(ApiError::deadline_exceeded()),
    };
    let numbers: usize = made.vectors.iter().map(Vec::len).sum();
    let asked = Arc::clone(&model);
    let told = told(made.usage, peer);
    let answered = api.off_loop(numbers, move |_| {
        Ok(answer(&model, &made.vectors, told, ask.format))
    });
    let answered = answered.await?;
    Ok(match client {
        Some(client) => client.tell(answered, &asked),
        None => answered,
    })
}

async fn make(
    api: &Api,
    payer: Option<Payer>,
    upstream: Arc<dyn Upstream>,
    request: Arc<EmbedRequest>,
) -> Result<Embeddings, UpstreamError> {
    match payer.zip(api.metering.as_ref()) {
        Some((payer, metering)) => paid(payer, &metering.tasks, upstream, request).await,
        None => upstream.embed(request).await,
    }
}

/// The vectors of a request that somebody pays for. Its account is settled however it ends: where its client leaves or its
/// time is over, the work is stopped and what it took by then is charged.
async fn paid(
    payer: Payer,
    tasks: &TaskTracker,
    upstream: Arc<dyn Upstream>,
    request: Arc<EmbedRequest>,
) -> Result<Embeddings, UpstreamError> {
    // Nothing is ever sent: its end is dropped with this future.
    let (_wanted, unwanted) = oneshot::channel();
    let work = tasks.spawn(work(payer, upstream, request, unwanted)).await;
    work.unwrap_or_else(|_panicked| Err(UpstreamErrorKind::Internal.into()))
}

async fn work(
    payer: Payer,
    upstream: Arc<dyn Upstream>,
    request: Arc<EmbedRequest>,
    unwanted: oneshot::Receiver<Infallible>,
) -> Result<Embeddings, UpstreamError> {
    let id = Arc::clone(&request.id);
    let mut making = pin!(upstream.embed(request));
    let made = tokio::select! {
        biased;
        made = &mut making => Some((made, Outcome::Finished, Outcome::Failed)),
        _ = unwanted => {
            // Again and again: one that is only about to start is not yet there to be cancelled.
            let cancelling = async {
                loop {
                    upstream.cancel(&id);
                    sleep(CANCEL_AGAIN_AFTER).await;
                }
            };
            let stopped = async {
                tokio::select! {
                    made = making => made,
                    never = cancelling => never,
                }
            };
            let made = timeout(USAGE_DRAIN_MAX, stopped).await.ok();
            made.map(|made| (made, Outcome::Aborted, Outcome::Aborted))
        }
    };
    // Where nobody says what was done, the guard is dropped open, and keeps its debit.
    let (made, whole, broken) = made.ok_or(UpstreamErrorKind::TimedOut)?;
    let (used, outcome) = match &made {
        Ok(made) => (made.usage, whole),
        Err(error) => (error.usage.unwrap_or_default(), broken),
    };
    payer.finish(used, outcome, outcome != Outcome::Aborted);
    made
}

/// An error answer to a peer, which pays for what was used until then.
fn refusal(error: UpstreamError) -> Response {
    let used = error.usage;
    stream::refusal(error.into(), used)
}

/// What a body says.
#[derive(Debug)]
struct Ask {
    model: Arc<str>,
    inputs: Vec<EmbedInput>,
    dimensions: Option<u32>,
    format: Format,
}

/// How a vector is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// An array of numbers.
    Float,
    /// Base64 of 32-bit floats, the lowest byte first.
    Base64,
}

fn parse(body: &[u8]) -> Result<Ask, ApiError> {
    let body = json::parse(body)?;
    fields::check(&body, &[fields::EMBEDDINGS])?;
    Ok(Ask {
        model: Arc::from(&*body.require("model")?.string()?),
        inputs: inputs(&body.require("input")?)?,
        dimensions: count(&body, "dimensions", u32::MAX)?,
        format: format(&body)?,
    })
}

fn format(body: &Object<'_, '_>) -> Result<Format, ApiError> {
    let Some(node) = body.get("encoding_format") else {
        return Ok(Format::Float);
    };
    match &*node.string()? {
        "float" => Ok(Format::Float),
        "base64" => Ok(Format::Base64),
        _ => Err(node.value_fault("'float' or 'base64'".to_owned())),
    }
}

/// A string, an array of strings, an array of token ids, or an array of such arrays.
fn inputs(node: &Node<'_, '_>) -> Result<Vec<EmbedInput>, ApiError> {
    match (node.kind(), node.first_kind()) {
        (Kind::Array, Some(Kind::Integer | Kind::Decimal)) => Ok(vec![input(node)?]),
        (Kind::Array, _) => {
            let elements = node.array(limits::EMBED_INPUTS_MAX)?;
            let read = |(index, raw)| input(&Node::new(raw, node.at().index(index)));
            elements.into_iter().enumerate().map(read).collect()
        }
        _ => Ok(vec![input(node)?]),
    }
}

fn input(node: &Node<'_, '_>) -> Result<EmbedInput, ApiError> {
    match node.kind() {
        Kind::String => match node.string()? {
            text if text.is_empty() => {
                Err(node.value_fault("a string that is not empty".to_owned()))
            }
            text => Ok(EmbedInput::Text(Arc::from(&*text))),
        },
        Kind::Array => Ok(EmbedInput::Tokens(node.token_ids()?.into())),
        _ => Err(node.fault(ParamFault::Type {
            expected: "a string or an array of token ids",
            got: node.kind().name(),
        })),
    }
}

/// What whoever asked is told of what it took: a peer, which pays for it, the device's time too.
fn told(used: upstream::Usage, peer: bool) -> Usage {
    let tokens = used.prompt_tokens;
    let gpu_us = used.gpu_us.filter(|_| peer);
    Usage {
        prompt_tokens: tokens,
        total_tokens: tokens,
        hansa: UsageExtension::of(&upstream::Usage { gpu_us, ..used }),
    }
}

fn answer(model: &str, vectors: &[Vec<f32>], usage: Usage, format: Format) -> Response {
    let data = vectors.iter().zip(0..);
    let data = data.map(|(vector, index)| Embedding {
        object: "embedding",
        index,
        embedding: match format {
            Format::Float => Written::Float(vector),
            Format::Base64 => Written::Base64(base64(vector)),
        },
    });
    json(&Body {
        object: "list",
        data: data.collect(),
        model,
        usage,
    })
}

fn base64(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    BASE64.encode(bytes)
}

#[derive(Serialize)]
struct Body<'a> {
    object: &'static str,
    data: Vec<Embedding<'a>>,
    model: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct Embedding<'a> {
    object: &'static str,
    index: u32,
    embedding: Written<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Written<'a> {
    Float(&'a [f32]),
    Base64(String),
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u32,
    total_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    hansa: Option<UsageExtension>,
}
