//! Gateway processes with one config that share one PostgreSQL.

use std::net::SocketAddr;
use std::time::Duration;

use hansa_gateway::tenant::secret::Secret;
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::harness::{Answer, PATIENCE, exchange, file};
use crate::postgres::Postgres;
use crate::process::Process;
use crate::quota::request;

/// A prompt of 3 tokens and an answer of 7.
pub(crate) const TOKENS: u64 = 10;

/// A model in the gateway itself.
pub(crate) const SIMULATED: &str = "[[model]]\nid = \"sim\"\nrunner = \"sim\"\n";

/// Gateways with one config, whose key is an operator's of `acme`.
pub(crate) struct Members {
    pub(crate) store: Postgres,
    pub(crate) key: Secret,
    config: String,
    pub(crate) processes: Vec<Process>,
}

impl Members {
    /// So many, whose leases hold for `ttl_ms`; `serving` is the part of the config that says who serves `sim`.
    pub(crate) async fn start(count: usize, ttl_ms: u32, serving: &str) -> Self {
        let (store, key) = (Postgres::start(), Secret::new());
        let url = store.url_file();
        let config = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [quota]\nstore = \"{}\"\nlease_ttl_ms = {ttl_ms}\n{serving}\
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

    /// Another one, which is ready.
    pub(crate) async fn process(&self) -> Process {
        let name = format!("member-{:?}", std::thread::current().id());
        let process = Process::start(&file(&name, &self.config));
        process.until_ready(&self.key).await;
        process
    }

    /// Asks for what is charged with [`TOKENS`].
    pub(crate) async fn ask(&self, address: SocketAddr) -> Answer {
        let body = json!({"model": "sim", "prompt": [1, 2, 3], "max_tokens": 7}).to_string();
        let asks = request("POST", "/v1/completions", self.key.reveal(), &body);
        exchange(address, &asks).await
    }

    /// Gives the tenant this allocation, at the first gateway, and waits until all know it.
    pub(crate) async fn grant(&self, id: &str, amount: u64) {
        let body = json!({"tenant": "acme", "currency": "tokens", "amount": amount}).to_string();
        let path = format!("/admin/v1/allocations/{id}");
        let made = self.processes[0].call("PUT", &path, &self.key, &body);
        let made = made.await;
        assert_eq!(made.status, 200, "{made:?}");
        self.until_all(|usage| usage.contains(id)).await;
    }

    pub(crate) async fn revoke(&self, id: &str) {
        let path = format!("/admin/v1/allocations/{id}");
        self.processes[0].call("DELETE", &path, &self.key, "").await;
        self.until_all(|usage| !usage.contains(id)).await;
    }

    async fn until_all(&self, good: impl Fn(&str) -> bool) {
        for process in &self.processes {
            let seen = async {
                while !good(&process.get("/v1/usage", &self.key).await.body) {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(PATIENCE, seen).await.unwrap();
        }
    }

    /// Ends every process in order.
    pub(crate) fn stop(&mut self) {
        self.processes.drain(..).for_each(Process::stop);
    }

    /// What a query of the store gives, once it is `wanted`.
    pub(crate) async fn until(&self, sql: &str, wanted: &str) {
        let seen = async {
            while self.store.query(sql) != wanted {
                sleep(Duration::from_millis(100)).await;
            }
        };
        let seen = timeout(PATIENCE, seen).await;
        assert!(seen.is_ok(), "{sql}: {}", self.store.query(sql));
    }

    /// Every promise that the store's own tables can show.
    pub(crate) fn audit(&self, amount: u64) {
        let doubled = "SELECT count(*) - count(DISTINCT charge) FROM hansa.record";
        assert_eq!(self.store.query(doubled), "0");
        let twice =
            "SELECT count(*) FROM hansa.record a JOIN hansa.record b ON a.part_of = b.charge";
        assert_eq!(
            self.store.query(twice),
            "0",
            "two gateways settled the same"
        );
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
