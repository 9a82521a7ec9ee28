//! Answers in one piece.

use axum::body::Body;
use futures::FutureExt as _;
use http::{Request, StatusCode};
use serde_json::json;

use super::{Server, Step, delta, done, error, finished, hello, text};
use crate::upstream::{Event, FinishReason, Prompt, UpstreamErrorKind};

const BODY: &str = r#"{"model":"m","messages":[{"role":"user","content":"Hi"}]}"#;

#[tokio::test]
async fn a_chat_is_answered_in_openai_s_shape() {
    let response = Server::saying(hello()).chat(BODY).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/json");
    assert!(response.headers().contains_key("openai-processing-ms"));
    assert_eq!(
        text(response).await,
        concat!(
            r#"{"id":"chatcmpl-ID","object":"chat.completion","created":1700000000,"model":"m","#,
            r#""choices":[{"index":0,"message":{"role":"assistant","content":"Hello!","refusal":null},"#,
            r#""logprobs":null,"finish_reason":"stop"}],"#,
            r#""usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8,"#,
            r#""prompt_tokens_details":{"cached_tokens":2},"completion_tokens_details":{"reasoning_tokens":0}}}"#,
        )
    );
}

#[tokio::test]
async fn several_prompts_are_answered_side_by_side() {
    // The second prompt is answered before the first one.
    let server = Server::new(|request| {
        let Prompt::Text(prompt) = &request.prompt else {
            panic!("a text became something else");
        };
        let slow = if &**prompt == "a" { 5 } else { 0 };
        let say = |choice| delta(choice, &format!("{prompt}{choice}"));
        let wait = Step::Wait(std::time::Duration::from_millis(slow));
        Ok(vec![wait, say(1), say(0), finished(0), finished(1), done()])
    });
    let body = r#"{"model":"m","prompt":["a","b"],"n":2,"seed":9}"#;
    let response = server.post("/v1/completions", body).await;
    let answer = super::json(response).await;
    assert_eq!(answer["object"], "text_completion");
    let texts: Vec<_> = answer["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| (choice["index"].clone(), choice["text"].clone()))
        .collect();
    assert_eq!(
        texts,
        [
            (json!(0), json!("a0")),
            (json!(1), json!("a1")),
            (json!(2), json!("b0")),
            (json!(3), json!("b1"))
        ]
    );
    assert_eq!(answer["usage"]["prompt_tokens"], 10);
    assert_eq!(answer["usage"]["total_tokens"], 16);
    let asked = server.asked();
    assert_ne!(asked[0].id, asked[1].id);
    assert_eq!((asked[0].seed, asked[1].seed), (9, 9));
}

#[tokio::test]
async fn a_seed_that_nobody_gave_is_drawn_for_each_prompt() {
    let server = Server::saying(hello());
    let body = r#"{"model":"m","prompt":["a","a"]}"#;
    server.post("/v1/completions", body).await;
    let asked = server.asked();
    assert_ne!(asked[0].seed, asked[1].seed);
}

#[tokio::test]
async fn an_upstream_s_error_becomes_a_status() {
    let table = [
        (UpstreamErrorKind::Overloaded, 503, "overloaded", None),
        (UpstreamErrorKind::NotReady, 503, "model_not_ready", None),
        (UpstreamErrorKind::ShuttingDown, 503, "shutting_down", None),
        (
            UpstreamErrorKind::DeadlineExceeded,
            504,
            "deadline_exceeded",
            None,
        ),
        (UpstreamErrorKind::Internal, 500, "internal_error", None),
        (
            UpstreamErrorKind::ContextLength {
                prompt: 9,
                context: 8,
            },
            400,
            "context_length_exceeded",
            None,
        ),
        (
            UpstreamErrorKind::InvalidRequest {
                param: Some("stop"),
                message: "no".to_owned(),
            },
            400,
            "invalid_value",
            Some("stop"),
        ),
    ];
    for (kind, status, code, param) in table {
        let refused = kind.clone();
        let refusing = Server::new(move |_| Err(refused.clone()));
        let failing = Server::saying(vec![delta(0, "Hel"), Step::Fail(kind.clone())]);
        for server in [refusing, failing] {
            let (got_status, got_code, got_param) = error(server.chat(BODY).await).await;
            assert_eq!(
                (got_status.as_u16(), &*got_code, got_param.as_deref()),
                (status, code, param),
                "{kind:?}"
            );
            assert_eq!(server.open(), 0);
        }
    }
}

#[tokio::test]
async fn an_upstream_that_breaks_its_word_is_our_failure() {
    let scripts = [
        vec![],
        vec![delta(0, "Hel")],
        vec![delta(0, "Hel"), finished(0)],
        vec![delta(0, "Hel"), done()],
        vec![delta(1, "Hel"), finished(0), done()],
        vec![finished(0), delta(0, "late"), done()],
        vec![finished(0), finished(0), done()],
        vec![delta(u32::MAX, "far"), finished(0), done()],
    ];
    for (index, script) in scripts.into_iter().enumerate() {
        let (status, code, _) = error(Server::saying(script).chat(BODY).await).await;
        assert_eq!(
            (status.as_u16(), &*code),
            (500, "internal_error"),
            "script {index}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_hanging_upstream_is_cut_at_the_deadline() {
    let server = Server::saying(vec![delta(0, "Hel"), Step::Hang]);
    let (status, code, _) = error(server.chat(BODY).await).await;
    assert_eq!((status.as_u16(), &*code), (504, "deadline_exceeded"));
    assert_eq!(server.open(), 0);
}

#[tokio::test]
async fn a_client_that_goes_away_cancels() {
    let server = Server::saying(vec![delta(0, "Hel"), Step::Hang]);
    let mut answering = Box::pin(server.chat(BODY));
    assert!((&mut answering).now_or_never().is_none());
    assert_eq!(server.open(), 1);
    drop(answering);
    assert_eq!(server.open(), 0);
}

#[tokio::test]
async fn an_answer_may_be_empty_and_cut_by_length() {
    let reason = FinishReason::Length;
    let server = Server::saying(vec![
        Step::Say(Event::Finished { choice: 0, reason }),
        done(),
    ]);
    let answer = super::json(server.chat(BODY).await).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn models_are_listed_and_found() {
    let server = Server::saying(hello());
    let get = async |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        server.send(request).await
    };
    let model = |id: &str| json!({"id": id, "object": "model", "created": 1_600_000_000, "owned_by": "hansa"});
    let list = super::json(get("/v1/models").await).await;
    assert_eq!(
        list,
        json!({"object": "list", "data": [model("m"), model("org/m2")]})
    );
    assert_eq!(super::json(get("/v1/models/m").await).await, model("m"));
    assert_eq!(
        super::json(get("/v1/models/org/m2").await).await,
        model("org/m2")
    );
    assert_eq!(
        super::json(get("/v1/models/org%2Fm2").await).await,
        model("org/m2")
    );
    let (status, code, param) = error(get("/v1/models/none").await).await;
    assert_eq!(
        (status.as_u16(), &*code, param.as_deref()),
        (404, "model_not_found", Some("model"))
    );
}
