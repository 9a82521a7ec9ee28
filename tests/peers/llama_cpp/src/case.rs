//! The loads, and what is read from a report.

use std::fmt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::Args;
use crate::server::Server;

/// A closed loop of users.
pub struct Case {
    pub name: &'static str,
    users: usize,
    prompt_tokens: usize,
    output_tokens: usize,
    /// Requests in all: several for each user, so that the ends of the run weigh little.
    requests: usize,
}

const fn short(name: &'static str, users: usize, requests: usize) -> Case {
    Case {
        name,
        users,
        prompt_tokens: 128,
        output_tokens: 64,
        requests,
    }
}

/// Prompts of 128 tokens and answers of 64 at rising concurrency, then long prompts with short answers.
pub const CASES: [Case; 6] = [
    short("1 user", 1, 6),
    short("4 users", 4, 16),
    short("8 users", 8, 32),
    short("16 users", 16, 64),
    short("32 users", 32, 128),
    Case {
        name: "4 users, prompts of 1,000",
        users: 4,
        prompt_tokens: 1_000,
        output_tokens: 32,
        requests: 12,
    },
];

/// What a user of the server feels.
pub struct Figures {
    pub tokens_per_s: f64,
    pub ttft_p99_ms: f64,
    pub gap_p50_ms: f64,
}

impl Case {
    /// Drives the server.
    pub fn run(&self, args: &Args, server: &Server) -> Result<Figures> {
        let loadtest = &args.loadtest;
        let endpoint = if args.completions {
            "completions"
        } else {
            "chat"
        };
        let output = Command::new(loadtest)
            .args(["drive", "--url", &server.url, "--model", &server.model])
            .args(["--endpoint", endpoint])
            .args(["--concurrency", &self.users.to_string()])
            .args(["--requests", &self.requests.to_string()])
            .args(["--prompt-tokens", &self.prompt_tokens.to_string()])
            .args(["--output-tokens", &self.output_tokens.to_string()])
            .args([
                "--warmup",
                "1",
                "--ignore-eos",
                "--timeout",
                "600s",
                "--json",
                "-",
            ])
            .output()
            .with_context(|| format!("{} does not run", loadtest.display()))?;
        let report: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("no report: {}", String::from_utf8_lossy(&output.stderr)))?;
        let number = |path: &str| {
            let value = report.pointer(path).and_then(Value::as_f64);
            value.with_context(|| format!("the report has no {path}"))
        };
        ensure!(
            number("/requests/failed")? == 0.0,
            "{} failed: {}",
            self.name,
            report["requests"]
        );
        Ok(Figures {
            tokens_per_s: number("/throughput/output_tok_s")?,
            ttft_p99_ms: number("/service/ttft_ms/p99")?,
            gap_p50_ms: number("/itl_ms/p50")?,
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            tokens_per_s,
            ttft_p99_ms,
            gap_p50_ms,
        } = self;
        write!(
            f,
            "{tokens_per_s:.0} tok/s, TTFT p99 {ttft_p99_ms:.0} ms, gap {gap_p50_ms:.1} ms"
        )
    }
}
