//! Kills a whole server under load at random points, starts it again, and looks at what its ledger says.
#![cfg(all(feature = "engine", unix))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use hansa_gateway::tenant::secret::Secret;
use serde_json::Value;

/// Kills in the test command; `scripts/soak` sets more.
const KILLS: u64 = 4;

/// Clients at once.
const CLIENTS: usize = 4;

const GRANTED: u64 = 1_000_000_000;

struct Server {
    child: Child,
    clients: SocketAddr,
    operators: SocketAddr,
}

impl Server {
    fn start(config: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hansa"))
            .args(["serve", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let bound: Value = serde_json::from_str(&line).unwrap();
        let address = |name: &str| bound[name].as_str().unwrap().parse().unwrap();
        Self {
            child,
            clients: address("listen"),
            operators: address("admin"),
        }
    }

    /// What the ledger has on its disk now: tokens by charge.
    fn settled(&self, key: &Secret) -> BTreeMap<String, u64> {
        let mut found = BTreeMap::new();
        let mut after = String::new();
        loop {
            let path = format!("/admin/v1/records?{after}");
            let page = ask(self.operators, "GET", &path, key, "").unwrap();
            let page: Value = serde_json::from_str(&page).unwrap();
            for record in page["data"].as_array().unwrap() {
                let charge = record["charge"].as_str().unwrap().to_owned();
                let tokens = record["amounts"]["tokens"].as_u64().unwrap();
                assert_eq!(
                    found.insert(charge, tokens),
                    None,
                    "a charge is there twice"
                );
            }
            match page["next"].as_str() {
                Some(next) => after = format!("after={next}"),
                None => return found,
            }
        }
    }

    fn posted(&self, key: &Secret) -> u64 {
        let all = ask(self.operators, "GET", "/admin/v1/allocations", key, "").unwrap();
        let all: Value = serde_json::from_str(&all).unwrap();
        let one = &all["data"][0];
        assert_eq!(one["reserved"], 0);
        let posted = one["posted"].as_u64().unwrap();
        assert_eq!(one["left"].as_u64(), Some(GRANTED - posted));
        posted
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// One request; the body of its answer, where there is a whole one.
fn ask(to: SocketAddr, method: &str, path: &str, key: &Secret, body: &str) -> Option<String> {
    let (key, length) = (key.reveal(), body.len());
    let mut stream = TcpStream::connect(to).ok()?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}

/// Asks as fast as it is answered until the server is gone, and counts the answers.
fn load(to: SocketAddr, key: &Secret, answers: &AtomicU64, over: &AtomicBool) {
    const BODY: &str = r#"{"model":"sim","prompt":[1,2,3],"max_tokens":5}"#;
    while !over.load(Ordering::Acquire) {
        if ask(to, "POST", "/v1/completions", key, BODY).is_some() {
            answers.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// Runs a server under load, kills it somewhere, and gives what was settled some time before.
fn round(config: &Path, key: &Secret, after: u64) -> BTreeMap<String, u64> {
    let server = Server::start(config);
    let (answers, over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let (to, answers, over) = (server.clients, &answers, &over);
            scope.spawn(move || load(to, key, answers, over));
        }
        while answers.load(Ordering::Acquire) < after {
            thread::yield_now();
        }
        let settled = server.settled(key);
        // The load goes on meanwhile: the kill comes at any point of it.
        while answers.load(Ordering::Acquire) < after + after % 7 {
            thread::yield_now();
        }
        server.kill();
        over.store(true, Ordering::Release);
        settled
    })
}

#[test]
fn a_server_that_is_killed_under_load_loses_and_doubles_nothing_that_was_settled() {
    let kills = std::env::var("HANSA_SOAK_KILLS");
    let kills = kills.map_or(KILLS, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let (key, config) = (Secret::new(), folder.path().join("hansa.toml"));
    let ledger = folder.path().join("ledger.redb");
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [quota]\nledger = {ledger:?}\n\
         [[model]]\nid = \"sim\"\nrunner = \"sim\"\n[model.sim]\nstep_base_us = 100\n\
         [[tenant]]\nid = \"acme\"\n[[key]]\nid = \"k\"\ntenant = \"acme\"\nrole = \"operator\"\n\
         sha256 = \"{}\"\n[[allocation]]\nid = \"a\"\ntenant = \"acme\"\namount = {GRANTED}\n",
        key.digest()
    );
    std::fs::write(&config, text).unwrap();
    let mut kept = BTreeMap::new();
    for number in 0..kills {
        // A different point each time.
        let settled = round(&config, &key, 1 + (number * 37) % 101);
        assert!(
            kept.iter().all(|one| settled.get(one.0) == Some(one.1)),
            "kill {number}"
        );
        let server = Server::start(&config);
        kept = server.settled(&key);
        let lost: Vec<_> = settled
            .iter()
            .filter(|one| kept.get(one.0) != Some(one.1))
            .collect();
        assert!(lost.is_empty(), "kill {number} lost {lost:?}");
        assert_eq!(
            server.posted(&key),
            kept.values().sum::<u64>(),
            "kill {number}"
        );
        server.kill();
    }
    assert!(!kept.is_empty());
}
