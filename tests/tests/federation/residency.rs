//! No byte of a request reaches a site that it may not go to, whatever happens to the others.

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use hansa_loadtest::faults::Fault;
use hansa_loadtest::faults::fault::FaultKind;
use hansa_tests::federation::{Federation, Shape};
use serde_json::json;

use crate::until;

/// Stands in every prompt, and in nothing else.
const MARKER: &str = "kraken-of-the-north";

/// What the allowed sites suffer, one after the other.
const FAULTS: [FaultKind; 10] = [
    FaultKind::Kill,
    FaultKind::Errors { status: 500 },
    FaultKind::Errors { status: 429 },
    FaultKind::Reset { after_bytes: 600 },
    FaultKind::Truncate { after_bytes: 0 },
    FaultKind::Drain,
    FaultKind::Stall { after_bytes: 0 },
    FaultKind::Partition,
    FaultKind::BlackHole,
    FaultKind::SlowHeaders {
        pause: Duration::from_millis(100),
    },
];

#[tokio::test]
async fn no_fault_sends_a_request_to_a_site_that_is_not_allowed() -> Result<()> {
    let shape = Shape {
        countries: vec!["FI", "DE", "US"],
        nodes: 1,
        step_us: 1_000,
        sequences_max: 16,
        marker: MARKER,
        site_lines: "first_byte_timeout_ms = 500\nidle_timeout_ms = 500",
        ..Shape::default()
    };
    let federation = Federation::start(&shape).await?;
    until("an answer from Europe", async || {
        Ok(ask(&federation, "FI,DE").await? == 200)
    })
    .await?;
    let mut served = 0;
    for kind in FAULTS {
        for broken in [&[0][..], &[0, 1]] {
            let healed = broken.iter().map(|&site| {
                let wire = &federation.sites[site].wire;
                (wire, wire.inject(Fault::of(kind)))
            });
            let healed: Vec<_> = healed.collect();
            for _ in 0..3 {
                let status = ask(&federation, "FI,DE").await?;
                ensure!(matches!(status, 200 | 500..=504), "{kind}: {status}");
                served += u32::from(status == 200);
            }
            healed
                .into_iter()
                .for_each(|(wire, fault)| wire.heal(fault));
        }
    }
    println!("{served} of {} served", FAULTS.len() * 6);
    let forbidden = &federation.sites[2];
    ensure!(
        forbidden.wire.seen().sightings == 0,
        "a request went to a site that was not allowed"
    );
    ensure!(federation.sent_to("c").await? < 0.5);
    ensure!(forbidden.nodes[0].wire.seen().sightings == 0);
    let allowed: u64 = federation.sites[..2]
        .iter()
        .map(|site| site.wire.seen().sightings)
        .sum();
    ensure!(allowed > 0, "the marker is seen where it may go");
    // It is there for everyone else.
    until("an answer from elsewhere", async || {
        Ok(ask(&federation, "US").await? == 200)
    })
    .await?;
    ensure!(forbidden.wire.seen().sightings > 0);
    Ok(())
}

/// Asks as a peer that allows these countries alone; the status.
async fn ask(federation: &Federation, countries: &str) -> Result<u16> {
    let body = json!({"model": "sim", "prompt": MARKER, "max_tokens": 8, "stream": true});
    let headers = [
        ("x-hansa-peer", Federation::secret()),
        ("x-hansa-allow-countries", countries),
    ];
    let client = federation.gateway.client();
    let asking = client.send_with(
        "POST",
        "/v1/completions",
        &headers,
        Bytes::from(body.to_string()),
    );
    Ok(tokio::time::timeout(Duration::from_secs(30), asking)
        .await??
        .status)
}
