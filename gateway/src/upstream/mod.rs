//! What a request is to whoever serves it, and what an upstream is to us.
//!
//! These types carry every hop: a local engine, a node, a site and a foreign server all take a [`GenerateRequest`] and
//! give back [`Event`]s. Nothing here knows OpenAI's JSON (`openai/` does) or a socket (each upstream does).

mod body;
mod chunk;
mod conversation;
pub mod discover;
#[cfg(feature = "engine")]
mod echo;
pub mod embedding;
mod error;
mod figures;
pub(crate) mod forward;
pub mod group;
mod journey;
pub mod link;
#[cfg(feature = "engine")]
pub mod local;
pub mod measured;
mod openai;
mod patience;
#[cfg(feature = "engine")]
mod pool;
pub mod purse;
mod queue;
mod refusal;
pub mod registry;
mod remote;
mod resume;
mod retry;
#[cfg(feature = "engine")]
mod room;
pub mod roster;
pub mod routed;
pub(crate) mod sse;
mod stops;
mod sums;
#[cfg(test)]
mod testing;
#[cfg(feature = "engine")]
mod tokenise;
pub mod tools;
pub mod usage;
mod vectors;
mod wishes;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::federation::reach::Part;

pub use self::body::Body;
pub use self::conversation::{Conversation, Message, Text};
pub use self::embedding::{EmbedInput, EmbedRequest, Embeddings};
pub use self::error::{Origin, Refusal, Retry, UpstreamError, UpstreamErrorKind};
pub use self::figures::{Readiness, Resident, UpstreamStatus, UpstreamTotals};
use self::purse::Purse;
#[cfg(test)]
pub(crate) use self::testing::test_request;
use self::tools::{CallHead, ToolSyntax, Tools};
pub use self::usage::Usage;
use self::usage::{Finished, Wanted};
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
    pub body: Body,
    /// What is to be continued.
    pub prompt: Prompt,
    /// Whether it may be asked for in one piece: its client wants it so, and it is short. Whoever only streams ignores it.
    pub whole: bool,
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
    /// What the first server will settle it under; whoever serves keeps its usage beside this, unread.
    pub charge: Option<Arc<str>>,
    /// What it is paid from, where that has a say in its way.
    pub purse: Option<Arc<dyn Purse>>,
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
    /// A conversation, calls and results of tools in it.
    Chat(Arc<Conversation>),
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
        let tools = self.tools.as_ref().map(|tools| tools.definitions.len());
        let tokens = match &self.prompt {
            Prompt::Tokens(ids) => ids.len(),
            Prompt::Text(text) => text.len() + TEMPLATE_TOKENS_PER_MESSAGE,
            Prompt::Chat(chat) => {
                let pieces = chat.len() + tools.map_or(0, |tools| tools + 1) + 1;
                self.body.prompt_bytes() + TEMPLATE_TOKENS_PER_MESSAGE * pieces
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

    /// Whether a request that may be answered in one piece is to be asked for so at this moment. Such an answer costs a
    /// fraction of a stream, and tells nothing of when its first token came.
    fn takes_whole(&self) -> bool {
        false
    }

    /// Whether it counts prompts itself. Where nobody does there is no need to ask: [`GenerateRequest::prompt_tokens_max`].
    fn counts_tokens(&self) -> bool {
        true
    }

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

    /// Stops a request by id; one that is unknown or over is no error. Its stream then says what it used.
    fn cancel(&self, request_id: &str);

    /// Whether what a request used can be asked for when its stream did not say: see [`Upstream::finished`].
    fn keeps_usage(&self) -> bool {
        false
    }

    /// What is kept there of requests that are over, until it is acknowledged or too old.
    fn finished(&self, wanted: Wanted) -> BoxFuture<'_, Vec<Finished>> {
        let _ = wanted;
        Box::pin(std::future::ready(Vec::new()))
    }

    /// Lets go what is kept of these requests: it is settled. Nobody waits for an answer.
    fn acknowledge(&self, request_ids: &[Arc<str>]) {
        let _ = request_ids;
    }

    /// Figures of this moment.
    fn status(&self) -> UpstreamStatus;

    /// The same by whose capacity it is, and the way there.
    fn parts(&self) -> Vec<Part> {
        vec![Part::here(self.status())]
    }

    /// Resolves when it says nothing any more though it had promised to; `None` for one that promises nothing. It may be
    /// dead, and who waits for its first word does well to ask another.
    fn silence(&self) -> Option<BoxFuture<'static, ()>> {
        None
    }

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
