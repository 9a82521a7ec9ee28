//! Servers that send requests to each other: a circle that no one server's config shows ends at the bound of hops.

use std::net::SocketAddr;

use hansa_config::schema::{Discover, Policy};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{Mock, PATIENCE, Server, chat, file, foreign, gateway, model, node, ours};

const PATH: &str = "/v1/chat/completions";
const ANSWER: [&str; 2] = [
    r#"{"choices":[{"index":0,"delta":{"content":"x"}}]}"#,
    r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
];
const REQUESTS: usize = 12;

#[tokio::test]
async fn a_request_in_a_circle_ends() {
    let engine = Mock::streaming(&ANSWER).await;
    // As a server of another make, of whom nobody hears that all it has is here.
    let mut back = foreign(engine.address);
    back.name = "back".to_owned();
    back.models = vec![model("sim", "sim")];
    back.discover = Discover::File;
    back.addresses_file = Some(file("circle", "127.0.0.1:1\n"));
    let mut first = gateway(vec![foreign(engine.address), back]);
    first.route.policy = Policy::RoundRobin;
    let first = Server::start(first).await;
    let second = Server::start(gateway(vec![ours("first", first.clients)])).await;
    file("circle", &format!("{}\n", second.clients));
    // Until the circle is closed.
    let ask = async || first.post(PATH, &chat(r#""max_tokens":1"#)).await;
    let closing = async { while !ask().await.node().starts_with("back") {} };
    timeout(PATIENCE, closing).await.unwrap();
    let before = engine.asked().len();
    let mut good = 0;
    for _ in 0..REQUESTS {
        let answer = timeout(PATIENCE, ask()).await.unwrap();
        assert!(matches!(answer.status, 200 | 503), "{answer:?}");
        good += usize::from(answer.status == 200);
    }
    // Whoever is served is served once.
    assert_eq!(engine.asked().len() - before, good);
    assert!(good > REQUESTS / 2, "{good}");
    // The other's stream of status, which lasts for ever, is no request.
    for server in [&first, &second] {
        server.wait_for_metric("hansa_requests_in_flight 0").await;
    }
    second.stop().await;
    first.stop().await;
}

/// KV tokens of one simulated node, told of each server once however often they tell each other.
#[tokio::test]
async fn in_a_triangle_nobody_counts_anybody_twice() {
    let peers = |me: usize, addresses: &[Option<SocketAddr>]| {
        let others = addresses.iter().enumerate().filter(|(at, _)| *at != me);
        let lines = others.filter_map(|(_, address)| address.map(|address| format!("{address}\n")));
        lines.collect::<String>()
    };
    let mut addresses = [None; 3];
    let mut servers = Vec::new();
    for me in 0..3 {
        let mut others = ours("others", SocketAddr::from(([127, 0, 0, 1], 1)));
        others.discover = Discover::File;
        others.addresses_file = Some(file(&format!("triangle-{me}"), &peers(me, &addresses)));
        let mut config = node();
        config.nodes = vec![others];
        let server = Server::launch(config).await;
        addresses[me] = Some(server.clients);
        servers.push(server);
    }
    for me in 0..3 {
        file(&format!("triangle-{me}"), &peers(me, &addresses));
    }
    for server in &servers {
        let one = told(server, |model| {
            model["beyond"].as_array().is_some_and(|b| b.len() == 2)
        });
        let one = one.await;
        let own = one["kv_tokens_total"].as_u64().unwrap();
        assert!(own > 0);
        for other in one["beyond"].as_array().unwrap() {
            assert_eq!(other["kv_tokens_total"].as_u64(), Some(own), "{one}");
            assert_eq!(other["state"], "ready", "{one}");
        }
    }
    // One dies, and is gone from what the others tell, though each of them could have it from the other.
    servers.pop().unwrap().stop().await;
    for server in &servers {
        let ready = |model: &Value| {
            let beyond = model["beyond"].as_array().cloned().unwrap_or_default();
            beyond
                .iter()
                .filter(|part| part["state"] == "ready")
                .count()
        };
        told(server, |model| ready(model) == 1).await;
    }
    for server in servers {
        server.stop().await;
    }
}

/// What a server tells a peer of its first model, once that is `good`.
async fn told(server: &Server, good: impl Fn(&Value) -> bool) -> Value {
    let mut stream = TcpStream::connect(server.clients).await.unwrap();
    let ask = "GET /hansa/v1/status HTTP/1.1\r\nhost: localhost\r\n\
               x-hansa-peer: the-secret-of-all-peers\r\n\r\n";
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    let reading = async {
        loop {
            let line = lines.next_line().await.unwrap().unwrap();
            let report = line
                .strip_prefix("data: ")
                .map(serde_json::from_str::<Value>);
            if let Some(Ok(mut report)) = report
                && good(&report["models"][0])
            {
                return report["models"][0].take();
            }
        }
    };
    timeout(PATIENCE, reading).await.unwrap()
}
