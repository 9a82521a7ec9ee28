//! Why an upstream did not serve a request: what happened, whose fault it is, and whether another may be tried.

use super::Usage;

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
            | Kind::NothingLeft
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
    /// Wherever it may go, not enough is left of its tenant's allocation.
    #[error("no site with enough left of its tenant's allocation serves the model")]
    NothingLeft,
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
    /// Why a request was ended from here: its server closes, or its client has left.
    pub(super) const fn ended(closing: bool) -> Self {
        match closing {
            true => Self::ShuttingDown,
            false => Self::Cancelled,
        }
    }

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
