//! A federation of real processes under faults: nodes and sites die, links break, peers lie, load comes at twice the
//! capacity. What clients see of it, and what they must not.

#![expect(
    clippy::print_stdout,
    reason = "figures are printed beside their bars, not asserted"
)]

#[path = "federation/loss.rs"]
mod loss;
#[path = "federation/overload.rs"]
mod overload;
#[path = "federation/residency.rs"]
mod residency;
#[path = "federation/strangers.rs"]
mod strangers;

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{sleep, timeout};

/// Longer than anything that is awaited here may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `done` says so.
async fn until(what: &str, mut done: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let waiting = async {
        while !done().await? {
            sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    timeout(PATIENCE, waiting)
        .await
        .with_context(|| format!("{what} did not come about"))?
}

/// A number from the environment, for a run in full; else the sample's.
fn sized(name: &str, sample: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(sample)
}
