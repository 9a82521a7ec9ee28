//! Gives every request an id, and every answer the header that tells it.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::{NoContext, Timestamp, Uuid};

use crate::clock::Clock;
use crate::limits::REQUEST_ID_BYTES_MAX;
use crate::stack::RequestId;

/// Carries the id in both directions.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The request's id, which is beside it from now on: the client's where that is sane, a new one otherwise.
pub(crate) fn assign(clock: &Clock, request: &mut Request) -> Arc<str> {
    let id = chosen_by_client(request.headers()).unwrap_or_else(|| make(clock));
    request.extensions_mut().insert(RequestId(Arc::clone(&id)));
    id
}

/// Tells the id on whatever the answer is.
pub(crate) fn echo(id: &str, response: &mut Response) {
    // An id is visible ASCII whoever made it, so this never fails.
    if let Ok(value) = HeaderValue::from_str(id) {
        response.headers_mut().insert(HEADER, value);
    }
}

fn chosen_by_client(headers: &HeaderMap) -> Option<Arc<str>> {
    let id = headers.get(HEADER)?.to_str().ok()?;
    is_sane(id).then(|| Arc::from(id))
}

/// An id goes into log lines and headers of other servers: no spaces, quotes or control characters.
fn is_sane(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&byte);
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(allowed)
}

fn make(clock: &Clock) -> Arc<str> {
    let now_s = u64::try_from(clock.unix_s()).unwrap_or(0);
    let id = Uuid::new_v7(Timestamp::from_unix(NoContext, now_s, 0));
    Arc::from(id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sane_ids_are_taken_over() {
        let long = "a".repeat(REQUEST_ID_BYTES_MAX);
        for id in ["req-1", "0190b8f0-1c9a-7000", "a/b:c+d=e@f", &long] {
            assert!(is_sane(id), "{id}");
        }
        let too_long = "a".repeat(REQUEST_ID_BYTES_MAX + 1);
        for id in ["", "a b", "a\"b", "a\tb", "ü", "a{b}", &too_long] {
            assert!(!is_sane(id), "{id}");
        }
    }

    #[test]
    fn made_ids_are_sane_and_differ() {
        let clock = Clock::manual(1_700_000_000);
        let (one, other) = (make(&clock), make(&clock));
        assert!(is_sane(&one));
        assert_ne!(one, other);
    }
}
