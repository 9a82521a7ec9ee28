//! Bodies that pass, and what of them reaches the upstream.

use http::StatusCode;

use super::{CHAT, COMPLETIONS, Server, error, hello, json, post, saying, text, with};
use crate::stack::RequestId;
use crate::upstream::{Endpoint, Grammar, Prompt, Sampling};

#[tokio::test]
async fn neutral_values_and_nulls_pass() {
    let server = Server::saying(hello());
    for fields in [
        r#""frequency_penalty":0,"presence_penalty":0.0,"logit_bias":{},"logprobs":false,"top_logprobs":0"#,
        r#""tools":[],"tool_choice":"none","functions":[],"function_call":"auto","parallel_tool_calls":true"#,
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
    let body =
        r#"{"model":"m","prompt":"a","best_of":1,"echo":false,"suffix":null,"logprobs":null}"#;
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
        "repetition_penalty":1.5,"frequency_penalty":-0.5,"presence_penalty":2,"logit_bias":{"7":-100,"9":0.5},
        "stop":["a","b"],"stop_token_ids":[5,6],"min_tokens":3,"ignore_eos":true}"#;
    let mut request = post(CHAT, body);
    request.extensions_mut().insert(RequestId("r1".into()));
    request.headers_mut().insert("x-hansa-hops", 2.into());
    assert_eq!(server.send(request).await.status(), StatusCode::OK);
    let asked = server.asked().remove(0);
    let messages = serde_json::json!([
        {"role": "system", "content": "Be \"brief\"."},
        {"role": "user", "content": "Héllo", "name": "Ann"},
    ]);
    let Prompt::Chat(chat) = &asked.prompt else {
        panic!("a chat became something else");
    };
    assert_eq!(chat.read(), messages.as_array().cloned());
    assert_eq!(asked.body.bytes(), body.as_bytes());
    assert_eq!(
        (&*asked.id, &*asked.model, asked.endpoint),
        ("r1", "m", Endpoint::Chat)
    );
    assert_eq!(
        (asked.n, asked.max_tokens, asked.seed, asked.hops),
        (1, Some(7), u64::MAX, 2)
    );
    assert_eq!(asked.stop, ["a", "b"]);
    assert_eq!((&*asked.stop_token_ids, asked.min_tokens), (&[5, 6][..], 3));
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
        repetition_penalty: 1.5,
        frequency_penalty: -0.5,
        presence_penalty: 2.0,
        logit_bias: vec![(7, -100.0), (9, 0.5)].into(),
        ignore_eos: true,
    };
    assert_eq!(asked.sampling, expected);
}

#[tokio::test]
async fn structures_arrive_in_each_of_their_forms() {
    let object = || Grammar::JsonSchema(r#"{"type":"object"}"#.into());
    let array = || Grammar::JsonSchema(r#"{ "type":"array" }"#.into());
    let named = r#"{"type":"json_schema","json_schema":{"name":"n","strict":true,"schema":{ "type":"array" }}}"#;
    for (fields, expected) in [
        (
            r#""response_format":{"type":"json_object"}"#.to_owned(),
            object(),
        ),
        (format!(r#""response_format":{named}"#), array()),
        (r#""guided_json":{ "type":"array" }"#.to_owned(), array()),
        (
            r#""guided_json":"{ \"type\":\"array\" }""#.to_owned(),
            array(),
        ),
        (
            r#""structured_outputs":{"json_object":true}"#.to_owned(),
            object(),
        ),
        (
            r#""structured_outputs":{"regex":"a\"b","json":null}"#.to_owned(),
            Grammar::Regex("a\"b".into()),
        ),
        (
            r#""guided_grammar":"start: A""#.to_owned(),
            Grammar::Lark("start: A".into()),
        ),
        (
            r#""guided_choice":["a\"","b"]"#.to_owned(),
            Grammar::Lark(r#"start: "a\"" | "b""#.into()),
        ),
    ] {
        let server = Server::saying(hello());
        let response = server.chat(&with(&fields)).await;
        assert_eq!(response.status(), StatusCode::OK, "{fields}");
        let structure = server.asked()[0].structure.clone().unwrap();
        assert_eq!(structure.grammar, expected);
        assert!(fields[1..].starts_with(structure.param));
    }
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
        let response = server
            .post(COMPLETIONS, format!(r#"{{"model":"m","prompt":{prompt}}}"#))
            .await;
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
    let Prompt::Chat(chat) = server.asked().remove(0).prompt.clone() else {
        panic!("a chat became something else");
    };
    let messages = chat.read().unwrap();
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
