//! A server with keys: who gets in, what is counted, and that the count is exact.

use std::net::SocketAddr;
use std::ops::Deref;
use std::time::Duration;

use futures::future::join_all;
use hansa_config::Config;
use hansa_config::schema::tenancy::{self, Allocation, ApiKey, Currency, Price, Rates, Tenant};
use hansa_config::schema::{Model, Runner};
use hansa_gateway::drain::Drained;
use hansa_gateway::tenant::secret::Secret;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{self, Answer, PATIENCE, exchange};

/// Clients that leave in the test command; `scripts/soak` sets more.
pub(crate) const ABORTS: u64 = 60;

/// A server whose key `k` is an operator's.
pub(crate) struct Server {
    pub(crate) server: harness::Server,
    pub(crate) key: Secret,
}

impl Deref for Server {
    type Target = harness::Server;

    fn deref(&self) -> &harness::Server {
        &self.server
    }
}

impl Server {
    /// A server with one key, whose bounds and allocations `set` sets.
    pub(crate) async fn start(set: impl FnOnce(&mut Config)) -> Self {
        let key = Secret::new();
        let mut config = Config::default();
        config.server.listen.set_port(0);
        config.server.grace_ms = 300;
        config.admin.listen = Some(config.server.listen);
        config.models = vec![Model {
            id: "sim".to_owned(),
            runner: Runner::Sim,
            ..Model::default()
        }];
        config.tenants = vec![tenant("acme"), tenant("acme/a")];
        config.keys = vec![api_key("k", &key)];
        set(&mut config);
        let server = harness::Server::start(config).await;
        Self { server, key }
    }

    pub(crate) async fn ask(&self, body: &Value) -> Answer {
        post(self.clients, "/v1/completions", self.key.reveal(), body).await
    }

    pub(crate) async fn usage(&self) -> Value {
        let answer = get(self.clients, "/v1/usage", self.key.reveal()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// The allocation with that id, once no request holds anything of it.
    pub(crate) async fn settled(&self, id: &str) -> Value {
        let settled = async {
            loop {
                let usage = self.usage().await;
                let all = usage["allocations"].as_array().unwrap();
                let found = all.iter().find(|found| found["id"] == id).unwrap();
                if found["reserved"] == 0 {
                    return found.clone();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, settled).await.unwrap()
    }

    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let metrics = get(self.operators, "/metrics", "").await.body;
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    pub(crate) async fn stop(self) -> Drained {
        self.server.stop().await
    }
}

fn tenant(id: &str) -> Tenant {
    Tenant {
        id: id.to_owned(),
        ..Tenant::default()
    }
}

fn api_key(id: &str, key: &Secret) -> ApiKey {
    ApiKey {
        id: id.to_owned(),
        tenant: "acme/a".to_owned(),
        sha256: key.digest().to_string(),
        role: tenancy::Role::Operator,
        ..ApiKey::default()
    }
}

pub(crate) fn allocation(id: &str, currency: Currency, amount: u64) -> Allocation {
    Allocation {
        id: id.to_owned(),
        tenant: "acme".to_owned(),
        currency,
        amount,
        ..Allocation::default()
    }
}

/// A prompt of 3 tokens.
pub(crate) fn body(max_tokens: u32) -> Value {
    json!({"model": "sim", "prompt": [1, 2, 3], "max_tokens": max_tokens})
}

pub(crate) fn request(method: &str, path: &str, key: &str, body: &str) -> String {
    let length = body.len();
    let key = match key {
        "" => String::new(),
        key => format!("authorization: Bearer {key}\r\n"),
    };
    format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{key}\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

async fn get(address: SocketAddr, path: &str, key: &str) -> Answer {
    exchange(address, &request("GET", path, key, "")).await
}

async fn post(address: SocketAddr, path: &str, key: &str, body: &Value) -> Answer {
    exchange(address, &request("POST", path, key, &body.to_string())).await
}

#[tokio::test]
async fn only_who_shows_a_key_that_fits_gets_in() {
    let (other, old) = (Secret::new(), Secret::new());
    let server = Server::start(|config| {
        config.keys.push(ApiKey {
            endpoints: vec!["chat/completions".to_owned()],
            models: vec!["another".to_owned()],
            ..api_key("narrow", &other)
        });
        config.keys.push(ApiKey {
            expires_s: Some(1),
            ..api_key("old", &old)
        });
    })
    .await;
    let address = server.clients;
    let ask = async |path: &str, key: &str| {
        let answer = post(address, path, key, &body(1)).await;
        (answer.status, answer.code())
    };
    let unknown = (401, "invalid_api_key".to_owned());
    assert_eq!(ask("/v1/completions", "").await, unknown);
    assert_eq!(ask("/v1/completions", "hk-0").await, unknown);
    assert_eq!(ask("/v1/completions", old.reveal()).await, unknown);
    // Strangers do not even learn which paths there are.
    assert_eq!(ask("/v1/nothing", "hk-0").await, unknown);
    assert_eq!(ask("/v1/completions", &"k".repeat(1_000)).await, unknown);
    let (status, _) = ask("/v1/completions", &"k".repeat(1 << 20)).await;
    assert!(status == 431 || status == 0, "{status}");
    let denied = (403, "endpoint_not_allowed".to_owned());
    assert_eq!(ask("/v1/completions", other.reveal()).await, denied);
    let chat = json!({"model": "sim", "messages": [{"role": "user", "content": "x"}]});
    let answer = post(address, "/v1/chat/completions", other.reveal(), &chat).await;
    assert_eq!((answer.status, &*answer.code()), (403, "model_not_allowed"));
    assert_eq!(server.ask(&body(1)).await.status, 200);
    // With keys, any name of the server will do.
    let named = request("GET", "/v1/models", server.key.reveal(), "");
    let named = named.replace("host: localhost", "host: hansa.example");
    assert_eq!(exchange(address, &named).await.status, 200);
    assert_eq!(server.stop().await, Drained::InOrder);
}

#[tokio::test]
async fn what_was_used_is_settled_to_the_token_and_told() {
    let server = Server::start(|config| {
        config.keys[0].rates = Rates {
            requests_per_minute: Some(100),
            tokens_per_minute: Some(10_000),
            ..Rates::default()
        };
        config.allocations = vec![allocation("a", Currency::Tokens, 100)];
    })
    .await;
    let answer = server.ask(&body(5)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["usage"]["total_tokens"], 8);
    for (name, value) in [
        ("x-ratelimit-limit-requests", "100"),
        ("x-ratelimit-remaining-requests", "99"),
        ("x-ratelimit-limit-tokens", "10000"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name} of {answer:?}");
    }
    assert!(answer.header("x-ratelimit-reset-tokens").is_some());
    let found = server.settled("a").await;
    assert_eq!((&found["posted"], &found["left"]), (&json!(8), &json!(92)));
    // Past 80 % the answer warns; beyond the rest nothing is begun.
    assert_eq!(answer.header("x-hansa-quota-warning"), None);
    let answer = server.ask(&body(80)).await;
    let warning = answer.header("x-hansa-quota-warning");
    assert_eq!(warning, Some("allocation a: 91 % spent"), "{answer:?}");
    let answer = server.ask(&body(80)).await;
    assert_eq!(
        (answer.status, &*answer.code()),
        (429, "insufficient_quota")
    );
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    assert_eq!(answer.header("retry-after"), None);
    // A bad request, or one that nobody serves, costs nothing.
    let refused = server.ask(&json!({"model": "sim", "prompt": 5})).await;
    assert_eq!(refused.status, 400);
    assert_eq!(server.settled("a").await["posted"], 91);
    assert_eq!(server.stop().await, Drained::InOrder);
}

#[tokio::test]
async fn a_rate_says_when_to_come_back_and_when_never_to() {
    let server = Server::start(|config| {
        config.tenants[0].rates.requests_per_minute = Some(2);
        config.tenants[1].rates.tokens_per_minute = Some(50);
    })
    .await;
    let answer = server.ask(&body(100)).await;
    assert_eq!(
        (answer.status, &*answer.code()),
        (429, "rate_limit_exceeded")
    );
    assert_eq!(answer.header("x-should-retry"), Some("false"), "{answer:?}");
    for _ in 0..2 {
        assert_eq!(server.ask(&body(1)).await.status, 200);
    }
    let answer = server.ask(&body(1)).await;
    assert_eq!(
        (answer.status, &*answer.code()),
        (429, "rate_limit_exceeded")
    );
    assert_eq!(answer.header("x-should-retry"), Some("true"));
    let wait_ms: u64 = answer.header("retry-after-ms").unwrap().parse().unwrap();
    assert!((1..=30_000).contains(&wait_ms), "{wait_ms}");
    assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some("0"));
    assert_eq!(server.stop().await, Drained::InOrder);
}

#[tokio::test]
async fn of_many_parallel_requests_a_budget_for_ten_admits_ten() {
    let runs = std::env::var("HANSA_SOAK_BUDGETS");
    for run in 0..runs.map_or(1, |text| text.parse().unwrap()) {
        let server = Server::start(|config| {
            config.allocations = vec![allocation("a", Currency::Tokens, 10 * (3 + 7))];
        })
        .await;
        let request = body(7);
        let answers = join_all((0..1_000).map(|_| server.ask(&request))).await;
        let admitted = answers.iter().filter(|answer| answer.status == 200).count();
        let refused = answers
            .iter()
            .filter(|answer| answer.code() == "insufficient_quota");
        assert_eq!((admitted, refused.count()), (10, 990), "run {run}");
        let found = server.settled("a").await;
        assert_eq!((&found["posted"], &found["left"]), (&json!(100), &json!(0)));
        assert_eq!(server.stop().await, Drained::InOrder);
    }
}

/// Counts tokens of completion alone: money at one unit each.
pub(crate) fn count_completions(config: &mut Config) {
    config.allocations = vec![allocation("tokens", Currency::Money, 10_000_000)];
    config.prices = vec![Price {
        model: "sim".to_owned(),
        output: 1_000_000_000_000,
        ..Price::default()
    }];
}

/// Many clients that ask for a long answer, and leave somewhere in its first third.
pub(crate) async fn leave_at_random(server: &Server) {
    let aborts = std::env::var("HANSA_SOAK_ABORTS");
    let aborts = aborts.map_or(ABORTS, |text| text.parse().unwrap());
    let mut body = body(400);
    body["stream"] = true.into();
    let key = server.key.reveal();
    let request = request("POST", "/v1/completions", key, &body.to_string());
    let leave = async |number: u64| {
        let mut stream = TcpStream::connect(server.clients).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        // From none of the answer to about a third.
        let mut left = number.wrapping_mul(2_654_435_761) % 40_000;
        let mut buffer = [0; 1_024];
        while left > 0 {
            let read = timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap();
            match read.unwrap() as u64 {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
    };
    let numbers: Vec<u64> = (0..aborts).collect();
    for some in numbers.chunks(20) {
        join_all(some.iter().map(|number| leave(*number))).await;
    }
}

#[tokio::test]
async fn clients_that_leave_are_charged_with_what_the_engine_made_for_them() {
    let server = Server::start(count_completions).await;
    leave_at_random(&server).await;
    let charged = server.settled("tokens").await["posted"].as_u64().unwrap();
    assert_eq!(server.metric("hansa_engine_running").await, 0);
    let made = server.metric("hansa_engine_decode_tokens_total").await;
    assert_eq!(charged, made * 1_000_000);
    assert!(made > 0);
    assert_eq!(server.stop().await, Drained::InOrder);
}

#[tokio::test]
async fn a_ledger_in_a_file_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ledger.redb");
    for round in 1..=2 {
        let server = Server::start(|config| {
            config.quota.ledger = Some(file.clone());
            config.allocations = vec![allocation("a", Currency::Tokens, 100)];
        })
        .await;
        assert_eq!(server.ask(&body(5)).await.status, 200);
        assert_eq!(server.settled("a").await["posted"], 8 * round);
        assert_eq!(server.stop().await, Drained::InOrder);
    }
}

pub(crate) async fn admin(
    server: &Server,
    method: &str,
    path: &str,
    key: &str,
    body: &Value,
) -> Answer {
    let path = format!("/admin/v1/{path}");
    exchange(
        server.operators,
        &request(method, &path, key, &body.to_string()),
    )
    .await
}

#[tokio::test]
async fn a_tenant_is_served_where_it_may_be_and_its_operator_alone_learns_why() {
    for (country, status) in [("fi", 200), ("DE", 403)] {
        let server = Server::start(|config| {
            config.route.home_country = Some("FI".to_owned());
            config.tenants[0].countries = vec![country.to_owned()];
        })
        .await;
        let asks = request(
            "POST",
            "/v1/completions",
            server.key.reveal(),
            &body(1).to_string(),
        );
        let asks = asks.replace("host:", "x-request-id: why-there\r\nhost:");
        let answer = exchange(server.clients, &asks).await;
        assert_eq!(answer.status, status);
        if status == 403 {
            assert_eq!(answer.code(), "no_site_allowed");
        } else {
            assert_eq!(answer.header("x-hansa-site"), Some("local"));
        }
        let path = "decisions/why-there";
        let refused = admin(&server, "GET", path, "", &json!({})).await;
        assert_eq!((refused.status, &*refused.code()), (401, "invalid_api_key"));
        let kept = admin(&server, "GET", path, server.key.reveal(), &json!({})).await;
        let filtered = &kept.json()["decisions"][0]["filtered"];
        assert_eq!(filtered["residency"] == 1, status == 403, "{kept:?}");
        assert_eq!(server.stop().await, Drained::InOrder);
    }
}

#[tokio::test]
async fn operators_make_tenants_keys_and_allocations_while_it_runs() {
    let server = Server::start(|_| {}).await;
    let ops = server.key.reveal();
    let tenant = json!({"models": ["sim"], "limits": {"requests_per_minute": 60}});
    let made = admin(&server, "PUT", "tenants/lab", ops, &tenant).await;
    assert_eq!(made.status, 200, "{made:?}");
    let project = admin(&server, "PUT", "tenants/lab/one", ops, &json!({})).await;
    assert_eq!(project.json()["id"], "lab/one", "{project:?}");
    let grant = json!({"tenant": "lab", "currency": "tokens", "amount": 20});
    let made = admin(&server, "PUT", "allocations/lab-2026", ops, &grant).await;
    assert_eq!(made.status, 200, "{made:?}");
    let key = json!({"id": "lab-key", "tenant": "lab/one"});
    let made = admin(&server, "POST", "keys", ops, &key).await;
    let first = made.json()["key"].as_str().unwrap().to_owned();
    let use_it = async |key: &str| {
        let answer = post(server.clients, "/v1/completions", key, &body(5)).await;
        (answer.status, answer.code())
    };
    assert_eq!(use_it(&first).await.0, 200);
    // Its key is no operator's, and nobody's is none at all.
    let refused = admin(&server, "PUT", "tenants/mine", &first, &json!({})).await;
    assert_eq!((refused.status, &*refused.code()), (403, "operators_only"));
    let refused = admin(&server, "GET", "tenants", "", &json!({})).await;
    assert_eq!((refused.status, &*refused.code()), (401, "invalid_api_key"));
    let rotated = admin(
        &server,
        "POST",
        "keys/lab-key/rotate",
        ops,
        &json!({"id": "new"}),
    )
    .await;
    let second = rotated.json()["key"].as_str().unwrap().to_owned();
    assert_eq!(use_it(&second).await.0, 200);
    let revoked = admin(&server, "POST", "keys/lab-key/revoke", ops, &json!({})).await;
    assert_eq!(revoked.status, 200, "{revoked:?}");
    assert_eq!(use_it(&first).await, (401, "invalid_api_key".to_owned()));
    let spent = (429, "insufficient_quota".to_owned());
    assert_eq!(use_it(&second).await, spent);
    let keys = admin(&server, "GET", "keys", ops, &json!({})).await;
    assert!(!keys.body.contains(&first[3..]) && keys.body.contains("lab-key"));
    let records = admin(&server, "GET", "records", ops, &json!({}))
        .await
        .json();
    let records = records["data"].as_array().unwrap().clone();
    assert_eq!(records.len(), 2);
    assert_eq!(records[0]["project"], "lab/one");
    // Its own project's are a manager's to see, and nobody's else.
    let own = get(server.clients, "/v1/usage/records", ops).await;
    assert_eq!(own.json()["data"], json!([]), "{own:?}");
    let denied = get(server.clients, "/v1/usage/records", &second).await;
    assert_eq!((denied.status, &*denied.code()), (403, "managers_only"));
    let csv = admin(&server, "GET", "records.csv", ops, &json!({})).await;
    assert_eq!(csv.body.lines().count(), 3, "{csv:?}");
    let report = admin(&server, "GET", "report", ops, &json!({}))
        .await
        .json();
    assert_eq!(report["data"][0]["completion_tokens"], 10, "{report}");
    let audit = admin(&server, "GET", "audit", ops, &json!({})).await.json();
    assert_eq!(audit["data"].as_array().unwrap().len(), 7, "{audit}");
    assert_eq!(audit["data"][0]["by"], "k");
    assert_eq!(server.stop().await, Drained::InOrder);
}

#[tokio::test]
async fn what_operators_may_not_do_is_refused_by_name() {
    let server = Server::start(|_| {}).await;
    let ops = server.key.reveal();
    for (method, path, body, status, word) in [
        ("PUT", "tenants/acme", json!({}), 400, "config"),
        ("DELETE", "tenants/nobody", json!({}), 404, "nobody"),
        ("PUT", "tenants/x", json!({"typo": 1}), 400, "typo"),
        ("PUT", "tenants/no/body", json!({}), 400, "no tenant 'no'"),
        (
            "POST",
            "keys",
            json!({"id": "k", "tenant": "acme"}),
            400,
            "already",
        ),
        ("POST", "keys", json!({"tenant": "nobody"}), 400, "nobody"),
        ("POST", "keys/k/revoke", json!({}), 400, "config"),
        ("POST", "keys/k/rotate", json!({}), 400, "config"),
        ("POST", "keys/nokey/revoke", json!({}), 404, "nokey"),
        (
            "PUT",
            "allocations/a",
            json!({"tenant": "acme", "currency": "tokens", "amount": -5}),
            400,
            "-5",
        ),
        (
            "PUT",
            "allocations/a",
            json!({"tenant": "acme", "currency": "tokens", "amount": 2.0_f64.powi(64)}),
            400,
            "1.8446744073709552e+19",
        ),
        (
            "PUT",
            "allocations/a",
            json!({"tenant": "acme", "currency": "tokens", "amount": 5, "overdraft": -1}),
            400,
            "-1",
        ),
        (
            "PUT",
            "allocations/a",
            json!({"tenant": "acme", "currency": "gold", "amount": 5}),
            400,
            "gold",
        ),
        ("DELETE", "allocations/a", json!({}), 404, "allocation"),
    ] {
        let answer = admin(&server, method, path, ops, &body).await;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert!(answer.body.contains(word), "{word} in {answer:?}");
    }
    let audit = admin(&server, "GET", "audit", ops, &json!({})).await.json();
    assert_eq!(audit["data"], json!([]));
    assert_eq!(server.stop().await, Drained::InOrder);
}
