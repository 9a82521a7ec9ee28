//! On whose account a request through several servers goes: the first server's, once.

use hansa_config::Config;
use hansa_config::schema::tenancy::{Allocation, ApiKey, Currency, Tenant};
use hansa_gateway::tenant::secret::Secret;
use serde_json::Value;
use tokio::time::timeout;

use crate::harness::{Answer, PATIENCE, Server, chat, exchange, gateway, node, ours, post};

const PATH: &str = "/v1/chat/completions";

/// `config` with one key, and tokens to spend.
fn with_key(mut config: Config, key: &Secret) -> Config {
    config.tenants = vec![Tenant {
        id: "acme".to_owned(),
        ..Tenant::default()
    }];
    config.keys = vec![ApiKey {
        id: "k".to_owned(),
        tenant: "acme".to_owned(),
        sha256: key.digest().to_string(),
        ..ApiKey::default()
    }];
    config.allocations = vec![Allocation {
        id: "tokens".to_owned(),
        tenant: "acme".to_owned(),
        currency: Currency::Tokens,
        amount: 10_000,
        ..Allocation::default()
    }];
    config
}

async fn ask(server: &Server, key: &Secret, body: &str) -> Answer {
    let header = format!("authorization: Bearer {}\r\n", key.reveal());
    exchange(server.clients, &post(PATH, &header, body)).await
}

/// Tokens that were charged, once nothing is held any more.
async fn charged(server: &Server, key: &Secret) -> u64 {
    let key = key.reveal();
    let request = format!(
        "GET /v1/usage HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\r\n"
    );
    let settled = async {
        loop {
            let answer = exchange(server.clients, &request).await;
            let usage: Value = serde_json::from_str(&answer.body).unwrap();
            let allocation = &usage["allocations"][0];
            if allocation["reserved"] == 0 {
                return allocation["posted"].as_u64().unwrap();
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, settled).await.unwrap()
}

#[tokio::test]
async fn the_first_server_asks_for_the_key_and_charges_and_no_other_does() {
    let (of_site, of_node) = (Secret::new(), Secret::new());
    let node = Server::start(with_key(node(), &of_node)).await;
    let site = gateway(vec![ours("node", node.clients)]);
    let site = Server::start(with_key(site, &of_site)).await;
    let body = chat(r#""max_tokens":5"#);
    assert_eq!(site.post(PATH, &body).await.status, 401);
    assert_eq!(ask(&node, &of_site, &body).await.status, 401);
    let answer = ask(&site, &of_site, &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let told: Value = serde_json::from_str(&answer.body).unwrap();
    let total = told["usage"]["total_tokens"].as_u64().unwrap();
    assert_eq!(charged(&site, &of_site).await, total);
    assert_eq!(charged(&node, &of_node).await, 0);
    site.stop().await;
    node.stop().await;
}
