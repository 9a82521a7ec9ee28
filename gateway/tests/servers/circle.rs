//! Servers that send requests to each other: a circle that no one server's config shows ends at the bound of hops.

use hansa_config::schema::{Discover, Policy};
use tokio::time::timeout;

use crate::harness::{Mock, PATIENCE, Server, chat, file, foreign, gateway, ours};

const PATH: &str = "/v1/chat/completions";
const ANSWER: [&str; 2] = [
    r#"{"choices":[{"index":0,"delta":{"content":"x"}}]}"#,
    r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
];
const REQUESTS: usize = 12;

#[tokio::test]
async fn a_request_in_a_circle_ends() {
    let engine = Mock::streaming(&ANSWER).await;
    let mut back = ours("back", engine.address);
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
    // What stays is the other's stream of status.
    for server in [&first, &second] {
        server.wait_for_metric("hansa_requests_in_flight 1").await;
    }
    second.stop().await;
    first.stop().await;
}
