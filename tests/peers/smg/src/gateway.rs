//! The gateways, as their users start them.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::Args;
use crate::upstream::{MODEL, Upstream};

/// The clock ticks of a processor second in Linux' process table.
const TICKS_PER_S: f64 = 100.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Hansa,
    Smg,
}

/// A gateway that runs until this is dropped.
pub struct Gateway {
    pub kind: Kind,
    pub address: SocketAddr,
    pub key: &'static str,
    child: Child,
    config: PathBuf,
}

impl Gateway {
    /// `None` where its program was not given.
    pub async fn start(kind: Kind, args: &Args, upstreams: &[Upstream]) -> Result<Option<Self>> {
        let address = free_address()?;
        let key = "hk-for-the-benchmark-0123456789abcdef";
        let config = std::env::temp_dir().join(format!("hansa-peer-smg-{}.toml", address.port()));
        let mut command = match kind {
            Kind::Hansa => {
                fs::write(&config, hansa_config(key, upstreams))?;
                let mut command = Command::new(&args.hansa);
                // As SMG below: no line a request.
                command.env("HANSA_LOG", "warn");
                command.args(["serve", "--config"]).arg(&config);
                command.args(["--listen", &address.to_string(), "--admin-listen", "none"]);
                command
            }
            Kind::Smg => {
                let Some(smg) = &args.smg else {
                    return Ok(None);
                };
                let mut command = Command::new(smg);
                command.args([
                    "launch",
                    "--host",
                    "127.0.0.1",
                    "--port",
                    &address.port().to_string(),
                ]);
                command.args([
                    "--policy",
                    "cache_aware",
                    "--log-level",
                    "warn",
                    "--worker-urls",
                ]);
                command.args(
                    upstreams
                        .iter()
                        .map(|upstream| format!("http://{}", upstream.address)),
                );
                command
            }
        };
        command
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command
            .spawn()
            .with_context(|| format!("{kind:?} does not start"))?;
        let gateway = Self {
            kind,
            address,
            key,
            child,
            config,
        };
        gateway.wait_until_ready().await?;
        Ok(Some(gateway))
    }

    async fn wait_until_ready(&self) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(60) {
            if crate::load::ready(self).await {
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
        bail!("{:?} is not ready after a minute", self.kind)
    }

    /// Processor time so far, of all its threads.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()?))?;
        // The name of the program, in parentheses, may hold anything.
        let (_, fields) = stat.rsplit_once(") ").context("an odd process table")?;
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|ticks| ticks.parse::<u64>().unwrap_or(0))
            .sum();
        Ok(Duration::from_secs_f64(ticks as f64 / TICKS_PER_S))
    }

    /// Memory that it holds.
    pub fn resident_kb(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(number.context("an odd process table")?.parse()?)
    }

    fn pid(&self) -> Result<u32> {
        self.child.id().context("the gateway ended")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        fs::remove_file(&self.config).ok();
    }
}

/// Two upstreams of another make, a key, a tenant whose requests are counted and whose tokens are reserved and settled.
fn hansa_config(key: &str, upstreams: &[Upstream]) -> String {
    let digest: String = Sha256::digest(key)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut config = format!(
        r#"
[[tenant]]
id = "uni"
requests_per_minute = 100000000
tokens_per_minute = 100000000000

[[key]]
id = "bench"
tenant = "uni"
sha256 = "{digest}"

[[allocation]]
id = "tokens"
tenant = "uni"
amount = 10000000000000
start = 2026-01-01
"#
    );
    for (i, upstream) in upstreams.iter().enumerate() {
        config.push_str(&format!(
            "[[node]]\nname = \"instant-{i}\"\nurl = \"http://{}\"\nkind = \"openai\"\nmodels = [\"{MODEL}\"]\n",
            upstream.address
        ));
    }
    config
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}
