//! Load from the load tester's own process, and what it found.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::process::Command;

use crate::build::loadtest_binary;

/// The report of a run.
#[derive(Debug)]
pub struct Report(Value);

/// Drives `url` with the model `sim`, all texts checked byte for byte, and `more` arguments of `hansa-loadtest drive`.
///
/// # Errors
/// Where the load tester could not run; that requests failed is for the report to tell.
pub async fn drive(url: &str, more: &str) -> Result<Report> {
    let mut command = Command::new(loadtest_binary());
    command
        .args([
            "drive",
            "--url",
            url,
            "--model",
            "sim",
            "--check-sim-tokens",
            "--json",
            "-",
        ])
        .args(more.split_whitespace())
        .env_remove("OPENAI_API_KEY")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = command
        .output()
        .await
        .context("hansa-loadtest could not be started")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report =
        serde_json::from_slice(&output.stdout).with_context(|| format!("no report: {said}"))?;
    Ok(Report(report))
}

impl Report {
    /// Holds that all of so many requests were good: whole to the byte, each with its terminal event.
    ///
    /// # Errors
    /// What became of them.
    pub fn all_good(&self, requests: u64) -> Result<()> {
        let counts = &self.0["requests"];
        ensure!(
            counts["good"] == requests && counts["failed"] == 0,
            "{counts:#}"
        );
        Ok(())
    }

    /// Good requests.
    #[must_use]
    pub fn good(&self) -> u64 {
        self.0["requests"]["good"].as_u64().unwrap_or(0)
    }

    /// Good and failed ones.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0["requests"]["total"].as_u64().unwrap_or(0)
    }

    /// What failed, and how often.
    #[must_use]
    pub fn failures(&self) -> String {
        self.0["requests"]["failures"].to_string()
    }

    /// A percentile of the time to first token from the due time, in milliseconds: `p50`, `p99`, `max`.
    #[must_use]
    pub fn ttft_ms(&self, percentile: &str) -> f64 {
        self.0["response"]["ttft_ms"][percentile]
            .as_f64()
            .unwrap_or(f64::NAN)
    }

    /// The longest gap between two events of a stream, in milliseconds.
    #[must_use]
    pub fn longest_gap_ms(&self) -> f64 {
        self.0["itl_ms"]["max"].as_f64().unwrap_or(f64::NAN)
    }
}
