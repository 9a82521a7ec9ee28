//! Several gateway processes that share one PostgreSQL, under HTTP load: killed, paused, cut off.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use hansa_gateway::tenant::secret::Secret;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::harness::{Answer, PATIENCE, exchange, file, spawn};
use crate::postgres::Postgres;

/// Budgets that are raced for in the test command; `scripts/soak` sets more.
const BUDGETS: u32 = 2;
/// Kills in the test command; `scripts/soak` sets more.
const KILLS: u64 = 4;
/// A prompt of 3 tokens and an answer of 7.
const TOKENS: u64 = 10;

/// Gateways with one config.
struct Members {
    store: Postgres,
    key: Secret,
    config: String,
    processes: Vec<Process>,
}

struct Process {
    child: Child,
    clients: SocketAddr,
    operators: SocketAddr,
}

impl Members {
    async fn start(count: usize, ttl_ms: u32) -> Self {
        let (store, key) = (Postgres::start(), Secret::new());
        let url = store.url_file();
        let config = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [quota]\nstore = \"{}\"\nlease_ttl_ms = {ttl_ms}\n\
             [[model]]\nid = \"sim\"\nrunner = \"sim\"\n\
             [[tenant]]\nid = \"acme\"\n\
             [[key]]\nid = \"k\"\ntenant = \"acme\"\nrole = \"operator\"\nsha256 = \"{}\"\n",
            url.display(),
            key.digest()
        );
        let mut members = Self {
            store,
            key,
            config,
            processes: Vec::new(),
        };
        for _ in 0..count {
            let process = members.process().await;
            members.processes.push(process);
        }
        members
    }

    async fn process(&self) -> Process {
        let config = file(
            &format!("member-{:?}", std::thread::current().id()),
            &self.config,
        );
        let mut child = Command::new(env!("CARGO_BIN_EXE_hansa"))
            .args(["serve", "--config"])
            .arg(config)
            .env("HANSA_LOG", "warn")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let addresses: Value = serde_json::from_str(&line).unwrap();
        let address = |name: &str| addresses[name].as_str().unwrap().parse().unwrap();
        let process = Process {
            child,
            clients: address("listen"),
            operators: address("admin"),
        };
        let ready = async {
            while self
                .call(process.operators, "GET", "/health/ready", "")
                .await
                .status
                != 200
            {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, ready).await.unwrap();
        process
    }

    async fn call(&self, address: SocketAddr, method: &str, path: &str, body: &str) -> Answer {
        let (length, key) = (body.len(), self.key.reveal());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        exchange(address, &request).await
    }

    /// Asks for what is charged with [`TOKENS`].
    async fn ask(&self, address: SocketAddr) -> Answer {
        let body = json!({"model": "sim", "prompt": [1, 2, 3], "max_tokens": 7}).to_string();
        self.call(address, "POST", "/v1/completions", &body).await
    }

    /// Gives the tenant this allocation, at the first gateway, and waits until all know it.
    async fn grant(&self, id: &str, amount: u64) {
        let body = json!({"tenant": "acme", "currency": "tokens", "amount": amount}).to_string();
        let first = self.processes[0].operators;
        let made = self
            .call(first, "PUT", &format!("/admin/v1/allocations/{id}"), &body)
            .await;
        assert_eq!(made.status, 200, "{made:?}");
        self.until_all(|usage| usage.contains(id)).await;
    }

    async fn revoke(&self, id: &str) {
        let first = self.processes[0].operators;
        self.call(first, "DELETE", &format!("/admin/v1/allocations/{id}"), "")
            .await;
        self.until_all(|usage| !usage.contains(id)).await;
    }

    async fn until_all(&self, good: impl Fn(&str) -> bool) {
        for process in &self.processes {
            let seen = async {
                while !good(
                    &self
                        .call(process.clients, "GET", "/v1/usage", "")
                        .await
                        .body,
                ) {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(PATIENCE, seen).await.unwrap();
        }
    }

    /// Ends every process in order.
    fn stop(&mut self) {
        for process in &mut self.processes {
            let pid = process.child.id().to_string();
            Command::new("kill").args(["-TERM", &pid]).status().unwrap();
            assert!(process.child.wait().unwrap().success());
        }
    }

    /// Every promise that the store's own tables can show.
    fn audit(&self, amount: u64) {
        let doubled = "SELECT count(*) - count(DISTINCT charge) FROM hansa.record";
        assert_eq!(self.store.query(doubled), "0");
        let sums = "SELECT p.name, p.posted, p.excess, COALESCE(r.posted, 0) FROM hansa.pool p LEFT JOIN \
                    (SELECT d->>'allocation' AS name, sum((d->>'posted')::int8) AS posted \
                    FROM hansa.record, json_array_elements(body->'drawn') d GROUP BY 1) r USING (name) \
                    WHERE p.kind = 'allocation'";
        for row in self.store.query(sums).lines() {
            let cells: Vec<&str> = row.split('|').collect();
            assert_eq!(cells[1], cells[3], "sums and records differ: {row}");
            assert_eq!(cells[2], "0", "there is an excess: {row}");
        }
        let committed = self
            .store
            .query("SELECT max(posted + leased) FROM hansa.pool WHERE kind = 'allocation'");
        assert!(
            committed.parse::<u64>().unwrap() <= amount,
            "{committed} of {amount}"
        );
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sample(variable: &str, few: u64) -> u64 {
    let full = std::env::var(variable);
    full.map_or(few, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_parallel_requests_at_three_gateways_get_a_budget_for_ten_exactly() {
    let mut members = Members::start(3, 6_000).await;
    for run in 0..sample("HANSA_SOAK_BUDGETS", BUDGETS.into()) {
        let id = format!("budget-{run}-of-many");
        members.grant(&id, 10 * TOKENS).await;
        let asked = (0..1_000).map(|n| members.ask(members.processes[n % 3].clients));
        let mut statuses: BTreeMap<u16, u32> = BTreeMap::new();
        for answer in join_all(asked).await {
            let exhausted = answer.status != 429 || answer.code() == "insufficient_quota";
            assert!(exhausted, "{answer:?}");
            *statuses.entry(answer.status).or_default() += 1;
        }
        assert_eq!(statuses, [(200, 10), (429, 990)].into(), "run {run}");
        members.revoke(&id).await;
        members.audit(10 * TOKENS);
    }
    members.stop();
    let left = members.store.query("SELECT count(*) FROM hansa.gateway");
    assert_eq!(left, "0", "all said goodbye");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_that_are_killed_under_load_lose_nothing_that_was_settled() {
    const AMOUNT: u64 = 100_000_000;
    let mut members = Members::start(3, 6_000).await;
    members.grant("tokens", AMOUNT).await;
    members
        .store
        .query("CREATE TABLE seen AS SELECT charge FROM hansa.record");
    let (kills, mut served) = (sample("HANSA_SOAK_GATEWAY_KILLS", KILLS), 0);
    for kill in 0..kills {
        served += loaded(&members, |members| {
            let victim = (kill % 3) as usize;
            // A different moment each time.
            let after = Duration::from_millis(50 + kill * 37 % 300);
            let pid = members.processes[victim].child.id().to_string();
            async move {
                sleep(after).await;
                Command::new("kill").args(["-KILL", &pid]).status().unwrap();
                sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
        // What was settled once is there after every kill.
        let lost =
            "SELECT count(*) FROM seen WHERE charge NOT IN (SELECT charge FROM hansa.record)";
        assert_eq!(members.store.query(lost), "0", "after kill {kill}");
        members
            .store
            .query("TRUNCATE seen; INSERT INTO seen SELECT charge FROM hansa.record");
        members.audit(AMOUNT);
        let again = members.process().await;
        members.processes[(kill % 3) as usize] = again;
    }
    assert!(served > 10 * kills, "{served}");
    // A kill forgets what its gateway had not settled yet: a few answers of each of its clients.
    let records: u64 = members
        .store
        .query("SELECT count(*) FROM hansa.record")
        .parse()
        .unwrap();
    let forgotten = served.saturating_sub(records);
    assert!(
        forgotten <= kills * 8 * CLIENTS as u64,
        "{records} of {served}"
    );
    // What the dead had on lease comes back, and nothing else.
    let back = async {
        while members.store.query("SELECT count(*) FROM hansa.gateway") != "3" {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, back).await.unwrap();
    members.stop();
    assert_eq!(
        members.store.query("SELECT sum(leased) FROM hansa.pool"),
        "0"
    );
    members.audit(AMOUNT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pauses_of_gateways_and_of_the_store_cost_no_token_beyond_the_budget() {
    let mut members = Members::start(2, 3_000).await;
    let amount = 3_000 * TOKENS;
    members.grant("tokens", amount).await;
    let pause = Duration::from_secs(sample("HANSA_SOAK_PAUSE_S", 4));
    let signal = |process: &Process, name: &str| {
        let pid = process.child.id().to_string();
        Command::new("kill").args([name, &pid]).status().unwrap();
    };
    // Longer than a lease holds: the one that was paused must not go on with what it had.
    loaded(&members, |members| async move {
        signal(&members.processes[0], "-STOP");
        sleep(pause).await;
        signal(&members.processes[0], "-CONT");
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
            while members.ask(process.clients).await.status != 200 {
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
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
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
