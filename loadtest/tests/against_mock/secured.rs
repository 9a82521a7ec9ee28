//! A server that speaks TLS, with the certificates that the gateway's tests have: it is trusted by name, or not at all.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::mock::Step::Write;
use crate::mock::{self, Mock, Served};
use crate::program::{run, text};

fn pem(name: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../gateway/tests/data/tls");
    PathBuf::from(folder).join(name)
}

fn acceptor() -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(pem("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(pem("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.map(Result::unwrap).collect(), key);
    TlsAcceptor::from(Arc::new(config.unwrap()))
}

/// TLS before a mock.
fn front(mock: &Mock) -> Served {
    let behind = mock.address();
    Served::start(move |listener| pass_on(listener, behind))
}

async fn pass_on(listener: TcpListener, behind: SocketAddr) {
    let acceptor = acceptor();
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let acceptor = acceptor.clone();
        connections.spawn(async move {
            if let Ok(mut secured) = acceptor.accept(stream).await {
                let mut plain = TcpStream::connect(behind).await.unwrap();
                // A client that goes away in the middle ends it.
                tokio::io::copy_bidirectional(&mut secured, &mut plain)
                    .await
                    .ok();
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

#[test]
fn a_server_in_tls_is_driven_where_its_authority_is_trusted() {
    let mock = Mock::start(|_, _| vec![Write(mock::good())]);
    let front = front(&mock);
    let ca = pem("ca.pem");
    let load = format!(
        "--concurrency 2 --requests 10 --json - --ca {}",
        ca.display()
    );
    let output = run(
        &format!("https://localhost:{}", front.address.port()),
        &load,
    );
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["requests"]["good"], 10);
    assert!(json["run"]["url"].as_str().unwrap().starts_with("https://"));
    assert_eq!(mock.accepted(), 2, "users keep their connections");
    let longest = json["connect_ms"]["max"].as_f64();
    assert!(longest > Some(0.0), "shaking hands is part of connecting");
}

#[test]
fn a_server_that_nobody_vouches_for_gets_no_request() {
    let mock = Mock::start(|_, _| vec![Write(mock::good())]);
    let front = front(&mock);
    let url = format!("https://localhost:{}", front.address.port());
    let other = format!("--ca {}", pem("other.pem").display());
    for trust in ["", other.as_str()] {
        let output = run(
            &url,
            &format!("--concurrency 1 --requests 2 --json - {trust}"),
        );
        assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let failure = &json["requests"]["failures"][0];
        assert_eq!(failure["class"], "connect");
        let reason = failure["reason"].as_str().unwrap();
        assert!(reason.starts_with("TLS: "), "{reason}");
    }
    assert_eq!(mock.accepted(), 0);
}
