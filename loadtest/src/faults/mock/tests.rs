//! A mock site over a real socket, asked by the driver's own client.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::faults::proxy::testing::{events, exchange, post};

fn instant() -> MockOptions {
    MockOptions {
        cost: Cost {
            slots: 1,
            queue: 0,
            prefill: Duration::ZERO,
            prefill_token: Duration::ZERO,
            step: Duration::ZERO,
            step_request: Duration::ZERO,
        },
        ..MockOptions::default()
    }
}

#[tokio::test]
async fn it_answers_like_a_server_of_the_api() {
    let mock = Mock::start(instant()).await.unwrap();
    let body = json!({"model": "mock", "seed": 0, "max_tokens": 3, "messages": [{"role": "user", "content": "a b c d"}]});
    let whole = exchange(mock.address(), &post("/v1/chat/completions", &body)).await;
    assert_eq!(
        (whole.status, whole.header("x-hansa-site")),
        (200, Some("mock"))
    );
    let json: Value = serde_json::from_str(&whole.body).unwrap();
    let expected = include_str!("../../../tests/data/sim_tokens_seed0.txt");
    assert_eq!(json["choices"][0]["message"]["content"], expected);
    assert_eq!(json["usage"]["prompt_tokens"], 4);
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let answer = exchange(mock.address(), &post("/v1/chat/completions", &streamed)).await;
    let data = events(&answer.body);
    assert_eq!(data.last().map(String::as_str), Some("[DONE]"));
    let chunks = data
        .iter()
        .filter_map(|data| serde_json::from_str::<Value>(data).ok());
    let said = chunks
        .filter_map(|chunk| Some(chunk["choices"][0]["delta"]["content"].as_str()?.to_owned()));
    assert_eq!(said.collect::<String>(), expected);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n");
    let models = exchange(mock.address(), &get("/v1/models")).await;
    assert!(models.body.contains(r#""id":"mock""#), "{}", models.body);
    let metrics = exchange(mock.address(), &get("/metrics")).await;
    for line in [
        "mock_requests_total{end=\"whole\"} 2",
        "mock_output_tokens_total 6",
        "mock_requests_running 0",
    ] {
        assert!(metrics.body.contains(line), "{line} in {}", metrics.body);
    }
    assert_eq!(
        (
            mock.asked(),
            mock.told().ttft.count(),
            mock.told().tpot.count()
        ),
        (2, 2, 2)
    );
}

#[tokio::test]
async fn what_it_cannot_answer_it_refuses() {
    let mut options = instant();
    options.cost.step = Duration::from_secs(600);
    let mock = Mock::start(options).await.unwrap();
    let ask = async |body: Value| {
        exchange(mock.address(), &post("/v1/completions", &body))
            .await
            .status
    };
    assert_eq!(ask(json!({"model": "other"})).await, 404);
    assert_eq!(ask(json!({"prompt": 5})).await, 400);
    let unknown = exchange(mock.address(), &post("/v1/embeddings", &json!({}))).await;
    assert_eq!(unknown.status, 404);
    // The only slot is taken by a request that says nothing for ten minutes.
    let long = post(
        "/v1/completions",
        &json!({"model": "mock", "max_tokens": 2}),
    );
    let mut held = Box::pin(exchange(mock.address(), &long));
    let running = &mock.site.counts.running;
    let taken = async {
        while running.load(std::sync::atomic::Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        ask(json!({"model": "mock", "max_tokens": 1})).await
    };
    tokio::select! {
        answer = &mut held => panic!("{answer:?}"),
        status = taken => assert_eq!(status, 429),
    }
    drop(held);
    // Whoever goes away makes room.
    while ask(json!({"model": "mock", "max_tokens": 1})).await != 200 {}
}
