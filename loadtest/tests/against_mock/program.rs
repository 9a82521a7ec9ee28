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

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_good_run_exits_with_0_and_reports_to_people_and_machines() {
    let mock = Mock::start(|_, _| vec![Write(mock::good())]);
    let folder = std::env::temp_dir().join(format!("hansa-loadtest-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("report.json");
    let page = folder.join("report.html");
    let more = format!(
        "--concurrency 2 --requests 10 --warmup 3 --json {} --html {}",
        file.to_str().unwrap(),
        page.to_str().unwrap()
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
    let html = std::fs::read_to_string(&page).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(
        html.contains("verdict good") && html.matches("<svg").count() >= 3,
        "{}",
        &html[..2_000]
    );
    assert_eq!(json["schema"], "hansa-loadtest/drive/2");
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
        (
            "http://localhost",
            "--concurrency 1 --requests 1 --ca ca.pem",
        ),
        (
            "https://localhost",
            "--concurrency 1 --requests 1 --ca /nowhere/ca.pem",
        ),
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
}

/// Runs the program with other commands than `drive`.
pub(crate) fn other(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hansa-loadtest"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn a_scenario_is_checked_driven_and_held_against_its_objectives() {
    let mock = Mock::start(|_, _| vec![Write(mock::good())]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s.toml");
    let scenario = |load: &str, limit: &str| {
        let text = format!(
            "[run]\nrequests = 30\n[load]\n{load}\n[[model]]\nname = \"{}\"\n\
             [[tenant]]\nname = \"a\"\nkey = \"k\"\n[[tenant]]\nname = \"b\"\nkey = \"l\"\n\
             [slo]\nobjectives = [\"ttft < {limit}\", \"goodput > 90%\"]\n",
            mock::MODEL
        );
        std::fs::write(&file, text).unwrap();
    };
    let path = file.to_str().unwrap();
    scenario("kind = \"constant\"\nrate = 200", "30s");
    let checked = other(&["check", "--scenario", path]);
    let said = text(&checked.stdout);
    assert_eq!(checked.status.code(), Some(0), "{said}");
    assert!(
        said.contains("arrivals  30, the last one after 0.1 s"),
        "{said}"
    );
    let closed = "kind = \"closed\"\nusers = 2";
    scenario(closed, "30s");
    let drive = || {
        other(&[
            "drive",
            "--url",
            &mock.url,
            "--scenario",
            path,
            "--json",
            "-",
        ])
    };
    let met = drive();
    assert_eq!(met.status.code(), Some(0), "{}", text(&met.stderr));
    let json: serde_json::Value = serde_json::from_slice(&met.stdout).unwrap();
    assert_eq!(json["goodput"]["requests"], 30);
    assert_eq!(
        json["groups"].as_array().unwrap().len(),
        3,
        "one model, two tenants"
    );
    assert!(json["fairness"]["good_fraction"].as_f64() > Some(0.99));
    scenario(closed, "1us");
    let missed = drive();
    assert_eq!(missed.status.code(), Some(1));
    assert!(text(&missed.stderr).contains("MISSED"));
    std::fs::write(&file, "[load]\nkind = \"closd\"\n").unwrap();
    let bad = other(&["check", "--scenario", path]);
    assert_eq!(bad.status.code(), Some(2));
    assert!(
        text(&bad.stderr).contains("s.toml:2: load.kind: expected one of"),
        "{}",
        text(&bad.stderr)
    );
    let driven = drive();
    let said = text(&driven.stderr);
    assert_eq!(driven.status.code(), Some(2));
    assert_eq!(said.matches("s.toml:2: load.kind").count(), 1, "{said}");
}

#[test]
fn two_runs_are_compared_by_their_raw_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for (name, pause) in [("a", 1), ("b", 30)] {
        let wait = Duration::from_millis(pause);
        let mock = Mock::start(move |_, _| vec![Pause(wait), Write(mock::good())]);
        let more = format!("--concurrency 4 --requests 60 --raw {}", path(name));
        assert_eq!(run(&mock.url, &more).status.code(), Some(0));
    }
    let compare = |before: &str, after: &str, gate: &str| {
        let output = other(&["compare", &path(before), &path(after), "--gate", gate]);
        (
            output.status.code(),
            text(&output.stdout) + &text(&output.stderr),
        )
    };
    let (code, said) = compare("a", "b", "ttft.p50 < +5%");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("gate  ttft.p50 < +5%: MISSED"), "{said}");
    assert_eq!(compare("b", "a", "ttft.p50 < +5%").0, Some(0));
    assert_eq!(
        compare("a", "a", "ttft.p99 < +5%").0,
        Some(3),
        "60 requests do not tell p99"
    );
    assert_eq!(compare("a", "nowhere", "good > -1%").0, Some(2));
}

#[test]
fn a_search_ends_between_a_rate_that_is_met_and_one_that_is_not() {
    // A server that answers at once, but to more than three requests within 100 ms with an error.
    let recent = std::sync::Mutex::new(std::collections::VecDeque::new());
    let clock = hansa_loadtest::clock::Clock::start();
    let mock = Mock::start(move |_, _| {
        let mut recent = recent.lock().unwrap();
        let now = clock.now();
        recent.push_back(now);
        recent.retain(|at| now - at < 100_000_000);
        let answer = match recent.len() {
            0..=3 => mock::good(),
            _ => mock::plain("503 Full", "text/plain", ""),
        };
        vec![Write(answer)]
    });
    let line = format!(
        "search --url {} --model {} --rate 10 --arrival constant --duration 500ms --settle 150ms --tolerance 0.5",
        mock.url,
        mock::MODEL
    );
    let mut arguments: Vec<&str> = line.split_whitespace().collect();
    arguments.extend(["--slo", "good > 90%", "--json", "-"]);
    let output = other(&arguments);
    let said = text(&output.stderr);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let probes = json["probes"].as_array().unwrap();
    assert_eq!(probes[0]["rate"], 10.0);
    let rate = |key: &str| json["found"][key].as_f64();
    if probes.iter().any(|probe| probe["client_bound"] == true) {
        // On a machine too busy to keep the schedule there is nothing to be found, and the search says so.
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("no verdict on the server"), "{said}");
    } else {
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(
            said.contains("stopped early") && said.contains("highest rate"),
            "{said}"
        );
        let (met, missed) = (rate("rate").unwrap(), rate("missed").unwrap());
        assert!(met < missed && missed <= 1.5 * met && met < 40.0, "{said}");
    }
    let nothing_to_meet = &arguments[..arguments.len() - 4];
    assert_eq!(other(nothing_to_meet).status.code(), Some(2));
}

#[test]
fn a_run_that_is_interrupted_or_told_to_end_still_writes_its_report_and_its_file() {
    for signal in ["-INT", "-TERM"] {
        ended_by(signal);
    }
}

fn ended_by(signal: &str) {
    let (reached, fourth) = std::sync::mpsc::sync_channel(1);
    let mock = Mock::start(move |n, _| {
        if n == 3 {
            reached.send(()).unwrap();
        }
        let wait = Duration::from_secs(if n < 3 { 0 } else { 600 });
        vec![Pause(wait), Write(mock::good())]
    });
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("run.parquet");
    let raw = raw.to_str().unwrap();
    let load = "--concurrency 1 --duration 10m --timeout 10m --json - --raw";
    let child = program(&mock.url, &format!("{load} {raw}"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One user: when the fourth request is at the server, three are over.
    fourth.recv_timeout(Duration::from_secs(60)).unwrap();
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args([signal, &pid])
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
    let compared = text(&other(&["compare", raw, raw]).stdout);
    assert!(compared.contains("A  3 good of 3"), "{compared}");
    assert!(compared.contains("it was stopped early"), "{compared}");
}
