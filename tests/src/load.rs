//! Load from the load tester's own process, and what it found.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use hansa_loadtest::raw::Run;
use serde_json::Value;
use tokio::process::Command;

use crate::build::loadtest_binary;

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    figures: Value,
    /// Every request of it.
    pub run: Run,
}

/// Drives `url` with the model `sim`, all texts checked byte for byte, and `more` arguments of `hansa-loadtest drive`.
///
/// # Errors
/// Where the load tester could not run; that requests failed is for the report to tell.
pub async fn drive(url: &str, more: &str) -> Result<Report> {
    let folder = tempfile::tempdir()?;
    let raw = folder.path().join("requests.jsonl");
    let mut command = Command::new(loadtest_binary());
    command
        .arg("drive")
        .arg("--raw")
        .arg(&raw)
        .args([
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
    let figures =
        serde_json::from_slice(&output.stdout).with_context(|| format!("no report: {said}"))?;
    let run = Run::load(&raw).map_err(|problems| anyhow::anyhow!("{problems}"))?;
    Ok(Report { figures, run })
}

impl Report {
    /// Holds that all of so many requests were good: whole to the byte, each with its terminal event.
    ///
    /// # Errors
    /// What became of them.
    pub fn all_good(&self, requests: u64) -> Result<()> {
        let counts = &self.figures["requests"];
        ensure!(
            counts["good"] == requests && counts["failed"] == 0,
            "{counts:#}"
        );
        Ok(())
    }

    /// Good requests.
    #[must_use]
    pub fn good(&self) -> u64 {
        self.figures["requests"]["good"].as_u64().unwrap_or(0)
    }

    /// Good and failed ones.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.figures["requests"]["total"].as_u64().unwrap_or(0)
    }

    /// What failed, and how often.
    #[must_use]
    pub fn failures(&self) -> String {
        self.figures["requests"]["failures"].to_string()
    }

    /// A percentile of the time to first token from the due time, in milliseconds: `p50`, `p99`, `max`.
    #[must_use]
    pub fn ttft_ms(&self, percentile: &str) -> f64 {
        self.figures["response"]["ttft_ms"][percentile]
            .as_f64()
            .unwrap_or(f64::NAN)
    }

    /// The longest gap between two events of a stream, in milliseconds.
    #[must_use]
    pub fn longest_gap_ms(&self) -> f64 {
        self.figures["itl_ms"]["max"].as_f64().unwrap_or(f64::NAN)
    }
}
