//! The built-in mock, proxy and fault plan, under the driver and as programs.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hansa_loadtest::clock::Nanos;
use hansa_loadtest::drive::record::View;
use hansa_loadtest::faults::fault::FaultKind;
use hansa_loadtest::faults::mock::Cost;
use hansa_loadtest::faults::{Mock, MockOptions, Proxy, ProxyOptions};
use tokio::runtime::Runtime;

use crate::harness::{Ran, Setup};
use crate::program::{other, text};

/// A mock that answers at once, behind a proxy, on threads of their own.
fn proxied() -> (Runtime, Mock, Proxy) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let tiny = Duration::from_micros(1);
    let cost = Cost {
        prefill: tiny,
        prefill_token: tiny,
        step: tiny,
        slots: 1_000,
        ..Cost::default()
    };
    let options = MockOptions {
        cost,
        ..MockOptions::default()
    };
    let (mock, proxy) = runtime.block_on(async {
        let mock = Mock::start(options).await.unwrap();
        let proxy = Proxy::start(ProxyOptions::to(mock.address()))
            .await
            .unwrap();
        (mock, proxy)
    });
    (runtime, mock, proxy)
}

/// Runs a load of requests against answers that stand still for a second; when they went on.
fn stalled(setup: impl FnOnce(&str) -> Setup) -> (Ran, Nanos) {
    let (_runtime, _mock, proxy) = proxied();
    let setup = setup(&format!("http://{}", proxy.address()));
    let clock = setup.clock;
    let stall = proxy.inject(FaultKind::Stall { after_bytes: 0 });
    let healer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(1));
        let healed = clock.now();
        proxy.heal(stall);
        (proxy, healed)
    });
    let ran = setup.run();
    let (_proxy, healed) = healer.join().unwrap();
    (ran, healed)
}

#[test]
fn a_stall_is_in_the_response_time_of_every_request_that_was_due_meanwhile() {
    let (ran, healed) = stalled(|url| Setup::open(url, 100.0, 150));
    assert_eq!((ran.records.len(), ran.failures()), (150, vec![]));
    let due = ran
        .records
        .iter()
        .filter(|record| record.stamps.intended < healed);
    let mut meanwhile = 0;
    for record in due {
        let least = (healed - record.stamps.intended) / 1_000;
        assert!(record.ttft_us(View::Response) >= Some(least), "{record:?}");
        meanwhile += 1;
    }
    assert!(
        meanwhile >= 100,
        "a second of 100 requests a second, at least: {meanwhile}"
    );
    // Beside it, a closed loop, as most tools have: one user feels one stall, and nine tenths of requests look fine.
    let (ran, healed) = stalled(|url| Setup::closed(url, 1, 150));
    let slow = ran
        .records
        .iter()
        .filter(|record| record.stamps.intended < healed);
    assert_eq!((slow.count(), ran.good()), (1, 150));
}

#[test]
fn every_token_of_a_mock_is_as_its_seed_says_and_a_cut_stream_is_no_success() {
    let (_runtime, mock, proxy) = proxied();
    let mut setup = Setup::closed(&format!("http://{}", proxy.address()), 4, 40);
    setup.check_sim_tokens = true;
    let ran = setup.run();
    assert_eq!((ran.good(), ran.failures()), (40, vec![]));
    assert_eq!(mock.told().ttft.count(), 40);
    proxy.inject(FaultKind::Truncate { after_bytes: 1_500 });
    let ran = setup.run();
    assert_eq!((ran.good(), ran.records.len()), (0, 40));
    let failures = ran.failures();
    assert!(
        failures
            .iter()
            .all(|failure| failure.starts_with("truncated") || failure.starts_with("no_answer")),
        "{failures:?}"
    );
}

/// A program that serves until it is killed.
struct Serving(Child, String);

impl Serving {
    fn start(line: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hansa-loadtest"));
        let mut child = command
            .args(words(line))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut said)
            .unwrap();
        Self(child, said)
    }

    fn url(&self, target: usize) -> String {
        let json: serde_json::Value = serde_json::from_str(&self.1).unwrap();
        json["targets"][target]["url"].as_str().unwrap().to_owned()
    }

    /// Ends it as an operator does.
    fn end(mut self) -> Option<i32> {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().unwrap().success());
        self.0.wait().unwrap().code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.kill().ok();
    }
}

/// The words of a line; what stands between bars is one word.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('|').enumerate();
    let words = |(at, part): (usize, &str)| match at % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    };
    parts.flat_map(words).collect()
}

fn run(line: &str) -> (Option<i32>, String) {
    let words = words(line);
    let output = other(&words.iter().map(String::as_str).collect::<Vec<_>>());
    (
        output.status.code(),
        text(&output.stdout) + &text(&output.stderr),
    )
}

#[test]
fn mock_sites_proxy_and_driver_work_together_as_programs() {
    let mock = Serving::start("mock --sites 2 --listen 127.0.0.1:0 --step 1ms");
    let to = mock.url(1).replace("http://", "");
    let fault = r#"--fault |kind = "truncate", after_bytes = 900, at = "1h"|"#;
    let proxy = Serving::start(&format!("proxy --listen 127.0.0.1:0 --to {to} {fault}"));
    let load = "--model mock --concurrency 2 --requests 10 --check-sim-tokens";
    let (code, said) = run(&format!("drive --url {} {load}", proxy.url(0)));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("10 good of 10"), "{said}");
    let (code, said) = run(&format!(
        "abuse --url {} --model mock --only malformed --connections 2",
        mock.url(0)
    ));
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("malformed      good") && said.contains("kinds refused"),
        "{said}"
    );
    assert_eq!((proxy.end(), mock.end()), (Some(0), Some(0)));
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_starts() {
    for (line, why) in [
        (
            r#"mock --fault |kind = "stal"|"#,
            "--fault:1: fault[0].kind: expected one of",
        ),
        (
            r#"mock --sites 2 --fault |kind = "kill", target = "mock-3"|"#,
            "there is no \"mock-3\", but mock-1, mock-2",
        ),
        (
            "proxy --to 127.0.0.1:1 --listen 192.0.2.1:1",
            "cannot start \"proxy\" at 192.0.2.1:1",
        ),
        (
            "abuse --url http://192.0.2.1 --model m",
            "--i-own-this-server",
        ),
    ] {
        let (code, said) = run(line);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(why), "{why} in {said}");
    }
}

#[test]
fn a_scenario_breaks_its_own_mock_and_says_what_was_felt() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = free.local_addr().unwrap();
    drop(free);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s.toml");
    let scenario = format!(
        "[target]\nurl = \"http://{at}\"\n[run]\nrequests = 40\n[load]\nkind = \"constant\"\nrate = 20\n\
         [[model]]\nname = \"mock\"\n[output]\ntokens = 3\n\
         [[mock]]\nname = \"turku\"\nlisten = \"{at}\"\nstep = \"1ms\"\n\
         [[fault]]\nkind = \"errors\"\nstatus = 503\nat = \"525ms\"\nfor = \"500ms\"\n"
    );
    // The fault begins and ends between two requests, so that it does not matter how late a busy machine begins it.
    std::fs::write(&file, scenario).unwrap();
    let file = file.to_str().unwrap();
    let (code, said) = run(&format!("check --scenario {file}"));
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("fault     errors 503 at all, 0.525 s to 1.025 s"),
        "{said}"
    );
    let output = other(&["drive", "--scenario", file, "--json", "-"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let felt = &json["faults"][0];
    assert!(felt["failed"].as_u64() > Some(0), "{json:#}");
    assert_eq!(
        felt["failed"], json["requests"]["failed"],
        "nothing failed but by the fault"
    );
    assert!(felt["served_again_ms"].as_f64() >= Some(500.0), "{felt}");
    assert!(text(&output.stderr).contains("served again after"));
}
