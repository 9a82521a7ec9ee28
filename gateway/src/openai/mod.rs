//! OpenAI's API: its JSON on the outside, [`GenerateRequest`]s and events on the inside.
//!
//! A request goes through these files in this order: `body` (bytes), `json` and `fields` (what it says), `chat` or
//! `completions` with `params` (what it means), `run` with `calls` (the work), then `answer` or `stream` with `sse` (the reply), and
//! `error` for whatever goes wrong. It must not know which upstream serves a model, nor read a clock.

pub mod error;

mod answer;
pub(crate) mod body;
mod calls;
mod chat;
mod completions;
mod embeddings;
mod fault;
mod fields;
mod json;
mod logprobs;
mod messages;
mod meter;
pub mod metering;
mod models;
mod params;
pub(crate) mod query;
mod rules;
mod run;
mod sampling;
mod sse;
mod stream;
mod structure;
#[cfg(test)]
mod tests;
mod tools;
mod usage;
mod wishes;

pub(crate) use self::answer::json;
pub(crate) use self::body::read as read_json_body;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing;
use bytes::Bytes;
use hansa_config::schema::Limits;
use http::HeaderValue;
use tokio::sync::Semaphore;
use uuid::Uuid;

use self::answer::Head;
use self::error::ApiError;
use self::fault::ParamFault;
use self::meter::{Meter, Payer};
use self::metering::{Client, Metering};
use self::params::{Ask, Params};
pub use self::rules::Passed;
use self::rules::Rules;
use self::run::Run;
use self::sse::Encoder;
use crate::clock::Clock;
use crate::federation::headers::{PURPOSE, Said};
use crate::layers::peer::Peer;
use crate::limits;
use crate::stack::RequestId;
use crate::tenant::principal::Principal;
use crate::upstream::registry::Models;
use crate::upstream::{Endpoint, GenerateRequest, Prompt, Upstream, Wishes};

/// The API of one server. Clones share it.
#[derive(Clone)]
pub struct Api {
    shared: Arc<Shared>,
    metering: Option<Metering>,
}

struct Shared {
    models: Arc<Models>,
    limits: Limits,
    passed: Passed,
    ping_after: Duration,
    clock: Clock,
    large_parses: Semaphore,
}

impl Api {
    /// An API that serves `models`; fields in `passed` go on to them unread. `ping_after` is the silence after which a waiting stream gets its headers and a
    /// comment.
    #[must_use]
    pub fn new(
        models: Arc<Models>,
        limits: Limits,
        passed: Passed,
        ping_after: Duration,
        clock: Clock,
    ) -> Self {
        let large_parses = Semaphore::new(limits::PARSE_LARGE_MAX);
        Self {
            shared: Arc::new(Shared {
                models,
                limits,
                passed,
                ping_after,
                clock,
                large_parses,
            }),
            metering: None,
        }
    }

    /// Meters the requests of those who showed a key.
    #[must_use]
    pub fn metered(self, metering: Metering) -> Self {
        Self {
            metering: Some(metering),
            ..self
        }
    }

    /// The routes, with OpenAI's error object for every path and method that is not among them.
    pub fn router(self) -> Router {
        Router::new()
            .route(Endpoint::Chat.path(), routing::post(chat_completions))
            .route(Endpoint::Completions.path(), routing::post(completions))
            .route("/v1/embeddings", routing::post(embeddings::serve))
            .route("/v1/models", routing::get(models::list))
            .route("/v1/models/{*id}", routing::get(models::get))
            .route("/v1/usage", routing::get(usage::get))
            .route("/v1/usage/records", routing::get(usage::records))
            .fallback(async || ApiError::route_not_found())
            .method_not_allowed_fallback(async || ApiError::method_not_allowed())
            .with_state(self)
    }

    fn models(&self) -> &Models {
        &self.shared.models
    }

    /// A request from its bytes to the beginning of its answer.
    pub(crate) async fn serve(
        &self,
        endpoint: Endpoint,
        request: Request,
    ) -> Result<Response, ApiError> {
        let started = self.shared.clock.now();
        let said = Said::read(request.headers())?;
        let wishes = wishes::read(&request, &said)?;
        let peer = request.extensions().get::<Peer>().is_some();
        let id = request_id(&request);
        let caller = Caller::of(&request);
        let body = body::read(request, self.shared.limits.body_bytes_max).await?;
        let ask = self.parse(endpoint, body, peer).await?;
        let model = Arc::clone(&ask.params.model);
        let client = self.client(&caller, &model)?;
        let work = Work {
            endpoint,
            id,
            wishes,
            peer,
            started,
            deadline: started + self.time_for(&said),
            created_s: self.shared.clock.unix_s(),
            client,
            said,
        };
        let answered = self.answer(&work, ask).await;
        match &work.client {
            // Also where it was refused: then above all a client wants to know.
            Some(client) => Ok(client.tell(answered.into_response(), &model)),
            None => answered,
        }
    }

    /// Whose request it is, on a server with keys.
    fn client(&self, caller: &Caller, model: &str) -> Result<Option<Client>, ApiError> {
        match (&caller.principal, &self.metering) {
            (Some(principal), Some(metering)) => {
                Client::admit(metering, principal, caller.purpose.as_ref(), model).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The answer to what was understood.
    async fn answer(&self, work: &Work, ask: Ask) -> Result<Response, ApiError> {
        let model = &ask.params.model;
        let upstream = self
            .models()
            .get(model)
            .ok_or_else(|| ApiError::model_not_found(model))?;
        check_room(&ask, &upstream)?;
        let head = self.head(work, &ask.params);
        let stream = ask.params.stream;
        let mut run = self.start(work, &upstream, ask).await?;
        if work.peer {
            run = run.for_peer(head.token_ids);
        }
        let mut response = match stream {
            Some(options) => {
                let encoder = Encoder::new(&head, options);
                stream::respond(run, encoder, self.shared.ping_after).await?
            }
            None => answer::respond(run, &head).await?,
        };
        response.headers_mut().reserve(HEADERS_TOLD);
        wishes::tell(self.models().decisions(), &work.id, response.headers_mut());
        let took = self.shared.clock.now().saturating_sub(work.started);
        if let Ok(took_ms) = HeaderValue::try_from(took.as_millis().to_string()) {
            response
                .headers_mut()
                .insert("openai-processing-ms", took_ms);
        }
        Ok(response)
    }

    /// The time that a request has: what the server before this one gives it, and at most our own.
    fn time_for(&self, said: &Said) -> Duration {
        let ours = Duration::from_millis(self.shared.limits.request_timeout_ms);
        said.time_left.map_or(ours, |left| left.min(ours))
    }

    /// Reserves what the request may use, and starts it.
    async fn start(
        &self,
        work: &Work,
        upstream: &Arc<dyn Upstream>,
        ask: Ask,
    ) -> Result<Run, ApiError> {
        let mut requests = work.split(ask);
        let meter = match &work.client {
            Some(client) => Some(client.reserve(&work.id, upstream, &mut requests).await?),
            None => self.meter_of_peer(work, upstream, &requests),
        };
        let time_left = work.deadline.saturating_sub(self.shared.clock.now());
        let run = Run::start(Arc::clone(&work.id), upstream, requests, time_left);
        Ok(run.metered(meter))
    }

    /// Keeps what a peer's request uses, where somebody will settle it.
    fn meter_of_peer(
        &self,
        work: &Work,
        upstream: &Arc<dyn Upstream>,
        requests: &[Arc<GenerateRequest>],
    ) -> Option<Meter> {
        let payer = self.peer(&work.id, &work.said)?;
        Some(Meter::new(
            self.metering.as_ref()?,
            payer,
            upstream,
            requests,
        ))
    }

    /// The peer that pays for its request `id`, where it does.
    fn peer(&self, id: &Arc<str>, said: &Said) -> Option<Payer> {
        Some(Payer::Peer {
            kept: self.metering.as_ref()?.kept.clone(),
            id: Arc::clone(id),
            charge: said.charge.clone()?,
        })
    }

    async fn parse(&self, endpoint: Endpoint, body: Bytes, peer: bool) -> Result<Ask, ApiError> {
        let (bytes, shared) = (body.len(), Arc::clone(&self.shared));
        let parse = move |_: &Limits| shared.parse(endpoint, &body, peer);
        self.off_loop(bytes, parse).await
    }

    /// Reads or writes JSON of about `size` bytes: little of it here, much of it where it holds up nobody else.
    async fn off_loop<T: Send + 'static>(
        &self,
        size: usize,
        work: impl FnOnce(&Limits) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        if size <= limits::PARSE_INLINE_BYTES_MAX {
            return work(&self.shared.limits);
        }
        let permit = self.shared.large_parses.acquire().await;
        let limits = self.shared.limits.clone();
        let working = tokio::task::spawn_blocking(move || work(&limits));
        let done = working
            .await
            .unwrap_or_else(|_panicked| Err(ApiError::internal()));
        drop(permit);
        done
    }

    fn head(&self, work: &Work, params: &Params) -> Head {
        let endpoint = work.endpoint;
        let prefix = match endpoint {
            Endpoint::Chat => "chatcmpl",
            Endpoint::Completions => "cmpl",
        };
        Head {
            endpoint,
            id: format!("{prefix}-{}", Uuid::new_v4().simple()),
            created_s: work.created_s,
            model: Arc::clone(&params.model),
            n: params.n,
            best_of: params.best_of,
            logprobs: params.logprobs.is_some(),
            token_ids: params.extension.want_token_ids,
            peer: work.peer,
        }
    }
}

impl Shared {
    fn parse(&self, endpoint: Endpoint, body: &Bytes, peer: bool) -> Result<Ask, ApiError> {
        let rules = Rules {
            limits: &self.limits,
            passed: &self.passed,
            peer,
        };
        match endpoint {
            Endpoint::Chat => chat::parse(body, rules),
            Endpoint::Completions => completions::parse(body, rules),
        }
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("models", &self.shared.models)
            .finish_non_exhaustive()
    }
}

/// Headers that most answers get beside those of their content, which makes twelve: a map that grows for each would be hashed
/// anew thrice, and one with room for more would be twice as large for as long as its connection is open.
const HEADERS_TOLD: usize = 10;

async fn chat_completions(State(api): State<Api>, request: Request) -> Result<Response, ApiError> {
    api.serve(Endpoint::Chat, request).await
}

async fn completions(State(api): State<Api>, request: Request) -> Result<Response, ApiError> {
    api.serve(Endpoint::Completions, request).await
}

/// Refuses what the upstream could not hold even if it were idle: "overloaded" would make a client try for ever.
fn check_room(ask: &Ask, upstream: &Arc<dyn Upstream>) -> Result<(), ApiError> {
    let prompts = u32::try_from(ask.prompts.len()).unwrap_or(u32::MAX);
    let n = ask.params.best_of;
    let sequences = prompts.saturating_mul(n);
    // Whoever serves at all has room for one, and most requests are no more.
    let max = (sequences > 1).then(|| upstream.sequences_in_flight_max());
    let Some(max) = max.flatten().filter(|max| sequences > *max) else {
        return Ok(());
    };
    let asks = if n > ask.params.n { "best_of" } else { "n" };
    let param = if prompts > 1 { "prompt" } else { asks };
    let expected = format!(
        "at most {max} choices over all prompts, but {prompts} prompts with '{asks}' = {n} are more"
    );
    Err(ApiError::param(param, ParamFault::Value { expected }))
}

/// What a request's head says of its sender.
struct Caller {
    principal: Option<Arc<Principal>>,
    /// What it says that the request is for.
    purpose: Option<HeaderValue>,
}

impl Caller {
    fn of(request: &Request) -> Self {
        Self {
            principal: Principal::of(request.extensions()).cloned(),
            purpose: request.headers().get(PURPOSE).cloned(),
        }
    }
}

/// What the parts of a request share beside what its body says.
struct Work {
    endpoint: Endpoint,
    id: Arc<str>,
    said: Said,
    wishes: Wishes,
    started: Duration,
    deadline: Duration,
    created_s: i64,
    /// Whose it is, on a server with keys; a peer's is metered by the server before us.
    client: Option<Client>,
    /// Whether a peer sent it.
    peer: bool,
}

impl Work {
    /// One request for each prompt.
    fn split(&self, ask: Ask) -> Vec<Arc<GenerateRequest>> {
        let Ask {
            body,
            params,
            prompts,
        } = ask;
        let wishes = Arc::new(Wishes {
            session: params.session.clone(),
            ..self.wishes.clone()
        });
        let single = prompts.len() == 1;
        let extension = &params.extension;
        let (id, client) = (self.upstream_id(), self.client.as_ref());
        let default_max_tokens = client
            .map(Client::default_max_tokens)
            .or(extension.default_max_tokens);
        let request = |(index, prompt): (usize, Prompt)| GenerateRequest {
            id: if single {
                Arc::clone(&id)
            } else {
                format!("{id}/{index}").into()
            },
            shown_id: if single {
                Arc::clone(&self.id)
            } else {
                format!("{}/{index}", self.id).into()
            },
            model: Arc::clone(&params.model),
            endpoint: self.endpoint,
            body: body.clone(),
            prompt,
            whole: params.whole(default_max_tokens),
            n: params.best_of,
            max_tokens: params.max_tokens,
            default_max_tokens,
            token_ids: OnceLock::new(),
            sampling: params.sampling.clone(),
            stop: params.stop.clone(),
            stop_token_ids: params.stop_token_ids.clone(),
            min_tokens: params.min_tokens,
            logprobs: params.logprobs_needed(),
            echo: params.echo,
            prompt_logprobs: params.echo && params.logprobs.is_some(),
            structure: params.structure.clone(),
            tools: params.tools.clone(),
            // A client's seed gives a prompt the same answer here as on its own; one that we draw is drawn for each, or
            // equal prompts would get equal answers.
            seed: extension.seed.or(params.seed).unwrap_or_else(draw_seed),
            template_time_s: extension.template_time.unwrap_or(self.created_s),
            deadline: Some(self.deadline),
            flow: client.map_or(self.said.flow, Client::flow),
            pool: client.map_or(self.said.pool, Client::pool),
            hops: self.said.hops,
            resume_token_ids: extension.resume_token_ids.clone(),
            want_token_ids: extension.want_token_ids,
            tenant: client
                .map(Client::tenant)
                .or_else(|| self.said.tenant.clone()),
            charge: self.said.charge.clone(),
            purse: None,
            wishes: Arc::clone(&wishes),
        };
        let requests = prompts.into_iter().enumerate().map(request);
        requests.map(Arc::new).collect()
    }

    /// The id that upstreams know the request by. A metered request is cancelled by it when its client leaves, so it must
    /// be nobody else's: clients choose ids, and two may choose the same.
    fn upstream_id(&self) -> Arc<str> {
        if self.client.is_none() {
            return Arc::clone(&self.id);
        }
        // A request id is ASCII: any byte is the end of a character.
        let chosen = self.id.get(..limits::UPSTREAM_ID_BYTES_MAX);
        let chosen = chosen.unwrap_or(&self.id);
        format!("{chosen}.{:016x}", draw_seed()).into()
    }
}

/// 64 random bits. Each half of the id holds a few fixed ones, the two together none.
fn draw_seed() -> u64 {
    let (high, low) = Uuid::new_v4().as_u64_pair();
    high ^ low
}

/// The id that an outer layer gave the request; without such a layer a new one.
fn request_id(request: &Request) -> Arc<str> {
    match request.extensions().get::<RequestId>() {
        Some(RequestId(id)) => Arc::clone(id),
        None => Uuid::new_v4().to_string().into(),
    }
}
