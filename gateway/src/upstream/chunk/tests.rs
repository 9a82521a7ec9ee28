//! What chunks of honest, sloppy and lying servers become.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::upstream::test_request;

fn decoder(n: u32, max_tokens: Option<u32>, ours: bool) -> Decoder {
    let request = GenerateRequest {
        n,
        max_tokens,
        body: Bytes::from_static(b"{}").into(),
        ..test_request()
    };
    Decoder::new(&request, ours)
}

fn read(decoder: &mut Decoder, chunks: &[&str]) -> Result<Vec<Event>, Fault> {
    let mut events = VecDeque::new();
    for chunk in chunks {
        decoder.chunk(chunk.as_bytes(), &mut events)?;
    }
    Ok(events.into())
}

const HELLO: &str = r#"{"choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":null}]}"#;
const STOP: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;

fn usage(prompt: u64, completion: u64) -> String {
    format!(
        r#"{{"choices":[],"usage":{{"prompt_tokens":{prompt},"completion_tokens":{completion}}}}}"#
    )
}

#[test]
fn an_honest_stream_is_believed() {
    let mut decoder = decoder(1, Some(5), false);
    let role = r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#;
    let events = read(&mut decoder, &[role, HELLO, STOP, &usage(7, 2)]).unwrap();
    assert!(
        matches!(&events[..], [Event::Delta { text, .. }, Event::Finished { .. }] if text == "Hello")
    );
    let used = decoder.done().unwrap();
    assert_eq!(
        (used.prompt_tokens, used.completion_tokens, used.estimated),
        (7, 2, false)
    );
}

#[test]
fn usage_that_is_missing_or_impossible_is_counted_and_marked() {
    for told in [
        None,
        Some(usage(7, 99)),
        Some(usage(u64::MAX, 1)),
        Some(usage(7, 0)),
    ] {
        let mut decoder = decoder(1, Some(5), false);
        read(&mut decoder, &[HELLO, HELLO, STOP]).unwrap();
        if let Some(told) = &told {
            read(&mut decoder, &[told]).unwrap();
        }
        let used = decoder.done().unwrap();
        assert_eq!(
            (used.completion_tokens, used.estimated),
            (2, true),
            "{told:?}"
        );
        assert_eq!(decoder.usage_is_impossible(), told.is_some());
    }
}

#[test]
fn nonsense_ends_the_stream() {
    for chunks in [
        &[r#"{"choices":[{"index":1,"delta":{"content":"x"}}]}"#][..],
        &[r#"{"choices":[{"index":4294967296,"delta":{"content":"x"}}]}"#],
        &[STOP, HELLO],
        &["nonsense"],
        &[r#"{"choices":7}"#],
    ] {
        let read = read(&mut decoder(1, None, false), chunks);
        assert!(
            matches!(read, Err(Fault::Nonsense(_))),
            "{chunks:?}: {read:?}"
        );
    }
    assert!(decoder(1, None, false).done().is_err());
}

#[test]
fn only_servers_of_ours_give_token_ids() {
    let chunk = r#"{"choices":[{"index":0,"delta":{"content":""},"hansa":{"token_ids":[5,6]}}]}"#;
    let ids = |ours| read(&mut decoder(1, None, ours), &[chunk]).unwrap();
    assert!(matches!(&ids(true)[..], [Event::Delta { token_ids, .. }] if token_ids == &[5, 6]));
    assert!(ids(false).is_empty());
}

#[test]
fn calls_and_how_they_are_written_are_read() {
    let syntax = r#"{"choices":[],"hansa":{"tool_syntax":{"form":"list","is_guided":true}}}"#;
    let told = |ours| read(&mut decoder(1, None, ours), &[syntax]).unwrap();
    assert!(matches!(&told(true)[..], [Event::ToolSyntax(syntax)] if syntax.is_guided));
    assert!(told(false).is_empty());
    let begin = r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c1","type":"function",
        "function":{"name":"f","arguments":""}}]}}]}"#;
    let more = r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}}]}"#;
    let end = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#;
    let events = read(&mut decoder(1, None, false), &[begin, more, end]).unwrap();
    let [
        Event::ToolCall {
            head: Some(head), ..
        },
        Event::ToolCall {
            head: None,
            arguments,
            ..
        },
        Event::Finished { reason, .. },
    ] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!(
        (head.id.as_str(), head.name.as_str(), arguments.as_str()),
        ("c1", "f", "{}")
    );
    assert_eq!(*reason, FinishReason::ToolCalls);
}

#[test]
fn both_shapes_of_log_probabilities_are_read() {
    let chat = r#"{"choices":[{"index":0,"delta":{"content":"é"},"logprobs":{"content":[
        {"token":"é","logprob":-0.5,"bytes":[195,169],"top_logprobs":[{"token":"a","logprob":-1.0,"bytes":[97]}]}]}}]}"#;
    let events = read(&mut decoder(1, None, false), &[chat]).unwrap();
    let [Event::Delta { logprobs, .. }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(
        (
            logprobs[0].chosen.bytes.as_slice(),
            logprobs[0].top[0].logprob
        ),
        ("é".as_bytes(), Some(-1.0))
    );
    let request = GenerateRequest {
        endpoint: Endpoint::Completions,
        ..test_request()
    };
    let completion = r#"{"choices":[{"index":0,"text":"ab","logprobs":{"tokens":["a","b"],"token_logprobs":[null,-2],
        "top_logprobs":[null,{"b":-2,"c":-3}],"text_offset":[0,1]}}]}"#;
    let events = read(&mut Decoder::new(&request, false), &[completion]).unwrap();
    let [Event::Delta { logprobs, .. }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!((logprobs.len(), logprobs[1].top.len()), (2, 2));
    let uneven = completion.replace("[null,-2]", "[-2]");
    assert!(read(&mut Decoder::new(&request, false), &[&uneven]).is_err());
}

#[test]
fn tokens_that_events_name_are_counted_one_by_one() {
    let two = r#"{"choices":[{"index":0,"delta":{"content":"ab"},"logprobs":{"content":[
        {"token":"a","logprob":-1.0},{"token":"b","logprob":-1.0}]}}]}"#;
    let mut decoder = decoder(1, None, false);
    read(&mut decoder, &[two, HELLO]).unwrap();
    let used = decoder.usage();
    assert_eq!((used.completion_tokens, used.estimated), (3, true));
    // "Hi" came in no more tokens than it has bytes, and in one at least.
    assert_eq!(used.prompt_tokens, 1);
}

#[test]
fn a_usage_says_what_only_our_servers_can() {
    let told = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,
        "hansa":{"estimated":true,"joules":1.5,"grams":0.000002}}}"#;
    for (ours, expected) in [
        (true, (true, Some(1_500), Some(2))),
        (false, (false, None, None)),
    ] {
        let mut decoder = decoder(1, Some(5), ours);
        read(&mut decoder, &[HELLO, STOP, told]).unwrap();
        let used = decoder.done().unwrap();
        let seen = (used.estimated, used.millijoules, used.micrograms);
        assert_eq!(seen, expected);
        assert!(!decoder.usage_is_impossible());
    }
    let impossible = told.replace("1.5", "-1e300");
    let mut decoder = decoder(1, Some(5), true);
    read(&mut decoder, &[HELLO, STOP, &impossible]).unwrap();
    assert_eq!(decoder.done().unwrap().millijoules, None);
}

#[test]
fn an_error_of_ours_says_what_was_used_until_then() {
    let error = r#"{"error":{"message":"m","type":"t","param":null,"code":"cancelled"},
        "hansa":{"usage":{"prompt_tokens":7,"completion_tokens":3}}}"#;
    let told = |ours| match read(&mut decoder(1, Some(5), ours), &[HELLO, error]) {
        Err(Fault::Told(error)) => error.usage,
        other => panic!("{other:?}"),
    };
    let used = told(true).unwrap();
    assert_eq!((used.prompt_tokens, used.completion_tokens), (7, 3));
    assert_eq!(told(false), None);
}

#[test]
fn an_error_in_the_stream_is_its_own() {
    for (code, ours, kind) in [
        ("shutting_down", true, UpstreamErrorKind::ShuttingDown),
        // Lost on the way: it can go on elsewhere.
        ("upstream_unreachable", true, UpstreamErrorKind::Unreachable),
        ("upstream_unreachable", false, UpstreamErrorKind::Internal),
    ] {
        let error = format!(
            r#"{{"error":{{"message":"m","type":"server_error","param":null,"code":"{code}"}}}}"#
        );
        let told = read(&mut decoder(1, None, ours), &[&error]);
        assert_eq!(told, Err(Fault::Told(Box::new(kind.into()))), "{code}");
    }
}

proptest! {
    #[test]
    fn nothing_that_a_server_sends_panics_or_breaks_the_bounds(
        chunks in proptest::collection::vec("[ -~]{0,60}", 0..5),
        index in 0u32..4, tokens in any::<u64>(), reason in "(null|\"stop\"|\"\"|7)",
    ) {
        let mut decoder = decoder(2, Some(3), true);
        let mut events = VecDeque::new();
        for chunk in &chunks {
            let _ = decoder.chunk(chunk.as_bytes(), &mut events);
        }
        let chunk = format!(
            r#"{{"choices":[{{"index":{index},"delta":{{"content":"x"}},"finish_reason":{reason}}}],
                "usage":{{"prompt_tokens":{tokens},"completion_tokens":{tokens}}}}}"#
        );
        let _ = decoder.chunk(chunk.as_bytes(), &mut events);
        prop_assert!(decoder.usage().completion_tokens <= 6);
        for event in events {
            let (Event::Delta { choice, .. } | Event::Finished { choice, .. }) = event else {
                continue;
            };
            prop_assert!(choice < 2);
        }
    }
}

#[test]
fn a_whole_answer_is_read_like_the_chunks_that_it_stands_for() {
    let answer = r#"{"id":"x","choices":[
        {"index":0,"message":{"role":"assistant","content":"Hello","refusal":null},"logprobs":null,"finish_reason":"stop"},
        {"index":1,"message":{"content":null,"tool_calls":[
            {"id":"c","type":"function","function":{"name":"f","arguments":"{}"}},
            {"id":"d","type":"function","function":{"name":"g","arguments":"{}"}}]},"finish_reason":"tool_calls"}],
        "usage":{"prompt_tokens":7,"completion_tokens":9}}"#;
    let mut events = VecDeque::new();
    let used = decoder(2, Some(9), false).whole(answer.as_bytes(), &mut events);
    let used = used.unwrap();
    assert_eq!((used.completion_tokens, used.estimated), (9, false));
    let calls: Vec<u32> = events
        .iter()
        .filter_map(|event| match event {
            Event::ToolCall { index, .. } => Some(*index),
            _ => None,
        })
        .collect();
    assert_eq!((events.len(), calls), (5, vec![0, 1]));
}

#[test]
fn a_whole_answer_that_is_broken_is_none() {
    for answer in [
        "",
        "[]",
        r#"{"choices":[]}"#,
        r#"{"choices":[{"index":0,"message":{"content":"Hello"},"finish_reason":null}]}"#,
        r#"{"choices":[{"index":1,"message":{"content":"Hello"},"finish_reason":"stop"}]}"#,
        r#"{"error":{"message":"m","code":500}}"#,
    ] {
        let mut events = VecDeque::new();
        let read = decoder(1, None, false).whole(answer.as_bytes(), &mut events);
        assert!(read.is_err(), "{answer}");
    }
}

#[test]
fn the_tokens_of_a_whole_answer_are_guessed_where_nobody_tells() {
    let text = "word ".repeat(16);
    let answer = format!(
        r#"{{"choices":[{{"index":0,"message":{{"content":"{text}"}},"finish_reason":"stop"}}]}}"#
    );
    let mut events = VecDeque::new();
    let used = decoder(1, Some(99), false).whole(answer.as_bytes(), &mut events);
    let used = used.unwrap();
    assert_eq!((used.completion_tokens, used.estimated), (20, true));
}

/// A chunk of choice `index` with `content`, written as it is, and `rest` behind it.
fn written(index: u32, content: &str, rest: &str) -> String {
    format!(r#"{{"id":"x","choices":[{{"index":{index},"delta":{{"content":{content}}}{rest}}}]}}"#)
}

#[test]
fn a_chunk_like_the_one_before_is_not_read_anew() {
    let mut decoder = decoder(1, None, false);
    let mut events = VecDeque::new();
    for text in [r#""one""#, r#"" t\u0077o""#] {
        let chunk = written(0, text, r#","finish_reason":null"#);
        assert_eq!(
            decoder.as_before(chunk.as_bytes()).is_some(),
            text != r#""one""#
        );
        decoder.chunk(chunk.as_bytes(), &mut events).unwrap();
    }
    assert_eq!(events.len(), 2);
}

proptest! {
    /// What a decoder makes of a chunk does not depend on whether it is like the one before.
    #[test]
    fn templates_change_nothing(
        chunks in proptest::collection::vec(
            (
                0u32..2,
                r#""[a-cé ]{0,3}"|"\\n"|"\\ud83d\\ude00"|"\\ud83d"|"\\"|"a" ,"x":1|null|7|"a"},"delta":\{"content":"b""#,
                r#"|,"finish_reason":null|,"finish_reason":"stop"|,"logprobs":null"#,
            ),
            1..8,
        ),
    ) {
        let chunks: Vec<String> = chunks.iter().map(|(i, text, rest)| written(*i, text, rest)).collect();
        let (mut with, mut without) = (decoder(2, None, false), decoder(2, None, false));
        for chunk in &chunks {
            without.template = None;
            let (mut one, mut other) = (VecDeque::new(), VecDeque::new());
            let read = (with.chunk(chunk.as_bytes(), &mut one), without.chunk(chunk.as_bytes(), &mut other));
            prop_assert_eq!(&read.0, &read.1);
            prop_assert_eq!(one, other);
            prop_assert_eq!(with.usage(), without.usage());
            if read.0.is_err() {
                break;
            }
        }
    }
}
