//! The binary itself: its arguments, its one line on stdout, its exit codes, and its way out on SIGTERM.
#![cfg(all(feature = "engine", unix))]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod agent;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

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
