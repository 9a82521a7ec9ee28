//! What clients read of each error that carries nothing of its own: what happened, and the way out.

use super::Fault;

impl Fault {
    /// The text of the faults that carry nothing worth saying.
    pub(super) const fn fixed_text(&self) -> &'static str {
        if let Some(text) = self.of_caller() {
            return text;
        }
        match self {
            Self::NotUtf8 => "The request body is not valid UTF-8.",
            Self::EmptyBody => "The request body is empty; send a JSON object.",
            Self::NotAnObject => "The request body must be a JSON object.",
            Self::BodyUnreadable => "The request body ended early or could not be read.",
            Self::InvalidHost => "The request must name its host once; send one 'Host' header.",
            Self::ForeignHost => {
                "The 'Host' of the request is not this machine; without API keys only 'localhost', 127.0.0.0/8 and \
                 [::1] are served."
            }
            Self::RouteNotFound => {
                "Unknown path. This server answers under /v1, for example POST /v1/chat/completions."
            }
            Self::MethodNotAllowed => {
                "This path does not take this method; the 'allow' header lists those it takes."
            }
            Self::RequestTimeout => "The request took too long to arrive.",
            Self::UnsupportedMediaType => {
                "The request body must be JSON; send it with 'Content-Type: application/json'."
            }
            Self::UnsupportedEncoding => {
                "Compressed request bodies are not supported; send it without 'Content-Encoding'."
            }
            Self::RateLimited { .. } => {
                "Rate limit reached; wait as long as the 'retry-after' header says."
            }
            Self::QuotaExhausted => {
                "The allocation of this project is used up; ask its owner for more."
            }
            Self::Cancelled => "The request was cancelled.",
            Self::Overloaded => "The model is overloaded; please try again shortly.",
            Self::NotReady => "The model is not ready yet; please try again shortly.",
            Self::ShuttingDown => "The server is shutting down; please try again.",
            Self::DeadlineExceeded => "The request ran out of time.",
            Self::TooManyHops => {
                "The request has crossed too many servers; their routes may form a circle."
            }
            Self::PeersOnly => {
                "This path is for servers of the same federation; they prove themselves by the secret or certificate of \
                 [peer]."
            }
            Self::WrongPeerSecret => {
                "The peer secret is wrong; both servers need the same one in peer.secret_file."
            }
            Self::PeerHeader => "A header of the server before this one makes no sense.",
            Self::NoSiteAllowed => {
                "No site that this request may go to serves the model; its tenant's countries and sites, its purpose and \
                 whether it opts in to experimental sites decide."
            }
            Self::Unreachable => "The connection to the server of the model was lost.",
            _ => "The server failed while handling the request; its log says why.",
        }
    }

    /// The text of those that are about who asks.
    const fn of_caller(&self) -> Option<&'static str> {
        Some(match self {
            Self::InvalidKey => {
                "Missing or unknown API key; send it as 'Authorization: Bearer KEY'."
            }
            Self::KeyExpired => {
                "This API key has expired or was revoked; ask its owner for another."
            }
            Self::EndpointNotAllowed => "This API key may not use this endpoint.",
            Self::PurposeNotAllowed => {
                "The purpose in 'x-hansa-purpose' is not one that this project may name."
            }
            Self::OperatorsOnly => "This needs the API key of an operator.",
            Self::ManagersOnly => "This needs the API key of a manager of the project.",
            Self::NoProject => {
                "The token is good, but gives no role in a project here, or none in the one that 'OpenAI-Project' names; ask \
                 the project's manager."
            }
            Self::IssuerAway => {
                "The identity provider that issued the token cannot be reached to check it; please try again shortly."
            }
            _ => return None,
        })
    }
}
