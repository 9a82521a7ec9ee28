//! What a request is to whoever serves it, and what an upstream is to us.
//!
//! These types carry every hop: a local engine, a node, a site and a foreign server all take a [`GenerateRequest`] and
//! give back [`Event`]s. Nothing here knows OpenAI's JSON (`openai/` does) or a socket (each upstream does).

mod body;
mod chunk;
pub mod discover;
#[cfg(feature = "engine")]
mod echo;
pub mod embedding;
mod figures;
pub(crate) mod forward;
pub mod group;
mod journey;
pub mod link;
#[cfg(feature = "engine")]
pub mod local;
pub mod measured;
mod openai;
#[cfg(feature = "engine")]
mod pool;
mod refusal;
pub mod registry;
mod remote;
mod resume;
mod retry;
#[cfg(feature = "engine")]
mod room;
pub mod routed;
pub(crate) mod sse;
mod sums;
#[cfg(test)]
mod testing;
#[cfg(feature = "engine")]
mod tokenise;
pub mod tools;
mod wishes;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

pub use self::embedding::{EmbedInput, EmbedRequest, Embeddings};
pub use self::figures::{Readiness, Resident, UpstreamStatus, UpstreamTotals};
#[cfg(test)]
pub(crate) use self::testing::test_request;
use self::tools::{CallHead, ToolSyntax, Tools};
pub use self::wishes::Wishes;

/// A request as every upstream takes it: parsed, checked against the limits, and fixed where chance or time enter.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    /// What upstreams know the request by, and nobody else's where it must be cancelled by it.
    pub id: Arc<str>,
    /// Id of the request, ours or the client's, who may give two the same; in every log line and in `x-request-id`.
    pub shown_id: Arc<str>,
    /// Model as the client named it.
    pub model: Arc<str>,
    /// Which endpoint the body came to.
    pub endpoint: Endpoint,
    /// The body as it came: what a foreign upstream gets, with the model's name patched.
    pub body: Bytes,
    /// What is to be continued.
    pub prompt: Prompt,
    /// Choices per prompt, at least 1.
    pub n: u32,
    /// Tokens to produce at most per choice; `None` leaves it to the upstream's default for its context.
    pub max_tokens: Option<u32>,
    /// Tokens that a choice may have where the client names no number, if somebody reserved as many; an upstream that
    /// has room for fewer gives fewer.
    pub default_max_tokens: Option<u32>,
    /// Ids of the prompt, once an upstream in this process has counted them: nothing is tokenised twice.
    pub token_ids: OnceLock<Arc<[u32]>>,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Strings that end a choice.
    pub stop: Vec<String>,
    /// Tokens that end a choice.
    pub stop_token_ids: Vec<u32>,
    /// Tokens before which nothing ends a choice.
    pub min_tokens: u32,
    /// Whether tokens come with their log-probability, and those of so many best ones.
    pub logprobs: Option<u32>,
    /// Whether each choice begins with the prompt's text.
    pub echo: bool,
    /// Whether that text has log-probabilities too, as `logprobs` says. Then `max_tokens` may be 0.
    pub prompt_logprobs: bool,
    /// What each choice must look like.
    pub structure: Option<Structure>,
    /// Functions that a chat may call. Calls come as text, unless the upstream itself finds them there.
    pub tools: Option<Arc<Tools>>,
    /// Seed, the client's or drawn once by the first server.
    pub seed: u64,
    /// Moment that the chat template may print, seconds since the epoch, fixed by the first server.
    pub template_time_s: i64,
    /// Moment on the server's clock after which the answer is of no use.
    pub deadline: Option<Duration>,
    /// Fair-share flow, opaque.
    pub flow: u64,
    /// Prefix-sharing pool, opaque.
    pub pool: u64,
    /// Servers of ours that the request has crossed.
    pub hops: u8,
    /// Tokens that each choice has produced already at another upstream: replayed and not told again. Empty for a request
    /// that begins.
    pub resume_token_ids: Vec<Vec<u32>>,
    /// Whether events carry the ids of their tokens.
    pub want_token_ids: bool,
    /// Id of the tenant, as the first server found it.
    pub tenant: Option<Arc<str>>,
    /// Where it may go, and what its client wants of the way.
    pub wishes: Arc<Wishes>,
}

/// The endpoint that a body came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
}

impl Endpoint {
    /// Path of the endpoint.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
        }
    }
}

/// What is to be continued.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// A conversation: OpenAI messages whose `content` is a string or null, calls and results of tools among them.
    Chat(Arc<[serde_json::Value]>),
    /// Plain text.
    Text(Arc<str>),
    /// Token ids.
    Tokens(Arc<[u32]>),
}

/// Tokens that a chat template may put around one message or function; the wordiest in use has some 30.
const TEMPLATE_TOKENS_PER_MESSAGE: usize = 64;

impl GenerateRequest {
    /// Tokens of the prompt that no tokenizer exceeds: each stands for at least one byte, and templates add a few around
    /// each message and function.
    #[must_use]
    pub fn prompt_tokens_max(&self) -> u32 {
        let json = |all: &[serde_json::Value]| {
            let bytes = all.iter().map(|one| one.to_string().len());
            bytes.sum::<usize>() + TEMPLATE_TOKENS_PER_MESSAGE * (all.len() + 1)
        };
        let tools = self.tools.as_ref();
        let tokens = match &self.prompt {
            Prompt::Tokens(ids) => ids.len(),
            Prompt::Text(text) => text.len() + TEMPLATE_TOKENS_PER_MESSAGE,
            Prompt::Chat(messages) => {
                json(messages) + tools.map_or(0, |tools| json(&tools.definitions))
            }
        };
        u32::try_from(tokens).unwrap_or(u32::MAX)
    }
}

impl Event {
    /// Whether it is a part of the answer, and not only of how to read it.
    #[must_use]
    pub const fn is_content(&self) -> bool {
        !matches!(self, Self::ToolSyntax(_))
    }
}

/// What a choice must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Structure {
    /// The grammar.
    pub grammar: Grammar,
    /// The parameter that it came in, as the client named it.
    pub param: &'static str,
}

/// A grammar as its client wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grammar {
    /// A JSON value that this schema allows.
    JsonSchema(Arc<str>),
    /// A text that this regular expression matches as a whole.
    Regex(Arc<str>),
    /// A text of this Lark grammar.
    Lark(Arc<str>),
}

/// How tokens are drawn; the meaning of each field is the engine's.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// 1 is neutral.
    pub top_p: f32,
    /// 0 is neutral.
    pub top_k: u32,
    /// 0 is neutral.
    pub min_p: f32,
    /// 1 is neutral.
    pub repetition_penalty: f32,
    /// 0 is neutral.
    pub frequency_penalty: f32,
    /// 0 is neutral.
    pub presence_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Arc<[(u32, f32)]>,
    /// Whether end-of-generation tokens are ignored.
    pub ignore_eos: bool,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Arc::new([]),
            ignore_eos: false,
        }
    }
}

/// What an upstream says, in order. A stream that went well ends with [`Event::Done`]; an `Err` item ends it otherwise.
/// A stream that just stops is a broken one (I3).
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// How the model writes calls, before anything else and only where the request has tools.
    ToolSyntax(ToolSyntax),
    /// A choice went on.
    Delta {
        /// Index of the choice.
        choice: u32,
        /// Its text, never half a character.
        text: String,
        /// Ids behind it, where wanted.
        token_ids: Vec<u32>,
        /// Log-probabilities of the tokens behind it, where wanted.
        logprobs: Vec<TokenLogprob>,
    },
    /// A choice calls a function, or goes on with a call's arguments.
    ToolCall {
        /// Index of the choice.
        choice: u32,
        /// Index of the call within the choice.
        index: u32,
        /// Whom it calls, in the first event of a call alone.
        head: Option<CallHead>,
        /// The next part of its arguments, JSON when put together.
        arguments: String,
    },
    /// A choice ended.
    Finished {
        /// Index of the choice.
        choice: u32,
        /// Why.
        reason: FinishReason,
    },
    /// Everything ended; what it used.
    Done(Usage),
}

/// A token that was produced, and how likely the model found it.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub chosen: Likely,
    /// The most likely tokens at its place, best first.
    pub top: Vec<Likely>,
}

/// A token and its natural log-probability by the model alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Likely {
    /// Its text, perhaps only a part of a character.
    pub bytes: Vec<u8>,
    /// At most 0, and finite; `None` for the first token of a prompt, which comes after nothing.
    pub logprob: Option<f32>,
}

/// Why a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// End of turn or stop string.
    Stop,
    /// `max_tokens` or the context is used up.
    Length,
    /// The model waits for the results of its calls.
    ToolCalls,
}

/// Tokens that a request really used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, counted once.
    pub prompt_tokens: u32,
    /// Of these, taken from a prefix cache.
    pub cached_tokens: u32,
    /// Tokens produced over all choices.
    pub completion_tokens: u32,
    /// Whether these figures were counted from events because the upstream gave none, or none that can be.
    pub estimated: bool,
}

impl Usage {
    /// Adds what another part of the same request used.
    pub fn add(&mut self, other: Self) {
        let sums = [
            (&mut self.prompt_tokens, other.prompt_tokens),
            (&mut self.cached_tokens, other.cached_tokens),
            (&mut self.completion_tokens, other.completion_tokens),
        ];
        for (sum, more) in sums {
            *sum = sum.saturating_add(more);
        }
        self.estimated |= other.estimated;
    }
}

/// Events of one request. Dropping it cancels the request.
pub type EventStream = BoxStream<'static, Result<Event, UpstreamError>>;

/// Someone who can serve a model: a local engine, another server of ours, a foreign one.
pub trait Upstream: Send + Sync {
    /// Starts a request. Resolves when the upstream has accepted it; the first content may still be far.
    ///
    /// # Errors
    /// [`UpstreamError`] says whose fault it is and whether another upstream may be tried.
    fn generate(
        &self,
        request: Arc<GenerateRequest>,
    ) -> BoxFuture<'_, Result<EventStream, UpstreamError>>;

    /// Counts the prompt's tokens as this upstream would; an upper bound where it has no tokenizer at hand.
    ///
    /// # Errors
    /// As [`Upstream::generate`].
    fn count_tokens(
        &self,
        request: Arc<GenerateRequest>,
    ) -> BoxFuture<'_, Result<u32, UpstreamError>> {
        Box::pin(async move { Ok(request.prompt_tokens_max()) })
    }

    /// Makes vectors of texts. Dropping the future gives the request up.
    ///
    /// # Errors
    /// As [`Upstream::generate`]; a model that makes no vectors refuses by its name.
    fn embed(
        &self,
        request: Arc<EmbedRequest>,
    ) -> BoxFuture<'_, Result<Embeddings, UpstreamError>> {
        let error = UpstreamErrorKind::no_embedder(&request.model).into();
        Box::pin(std::future::ready(Err(error)))
    }

    /// Stops a request by id; one that is unknown or over is no error.
    fn cancel(&self, request_id: &str);

    /// Figures of this moment.
    fn status(&self) -> UpstreamStatus;

    /// Work since the start; nothing for an upstream that does not tell.
    fn totals(&self) -> UpstreamTotals {
        UpstreamTotals::default()
    }

    /// Sequences that it can hold at once, running and waiting; `None` where it does not tell. A request for more can
    /// never be served, however long its client waits.
    fn sequences_in_flight_max(&self) -> Option<u32> {
        None
    }

    /// Takes no more requests, lets what runs go on for `grace`, and fails the rest with
    /// [`UpstreamErrorKind::ShuttingDown`]. Returns at once.
    fn drain(&self, grace: Duration) {
        let _ = grace;
    }

    /// Resolves when an upstream that was drained has ended and holds no memory of a model any more.
    fn ended(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// What its model holds in memory here; nothing where it runs elsewhere.
    fn resident(&self) -> Resident {
        Resident::default()
    }
}

/// Why an upstream did not serve a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct UpstreamError {
    /// What happened.
    pub kind: UpstreamErrorKind,
    /// Whose fault it is.
    pub origin: Origin,
    /// Whether another upstream may be tried, provided no content has reached the client.
    pub retry: Retry,
    /// What the request used until then; `None` where the upstream does not tell, or did nothing.
    pub usage: Option<Usage>,
}

impl UpstreamError {
    /// The error of a request that had used `usage` by then.
    #[must_use]
    pub fn after(self, usage: Usage) -> Self {
        Self {
            usage: Some(usage),
            ..self
        }
    }
}

impl From<UpstreamErrorKind> for UpstreamError {
    /// The error as a server sees it that does the work itself. One that forwards may know better whose fault it is.
    fn from(kind: UpstreamErrorKind) -> Self {
        use UpstreamErrorKind as Kind;
        let (origin, retry) = match kind {
            Kind::ContextLength { .. }
            | Kind::CompletionLength { .. }
            | Kind::InvalidRequest { .. }
            | Kind::Refused(_)
            | Kind::TooManyHops
            | Kind::NoSiteAllowed
            | Kind::Cancelled => (Origin::Client, Retry::Never),
            Kind::DeadlineExceeded => (Origin::Upstream, Retry::Never),
            Kind::Overloaded
            | Kind::NotReady
            | Kind::Unreachable
            | Kind::TimedOut
            | Kind::ShuttingDown
            | Kind::Internal => (Origin::Upstream, Retry::Elsewhere),
        };
        Self {
            kind,
            origin,
            retry,
            usage: None,
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamErrorKind {
    /// The prompt leaves no room to answer.
    #[error(
        "This model's maximum context length is {context} tokens, but the prompt has {prompt} tokens."
    )]
    ContextLength {
        /// Tokens of the prompt.
        prompt: u32,
        /// Tokens of the context.
        context: u32,
    },
    /// The prompt leaves room, but not for the completion that was asked for.
    #[error(
        "This model's maximum context length is {context} tokens, but {prompt} of the prompt and {completion} of the completion were asked for."
    )]
    CompletionLength {
        /// Tokens of the prompt.
        prompt: u32,
        /// Tokens asked for.
        completion: u32,
        /// Tokens of the context.
        context: u32,
    },
    /// The request is one that this upstream cannot serve; the text names the parameter.
    #[error("{message}")]
    InvalidRequest {
        /// The parameter at fault, as the client named it.
        param: Option<&'static str>,
        /// What is wrong and what to do.
        message: String,
    },
    /// Another server refused the request, for a reason that is its client's to know.
    #[error("another server refused the request")]
    Refused(Refusal),
    /// The request went through more servers than any honest route has.
    #[error("the request crossed too many servers")]
    TooManyHops,
    /// No room in the queue.
    #[error("the model is overloaded; try again shortly")]
    Overloaded,
    /// No site that its tenant and its purpose allow serves the model.
    #[error("no site that the request may go to serves the model")]
    NoSiteAllowed,
    /// The connection to the upstream could not be made, or died.
    #[error("the upstream cannot be reached")]
    Unreachable,
    /// Loading, draining or failed.
    #[error("the model is not ready")]
    NotReady,
    /// The server is shutting down and the grace period is over.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The deadline passed.
    #[error("the request's deadline passed")]
    DeadlineExceeded,
    /// The upstream says nothing.
    #[error("the upstream did not answer in time")]
    TimedOut,
    /// Cancelled by the client.
    #[error("the request was cancelled")]
    Cancelled,
    /// Anything else; details are in the log, never in an answer.
    #[error("the upstream failed")]
    Internal,
}

/// What another server says of a request that it refuses, within bounds and without control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its code for the fault, perhaps one that is unknown here.
    pub code: String,
    /// The parameter at fault.
    pub param: Option<String>,
    /// Its words.
    pub message: String,
}

impl UpstreamErrorKind {
    /// `model` generates text and makes no vectors.
    #[must_use]
    pub fn no_embedder(model: &str) -> Self {
        let message = format!(
            "The model '{model}' generates text and makes no embeddings; send this to an embedding model."
        );
        let param = Some("model");
        Self::InvalidRequest { param, message }
    }

    /// `model` makes vectors and generates no text.
    #[must_use]
    pub fn no_generator(model: &str) -> Self {
        let message = format!(
            "The model '{model}' makes embeddings and generates no text; send it to /v1/embeddings."
        );
        let param = Some("model");
        Self::InvalidRequest { param, message }
    }
}

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The client's.
    Client,
    /// This server's.
    Gateway,
    /// The upstream's.
    Upstream,
}

/// Whether an error may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Never: the answer would be the same.
    Never,
    /// On another upstream.
    Elsewhere,
}
