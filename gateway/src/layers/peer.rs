//! Tells peers, servers of ours that can prove it, from everyone else, and takes away what only a peer may say.
//!
//! A peer proves itself by the secret that all share, or by a certificate that the authority of peers signed. Behind this
//! layer a header of ours can be believed, whoever sent it: of others than peers it is not there any more.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hansa_config::secret::Secret;
use subtle::ConstantTimeEq;

use crate::federation::headers;
use crate::health::is_probe;
use crate::openai::error::ApiError;

/// In the extensions of a request that came from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer;

/// In the extensions of every request: who is at the other end of its connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caller {
    /// Where it calls from, where that is known.
    pub address: Option<SocketAddr>,
    /// Whether it showed a certificate that the authority of peers signed.
    pub certified: bool,
}

/// In the extensions of a request to a server that is there for peers alone: its names are the operator's own, and what a
/// web page could learn of it is whether it is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForPeersAlone;

/// How peers are known.
#[derive(Debug, Clone, Default)]
pub struct Peers {
    /// What they share; `None` where certificates alone count.
    pub secret: Option<Arc<Secret>>,
    /// Whether nobody else is served, because strangers reach this address and there are no keys.
    pub alone: bool,
}

/// [`Peers::identify`] as a layer.
pub async fn identify(State(peers): State<Peers>, mut request: Request, next: Next) -> Response {
    match peers.identify(&mut request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// A secret that is wrong.
struct Wrong;

impl Peers {
    /// Marks a peer's request, and refuses one whose secret is wrong. Whoever tries one means to be a peer, and to serve it as
    /// a stranger would hide the mistake.
    pub(crate) fn identify(&self, request: &mut Request) -> Result<(), ApiError> {
        let caller = request.extensions().get().copied().unwrap_or_default();
        let Ok(is_peer) = self.judge(request, caller) else {
            let address = caller.address.map(tracing::field::display);
            tracing::warn!(address, "a caller with a wrong peer secret was refused");
            return Err(ApiError::wrong_peer_secret());
        };
        request.headers_mut().remove(headers::PEER);
        if self.alone {
            request.extensions_mut().insert(ForPeersAlone);
        }
        if is_peer {
            request.extensions_mut().insert(Peer);
        } else if self.alone && !is_probe(request.uri().path()) {
            return Err(ApiError::invalid_key());
        } else if headers::any_of_ours(request.headers()) {
            for name in headers::OF_PEERS {
                request.headers_mut().remove(name);
            }
        }
        Ok(())
    }

    fn judge<B>(&self, request: &http::Request<B>, caller: Caller) -> Result<bool, Wrong> {
        let mut shown = request.headers().get_all(headers::PEER).iter();
        match (shown.next(), shown.next(), &self.secret) {
            (None, ..) => Ok(caller.certified),
            (Some(shown), None, Some(secret)) => {
                let same = secret.expose().as_bytes().ct_eq(shown.as_bytes());
                if bool::from(same) {
                    Ok(true)
                } else {
                    Err(Wrong)
                }
            }
            _ => Err(Wrong),
        }
    }
}
