//! What another server's error answer means for us: whose fault it is, and whether another server may be asked.
//!
//! The status and code decide; the words are passed on to the client only where the fault is the client's, and never
//! into the log.

use std::borrow::Cow;

use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use crate::limits;
use crate::upstream::{Origin, Refusal, Retry, UpstreamError, UpstreamErrorKind};

/// An error object as OpenAI has it; some servers put the fields at the top, or a bare text.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum WireError<'a> {
    /// As it should be.
    Object {
        /// Its words.
        #[serde(borrow, default)]
        message: Option<Cow<'a, str>>,
        /// The parameter at fault.
        #[serde(borrow, default)]
        param: Option<Cow<'a, str>>,
        /// A word, or at some servers the status.
        #[serde(default)]
        code: Option<Value>,
    },
    /// Words alone.
    Text(#[serde(borrow)] Cow<'a, str>),
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    error: WireError<'a>,
}

/// What an answer of `status` with `body` means; `ours` where a server of ours gave it.
pub(super) fn of_answer(status: StatusCode, body: &[u8], ours: bool) -> UpstreamError {
    let answer: Option<Answer<'_>> = serde_json::from_slice(body).ok();
    let error = answer.map(|answer| answer.error);
    if ours && let Some(kind) = error.as_ref().and_then(known) {
        return kind.into();
    }
    match status.as_u16() {
        // That server's own candidates: others may stand where the request may go.
        403 if ours && error.as_ref().and_then(WireError::code) == Some("no_site_allowed") => {
            UpstreamError {
                retry: Retry::Elsewhere,
                ..UpstreamErrorKind::NoSiteAllowed.into()
            }
        }
        400 | 413 | 422 => UpstreamErrorKind::Refused(refusal(error.as_ref())).into(),
        404 | 429 | 503 => UpstreamErrorKind::Overloaded.into(),
        // Our key or secret is wrong: no fault of the client's, and another server may know us.
        401 | 403 => UpstreamError {
            origin: Origin::Gateway,
            ..UpstreamErrorKind::Internal.into()
        },
        _ => UpstreamErrorKind::Internal.into(),
    }
}

/// What an error without a status means; `None` where its code says nothing.
pub(super) fn of_code(error: &WireError<'_>, ours: bool) -> Option<UpstreamErrorKind> {
    if !ours {
        return None;
    }
    known(error).or_else(|| {
        let refused = error
            .code()
            .is_some_and(|code| code.starts_with("invalid_"));
        refused.then(|| UpstreamErrorKind::Refused(refusal(Some(error))))
    })
}

/// Codes of our own that say more than their status.
fn known(error: &WireError<'_>) -> Option<UpstreamErrorKind> {
    match error.code()? {
        "overloaded" => Some(UpstreamErrorKind::Overloaded),
        "model_not_ready" | "model_not_found" => Some(UpstreamErrorKind::NotReady),
        "shutting_down" => Some(UpstreamErrorKind::ShuttingDown),
        "deadline_exceeded" => Some(UpstreamErrorKind::DeadlineExceeded),
        "cancelled" => Some(UpstreamErrorKind::Cancelled),
        "too_many_hops" => Some(UpstreamErrorKind::TooManyHops),
        _ => None,
    }
}

/// The words for the client, cut and cleaned.
fn refusal(error: Option<&WireError<'_>>) -> Refusal {
    let (message, param, code) = match error {
        Some(WireError::Object { message, param, .. }) => {
            let code = error.and_then(WireError::code);
            (message.as_deref(), param.as_deref(), code)
        }
        Some(WireError::Text(message)) => (Some(&**message), None, None),
        None => (None, None, None),
    };
    Refusal {
        code: clean(code.unwrap_or("invalid_value")),
        param: param.map(clean),
        message: clean(message.unwrap_or("The server behind this one refused the request.")),
    }
}

fn clean(text: &str) -> String {
    let visible = text.chars().filter(|c| !c.is_control());
    visible.take(limits::REFUSAL_CHARS_MAX).collect()
}

impl WireError<'_> {
    pub(super) fn code(&self) -> Option<&str> {
        match self {
            Self::Object { code, .. } => code.as_ref()?.as_str(),
            Self::Text(_) => None,
        }
    }
}

impl UpstreamError {
    /// Whether another server may be asked in place of this one.
    #[must_use]
    pub fn may_move(&self) -> bool {
        self.retry == Retry::Elsewhere
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, body: &str, ours: bool) -> UpstreamError {
        of_answer(StatusCode::from_u16(status).unwrap(), body.as_bytes(), ours)
    }

    fn object(code: &str) -> String {
        format!(r#"{{"error":{{"message":"m","type":"t","param":"n","code":"{code}"}}}}"#)
    }

    #[test]
    fn our_own_codes_keep_their_meaning() {
        use UpstreamErrorKind as Kind;
        for (status, code, kind) in [
            (503, "model_not_ready", Kind::NotReady),
            (503, "shutting_down", Kind::ShuttingDown),
            (504, "deadline_exceeded", Kind::DeadlineExceeded),
            (508, "too_many_hops", Kind::TooManyHops),
            (404, "model_not_found", Kind::NotReady),
        ] {
            assert_eq!(judged(status, &object(code), true).kind, kind);
        }
        let foreign = judged(504, &object("deadline_exceeded"), false);
        assert_eq!(foreign.kind, Kind::Internal);
        assert!(foreign.may_move());
    }

    #[test]
    fn a_refusal_is_told_and_never_tried_again() {
        let error = judged(400, &object("unsupported_value"), true);
        assert!(!error.may_move());
        let refusal = Refusal {
            code: "unsupported_value".to_owned(),
            param: Some("n".to_owned()),
            message: "m".to_owned(),
        };
        assert_eq!(error.kind, UpstreamErrorKind::Refused(refusal));
    }

    #[test]
    fn a_wrong_key_is_ours_to_mend() {
        let error = judged(401, "", false);
        assert_eq!(
            (error.kind, error.origin),
            (UpstreamErrorKind::Internal, Origin::Gateway)
        );
    }

    #[test]
    fn whatever_an_answer_says_is_bounded() {
        let long = format!(r#"{{"error":"{}\u0007"}}"#, "x".repeat(1 << 20));
        let number = r#"{"error":{"message":"m","code":400}}"#;
        for body in ["", "<html>", "{}", r#"{"error":7}"#, number, &long] {
            let UpstreamErrorKind::Refused(refusal) = judged(400, body, false).kind else {
                panic!("{body:.20}");
            };
            assert!(refusal.message.chars().count() <= limits::REFUSAL_CHARS_MAX);
            assert!(!refusal.message.contains('\u{7}'));
        }
    }
}
