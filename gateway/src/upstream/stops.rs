//! Which requests are in flight to one server, by id, and how one is ended from here.

use std::sync::Arc;

use dashmap::DashMap;
use tokio_util::sync::CancellationToken;

/// The requests in flight to one server, by id. As many as its link takes at once.
#[derive(Debug, Default)]
pub(super) struct Stops(Arc<DashMap<Arc<str>, CancellationToken>>);

impl Stops {
    /// A request that [`Stops::stop`] ends, and `closing` too, until what is returned is dropped.
    pub(super) fn enter(&self, id: &Arc<str>, closing: &CancellationToken) -> Ending {
        let token = closing.child_token();
        self.0.insert(Arc::clone(id), token.clone());
        Ending {
            token,
            stops: Arc::clone(&self.0),
            id: Arc::clone(id),
        }
    }

    /// Whether the request with this id is in flight.
    pub(super) fn has(&self, id: &str) -> bool {
        self.0.contains_key(id)
    }

    /// Ends the request with this id; one that is unknown or over is no error.
    pub(super) fn stop(&self, id: &str) {
        if let Some(token) = self.0.get(id) {
            token.cancel();
        }
    }
}

/// What ends one request from here.
#[derive(Debug)]
pub(super) struct Ending {
    /// Cancelled where it is to end.
    pub(super) token: CancellationToken,
    stops: Arc<DashMap<Arc<str>, CancellationToken>>,
    id: Arc<str>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.stops.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_stopped_by_its_id_while_it_runs() {
        let (stops, closing) = (Stops::default(), CancellationToken::new());
        let (one, other) = (
            stops.enter(&"one".into(), &closing),
            stops.enter(&"other".into(), &closing),
        );
        stops.stop("one");
        stops.stop("nobody");
        assert!(one.token.is_cancelled() && !other.token.is_cancelled());
        drop(one);
        assert!(!stops.has("one") && stops.has("other"));
        closing.cancel();
        assert!(other.token.is_cancelled());
    }
}
