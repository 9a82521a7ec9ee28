//! The simulator against queueing theory: where a node is a queue of the textbook, its waits are the textbook's.
//!
//! Bounds are three standard errors of a mean of so many requests; runs are seeded, so a test passes always or never.

use super::*;

/// Milliseconds of the round trip to where a gateway stands itself.
const HERE_MS: f64 = 2.0;

/// Requests of a run; `scripts/soak` asks for more, which narrows the bounds.
fn requests(usual: u64) -> u64 {
    let times = std::env::var("HANSA_SOAK_SIM").ok();
    usual * times.and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// Of the mean wait of so many customers of M/M/1, in services (asymptotic; Daley, 1968). M/M/k, whose customers wait less
/// often, has no larger one in services of all servers together.
fn standard_error(load: f64, requests: u64) -> f64 {
    let top = load * (2.0 + 5.0 * load - 4.0 * load.powi(2) + load.powi(3));
    (top / (1.0 - load).powi(4) / requests as f64).sqrt()
}

/// M/M/1: prompts of exponential length, computed one after the other, and answers of a token.
fn mm1(load: f64, requests: u64) -> f64 {
    let text = format!(
        r#"
[run]
seed = 5
duration = "24h"
requests = {requests}
policies = ["cost"]
[load]
kind = "poisson"
rate = {}
[network]
jitter = 0
[prompt]
tokens = {{ dist = "exponential", mean = 20000 }}
[output]
tokens = 1
[[machine]]
name = "m"
step_us = 0
prefill_token_us = 1
step_tokens_max = 1
kv_tokens = 100_000_000
queue_max = 1_000_000
[[site]]
name = "a"
machine = "m"
lat = 50
lon = 10
"#,
        load / 0.02
    );
    let report = only(&plan(&text));
    assert_eq!(report.done, requests);
    report.e2e_ms.mean - HERE_MS
}

#[test]
fn one_server_waits_as_m_m_1_does() {
    let requests = requests(20_000);
    for load in [0.5_f64, 0.7] {
        let expected = 20.0 / (1.0 - load);
        let error = 20.0 * standard_error(load, requests);
        let seen = mm1(load, requests);
        assert!(
            (seen - expected).abs() < 3.0 * error,
            "{load}: {seen} for {expected} +- {error}"
        );
    }
}

/// Erlang's C: the chance to wait for one of `servers` at an offered load of `offered` servers.
fn erlang_c(servers: u32, offered: f64) -> f64 {
    let blocked = (1..=servers).fold(1.0, |b, k| offered * b / (f64::from(k) + offered * b));
    let free = 1.0 - offered / f64::from(servers);
    blocked / (free + blocked * (1.0 - free))
}

#[test]
fn a_batch_waits_as_m_m_k_does() {
    // Eight sequences at once, answers of exponential length at a millisecond a token.
    let (servers, load, requests) = (8, 0.8, requests(25_000));
    let rate = load * f64::from(servers) / 0.5;
    let text = format!(
        r#"
[run]
seed = 9
duration = "24h"
requests = {requests}
policies = ["cost"]
[load]
kind = "poisson"
rate = {rate}
[network]
jitter = 0
[prompt]
tokens = 1
[output]
tokens = {{ dist = "exponential", mean = 500 }}
[[machine]]
name = "m"
step_us = 1000
prefill_token_us = 0
sequences_max = {servers}
kv_tokens = 100_000_000
queue_max = 1_000_000
[[site]]
name = "a"
machine = "m"
lat = 50
lon = 10
"#
    );
    let report = only(&plan(&text));
    let expected =
        erlang_c(servers, load * f64::from(servers)) * 500.0 / (f64::from(servers) * (1.0 - load));
    // A step of its own, half a one on average until the next begins, and the way.
    let seen = report.ttft_ms.mean - 1.5 - HERE_MS;
    let error = 500.0 / f64::from(servers) * standard_error(load, requests);
    assert!(
        (seen - expected).abs() < 3.0 * error,
        "{seen} for {expected} +- {error}"
    );
    // A millisecond a token from the first to the last.
    let decoding = report.e2e_ms.mean - report.ttft_ms.mean;
    assert!((decoding / 499.0 - 1.0).abs() < 0.03, "{decoding}");
}

#[test]
fn an_erlang_c_of_the_tables() {
    assert!((erlang_c(1, 0.5) - 0.5).abs() < 1e-12);
    assert!((erlang_c(2, 1.0) - 1.0 / 3.0).abs() < 1e-12);
    assert!((erlang_c(8, 6.4) - 0.457).abs() < 0.02);
}
