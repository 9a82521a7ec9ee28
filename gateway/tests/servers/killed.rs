//! Kills a whole server under load at random points, starts it again, and looks at what its ledger says.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use hansa_gateway::tenant::secret::Secret;
use serde_json::Value;

use crate::process::Process;
use crate::quota::request;

/// Kills in the test command; `scripts/soak` sets more.
const KILLS: u64 = 4;

/// Clients at once.
const CLIENTS: usize = 4;

const GRANTED: u64 = 1_000_000_000;

/// What the ledger has on its disk now: tokens by charge.
fn settled(server: &Process, key: &Secret) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let mut after = String::new();
    loop {
        let path = format!("/admin/v1/records?{after}");
        let page = ask(server.operators, "GET", &path, key, "").unwrap();
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

fn posted(server: &Process, key: &Secret) -> u64 {
    let all = ask(server.operators, "GET", "/admin/v1/allocations", key, "").unwrap();
    let all: Value = serde_json::from_str(&all).unwrap();
    let one = &all["data"][0];
    assert_eq!(one["reserved"], 0);
    let posted = one["posted"].as_u64().unwrap();
    assert_eq!(one["left"].as_u64(), Some(GRANTED - posted));
    posted
}

/// One request; the body of its answer, where there is a whole one.
fn ask(to: SocketAddr, method: &str, path: &str, key: &Secret, body: &str) -> Option<String> {
    let mut stream = TcpStream::connect(to).ok()?;
    let request = request(method, path, key.reveal(), body);
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
    let server = Process::start(config);
    let (answers, over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let (to, answers, over) = (server.clients, &answers, &over);
            scope.spawn(move || load(to, key, answers, over));
        }
        while answers.load(Ordering::Acquire) < after {
            thread::yield_now();
        }
        let before = settled(&server, key);
        // The load goes on meanwhile: the kill comes at any point of it.
        while answers.load(Ordering::Acquire) < after + after % 7 {
            thread::yield_now();
        }
        server.kill();
        over.store(true, Ordering::Release);
        before
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
        let before = round(&config, &key, 1 + (number * 37) % 101);
        assert!(
            kept.iter().all(|one| before.get(one.0) == Some(one.1)),
            "kill {number}"
        );
        let server = Process::start(&config);
        kept = settled(&server, &key);
        let lost: Vec<_> = before
            .iter()
            .filter(|one| kept.get(one.0) != Some(one.1))
            .collect();
        assert!(lost.is_empty(), "kill {number} lost {lost:?}");
        assert_eq!(
            posted(&server, &key),
            kept.values().sum::<u64>(),
            "kill {number}"
        );
        server.kill();
    }
    assert!(!kept.is_empty());
}
