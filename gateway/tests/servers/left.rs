//! What a gateway left open that is gone: settled by those that share its store, exactly once, even where it comes back.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::exact::{begin_with, made, slow_node, until_content};
use crate::harness::{PATIENCE, Server, file};
use crate::members::Members;

/// Two gateways before a node that takes its time, with more than enough to spend.
async fn world() -> (Server, Members) {
    let mut slow = slow_node();
    slow.models[0].sim.step_base_us = 20_000;
    let node = Server::start(slow).await;
    let secret = file("the-peers", "the-secret-of-all-peers");
    let serving = format!(
        "[peer]\nsecret_file = \"{}\"\n[[node]]\nname = \"node\"\nurl = \"http://{}\"\nmodels = [\"sim\"]\n",
        secret.display(),
        node.clients
    );
    let members = Members::start(2, 3_000, &serving).await;
    members.grant("tokens", AMOUNT).await;
    (node, members)
}

const AMOUNT: u64 = 1_000_000;

const POSTED: &str = "SELECT posted, excess FROM hansa.pool WHERE kind = 'allocation'";
const RECORDS: &str =
    "SELECT body->>'outcome', body->>'site', part_of IS NOT NULL FROM hansa.record";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_gateway_left_open_is_charged_by_those_that_go_on_once() {
    let (node, mut members) = world().await;
    let killed = members.processes.remove(0);
    let mut lines = begin_with(killed.clients, &members.key, "", 4_000).await;
    until_content(&mut lines).await;
    killed.kill();
    node.wait_for_metric(r#"hansa_engine_running{model="sim"} 0"#)
        .await;
    // A prompt of 3 tokens.
    let owed = made(&node).await + 3;
    members.until(POSTED, &format!("{owed}|0")).await;
    assert_eq!(members.store.query(RECORDS), "aborted|local|t");
    // Its next life finds nothing that is not paid.
    let next = members.process().await;
    members.processes.push(next);
    sleep(Duration::from_secs(1)).await;
    members.audit(AMOUNT);
    members.stop();
    assert_eq!(members.store.query(POSTED), format!("{owed}|0"));
    assert_eq!(
        members.store.query("SELECT sum(leased) FROM hansa.pool"),
        "0"
    );
    // Those that said goodbye are not waited for.
    members
        .until("SELECT count(*) FROM hansa.run WHERE ended_ms IS NULL", "0")
        .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_taken_for_dead_and_comes_back_charges_nothing_again() {
    let (node, mut members) = world().await;
    let paused = members.processes.remove(0);
    let mut lines = begin_with(paused.clients, &members.key, "", 100).await;
    until_content(&mut lines).await;
    paused.signal("-STOP");
    // The node goes on to the end, and the other gateway hears of it there.
    members.until(POSTED, "103|0").await;
    assert_eq!(members.store.query(RECORDS), "aborted|local|t");
    paused.signal("-CONT");
    let whole = async { while lines.next_line().await.unwrap().is_some() {} };
    timeout(PATIENCE, whole).await.unwrap();
    // Whatever it settles itself comes before what it lets in now, under a new lease.
    let served = async { while members.ask(paused.clients).await.status != 200 {} };
    timeout(PATIENCE, served).await.unwrap();
    members
        .until("SELECT count(*) FROM hansa.record", "2")
        .await;
    assert_eq!(members.store.query(POSTED), "113|0");
    members.audit(AMOUNT);
    members.processes.push(paused);
    members.stop();
    assert_eq!(members.store.query(POSTED), "113|0");
    assert_eq!(
        members.store.query("SELECT sum(leased) FROM hansa.pool"),
        "0"
    );
    node.stop().await;
}
