//! TLS on the listener and between peers, with certificates of the tests' own authority (`tests/data/tls`).

use std::path::PathBuf;

use hansa_config::Config;
use hansa_gateway::serve::{App, ServeError};

use crate::harness::{Server, chat, gateway, node, ours};

const PATH: &str = "/v1/chat/completions";

pub(crate) fn pem(name: &str) -> Option<PathBuf> {
    Some(
        PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("tests/data/tls")
            .join(name),
    )
}

/// A node that speaks TLS and knows peers by their certificates alone.
fn certified_node() -> Config {
    let mut config = node();
    config.peer.secret_file = None;
    config.peer.ca = pem("ca.pem");
    config.server.tls_cert = pem("server.pem");
    config.server.tls_key = pem("server.key");
    config
}

/// A gateway before it that shows the certificate `name`.
fn before(node: &Server, name: &str) -> Config {
    let mut upstream = ours("node", node.clients);
    upstream.url = format!("https://localhost:{}", node.clients.port());
    let mut config = gateway(vec![upstream]);
    config.peer.secret_file = None;
    config.peer.ca = pem("ca.pem");
    config.peer.cert = pem(&format!("{name}.pem"));
    config.peer.key = pem(&format!("{name}.key"));
    config
}

async fn ready_node(config: Config) -> Server {
    let node = Server::launch(config).await;
    node.wait_for("/health/ready", |answer| answer.status == 200)
        .await;
    node
}

#[tokio::test]
async fn a_certificate_makes_a_peer() {
    let node = ready_node(certified_node()).await;
    let site = Server::start(before(&node, "peer")).await;
    let answer = site.post(PATH, &chat(r#""max_tokens":3"#)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    site.stop().await;
    node.stop().await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_makes_nobody() {
    let node = ready_node(certified_node()).await;
    for (ours, cert) in [("ca.pem", "stranger"), ("other.pem", "peer")] {
        let mut config = before(&node, cert);
        config.peer.ca = pem(ours);
        let site = Server::launch(config).await;
        let answer = site.post(PATH, &chat(r#""n":1"#)).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (503, "model_not_ready"),
            "{answer:?}"
        );
        site.stop().await;
    }
    // Without a certificate the connection stands, and the caller is no peer.
    let mut plain = before(&node, "peer");
    (plain.peer.cert, plain.peer.key) = (None, None);
    let site = Server::launch(plain).await;
    assert_eq!(site.post(PATH, &chat(r#""n":1"#)).await.status, 503);
    site.stop().await;
    node.stop().await;
}

#[tokio::test]
async fn a_missing_or_wrong_file_is_named_at_start() {
    for (cert, key) in [
        ("nothing.pem", "server.key"),
        ("server.key", "server.key"),
        ("server.pem", "server.pem"),
        ("server.pem", "peer.key"),
    ] {
        let mut config = certified_node();
        (config.server.tls_cert, config.server.tls_key) = (pem(cert), pem(key));
        let failed = App::build(config).await.map(|_| ());
        let Err(ServeError::Tls(error)) = failed else {
            panic!("{cert} {key}: {failed:?}");
        };
        assert!(error.to_string().contains("tests/data/tls/"), "{error}");
    }
}
