//! How fast the client is, on a quiet machine: `cargo bench -p hansa-loadtest`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement that prints its figures"
)]

#[path = "../tests/against_mock/mock.rs"]
#[allow(
    dead_code,
    clippy::allow_attributes,
    reason = "the tests use more of it"
)]
mod mock;

use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use hansa_loadtest::clock::Clock;
use hansa_loadtest::drive::answer::Answer;
use hansa_loadtest::drive::prompt::{Ask, Endpoint};
use hansa_loadtest::os::cpu_used;

use mock::Mock;
use mock::Step::{Pause, Write};

fn main() {
    events_parsed_per_second();
    events_received_per_cpu_second();
    short_requests_per_cpu_second();
}

/// A chunk as servers of the field send it, some 250 bytes.
fn chunk(text: &str) -> String {
    format!(
        r#"{{"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1790000000,"model":"{}","system_fingerprint":"fp_0","choices":[{{"index":0,"delta":{{"content":"{text}"}},"logprobs":null,"finish_reason":null}}]}}"#,
        mock::MODEL
    )
}

fn events_parsed_per_second() {
    const EVENTS: u32 = 500_000;
    let ask = Ask {
        endpoint: Endpoint::Chat,
        model: mock::MODEL.into(),
        messages: Vec::new(),
        output_tokens: EVENTS,
        seed: None,
        ignore_eos: false,
        priority: None,
    };
    let piece = format!("data: {}\n\n", chunk(" word"));
    let mut answer = Answer::new(Arc::new(ask), None, None);
    let clock = Clock::start();
    let before = cpu_used();
    for _ in 0..EVENTS {
        assert!(
            answer
                .take(black_box(piece.as_bytes()), clock.now())
                .is_continue()
        );
    }
    let nanos = (cpu_used() - before).as_nanos() / u128::from(EVENTS);
    assert_eq!(answer.told().content_events, EVENTS as usize);
    println!(
        "parsing: {nanos} ns of CPU time an event of {} bytes",
        piece.len()
    );
}

/// Events through socket, HTTP, parser and statistics, per second of the client's CPU time.
fn events_received_per_cpu_second() {
    const TOKENS: usize = 400;
    let mut events: Vec<String> = (0..TOKENS).map(|_| chunk(" word")).collect();
    events.extend([mock::finish(), mock::usage(TOKENS), "[DONE]".to_owned()]);
    let mut steps = vec![Write(mock::stream_head())];
    for data in &events {
        steps.extend([Write(mock::event(data)), Pause(Duration::from_millis(2))]);
    }
    steps.push(Write(mock::stream_end()));
    let mock = Mock::start(move |_, _| steps.clone());
    let more = format!("--concurrency 64 --duration 8s --output-tokens {TOKENS} --json -");
    measure(&mock, &more);
}

/// Whole requests with one token each, per second of the client's CPU time.
fn short_requests_per_cpu_second() {
    let answer = mock::stream(&mock::good_events(&["a"]));
    let mock = Mock::start(move |_, _| vec![Write(answer.clone())]);
    measure(
        &mock,
        "--concurrency 32 --duration 8s --prompt-tokens 8 --json -",
    );
}

fn measure(mock: &Mock, more: &str) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_hansa-loadtest"));
    program.args(["drive", "--url", &mock.url, "--model", mock::MODEL]);
    let output = program.args(more.split_whitespace()).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let wall = json["throughput"]["wall_s"].as_f64().unwrap();
    let cpu = json["client"]["cpu_share"].as_f64().unwrap() * wall;
    let events = json["throughput"]["content_events"].as_f64().unwrap();
    let requests = json["requests"]["good"].as_f64().unwrap();
    println!(
        "{:.0} events/s and {:.0} requests/s at {:.0} % of a CPU: {:.0} events and {:.0} requests per CPU second; lag {}",
        events / wall,
        requests / wall,
        100.0 * cpu / wall,
        events / cpu,
        requests / cpu,
        json["client"]["lag_ms"]
    );
}
