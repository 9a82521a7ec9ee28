//! What goes on beside the load: probe requests, the server's metrics page, a client that is too slow, and samples of
//! raw files. The program itself is run.

use std::process::Output;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::mock::Step::{Pause, Write};
use crate::mock::{self, Mock};
use crate::program::run;

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Whether a request of the mock is a probe: they alone ask for one token.
fn is_probe(body: &str) -> bool {
    body.contains("\"max_completion_tokens\":1,")
}

#[test]
fn probe_requests_feel_what_the_load_does_to_them_and_are_counted_apart() {
    // Whoever comes beside the load waits; probes that come before it do not.
    let loads = AtomicU64::new(0);
    let mock = Mock::start(move |_, body| {
        if !is_probe(body) {
            loads.fetch_add(1, Ordering::SeqCst);
            return vec![Pause(Duration::from_millis(20)), Write(mock::good())];
        }
        let wait = if loads.load(Ordering::SeqCst) > 0 {
            60
        } else {
            0
        };
        let answer = mock::stream(&mock::good_events(&["a"]));
        vec![Pause(Duration::from_millis(wait)), Write(answer)]
    });
    let more = "--concurrency 2 --requests 60 --probe-request-rate 50 --json -";
    let output = run(&mock.url, more);
    let json = json(&output);
    assert_eq!(output.status.code(), Some(0), "{json}");
    assert_eq!(json["requests"]["good"], 60, "probes are not of the load");
    let probes = &json["probe_requests"];
    assert_eq!(probes["alone"]["good"], 10);
    assert!(probes["beside"]["good"].as_u64() > Some(0), "{probes}");
    assert!(
        probes["beside"]["ttft_ms"]["p50"].as_f64() >= Some(60.0),
        "{probes}"
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("probes    "), "{said}");
}

#[test]
fn the_servers_metrics_stand_on_the_time_axis_of_the_run() {
    let load = Mock::start(|_, _| vec![Pause(Duration::from_millis(5)), Write(mock::good())]);
    let page = Mock::start(|n, _| {
        let text = format!("# TYPE queue gauge\nqueue {n}\nsame 1\n");
        vec![Write(mock::plain("200 OK", "text/plain", &text))]
    });
    let more = format!(
        "--concurrency 1 --requests 20 --metrics {} --json -",
        page.url
    );
    let json = json(&run(&load.url, &more));
    let server = &json["server"];
    // One look at the start and one at the end, however short the run is.
    assert_eq!(
        (&server["scrapes"], &server["failed"]),
        (&2.into(), &0.into()),
        "{server}"
    );
    assert_eq!(server["series"][0]["name"], "queue");
    assert_eq!(server["series"][0]["values"], serde_json::json!([0.0, 1.0]));
    assert_eq!(server["left_out"], 1);
    let at = server["at_s"].as_array().unwrap();
    assert!(at[0].as_f64() < at[1].as_f64(), "{server}");
}

#[test]
fn a_page_that_cannot_be_had_does_not_end_a_run() {
    let load = Mock::start(|_, _| vec![Write(mock::good())]);
    let page = Mock::start(|_, _| vec![Write(mock::plain("404 Not Found", "text/plain", "no"))]);
    let more = format!(
        "--concurrency 1 --requests 3 --metrics {} --json -",
        page.url
    );
    let json = json(&run(&load.url, &more));
    assert_eq!(
        (&json["requests"]["good"], &json["server"]["failed"]),
        (&3.into(), &2.into())
    );
}

#[test]
fn a_client_that_cannot_keep_its_schedule_refuses_a_verdict() {
    hansa_loadtest::os::raise_file_limit();
    let mock = Mock::start(|_, _| vec![Write(mock::good())]);
    // Due within 3 ms: no client sends so many so fast.
    let more = "--rate 1000000 --requests 3000 --arrival constant --prompt-tokens 300 --json -";
    let output = run(&mock.url, more);
    let json = json(&output);
    assert_eq!(json["client"]["client_bound"], true, "{json}");
    assert_eq!(output.status.code(), Some(3), "{}", json["requests"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no verdict on the server"), "{said}");
}

#[test]
fn cache_energy_carbon_and_retries_are_summed_and_a_sample_keeps_few_lines() {
    let mock = Mock::start(|n, _| {
        let mut events = mock::good_events(&["a", "b", "c"]);
        events[4] = r#"{"model":"mock","choices":[],"usage":{"prompt_tokens":8,"completion_tokens":3,"total_tokens":11,
            "prompt_tokens_details":{"cached_tokens":6}},"hansa":{"joules":1.5,"grams":0.25}}"#
            .replace('\n', "");
        let route = if n % 2 == 0 {
            "policy=cost; eligible=2"
        } else {
            "policy=cost; attempt=retry"
        };
        let head = format!("\r\nx-hansa-route: {route}\r\nx-hansa-site: lumi/n3\r\n");
        let answer = String::from_utf8(mock::stream(&events)).unwrap();
        vec![Write(answer.replacen("\r\n", &head, 1).into_bytes())]
    });
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("raw.jsonl");
    let more = format!(
        "--concurrency 1 --requests 40 --json - --raw {} --raw-sample 10",
        raw.to_str().unwrap()
    );
    let json = json(&run(&mock.url, &more));
    let extras = &json["extras"];
    assert_eq!(
        (&extras["cached_share"], &extras["cached_tokens"]),
        (&0.75.into(), &240.into()),
        "{extras}"
    );
    assert_eq!(
        (&extras["joules"], &extras["joules_per_output_token"]),
        (&60.0.into(), &0.5.into())
    );
    assert_eq!(
        (&extras["grams"], &extras["retried"]),
        (&10.0.into(), &20.into())
    );
    assert_eq!(json["groups"][0]["name"], "lumi", "a site, not its node");
    assert_eq!(json["groups"][0]["extras"]["joules"], 60.0);
    let lines = std::fs::read_to_string(&raw).unwrap();
    assert_eq!(lines.lines().count(), 1 + 10 + 1);
    assert!(
        lines
            .lines()
            .last()
            .unwrap()
            .contains("\"sampled_from\":40")
    );
}
