//! Every error that a client can see: its HTTP status, its JSON and whether to try again are decided here alone (I9).
//!
//! The set is closed: an [`ApiError`] is made by the constructors below and by nothing else, so neither a
//! cause's text nor content of a request can slip into an answer (I8). What a client wrote is repeated only
//! where it is a name (of a field or a model), and then shortened.

mod words;

use std::fmt;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use super::fault::ParamFault;
use crate::limits;
use crate::upstream::{Refusal, UpstreamError, UpstreamErrorKind};

/// An error as clients of OpenAI's API know it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ApiError(Box<Fault>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    NotUtf8,
    EmptyBody,
    NotAnObject,
    Json(String),
    Param {
        param: String,
        fault: ParamFault,
    },
    Refused {
        param: Option<&'static str>,
        message: String,
    },
    ContextLength {
        prompt: u32,
        context: u32,
    },
    CompletionLength {
        prompt: u32,
        completion: u32,
        context: u32,
    },
    BodyUnreadable,
    InvalidHost,
    InvalidKey,
    ForeignHost,
    ModelNotFound(String),
    RouteNotFound,
    MethodNotAllowed,
    RequestTimeout,
    InvalidModel(String),
    ModelExists(String),
    PayloadTooLarge {
        limit: u64,
    },
    UnsupportedMediaType,
    UnsupportedEncoding,
    KeyExpired,
    EndpointNotAllowed,
    ModelNotAllowed(String),
    PurposeNotAllowed,
    OperatorsOnly,
    ManagersOnly,
    NoProject,
    IssuerAway,
    /// What an operator asked for does not fit; the text names what and why.
    Unfit(String),
    /// What an operator asked for is not there.
    Missing(String),
    RateLimited {
        retry_after: Duration,
    },
    RateNeverFits {
        what: &'static str,
        limit: u64,
    },
    QuotaExhausted,
    Cancelled,
    Internal,
    Overloaded,
    NotReady,
    ShuttingDown,
    DeadlineExceeded,
    TooManyHops,
    PeersOnly,
    WrongPeerSecret,
    PeerHeader,
    /// In another server's words.
    Relayed(Refusal),
    NoSiteAllowed,
    Unreachable,
}

impl ApiError {
    /// A field is missing, wrong or not supported; `param` is its path, such as `messages[0].content`.
    #[must_use]
    pub(super) fn param(param: impl fmt::Display, fault: ParamFault) -> Self {
        let param = shortened(&param.to_string());
        Self::new(Fault::Param { param, fault })
    }

    /// The body is not JSON; `what` is the parser's word and place, free of content.
    #[must_use]
    pub(crate) fn json(what: String) -> Self {
        Self::new(Fault::Json(what))
    }

    /// Nobody here serves `model`.
    #[must_use]
    pub fn model_not_found(model: &str) -> Self {
        Self::new(Fault::ModelNotFound(shortened(model)))
    }

    /// The key may not use `model`.
    #[must_use]
    pub fn model_not_allowed(model: &str) -> Self {
        Self::new(Fault::ModelNotAllowed(shortened(model)))
    }

    /// A request for more than `limit` of `what`, such as "tokens per minute", can never be admitted.
    #[must_use]
    pub fn rate_never_fits(what: &'static str, limit: u64) -> Self {
        Self::new(Fault::RateNeverFits { what, limit })
    }

    /// What an operator asked for does not fit; `message` says what and why, in names alone.
    #[must_use]
    pub(crate) fn unfit(message: String) -> Self {
        Self::new(Fault::Unfit(message))
    }

    /// What an operator asked for is not there; `message` names it.
    #[must_use]
    pub(crate) fn missing(message: String) -> Self {
        Self::new(Fault::Missing(message))
    }

    /// An operator described a model that cannot be; every problem is a line of `problems`.
    #[must_use]
    pub(crate) fn invalid_model(problems: String) -> Self {
        Self::new(Fault::InvalidModel(problems))
    }

    /// An operator added a model whose id is taken.
    #[must_use]
    pub(crate) fn model_exists(model: &str) -> Self {
        Self::new(Fault::ModelExists(shortened(model)))
    }

    /// The body is larger than `limit` bytes.
    #[must_use]
    pub fn payload_too_large(limit: u64) -> Self {
        Self::new(Fault::PayloadTooLarge { limit })
    }

    /// Too many requests or tokens for the moment.
    #[must_use]
    pub fn rate_limited(retry_after: Duration) -> Self {
        Self::new(Fault::RateLimited { retry_after })
    }

    fn new(fault: Fault) -> Self {
        Self(Box::new(fault))
    }
}

/// Constructors of the faults that carry nothing.
macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident => $fault:ident),* $(,)?) => {
        impl ApiError {
            $($(#[$doc])* #[must_use] pub fn $name() -> Self { Self::new(Fault::$fault) })*
        }
    };
}

plain! {
    /// The body is not UTF-8.
    not_utf8 => NotUtf8,
    /// There is no body.
    empty_body => EmptyBody,
    /// The body is JSON, but not an object.
    not_an_object => NotAnObject,
    /// The body broke off.
    body_unreadable => BodyUnreadable,
    /// No key, or one that is not known.
    invalid_key => InvalidKey,
    /// The key's time is over, or it was revoked.
    key_expired => KeyExpired,
    /// The key may not use this endpoint.
    endpoint_not_allowed => EndpointNotAllowed,
    /// The tenant may not name this purpose.
    purpose_not_allowed => PurposeNotAllowed,
    /// The key is not an operator's.
    operators_only => OperatorsOnly,
    /// The key is neither a manager's nor an operator's.
    managers_only => ManagersOnly,
    /// The token is good, and gives no role in a project here or in the one that was named.
    no_project => NoProject,
    /// Whoever issued the token cannot be asked whether it is good.
    issuer_away => IssuerAway,
    /// No `Host`, or more than one.
    invalid_host => InvalidHost,
    /// The request is addressed to another machine.
    foreign_host => ForeignHost,
    /// No such path.
    route_not_found => RouteNotFound,
    /// The path exists, the method does not.
    method_not_allowed => MethodNotAllowed,
    /// The client took too long to send its request.
    request_timeout => RequestTimeout,
    /// The body is not declared as JSON.
    unsupported_media_type => UnsupportedMediaType,
    /// The body is compressed.
    unsupported_encoding => UnsupportedEncoding,
    /// The tenant's allocation is used up.
    quota_exhausted => QuotaExhausted,
    /// Someone cancelled the request.
    cancelled => Cancelled,
    /// Our fault; details are in the log.
    internal => Internal,
    /// No room in the queue.
    overloaded => Overloaded,
    /// The model is loading, warming up or failed.
    not_ready => NotReady,
    /// The server drains.
    shutting_down => ShuttingDown,
    /// The request ran out of time.
    deadline_exceeded => DeadlineExceeded,
    /// The request went around in a circle of servers.
    too_many_hops => TooManyHops,
    /// The path is for servers of ours.
    peers_only => PeersOnly,
    /// The caller means to be a peer and is none.
    wrong_peer_secret => WrongPeerSecret,
    /// A header that only peers send makes no sense.
    peer_header => PeerHeader,
    /// No site that the request may go to serves the model.
    no_site_allowed => NoSiteAllowed,
    /// The connection to whoever serves could not be made, or died.
    unreachable => Unreachable,
}

impl From<UpstreamError> for ApiError {
    fn from(error: UpstreamError) -> Self {
        match error.kind {
            UpstreamErrorKind::ContextLength { prompt, context } => {
                Self::new(Fault::ContextLength { prompt, context })
            }
            UpstreamErrorKind::CompletionLength {
                prompt,
                completion,
                context,
            } => Self::new(Fault::CompletionLength {
                prompt,
                completion,
                context,
            }),
            UpstreamErrorKind::InvalidRequest { param, message } => {
                Self::new(Fault::Refused { param, message })
            }
            UpstreamErrorKind::Overloaded => Self::overloaded(),
            UpstreamErrorKind::NotReady => Self::not_ready(),
            UpstreamErrorKind::NoSiteAllowed => Self::no_site_allowed(),
            UpstreamErrorKind::NothingLeft => Self::quota_exhausted(),
            UpstreamErrorKind::Unreachable => Self::unreachable(),
            UpstreamErrorKind::ShuttingDown => Self::shutting_down(),
            UpstreamErrorKind::DeadlineExceeded => Self::deadline_exceeded(),
            UpstreamErrorKind::Cancelled => Self::cancelled(),
            UpstreamErrorKind::Refused(refusal) => Self::new(Fault::Relayed(refusal)),
            UpstreamErrorKind::TooManyHops => Self::too_many_hops(),
            UpstreamErrorKind::TimedOut | UpstreamErrorKind::Internal => Self::internal(),
        }
    }
}

/// What clients decide by.
struct Verdict {
    status: u16,
    kind: &'static str,
    code: &'static str,
    /// `x-should-retry`; `None` leaves it to the client's own rule.
    retry: Option<bool>,
}

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";
const PERMISSION: &str = "permission_error";

impl Fault {
    const fn verdict(&self) -> Verdict {
        let (status, kind, code, retry) = match self {
            Self::NotUtf8 | Self::EmptyBody | Self::NotAnObject | Self::Json(_) => {
                (400, INVALID, "invalid_json", Some(false))
            }
            Self::Param { fault, .. } => (400, INVALID, fault.code(), Some(false)),
            Self::Refused { .. } => (400, INVALID, "invalid_value", Some(false)),
            Self::ContextLength { .. } | Self::CompletionLength { .. } => {
                (400, INVALID, "context_length_exceeded", Some(false))
            }
            Self::BodyUnreadable => (400, INVALID, "body_unreadable", Some(false)),
            Self::InvalidModel(_) => (400, INVALID, "invalid_model", Some(false)),
            Self::ModelExists(_) => (409, INVALID, "model_exists", Some(false)),
            Self::InvalidHost => (400, INVALID, "invalid_host", Some(false)),
            Self::ForeignHost => (403, INVALID, "host_not_allowed", Some(false)),
            Self::InvalidKey => (401, INVALID, "invalid_api_key", Some(false)),
            Self::KeyExpired => (401, INVALID, "invalid_api_key", Some(false)),
            Self::EndpointNotAllowed => (403, PERMISSION, "endpoint_not_allowed", Some(false)),
            Self::ModelNotAllowed(_) => (403, PERMISSION, "model_not_allowed", Some(false)),
            Self::PurposeNotAllowed => (403, PERMISSION, "purpose_not_allowed", Some(false)),
            Self::OperatorsOnly => (403, PERMISSION, "operators_only", Some(false)),
            Self::ManagersOnly => (403, PERMISSION, "managers_only", Some(false)),
            Self::NoProject => (403, PERMISSION, "no_project", Some(false)),
            Self::IssuerAway => (503, SERVER, "identity_provider_unreachable", Some(true)),
            Self::Unfit(_) => (400, INVALID, "invalid_value", Some(false)),
            Self::Missing(_) => (404, INVALID, "not_found", Some(false)),
            Self::ModelNotFound(_) => (404, INVALID, "model_not_found", Some(false)),
            Self::RouteNotFound => (404, INVALID, "unknown_url", Some(false)),
            Self::MethodNotAllowed => (405, INVALID, "method_not_allowed", Some(false)),
            Self::RequestTimeout => (408, INVALID, "request_timeout", Some(true)),
            Self::PayloadTooLarge { .. } => (413, INVALID, "payload_too_large", Some(false)),
            Self::UnsupportedMediaType => (415, INVALID, "unsupported_media_type", Some(false)),
            Self::UnsupportedEncoding => (415, INVALID, "unsupported_encoding", Some(false)),
            Self::RateLimited { .. } => {
                (429, "rate_limit_error", "rate_limit_exceeded", Some(true))
            }
            Self::RateNeverFits { .. } => {
                (429, "rate_limit_error", "rate_limit_exceeded", Some(false))
            }
            // Trying again cannot help, and clients that did have made storms of it.
            Self::QuotaExhausted => (429, "insufficient_quota", "insufficient_quota", Some(false)),
            Self::Cancelled => (499, INVALID, "cancelled", Some(false)),
            Self::Internal => (500, SERVER, "internal_error", None),
            Self::Overloaded => (503, SERVER, "overloaded", Some(true)),
            Self::NotReady => (503, SERVER, "model_not_ready", Some(true)),
            Self::ShuttingDown => (503, SERVER, "shutting_down", Some(true)),
            // All the time there was is gone; another round would take as long.
            Self::DeadlineExceeded => (504, SERVER, "deadline_exceeded", Some(false)),
            Self::TooManyHops => (508, SERVER, "too_many_hops", Some(false)),
            Self::PeersOnly => (403, INVALID, "peers_only", Some(false)),
            Self::WrongPeerSecret => (401, INVALID, "wrong_peer_secret", Some(false)),
            Self::PeerHeader => (400, INVALID, "invalid_peer_header", Some(false)),
            // What it is stands in its code; all of them are refusals of the request as such.
            Self::Relayed(_) => (400, INVALID, "invalid_value", Some(false)),
            Self::NoSiteAllowed => (403, PERMISSION, "no_site_allowed", Some(false)),
            Self::Unreachable => (502, SERVER, "upstream_unreachable", Some(true)),
        };
        Verdict {
            status,
            kind,
            code,
            retry,
        }
    }

    /// The code for the client: another server's own where its words are passed on.
    fn code(&self, own: &'static str) -> &str {
        match self {
            Self::Relayed(refusal) => &refusal.code,
            _ => own,
        }
    }

    fn param(&self) -> Option<&str> {
        match self {
            Self::Param { param, .. } => Some(param),
            Self::Refused { param, .. } => *param,
            Self::ModelNotFound(_) | Self::ModelNotAllowed(_) => Some("model"),
            Self::Relayed(refusal) => refusal.param.as_deref(),
            Self::ModelExists(_) => Some("id"),
            _ => None,
        }
    }

    /// How long a client should wait before it tries again.
    const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after } => Some(*retry_after),
            Self::Overloaded | Self::ShuttingDown => Some(Duration::from_secs(1)),
            Self::NotReady => Some(Duration::from_secs(5)),
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Param { param, fault } => return fault.explain(param, f),
            Self::Refused { message, .. } | Self::Unfit(message) | Self::Missing(message) => {
                return f.write_str(message);
            }
            Self::Relayed(refusal) => return f.write_str(&refusal.message),
            Self::Json(what) => return write!(f, "The request body is not valid JSON: {what}."),
            Self::ContextLength { prompt, context } => {
                return write!(
                    f,
                    "This model's maximum context length is {context} tokens. However, your prompt has \
                     {prompt} tokens. Please shorten it so that there is room for an answer."
                );
            }
            Self::CompletionLength {
                prompt,
                completion,
                context,
            } => {
                return write!(
                    f,
                    "This model's maximum context length is {context} tokens. However, your prompt has {prompt} tokens \
                     and you asked for {completion} more. Please shorten the prompt or ask for fewer."
                );
            }
            Self::ModelNotFound(model) => {
                return write!(
                    f,
                    "The model '{model}' does not exist here; GET /v1/models lists those that do."
                );
            }
            Self::ModelNotAllowed(model) => {
                return write!(f, "This API key may not use the model '{model}'.");
            }
            Self::RateNeverFits { what, limit } => {
                return write!(
                    f,
                    "The request needs more than the limit of {limit} {what}; shorten it, or ask for fewer tokens."
                );
            }
            Self::InvalidModel(problems) => return f.write_str(problems),
            Self::ModelExists(model) => {
                return write!(
                    f,
                    "A model '{model}' is served already; delete it first, or choose another id."
                );
            }
            Self::PayloadTooLarge { limit } => {
                return write!(
                    f,
                    "The request body is larger than the limit of {limit} bytes."
                );
            }
            _ => {}
        }
        f.write_str(self.fixed_text())
    }
}

/// The wire form. All four keys are always there.
#[derive(Serialize)]
struct Wire<'a> {
    error: WireError<'a>,
}

#[derive(Serialize)]
struct WireError<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'a str>,
    code: &'a str,
}

impl ApiError {
    /// HTTP status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.0.verdict().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Code that programs decide by, such as `model_not_found`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.0.verdict().code
    }

    /// The JSON object, as a whole body and as the payload of an event in a stream alike.
    #[must_use]
    pub fn to_json(&self) -> Bytes {
        let verdict = self.0.verdict();
        let error = WireError {
            message: &self.0.to_string(),
            r#type: verdict.kind,
            param: self.0.param(),
            code: self.0.code(verdict.code),
        };
        // Strings and options always serialise; an empty body would still carry the status.
        serde_json::to_vec(&Wire { error })
            .unwrap_or_default()
            .into()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), self.to_json()).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if let Some(retry) = self.0.verdict().retry {
            let value = HeaderValue::from_static(if retry { "true" } else { "false" });
            headers.insert("x-should-retry", value);
        }
        if let Some(wait) = self.0.retry_after() {
            let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            headers.insert(header::RETRY_AFTER, wait_ms.div_ceil(1000).into());
            headers.insert("retry-after-ms", wait_ms.into());
        }
        if matches!(*self.0, Fault::InvalidKey | Fault::KeyExpired) {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // For logs and metrics further out, which must not parse bodies.
        response.extensions_mut().insert(self);
        response
    }
}

/// A client's own word, short enough to be repeated.
fn shortened(name: &str) -> String {
    match name.char_indices().nth(limits::ERROR_ECHO_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name.to_owned(),
    }
}
