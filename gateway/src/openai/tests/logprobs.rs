//! Log-probabilities, and what is made with them: both shapes, whole and streamed, and the best of several.

use http::StatusCode;
use serde_json::{Value, json};

use super::{COMPLETIONS, Server, Step, delta, done, finished, scored, text, with};
use crate::upstream::Event;

fn chat_token(token: &str, bytes: &[u8], logprob: f32) -> Value {
    let top = json!({"token": "é", "logprob": -0.5, "bytes": [195, 169]});
    json!({"token": token, "logprob": logprob, "bytes": bytes, "top_logprobs": [top]})
}

#[tokio::test]
async fn a_chat_shows_a_list_of_tokens() {
    // The second token is the first half of a character.
    let steps = vec![
        scored(0, b"a", -1.0),
        scored(0, b"\xC3", -2.0),
        finished(0),
        done(),
    ];
    let server = Server::saying(steps);
    let body = with(r#""logprobs":true,"top_logprobs":1"#);
    let answer = super::json(server.chat(&body).await).await;
    let content = json!([
        chat_token("a", b"a", -1.0),
        chat_token("\u{FFFD}", b"\xC3", -2.0)
    ]);
    assert_eq!(
        answer["choices"][0]["logprobs"],
        json!({"content": content, "refusal": null})
    );
    assert_eq!(server.asked()[0].logprobs, Some(1));

    let streaming = with(r#""logprobs":true,"stream":true"#);
    let events = text(server.chat(&streaming).await).await;
    let chunks = chunks(&events);
    assert_eq!(chunks.len(), 4);
    let content = |token| json!({"content": [token], "refusal": null});
    let logprobs: Vec<_> = chunks
        .iter()
        .map(|c| &c["choices"][0]["logprobs"])
        .collect();
    assert_eq!(logprobs[0], &Value::Null);
    assert_eq!(logprobs[1], &content(chat_token("a", b"a", -1.0)));
    assert_eq!(logprobs[2], &content(chat_token("\u{FFFD}", b"\xC3", -2.0)));
    assert_eq!(logprobs[3], &Value::Null);
}

fn chunks(events: &str) -> Vec<Value> {
    let data = events
        .lines()
        .filter_map(|line| line.strip_prefix("data: "));
    let chunks = data.filter(|data| *data != "[DONE]");
    chunks
        .map(|chunk| serde_json::from_str(chunk).unwrap())
        .collect()
}

#[tokio::test]
async fn a_completion_shows_parallel_lists() {
    let steps = vec![
        scored(0, "né".as_bytes(), -1.0),
        scored(0, "é".as_bytes(), -0.5),
        scored(0, b"!", -3.0),
        finished(0),
        done(),
    ];
    let server = Server::saying(steps);
    let body = r#"{"model":"m","prompt":"a","logprobs":1}"#;
    let answer = super::json(server.post(COMPLETIONS, body).await).await;
    let expected = json!({
        "text_offset": [0, 2, 3],
        "token_logprobs": [-1.0, -0.5, -3.0],
        "tokens": ["né", "é", "!"],
        "top_logprobs": [{"é": -0.5, "né": -1.0}, {"é": -0.5}, {"é": -0.5, "!": -3.0}],
    });
    assert_eq!(answer["choices"][0]["logprobs"], expected);

    let streaming = r#"{"model":"m","prompt":"a","logprobs":0,"stream":true}"#;
    let events = text(server.post(COMPLETIONS, streaming).await).await;
    let offsets: Vec<_> = chunks(&events)
        .iter()
        .map(|c| c["choices"][0]["logprobs"]["text_offset"].clone())
        .collect();
    assert_eq!(offsets, [json!([0]), json!([2]), json!([3]), Value::Null]);
}

#[tokio::test]
async fn an_echoed_prompt_is_weighed_but_for_its_first_token() {
    let unknown = |step| match step {
        Step::Say(Event::Delta {
            choice,
            text,
            token_ids,
            logprobs: mut tokens,
        }) => {
            tokens[0].chosen.logprob = None;
            Step::Say(Event::Delta {
                choice,
                text,
                token_ids,
                logprobs: tokens,
            })
        }
        step => step,
    };
    let steps = vec![
        unknown(scored(0, b"a", -1.0)),
        scored(0, b" b", -2.0),
        finished(0),
        done(),
    ];
    let server = Server::saying(steps);
    let body = r#"{"model":"m","prompt":"a b","logprobs":1,"echo":true,"max_tokens":0}"#;
    let answer = super::json(server.post(COMPLETIONS, body).await).await;
    let expected = json!({
        "text_offset": [0, 1],
        "token_logprobs": [null, -2.0],
        "tokens": ["a", " b"],
        "top_logprobs": [null, {"é": -0.5, " b": -2.0}],
    });
    assert_eq!(answer["choices"][0]["logprobs"], expected);
    let asked = &server.asked()[0];
    let weighs = (asked.echo, asked.prompt_logprobs, asked.max_tokens);
    assert_eq!(weighs, (true, true, Some(0)));
    // Candidates are compared by log-probabilities that nobody asked to see.
    let body = r#"{"model":"m","prompt":"a","echo":true,"best_of":2}"#;
    server.post(COMPLETIONS, body).await;
    assert!(!server.asked()[1].prompt_logprobs);
}

#[tokio::test]
async fn the_best_of_several_are_shown_for_each_prompt() {
    let server = Server::new(|_| {
        let mut steps: Vec<_> = [(0, -2.0), (1, -1.0), (2, -3.0)]
            .map(|(choice, logprob)| scored(choice, format!("c{choice}").as_bytes(), logprob))
            .into();
        // A mean and not a sum: the longest of equals is no worse.
        steps.push(scored(1, b"x", -1.0));
        steps.extend([finished(0), finished(1), finished(2), done()]);
        Ok(steps)
    });
    let body = r#"{"model":"m","prompt":["a","b"],"n":2,"best_of":3}"#;
    let answer = super::json(server.post(COMPLETIONS, body).await).await;
    let choices: Vec<_> = answer["choices"].as_array().unwrap().iter().collect();
    let shown: Vec<_> = choices
        .iter()
        .map(|c| (c["index"].clone(), c["text"].clone()))
        .collect();
    let expected = [(0, "c1x"), (1, "c0"), (2, "c1x"), (3, "c0")];
    assert_eq!(
        shown,
        expected.map(|(index, text)| (json!(index), json!(text)))
    );
    assert!(choices.iter().all(|c| c["logprobs"].is_null()));
    let asked = server.asked();
    assert_eq!((asked[0].n, asked[0].logprobs), (3, Some(0)));
}

#[tokio::test]
async fn nobody_asked_and_nothing_is_shown() {
    let server = Server::saying(vec![delta(0, "Hi"), finished(0), done()]);
    let response = server
        .chat(&with(r#""logprobs":false,"top_logprobs":0"#))
        .await;
    assert_eq!(response.status(), StatusCode::OK);
    let answer = super::json(response).await;
    assert!(answer["choices"][0]["logprobs"].is_null());
    assert_eq!(server.asked()[0].logprobs, None);
}
