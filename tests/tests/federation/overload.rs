//! Failures and bursts must not feed themselves: retries are bounded, and after too much load all is well again.

use std::time::Duration;

use anyhow::{Result, ensure};
use hansa_loadtest::faults::fault::FaultKind;
use hansa_tests::federation::{Federation, Shape};
use hansa_tests::load::drive;

use crate::sized;

#[tokio::test]
async fn sites_that_fail_wholly_see_little_more_than_their_requests() -> Result<()> {
    let shape = Shape {
        nodes: 1,
        ..Shape::default()
    };
    let federation = Federation::start(&shape).await?;
    for site in &federation.sites {
        site.wire.inject(FaultKind::Errors { status: 500 });
    }
    let (requests, rate) = (120, 60);
    let more = format!(
        "--rate {rate} --requests {requests} --prompt-tokens 8 --output-tokens 4 --timeout 20s"
    );
    let report = drive(&federation.url(), &more).await?;
    ensure!(
        report.good() == 0 && report.total() == requests,
        "{}",
        report.failures()
    );
    // Status streams are asked for again and again besides, each counted here too.
    let seen: u64 = federation
        .sites
        .iter()
        .map(|site| site.wire.seen().refused)
        .sum();
    let seconds = requests as f64 / f64::from(rate) + 1.0;
    let sent = ["a", "b", "c"].map(async |site| federation.sent_to(site).await);
    let mut all = 0.0;
    for sent in sent {
        all += sent.await?;
    }
    println!(
        "{requests} requests became {all} to sites; {seen} refused by their proxies, status included"
    );
    let allowed = 1.2 * requests as f64 + 10.0 * seconds * federation.sites.len() as f64;
    ensure!(all <= allowed, "{all} of at most {allowed}");
    Ok(())
}

/// The metastable case: clients that time out leave work behind, and a server that goes on with it never catches up.
#[tokio::test]
async fn after_a_burst_at_twice_the_capacity_all_is_well_again() -> Result<()> {
    let shape = Shape {
        countries: vec!["FI"],
        queue_max: 64,
        ..Shape::default()
    };
    let federation = Federation::start(&shape).await?;
    // Two nodes make 10 requests of 40 tokens a second; clients give up after 3 seconds.
    let ask = "--prompt-tokens 16 --output-tokens 40 --arrival constant --timeout 3s";
    let burst = sized("HANSA_SOAK_BURST_SECONDS", 8);
    let report = drive(
        &federation.url(),
        &format!("{ask} --rate 20 --duration {burst}s"),
    )
    .await?;
    println!(
        "in the burst: {} good of {}; {}",
        report.good(),
        report.total(),
        report.failures()
    );
    ensure!(
        report.good() > 0,
        "some are served even then: {}",
        report.failures()
    );
    let settle = Duration::from_secs(sized("HANSA_SOAK_RECOVERY_SECONDS", 5));
    tokio::time::sleep(settle).await;
    let after = drive(&federation.url(), &format!("{ask} --rate 5 --requests 25")).await?;
    println!("after {settle:?}: ttft p99 {:.0} ms", after.ttft_ms("p99"));
    after.all_good(25)?;
    federation
        .gateway
        .metric_becomes("hansa_requests_in_flight", 0.0)
        .await
}
