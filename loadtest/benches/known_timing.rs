//! How true the client's figures are: a mock site of known timing says when it handed each token to the network, and the
//! client says when it came. `cargo bench -p hansa-loadtest --bench known_timing`, on a quiet machine; the bar is 2 % or 200 us at
//! p50 and p99 of each figure, and the exit code is 1 where one is missed.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement that prints its figures"
)]

use std::process::{Command, ExitCode};
use std::time::Duration;

use hansa_loadtest::faults::mock::Cost;
use hansa_loadtest::faults::{Mock, MockOptions};
use hansa_loadtest::stats::Distribution;

fn main() -> ExitCode {
    let mut kept = true;
    for (prefill_ms, step_ms, users) in [(20, 10, 1), (20, 10, 16), (200, 25, 64), (50, 1, 8)] {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let cost = Cost {
            slots: 1_000,
            prefill: Duration::from_millis(prefill_ms),
            step: Duration::from_millis(step_ms),
            ..Cost::default()
        };
        let options = MockOptions {
            cost,
            ..MockOptions::default()
        };
        let mock = runtime.block_on(Mock::start(options)).unwrap();
        let seen = drive(&mock, users);
        let told = mock.told();
        println!("prefill {prefill_ms} ms, step {step_ms} ms, {users} users");
        kept &= compare("ttft", &told.ttft, &seen["service"]["ttft_ms"]);
        kept &= compare("tpot", &told.tpot, &seen["tpot_ms"]);
    }
    match kept {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn drive(mock: &Mock, users: u32) -> serde_json::Value {
    let mut program = Command::new(env!("CARGO_BIN_EXE_hansa-loadtest"));
    let url = format!("http://{}", mock.address());
    let load = format!("--concurrency {users} --duration 10s --output-tokens 40 --json -");
    program.args(["drive", "--url", &url, "--model", "mock"]);
    let output = program.args(load.split_whitespace()).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Prints p50 and p99 beside what the mock knows; says whether both keep the bar.
fn compare(name: &str, told: &Distribution, seen: &serde_json::Value) -> bool {
    let mut kept = true;
    for (percentile, key) in [(50.0, "p50"), (99.0, "p99")] {
        let known = told.percentile_us(percentile) as f64;
        let seen = seen[key].as_f64().unwrap() * 1e3;
        let error = seen - known;
        let within = error.abs() <= (known * 0.02).max(200.0);
        let verdict = if within {
            "within the bar"
        } else {
            "BEYOND the bar"
        };
        println!(
            "  {name} {key}: told {known:.0} us, seen {seen:.0} us, {error:+.0} us, {:+.2} %: {verdict}",
            100.0 * error / known
        );
        kept &= within;
    }
    kept
}
