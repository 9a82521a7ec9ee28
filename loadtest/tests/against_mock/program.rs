//! The program itself: exit codes, the JSON report, and a report in spite of an interrupt.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::mock::Step::{Pause, Write};
use crate::mock::{self, Mock};

fn program(url: &str, more: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hansa-loadtest"));
    command
        .args(["drive", "--url", url, "--model", mock::MODEL])
        .args(more.split_whitespace());
    command.env_remove("OPENAI_API_KEY").stdin(Stdio::null());
    command
}

pub(crate) fn run(url: &str, more: &str) -> Output {
    program(url, more).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_good_run_exits_with_0_and_reports_to_people_and_machines() {
    let mock = Mock::start(|_, _| vec![Write(mock::good())]);
    let folder = std::env::temp_dir().join(format!("hansa-loadtest-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("report.json");
    let more = format!(
        "--concurrency 2 --requests 10 --warmup 3 --json {}",
        file.to_str().unwrap()
    );
    let output = run(&mock.url, &more);
    let table = text(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{table}{}",
        text(&output.stderr)
    );
    assert!(table.contains("10 good of 10 (100.00 %)"), "{table}");
    assert!(table.contains("warm-up: 3 good of 3"), "{table}");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(json["schema"], "hansa-loadtest/drive/1");
    assert_eq!(json["requests"]["good"], 10);
    assert_eq!(json["throughput"]["output_tokens"], 30);
    assert_eq!(json["throughput"]["prompt_tokens_mean"], 7.0);
    assert_eq!(json["service"]["ttft_ms"]["count"], 10);
    assert!(
        json["response"].is_null(),
        "a closed loop has no due times of its own"
    );
}

#[test]
fn an_open_loop_reports_both_views_and_json_may_go_to_stdout() {
    let mock = Mock::start(|_, _| vec![Write(mock::good())]);
    let output = run(
        &mock.url,
        "--rate 100 --requests 20 --arrival constant --json -",
    );
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["requests"]["good"], 20);
    assert_eq!(json["response"]["ttft_ms"]["count"], 20);
    assert!(text(&output.stderr).contains("ttft (response)"));
}

#[test]
fn exit_codes_tell_failures_apart() {
    let code = |url: &str, more: &str| run(url, more).status.code();
    let oops = || Write(mock::plain("500 Oops", "text/plain", ""));
    let failing = Mock::start(move |_, _| vec![oops()]);
    assert_eq!(code(&failing.url, "--concurrency 1 --requests 3"), Some(4));
    let half = Mock::start(move |n, _| vec![if n == 0 { oops() } else { Write(mock::good()) }]);
    assert_eq!(code(&half.url, "--concurrency 1 --requests 3"), Some(1));
    let load = "--concurrency 1 --requests 1";
    for (url, more) in [
        ("https://localhost", load),
        ("http://", load),
        (half.url.as_str(), ""),
        (&half.url, "--rate nan"),
        (&half.url, "--concurrency 1 --duration 30"),
        (
            &half.url,
            "--concurrency 1 --requests 1 --json /nowhere/at/all.json",
        ),
    ] {
        assert_eq!(code(url, more), Some(2), "{url} {more}");
    }
    let refused = run("https://localhost", load);
    assert!(text(&refused.stderr).contains("https is not supported yet"));
}

#[test]
fn an_interrupted_run_still_reports() {
    let (reached, fourth) = std::sync::mpsc::sync_channel(1);
    let mock = Mock::start(move |n, _| {
        if n == 3 {
            reached.send(()).unwrap();
        }
        let wait = Duration::from_secs(if n < 3 { 0 } else { 600 });
        vec![Pause(wait), Write(mock::good())]
    });
    let child = program(
        &mock.url,
        "--concurrency 1 --duration 10m --timeout 10m --json -",
    )
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    // One user: when the fourth request is at the server, three are over.
    fourth.recv_timeout(Duration::from_secs(60)).unwrap();
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let output = child.wait_with_output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "what was measured was good");
    assert_eq!(json["requests"]["good"], 3);
    assert_eq!(json["requests"]["interrupted"], true);
    assert_eq!(json["requests"]["cut_off"], 1);
}
