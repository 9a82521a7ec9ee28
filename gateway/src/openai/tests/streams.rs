//! Streams, byte for byte: how they begin, go on, fall silent and end.

use std::time::Duration;

use axum::response::Response;
use http::StatusCode;
use http_body_util::BodyExt as _;

use super::{PING_AFTER, Server, Step, delta, done, error, finished, fixed_id, hello, text};
use crate::upstream::UpstreamErrorKind;

const BODY: &str = r#"{"model":"m","messages":[{"role":"user","content":"Hi"}],"stream":true}"#;
const SECOND: Duration = Duration::from_secs(1);

/// A chat chunk with these choices and what follows them.
fn chunk(choices: &str, rest: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-ID\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"m\",\
         \"choices\":[{choices}]{rest}}}\n\n"
    )
}

fn choice(index: u32, delta: &str, reason: &str) -> String {
    format!(r#"{{"index":{index},"delta":{delta},"logprobs":null,"finish_reason":{reason}}}"#)
}

const ROLE: &str = r#"{"role":"assistant","content":"","refusal":null}"#;

/// The next write of a stream.
async fn frame(response: &mut Response) -> String {
    let frame = response.body_mut().frame().await.unwrap().unwrap();
    fixed_id(std::str::from_utf8(frame.data_ref().unwrap()).unwrap())
}

/// Whether a stream stays silent for `time`.
async fn silent(response: &mut Response, time: Duration) -> bool {
    tokio::time::timeout(time, response.body_mut().frame())
        .await
        .is_err()
}

#[tokio::test]
async fn a_chat_streams_in_openai_s_chunks() {
    let response = Server::saying(hello()).chat(BODY).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    let expected = [
        chunk(&choice(0, ROLE, "null"), ""),
        chunk(&choice(0, r#"{"content":"Hello"}"#, "null"), ""),
        chunk(&choice(0, r#"{"content":"!"}"#, "null"), ""),
        chunk(&choice(0, "{}", "\"stop\""), ""),
        "data: [DONE]\n\n".to_owned(),
    ];
    assert_eq!(text(response).await, expected.concat());
}

#[tokio::test]
async fn usage_comes_last_where_it_is_wanted() {
    let body = BODY.replace("true}", r#"true,"stream_options":{"include_usage":true}}"#);
    let response = Server::saying(vec![delta(0, "a\"\n\u{1}é"), finished(0), done()])
        .chat(&body)
        .await;
    let none = r#","usage":null"#;
    let expected = [
        chunk(&choice(0, ROLE, "null"), none),
        chunk(&choice(0, r#"{"content":"a\"\n\u0001é"}"#, "null"), none),
        chunk(&choice(0, "{}", "\"stop\""), none),
        chunk(
            "",
            concat!(
                r#","usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8,"#,
                r#""prompt_tokens_details":{"cached_tokens":2},"completion_tokens_details":{"reasoning_tokens":0}}"#,
            ),
        ),
        "data: [DONE]\n\n".to_owned(),
    ];
    assert_eq!(text(response).await, expected.concat());
}

#[tokio::test]
async fn vllm_s_wish_for_usage_in_every_event_changes_nothing() {
    let answer = async |options: &str| {
        let body = BODY.replace("true}", &format!(r#"true,"stream_options":{options}}}"#));
        let response = Server::saying(hello()).chat(&body).await;
        assert_eq!(response.status(), StatusCode::OK, "{options}");
        text(response).await
    };
    let wanted = answer(r#"{"include_usage":true,"continuous_usage_stats":true}"#).await;
    assert_eq!(wanted, answer(r#"{"include_usage":true}"#).await);
    assert!(wanted.contains(r#""total_tokens":8"#));
}

#[tokio::test]
async fn choices_interleave_and_each_gets_its_role_once() {
    let script = vec![
        delta(1, "b"),
        delta(0, "a"),
        delta(1, ""),
        finished(1),
        delta(0, "a"),
        finished(0),
        done(),
    ];
    let body = BODY.replace("true}", "true,\"n\":2}");
    let response = Server::saying(script).chat(&body).await;
    let expected = [
        chunk(&choice(1, ROLE, "null"), ""),
        chunk(&choice(1, r#"{"content":"b"}"#, "null"), ""),
        chunk(&choice(0, ROLE, "null"), ""),
        chunk(&choice(0, r#"{"content":"a"}"#, "null"), ""),
        chunk(&choice(1, "{}", "\"stop\""), ""),
        chunk(&choice(0, r#"{"content":"a"}"#, "null"), ""),
        chunk(&choice(0, "{}", "\"stop\""), ""),
        "data: [DONE]\n\n".to_owned(),
    ];
    assert_eq!(text(response).await, expected.concat());
}

#[tokio::test]
async fn completions_stream_in_theirs() {
    let server = Server::saying(vec![delta(0, "a"), finished(0), done()]);
    let body = r#"{"model":"m","prompt":["x","y"],"stream":true}"#;
    let response = server.post("/v1/completions", body).await;
    let text = text(response).await;
    let chunk = |index: u32, text: &str, reason: &str| {
        format!(
            "data: {{\"id\":\"cmpl-ID\",\"object\":\"text_completion\",\"created\":1700000000,\"model\":\"m\",\
             \"choices\":[{{\"index\":{index},\"text\":\"{text}\",\"logprobs\":null,\"finish_reason\":{reason}}}]}}\n\n"
        )
    };
    for index in 0..2 {
        let first = text.find(&chunk(index, "a", "null")).unwrap();
        let last = text.find(&chunk(index, "", "\"stop\"")).unwrap();
        assert!(first < last);
    }
    assert_eq!(text.matches("data: ").count(), 5);
    assert!(text.ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn what_is_ready_at_once_is_one_write() {
    let mut response = Server::saying(hello()).chat(BODY).await;
    let first = frame(&mut response).await;
    assert_eq!(first.matches("data: ").count(), 5);
    assert!(response.body_mut().frame().await.is_none());
}

#[tokio::test]
async fn an_error_before_the_first_content_is_a_status() {
    let early = vec![delta(0, ""), Step::Fail(UpstreamErrorKind::Overloaded)];
    let response = Server::saying(early).chat(BODY).await;
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(response.headers()["x-should-retry"], "true");
    let (status, code, _) = error(response).await;
    assert_eq!((status.as_u16(), &*code), (503, "overloaded"));
}

#[tokio::test]
async fn an_error_after_the_first_content_is_an_event_and_the_end() {
    let late = vec![delta(0, "Hel"), Step::Fail(UpstreamErrorKind::ShuttingDown)];
    let server = Server::saying(late);
    let response = server.chat(BODY).await;
    assert_eq!(response.status(), StatusCode::OK);
    let text = text(response).await;
    let last = text.trim_end().rsplit("\n\n").next().unwrap();
    assert_eq!(
        last,
        concat!(
            r#"data: {"error":{"message":"The server is shutting down; please try again.","#,
            r#""type":"server_error","param":null,"code":"shutting_down"}}"#,
        )
    );
    assert!(text.contains("Hel") && !text.contains("[DONE]"), "{text}");
    assert_eq!(server.open(), 0);
}

#[tokio::test]
async fn an_upstream_that_just_stops_is_no_silent_end() {
    for script in [vec![delta(0, "Hel")], vec![delta(0, "Hel"), finished(0)]] {
        let text = text(Server::saying(script).chat(BODY).await).await;
        assert!(text.contains(r#""code":"internal_error""#), "{text}");
        assert!(!text.contains("[DONE]"), "{text}");
    }
}

#[tokio::test]
async fn one_prompt_s_failure_ends_the_others() {
    let server = Server::new(|request| {
        Ok(match request.id.ends_with("/0") {
            true => vec![
                delta(0, "a"),
                Step::Wait(Duration::from_millis(5)),
                Step::Fail(UpstreamErrorKind::Internal),
            ],
            false => vec![delta(0, "b"), Step::Hang],
        })
    });
    let body = r#"{"model":"m","prompt":["x","y"],"stream":true}"#;
    let response = server.post("/v1/completions", body).await;
    assert!(text(response).await.contains(r#""code":"internal_error""#));
    assert_eq!(server.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn headers_wait_for_content_but_not_for_ever() {
    let waiting = Step::Wait(PING_AFTER * 2 + SECOND);
    let script = [vec![waiting], hello()].concat();
    let server = Server::saying(script);
    // Before `ping_after` there is nothing, not even headers.
    let mut asking = Box::pin(server.chat(BODY));
    assert!(
        tokio::time::timeout(PING_AFTER - SECOND, &mut asking)
            .await
            .is_err()
    );
    let mut response = asking.await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(frame(&mut response).await, ": ping\n\n");
    assert!(silent(&mut response, PING_AFTER - SECOND).await);
    assert_eq!(frame(&mut response).await, ": ping\n\n");
    assert!(frame(&mut response).await.starts_with("data: "));
    assert!(response.body_mut().frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_pause_in_the_middle_is_pinged_too() {
    let script = vec![
        delta(0, "a"),
        Step::Wait(PING_AFTER * 2 + SECOND),
        finished(0),
        done(),
    ];
    let mut response = Server::saying(script).chat(BODY).await;
    assert!(frame(&mut response).await.starts_with("data: "));
    assert!(silent(&mut response, PING_AFTER - SECOND).await);
    assert_eq!(frame(&mut response).await, ": ping\n\n");
    assert!(text(response).await.ends_with("[DONE]\n\n"));
}

#[tokio::test(start_paused = true)]
async fn an_error_after_a_ping_is_an_event() {
    let script = vec![
        Step::Wait(PING_AFTER + SECOND),
        Step::Fail(UpstreamErrorKind::Internal),
    ];
    let text = text(Server::saying(script).chat(BODY).await).await;
    assert!(text.starts_with(": ping\n\ndata: {\"error\""), "{text}");
}

#[tokio::test(start_paused = true)]
async fn pings_do_not_keep_a_dead_upstream_alive() {
    let text = text(
        Server::saying(vec![delta(0, "a"), Step::Hang])
            .chat(BODY)
            .await,
    )
    .await;
    assert!(text.contains(r#""code":"deadline_exceeded""#), "{text}");
    // Every 15 s from 30 s on, until the 600 s are over.
    assert_eq!(text.matches(": ping").count(), 38);
}

#[tokio::test]
async fn a_client_that_goes_away_cancels() {
    let server = Server::saying(vec![delta(0, "Hel"), Step::Hang]);
    let mut response = server.chat(BODY).await;
    frame(&mut response).await;
    assert_eq!(server.open(), 1);
    drop(response);
    assert_eq!(server.open(), 0);
}
