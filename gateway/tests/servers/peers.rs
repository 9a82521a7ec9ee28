//! Who is a peer, and what only a peer may say and ask.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{
    PATIENCE, Server, chat, exchange, gateway, node, ours, post, secret, sim_text, spawn,
};

const PATH: &str = "/v1/chat/completions";
const SECRET: &str = "x-hansa-peer: the-secret-of-all-peers\r\n";

#[tokio::test]
async fn the_extension_is_a_peers_alone() {
    let node = Server::start(node()).await;
    let body = chat(
        r#""max_tokens":2,"stream":true,"hansa":{"seed":9,"template_time":0,"want_token_ids":true}"#,
    );
    let stranger = exchange(node.clients, &post(PATH, "", &body)).await;
    assert_eq!(
        (stranger.status, stranger.code().as_str()),
        (400, "unknown_parameter")
    );
    let peer = exchange(node.clients, &post(PATH, SECRET, &body)).await;
    let chunks: Vec<Value> = peer
        .events()
        .iter()
        .filter_map(|e| serde_json::from_str(e).ok())
        .collect();
    let text: String = chunks
        .iter()
        .filter_map(|c| c["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, sim_text(9, 0, 2), "the peer's seed counts");
    let ids = chunks
        .iter()
        .filter_map(|c| c["choices"][0]["hansa"]["token_ids"].as_array());
    assert_eq!(ids.map(Vec::len).sum::<usize>(), 2, "{peer:?}");
    let wrong = body.replace(r#""seed":9"#, r#""seed":"nine""#);
    assert_eq!(
        exchange(node.clients, &post(PATH, SECRET, &wrong))
            .await
            .status,
        400
    );
    node.stop().await;
}

#[tokio::test]
async fn a_resumed_request_goes_on_where_it_stopped() {
    let node = Server::start(node()).await;
    let ask = async |extension: &str| {
        let fields = format!(r#""max_tokens":6,"stream":true,"hansa":{extension}"#);
        let answer = exchange(node.clients, &post(PATH, SECRET, &chat(&fields))).await;
        let chunks: Vec<Value> = answer
            .events()
            .iter()
            .filter_map(|e| serde_json::from_str(e).ok())
            .collect();
        let text: String = chunks
            .iter()
            .filter_map(|c| c["choices"][0]["delta"]["content"].as_str())
            .collect();
        let ids: Vec<Value> = chunks
            .iter()
            .filter_map(|c| c["choices"][0]["hansa"]["token_ids"].as_array().cloned())
            .flatten()
            .collect();
        (text, ids)
    };
    let (whole, ids) = ask(r#"{"seed":9,"want_token_ids":true}"#).await;
    assert_eq!(whole, sim_text(9, 0, 6));
    let first = serde_json::to_string(&ids[..4]).unwrap();
    let (rest, _) = ask(&format!(r#"{{"seed":9,"resume_token_ids":[{first}]}}"#)).await;
    assert_eq!(sim_text(9, 0, 4) + &rest, whole);
    node.stop().await;
}

#[tokio::test]
async fn a_strangers_claims_are_not_heard() {
    let mut slow = node();
    slow.models[0].sim.step_base_us = 20_000;
    let node = Server::start(slow).await;
    let body = chat(r#""max_tokens":20"#);
    let hurried = post(
        PATH,
        "x-hansa-deadline-ms: 1\r\nx-hansa-pool: nonsense\r\n",
        &body,
    );
    assert_eq!(exchange(node.clients, &hurried).await.status, 200);
    let peer = post(PATH, &format!("{SECRET}x-hansa-deadline-ms: 1\r\n"), &body);
    assert_eq!(
        exchange(node.clients, &peer).await.code(),
        "deadline_exceeded"
    );
    let odd = post(PATH, &format!("{SECRET}x-hansa-pool: nonsense\r\n"), &body);
    assert_eq!(
        exchange(node.clients, &odd).await.code(),
        "invalid_peer_header"
    );
    node.stop().await;
}

#[tokio::test]
async fn a_wrong_secret_is_refused_wherever_it_is_shown() {
    let node = Server::start(node()).await;
    for secret in [
        "wrong",
        "",
        "the-secret-of-all-peers-and-more",
        &"x".repeat(30_000),
    ] {
        let request = post(
            PATH,
            &format!("x-hansa-peer: {secret}\r\n"),
            &chat(r#""n":1"#),
        );
        let answer = exchange(node.clients, &request).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (401, "wrong_peer_secret")
        );
    }
    let mut other = gateway(vec![ours("node", node.clients)]);
    other.peer.secret_file = Some(secret("the-secret-of-others"));
    let site = Server::launch(other).await;
    let answer = site.post(PATH, &chat(r#""n":1"#)).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "model_not_ready")
    );
    site.stop().await;
    node.stop().await;
}

#[tokio::test]
async fn paths_for_peers_are_closed_to_others() {
    let node = Server::start(node()).await;
    let get = "GET /hansa/v1/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let answer = exchange(node.clients, get).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "peers_only"));
    let cancel = r#"{"id":"r"}"#;
    assert_eq!(
        node.post("/hansa/v1/cancel", cancel).await.code(),
        "peers_only"
    );
    let peer = exchange(node.clients, &post("/hansa/v1/cancel", SECRET, cancel)).await;
    assert_eq!(peer.status, 204);
    let nonsense = exchange(node.clients, &post("/hansa/v1/cancel", SECRET, "[]")).await;
    assert_eq!(nonsense.status, 400);
    node.stop().await;
}

#[tokio::test]
async fn a_peer_stops_a_request_by_its_id() {
    let mut slow = node();
    slow.models[0].sim.step_base_us = 5_000;
    let node = Server::start(slow).await;
    let site = Server::start(gateway(vec![ours("node", node.clients)])).await;
    let address = site.clients;
    let request = post(
        PATH,
        "x-request-id: mine\r\n",
        &chat(r#""max_tokens":8000"#),
    );
    let asking = spawn(async move { exchange(address, &request).await });
    node.wait_for_metric(r#"hansa_engine_running{model="sim"} 1"#)
        .await;
    // Asked of the site, it reaches the node.
    exchange(
        site.clients,
        &post("/hansa/v1/cancel", SECRET, r#"{"id":"mine"}"#),
    )
    .await;
    let answer = timeout(PATIENCE, asking).await.unwrap().unwrap();
    assert_eq!(answer.code(), "cancelled", "{answer:?}");
    site.stop().await;
    node.stop().await;
}

#[tokio::test]
async fn status_is_told_on_change_and_at_least_once_a_second() {
    let mut slow = node();
    slow.models[0].sim.step_base_us = 5_000;
    let node = Server::start(slow).await;
    let mut stream = TcpStream::connect(node.clients).await.unwrap();
    let get = format!("GET /hansa/v1/status HTTP/1.1\r\nhost: localhost\r\n{SECRET}\r\n");
    stream.write_all(get.as_bytes()).await.unwrap();
    let (mut text, mut piece) = (String::new(), [0; 4096]);
    let address = node.clients;
    let asking =
        spawn(async move { exchange(address, &post(PATH, "", &chat(r#""max_tokens":60"#))).await });
    let reading = async {
        while !(text.contains(r#""running":1"#) && text.matches("data: ").count() >= 4) {
            let read = stream.read(&mut piece).await.unwrap();
            text += &String::from_utf8_lossy(&piece[..read]);
        }
    };
    timeout(PATIENCE, reading).await.unwrap();
    let reports: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
        .collect();
    let sequence: Vec<u64> = reports
        .iter()
        .filter_map(|report| report["sequence"].as_u64())
        .collect();
    assert!(
        sequence.windows(2).all(|pair| pair[0] + 1 == pair[1]),
        "{sequence:?}"
    );
    let model = &reports[0]["models"][0];
    assert_eq!(
        (&model["id"], &model["state"]),
        (&"sim".into(), &"ready".into())
    );
    assert!(model["kv_tokens_free"].as_u64().unwrap() > 0, "{model}");
    asking.await.unwrap();
    drop(stream);
    node.stop().await;
}

#[tokio::test]
async fn a_sites_figures_are_the_sum_of_its_nodes() {
    let mut slow = node();
    slow.models[0].sim.step_base_us = 5_000;
    let (one, other) = (Server::start(slow.clone()).await, Server::start(slow).await);
    let site = Server::start(gateway(vec![
        ours("one", one.clients),
        ours("other", other.clients),
    ]))
    .await;
    let ask = |server: &Server| {
        let address = server.clients;
        spawn(async move { exchange(address, &post(PATH, "", &chat(r#""max_tokens":400"#))).await })
    };
    let asking = [ask(&one), ask(&other)];
    site.wait_for_metric(r#"hansa_engine_running{model="sim"} 2"#)
        .await;
    for asking in asking {
        assert_eq!(
            timeout(PATIENCE, asking).await.unwrap().unwrap().status,
            200
        );
    }
    for server in [site, one, other] {
        server.stop().await;
    }
}

#[tokio::test]
async fn of_two_nodes_the_one_that_is_there_serves() {
    let (one, other) = (Server::start(node()).await, Server::start(node()).await);
    let site = Server::start(gateway(vec![
        ours("one", one.clients),
        ours("other", other.clients),
    ]))
    .await;
    one.stop().await;
    let serving = async {
        while site.post(PATH, &chat(r#""max_tokens":1"#)).await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), serving).await.unwrap();
    site.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_server_that_strangers_reach_serves_peers_alone() {
    let mut open = node();
    open.server.listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let node = Server::start(open).await;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, node.clients.port()));
    let stranger = exchange(address, &post(PATH, "", &chat(r#""n":1"#))).await;
    assert_eq!(
        (stranger.status, stranger.code().as_str()),
        (401, "invalid_api_key")
    );
    let probe = "GET /health/ready HTTP/1.1\r\nhost: node-7.example\r\nconnection: close\r\n\r\n";
    assert_eq!(exchange(address, probe).await.status, 200);
    let probe = probe.replace("/health/ready", "/health");
    assert_eq!(exchange(address, &probe).await.status, 200);
    let named = post(PATH, SECRET, &chat(r#""max_tokens":1"#))
        .replace("host: localhost", "host: node-7.example");
    assert_eq!(exchange(address, &named).await.status, 200);
    node.stop().await;
}
