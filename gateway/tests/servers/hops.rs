//! A client sees the same through one or two servers as from the node itself, and what it does reaches the node.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{
    Answer, Mock, PATIENCE, Server, chat, exchange, foreign, gateway, node, ours, post, sim_text,
};

/// A node, a site in front of it, and a gateway in front of that.
async fn chain() -> [Server; 3] {
    let node = Server::start(node()).await;
    let site = Server::start(gateway(vec![ours("node", node.clients)])).await;
    let edge = Server::start(gateway(vec![ours("site", site.clients)])).await;
    [node, site, edge]
}

#[tokio::test]
async fn whatever_a_client_asks_is_answered_alike_at_every_hop() {
    let [node, site, edge] = chain().await;
    let completion =
        |fields: &str| format!(r#"{{"model":"sim","seed":7,"max_tokens":3,{fields}}}"#);
    let cases = [
        ("/v1/chat/completions", chat(r#""max_tokens":5"#)),
        (
            "/v1/chat/completions",
            chat(r#""max_tokens":5,"stream":true,"stream_options":{"include_usage":true}"#),
        ),
        (
            "/v1/chat/completions",
            chat(r#""max_tokens":4,"n":2,"logprobs":true,"top_logprobs":2"#),
        ),
        (
            "/v1/chat/completions",
            chat(r#""max_tokens":4,"stream":true,"logprobs":true"#),
        ),
        (
            "/v1/chat/completions",
            chat(r#""max_tokens":9,"stop":["e"]"#),
        ),
        (
            "/v1/completions",
            completion(r#""prompt":"a","logprobs":1"#),
        ),
        (
            "/v1/completions",
            completion(r#""prompt":"a","echo":true,"stream":true"#),
        ),
        ("/v1/completions", completion(r#""prompt":["a","b"],"n":2"#)),
        ("/v1/completions", completion(r#""prompt":[[1,2],[3]]"#)),
        (
            "/v1/completions",
            completion(r#""prompt":"a","n":1,"best_of":3"#),
        ),
        // Refusals of the model itself.
        ("/v1/chat/completions", chat(r#""max_tokens":9000"#)),
        (
            "/v1/completions",
            completion(r#""prompt":"a","stop_token_ids":[2147483648]"#),
        ),
        (
            "/v1/completions",
            completion(r#""prompt":"a","guided_regex":"a""#),
        ),
    ];
    for (path, body) in cases {
        let direct = node.post(path, &body).await;
        for server in [&site, &edge] {
            let hopped = server.post(path, &body).await;
            assert_eq!(hopped.status, direct.status, "{body}: {hopped:?}");
            // Streams may be cut into chunks differently, whole answers may not.
            if body.contains(r#""stream":true"#) {
                assert_eq!(text_of(&hopped), text_of(&direct), "{body}");
                assert_eq!(usage_of(&hopped), usage_of(&direct), "{body}");
            } else {
                assert_eq!(hopped.comparable(), direct.comparable(), "{body}");
            }
            assert!(!hopped.body.contains("hansa"), "{hopped:?}");
        }
    }
    for server in [edge, site, node] {
        server.stop().await;
    }
}

/// The text of all choices of a stream.
fn text_of(answer: &Answer) -> String {
    let chunks = answer
        .events()
        .into_iter()
        .filter(|event| event != "[DONE]");
    let texts = chunks.map(|chunk| {
        let chunk: serde_json::Value = serde_json::from_str(&chunk).unwrap();
        let choice = &chunk["choices"][0];
        let text = choice["delta"]["content"]
            .as_str()
            .or(choice["text"].as_str());
        text.unwrap_or_default().to_owned()
    });
    texts.collect()
}

fn usage_of(answer: &Answer) -> Option<serde_json::Value> {
    let events = answer.events();
    assert_eq!(
        events.last().map(String::as_str),
        Some("[DONE]"),
        "{answer:?}"
    );
    let last: serde_json::Value = serde_json::from_str(events.iter().rev().nth(1)?).ok()?;
    last.get("usage").cloned()
}

#[tokio::test]
async fn tokens_come_through_whole_and_in_order() {
    let [node, site, edge] = chain().await;
    let body = chat(r#""max_tokens":200,"stream":true"#);
    assert_eq!(
        text_of(&edge.post("/v1/chat/completions", &body).await),
        sim_text(7, 0, 200)
    );
    for server in [edge, site, node] {
        server.stop().await;
    }
}

const ENDLESS: &str = r#"{"model":"sim","max_tokens":8000,"stream":true,"messages":[{"role":"user","content":"hi"}]}"#;

/// A node whose 8000 tokens take a long while, and a gateway before it.
async fn slow_node() -> [Server; 2] {
    let mut slow = node();
    slow.models[0].sim.step_base_us = 5_000;
    let node = Server::start(slow).await;
    let site = Server::start(gateway(vec![ours("node", node.clients)])).await;
    [node, site]
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_node() {
    let [node, site] = slow_node().await;
    let mut stream = TcpStream::connect(site.clients).await.unwrap();
    stream
        .write_all(post("/v1/chat/completions", "", ENDLESS).as_bytes())
        .await
        .unwrap();
    let mut lines = BufReader::new(stream).lines();
    while !timeout(PATIENCE, lines.next_line())
        .await
        .unwrap()
        .unwrap()
        .unwrap()
        .contains("content\":\"")
    {}
    node.wait_for_metric(r#"hansa_engine_running{model="sim"} 1"#)
        .await;
    drop(lines);
    node.wait_for_metric(r#"hansa_engine_running{model="sim"} 0"#)
        .await;
    site.wait_for_metric("hansa_requests_in_flight 0").await;
    site.stop().await;
    node.stop().await;
}

#[tokio::test]
async fn a_deadline_travels() {
    let [node, site] = slow_node().await;
    let request = post(
        "/v1/chat/completions",
        "x-hansa-peer: the-secret-of-all-peers\r\nx-hansa-deadline-ms: 300\r\n",
        ENDLESS,
    );
    let answer = exchange(site.clients, &request).await;
    assert!(answer.body.contains("deadline_exceeded"), "{answer:?}");
    node.wait_for_metric(r#"hansa_engine_running{model="sim"} 0"#)
        .await;
    site.stop().await;
    node.stop().await;
}

#[tokio::test]
async fn a_drain_of_the_gateway_ends_its_streams_with_an_error() {
    let [node, site] = slow_node().await;
    let address = site.clients;
    let reading = crate::harness::spawn(async move {
        exchange(address, &post("/v1/chat/completions", "", ENDLESS)).await
    });
    node.wait_for_metric(r#"hansa_engine_running{model="sim"} 1"#)
        .await;
    site.stop().await;
    let answer = timeout(PATIENCE, reading).await.unwrap().unwrap();
    assert!(answer.body.contains("shutting_down"), "{answer:?}");
    assert!(!answer.body.contains("[DONE]"), "{answer:?}");
    node.stop().await;
}

#[tokio::test]
async fn a_node_that_dies_ends_its_streams_with_an_error() {
    let [node, site] = slow_node().await;
    let address = site.clients;
    let reading = crate::harness::spawn(async move {
        exchange(address, &post("/v1/chat/completions", "", ENDLESS)).await
    });
    site.wait_for_metric("hansa_requests_in_flight 1").await;
    node.wait_for_metric(r#"hansa_engine_running{model="sim"} 1"#)
        .await;
    node.stop().await;
    let answer = timeout(PATIENCE, reading).await.unwrap().unwrap();
    assert!(answer.body.contains(r#""error""#), "{answer:?}");
    assert!(!answer.body.contains("[DONE]"), "{answer:?}");
    site.stop().await;
}

#[tokio::test]
async fn servers_in_a_circle_refuse_after_a_few_hops() {
    // Ports are known once both are bound, so one is found through a file.
    let listed = crate::harness::file("circle", "");
    let mut there = ours("there", "127.0.0.1:1".parse().unwrap());
    there.discover = hansa_config::schema::Discover::File;
    there.addresses_file = Some(listed);
    let one = Server::launch(gateway(vec![there])).await;
    let other = Server::launch(gateway(vec![ours("one", one.clients)])).await;
    crate::harness::file("circle", &format!("{}\n", other.clients));
    // Neither is ever ready, since readiness comes from an engine; hops are refused before that is asked.
    for hops in ["4", "9"] {
        let request = post(
            "/v1/chat/completions",
            &format!("x-hansa-hops: {hops}\r\n"),
            &chat(r#""n":1"#),
        );
        let answer = exchange(one.clients, &request).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (508, "too_many_hops")
        );
    }
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn hops_are_counted_at_every_server() {
    let mock = Mock::streaming(&[
        r#"{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}"#,
    ])
    .await;
    let edge = Server::start(gateway(vec![foreign(mock.address)])).await;
    let request = post(
        "/v1/chat/completions",
        "x-hansa-hops: 2\r\n",
        &chat(r#""n":1"#),
    );
    assert_eq!(exchange(edge.clients, &request).await.status, 200);
    assert!(
        mock.asked()[0].contains("x-hansa-hops: 3"),
        "{:?}",
        mock.asked()
    );
    edge.stop().await;
}

#[tokio::test]
async fn another_make_gets_the_clients_bytes_and_its_own_key() {
    let mock = Mock::streaming(&[
        r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":"Hal"},"finish_reason":null}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":null}]}"#,
        r#"{"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}"#,
    ])
    .await;
    let mut upstream = foreign(mock.address);
    upstream.pass_fields = vec!["chat_template_kwargs".to_owned()];
    let edge = Server::start(gateway(vec![upstream])).await;
    let odd = r#"{ "model" :"sim", "max_tokens":1.6e1 ,"chat_template_kwargs":{"b":1.0,"a":[ ]},"messages":[{"role":"user","content":"\u0068i"}]}"#;
    let odd = odd.replace("1.6e1", "16");
    let request = post(
        "/v1/chat/completions",
        "authorization: Bearer of-the-client\r\n",
        &odd,
    );
    let answer = exchange(edge.clients, &request).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = answer.json();
    assert_eq!(body["choices"][0]["message"]["content"], "Hallo");
    assert_eq!(body["choices"][0]["finish_reason"], "length");
    assert_eq!(body["model"], "sim");
    assert_eq!(body["usage"]["prompt_tokens"], json!(9));
    let asked = mock.asked().remove(0);
    let sent = odd.replace(r#""sim""#, r#""their/sim""#).replacen(
        '{',
        r#"{"stream":true,"stream_options":{"include_usage":true},"#,
        1,
    );
    assert!(asked.ends_with(&sent), "{asked}");
    assert!(
        asked.contains("authorization: Bearer the-key-of-the-engine"),
        "{asked}"
    );
    assert!(
        !asked.contains("of-the-client") && !asked.contains("x-hansa-peer"),
        "{asked}"
    );
    edge.stop().await;
}

#[tokio::test]
async fn calls_that_another_make_found_reach_the_client() {
    let mock = Mock::streaming(&[
        r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":null,"tool_calls":[{"index":0,"id":"c1","type":"function","function":{"name":"f","arguments":""}}]}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":1}"}}]}}]}"#,
        r#"{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#,
    ])
    .await;
    let edge = Server::start(gateway(vec![foreign(mock.address)])).await;
    let tools = r#""tools":[ {"type":"function","function":{"name":"f","parameters":{"type":"object","x":1.0}}} ]"#;
    let answer = edge.post("/v1/chat/completions", &chat(tools)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let choice = &answer.json()["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(
        (&call["id"], &call["function"]["arguments"]),
        (&json!("c1"), &json!(r#"{"a":1}"#))
    );
    assert!(mock.asked()[0].contains(tools), "{:?}", mock.asked());
    edge.stop().await;
}

#[tokio::test]
async fn a_slow_reader_holds_back_only_itself() {
    let mut fast = node();
    fast.models[0].sim.step_base_us = 200;
    let node = Server::start(fast).await;
    let site = Server::start(gateway(vec![ours("node", node.clients)])).await;
    // More text than all buffers on the way hold, on the connection that the others share.
    let body = chat(r#""max_tokens":8000,"n":4,"stream":true,"logprobs":true,"top_logprobs":5"#);
    let mut slow = TcpStream::connect(site.clients).await.unwrap();
    slow.write_all(post("/v1/chat/completions", "", &body).as_bytes())
        .await
        .unwrap();
    node.wait_for_metric(r#"hansa_engine_running{model="sim"} 4"#)
        .await;
    for _ in 0..3 {
        let body = chat(r#""max_tokens":100"#);
        let answer = timeout(PATIENCE, site.post("/v1/chat/completions", &body))
            .await
            .unwrap();
        assert_eq!(
            answer.json()["choices"][0]["message"]["content"],
            sim_text(7, 0, 100)
        );
    }
    drop(slow);
    node.wait_for_metric(r#"hansa_engine_running{model="sim"} 0"#)
        .await;
    site.stop().await;
    node.stop().await;
}

#[tokio::test]
async fn more_requests_than_one_connection_takes_run_at_once() {
    let mut wide = node();
    wide.models[0].sequences_max = 256;
    wide.models[0].sim.step_base_us = 20_000;
    let node = Server::start(wide).await;
    let site = Server::start(gateway(vec![ours("node", node.clients)])).await;
    let mut open = Vec::new();
    for _ in 0..150 {
        let mut stream = TcpStream::connect(site.clients).await.unwrap();
        stream
            .write_all(post("/v1/chat/completions", "", ENDLESS).as_bytes())
            .await
            .unwrap();
        open.push(stream);
    }
    node.wait_for_metric(r#"hansa_engine_running{model="sim"} 150"#)
        .await;
    drop(open);
    node.wait_for_metric(r#"hansa_engine_running{model="sim"} 0"#)
        .await;
    site.stop().await;
    node.stop().await;
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_told_within_its_timeout() {
    let mut gone = foreign("127.0.0.1:9".parse().unwrap());
    gone.connect_timeout_ms = 200;
    let edge = Server::launch(gateway(vec![gone])).await;
    let body = chat(r#""n":1"#);
    let asking = edge.post("/v1/chat/completions", &body);
    let answer = timeout(Duration::from_secs(10), asking).await.unwrap();
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "model_not_ready"),
        "{answer:?}"
    );
    edge.stop().await;
}
