//! Good or not, and why not. A request is good only when its stream ended the way a whole answer ends; everything else
//! has a class. Strict on purpose: a broken stream is short, and short looks fast.

use std::borrow::Cow;

use super::answer::{ModelSeen, Told};
use super::calls::{Calls, json};
use super::prompt::Ask;
use crate::workload::form::{Demand, Form};

/// The judgement of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Finish reason, `[DONE]`, no error inside the stream, the model asked for, consistent usage, some content.
    Good,
    /// Anything else.
    Failed(Failure),
    /// Nothing was wrong until the client went away, as the scenario told it to: neither good nor failed.
    Aborted,
}

/// What was wrong. Holds no word of a prompt or an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", class.name())]
pub struct Failure {
    /// The class.
    pub class: Class,
    /// The particular reason, in a few words; for error answers the server's error code.
    pub reason: Cow<'static, str>,
}

/// Classes of failure, in the order of a request's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The client could not send it in time: its time ran out, or a limit of the client was reached.
    NotSent,
    /// No connection.
    Connect,
    /// The connection was lost, or spoke no HTTP, before the response headers.
    NoAnswer,
    /// Its time limit passed.
    Timeout,
    /// Status 429.
    Http429,
    /// Another status of 400 to 499.
    Http4xx,
    /// A status of 500 to 599.
    Http5xx,
    /// A status that is neither 200 nor an error.
    HttpOther,
    /// Not an event stream of completion chunks.
    MalformedSse,
    /// An error inside a stream that began with status 200.
    StreamError,
    /// The stream ended before its finish reason or `[DONE]`.
    Truncated,
    /// Another model answered, or no model was named.
    WrongModel,
    /// No usage, or one that contradicts the stream; with the token check, text that is not what its seed leads to.
    TokenMismatch,
    /// A whole stream without content, or texts without vectors.
    Empty,
    /// A whole answer that has not the form that was asked for: no JSON, or tool calls that are missing or torn.
    WrongForm,
    /// JSON that does not keep the schema that was asked for, in an answer or in the arguments of a strict tool's call.
    SchemaMismatch,
}

/// Every class, in order.
pub const CLASSES: [Class; 16] = [
    Class::NotSent,
    Class::Connect,
    Class::NoAnswer,
    Class::Timeout,
    Class::Http429,
    Class::Http4xx,
    Class::Http5xx,
    Class::HttpOther,
    Class::MalformedSse,
    Class::StreamError,
    Class::Truncated,
    Class::WrongModel,
    Class::TokenMismatch,
    Class::Empty,
    Class::WrongForm,
    Class::SchemaMismatch,
];

impl Class {
    /// The name in reports, for people and machines.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotSent => "not_sent",
            Self::Connect => "connect",
            Self::NoAnswer => "no_answer",
            Self::Timeout => "timeout",
            Self::Http429 => "http_429",
            Self::Http4xx => "http_4xx",
            Self::Http5xx => "http_5xx",
            Self::HttpOther => "http_other",
            Self::MalformedSse => "malformed_sse",
            Self::StreamError => "stream_error",
            Self::Truncated => "truncated",
            Self::WrongModel => "wrong_model",
            Self::TokenMismatch => "token_mismatch",
            Self::Empty => "empty",
            Self::WrongForm => "wrong_form",
            Self::SchemaMismatch => "schema_mismatch",
        }
    }

    /// A failure of this class.
    pub fn because(self, reason: impl Into<Cow<'static, str>>) -> Failure {
        Failure {
            class: self,
            reason: reason.into(),
        }
    }

    /// The class of a status other than 200.
    pub fn of_status(status: u16) -> Self {
        match status {
            429 => Self::Http429,
            400..=499 => Self::Http4xx,
            500..=599 => Self::Http5xx,
            _ => Self::HttpOther,
        }
    }
}

/// Judges what a stream told; `transport` is what went wrong below it, if anything did.
/// What the server said comes before how the connection ended: an error event explains the end that follows it.
pub fn judge(told: &Told, ask: &Ask, transport: Option<Failure>) -> Verdict {
    let failure = told
        .error
        .clone()
        .map(|code| Class::StreamError.because(code))
        .or_else(|| told.malformed.map(|what| Class::MalformedSse.because(what)))
        .or(transport)
        .or_else(|| ending(told))
        .or_else(|| model(told))
        .or_else(|| tokens(told, ask))
        .or_else(|| (told.content_events == 0).then(|| Class::Empty.because("no content")))
        .or_else(|| form(told, ask));
    failure.map_or(Verdict::Good, Verdict::Failed)
}

fn ending(told: &Told) -> Option<Failure> {
    let missing = match (told.finished, told.done) {
        (true, true) => return None,
        (true, false) => "no [DONE]",
        (false, true) => "no finish_reason",
        (false, false) => "neither finish_reason nor [DONE]",
    };
    Some(Class::Truncated.because(missing))
}

fn model(told: &Told) -> Option<Failure> {
    match told.model {
        ModelSeen::AsAsked => None,
        ModelSeen::Other => Some(Class::WrongModel.because("another model answered")),
        ModelSeen::None => Some(Class::WrongModel.because("no model named")),
    }
}

/// What an answer lacks of the form that was asked for; one that was cut at its longest cannot have it.
fn form(told: &Told, ask: &Ask) -> Option<Failure> {
    let form = ask.form.as_deref().filter(|_| !told.cut)?;
    let wrong = |what| Some(Class::WrongForm.because(what));
    match (form.demand, &told.calls) {
        (Demand::Nothing, _) => None,
        (Demand::Json, _) => match json(told.text.as_deref().unwrap_or_default()) {
            None => wrong("the text is no JSON"),
            Some(value) => {
                let broken = form
                    .schema
                    .as_ref()
                    .filter(|schema| !schema.is_kept_by(&value));
                broken.map(|_| Class::SchemaMismatch.because("the text does not keep its schema"))
            }
        },
        (Demand::SomeCall, calls) if calls.as_ref().is_none_or(Calls::is_empty) => {
            wrong("no tool call, though required")
        }
        (_, None) => None,
        (_, Some(calls)) => calls.fault().map_or_else(|| breach(calls, form), wrong),
    }
}

fn breach(calls: &Calls, form: &Form) -> Option<Failure> {
    let what = "the arguments of a strict tool do not keep its schema";
    (!calls.keep(&form.strict)).then(|| Class::SchemaMismatch.because(what))
}

fn tokens(told: &Told, ask: &Ask) -> Option<Failure> {
    let Some(usage) = told.usage else {
        return Some(Class::TokenMismatch.because("no usage, though asked for"));
    };
    let sum = usage.prompt_tokens.checked_add(usage.completion_tokens);
    let whole = told
        .tokens
        .as_ref()
        .is_none_or(|check| check.is_whole(usage.completion_tokens));
    let wrong = if usage.completion_tokens > u64::from(ask.output_tokens) {
        "more tokens than asked for"
    } else if told.content_events as u64 > usage.completion_tokens {
        "more content events than tokens"
    } else if usage.prompt_tokens == 0 {
        "no prompt tokens"
    } else if sum.is_none() || usage.total_tokens.is_some_and(|total| Some(total) != sum) {
        "total is not the sum"
    } else if !whole {
        "text is not what its seed leads to"
    } else {
        return None;
    };
    Some(Class::TokenMismatch.because(wrong))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::chunk::Usage;
    use crate::drive::prompt::tests::ask;
    use crate::workload::form::Form;

    fn whole() -> Told {
        Told {
            finished: true,
            done: true,
            model: ModelSeen::AsAsked,
            usage: Some(Usage {
                prompt_tokens: 9,
                completion_tokens: 8,
                total_tokens: Some(17),
            }),
            content_events: 8,
            ..Told::default()
        }
    }

    fn class(change: impl FnOnce(&mut Told)) -> Class {
        let mut told = whole();
        change(&mut told);
        match judge(&told, &ask(), None) {
            Verdict::Failed(failure) => failure.class,
            other => panic!("judged {other:?}"),
        }
    }

    #[test]
    fn only_a_whole_answer_is_good() {
        assert_eq!(judge(&whole(), &ask(), None), Verdict::Good);
        assert_eq!(class(|told| told.finished = false), Class::Truncated);
        assert_eq!(class(|told| told.done = false), Class::Truncated);
        assert_eq!(
            class(|told| told.error = Some("x".into())),
            Class::StreamError
        );
        assert_eq!(
            class(|told| told.malformed = Some("x")),
            Class::MalformedSse
        );
        assert_eq!(
            class(|told| told.model = ModelSeen::Other),
            Class::WrongModel
        );
        assert_eq!(
            class(|told| told.model = ModelSeen::None),
            Class::WrongModel
        );
        assert_eq!(class(|told| told.content_events = 0), Class::Empty);
    }

    #[test]
    fn usage_must_agree_with_the_stream() {
        let usage = |prompt_tokens, completion_tokens, total_tokens| {
            class(|told| {
                told.usage = Some(Usage {
                    prompt_tokens,
                    completion_tokens,
                    total_tokens,
                });
            })
        };
        assert_eq!(class(|told| told.usage = None), Class::TokenMismatch);
        assert_eq!(
            usage(9, 9, None),
            Class::TokenMismatch,
            "more than asked for"
        );
        assert_eq!(usage(9, 7, None), Class::TokenMismatch, "fewer than events");
        assert_eq!(usage(0, 8, None), Class::TokenMismatch, "no prompt");
        assert_eq!(usage(9, 8, Some(16)), Class::TokenMismatch, "wrong sum");
        assert_eq!(
            usage(u64::MAX, 8, None),
            Class::TokenMismatch,
            "a sum that overflows"
        );
    }

    /// The judgement of a whole answer with this text and these calls, in words; None where it is good.
    fn judged(form: Form, text: &str, calls: Option<&str>, cut: bool) -> Option<String> {
        let ask = Ask {
            form: Some(std::sync::Arc::new(form)),
            ..ask()
        };
        let taken = calls.map(|parts| {
            let mut calls = Calls::default();
            let parts = serde_json::value::RawValue::from_string(parts.to_owned()).unwrap();
            calls.take(&parts).unwrap();
            calls
        });
        let told = Told {
            text: Some(text.to_owned()),
            calls: taken,
            cut,
            ..whole()
        };
        match judge(&told, &ask, None) {
            Verdict::Failed(failure) => Some(failure.to_string()),
            _ => None,
        }
    }

    #[test]
    fn an_answer_has_the_form_that_was_asked_for_unless_it_was_cut() {
        let json = || Form::json("j".into());
        assert_eq!(judged(json(), r#"{"a": 1}"#, None, false), None);
        let no_json = Some("wrong_form: the text is no JSON".to_owned());
        assert_eq!(judged(json(), r#"{"a": 1"#, None, false), no_json);
        assert_eq!(
            judged(json(), r#"{"a": 1"#, None, true),
            None,
            "cut at its longest"
        );
        let tools = |choice| Form::tools("t".into(), &serde_json::json!([]), choice).unwrap();
        let missing = Some("wrong_form: no tool call, though required".to_owned());
        assert_eq!(judged(tools("required"), "so", Some("[]"), false), missing);
        assert_eq!(judged(tools("auto"), "so", Some("[]"), false), None);
        let torn = r#"[{"index":0,"function":{"name":"f","arguments":"{"}}]"#;
        assert!(judged(tools("auto"), "", Some(torn), false).is_some());
    }

    #[test]
    fn json_keeps_the_schema_that_was_asked_for() {
        let schema = serde_json::json!({"type": "object", "required": ["a"]});
        let form = || Form::schema("s".into(), &schema).unwrap();
        assert_eq!(judged(form(), r#"{"a": 1}"#, None, false), None);
        let broken = Some("schema_mismatch: the text does not keep its schema".to_owned());
        assert_eq!(judged(form(), r#"{"b": 1}"#, None, false), broken);
        assert_eq!(judged(form(), r#"{"b": 1}"#, None, true), None, "cut");
        let no_json = Some("wrong_form: the text is no JSON".to_owned());
        assert_eq!(judged(form(), "so", None, false), no_json);
    }

    #[test]
    fn calls_keep_the_parameters_of_strict_tools() {
        let tools = |strict: bool| {
            let tools = serde_json::json!([{"type": "function", "function": {"name": "f", "strict": strict,
                "parameters": {"type": "object", "required": ["a"]}}}]);
            Form::tools("t".into(), &tools, "auto").unwrap()
        };
        let call = |name: &str, arguments: &str| {
            let arguments = serde_json::json!(arguments);
            format!(r#"[{{"index":0,"function":{{"name":"{name}","arguments":{arguments}}}}}]"#)
        };
        let kept = call("f", r#"{"a":1}"#);
        let (broken, other) = (call("f", "{}"), call("g", "{}"));
        assert_eq!(judged(tools(true), "", Some(&kept), false), None);
        assert_eq!(judged(tools(true), "", Some(&other), false), None);
        assert_eq!(judged(tools(false), "", Some(&broken), false), None);
        let breach = judged(tools(true), "", Some(&broken), false);
        assert!(breach.is_some_and(|what| what.starts_with("schema_mismatch")));
    }

    #[test]
    fn what_the_server_said_comes_before_how_the_connection_ended() {
        let lost = || Some(Class::Truncated.because("connection lost"));
        let mut told = whole();
        assert!(matches!(
            judge(&told, &ask(), lost()),
            Verdict::Failed(Failure {
                class: Class::Truncated,
                ..
            })
        ));
        told.error = Some("overloaded".into());
        assert!(matches!(
            judge(&told, &ask(), lost()),
            Verdict::Failed(Failure {
                class: Class::StreamError,
                ..
            })
        ));
    }

    #[test]
    fn every_status_has_a_class() {
        let classes = [200, 302, 400, 404, 429, 499, 500, 503, 600].map(Class::of_status);
        use Class::{Http4xx, Http5xx, Http429, HttpOther};
        let expected = [
            HttpOther, HttpOther, Http4xx, Http4xx, Http429, Http4xx, Http5xx, Http5xx, HttpOther,
        ];
        assert_eq!(classes, expected);
    }
}
