//! The findings must be honest: a server that copes is found good, one that does not is not.

use super::*;
use crate::faults::mock::{Cost, Mock, MockOptions};

async fn findings(kinds: &[Abuse]) -> Vec<Finding> {
    let cost = Cost {
        slots: 4,
        queue: 2,
        prefill: Duration::ZERO,
        prefill_token: Duration::ZERO,
        step: Duration::ZERO,
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
