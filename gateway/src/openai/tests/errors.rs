//! Every error's place: status, type, code, `x-should-retry` and `retry-after`.

use std::time::Duration;

use axum::response::IntoResponse as _;
use http::HeaderMap;

use super::super::error::ApiError;
use super::super::fault::ParamFault;
use super::failure;
use crate::upstream::UpstreamErrorKind;

fn check(error: &ApiError, expected: &str) {
    let response = error.clone().into_response();
    let body: serde_json::Value = serde_json::from_slice(&error.to_json()).unwrap();
    let body = &body["error"];
    let got = format!(
        "{} {} {} {} {}",
        response.status().as_u16(),
        body["type"].as_str().unwrap(),
        body["code"].as_str().unwrap(),
        header(response.headers(), "x-should-retry"),
        header(response.headers(), "retry-after"),
    );
    assert_eq!(got, expected, "{error}");
    assert_eq!(body["message"].as_str().unwrap(), error.to_string());
    assert_eq!(body["code"], error.code());
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .map_or("-", |value| value.to_str().unwrap())
}

#[test]
fn what_a_client_did_wrong() {
    let invalid = [
        (ApiError::not_utf8(), "400", "invalid_json false -"),
        (ApiError::empty_body(), "400", "invalid_json false -"),
        (ApiError::not_an_object(), "400", "invalid_json false -"),
        (
            ApiError::json("x".to_owned()),
            "400",
            "invalid_json false -",
        ),
        (
            ApiError::param("n", ParamFault::Missing),
            "400",
            "missing_required_parameter false -",
        ),
        (
            ApiError::body_unreadable(),
            "400",
            "body_unreadable false -",
        ),
        (ApiError::invalid_host(), "400", "invalid_host false -"),
        (ApiError::foreign_host(), "403", "host_not_allowed false -"),
        (ApiError::invalid_key(), "401", "invalid_api_key false -"),
        (
            ApiError::model_not_found("x"),
            "404",
            "model_not_found false -",
        ),
        (ApiError::route_not_found(), "404", "unknown_url false -"),
        (
            ApiError::method_not_allowed(),
            "405",
            "method_not_allowed false -",
        ),
        (ApiError::request_timeout(), "408", "request_timeout true -"),
        (
            ApiError::payload_too_large(7),
            "413",
            "payload_too_large false -",
        ),
        (
            ApiError::unsupported_media_type(),
            "415",
            "unsupported_media_type false -",
        ),
        (
            ApiError::unsupported_encoding(),
            "415",
            "unsupported_encoding false -",
        ),
        (ApiError::cancelled(), "499", "cancelled false -"),
    ];
    for (error, status, rest) in invalid {
        check(&error, &format!("{status} invalid_request_error {rest}"));
    }
    let response = ApiError::invalid_key().into_response();
    assert_eq!(header(response.headers(), "www-authenticate"), "Bearer");
}

#[test]
fn what_a_client_had_too_much_of() {
    let limited = ApiError::rate_limited(Duration::from_millis(1_500));
    check(&limited, "429 rate_limit_error rate_limit_exceeded true 2");
    assert_eq!(
        header(limited.into_response().headers(), "retry-after-ms"),
        "1500"
    );
    check(
        &ApiError::quota_exhausted(),
        "429 insufficient_quota insufficient_quota false -",
    );
}

#[test]
fn what_went_wrong_here() {
    let server = [
        (ApiError::internal(), "500 server_error internal_error - -"),
        (ApiError::overloaded(), "503 server_error overloaded true 1"),
        (
            ApiError::not_ready(),
            "503 server_error model_not_ready true 5",
        ),
        (
            ApiError::shutting_down(),
            "503 server_error shutting_down true 1",
        ),
        (
            ApiError::deadline_exceeded(),
            "504 server_error deadline_exceeded false -",
        ),
        (
            ApiError::too_many_hops(),
            "508 server_error too_many_hops false -",
        ),
    ];
    for (error, expected) in server {
        check(&error, expected);
    }
}

#[test]
fn what_an_upstream_says_is_told_as_ours() {
    let context = UpstreamErrorKind::ContextLength {
        prompt: 9,
        context: 8,
    };
    let invalid = UpstreamErrorKind::InvalidRequest {
        param: Some("n"),
        message: "no".to_owned(),
    };
    let upstream = [
        (
            context,
            "400 invalid_request_error context_length_exceeded false -",
        ),
        (invalid, "400 invalid_request_error invalid_value false -"),
        (
            UpstreamErrorKind::Overloaded,
            "503 server_error overloaded true 1",
        ),
        (
            UpstreamErrorKind::NotReady,
            "503 server_error model_not_ready true 5",
        ),
        (
            UpstreamErrorKind::ShuttingDown,
            "503 server_error shutting_down true 1",
        ),
        (
            UpstreamErrorKind::DeadlineExceeded,
            "504 server_error deadline_exceeded false -",
        ),
        (
            UpstreamErrorKind::NoSiteAllowed,
            "403 permission_error no_site_allowed false -",
        ),
        (
            UpstreamErrorKind::Unreachable,
            "502 server_error upstream_unreachable true -",
        ),
        (
            UpstreamErrorKind::Cancelled,
            "499 invalid_request_error cancelled false -",
        ),
        (
            UpstreamErrorKind::Internal,
            "500 server_error internal_error - -",
        ),
    ];
    for (kind, expected) in upstream {
        check(&ApiError::from(failure(kind)), expected);
    }
}

#[test]
fn a_long_name_is_not_repeated_whole() {
    let error = ApiError::model_not_found(&"é".repeat(10_000));
    assert!(error.to_string().len() < 400);
}
