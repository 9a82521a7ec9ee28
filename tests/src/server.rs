//! One `hansa serve` process: started on free ports, awaited until ready, ended with the test.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::build::hansa_binary;
use crate::client::Client;

/// Time within which a server must be ready: loading the default model takes a second or two, fetching it may take longer.
const READY_WITHIN: Duration = Duration::from_secs(300);

/// Pause between two looks at something that is awaited.
const POLL: Duration = Duration::from_millis(10);

/// A running `hansa serve`. Dropping it kills the process.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where operators connect.
    pub admin: SocketAddr,
    _config: Option<tempfile::TempDir>,
    log: PathBuf,
}

impl Server {
    /// Starts the server of a config text and waits until it is ready.
    ///
    /// # Errors
    /// Where the process ends early or is not ready in time; the error holds its log.
    pub async fn with_config(config: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("hansa.toml");
        std::fs::write(&file, config)?;
        let mut server = Self::spawn(|command| {
            command.arg("--config").arg(&file);
        })?;
        server._config = Some(folder);
        server.ready().await?;
        Ok(server)
    }

    /// Starts the server without a config, as a new user does: the default model.
    ///
    /// # Errors
    /// As [`Server::with_config`].
    pub async fn with_default_model() -> Result<Self> {
        let server = Self::spawn(|_| {})?;
        server.ready().await?;
        Ok(server)
    }

    /// Starts the server and returns once it has printed its addresses; it may still be loading.
    ///
    /// # Errors
    /// Where the process ends before it prints them.
    pub fn spawn(arguments: impl FnOnce(&mut Command)) -> Result<Self> {
        let log = tempfile::Builder::new()
            .prefix("hansa-")
            .suffix(".log")
            .tempfile()?;
        let (log_file, log) = log.keep()?;
        let mut command = Command::new(hansa_binary());
        command.args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ]);
        arguments(&mut command);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log_file);
        let mut child = command.spawn().context("hansa could not be started")?;
        match read_addresses(&mut child) {
            Ok((address, admin)) => Ok(Self {
                child,
                address,
                admin,
                _config: None,
                log,
            }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                bail!(
                    "{error:#}; its log:\n{}",
                    std::fs::read_to_string(&log).unwrap_or_default()
                )
            }
        }
    }

    /// A client of the data listener.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// A client of the admin listener.
    #[must_use]
    pub fn admin_client(&self) -> Client {
        Client::new(self.admin)
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the process has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Kills the process, as a machine that loses its power does.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends SIGTERM.
    ///
    /// # Errors
    /// Where `kill` cannot be run or refuses.
    pub fn terminate(&self) -> Result<()> {
        let status = Command::new("kill")
            .args(["-TERM", &self.pid().to_string()])
            .status()?;
        anyhow::ensure!(status.success(), "kill ended with {status}");
        Ok(())
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    /// Where it still runs after `within`.
    pub async fn exit(&mut self, within: Duration) -> Result<ExitStatus> {
        let ended = timeout(within, async {
            loop {
                if let Some(status) = self.child.try_wait()? {
                    return anyhow::Ok(status);
                }
                sleep(POLL).await;
            }
        });
        ended
            .await
            .with_context(|| format!("hansa still runs after {within:?}"))?
    }

    /// Waits until every model is ready.
    ///
    /// # Errors
    /// Where it is not within [`READY_WITHIN`].
    pub async fn ready(&self) -> Result<()> {
        let ready = timeout(READY_WITHIN, async {
            while !self
                .client()
                .get("/health/ready")
                .await
                .is_ok_and(|reply| reply.status == 200)
            {
                sleep(POLL).await;
            }
        });
        ready
            .await
            .with_context(|| format!("hansa is not ready; its log:\n{}", self.log()))
    }

    /// One sample of the metrics, summed over its labels.
    ///
    /// # Errors
    /// Where the metrics cannot be read or have no such name.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        self.metric_with(name, "").await
    }

    /// As [`Server::metric`], of the samples alone whose labels hold `label`.
    ///
    /// # Errors
    /// As [`Server::metric`].
    pub async fn metric_with(&self, name: &str, label: &str) -> Result<f64> {
        let reply = self.admin_client().get("/metrics").await?;
        let samples: Vec<f64> = reply
            .text()
            .lines()
            .filter(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        anyhow::ensure!(
            !samples.is_empty(),
            "no metric {name} in:\n{}",
            reply.text()
        );
        Ok(samples.iter().sum())
    }

    /// Waits until a metric has a value.
    ///
    /// # Errors
    /// Where it has not within 10 seconds; the error says what it had.
    pub async fn metric_becomes(&self, name: &str, wanted: f64) -> Result<()> {
        let mut value = f64::NAN;
        let reached = timeout(Duration::from_secs(10), async {
            while (value - wanted).abs() > 1e-9 || value.is_nan() {
                value = self.metric(name).await?;
                sleep(POLL).await;
            }
            anyhow::Ok(())
        });
        let reached = reached.await;
        reached.with_context(|| format!("{name} is {value}, wanted {wanted}"))?
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        remove_quietly(&self.log);
    }
}

fn remove_quietly(file: &Path) {
    let _ = std::fs::remove_file(file);
}

/// Reads the one JSON line that `hansa serve` prints once it is bound.
fn read_addresses(child: &mut Child) -> Result<(SocketAddr, SocketAddr)> {
    let stdout = child.stdout.take().context("no stdout")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let bound: Value =
        serde_json::from_str(&line).with_context(|| format!("no JSON line but {line:?}"))?;
    let address = |key: &str| -> Result<SocketAddr> {
        let text = bound[key]
            .as_str()
            .with_context(|| format!("no {key} in {line}"))?;
        Ok(text.parse()?)
    };
    Ok((address("listen")?, address("admin")?))
}
