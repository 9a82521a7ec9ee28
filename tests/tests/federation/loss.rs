//! Whatever goes away under load, no request fails, no stream ends without its end, no token is lost or doubled. How much
//! longer first tokens take meanwhile is printed beside that, for runs of two thousand requests (`scripts/soak`).

use anyhow::Result;
use hansa_loadtest::faults::Fault;
use hansa_loadtest::faults::fault::FaultKind;
use hansa_tests::federation::{Federation, Shape, Site};
use hansa_tests::felt::Felt;
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

/// Requests that each site has been sent.
async fn sent(federation: &Federation) -> Result<[f64; 3]> {
    let mut sent = [0.0; 3];
    for (sent, site) in sent.iter_mut().zip(["a", "b", "c"]) {
        *sent = federation.sent_to(site).await?;
    }
    Ok(sent)
}

/// Requests that come before a fault at most: half a minute of them.
const BEFORE_MAX: f64 = 420.0;

/// Runs the load, and the fault called `what` once a third of it has come.
async fn under_load(
    what: &str,
    federation: &mut Federation,
    fault: impl AsyncFnOnce(&mut Federation) -> Result<()>,
) -> Result<()> {
    let url = federation.url();
    let breaking = async {
        until("load at every site", async || {
            let sent = sent(federation).await?;
            let before = (requests() as f64 / 3.0).min(BEFORE_MAX);
            let come = sent.iter().sum::<f64>() >= before;
            Ok(come && sent.iter().all(|sent| *sent >= 3.0))
        })
        .await?;
        fault(federation).await?;
        Ok(sent(federation).await?.iter().sum::<f64>())
    };
    let (report, arrived) = tokio::join!(load(&url), breaking);
    let (report, arrived): (Report, Result<f64>) = (report?, arrived);
    println!(
        "{what}: {}; longest gap {:.0} ms",
        Felt::of(&report.run, arrived? as u64),
        report.longest_gap_ms()
    );
    report.all_good(requests())?;
    federation
        .gateway
        .metric_becomes("hansa_requests_in_flight", 0.0)
        .await
}

/// Waits until a site has something to lose.
async fn working(site: &Site) -> Result<()> {
    let node = &site.nodes[0].server;
    until("work at the site", async || {
        Ok(node.metric("hansa_engine_running").await? > 0.0)
    })
    .await
}

#[tokio::test]
async fn a_site_that_dies_under_load_costs_no_request() -> Result<()> {
    let mut federation = Federation::start(&Shape::default()).await?;
    under_load("a site is killed", &mut federation, async |federation| {
        working(&federation.sites[1]).await?;
        federation.sites[1].kill()
    })
    .await
}

#[tokio::test]
async fn a_site_that_drains_costs_no_request() -> Result<()> {
    let mut federation = Federation::start(&Shape::default()).await?;
    under_load("a site drains", &mut federation, async |federation| {
        working(&federation.sites[1]).await?;
        federation.sites[1].gateway.terminate()
    })
    .await
}

#[tokio::test]
async fn a_node_that_dies_and_one_that_drains_cost_no_request() -> Result<()> {
    let mut federation = Federation::start(&Shape::default()).await?;
    under_load(
        "a node dies and one drains",
        &mut federation,
        async |federation| {
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
        },
    )
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
    // It hears all, and its answers stand still.
    wire_fails("a site falls silent", FaultKind::Stall { after_bytes: 0 }).await
}

#[tokio::test]
async fn a_site_that_is_cut_off_costs_no_request() -> Result<()> {
    wire_fails("a site is cut off", FaultKind::Partition).await
}

#[tokio::test]
async fn a_site_whose_packets_vanish_costs_no_request() -> Result<()> {
    wire_fails("a site is a black hole", FaultKind::BlackHole).await
}

/// What befalls the wire to a site that works, and stays.
async fn wire_fails(what: &str, kind: FaultKind) -> Result<()> {
    let mut federation = Federation::start(&Shape::default()).await?;
    under_load(what, &mut federation, async |federation| {
        let site = &federation.sites[2];
        working(site).await?;
        site.wire.inject(kind);
        Ok(())
    })
    .await
}
