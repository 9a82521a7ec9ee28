//! Servers whose machine is taken away: what still goes there, and how they leave.

use hansa_config::schema::Policy;
use hansa_gateway::drain::Drained;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{PATIENCE, Server, chat, gateway, node, ours, post};

const PATH: &str = "/v1/chat/completions";

/// The node that begins to answer a request for so many tokens; the rest is not waited for.
async fn taken_by(site: &Server, tokens: u32) -> String {
    let body = chat(&format!(r#""max_tokens":{tokens},"stream":true"#));
    let mut stream = TcpStream::connect(site.clients).await.unwrap();
    stream
        .write_all(post(PATH, "", &body).as_bytes())
        .await
        .unwrap();
    let mut head = String::new();
    while !head.contains("\r\n\r\n") {
        let mut piece = [0; 1024];
        let read = timeout(PATIENCE, stream.read(&mut piece))
            .await
            .unwrap()
            .unwrap();
        assert!(read > 0, "{head}");
        head += &String::from_utf8_lossy(&piece[..read]);
    }
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let line = head
        .lines()
        .find_map(|line| line.strip_prefix("x-hansa-site: "));
    let (_, node) = line.unwrap().split_once('/').unwrap();
    node.to_owned()
}

#[tokio::test]
async fn what_would_outlast_a_node_goes_to_another() {
    let mut slow = node();
    slow.models[0].sim.step_base_us = 10_000;
    let mut ending = slow.clone();
    // Its own word, over the stream of status.
    ending.server.ends_in_s = Some(60);
    let (ending, staying) = (
        Server::start(ending).await,
        Server::start(slow.clone()).await,
    );
    let third = Server::start(slow).await;
    let mut by_config = ours("c", third.clients);
    // The gateway's word, long past.
    by_config.ends_at_s = Some(1);
    let mut site = gateway(vec![
        ours("a", ending.clients),
        ours("b", staying.clients),
        by_config,
    ]);
    site.route.policy = Policy::RoundRobin;
    let site = Server::start(site).await;
    // Both that take anything are known, and how long a token takes.
    let asking = async { while taken_by(&site, 20).await != "a" {} };
    timeout(PATIENCE, asking).await.unwrap();
    let asking = async { while taken_by(&site, 20).await != "b" {} };
    timeout(PATIENCE, asking).await.unwrap();
    for _ in 0..6 {
        assert_eq!(taken_by(&site, 8_000).await, "b");
    }
    for server in [site, ending, staying, third] {
        server.stop().await;
    }
}

#[tokio::test]
async fn a_server_leaves_before_its_machine_does() {
    let mut short = node();
    short.server.ends_in_s = Some(2);
    let server = Server::start(short).await;
    let left = timeout(PATIENCE, server.run)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(left, Drained::InOrder);
}
