//! The admin API for those who are no operators: what is theirs, and nothing else.

use std::net::SocketAddr;

use hansa_config::Config;
use hansa_config::schema::tenancy::{Allocation, ApiKey, Currency, Role, Tenant};
use hansa_gateway::tenant::secret::Secret;
use serde_json::{Value, json};

use crate::harness::{Answer, Server, exchange, node};

/// A server, and a key of each role: an operator, a manager of the project, one of the organisation, two members, and a
/// stranger of another organisation.
struct House {
    server: Server,
    operator: Secret,
    manager: Secret,
    head: Secret,
    member: Secret,
    other_member: Secret,
    stranger: Secret,
}

fn key(id: &str, tenant: &str, role: Role, secret: &Secret) -> ApiKey {
    ApiKey {
        id: id.to_owned(),
        tenant: tenant.to_owned(),
        sha256: secret.digest().to_string(),
        role,
        ..ApiKey::default()
    }
}

impl House {
    async fn build() -> Self {
        let [operator, manager, head, member, other_member, stranger] =
            std::array::from_fn(|_| Secret::new());
        let mut config: Config = node();
        config.tenants = ["uni", "uni/a", "uni/b", "firm"]
            .map(|id| Tenant {
                id: id.to_owned(),
                ..Tenant::default()
            })
            .to_vec();
        config.keys = vec![
            key("operator", "uni", Role::Operator, &operator),
            key("manager", "uni/a", Role::Manager, &manager),
            key("head", "uni", Role::Manager, &head),
            key("member", "uni/a", Role::Member, &member),
            key("other-member", "uni/b", Role::Member, &other_member),
            key("stranger", "firm", Role::Manager, &stranger),
        ];
        config.allocations = ["uni/a", "firm"]
            .map(|tenant| Allocation {
                id: format!("of-{}", tenant.replace('/', "-")),
                tenant: tenant.to_owned(),
                currency: Currency::Tokens,
                amount: 10_000,
                ..Allocation::default()
            })
            .to_vec();
        Self {
            server: Server::start(config).await,
            operator,
            manager,
            head,
            member,
            other_member,
            stranger,
        }
    }

    async fn ask(&self, key: &Secret, method: &str, path: &str, body: &Value) -> Answer {
        let path = format!("/admin/v1/{path}");
        call(self.server.operators, method, &path, key, body).await
    }

    async fn get(&self, key: &Secret, path: &str) -> Answer {
        self.ask(key, "GET", path, &json!({})).await
    }

    /// One field of every entry of a list.
    async fn list(&self, key: &Secret, path: &str, field: &str) -> Vec<String> {
        let answer = self.get(key, path).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let data = answer.json()["data"].as_array().unwrap().clone();
        let mut found: Vec<_> = data
            .iter()
            .map(|one| one[field].as_str().unwrap().to_owned())
            .collect();
        found.sort();
        found
    }

    async fn spend(&self, key: &Secret) {
        let body = json!({"model": "sim", "prompt": [1, 2, 3], "max_tokens": 2});
        let answer = call(self.server.clients, "POST", "/v1/completions", key, &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        // The answer may be here a moment before its record.
        while self.get(&self.operator, "reservations").await.json()["data"] != json!([]) {
            tokio::task::yield_now().await;
        }
    }

    /// Holds what the lists show to `key` against what is theirs.
    async fn shows(
        &self,
        key: &Secret,
        tenants: &[&str],
        keys: &[&str],
        allocations: &[&str],
        records: &[&str],
    ) {
        assert_eq!(self.list(key, "tenants", "id").await, tenants);
        assert_eq!(self.list(key, "keys", "id").await, keys);
        assert_eq!(self.list(key, "allocations", "id").await, allocations);
        assert_eq!(self.list(key, "records", "key").await, records);
        let csv = self.get(key, "records.csv").await;
        assert_eq!(csv.body.lines().count(), records.len() + 1);
        assert_eq!(self.list(key, "reservations", "key").await, [""; 0]);
        let report = self.get(key, "report").await.json();
        let requests = report["data"].as_array().unwrap().iter();
        let requests: u64 = requests
            .map(|line| line["requests"].as_u64().unwrap())
            .sum();
        assert_eq!(requests, records.len() as u64);
    }

    /// A request of everybody but those who manage.
    async fn spend_all(&self) {
        for key in [
            &self.member,
            &self.manager,
            &self.other_member,
            &self.stranger,
        ] {
            self.spend(key).await;
        }
    }
}

async fn call(to: SocketAddr, method: &str, path: &str, key: &Secret, body: &Value) -> Answer {
    let (key, body) = (key.reveal(), body.to_string());
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    exchange(to, &request).await
}

#[tokio::test]
async fn everyone_sees_what_is_theirs() {
    let house = House::build().await;
    house.spend_all().await;
    for (key, tenants, keys, allocations, records) in [
        (
            &house.operator,
            &["firm", "uni", "uni/a", "uni/b"][..],
            &[
                "head",
                "manager",
                "member",
                "operator",
                "other-member",
                "stranger",
            ][..],
            &["of-firm", "of-uni-a"][..],
            &["manager", "member", "other-member", "stranger"][..],
        ),
        (
            &house.head,
            &["uni", "uni/a", "uni/b"],
            &["head", "manager", "member", "operator", "other-member"],
            &["of-uni-a"],
            &["manager", "member", "other-member"],
        ),
        (
            &house.manager,
            &["uni", "uni/a"],
            &["manager", "member"],
            &["of-uni-a"],
            &["manager", "member"],
        ),
        (
            &house.member,
            &["uni", "uni/a"],
            &["member"],
            &["of-uni-a"],
            &["member"],
        ),
        (
            &house.other_member,
            &["uni", "uni/b"],
            &["other-member"],
            &[],
            &["other-member"],
        ),
        (
            &house.stranger,
            &["firm"],
            &["stranger"],
            &["of-firm"],
            &["stranger"],
        ),
    ] {
        house.shows(key, tenants, keys, allocations, records).await;
    }
    house.server.stop().await;
}

/// Some pages hold nothing of theirs.
#[tokio::test]
async fn pages_are_those_of_the_ledger_whoever_turns_them() {
    let house = House::build().await;
    house.spend_all().await;
    let (mut seen, mut pages, mut after) = (Vec::new(), 0, String::new());
    loop {
        let path = format!("records?limit=2{after}");
        let page = house.get(&house.stranger, &path).await.json();
        let keys = page["data"].as_array().unwrap().iter();
        seen.extend(keys.map(|record| record["key"].as_str().unwrap().to_owned()));
        pages += 1;
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["stranger"]);
    assert!(pages > 1, "all in one page");
    let later = house
        .get(&house.operator, "records?from=99999999999")
        .await
        .json();
    assert_eq!((&later["data"], &later["next"]), (&json!([]), &Value::Null));
    house.server.stop().await;
}

#[tokio::test]
async fn nobody_changes_what_is_not_theirs() {
    let house = House::build().await;
    let none = json!({});
    let grant = json!({"tenant": "uni/a", "currency": "tokens", "amount": 1});
    for key in [&house.member, &house.manager, &house.head] {
        for (method, path, body) in [
            ("PUT", "tenants/uni/c", &none),
            ("DELETE", "tenants/uni/b", &none),
            ("PUT", "allocations/x", &grant),
            ("DELETE", "allocations/of-uni-a", &none),
            ("DELETE", "records/some-request", &none),
            ("GET", "audit", &none),
            ("GET", "leases", &none),
            ("GET", "decisions/some-request", &none),
            ("GET", "models", &none),
        ] {
            let answer = house.ask(key, method, path, body).await;
            assert_eq!(
                (answer.status, &*answer.code()),
                (403, "operators_only"),
                "{method} {path}"
            );
        }
    }
    house.server.stop().await;
}

#[tokio::test]
async fn managers_change_keys_of_their_projects_alone() {
    let house = House::build().await;
    let none = json!({});
    let made = |tenant: &str, role: &str| json!({"id": "new", "tenant": tenant, "role": role});
    for (key, body, code) in [
        (&house.member, made("uni/a", "member"), "managers_only"),
        (&house.manager, made("uni/b", "member"), "managers_only"),
        (&house.manager, made("uni", "member"), "managers_only"),
        (&house.manager, made("firm", "member"), "managers_only"),
        (&house.manager, made("uni/a", "operator"), "operators_only"),
        (&house.stranger, made("uni/a", "member"), "managers_only"),
    ] {
        let answer = house.ask(key, "POST", "keys", &body).await;
        assert_eq!((answer.status, &*answer.code()), (403, code), "{body}");
    }
    let answer = house
        .ask(&house.manager, "POST", "keys", &made("uni/a", "member"))
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let other = house
        .ask(
            &house.operator,
            "POST",
            "keys",
            &json!({"id": "b", "tenant": "uni/b"}),
        )
        .await;
    assert_eq!(other.status, 200);
    // Another project's key looks as if it were not there.
    for path in ["keys/b/revoke", "keys/b/rotate", "keys/nokey/revoke"] {
        let answer = house.ask(&house.manager, "POST", path, &none).await;
        assert_eq!(
            (answer.status, &*answer.code()),
            (404, "not_found"),
            "{path}"
        );
    }
    let answer = house
        .ask(
            &house.manager,
            "POST",
            "keys/new/rotate",
            &json!({"id": "newer"}),
        )
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = house.ask(&house.head, "POST", "keys/b/revoke", &none).await;
    assert_eq!(answer.json()["revoked"], true);
    // What was changed stands in the trail with who did it, and what was refused does not.
    let audit = house.get(&house.operator, "audit").await.json();
    let lines = audit["data"].as_array().unwrap();
    let lines: Vec<_> = lines
        .iter()
        .map(|line| (line["by"].as_str().unwrap(), line["id"].as_str().unwrap()))
        .collect();
    assert_eq!(
        lines,
        [
            ("head", "b"),
            ("manager", "newer"),
            ("manager", "new"),
            ("operator", "b"),
            ("manager", "new")
        ]
    );
    house.server.stop().await;
}

#[tokio::test]
async fn a_request_is_forgotten_by_its_id() {
    let house = House::build().await;
    house.spend(&house.member).await;
    let records = house.get(&house.operator, "records").await.json();
    let record = &records["data"][0];
    let request = record["request"].as_str().unwrap();
    let path = format!("records/{request}");
    let before = house.get(&house.operator, "report").await.json();
    let answer = house
        .ask(&house.operator, "DELETE", &path, &json!({}))
        .await;
    assert_eq!(answer.json()["records"], 1, "{answer:?}");
    let after = house.get(&house.operator, "records").await;
    assert!(!after.body.contains(request), "{after:?}");
    let after = after.json();
    assert_eq!(after["data"][0]["tokens"], record["tokens"]);
    assert_eq!(after["data"][0]["key"], "(deleted)");
    assert_eq!(house.get(&house.operator, "report").await.json(), before);
    let again = house
        .ask(&house.operator, "DELETE", &path, &json!({}))
        .await;
    assert_eq!(again.status, 404);
    let audit = house.get(&house.operator, "audit").await;
    assert!(
        !audit.body.contains(request) && audit.body.contains(record["charge"].as_str().unwrap())
    );
    house.server.stop().await;
}

#[tokio::test]
async fn models_that_come_and_go_stand_in_the_trail() {
    let house = House::build().await;
    let model = json!({"id": "second", "runner": "sim"});
    let added = house.ask(&house.operator, "POST", "models", &model).await;
    assert_eq!(added.status, 202, "{added:?}");
    let again = house.ask(&house.operator, "POST", "models", &model).await;
    assert_eq!(again.status, 409);
    let removed = house
        .ask(&house.operator, "DELETE", "models/second", &json!({}))
        .await;
    assert_eq!(removed.status, 200, "{removed:?}");
    let audit = house.get(&house.operator, "audit").await.json();
    let lines = audit["data"].as_array().unwrap();
    let lines: Vec<_> = lines
        .iter()
        .map(|line| {
            (
                line["by"].as_str(),
                line["action"].as_str(),
                line["kind"].as_str(),
            )
        })
        .collect();
    let line = |action| (Some("operator"), Some(action), Some("model"));
    assert_eq!(lines, [line("remove"), line("set")]);
    house.server.stop().await;
}

#[tokio::test]
async fn the_document_is_there_for_everyone() {
    let house = House::build().await;
    let request =
        "GET /admin/v1/openapi.json HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let document = exchange(house.server.operators, request).await;
    assert_eq!(document.json()["openapi"], "3.1.0");
    let wrong = request.replace("GET", "POST");
    let wrong = exchange(house.server.operators, &wrong).await;
    assert_eq!((wrong.status, &*wrong.code()), (405, "method_not_allowed"));
    house.server.stop().await;
}
