//! One server alone: what clients and operators meet on the wire.

use std::net::SocketAddr;

use hansa_config::{Config, schema};
use hansa_gateway::drain::Drained;
use hansa_gateway::serve::{App, ServeError};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{Answer, PATIENCE, Server, exchange};

fn config() -> Config {
    let mut config = Config::default();
    config.server.listen.set_port(0);
    config.server.grace_ms = 300;
    config.admin.listen = Some(config.server.listen);
    config.models = vec![schema::Model {
        id: "sim".to_owned(),
        runner: schema::Runner::Sim,
        ..schema::Model::default()
    }];
    config
}

impl Server {
    async fn get(&self, path: &str) -> Answer {
        self.send(&format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        ))
        .await
    }

    async fn send(&self, request: &str) -> Answer {
        exchange(self.clients, request).await
    }

    async fn metrics(&self) -> String {
        let request = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        exchange(self.operators, request).await.body
    }
}

impl Answer {
    fn error(&self) -> Value {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_default();
        let error = &body["error"];
        for key in ["message", "type", "param", "code"] {
            assert!(error.get(key).is_some(), "no {key} in {self:?}");
        }
        error.clone()
    }
}

fn chat(body: &str) -> String {
    post("/v1/chat/completions", body)
}

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

const QUESTION: &str =
    r#"{"model":"sim","max_tokens":4,"messages":[{"role":"user","content":"hi"}]}"#;
const ENDLESS: &str = r#"{"model":"sim","max_tokens":8000,"stream":true,"messages":[{"role":"user","content":"hi"}]}"#;

#[tokio::test]
async fn a_ready_server_answers_and_says_so() {
    let server = Server::start(config()).await;
    let ready = server.get("/health/ready").await;
    let ready: Value = serde_json::from_str(&ready.body).unwrap();
    assert_eq!(ready["status"], "ready");
    assert_eq!(ready["models"][0]["id"], "sim");
    assert_eq!(ready["models"][0]["state"], "ready");
    let answer = server.send(&chat(QUESTION)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    for line in [
        r#"hansa_requests_total{route="/v1/chat/completions",status="200"} 1"#,
        r#"hansa_ttft_seconds_count{model="sim"} 1"#,
        r#"hansa_engine_running{model="sim"} 0"#,
        r#"hansa_engine_decode_tokens_total{model="sim"} "#,
        "hansa_requests_in_flight 0",
    ] {
        // The engine tells its figures after the events of a step, so the answer may be here before them.
        let told = async {
            while !server.metrics().await.contains(line) {
                tokio::task::yield_now().await;
            }
        };
        let in_time = timeout(PATIENCE, told).await;
        assert!(in_time.is_ok(), "no {line} in {}", server.metrics().await);
    }
    assert_eq!(server.stop().await, Drained::InOrder);
}

#[tokio::test]
async fn every_refusal_has_openais_shape_and_the_requests_id() {
    let server = Server::start(config()).await;
    let large = format!(r#"{{"model":"{}"}}"#, "x".repeat(5 << 20));
    let chunk = "x".repeat(1 << 20);
    let chunked = format!("100000\r\n{chunk}\r\n").repeat(5);
    let chunked = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n{chunked}0\r\n\r\n"
    );
    let cases = [
        (404, post("/v1/nothing", "{}")),
        (
            404,
            "GET //v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(),
        ),
        (
            404,
            "GET /v1/%2e%2e/metrics HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(),
        ),
        (
            403,
            "GET /v1/models HTTP/1.1\r\nhost: evil.example\r\n\r\n".to_owned(),
        ),
        (
            403,
            "GET /health/live HTTP/1.1\r\nhost: evil.example\r\n\r\n".to_owned(),
        ),
        (400, "GET /v1/models HTTP/1.1\r\n\r\n".to_owned()),
        (
            404,
            "GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(),
        ),
        (405, post("/v1/models", "{}")),
        (405, post("/health/live", "{}")),
        (
            405,
            "GET /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(),
        ),
        (400, chat("{")),
        (413, chat(&large)),
        (413, chunked),
    ];
    for (status, request) in cases {
        let with_id = "HTTP/1.1\r\nx-request-id: my-id.7\r\nconnection: close\r\n";
        let answer = server
            .send(&request.replacen("HTTP/1.1\r\n", with_id, 1))
            .await;
        let start: String = request.chars().take(60).collect();
        assert_eq!(answer.status, status, "{start}: {answer:?}");
        answer.error();
        assert!(
            answer.head.contains("x-request-id: my-id.7"),
            "{start}: {answer:?}"
        );
    }
    let request = "GET /metrics HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    let refused = exchange(server.operators, request).await;
    assert_eq!(refused.status, 403, "{refused:?}");
    let made = server.get("/v1/models").await;
    assert!(made.head.contains("x-request-id: "), "{made:?}");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let mut config = config();
    config.server.body_timeout_ms = 50;
    let server = Server::start(config).await;
    let request = chat(QUESTION);
    let answer = server.send(&request[..request.len() - 1]).await;
    assert_eq!(answer.status, 408, "{answer:?}");
    answer.error();
}

#[tokio::test]
async fn an_upload_that_a_drain_meets_is_told_so() {
    let mut config = config();
    config.server.grace_ms = 5_000;
    let server = Server::start(config).await;
    let mut stream = TcpStream::connect(server.clients).await.unwrap();
    let request = chat(QUESTION);
    // The server asks for the body, so it has taken the request.
    let expecting = request.replacen("\r\n", "\r\nexpect: 100-continue\r\n", 1);
    let cut = expecting.len() - 9;
    stream
        .write_all(&expecting.as_bytes()[..cut])
        .await
        .unwrap();
    let mut asked = [0; 12];
    timeout(PATIENCE, stream.read_exact(&mut asked))
        .await
        .unwrap()
        .unwrap();
    server.signal.send(()).await.unwrap();
    let mut rest = Vec::new();
    // What was read before a reset counts.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    let rest = String::from_utf8_lossy(&rest);
    assert!(rest.contains("HTTP/1.1 503"), "{rest}");
    assert!(rest.contains("shutting_down"), "{rest}");
}

#[tokio::test]
async fn the_context_bounds_prompt_and_completion_together() {
    let server = Server::start(config()).await;
    let body = r#"{"model":"sim","max_tokens":9000,"prompt":"hi"}"#;
    let answer = server.send(&post("/v1/completions", body)).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    let error = answer.error();
    assert_eq!(error["code"], "context_length_exceeded");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("8192") && message.contains("9000"),
        "{message}"
    );
}

#[tokio::test]
async fn what_can_never_fit_is_not_called_overload() {
    let mut config = config();
    config.models[0].sequences_max = 2;
    config.models[0].queue_max = 2;
    let server = Server::start(config).await;
    for (body, param) in [
        (
            r#"{"model":"sim","prompt":["a","b","c","d","e"],"max_tokens":1}"#,
            "prompt",
        ),
        (
            r#"{"model":"sim","prompt":["a","b","c"],"n":2,"max_tokens":1}"#,
            "prompt",
        ),
        (r#"{"model":"sim","prompt":"a","n":5,"max_tokens":1}"#, "n"),
    ] {
        let answer = server.send(&post("/v1/completions", body)).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert_eq!(answer.error()["param"], param);
        assert!(answer.head.contains("x-should-retry: false"), "{answer:?}");
    }
    let fits = r#"{"model":"sim","prompt":["a","b"],"n":2,"max_tokens":1}"#;
    let answer = server.send(&post("/v1/completions", fits)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn a_drain_ends_an_open_stream_with_an_error_event_within_the_grace_period() {
    let mut config = config();
    // 8000 tokens of 5 ms: far longer than the grace period.
    config.models[0].sim.step_base_us = 5_000;
    let server = Server::start(config).await;
    let mut stream = TcpStream::connect(server.clients).await.unwrap();
    stream.write_all(chat(ENDLESS).as_bytes()).await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    loop {
        let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
        if line.unwrap().contains("\"content\":") {
            break;
        }
    }
    server.signal.send(()).await.unwrap();
    let mut events = Vec::new();
    // Ends without an error: the chunked body is closed in order.
    while let Some(line) = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap() {
        events.extend(line.strip_prefix("data: ").map(str::to_owned));
    }
    let error = events.iter().find(|event| event.starts_with(r#"{"error""#));
    let error: Value = serde_json::from_str(error.unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "shutting_down");
    let drained = timeout(PATIENCE, server.run)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(drained, Drained::InOrder);
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_blocks() {
    let mut config = config();
    config.models[0].sim.step_base_us = 5_000;
    let server = Server::start(config).await;
    let mut stream = TcpStream::connect(server.clients).await.unwrap();
    stream.write_all(chat(ENDLESS).as_bytes()).await.unwrap();
    let mut first = [0; 1];
    stream.read_exact(&mut first).await.unwrap();
    drop(stream);
    let freed = async {
        loop {
            let scrape = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
            let metrics = exchange(server.operators, scrape).await.body;
            let idle = metrics.contains(r#"hansa_engine_running{model="sim"} 0"#);
            if idle && metrics.contains("hansa_requests_in_flight 0") {
                return metrics;
            }
        }
    };
    let metrics = timeout(PATIENCE, freed).await.unwrap();
    let figure = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split(' ').next_back())
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        figure("hansa_engine_blocks_free"),
        figure("hansa_engine_blocks_total")
    );
}

#[tokio::test]
async fn without_keys_no_other_machine_may_reach_it() {
    let mut open = config();
    open.server.listen = SocketAddr::from(([0, 0, 0, 0], 0));
    let refused = App::build(open).await.map(|_| ());
    assert!(
        matches!(refused, Err(ServeError::NotLoopback { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn what_only_the_model_can_judge_is_refused_by_name() {
    let server = Server::start(config()).await;
    for (fields, param) in [
        (r#""logit_bias":{"2147483648":1}"#, "logit_bias"),
        (r#""stop_token_ids":[1,2147483648]"#, "stop_token_ids"),
        (r#""max_tokens":3,"min_tokens":3,"logprobs":21"#, "logprobs"),
        // The simulated model's text is a formula, which no grammar can bend.
        (
            r#""response_format":{"type":"json_object"}"#,
            "response_format",
        ),
        (r#""guided_regex":"a""#, "guided_regex"),
    ] {
        let body = format!(r#"{{"model":"sim","prompt":"a",{fields}}}"#);
        let answer = server.send(&post("/v1/completions", &body)).await;
        assert_eq!(answer.status, 400, "{fields}: {answer:?}");
        let error: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(error["error"]["param"], param);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_model_that_follows_no_grammar_may_call_but_need_not() {
    let server = Server::start(config()).await;
    let ask = async |fields: &str| {
        let tools = r#""tools":[{"type":"function","function":{"name":"f"}}]"#;
        let messages = r#"[{"role":"user","content":"Hi"},
            {"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]},
            {"role":"tool","tool_call_id":"c","content":"7"}]"#;
        let body =
            format!(r#"{{"model":"sim","messages":{messages},"max_tokens":2,{tools},{fields}}}"#);
        server.send(&chat(&body)).await
    };
    let free = ask(r#""tool_choice":"auto""#).await;
    assert_eq!(free.status, 200, "{free:?}");
    let streamed = ask(r#""stream":true"#).await;
    assert!(
        streamed.raw.ends_with("[DONE]\n\n\r\n0\r\n\r\n"),
        "{streamed:?}"
    );
    let forced = ask(r#""tool_choice":"required""#).await;
    assert_eq!(forced.status, 400, "{forced:?}");
    assert_eq!(forced.error()["param"], "tool_choice");
    let both = ask(r#""response_format":{"type":"json_object"}"#).await;
    assert_eq!(both.error()["param"], "response_format");
    server.stop().await;
}

#[tokio::test]
async fn a_completion_echoes_its_prompt_or_tells_its_log_probabilities() {
    let server = Server::start(config()).await;
    let complete = async |fields: &str| {
        let body = format!(r#"{{"model":"sim","prompt":"Hi ","seed":0,"max_tokens":2,{fields}}}"#);
        let answer = server.send(&post("/v1/completions", &body)).await;
        let answer: Value = serde_json::from_str(&answer.body).unwrap();
        answer["choices"][0].clone()
    };
    let plain = complete(r#""echo":false"#).await;
    let echoed = complete(r#""echo":true"#).await;
    let text = plain["text"].as_str().unwrap();
    assert_eq!(echoed["text"], format!("Hi {text}"));
    let scored = complete(r#""logprobs":1"#).await;
    let tokens = scored["logprobs"]["tokens"].as_array().unwrap();
    let spelled: String = tokens.iter().map(|t| t.as_str().unwrap()).collect();
    assert_eq!(spelled, text);
    assert_eq!(
        scored["logprobs"]["text_offset"],
        serde_json::json!([0, 17])
    );
    server.stop().await;
}

/// Clients that leave one server: as many as `HANSA_SOAK_DISCONNECTS` says.
const LEAVERS: usize = 100;

/// A client that goes away after `sent` bytes of its request or, where it sends all, after `read` bytes of the answer.
async fn leave(address: SocketAddr, request: &str, sent: usize, read: usize) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(&request.as_bytes()[..sent]).await;
    let mut left = read;
    let mut buffer = [0; 512];
    while left > 0 {
        let wanted = left.min(buffer.len());
        match timeout(PATIENCE, stream.read(&mut buffer[..wanted]))
            .await
            .unwrap()
        {
            Ok(count) if count > 0 => left -= count,
            _ => return,
        }
    }
}

#[tokio::test]
async fn clients_that_leave_at_any_moment_leave_every_block_free() {
    let clients = std::env::var("HANSA_SOAK_DISCONNECTS").ok();
    let clients = clients.map_or(LEAVERS, |count| count.parse().unwrap());
    let server = Server::start(config()).await;
    for client in 0..clients {
        let many = ENDLESS.replace("\"stream\"", "\"n\":3,\"stream\"");
        let request = chat(if client % 3 == 0 { &many } else { ENDLESS });
        let (sent, read) = match client % 5 {
            // In the middle of the request, right behind it, and anywhere in the answer.
            0 => (request.len() * (client % 17) / 17, 0),
            1 => (request.len(), 0),
            _ => (request.len(), 1 + client * 977 % 20_000),
        };
        leave(server.clients, &request, sent, read).await;
    }
    let at_rest = async {
        loop {
            let metrics = server.metrics().await;
            let value = |name: &str| {
                let line = metrics.lines().find(|line| line.starts_with(name));
                line.and_then(|line| line.rsplit(' ').next())
                    .map(str::to_owned)
            };
            let total = value("hansa_engine_blocks_total");
            let is_free = total.is_some() && value("hansa_engine_blocks_free") == total;
            let none = |name| value(name).as_deref() == Some("0");
            if is_free
                && none("hansa_engine_running")
                && none("hansa_engine_waiting")
                && none("hansa_requests_in_flight")
            {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, at_rest).await.unwrap();
    // And it serves whoever stays.
    assert_eq!(server.send(&chat(QUESTION)).await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn models_say_what_their_tokens_depend_on() {
    let (one, other) = (Server::start(config()).await, Server::start(config()).await);
    let numerics = async |server: &Server| {
        let list: Value = serde_json::from_str(&server.get("/v1/models").await.body).unwrap();
        list["data"][0]["hansa"]["numerics"]
            .as_str()
            .map(str::to_owned)
    };
    let named = numerics(&one).await;
    assert_eq!(named.as_ref().map(String::len), Some(32));
    assert_eq!(named, numerics(&other).await);
    one.stop().await;
    other.stop().await;
}
#[tokio::test]
async fn an_echoed_prompt_has_log_probabilities_even_where_nothing_follows() {
    let server = Server::start(config()).await;
    for (n, max_tokens) in [(1, 0), (2, 0), (2, 3)] {
        let body = format!(
            r#"{{"model":"sim","prompt":[4,5,6],"seed":0,"echo":true,"logprobs":1,"n":{n},"max_tokens":{max_tokens}}}"#
        );
        // Twice, since what was computed before must be weighed again.
        for _ in 0..2 {
            let answer = server.send(&post("/v1/completions", &body)).await;
            let answer: Value = serde_json::from_str(&answer.body).unwrap();
            assert_eq!(answer["usage"]["prompt_tokens"], 3);
            assert_eq!(answer["usage"]["completion_tokens"], n * max_tokens);
            let choices = answer["choices"].as_array().unwrap();
            assert_eq!(choices.len(), n);
            for choice in choices {
                let logprobs = &choice["logprobs"];
                let tokens = logprobs["tokens"].as_array().unwrap();
                assert_eq!(tokens.len(), 3 + max_tokens);
                let spelled: String = tokens.iter().map(|t| t.as_str().unwrap()).collect();
                assert_eq!(choice["text"].as_str().unwrap(), spelled);
                assert_eq!(logprobs["token_logprobs"][0], Value::Null);
                assert_eq!(logprobs["top_logprobs"][0], Value::Null);
                assert_eq!(logprobs["token_logprobs"][1], 0.0);
                let second = tokens[1].as_str().unwrap();
                assert_eq!(
                    logprobs["top_logprobs"][1],
                    serde_json::json!({second: 0.0})
                );
                assert_eq!(choice["finish_reason"], "length");
            }
        }
    }
    server.stop().await;
}
