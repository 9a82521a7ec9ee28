//! What is refused, how it is named, and what passes.

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use http::{Request, StatusCode};

use super::{Server, error, hello, json, post, text};
use crate::stack::RequestId;
use crate::upstream::{Endpoint, Prompt, Sampling};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// Every body of the table is refused with this status, code and param, and nothing reaches the upstream.
async fn check<B: Into<Body> + Clone>(path: &str, table: &[(B, u16, &str, Option<&str>)]) {
    let server = Server::saying(hello());
    for (index, (body, status, code, param)) in table.iter().enumerate() {
        let (got_status, got_code, got_param) = error(server.post(path, body.clone()).await).await;
        let got = (got_status.as_u16(), &*got_code, got_param.as_deref());
        assert_eq!(got, (*status, *code, *param), "row {index}");
    }
    assert!(server.asked().is_empty());
}

/// A chat body with these fields beside model and messages.
fn with(fields: &str) -> String {
    format!(r#"{{"model":"m","messages":[{{"role":"user","content":"Hi"}}],{fields}}}"#)
}

/// A chat body with these messages.
fn saying(messages: &str) -> String {
    format!(r#"{{"model":"m","messages":{messages}}}"#)
}

/// A completion body with this prompt.
fn prompting(prompt: &str) -> String {
    format!(r#"{{"model":"m","prompt":{prompt}}}"#)
}

#[tokio::test]
async fn what_is_not_a_json_object_is_refused() {
    let deep = format!(r#"{{"model":{}"#, "[".repeat(100_000));
    let table: Vec<(Bytes, u16, &str, Option<&str>)> = [
        &b""[..],
        b" \n",
        b"{",
        b"{\"model\":\"m\",}",
        b"{\"model\":\"m\"} x",
        b"\xff\xfe",
        b"{\"model\":\"\xc3\x28\"}",
        b"[]",
        b"\"secret\"",
        b"null",
        b"[1,",
        b"{\"temperature\":NaN}",
        b"{\"model\":\"a\nb\"}",
        deep.as_bytes(),
    ]
    .map(|body| (Bytes::copy_from_slice(body), 400, "invalid_json", None))
    .into();
    check(CHAT, &table).await;
    check(COMPLETIONS, &table).await;
}

#[tokio::test]
async fn malformed_json_is_located_without_being_quoted() {
    let server = Server::saying(hello());
    let response = server
        .chat("{\"model\": \"m\",\n \"secret\" \"words\"}")
        .await;
    let body = text(response).await;
    assert!(body.contains("line 2 column"), "{body}");
    assert!(
        !body.contains("secret") && !body.contains("words"),
        "{body}"
    );
}

#[tokio::test]
async fn what_is_missing_or_unknown_is_named() {
    let user = r#"[{"role":"user","content":"Hi"}]"#;
    check(
        CHAT,
        &[
            (
                "{}".to_owned(),
                400,
                "missing_required_parameter",
                Some("model"),
            ),
            (
                r#"{"model":"m"}"#.to_owned(),
                400,
                "missing_required_parameter",
                Some("messages"),
            ),
            (
                r#"{"model":null,"messages":[]}"#.to_owned(),
                400,
                "missing_required_parameter",
                Some("model"),
            ),
            (
                format!(r#"{{"model":"gpt","messages":{user}}}"#),
                404,
                "model_not_found",
                Some("model"),
            ),
            (
                format!(r#"{{"model":7,"messages":{user}}}"#),
                400,
                "invalid_type",
                Some("model"),
            ),
            (
                format!(r#"{{"model":"\ud800","messages":{user}}}"#),
                400,
                "invalid_value",
                Some("model"),
            ),
            (
                with(r#""temprature":1"#),
                400,
                "unknown_parameter",
                Some("temprature"),
            ),
            (
                with(r#""hansa":{}"#),
                400,
                "unknown_parameter",
                Some("hansa"),
            ),
            (
                with(r#""model":"m""#),
                400,
                "duplicate_parameter",
                Some("model"),
            ),
            (
                with(r#""mod\u0065l":"m""#),
                400,
                "duplicate_parameter",
                Some("model"),
            ),
            (
                with(
                    &(0..80)
                        .map(|i| format!("\"f{i}\":1"))
                        .collect::<Vec<_>>()
                        .join(","),
                ),
                400,
                "array_above_max_length",
                Some("body"),
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn messages_are_checked_to_the_last_field() {
    let many = format!(
        "[{}]",
        vec![r#"{"role":"user","content":""}"#; 1025].join(",")
    );
    let message = |fields: &str| saying(&format!("[{{{fields}}}]"));
    let part = |part: &str| {
        message(&format!(
            r#""role":"user","content":[{{"type":"text","text":"a"}},{part}]"#
        ))
    };
    check(
        CHAT,
        &[
            (saying("[]"), 400, "empty_array", Some("messages")),
            (saying("{}"), 400, "invalid_type", Some("messages")),
            (saying("\"Hi\""), 400, "invalid_type", Some("messages")),
            (
                saying(&many),
                400,
                "array_above_max_length",
                Some("messages"),
            ),
            (saying("[\"Hi\"]"), 400, "invalid_type", Some("messages[0]")),
            (
                message(r#""content":"a""#),
                400,
                "missing_required_parameter",
                Some("messages[0].role"),
            ),
            (
                message(r#""role":"user""#),
                400,
                "missing_required_parameter",
                Some("messages[0].content"),
            ),
            (
                message(r#""role":"user","content":null"#),
                400,
                "missing_required_parameter",
                Some("messages[0].content"),
            ),
            (
                message(r#""role":"wizard","content":"a""#),
                400,
                "invalid_value",
                Some("messages[0].role"),
            ),
            (
                message(r#""role":"tool","content":"a","tool_call_id":"x""#),
                400,
                "unsupported_value",
                Some("messages[0].role"),
            ),
            (
                message(r#""role":"user","content":7"#),
                400,
                "invalid_type",
                Some("messages[0].content"),
            ),
            (
                message(r#""role":"user","content":"\udc00""#),
                400,
                "invalid_value",
                Some("messages[0].content"),
            ),
            (
                message(r#""role":"user","content":"a","content":"b""#),
                400,
                "duplicate_parameter",
                Some("messages[0].content"),
            ),
            (
                message(r#""role":"user","content":"a","cat":1"#),
                400,
                "unknown_parameter",
                Some("messages[0].cat"),
            ),
            (
                message(r#""role":"user","content":"a","name":1"#),
                400,
                "invalid_type",
                Some("messages[0].name"),
            ),
            (
                message(r#""role":"assistant","content":null,"tool_calls":[{"id":"x"}]"#),
                400,
                "unsupported_value",
                Some("messages[0].tool_calls"),
            ),
            (
                message(r#""role":"user","content":[]"#),
                400,
                "empty_array",
                Some("messages[0].content"),
            ),
            (
                part("7"),
                400,
                "invalid_type",
                Some("messages[0].content[1]"),
            ),
            (
                part(r#"{"text":"a"}"#),
                400,
                "missing_required_parameter",
                Some("messages[0].content[1].type"),
            ),
            (
                part(r#"{"type":"text"}"#),
                400,
                "missing_required_parameter",
                Some("messages[0].content[1].text"),
            ),
            (
                part(r#"{"type":"image_url","image_url":{"url":"x"}}"#),
                400,
                "unsupported_value",
                Some("messages[0].content[1].type"),
            ),
            (
                part(r#"{"type":"input_audio","input_audio":{}}"#),
                400,
                "unsupported_value",
                Some("messages[0].content[1].type"),
            ),
            (
                part(r#"{"type":"smell"}"#),
                400,
                "invalid_value",
                Some("messages[0].content[1].type"),
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn numbers_outside_of_their_range_are_refused() {
    let row = |field: &'static str, value: &str, code: &'static str| {
        (
            with(&format!("\"{field}\":{value}")),
            400,
            code,
            Some(field),
        )
    };
    let outside = [
        ("temperature", "-0.1"),
        ("temperature", "2.1"),
        ("temperature", "1e400"),
        ("top_p", "0"),
        ("top_p", "1e-60"),
        ("top_p", "1.01"),
        ("top_k", "-2"),
        ("top_k", "4294967296"),
        ("min_p", "1.5"),
        ("n", "0"),
        ("n", "9"),
        ("max_tokens", "0"),
        ("max_tokens", "-1"),
        (
            "max_completion_tokens",
            "99999999999999999999999999999999999999999999999999",
        ),
        ("seed", "18446744073709551616"),
    ];
    let mistyped = [
        ("temperature", "\"1\""),
        ("top_k", "1.5"),
        ("n", "1.0"),
        ("max_tokens", "1e3"),
        ("seed", "true"),
        ("stream", "1"),
        ("ignore_eos", "\"no\""),
        ("stop", "7"),
        ("user", "7"),
        ("metadata", "[]"),
        ("parallel_tool_calls", "1"),
    ];
    let outside = outside.map(|(field, value)| row(field, value, "invalid_value"));
    let mistyped = mistyped.map(|(field, value)| row(field, value, "invalid_type"));
    check(CHAT, &outside).await;
    check(CHAT, &mistyped).await;
}

#[tokio::test]
async fn what_is_not_supported_is_refused_by_name() {
    let unsupported_values = [
        ("frequency_penalty", "0.1"),
        ("presence_penalty", "-1"),
        ("logit_bias", r#"{"50256":-100}"#),
        ("logprobs", "true"),
        ("top_logprobs", "5"),
        ("tools", r#"[{"type":"function"}]"#),
        ("tool_choice", "\"required\""),
        ("response_format", r#"{"type":"json_object"}"#),
        ("store", "true"),
        ("service_tier", "\"flex\""),
        ("modalities", r#"["text","audio"]"#),
        ("reasoning_effort", "\"high\""),
    ];
    let row = |(field, value): (&'static str, &str)| {
        (
            with(&format!("\"{field}\":{value}")),
            400,
            "unsupported_value",
            Some(field),
        )
    };
    check(CHAT, &unsupported_values.map(row)).await;
    check(
        CHAT,
        &[
            (
                with(r#""audio":{"voice":"x"}"#),
                400,
                "unsupported_parameter",
                Some("audio"),
            ),
            (
                with(r#""stop":["a","b","c","d","e"]"#),
                400,
                "array_above_max_length",
                Some("stop"),
            ),
            (
                with(r#""stop":["a",""]"#),
                400,
                "invalid_value",
                Some("stop[1]"),
            ),
            (
                with(&format!("\"stop\":\"{}\"", "x".repeat(257))),
                400,
                "string_above_max_length",
                Some("stop"),
            ),
            (
                with(r#""max_tokens":5,"max_completion_tokens":6"#),
                400,
                "invalid_parameter_combination",
                Some("max_tokens"),
            ),
            (
                with(r#""stream_options":{"include_usage":true}"#),
                400,
                "invalid_parameter_combination",
                Some("stream_options"),
            ),
            (
                with(r#""stream":true,"stream_options":{"include_usage":1}"#),
                400,
                "invalid_type",
                Some("stream_options.include_usage"),
            ),
            (
                with(r#""stream":true,"stream_options":{"include_obfuscation":true}"#),
                400,
                "unsupported_value",
                Some("stream_options.include_obfuscation"),
            ),
            (
                with(r#""stream":true,"stream_options":{"x":true}"#),
                400,
                "unknown_parameter",
                Some("stream_options.x"),
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn prompts_are_checked() {
    let many = format!("[{}]", ["\"a\""; 17].join(","));
    check(
        COMPLETIONS,
        &[
            (
                r#"{"model":"m"}"#.to_owned(),
                400,
                "missing_required_parameter",
                Some("prompt"),
            ),
            (prompting("[]"), 400, "empty_array", Some("prompt")),
            (prompting("7"), 400, "invalid_type", Some("prompt")),
            (prompting("{}"), 400, "invalid_type", Some("prompt")),
            (prompting("[[]]"), 400, "empty_array", Some("prompt[0]")),
            (
                prompting("[\"a\",7]"),
                400,
                "invalid_type",
                Some("prompt[1]"),
            ),
            (prompting("[1,\"a\"]"), 400, "invalid_value", Some("prompt")),
            (prompting("[-1]"), 400, "invalid_value", Some("prompt")),
            (prompting("[1.5]"), 400, "invalid_value", Some("prompt")),
            (
                prompting("[[1],[4294967296]]"),
                400,
                "invalid_value",
                Some("prompt[1]"),
            ),
            (
                prompting(&many),
                400,
                "array_above_max_length",
                Some("prompt"),
            ),
            (
                prompting(r#""a","best_of":2"#),
                400,
                "unsupported_value",
                Some("best_of"),
            ),
            (
                prompting(r#""a","echo":true"#),
                400,
                "unsupported_value",
                Some("echo"),
            ),
            (
                prompting(r#""a","suffix":"b""#),
                400,
                "unsupported_value",
                Some("suffix"),
            ),
            (
                prompting(r#""a","logprobs":0"#),
                400,
                "unsupported_parameter",
                Some("logprobs"),
            ),
            (
                prompting(r#""a","messages":[]"#),
                400,
                "unknown_parameter",
                Some("messages"),
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn an_unknown_field_brings_a_suggestion() {
    let server = Server::saying(hello());
    for (field, meant) in [
        ("temprature", "'temperature'"),
        ("maxTokens", "'max_tokens'"),
        ("max_new_tokens", "'max_tokens'"),
        ("stops", "'stop'"),
    ] {
        let body = text(server.chat(&with(&format!("\"{field}\":1"))).await).await;
        assert!(
            body.contains(&format!("Did you mean {meant}?")),
            "{field}: {body}"
        );
    }
    let body = text(server.chat(&with("\"zzz\":1")).await).await;
    assert!(!body.contains("Did you mean"), "{body}");
}

#[tokio::test]
async fn neutral_values_and_nulls_pass() {
    let server = Server::saying(hello());
    for fields in [
        r#""frequency_penalty":0,"presence_penalty":0.0,"logit_bias":{},"logprobs":false,"top_logprobs":0"#,
        r#""tools":[],"tool_choice":"none","functions":[],"parallel_tool_calls":true"#,
        r#""response_format":{"type":"text"},"modalities":["text"],"store":false,"service_tier":"auto""#,
        r#""user":"u","metadata":{"a":"b"},"safety_identifier":"s","prompt_cache_key":"k""#,
        r#""n":null,"tools":null,"stop":null,"stream":null,"stream_options":null,"seed":null,"audio":null"#,
        r#""stop":[],"max_tokens":5,"max_completion_tokens":5,"top_k":-1"#,
        r#""stream":false,"repetition_penalty":1.0"#,
    ] {
        let response = server.chat(&with(fields)).await;
        assert_eq!(
            response.status(),
            StatusCode::OK,
            "{fields}: {}",
            text(response).await
        );
    }
    let body = prompting(r#""a","best_of":1,"echo":false,"suffix":null,"logprobs":null"#);
    let response = server.post(COMPLETIONS, body).await;
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn an_answer_of_ours_can_be_sent_again() {
    let server = Server::saying(hello());
    let answer = json(server.chat(&with("\"n\":1")).await).await;
    let message = answer["choices"][0]["message"].to_string();
    let again = saying(&format!(
        r#"[{{"role":"user","content":"Hi"}},{message},{{"role":"user","content":"And?"}}]"#
    ));
    assert_eq!(server.chat(&again).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_chat_arrives_as_it_was_meant() {
    let server = Server::saying(hello());
    let body = r#" {"model":"m","messages":[
        {"role":"developer","content":"Be \"brief\"."},
        {"role":"user","name":"Ann","content":[{"type":"text","text":"H\u00e9"},{"type":"text","text":"llo"}]}],
        "max_completion_tokens":7,"temperature":0,"top_p":0.5,"top_k":40,"min_p":0.1,"seed":-1,
        "stop":["a","b"],"ignore_eos":true}"#;
    let mut request = post(CHAT, body);
    request.extensions_mut().insert(RequestId("r1".into()));
    request.headers_mut().insert("x-hansa-hops", 2.into());
    assert_eq!(server.send(request).await.status(), StatusCode::OK);
    let asked = server.asked().remove(0);
    let messages = serde_json::json!([
        {"role": "system", "content": "Be \"brief\"."},
        {"role": "user", "content": "Héllo", "name": "Ann"},
    ]);
    assert_eq!(
        asked.prompt,
        Prompt::Chat(messages.as_array().unwrap().clone().into())
    );
    assert_eq!(asked.body, body.as_bytes());
    assert_eq!(
        (&*asked.id, &*asked.model, asked.endpoint),
        ("r1", "m", Endpoint::Chat)
    );
    assert_eq!(
        (asked.n, asked.max_tokens, asked.seed, asked.hops),
        (1, Some(7), u64::MAX, 2)
    );
    assert_eq!(asked.stop, ["a", "b"]);
    assert_eq!(asked.template_time_s, super::NOW_S);
    assert_eq!(
        asked.deadline.map(|deadline| deadline.as_millis()),
        Some(600_000)
    );
    let expected = Sampling {
        temperature: 0.0,
        top_p: 0.5,
        top_k: 40,
        min_p: 0.1,
        ignore_eos: true,
    };
    assert_eq!(asked.sampling, expected);
}

#[tokio::test]
async fn prompts_arrive_in_each_of_their_forms() {
    for (prompt, expected) in [
        ("\"a\"", vec![Prompt::Text("a".into())]),
        (
            "[\"a\",\"\"]",
            vec![Prompt::Text("a".into()), Prompt::Text("".into())],
        ),
        ("[1,2]", vec![Prompt::Tokens([1, 2].into())]),
        (
            " [ [1] , [2,3]]",
            vec![Prompt::Tokens([1].into()), Prompt::Tokens([2, 3].into())],
        ),
    ] {
        let server = Server::saying(hello());
        let response = server.post(COMPLETIONS, prompting(prompt)).await;
        assert_eq!(response.status(), StatusCode::OK, "{prompt}");
        let asked: Vec<_> = server
            .asked()
            .iter()
            .map(|asked| asked.prompt.clone())
            .collect();
        assert_eq!(asked, expected);
    }
}

#[tokio::test]
async fn a_large_body_is_parsed_like_a_small_one() {
    let server = Server::saying(hello());
    let content = "é\\n".repeat(100_000);
    let body = saying(&format!(r#"[{{"role":"user","content":"{content}"}}]"#));
    assert_eq!(server.chat(&body).await.status(), StatusCode::OK);
    let Prompt::Chat(messages) = &server.asked()[0].prompt else {
        panic!("a chat became something else");
    };
    assert_eq!(messages[0]["content"].as_str().unwrap().len(), 300_000);
    let body = saying(&format!(
        r#"[{{"role":"user","content":"{content}","x":1}}]"#
    ));
    let (status, code, param) = error(server.chat(&body).await).await;
    assert_eq!(
        (status.as_u16(), &*code, param.as_deref()),
        (400, "unknown_parameter", Some("messages[0].x"))
    );
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_declared_or_not() {
    let server = Server::saying(hello());
    let limit = 4 << 20;
    let declared = server.post(CHAT, vec![b' '; limit + 1]).await;
    assert_eq!(error(declared).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    let pieces = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 1 << 16])));
    let endless = server.post(CHAT, Body::from_stream(pieces)).await;
    assert_eq!(error(endless).await.0, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_told_as_such() {
    let server = Server::saying(hello());
    let pieces = || stream::once(async { Err::<Bytes, _>(std::io::Error::other("secret")) });
    let (status, code, _) = error(server.post(CHAT, Body::from_stream(pieces())).await).await;
    assert_eq!((status.as_u16(), &*code), (400, "body_unreadable"));
    let late =
        stream::once(async { Err::<Bytes, _>(super::super::error::ApiError::request_timeout()) });
    let (status, ..) = error(server.post(CHAT, Body::from_stream(late)).await).await;
    assert_eq!(status, StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test]
async fn a_body_must_be_declared_as_plain_json() {
    let server = Server::saying(hello());
    let send = async |name: &str, value: &str| {
        let request = Request::post(CHAT)
            .header(name, value)
            .body(Body::from(with("\"n\":1")));
        server.send(request.unwrap()).await
    };
    for accepted in [
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/x+json",
    ] {
        assert_eq!(
            send("content-type", accepted).await.status(),
            StatusCode::OK,
            "{accepted}"
        );
    }
    for refused in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "",
    ] {
        let (status, code, _) = error(send("content-type", refused).await).await;
        assert_eq!(
            (status.as_u16(), &*code),
            (415, "unsupported_media_type"),
            "{refused}"
        );
    }
    let mut request = post(CHAT, with("\"n\":1"));
    request
        .headers_mut()
        .insert("content-encoding", "gzip".parse().unwrap());
    let (status, code, _) = error(server.send(request).await).await;
    assert_eq!((status.as_u16(), &*code), (415, "unsupported_encoding"));
}

#[tokio::test]
async fn a_circle_of_servers_is_cut() {
    let server = Server::saying(hello());
    for hops in ["4", "300", "-1", "x"] {
        let mut request = post(CHAT, with("\"n\":1"));
        request
            .headers_mut()
            .insert("x-hansa-hops", hops.parse().unwrap());
        let (status, code, _) = error(server.send(request).await).await;
        assert_eq!((status.as_u16(), &*code), (508, "too_many_hops"), "{hops}");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_get_an_error_object() {
    let server = Server::saying(hello());
    for path in [
        "/",
        "/v1",
        "/v1/chat",
        "/v1/chat/completions/x",
        "/v2/models",
    ] {
        let (status, code, _) = error(server.post(path, "{}").await).await;
        assert_eq!((status.as_u16(), &*code), (404, "unknown_url"), "{path}");
    }
    let request = Request::get(CHAT).body(Body::empty()).unwrap();
    let response = server.send(request).await;
    assert_eq!(response.headers()["allow"], "POST");
    let (status, code, _) = error(response).await;
    assert_eq!((status.as_u16(), &*code), (405, "method_not_allowed"));
}
