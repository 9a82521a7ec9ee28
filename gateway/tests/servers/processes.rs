//! Several gateway processes that share one PostgreSQL, under HTTP load: killed, paused, cut off.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::harness::{PATIENCE, exchange, spawn};
use crate::members::{Members, SIMULATED, TOKENS};
use crate::process::Process;
use crate::quota::request;

/// Budgets that are raced for in the test command; `scripts/soak` sets more.
const BUDGETS: u32 = 2;
/// Kills in the test command; `scripts/soak` sets more.
const KILLS: u64 = 4;
/// Kills that one store lives through: all of it is looked at after each.
const KILLS_OF_A_STORE: u64 = 25;

fn sample(variable: &str, few: u64) -> u64 {
    let full = std::env::var(variable);
    full.map_or(few, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_parallel_requests_at_three_gateways_get_a_budget_for_ten_exactly() {
    let mut members = Members::start(3, 6_000, SIMULATED).await;
    let (runs, mut late) = (sample("HANSA_SOAK_BUDGETS", BUDGETS.into()), 0);
    for run in 0..runs {
        let id = format!("budget-{run}-of-many");
        members.grant(&id, 10 * TOKENS).await;
        let asked = (0..1_000).map(|n| members.ask(members.processes[n % 3].clients));
        let mut statuses: BTreeMap<u16, u64> = BTreeMap::new();
        for answer in join_all(asked).await {
            let is_told_why = match answer.status {
                429 => answer.code() == "insufficient_quota",
                // Where the machine is so late that the store did not answer in time: nothing is decided.
                503 => answer.header("x-should-retry") == Some("true"),
                status => status == 200,
            };
            assert!(is_told_why, "{answer:?}");
            *statuses.entry(answer.status).or_default() += 1;
        }
        let admitted = statuses.get(&200).copied().unwrap_or(0);
        assert!(admitted <= 10, "run {run}: {statuses:?}");
        if admitted < 10 {
            // Too few may be let in while answers are late. What is left is there for whoever asks next.
            late += 1;
            eprintln!("run {run} on a late machine: {statuses:?}");
            spend_the_rest(&members, 10 - admitted).await;
        }
        let beyond = members.ask(members.processes[0].clients).await;
        assert_eq!(beyond.status, 429, "run {run}: {beyond:?}");
        members.revoke(&id).await;
        members.audit(10 * TOKENS);
    }
    eprintln!("{} of {runs} runs admitted ten at once", runs - late);
    members.stop();
    let left = members.store.query("SELECT count(*) FROM hansa.gateway");
    assert_eq!(left, "0", "all said goodbye");
}

/// Asks one after the other until so many were let in.
async fn spend_the_rest(members: &Members, mut left: u64) {
    let spending = async {
        while left > 0 {
            let answer = members.ask(members.processes[1].clients).await;
            assert!([200, 429, 503].contains(&answer.status), "{answer:?}");
            left -= u64::from(answer.status == 200);
        }
    };
    timeout(PATIENCE, spending).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_that_are_killed_under_load_lose_nothing_that_was_settled() {
    let kills = sample("HANSA_SOAK_GATEWAY_KILLS", KILLS);
    let mut done = 0;
    while done < kills {
        let next = kills.min(done + KILLS_OF_A_STORE);
        kill_under_load(done..next).await;
        done = next;
        eprintln!("{done} kills");
    }
}

/// Kills of gateways that share one store.
async fn kill_under_load(kills: Range<u64>) {
    const AMOUNT: u64 = 100_000_000;
    let mut members = Members::start(3, 6_000, SIMULATED).await;
    members.grant("tokens", AMOUNT).await;
    members
        .store
        .query("CREATE TABLE seen AS SELECT charge FROM hansa.record");
    let (count, mut served) = (kills.end - kills.start, 0);
    for kill in kills {
        served += loaded(&members, |members| {
            let victim = (kill % 3) as usize;
            // A different moment each time.
            let after = Duration::from_millis(50 + kill * 37 % 300);
            async move {
                sleep(after).await;
                members.processes[victim].signal("-KILL");
                sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
        // What was settled once is there after every kill.
        let lost = "SELECT count(*) FROM seen s WHERE NOT EXISTS \
                    (SELECT FROM hansa.record r WHERE r.charge = s.charge)";
        assert_eq!(members.store.query(lost), "0", "after kill {kill}");
        members
            .store
            .query("TRUNCATE seen; INSERT INTO seen SELECT charge FROM hansa.record");
        members.audit(AMOUNT);
        let again = members.process().await;
        members.processes[(kill % 3) as usize] = again;
    }
    assert!(served > 10 * count, "{served}");
    // A kill forgets what its gateway had not settled yet: a few answers of each of its clients.
    let records = members.store.query("SELECT count(*) FROM hansa.record");
    let forgotten = served.saturating_sub(records.parse().unwrap());
    assert!(
        forgotten <= count * 8 * CLIENTS as u64,
        "{records} of {served}"
    );
    // What the dead had on lease comes back, and nothing else.
    members
        .until("SELECT count(*) FROM hansa.gateway", "3")
        .await;
    members.stop();
    assert_eq!(
        members.store.query("SELECT sum(leased) FROM hansa.pool"),
        "0"
    );
    members.audit(AMOUNT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pauses_of_gateways_and_of_the_store_cost_no_token_beyond_the_budget() {
    let mut members = Members::start(2, 3_000, SIMULATED).await;
    let amount = 3_000 * TOKENS;
    members.grant("tokens", amount).await;
    let pause = Duration::from_secs(sample("HANSA_SOAK_PAUSE_S", 4));
    // Longer than a lease holds: the one that was paused must not go on with what it had.
    loaded(&members, |members| async move {
        members.processes[0].signal("-STOP");
        sleep(pause).await;
        members.processes[0].signal("-CONT");
        sleep(Duration::from_millis(300)).await;
    })
    .await;
    loaded(&members, |members| async move {
        members.store.pause();
        sleep(pause).await;
        members.store.resume();
        sleep(Duration::from_millis(300)).await;
    })
    .await;
    let served = async {
        for process in &members.processes {
            // By then all of the budget may be spent.
            while ![200, 429].contains(&members.ask(process.clients).await.status) {
                sleep(Duration::from_millis(50)).await;
            }
        }
    };
    timeout(PATIENCE, served).await.unwrap();
    members.stop();
    let cells = members
        .store
        .query("SELECT posted, excess, leased FROM hansa.pool WHERE kind = 'allocation'");
    let cells: Vec<u64> = cells.split('|').map(|cell| cell.parse().unwrap()).collect();
    // Beyond the budget is at most what ran on a gateway that was paused or cut off, each of its requests once.
    assert!(cells[0] <= amount + cells[1], "{cells:?}");
    assert!(cells[1] <= 2 * CLIENTS as u64 * TOKENS, "{cells:?}");
    assert_eq!(cells[2], 0);
}

/// Time within which all gateways know what an operator has set at one of them.
const EVERYWHERE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_made_or_revoked_at_one_gateway_is_so_at_the_others_in_two_seconds() {
    let mut members = Members::start(3, 6_000, SIMULATED).await;
    for round in 0..3 {
        let [here, others @ ..] = members.processes.as_slice() else {
            unreachable!("three were started")
        };
        let id = format!("key-{round}");
        let asked = json!({"id": id, "tenant": "acme"}).to_string();
        let made = here.call("POST", "/admin/v1/keys", &members.key, &asked);
        let made = made.await.json()["key"].as_str().unwrap().to_owned();
        let asks = request("GET", "/v1/models", &made, "");
        let until = async |status: u16| {
            let seen = others.iter().map(async |other| {
                while exchange(other.clients, &asks).await.status != status {
                    sleep(Duration::from_millis(20)).await;
                }
            });
            timeout(EVERYWHERE, join_all(seen)).await.unwrap();
            assert_eq!(exchange(here.clients, &asks).await.status, status);
        };
        until(200).await;
        let revoke = format!("/admin/v1/keys/{id}/revoke");
        let revoke = here.call("POST", &revoke, &members.key, "{}").await;
        assert_eq!(revoke.status, 200, "{revoke:?}");
        until(401).await;
        // The next one is made and revoked at another gateway.
        members.processes.rotate_left(1);
    }
    members.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_see_what_is_on_lease_where() {
    let mut members = Members::start(2, 6_000, SIMULATED).await;
    members.grant("tokens", 1_000_000).await;
    assert_eq!(members.ask(members.processes[0].clients).await.status, 200);
    let listed = async |process: &Process| {
        let answer = process.get("/admin/v1/leases", &members.key).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["data"].as_array().unwrap().clone()
    };
    // What one spends from is on lease there for some rounds.
    let (own, others) = loop {
        assert_eq!(members.ask(members.processes[0].clients).await.status, 200);
        let own = listed(&members.processes[0]).await;
        let others = listed(&members.processes[1]).await;
        if !own.is_empty() && !others.is_empty() {
            break (own[0].clone(), others[0].clone());
        }
    };
    for (lease, here) in [(&own, true), (&others, false)] {
        assert_eq!(lease["here"], here, "{lease}");
        assert_eq!(
            (&lease["kind"], &lease["name"]),
            (&json!("allocation"), &json!("tokens"))
        );
        assert!(lease["amount"].as_u64().unwrap() > 0, "{lease}");
        assert_eq!(lease["ttl_ms"], 6_000, "{lease}");
    }
    assert_eq!(own["gateway"], others["gateway"]);
    members.stop();
}

/// Clients of one gateway.
const CLIENTS: usize = 4;

/// Runs `meanwhile` while clients ask every gateway; gives how many requests were served.
async fn loaded<'a, F: Future<Output = ()>>(
    members: &'a Members,
    meanwhile: impl FnOnce(&'a Members) -> F,
) -> u64 {
    let (stop, served) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let clients = members.processes.iter().flat_map(|process| {
        let (stop, served, clients) = (Arc::clone(&stop), Arc::clone(&served), process.clients);
        (0..CLIENTS).map(move |_| {
            client(
                clients,
                members.key.reveal().to_owned(),
                Arc::clone(&stop),
                Arc::clone(&served),
            )
        })
    });
    let clients: Vec<_> = clients.map(spawn).collect();
    meanwhile(members).await;
    stop.store(true, Ordering::Relaxed);
    join_all(clients).await;
    served.load(Ordering::Relaxed)
}

async fn client(address: SocketAddr, key: String, stop: Arc<AtomicBool>, served: Arc<AtomicU64>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let body = json!({"model": "sim", "prompt": [1, 2, 3], "max_tokens": 7}).to_string();
    let request = request("POST", "/v1/completions", &key, &body);
    while !stop.load(Ordering::Relaxed) {
        let asking = async {
            let mut stream = tokio::net::TcpStream::connect(address).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        // A gateway that is dead or paused answers nobody.
        match timeout(Duration::from_secs(1), asking).await {
            Ok(Ok(answer)) if answer.starts_with(b"HTTP/1.1 200") => {
                served.fetch_add(1, Ordering::Relaxed);
            }
            _ => sleep(Duration::from_millis(10)).await,
        }
    }
}
