//! The findings must be honest: a server that copes is found good, one that does not is not.

use super::*;
use crate::faults::mock::{Cost, Mock, MockOptions};

async fn findings(kinds: &[Abuse]) -> Vec<Finding> {
    findings_at(Duration::ZERO, kinds).await
}

/// Of a mock that takes `step` for a token.
async fn findings_at(step: Duration, kinds: &[Abuse]) -> Vec<Finding> {
    let cost = Cost {
        slots: 4,
        queue: 2,
        prefill: Duration::ZERO,
        prefill_token: Duration::ZERO,
        step,
        ..Cost::default()
    };
    let mock = Mock::start(MockOptions {
        cost,
        ..MockOptions::default()
    })
    .await
    .unwrap();
    let victim = Victim {
        address: mock.address(),
        host: "localhost".to_owned(),
        authorization: None,
        model: "mock".to_owned(),
        connections: 3,
        patience: Duration::from_secs(2),
    };
    let mut findings = Vec::new();
    for kind in kinds {
        findings.push(kind.run(&victim).await);
    }
    findings
}

#[tokio::test]
async fn a_server_that_copes_is_good() {
    for finding in findings(&[Abuse::Flood, Abuse::Disconnects, Abuse::Malformed]).await {
        assert!(finding.good, "{finding:?}");
        assert!(
            finding.others.contains("requests of others answered"),
            "{finding:?}"
        );
    }
}

#[tokio::test]
async fn a_server_that_waits_for_ever_is_not() {
    let finding = findings(&[Abuse::SlowHeaders]).await.remove(0);
    assert!(
        !finding.good,
        "a mock has no timer for slow heads: {finding:?}"
    );
    assert_eq!(finding.seen, "3 of 3 were still open");
}

#[tokio::test]
async fn a_server_that_is_slow_to_the_end_but_goes_on_is_good() {
    // 2,000 tokens of 20 ms each are not over within the pause of 5 s and 2 s of patience.
    let findings = findings_at(Duration::from_millis(20), &[Abuse::SlowReaders]).await;
    assert!(findings[0].good, "{findings:?}");
    assert_eq!(
        findings[0].seen,
        "0 of 3 came to an end, 3 went on, 0 stood still"
    );
}

/// Says a word to whoever connects, as much as buffers hold, and then nothing for ever.
async fn stuck() -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::task::spawn_local(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nword";
            tokio::io::AsyncWriteExt::write_all(&mut stream, head)
                .await
                .ok();
            kept.push(stream);
        }
    });
    (address, serving)
}

#[tokio::test]
async fn a_server_that_forgets_whoever_read_late_is_not() {
    let local = tokio::task::LocalSet::new();
    let finding = local
        .run_until(async {
            let (address, serving) = stuck().await;
            let victim = Victim {
                address,
                host: "localhost".to_owned(),
                authorization: None,
                model: "mock".to_owned(),
                connections: 2,
                patience: Duration::from_secs(1),
            };
            let finding = Abuse::SlowReaders.run(&victim).await;
            serving.abort();
            finding
        })
        .await;
    assert!(!finding.good, "{finding:?}");
    assert_eq!(
        finding.seen,
        "0 of 2 came to an end, 0 went on, 2 stood still"
    );
}
