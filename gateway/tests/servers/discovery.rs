//! Instances that come and go: by a watched file, and by a name.

use hansa_config::schema::{Discover, Policy};
use tokio::time::timeout;

use crate::harness::{PATIENCE, Server, Wire, chat, file, gateway, node, ours};

const PATH: &str = "/v1/chat/completions";

#[tokio::test]
async fn a_file_that_changes_changes_who_serves() {
    let (one, other) = (Server::start(node()).await, Server::start(node()).await);
    let mut nodes = ours("nodes", one.clients);
    nodes.discover = Discover::File;
    nodes.addresses_file = Some(file("nodes", &format!("{}\n", one.clients)));
    let site = Server::start(gateway(vec![nodes])).await;
    assert_eq!(
        site.post(PATH, &chat(r#""max_tokens":1"#)).await.status,
        200
    );
    file("nodes", &format!("# the other\n{}\n", other.clients));
    let moved = async {
        let serves = |server: &Server| {
            let operators = server.operators;
            async move {
                let get = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
                let metrics = crate::harness::exchange(operators, get).await.body;
                !metrics.contains("hansa_ttft_seconds_count") as u8
            }
        };
        while serves(&other).await == 1 {
            let _ = site.post(PATH, &chat(r#""max_tokens":1"#)).await;
        }
    };
    timeout(PATIENCE, moved).await.unwrap();
    for server in [site, one, other] {
        server.stop().await;
    }
}

#[tokio::test]
async fn a_name_is_looked_up() {
    let node = Server::start(node()).await;
    let mut named = ours("named", node.clients);
    named.discover = Discover::Dns;
    named.url = format!("http://localhost:{}", node.clients.port());
    let site = Server::start(gateway(vec![named])).await;
    assert_eq!(
        site.post(PATH, &chat(r#""max_tokens":1"#)).await.status,
        200
    );
    site.stop().await;
    node.stop().await;
}

/// Each of them is a candidate of its own: it is named, and where it fails, the other serves and is the only one asked.
#[tokio::test]
async fn instances_of_one_file_stand_for_themselves() {
    let (one, other) = (Server::start(node()).await, Server::start(node()).await);
    let wire = Wire::to(other.clients).await;
    let mut nodes = ours("pair", one.clients);
    nodes.discover = Discover::File;
    let text = format!("{}\n{}\n", one.clients, wire.address);
    nodes.addresses_file = Some(file("pair", &text));
    let mut config = gateway(vec![nodes]);
    config.route.policy = Policy::RoundRobin;
    let site = Server::start(config).await;
    let ask = async || site.post(PATH, &chat(r#""max_tokens":1"#)).await;
    let both = async {
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < 2 {
            let answer = ask().await;
            if answer.status == 200 {
                seen.insert(answer.node());
            }
        }
        seen
    };
    let seen = timeout(PATIENCE, both).await.unwrap();
    assert!(seen.iter().eq(["pair/0", "pair/1"]), "{seen:?}");
    wire.cut();
    for _ in 0..10 {
        assert_eq!(ask().await.status, 200);
    }
    for server in [site, one, other] {
        server.stop().await;
    }
}
