//! Whatever goes away under load, no request fails, no stream ends without its end, no token is lost or doubled.

use anyhow::Result;
use hansa_loadtest::faults::Fault;
use hansa_loadtest::faults::fault::FaultKind;
use hansa_tests::federation::{Federation, Shape};
use hansa_tests::load::{Report, drive};

use crate::{sized, until};

/// Requests of a run: about 14 a second for as many seconds as it takes.
fn requests() -> u64 {
    sized("HANSA_SOAK_FEDERATION_REQUESTS", 70)
}

/// 14 requests a second of 40 tokens: 70 % of what two sites of two nodes make when the third is gone.
async fn load(url: &str) -> Result<Report> {
    let asked = "--rate 14 --prompt-tokens 24 --output-tokens 40 --timeout 50s";
    drive(url, &format!("{asked} --requests {}", requests())).await
}

/// Runs the load, and `fault` in the middle of it.
async fn under_load(
    federation: &mut Federation,
    fault: impl AsyncFnOnce(&mut Federation) -> Result<()>,
) -> Result<()> {
    let url = federation.url();
    let breaking = async {
        until("load at every site", async || {
            for site in ["a", "b", "c"] {
                if federation.sent_to(site).await? < 3.0 {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await?;
        fault(federation).await
    };
    let (report, broken) = tokio::join!(load(&url), breaking);
    broken?;
    let report = report?;
    println!(
        "ttft p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms; longest gap {:.0} ms",
        report.ttft_ms("p50"),
        report.ttft_ms("p99"),
        report.ttft_ms("max"),
        report.longest_gap_ms()
    );
    report.all_good(requests())?;
    federation
        .gateway
        .metric_becomes("hansa_requests_in_flight", 0.0)
        .await
}

#[tokio::test]
async fn a_site_that_dies_under_load_costs_no_request() -> Result<()> {
    let mut federation = Federation::start(&Shape::default()).await?;
    under_load(&mut federation, async |federation| {
        let site = &mut federation.sites[1];
        until("work at the site", async || {
            Ok(site.nodes[0].server.metric("hansa_engine_running").await? > 0.0)
        })
        .await?;
        site.kill()
    })
    .await
}

#[tokio::test]
async fn a_node_that_dies_and_one_that_drains_cost_no_request() -> Result<()> {
    let mut federation = Federation::start(&Shape::default()).await?;
    under_load(&mut federation, async |federation| {
        let [dying, draining, ..] = &mut federation.sites[..] else {
            anyhow::bail!("three sites");
        };
        draining.nodes[1].server.terminate()?;
        let node = &mut dying.nodes[0].server;
        until("work at the node", async || {
            Ok(node.metric("hansa_engine_running").await? > 0.0)
        })
        .await?;
        node.kill()
    })
    .await
}

#[tokio::test]
async fn links_that_break_cost_no_request_while_one_site_is_whole() -> Result<()> {
    // Half of the connections break after every few events, so some streams lose theirs again and again.
    let shape = Shape {
        resumes_max: 16,
        ..Shape::default()
    };
    let federation = Federation::start(&shape).await?;
    let reset = FaultKind::Reset { after_bytes: 3_000 };
    let cut = FaultKind::Truncate { after_bytes: 3_000 };
    // On half of the connections each, so that those made anew may be hit again, or not.
    let (near, far) = (
        &federation.sites[0].wire,
        &federation.sites[2].nodes[0].wire,
    );
    near.inject(Fault {
        kind: reset,
        share: 0.5,
    });
    far.inject(Fault {
        kind: cut,
        share: 0.5,
    });
    federation.sites[2].nodes[1]
        .wire
        .inject(FaultKind::Latency {
            delay: std::time::Duration::from_millis(30),
            jitter: std::time::Duration::from_millis(30),
        });
    load(&federation.url()).await?.all_good(requests())?;
    federation
        .gateway
        .metric_becomes("hansa_requests_in_flight", 0.0)
        .await
}

#[tokio::test]
async fn a_site_that_falls_silent_costs_no_request() -> Result<()> {
    let mut federation = Federation::start(&Shape::default()).await?;
    under_load(&mut federation, async |federation| {
        let site = &federation.sites[2];
        until("work at the site", async || {
            Ok(site.nodes[0].server.metric("hansa_engine_running").await? > 0.0)
        })
        .await?;
        site.wire.inject(FaultKind::Partition);
        Ok(())
    })
    .await
}
