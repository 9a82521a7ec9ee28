//! A fault that took everyone away is over: the next request is served, and not the one after the next look.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::harness::{Answer, PATIENCE, Server, Wire, chat, gateway, node, ours};

const PATH: &str = "/v1/chat/completions";

async fn ask(site: &Server) -> Answer {
    let body = chat(r#""max_tokens":1"#);
    timeout(PATIENCE, site.post(PATH, &body)).await.unwrap()
}

#[tokio::test]
async fn the_first_request_after_a_total_fault_is_served() {
    let nodes = [Server::start(node()).await, Server::start(node()).await];
    let wires = [
        Wire::to(nodes[0].clients).await,
        Wire::to(nodes[1].clients).await,
    ];
    let upstreams = vec![ours("a", wires[0].address), ours("b", wires[1].address)];
    let site = Server::start(gateway(upstreams)).await;
    assert_eq!(ask(&site).await.status, 200);
    for wire in &wires {
        wire.cut();
    }
    // Nobody is there, and after a while nobody is believed to be: its streams of status are asked for once in a while.
    let gone = async {
        while ask(&site).await.code() != "model_not_ready" {}
        for _ in 0..20 {
            // Rarely enough that some are left of those that may be sent in doubt.
            sleep(Duration::from_millis(150)).await;
            assert_eq!(ask(&site).await.status, 503);
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
    let back = [
        Wire::at(wires[0].address, nodes[0].clients).await,
        Wire::at(wires[1].address, nodes[1].clients).await,
    ];
    let answer = ask(&site).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    site.stop().await;
    drop(back);
    for node in nodes {
        node.stop().await;
    }
}
