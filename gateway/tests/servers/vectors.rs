//! Vectors of a server behind this one.

use hansa_config::schema::tenancy::Currency;
use serde_json::{Value, json};

use crate::harness::{Mock, Server, exchange, foreign, gateway, ours};
use crate::quota::{self, allocation, request};

/// A server of another make that gives two vectors.
async fn maker() -> Mock {
    let body = json!({
        "object": "list",
        "data": [{"index": 0, "embedding": [0.5, 1]}, {"index": 1, "embedding": [-1, 0.25]}],
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    })
    .to_string();
    let length = body.len();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json";
    Mock::start(format!("{head}\r\ncontent-length: {length}\r\n\r\n{body}")).await
}

#[tokio::test]
async fn vectors_of_another_make_reach_the_client() {
    let mock = maker().await;
    let edge = Server::start(gateway(vec![foreign(mock.address)])).await;
    let asks = r#"{"model":"sim","input":["a",[1,2]]}"#;
    let answer = edge.post("/v1/embeddings", asks).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let made = answer.json();
    assert_eq!(made["data"][1]["embedding"], json!([-1.0, 0.25]));
    assert_eq!(
        (&made["model"], &made["usage"]["prompt_tokens"]),
        (&json!("sim"), &json!(5))
    );
    let asked = mock.asked().pop().unwrap();
    assert!(asked.starts_with("POST /v1/embeddings "), "{asked}");
    let (_, body) = asked.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        (&body["model"], &body["input"]),
        (&json!("their/sim"), &json!(["a", [1, 2]]))
    );
    // One text too many: what comes back is no answer to what was asked.
    let answer = edge
        .post("/v1/embeddings", r#"{"model":"sim","input":["a","b","c"]}"#)
        .await;
    assert_eq!(answer.status, 500, "{answer:?}");
    edge.stop().await;
}

#[tokio::test]
async fn vectors_come_through_a_server_of_ours() {
    let mock = maker().await;
    let inner = Server::start(gateway(vec![foreign(mock.address)])).await;
    let edge = Server::start(gateway(vec![ours("inner", inner.clients)])).await;
    let asks = r#"{"model":"sim","input":["a","b"],"encoding_format":"base64"}"#;
    let (near, far) = (
        inner.post("/v1/embeddings", asks).await,
        edge.post("/v1/embeddings", asks).await,
    );
    assert_eq!((near.status, far.status), (200, 200), "{far:?}");
    assert_eq!(near.json(), far.json());
    let numbers = r#"{"model":"sim","input":["a","b"]}"#;
    let made = edge.post("/v1/embeddings", numbers).await.json();
    assert_eq!(made["data"][0]["embedding"], json!([0.5, 1.0]));
    let nobody = edge
        .post("/v1/embeddings", r#"{"model":"other","input":"a"}"#)
        .await;
    assert_eq!(nobody.status, 404, "{nobody:?}");
    edge.stop().await;
    inner.stop().await;
}

#[tokio::test]
async fn vectors_are_charged_with_what_whoever_made_them_says() {
    let mock = maker().await;
    let upstream = foreign(mock.address);
    let edge = quota::Server::start(|config| {
        config.models.clear();
        config.nodes = vec![upstream];
        config.allocations = vec![allocation("any", Currency::Tokens, 100)];
    })
    .await;
    let asks = json!({"model": "sim", "input": ["a", "b"]}).to_string();
    let asks = request("POST", "/v1/embeddings", edge.key.reveal(), &asks);
    let answer = exchange(edge.clients, &asks).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(edge.settled("any").await["posted"], 5);
    edge.stop().await;
}
