//! A server of one kind, from its start until it is ready, and its end.

use std::env::temp_dir;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::Args;

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Hansa,
    LlamaServer,
}

/// A running server; it ends when this is dropped.
pub struct Server {
    child: Child,
    pub url: String,
    pub model: String,
}

/// Sequences at once, and tokens of context that they share: 32 times (128 + 64 and a template), or 4 times 1,100.
const SEQUENCES: &str = "32";
const CONTEXT: &str = "10240";

impl Server {
    pub fn start(kind: Kind, args: &Args) -> Result<Self> {
        let address = free_address()?;
        let file = args.model.to_str().context("the model's path is no text")?;
        let config = temp_dir().join(format!("hansa-peer-{}.toml", address.port()));
        let mut command = match kind {
            Kind::Hansa => {
                let mut command = Command::new(&args.hansa);
                command.args([
                    "serve",
                    "--listen",
                    &address.to_string(),
                    "--admin-listen",
                    "none",
                ]);
                match args.kv_bytes {
                    Some(bytes) => {
                        fs::write(
                            &config,
                            format!(
                                "[[model]]\nid = \"model\"\nsource = {file:?}\nkv_bytes_max = {bytes}\n"
                            ),
                        )?;
                        command.arg("--config").arg(&config);
                    }
                    None => {
                        command.args(["--model", file]);
                    }
                }
                command
            }
            Kind::LlamaServer => {
                let mut command = Command::new(&args.llama_server);
                command.args(["-m", file, "--port", &address.port().to_string()]);
                command.args([
                    "-t",
                    &args.threads.to_string(),
                    "-np",
                    SEQUENCES,
                    "-c",
                    CONTEXT,
                ]);
                command.args(["--kv-unified", "--alias", "model"]);
                command
            }
        };
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut server = Self {
            child: child.with_context(|| format!("{kind:?} does not start"))?,
            url: format!("http://{address}"),
            model: "model".to_owned(),
        };
        let ready = server.wait_until_ready(kind, address);
        fs::remove_file(config).ok();
        ready?;
        if kind == Kind::Hansa {
            server.model = first_model(&get(address, "/v1/models")?)?;
        }
        Ok(server)
    }

    fn wait_until_ready(&mut self, kind: Kind, address: SocketAddr) -> Result<()> {
        let path = match kind {
            Kind::Hansa => "/health/ready",
            Kind::LlamaServer => "/health",
        };
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(60) {
            if let Some(status) = self.child.try_wait()? {
                bail!("{kind:?} ended at once: {status}");
            }
            if get(address, path).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("{kind:?} is not ready after a minute")
    }

    /// Largest resident size of the process so far.
    pub fn peak_resident_mb(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = peak.and_then(|line| line.trim().strip_suffix(" kB"));
        let kilobytes: f64 = kilobytes.context("no VmHWM")?.parse()?;
        Ok(kilobytes / 1024.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A child that has gone already is as good as one that was ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn first_model(answer: &str) -> Result<String> {
    let body = answer.find('{').map_or("", |at| &answer[at..]);
    let body = &body[..=body.rfind('}').context("no list of models")?];
    let list: serde_json::Value = serde_json::from_str(body)?;
    let id = list
        .pointer("/data/0/id")
        .and_then(serde_json::Value::as_str);
    Ok(id.context("no model is served")?.to_owned())
}
