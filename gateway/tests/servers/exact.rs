//! What is charged equals what was made, through hops, aborts, broken connections and restarts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hansa_config::Config;
use hansa_config::schema::Upstream;
use hansa_config::schema::tenancy::Currency;
use hansa_gateway::drain::Drained;
use hansa_gateway::tenant::secret::Secret;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{
    Mock, PATIENCE, Server, Wire, exchange, file, foreign, gateway, node, ours, secret,
};
use crate::process::Process;
use crate::quota::{self, admin, allocation, body, count_completions, leave_at_random, request};

/// Makes a server with keys into a gateway before `upstream` that counts tokens of completion.
fn before(upstream: Upstream) -> impl FnOnce(&mut Config) {
    move |config| {
        count_completions(config);
        config.models.clear();
        config.nodes = vec![upstream];
        config.peer.secret_file = Some(secret("the-secret-of-all-peers"));
    }
}

/// A stream of many tokens whose first content is there.
async fn streaming(gateway: &quota::Server, headers: &str) -> Lines<BufReader<TcpStream>> {
    let mut lines = begin(gateway.clients, &gateway.key, headers).await;
    until_content(&mut lines).await;
    lines
}

/// A stream of many tokens.
async fn begin(address: SocketAddr, key: &Secret, headers: &str) -> Lines<BufReader<TcpStream>> {
    begin_with(address, key, headers, 4_000).await
}

/// A stream of so many tokens after a prompt of three.
pub(crate) async fn begin_with(
    address: SocketAddr,
    key: &Secret,
    headers: &str,
    max_tokens: u32,
) -> Lines<BufReader<TcpStream>> {
    let mut body = body(max_tokens);
    body["stream"] = true.into();
    let asks = request("POST", "/v1/completions", key.reveal(), &body.to_string());
    let asks = asks.replace("host:", &format!("{headers}host:"));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(asks.as_bytes()).await.unwrap();
    BufReader::new(stream).lines()
}

pub(crate) async fn until_content(lines: &mut Lines<BufReader<TcpStream>>) {
    let reading =
        async { while !(lines.next_line().await.unwrap().unwrap()).contains("\"text\":\"") {} };
    timeout(PATIENCE, reading).await.unwrap();
}

/// Tokens that a node has produced so far.
pub(crate) async fn made(node: &Server) -> u64 {
    let mut tokens = 0;
    let seen = std::sync::Mutex::new(&mut tokens);
    node.wait_for("/metrics", |answer| {
        let name = "hansa_engine_decode_tokens_total";
        let line = answer.body.lines().find(|line| line.starts_with(name));
        let count = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
        count.map(|count| **seen.lock().unwrap() = count).is_some()
    })
    .await;
    tokens
}

async fn charged(gateway: &quota::Server) -> u64 {
    gateway.settled("tokens").await["posted"].as_u64().unwrap() / 1_000_000
}

async fn last_record(gateway: &quota::Server) -> Value {
    let page = admin(gateway, "GET", "records", gateway.key.reveal(), &json!({})).await;
    let records = page.json()["data"].as_array().unwrap().clone();
    records.last().unwrap().clone()
}

pub(crate) fn slow_node() -> Config {
    let mut slow = node();
    slow.models[0].sim.step_base_us = 3_000;
    slow
}

#[tokio::test]
async fn clients_that_leave_two_servers_before_the_node_pay_what_it_made() {
    let node = Server::start(node()).await;
    let site = Server::start(gateway(vec![ours("node", node.clients)])).await;
    let edge = quota::Server::start(before(ours("site", site.clients))).await;
    leave_at_random(&edge).await;
    let charged = charged(&edge).await;
    node.wait_for_metric(r#"hansa_engine_running{model="sim"} 0"#)
        .await;
    assert_eq!(charged, made(&node).await);
    assert!(charged > 0);
    assert_eq!(edge.stop().await, Drained::InOrder);
    assert_eq!(site.stop().await, Drained::InOrder);
    assert_eq!(node.stop().await, Drained::InOrder);
}

#[tokio::test]
async fn the_time_of_a_nodes_device_is_paid_where_the_request_came_in() {
    let node = Server::start(slow_node()).await;
    let upstream = ours("node", node.clients);
    let edge = quota::Server::start(|config| {
        before(upstream)(config);
        config.allocations = vec![allocation("time", Currency::GpuSeconds, 3_600)];
    })
    .await;
    let answer = edge.ask(&body(10)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    // The client is told what it pays for by its account alone.
    assert_eq!(answer.json()["usage"]["hansa"], Value::Null, "{answer:?}");
    let posted = edge.settled("time").await["posted"].as_u64().unwrap();
    // Ten steps of three milliseconds, nobody beside it; what passes between two of them is the device's to wait.
    assert!(posted >= 20_000, "{posted} us");
    let record = last_record(&edge).await;
    assert_eq!(record["amounts"]["gpu_us"], posted, "{record}");
    let served = &record["served"];
    assert_eq!(served["node"], "node", "{record}");
    assert!(served["build"].is_string(), "{record}");
    assert_eq!(
        served["policy"].as_str().map(str::len),
        Some(32),
        "{record}"
    );
    assert_eq!(edge.stop().await, Drained::InOrder);
    node.stop().await;
}

#[tokio::test]
async fn a_stream_that_a_connection_took_along_is_asked_for_and_paid_exactly() {
    let node = Server::start(slow_node()).await;
    let wire = Wire::to(node.clients).await;
    let edge = quota::Server::start(before(ours("node", wire.address))).await;
    let mut lines = streaming(&edge, "x-hansa-resume: off\r\n").await;
    wire.shake();
    let reading = async {
        let mut last = String::new();
        while let Ok(Some(line)) = lines.next_line().await {
            if line.starts_with("data: ") {
                last = line;
            }
        }
        last
    };
    let last = timeout(PATIENCE, reading).await.unwrap();
    assert!(last.contains("\"error\""), "{last}");
    let charged = charged(&edge).await;
    assert_eq!(charged, made(&node).await);
    let record = last_record(&edge).await;
    let told = (&record["outcome"], &record["estimated"]);
    assert_eq!(told, (&json!("failed"), &json!(false)), "{record}");
    assert_eq!(edge.stop().await, Drained::InOrder);
    node.stop().await;
}

#[tokio::test]
async fn another_make_is_left_at_once_and_its_events_are_counted() {
    let event = r#"data: {"choices":[{"index":0,"text":"x","finish_reason":null}]}"#;
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{event}\n\n{event}\n\n{event}\n\n"
    );
    let mock = Mock::start(answer).await;
    let upstream = foreign(mock.address);
    let edge = quota::Server::start(|config| {
        before(upstream)(config);
        config.quota.default_max_tokens = 77;
    })
    .await;
    let lines = streaming(&edge, "").await;
    drop(lines);
    assert_eq!(charged(&edge).await, 3);
    let record = last_record(&edge).await;
    let told = (&record["outcome"], &record["estimated"]);
    assert_eq!(told, (&json!("aborted"), &json!(true)), "{record}");
    assert_eq!(record["tokens"]["prompt"], 3, "{record}");
    // It closed the connection, or the mock would still hold it.
    edge.server
        .wait_for_metric("hansa_requests_in_flight 0")
        .await;
    assert_eq!(edge.stop().await, Drained::InOrder);
}

#[tokio::test]
async fn another_make_is_told_the_bound_that_was_reserved() {
    let whole = r#"{"choices":[{"index":0,"text":"x","finish_reason":"stop"}]}"#;
    let mock = Mock::streaming(&[whole]).await;
    let upstream = foreign(mock.address);
    let edge = quota::Server::start(|config| {
        before(upstream)(config);
        config.quota.default_max_tokens = 77;
    })
    .await;
    for (body, bound) in [
        (json!({"model": "sim", "prompt": [1, 2, 3]}), 77),
        (
            json!({"model": "sim", "prompt": [1], "max_tokens": null}),
            77,
        ),
        (json!({"model": "sim", "prompt": [1], "max_tokens": 5}), 5),
    ] {
        let key = edge.key.reveal();
        let asks = request("POST", "/v1/completions", key, &body.to_string());
        let answer = exchange(edge.clients, &asks).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        // Nobody told how many tokens it were.
        assert_eq!(answer.json()["usage"]["hansa"], json!({"estimated": true}));
        let asked = mock.asked().pop().unwrap();
        let (_, sent) = asked.split_once("\r\n\r\n").unwrap();
        let sent: Value = serde_json::from_str(sent).unwrap();
        assert_eq!(sent["max_tokens"], bound, "{asked}");
    }
    assert_eq!(edge.stop().await, Drained::InOrder);
}

#[tokio::test]
async fn usage_is_for_peers_alone() {
    let node = Server::start(node()).await;
    let asks = "GET /hansa/v1/usage?id=x HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
    let stranger = exchange(node.clients, &format!("{asks}\r\n")).await;
    assert_eq!((stranger.status, &*stranger.code()), (403, "peers_only"));
    let secret = "x-hansa-peer: the-secret-of-all-peers\r\n\r\n";
    let peer = exchange(node.clients, &format!("{asks}{secret}")).await;
    assert_eq!(peer.json(), json!({"data": []}), "{peer:?}");
    node.stop().await;
}

/// The config of a gateway before `node` with a ledger of its own and one key, all of it in `folder`.
pub(crate) fn gateway_with_ledger(folder: &Path, node: SocketAddr, key: &Secret) -> PathBuf {
    let config = folder.join("gateway.toml");
    let text = format!(
        r#"
        [server]
        listen = "127.0.0.1:0"
        [admin]
        listen = "127.0.0.1:0"
        [peer]
        secret_file = "{secret}"
        [quota]
        ledger = "{ledger}"
        [[node]]
        name = "node"
        url = "http://{node}"
        models = ["sim"]
        [[tenant]]
        id = "acme"
        [[key]]
        id = "k"
        tenant = "acme"
        sha256 = "{digest}"
        role = "operator"
        [[allocation]]
        id = "tokens"
        tenant = "acme"
        amount = 1000000
        "#,
        secret = file("the-peers", "the-secret-of-all-peers").display(),
        ledger = folder.join("ledger.redb").display(),
        digest = key.digest(),
    );
    std::fs::write(&config, text).unwrap();
    config
}

#[tokio::test]
async fn what_a_killed_gateway_left_open_is_charged_by_its_next_life_once() {
    let node = Server::start(slow_node()).await;
    let (folder, key) = (tempfile::tempdir().unwrap(), Secret::new());
    let config = gateway_with_ledger(folder.path(), node.clients, &key);

    let first = Process::start(&config);
    first.until_ready(&key).await;
    let mut lines = begin(first.clients, &key, "").await;
    until_content(&mut lines).await;
    first.kill();
    node.wait_for_metric(r#"hansa_engine_running{model="sim"} 0"#)
        .await;
    // A prompt of 3 tokens.
    let owed = made(&node).await + 3;

    for _ in 0..2 {
        let next = Process::start(&config);
        let settled = async {
            loop {
                let usage = next.get("/v1/usage", &key).await.json();
                if usage["allocations"][0]["posted"] == owed {
                    break;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, settled).await.unwrap();
        // It is counted at once, and listed once it is on the disk.
        let listed = async {
            loop {
                let records = next.get("/admin/v1/records", &key).await.json();
                if records["data"] != json!([]) {
                    return records;
                }
            }
        };
        let records = timeout(PATIENCE, listed).await.unwrap();
        assert_eq!(records["data"].as_array().unwrap().len(), 1, "{records}");
        assert_eq!(records["data"][0]["outcome"], "aborted");
        next.kill();
    }
    node.stop().await;
}
