//! A server as a process of its own: it can be killed, stopped and told to go on, and what it had in memory goes with it.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hansa_gateway::tenant::secret::Secret;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::harness::{Answer, PATIENCE, exchange};
use crate::quota::request;

/// The process; killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    pub(crate) clients: SocketAddr,
    pub(crate) operators: SocketAddr,
}

impl Process {
    /// A server that has bound its listeners, of which the admin's is one.
    pub(crate) fn start(config: &Path) -> Self {
        let log = config.with_extension("log");
        let mut child = Command::new(env!("CARGO_BIN_EXE_hansa"))
            .args(["serve", "--config"])
            .arg(config)
            .env("HANSA_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let bound: Value = serde_json::from_str(&line).unwrap();
        let address = |name: &str| bound[name].as_str().unwrap().parse().unwrap();
        Self {
            child,
            log,
            clients: address("listen"),
            operators: address("admin"),
        }
    }

    /// What it has written of warnings and errors.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// At once, and with no chance to write anything.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it in order.
    pub(crate) fn stop(mut self) {
        self.signal("-TERM");
        assert!(self.child.wait().unwrap().success());
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let mut kill = Command::new("kill");
        assert!(kill.args([name, &pid]).status().unwrap().success());
    }

    /// One request, to the listener whose path it is.
    pub(crate) async fn call(&self, method: &str, path: &str, key: &Secret, body: &str) -> Answer {
        let address = match path.starts_with("/v1/") {
            true => self.clients,
            false => self.operators,
        };
        exchange(address, &request(method, path, key.reveal(), body)).await
    }

    pub(crate) async fn get(&self, path: &str, key: &Secret) -> Answer {
        self.call("GET", path, key, "").await
    }

    pub(crate) async fn until_ready(&self, key: &Secret) {
        let last = Cell::new(None);
        let ready = async {
            loop {
                let answer = self.get("/health/ready", key).await;
                if answer.status == 200 {
                    return;
                }
                last.set(Some(answer));
                sleep(Duration::from_millis(20)).await;
            }
        };
        let became = timeout(PATIENCE, ready).await;
        assert!(became.is_ok(), "never ready: {:?}", last.take());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
