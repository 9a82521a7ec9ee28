//! The binary itself: its arguments, its one line on stdout, its exit codes, and its way out on SIGTERM.
#![cfg(all(feature = "engine", unix))]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod agent;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use hansa_gateway::tenant::secret::Secret;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::RowAccessor as _;
use serde_json::{Value, json};

const SIM: &str = "[server]\nlisten = \"127.0.0.1:0\"\ngrace_ms = 200\n\
    [admin]\nlisten = \"127.0.0.1:0\"\n[[model]]\nid = \"sim\"\nrunner = \"sim\"\n";

fn hansa(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hansa"));
    command.args(args).stdin(Stdio::null());
    command
}

/// A config file of this test's own.
fn file(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn output(args: &[&str]) -> Output {
    hansa(args).output().unwrap()
}

fn terminate(child: &Child) {
    signal(child, "-TERM");
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args([name, &pid]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn serve_says_where_it_listens_and_leaves_on_sigterm() {
    let config = file("sim.toml", SIM);
    let mut child = hansa(&["serve", "--config", config.to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let addresses: Value = serde_json::from_str(&line).unwrap();
    assert!(
        addresses["listen"]
            .as_str()
            .unwrap()
            .starts_with("127.0.0.1:")
    );
    assert!(
        addresses["admin"]
            .as_str()
            .unwrap()
            .starts_with("127.0.0.1:")
    );
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

#[test]
fn losing_the_log_costs_the_log_alone() {
    let config = file("mute.toml", SIM);
    let serve = ["serve", "--config", config.to_str().unwrap()];
    for filter in ["debug", "no=such=filter"] {
        let mut child = hansa(&serve)
            .env("HANSA_LOG", filter)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Whoever read the log is gone.
        drop(child.stderr.take());
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let addresses: Value = serde_json::from_str(&line).unwrap();
        let mut stream = TcpStream::connect(addresses["listen"].as_str().unwrap()).unwrap();
        let request = "GET /health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{filter}: {answer}");
        terminate(&child);
        assert_eq!(child.wait().unwrap().code(), Some(0), "{filter}");
    }
}

#[test]
fn a_terminal_that_closes_ends_it_in_order() {
    let config = file("hangup.toml", SIM);
    let mut child = hansa(&["serve", "--config", config.to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    signal(&child, "-HUP");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn what_the_user_got_wrong_ends_with_64_and_the_name_of_it() {
    let unknown = file("unknown.toml", "[server]\nlisten_on = 1\n");
    let unknown = unknown.to_str().unwrap();
    for (args, named) in [
        (&["check", "--config", unknown][..], "listen_on"),
        (&["serve", "--config", unknown], "listen_on"),
        (&["serve", "--config", "/nowhere.toml"], "/nowhere.toml"),
        (&["serve", "--listen", "somewhere"], "--listen"),
        (&["serve", "--listen", "0.0.0.0:0"], "server.listen"),
        (&["serve", "--admin-listen", "somewhere"], "--admin-listen"),
        (&["serve", "--unknown"], "--unknown"),
        (&["sing"], "sing"),
    ] {
        let output = output(args);
        assert_eq!(output.status.code(), Some(64), "{args:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{args:?}: {output:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains(named), "{args:?}: {stderr}");
    }
}

#[test]
fn a_sound_config_passes_the_check() {
    let config = file("sound.toml", SIM);
    let output = output(&["check", "--config", config.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn a_model_that_is_not_there_ends_with_one_line() {
    let args = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "none"];
    let output = output(&[&args[..], &["--model", "/nowhere/model.gguf"]].concat());
    assert_eq!(output.status.code(), Some(70), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last = stderr.lines().last().unwrap();
    assert!(last.starts_with("hansa: model 'model': "), "{stderr}");
}

#[test]
fn a_damaged_ledger_ends_it_with_one_line_and_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger.redb");
    let text = format!("{SIM}[quota]\nledger = {ledger:?}\n");
    let config = file("damaged.toml", &text);
    for damaged in ["", "not a ledger"] {
        std::fs::write(&ledger, damaged).unwrap();
        let output = output(&["serve", "--config", config.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(70), "{output:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        let last = stderr.lines().last().unwrap();
        let names = last.contains(ledger.to_str().unwrap()) && last.contains("backup");
        assert!(last.starts_with("hansa: ") && names, "{stderr}");
        assert_eq!(std::fs::read_to_string(&ledger).unwrap(), damaged);
    }
}

#[test]
fn a_new_key_comes_with_its_section_for_the_config() {
    let made = output(&["key", "new", "--id", "ci", "--tenant", "acme"]);
    assert!(made.status.success(), "{made:?}");
    let text = String::from_utf8(made.stdout).unwrap();
    let (key, section) = text.split_once("\n\n").unwrap();
    let digest = hansa_gateway::tenant::secret::KeyDigest::of(key).to_string();
    assert!(section.contains(&digest), "{text}");
    assert!(!section.contains(key), "the section holds the key itself");
    let config = file(
        "keys.toml",
        &format!("{SIM}[[tenant]]\nid = \"acme\"\n{section}"),
    );
    let checked = output(&["check", "--config", config.to_str().unwrap()]);
    assert!(checked.status.success(), "{checked:?}");
    let text = String::from_utf8(checked.stdout).unwrap();
    assert!(text.contains("keys: 1"), "{text}");
}

#[test]
fn managing_keys_needs_an_operators_key_and_a_server() {
    let list = |key: Option<&str>| {
        // Nothing listens on port 1.
        let mut command = hansa(&["key", "list", "--admin", "127.0.0.1:1"]);
        command.env_remove("HANSA_ADMIN_KEY");
        command.envs(key.map(|key| ("HANSA_ADMIN_KEY", key)));
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), text)
    };
    let (code, text) = list(None);
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("HANSA_ADMIN_KEY"), "{text}");
    let (code, text) = list(Some("hk-x"));
    assert_eq!(code, Some(70), "{text}");
    assert!(text.contains("127.0.0.1:1"), "{text}");
}

/// A server with an operator's key, which has served one request of 3 + 5 tokens.
struct Managed {
    child: Child,
    admin: String,
    key: Secret,
}

impl Managed {
    fn start() -> Self {
        let key = Secret::new();
        let text = format!(
            "{SIM}[[tenant]]\nid = \"uni\"\n[[tenant]]\nid = \"uni/a\"\n\
             [[key]]\nid = \"ops\"\ntenant = \"uni/a\"\nrole = \"operator\"\nsha256 = \"{}\"\n",
            key.digest()
        );
        let name = format!("managed-{:?}.toml", std::thread::current().id());
        let config = file(&name, &text);
        let mut child = hansa(&["serve", "--config", config.to_str().unwrap()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let bound: Value = serde_json::from_str(&line).unwrap();
        let admin = bound["admin"].as_str().unwrap().to_owned();
        let server = Self { child, admin, key };
        let body = r#"{"model":"sim","prompt":[1,2,3],"max_tokens":5}"#;
        while !server
            .ask(bound["listen"].as_str().unwrap(), body)
            .starts_with("HTTP/1.1 200")
        {
            std::thread::yield_now();
        }
        // The answer may be here a moment before its record.
        while !server.run(&["reservations"]).is_empty() {}
        server
    }

    fn ask(&self, address: &str, body: &str) -> String {
        let (key, length) = (self.key.reveal(), body.len());
        let request = format!(
            "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-request-id: first\r\n\
             authorization: Bearer {key}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn command(&self, args: &[&str]) -> Output {
        let mut command = hansa(&[args, &["--admin", &self.admin]].concat());
        command
            .env("HANSA_ADMIN_KEY", self.key.reveal())
            .output()
            .unwrap()
    }

    fn run(&self, args: &[&str]) -> String {
        let output = self.command(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn operators_manage_a_running_server_by_commands() {
    let server = Managed::start();
    let tenant = file("lab.json", &json!({"countries": ["FI"]}).to_string());
    let made = server.run(&["tenants", "set", "lab", "--file", tenant.to_str().unwrap()]);
    assert!(made.contains("\"countries\":[\"FI\"]"), "{made}");
    assert_eq!(server.run(&["tenants", "list"]).lines().count(), 3);
    let allocation = [
        "allocations",
        "set",
        "lab-2026",
        "--tenant",
        "lab",
        "--amount",
        "5",
    ];
    let made = server.run(
        &[
            &allocation[..],
            &["--currency", "money", "--end", "2027-01-01"],
        ]
        .concat(),
    );
    assert!(
        made.contains("5000000") && made.contains("1798761600"),
        "{made}"
    );
    let listed = server.run(&["allocations", "list"]);
    assert_eq!(listed, "lab-2026  lab at any site  5 left of 5 money\n");
    server.run(&["allocations", "remove", "lab-2026"]);
    server.run(&["tenants", "remove", "lab"]);
    let gone = server.command(&["tenants", "remove", "lab"]);
    assert_eq!(gone.status.code(), Some(70), "{gone:?}");
    let decisions = server.run(&["decisions", "first"]);
    assert!(decisions.contains("\"decisions\""), "{decisions}");
    let report = server.run(&["usage", "report", "--from", "2020-01-01"]);
    assert_eq!(
        report,
        "uni/a  local  sim  1 requests  3 + 5 tokens  0 money\n"
    );
    assert_eq!(server.run(&["usage", "report", "--to", "2020-01-01"]), "");
    let forgotten = server.run(&["usage", "forget", "first"]);
    assert_eq!(forgotten, "first  forgotten in 1 records\n");
}

#[test]
fn usage_is_exported_in_every_form() {
    let server = Managed::start();
    let folder = tempfile::tempdir().unwrap();
    let export = |format: &str, name: &str| {
        let out = folder.path().join(name);
        server.run(&[
            "usage",
            "export",
            "--format",
            format,
            "--out",
            out.to_str().unwrap(),
        ]);
        fs::read(&out).unwrap()
    };
    let csv = String::from_utf8(export("csv", "usage.csv")).unwrap();
    assert_eq!(csv.lines().count(), 2, "{csv}");
    assert!(
        csv.contains(",first,uni,uni/a,ops,sim,local,,3,0,5,"),
        "{csv}"
    );
    let parquet = bytes::Bytes::from(export("parquet", "usage.parquet"));
    let read = SerializedFileReader::new(parquet).unwrap();
    let row = read.get_row_iter(None).unwrap().next().unwrap().unwrap();
    let tokens = (row.get_ulong(8).unwrap(), row.get_ulong(10).unwrap());
    assert_eq!(
        (tokens, row.get_string(1).unwrap().as_str()),
        ((3, 5), "first")
    );
    // Usage that nobody in Waldur would own is named, and no half file is left.
    let waldur = ["usage", "export", "--format", "waldur"];
    let refused = server.command(&waldur);
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(64), "{told}");
    assert!(told.contains("--resource uni/a@local=UUID"), "{told}");
    let resource = "uni/a@local=00000000-0000-0000-0000-000000000005";
    let body = server.run(&[&waldur[..], &["--resource", resource]].concat());
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["resource"], "00000000-0000-0000-0000-000000000005");
    assert_eq!(body["usages"][1]["type"], "prompt_tokens");
    assert_eq!(body["usages"][1]["amount"], "3");
    let names = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(
        names.iter().map(Path::new).collect::<Vec<_>>(),
        [Path::new("usage.csv"), Path::new("usage.parquet")]
    );
}
