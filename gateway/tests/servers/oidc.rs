//! People with tokens of a real identity provider: a process of its own that speaks OpenID Connect.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use hansa_config::Config;
use hansa_config::schema::issuer::{Claim, Issuer};
use hansa_config::schema::tenancy::{Role, Tenant};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{Answer, PATIENCE, Server, exchange, node};
use crate::python::python_with;

const PACKAGES: [&str; 1] = ["oidc-provider-mock==0.3.4"];

/// The provider; ends with the test.
struct Provider {
    child: Child,
    address: SocketAddr,
}

impl Provider {
    async fn start() -> Self {
        let python = tokio::task::spawn_blocking(|| python_with("oidc", &PACKAGES));
        let python: PathBuf = python.await.unwrap().unwrap();
        // It cannot say which port it took, so it is told one that is free.
        let free = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let child = Command::new(python)
            .args([
                "-m",
                "oidc_provider_mock",
                "--port",
                &free.port().to_string(),
            ])
            .env("AUTHLIB_INSECURE_TRANSPORT", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let provider = Self {
            child,
            address: free,
        };
        let there = async {
            while TcpStream::connect(free).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, there).await.unwrap();
        provider
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn ask(&self, method: &str, path: &str, kind: &str, body: &str) -> Answer {
        let (host, length) = (self.address, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-type: {kind}\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        exchange(self.address, &request).await
    }

    /// The token of a person with these claims for `audience`, by the authorization code flow.
    async fn token(&self, person: &str, claims: &Value, audience: &str) -> String {
        const FORM: &str = "application/x-www-form-urlencoded";
        const BACK: &str = "http%3A%2F%2Fapp.example%2Fback";
        let path = format!("/users/{person}");
        let known = self
            .ask("PUT", &path, "application/json", &claims.to_string())
            .await;
        assert_eq!(known.status, 204, "{known:?}");
        let path = format!(
            "/oauth2/authorize?client_id={audience}&redirect_uri={BACK}&response_type=code&scope=openid"
        );
        let allowed = self
            .ask("POST", &path, FORM, &format!("sub={person}"))
            .await;
        // Codes tell upper from lower case, which the head of an answer here does not.
        let (_, code) = allowed
            .raw
            .split_once("code=")
            .unwrap_or_else(|| panic!("{allowed:?}"));
        let code: String = code
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric())
            .collect();
        let body = format!(
            "grant_type=authorization_code&code={code}&redirect_uri={BACK}&client_id={audience}&client_secret=x"
        );
        let granted = self.ask("POST", "/oauth2/token", FORM, &body).await;
        granted.json()["id_token"].as_str().unwrap().to_owned()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn claim(value: &str, tenant: &str, role: Role) -> Claim {
    Claim {
        issuer: "campus".to_owned(),
        claim: "groups".to_owned(),
        value: value.to_owned(),
        tenant: tenant.to_owned(),
        role,
    }
}

/// A node that has no keys and trusts `provider`.
fn trusting(provider: &Provider) -> Config {
    let mut config = node();
    config.tenants = ["uni", "uni/physics", "uni/art"]
        .map(|id| Tenant {
            id: id.to_owned(),
            ..Tenant::default()
        })
        .to_vec();
    config.issuers = vec![Issuer {
        id: "campus".to_owned(),
        url: provider.url(),
        audiences: vec!["hansa".to_owned()],
        ..Issuer::default()
    }];
    config.claims = vec![
        claim("physics", "uni/physics", Role::Member),
        claim("art", "uni/art", Role::Member),
        claim("art-head", "uni/art", Role::Manager),
        claim("operations", "uni", Role::Operator),
    ];
    config
}

async fn call(to: SocketAddr, head: &str, token: &str, headers: &str, body: &str) -> Answer {
    let length = body.len();
    let request = format!(
        "{head} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {token}\r\n{headers}\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    exchange(to, &request).await
}

async fn complete(server: &Server, token: &str, headers: &str) -> Answer {
    let body = json!({"model": "sim", "prompt": [1, 2, 3], "max_tokens": 2}).to_string();
    call(
        server.clients,
        "POST /v1/completions",
        token,
        headers,
        &body,
    )
    .await
}

#[tokio::test]
async fn tokens_of_a_real_provider_are_as_good_as_keys() {
    let provider = Provider::start().await;
    let server = Server::start(trusting(&provider)).await;
    let refused = |answer: &Answer| (answer.status, answer.code());
    let (unknown, nobody) = (
        (401, "invalid_api_key".to_owned()),
        (403, "no_project".to_owned()),
    );
    assert_eq!(refused(&complete(&server, "hk-1", "").await), unknown);

    let alice = provider
        .token("alice", &json!({"groups": ["physics", "art"]}), "hansa")
        .await;
    let answer = complete(&server, &alice, "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let usage =
        async |headers: &str| call(server.clients, "GET /v1/usage", &alice, headers, "").await;
    let told = usage("").await.json();
    assert_eq!(
        (told["key"].as_str(), told["project"].as_str()),
        (Some("campus:alice"), Some("uni/physics"))
    );
    let told = usage("openai-project: uni/art\r\n").await.json();
    assert_eq!(told["project"], "uni/art");
    assert_eq!(refused(&usage("openai-project: uni\r\n").await), nobody);

    // Changed, for another service, of somebody without a project.
    let (text, signature) = alice.rsplit_once('.').unwrap();
    let forged = format!("{text}.{}", signature.chars().rev().collect::<String>());
    assert_eq!(refused(&complete(&server, &forged, "").await), unknown);
    let elsewhere = provider
        .token("alice", &json!({"groups": ["physics"]}), "another")
        .await;
    assert_eq!(refused(&complete(&server, &elsewhere, "").await), unknown);
    let guest = provider
        .token("guest", &json!({"groups": ["chess"]}), "hansa")
        .await;
    assert_eq!(refused(&complete(&server, &guest, "").await), nobody);

    // Roles reach the admin API.
    let head = provider
        .token("head", &json!({"groups": "art-head"}), "hansa")
        .await;
    let key = json!({"id": "art-key", "tenant": "uni/art"}).to_string();
    let made = call(server.operators, "POST /admin/v1/keys", &head, "", &key).await;
    let secret = made.json()["key"].as_str().unwrap().to_owned();
    assert_eq!(complete(&server, &secret, "").await.status, 200);
    let audit = |token: String| async move {
        call(server.operators, "GET /admin/v1/audit", &token, "", "").await
    };
    assert_eq!(audit(alice.clone()).await.code(), "operators_only");
    let operator = provider
        .token("olga", &json!({"groups": ["operations"]}), "hansa")
        .await;
    let trail = audit(operator).await.json();
    assert_eq!(trail["data"][0]["by"], "campus:head");

    // A provider that ends takes nobody's role.
    drop(provider);
    assert_eq!(complete(&server, &alice, "").await.status, 200);
    server.stop().await;
}
