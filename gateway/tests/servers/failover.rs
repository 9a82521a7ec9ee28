//! Nodes that die or may not serve: what a client of the gateway before them sees of it, and what never leaves the gateway.

use hansa_config::schema::{Policy, Upstream};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{
    Answer, Mock, PATIENCE, Server, Wire, chat, exchange, foreign, gateway, node, ours, post,
    sim_text,
};

const PATH: &str = "/v1/chat/completions";
const TOKENS: u64 = 300;

/// Two nodes behind wires, and a gateway that reaches them through these.
async fn world() -> ([Server; 3], [Wire; 2]) {
    let mut slow = node();
    slow.models[0].sim.step_base_us = 2_000;
    let (a, b) = (Server::start(slow.clone()).await, Server::start(slow).await);
    let wires = [Wire::to(a.clients).await, Wire::to(b.clients).await];
    let upstreams = vec![ours("a", wires[0].address), ours("b", wires[1].address)];
    let mut site = gateway(upstreams);
    // By cost, a prompt stays where its beginning was served.
    site.route.policy = Policy::RoundRobin;
    let site = Server::start(site).await;
    for name in ["a", "b"] {
        until_served_by(&site, name).await;
    }
    ([site, a, b], wires)
}

/// Asks until the node `name` has served, so that the gateway knows it.
async fn until_served_by(site: &Server, name: &str) {
    let asking = async {
        while exchange(site.clients, &post(PATH, "", &chat(r#""max_tokens":1"#)))
            .await
            .node()
            != name
        {}
    };
    timeout(PATIENCE, asking).await.unwrap();
}

/// Reads a stream, and does this to the wire of who serves it once some of it has come.
async fn broken_in_the_middle(
    site: &Server,
    wires: &[Wire; 2],
    how: fn(&Wire),
) -> (Answer, String) {
    let body =
        format!(r#""max_tokens":{TOKENS},"stream":true,"stream_options":{{"include_usage":true}}"#);
    let mut stream = TcpStream::connect(site.clients).await.unwrap();
    let request = post(PATH, "", &chat(&body));
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut text, mut serving) = (String::new(), None);
    let reading = async {
        loop {
            let mut piece = [0; 4096];
            let read = stream.read(&mut piece).await.unwrap();
            if read == 0 {
                break;
            }
            text += std::str::from_utf8(&piece[..read]).unwrap();
            if serving.is_none() && text.matches(r#""content":""#).count() > 20 {
                let name = Answer::parse(&text).node();
                how(&wires[usize::from(name == "b")]);
                serving = Some(name);
            }
        }
    };
    timeout(PATIENCE, reading).await.unwrap();
    (Answer::parse(&text), serving.unwrap())
}

#[tokio::test]
async fn a_stream_whose_node_dies_goes_on_from_another_to_the_byte() {
    goes_on_when_its_node(Wire::cut).await;
}

/// Nothing breaks: the node is there as far as TCP knows.
#[tokio::test]
async fn a_stream_whose_node_falls_silent_goes_on_from_another_to_the_byte() {
    goes_on_when_its_node(Wire::fall_silent).await;
}

async fn goes_on_when_its_node(breaks: fn(&Wire)) {
    let (servers, wires) = world().await;
    let [site, ..] = &servers;
    let (answer, died) = broken_in_the_middle(site, &wires, breaks).await;
    let events = answer.events();
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    let chunks = events.iter().filter_map(|e| serde_json::from_str(e).ok());
    let chunks: Vec<Value> = chunks.collect();
    let text: String = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, sim_text(7, 0, TOKENS));
    let usage = chunks.iter().find_map(|chunk| chunk["usage"].as_object());
    assert_eq!(usage.unwrap()["completion_tokens"], TOKENS);
    // The gateway may still think that the dead one is there.
    for _ in 0..6 {
        let answer = site.post(PATH, &chat(r#""max_tokens":2"#)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_ne!(answer.node(), died);
        let text = &answer.json()["choices"][0]["message"]["content"];
        assert_eq!(text, &sim_text(7, 0, 2));
    }
    site.wait_for_metric("hansa_requests_in_flight 0").await;
    // Or a silent one would wait for its answers to be read.
    wires.iter().for_each(Wire::cut);
    for server in servers {
        server.stop().await;
    }
}

#[tokio::test]
async fn who_wants_no_continuation_gets_an_error() {
    let (servers, wires) = world().await;
    let [site, ..] = &servers;
    let body = chat(&format!(r#""max_tokens":{TOKENS},"stream":true"#));
    let asking = exchange(site.clients, &post(PATH, "x-hansa-resume: off\r\n", &body)).await;
    assert!(asking.body.contains("[DONE]"), "{asking:?}");
    let address = site.clients;
    let asking = crate::harness::spawn(async move {
        exchange(address, &post(PATH, "x-hansa-resume: off\r\n", &body)).await
    });
    site.wait_for_metric("hansa_requests_in_flight 1").await;
    let [_, a, b] = &servers;
    let running = r#"hansa_engine_running{model="sim"} 1"#;
    tokio::select! {
        () = a.wait_for_metric(running) => {}
        () = b.wait_for_metric(running) => {}
    }
    wires.iter().for_each(Wire::cut);
    let answer = timeout(PATIENCE, asking).await.unwrap().unwrap();
    assert!(answer.body.contains(r#""error""#), "{answer:?}");
    for server in servers {
        server.stop().await;
    }
}

#[tokio::test]
async fn no_byte_goes_to_a_country_that_is_not_allowed() {
    let mut finnish = node();
    finnish.route.home_country = Some("FI".to_owned());
    let finnish = Server::start(finnish).await;
    let wire = Wire::to(finnish.clients).await;
    let abroad = Mock::streaming(&[
        r#"{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}"#,
    ])
    .await;
    let in_country = |country: &str, upstream: Upstream| Upstream {
        country: Some(country.to_owned()),
        ..upstream
    };
    let upstreams = vec![
        in_country("FI", ours("fi", wire.address)),
        in_country("US", foreign(abroad.address)),
    ];
    let site = Server::start(gateway(upstreams)).await;
    let ask = async |rules: &str| {
        let headers = format!("x-hansa-peer: the-secret-of-all-peers\r\n{rules}");
        exchange(
            site.clients,
            &post(PATH, &headers, &chat(r#""max_tokens":2"#)),
        )
        .await
    };
    let finland = "x-hansa-allow-countries: FI\r\n";
    let asking = async { while ask(finland).await.status != 200 {} };
    timeout(PATIENCE, asking).await.unwrap();
    let nowhere = ask("x-hansa-allow-countries: SE\r\n").await;
    assert_eq!(
        (nowhere.status, nowhere.code().as_str()),
        (403, "no_site_allowed")
    );
    wire.cut();
    for _ in 0..6 {
        let answer = ask(finland).await;
        assert!(matches!(answer.status, 502 | 503), "{answer:?}");
    }
    assert_eq!(abroad.asked(), Vec::<String>::new());
    // It is there, for everyone else.
    let asking = async { while ask("").await.status != 200 {} };
    timeout(PATIENCE, asking).await.unwrap();
    assert!(!abroad.asked().is_empty());
    site.stop().await;
    finnish.stop().await;
}
