//! How fast the client is, on a quiet machine, each figure beside its bar: `cargo bench -p hansa-loadtest`, with the
//! name of one case behind `--` to measure it alone. The servers run in this process, the client in one of its own.
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
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hansa_loadtest::clock::Clock;
use hansa_loadtest::drive::answer::Answer;
use hansa_loadtest::drive::prompt::{Ask, Endpoint};
use hansa_loadtest::os::cpu_used;

use serde_json::Value;

use mock::Mock;
use mock::Step::{Pause, Write};

/// The cases, by name.
const CASES: [(&str, fn()); 4] = [
    ("parse", events_parsed_per_second),
    ("events", events_received_per_cpu_second),
    ("requests", short_requests_per_cpu_second),
    ("streams", memory_of_open_streams),
];

fn main() {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    for (name, case) in CASES {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            case();
        }
    }
}

/// A figure beside its bar.
fn bar(what: &str, figure: f64, is_kept: bool, bar: &str) {
    let word = if is_kept { "kept" } else { "MISSED" };
    println!("{word:<7} {what}: {figure:.1} (bar {bar})");
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
        form: None,
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
    let json = measure(&mock, &more);
    let client = &json["client"];
    let late = |what: &str| client[what]["p99"].as_f64().unwrap();
    let events = json["throughput"]["content_events"].as_f64().unwrap() / cpu_seconds(&json);
    bar(
        "events per CPU second of the client",
        events,
        events >= 30_000.0,
        "30,000",
    );
    let worst = late("lag_ms").max(late("stall_ms"));
    bar(
        "lag and stall of the client meanwhile, p99, ms",
        worst,
        worst < 5.0,
        "5",
    );
}

/// Whole requests with one token each, per second of the client's CPU time.
fn short_requests_per_cpu_second() {
    let answer = mock::stream(&mock::good_events(&["a"]));
    let mock = Mock::start(move |_, _| vec![Write(answer.clone())]);
    let json = measure(
        &mock,
        "--concurrency 32 --duration 8s --prompt-tokens 8 --json -",
    );
    let requests = json["requests"]["good"].as_f64().unwrap() / cpu_seconds(&json);
    bar(
        "short requests per CPU second of the client",
        requests,
        requests >= 20_000.0,
        "20,000",
    );
}

/// The largest resident memory of a client that holds 10,000 streams open, each in the middle of its answer.
fn memory_of_open_streams() {
    const STREAMS: usize = 10_000;
    let files = hansa_loadtest::os::raise_file_limit().unwrap_or(0);
    if files < STREAMS as u64 + 100 {
        println!("left out: only {files} files may be open");
        return;
    }
    let events = mock::good_events(&["a", "b"]);
    let mut first = mock::stream_head();
    first.extend(mock::event(&events[0]));
    let mut rest: Vec<u8> = events[1..]
        .iter()
        .flat_map(|data| mock::event(data))
        .collect();
    rest.extend(mock::stream_end());
    let steps = [Write(first), Pause(Duration::from_secs(20)), Write(rest)];
    let mock = Mock::start(move |_, _| steps.to_vec());
    let more = format!(
        "--concurrency {STREAMS} --requests {STREAMS} --prompt-tokens 128 --timeout 2m --json -"
    );
    let mut child = program(&mock, &more)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let peak = peak_memory_mb(&mut child);
    let output = child.wait_with_output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        json["requests"]["good"].as_u64(),
        Some(STREAMS as u64),
        "{}",
        json["requests"]
    );
    bar(
        "10,000 open streams, largest resident memory in MB",
        peak,
        peak < 400.0,
        "400",
    );
}

/// The most that the kernel saw resident, in megabytes, until the process ends.
fn peak_memory_mb(child: &mut Child) -> f64 {
    let mut peak: f64 = 0.0;
    while child.try_wait().unwrap().is_none() {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        peak = peak.max(kilobytes.unwrap_or(0.0) / 1_024.0);
        std::thread::sleep(Duration::from_millis(100));
    }
    peak
}

fn program(mock: &Mock, more: &str) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_hansa-loadtest"));
    program.args(["drive", "--url", &mock.url, "--model", mock::MODEL]);
    program.args(more.split_whitespace());
    program
}

fn cpu_seconds(json: &Value) -> f64 {
    json["client"]["cpu_share"].as_f64().unwrap() * json["throughput"]["wall_s"].as_f64().unwrap()
}

/// Runs the client and says what it did.
fn measure(mock: &Mock, more: &str) -> Value {
    let output = program(mock, more).output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let wall = json["throughput"]["wall_s"].as_f64().unwrap();
    let events = json["throughput"]["content_events"].as_f64().unwrap();
    let requests = json["requests"]["good"].as_f64().unwrap();
    println!(
        "{:.0} events/s and {:.0} requests/s at {:.0} % of a CPU; lag {}",
        events / wall,
        requests / wall,
        100.0 * cpu_seconds(&json) / wall,
        json["client"]["lag_ms"]
    );
    json
}
