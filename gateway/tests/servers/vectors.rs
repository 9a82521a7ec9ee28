//! Vectors of a server behind this one.

use std::net::SocketAddr;

use hansa_config::schema::Model;
use hansa_config::schema::tenancy::Currency;
use hansa_gateway::drain::Drained;
use hansa_gateway::tenant::secret::Secret;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::exact::gateway_with_ledger;
use crate::harness::{Mock, PATIENCE, Server, exchange, foreign, gateway, node, ours, secret};
use crate::process::Process;
use crate::quota::{self, allocation, request};

/// Makes `model` one that makes vectors, two texts of eight tokens in a pass of some time.
fn embeds(model: &mut Model) {
    model.step_tokens_max = 16;
    model.sim.embedding_numbers = 4;
    model.sim.step_base_us = 50_000;
}

/// Texts of so many passes, one after the other.
fn texts(passes: usize) -> Value {
    json!({"model": "sim", "input": vec![[1_u32; 8]; 2 * passes]})
}

/// Asks and does not wait for the answer.
async fn begin(address: SocketAddr, key: &Secret, passes: usize) -> TcpStream {
    let body = texts(passes).to_string();
    let asks = request("POST", "/v1/embeddings", key.reveal(), &body);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(asks.as_bytes()).await.unwrap();
    stream
}

/// Tokens of the texts that have their vectors.
fn embedded(metrics: &str) -> u64 {
    let mut lines = metrics.lines();
    let line = lines.find(|line| line.starts_with("hansa_engine_prefill_tokens_total"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or(0)
}

/// Tokens for which `node` has made vectors.
async fn made(node: &Server) -> u64 {
    let asks = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    embedded(&exchange(node.operators, asks).await.body)
}

async fn until_embedded(server: &Server, tokens: u64) {
    let some = |answer: &crate::harness::Answer| embedded(&answer.body) >= tokens;
    server.wait_for("/metrics", some).await;
}

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

#[tokio::test]
async fn what_vectors_took_of_a_device_and_of_energy_comes_through_hops_into_records() {
    let mut config = node();
    embeds(&mut config.models[0]);
    config.energy.millijoules_per_token = Some(500);
    config.energy.grams_per_kwh = Some(360);
    let node = Server::start(config).await;
    let site = Server::start(gateway(vec![ours("node", node.clients)])).await;
    let before = ours("site", site.clients);
    let edge = quota::Server::start(|config| {
        config.models.clear();
        config.nodes = vec![before];
        config.peer.secret_file = Some(secret("the-secret-of-all-peers"));
        config.allocations = vec![
            allocation("seconds", Currency::GpuSeconds, 1_000),
            allocation("energy", Currency::Joules, 1_000),
        ];
    })
    .await;
    // Two passes of 50 ms; 32 tokens of a prompt, each a tenth of 0.5 J.
    let body = texts(2).to_string();
    let asks = request("POST", "/v1/embeddings", edge.key.reveal(), &body);
    let answer = exchange(edge.clients, &asks).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let told = json!({"joules": 1.6, "grams": 0.00016});
    assert_eq!(answer.json()["usage"]["hansa"], told);
    assert_eq!(edge.settled("energy").await["posted"], 1_600);
    let seconds = edge.settled("seconds").await["posted"].as_u64().unwrap();
    assert!(seconds >= 100_000, "{seconds} us");
    let page = quota::admin(&edge, "GET", "records", edge.key.reveal(), &json!({})).await;
    let record = &page.json()["data"][0];
    assert_eq!(record["amounts"]["millijoules"], 1_600, "{record}");
    assert_eq!(record["amounts"]["gpu_us"], seconds, "{record}");
    assert_eq!(record["micrograms"], 160, "{record}");
    edge.stop().await;
    site.stop().await;
    node.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_is_charged_with_the_passes_that_were_made_for_it() {
    let server = quota::Server::start(|config| {
        embeds(&mut config.models[0]);
        config.allocations = vec![
            allocation("any", Currency::Tokens, 1_000_000),
            allocation("seconds", Currency::GpuSeconds, 1_000),
        ];
    })
    .await;
    let first = begin(server.clients, &server.key, 40).await;
    until_embedded(&server, 16).await;
    // Nothing of this one is ever computed: it leaves while the other's pass runs.
    let second = begin(server.clients, &server.key, 40).await;
    drop(first);
    drop(second);
    let charged = server.settled("any").await["posted"].as_u64().unwrap();
    server
        .wait_for_metric(r#"hansa_engine_running{model="sim"} 0"#)
        .await;
    assert_eq!(
        charged,
        server.metric("hansa_engine_prefill_tokens_total").await
    );
    assert!((16..40 * 16).contains(&charged), "{charged}");
    // Sixteen tokens a pass, which takes 50 ms at least.
    let seconds = server.settled("seconds").await["posted"].as_u64().unwrap();
    assert!(
        seconds >= charged / 16 * 50_000,
        "{seconds} us of {charged}"
    );
    // Whoever stays pays for all of it.
    let asks = request(
        "POST",
        "/v1/embeddings",
        server.key.reveal(),
        &texts(2).to_string(),
    );
    assert_eq!(exchange(server.clients, &asks).await.status, 200);
    assert_eq!(server.settled("any").await["posted"], charged + 32);
    assert_eq!(server.stop().await, Drained::InOrder);
}

#[tokio::test]
async fn a_node_tells_what_it_had_made_for_a_client_that_left_its_gateway() {
    let mut config = node();
    embeds(&mut config.models[0]);
    let node = Server::start(config).await;
    let before = ours("node", node.clients);
    let edge = quota::Server::start(|config| {
        config.models.clear();
        config.nodes = vec![before];
        config.peer.secret_file = Some(secret("the-secret-of-all-peers"));
        config.allocations = vec![allocation("any", Currency::Tokens, 1_000_000)];
    })
    .await;
    drop(begin(edge.clients, &edge.key, 40).await);
    let stream = begin(edge.clients, &edge.key, 40).await;
    until_embedded(&node, 32).await;
    drop(stream);
    let charged = edge.settled("any").await["posted"].as_u64().unwrap();
    node.wait_for_metric(r#"hansa_engine_running{model="sim"} 0"#)
        .await;
    assert_eq!(charged, made(&node).await);
    assert!((32..80 * 16).contains(&charged), "{charged}");
    assert_eq!(edge.stop().await, Drained::InOrder);
    node.stop().await;
}

#[tokio::test]
async fn what_a_node_made_for_a_gateway_that_was_killed_is_charged_by_its_next_life() {
    let mut config = node();
    embeds(&mut config.models[0]);
    let node = Server::start(config).await;
    let (folder, key) = (tempfile::tempdir().unwrap(), Secret::new());
    let config = gateway_with_ledger(folder.path(), node.clients, &key);
    let first = Process::start(&config);
    first.until_ready(&key).await;
    let _stream = begin(first.clients, &key, 40).await;
    until_embedded(&node, 32).await;
    first.kill();
    node.wait_for_metric(r#"hansa_engine_running{model="sim"} 0"#)
        .await;
    let owed = made(&node).await;
    let next = Process::start(&config);
    let settled = async {
        while next.get("/v1/usage", &key).await.json()["allocations"][0]["posted"] != owed {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, settled).await.unwrap();
    next.stop();
    node.stop().await;
}
