//! A request's body: declared as JSON, whole, and within its limit.

use std::error::Error;

use axum::extract::Request;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::Body as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use super::error::ApiError;
use crate::limits::BODY_COPIED_BYTES_MAX;

/// Reads the whole body, of at most `limit` bytes.
///
/// # Errors
/// A body that is too large is refused by its declared length before any of it is read, or else as soon as it passes
/// the limit.
pub(crate) async fn read(request: Request, limit: u64) -> Result<Bytes, ApiError> {
    check_headers(request.headers())?;
    let body = request.into_body();
    if body.size_hint().lower() > limit {
        return Err(ApiError::payload_too_large(limit));
    }
    let limited = Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX));
    match limited.collect().await {
        Ok(collected) => Ok(own(collected.to_bytes())),
        Err(error) => Err(fault(&*error, limit)),
    }
}

/// What came may be a slice of all that its connection has read, and hold that for as long as the request lasts. Little is
/// copied out of it.
fn own(body: Bytes) -> Bytes {
    match body.len() <= BODY_COPIED_BYTES_MAX {
        true => Bytes::copy_from_slice(&body),
        false => body,
    }
}

/// The type must be declared: a web page can send undeclared or plain text anywhere without asking, JSON it cannot.
fn check_headers(headers: &HeaderMap) -> Result<(), ApiError> {
    let identity = |value: &header::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|value| !identity(value))
    {
        return Err(ApiError::unsupported_encoding());
    }
    let declared = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    if declared.is_some_and(is_json) {
        Ok(())
    } else {
        Err(ApiError::unsupported_media_type())
    }
}

/// `application/json` or `application/...+json`, with any parameters.
fn is_json(content_type: &str) -> bool {
    let essence = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let subtype = essence.strip_prefix("application/");
    subtype.is_some_and(|subtype| subtype == "json" || subtype.ends_with("+json"))
}

/// Why the body did not arrive: an outer layer's own verdict, its limit, or a connection that broke.
fn fault(error: &(dyn Error + 'static), limit: u64) -> ApiError {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(verdict) = error.downcast_ref::<ApiError>() {
            return verdict.clone();
        }
        if error.is::<LengthLimitError>() {
            return ApiError::payload_too_large(limit);
        }
        cause = error.source();
    }
    ApiError::body_unreadable()
}
