//! Kills a whole server under load at random points, starts it again, and looks at what its ledger says.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use hansa_gateway::tenant::secret::Secret;
use serde_json::Value;

use crate::process::Process;
use crate::quota::request;

/// Kills in the test command; `scripts/soak` sets more.
const KILLS: u64 = 4;

/// Kills that one ledger lives through: all of it is read after each.
const KILLS_OF_A_LEDGER: u64 = 20;

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

/// Puts a server under load, kills it somewhere, and gives what was settled some time before.
fn load_and_kill(server: Process, key: &Secret, after: u64) -> BTreeMap<String, u64> {
    let (answers, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let until = |count: u64| {
        while answers.load(Ordering::Acquire) < count {
            thread::sleep(Duration::from_millis(1));
        }
    };
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let (to, answers, over) = (server.clients, &answers, &over);
            scope.spawn(move || load(to, key, answers, over));
        }
        until(after);
        let before = settled(&server, key);
        // The load goes on meanwhile: the kill comes at any point of it.
        until(after + after % 7);
        server.kill();
        over.store(true, Ordering::Release);
        before
    })
}

/// What a server with this ledger and one key is.
fn config(ledger: &Path, key: &Secret) -> String {
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [quota]\nledger = {ledger:?}\n\
         [[model]]\nid = \"sim\"\nrunner = \"sim\"\n[model.sim]\nstep_base_us = 100\n\
         [[tenant]]\nid = \"acme\"\n[[key]]\nid = \"k\"\ntenant = \"acme\"\nrole = \"operator\"\n\
         sha256 = \"{}\"\n[[allocation]]\nid = \"a\"\ntenant = \"acme\"\namount = {GRANTED}\n",
        key.digest()
    )
}

/// Lives of one ledger, each ended by a kill with this number; the next life looks at what is left of the one before.
fn lives(kills: Range<u64>) {
    let folder = tempfile::tempdir().unwrap();
    let (key, path) = (Secret::new(), folder.path().join("hansa.toml"));
    let text = config(&folder.path().join("ledger.redb"), &key);
    std::fs::write(&path, text).unwrap();
    let (mut server, mut kept) = (Process::start(&path), BTreeMap::new());
    for number in kills {
        // A different point each time.
        let before = load_and_kill(server, &key, 1 + (number * 37) % 101);
        let stayed = |one: (&String, &u64)| before.get(one.0) == Some(one.1);
        assert!(kept.iter().all(stayed), "kill {number}");
        server = Process::start(&path);
        kept = settled(&server, &key);
        let mut lost = before.iter().filter(|one| kept.get(one.0) != Some(one.1));
        assert_eq!(lost.next(), None, "kill {number} lost it");
        let spent: u64 = kept.values().sum();
        assert_eq!(posted(&server, &key), spent, "kill {number}");
    }
    assert!(!kept.is_empty());
}

/// The status of an answer with no body worth reading.
fn status(to: SocketAddr, key: &str) -> Option<String> {
    let mut stream = TcpStream::connect(to).ok()?;
    let asks = request("GET", "/v1/models", key, "");
    stream.write_all(asks.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1).map(str::to_owned)
}

#[test]
fn a_key_that_was_revoked_is_so_from_the_answer_on_whatever_happens_then() {
    let folder = tempfile::tempdir().unwrap();
    let (key, path) = (Secret::new(), folder.path().join("hansa.toml"));
    let text = config(&folder.path().join("ledger.redb"), &key);
    std::fs::write(&path, text).unwrap();
    let mut server = Process::start(&path);
    for id in ["one", "two"] {
        let admin = |path: &str, body: &str| ask(server.operators, "POST", path, &key, body);
        let asked = format!(r#"{{"id":"{id}","tenant":"acme"}}"#);
        let made: Value = serde_json::from_str(&admin("/admin/v1/keys", &asked).unwrap()).unwrap();
        let made = made["key"].as_str().unwrap();
        assert_eq!(status(server.clients, made).unwrap(), "200");
        let revoke = format!("/admin/v1/keys/{id}/revoke");
        assert!(admin(&revoke, "{}").is_some());
        assert_eq!(status(server.clients, made).unwrap(), "401");
        // A kill right after the answer does not bring it back.
        server.kill();
        server = Process::start(&path);
        assert_eq!(status(server.clients, made).unwrap(), "401");
    }
}

#[test]
fn a_server_that_is_killed_under_load_loses_and_doubles_nothing_that_was_settled() {
    let kills = std::env::var("HANSA_SOAK_KILLS");
    let kills = kills.map_or(KILLS, |text| text.parse().unwrap());
    let mut done = 0;
    while done < kills {
        let next = kills.min(done + KILLS_OF_A_LEDGER);
        lives(done..next);
        done = next;
        eprintln!("{done} kills");
    }
}
