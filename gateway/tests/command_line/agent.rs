//! `hansa agent` with a Slurm of shell scripts that really runs its jobs, as processes of this machine.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::{hansa, output, terminate};

/// Looks at something that is awaited, 10 ms apart: half a minute.
const LOOKS: usize = 3_000;

const PEER: &str = "[server]\nlisten = \"127.0.0.1:0\"\ngrace_ms = 200\n\
    [admin]\nlisten = \"127.0.0.1:0\"\n[peer]\nsecret_file = \"FOLDER/secret\"\n";
const GATEWAY: &str = "[[node]]\nname = \"gpu\"\nmodels = [\"sim\"]\ndiscover = \"agent\"\n";
const NODE: &str = "[[model]]\nid = \"sim\"\nrunner = \"sim\"\n";
const AGENT: &str = "[agent]\ngateway = \"http://GATEWAY\"\nslurm = \"FOLDER\"\noutput = \"FOLDER\"\npoll_s = 1\n\
    [[job]]\nnode = \"gpu\"\nconfig = \"FOLDER/node.toml\"\nsetup = [\"echo set up\"]\n";

/// Runs a job as a process of its own and remembers it.
const SBATCH: &str = "id=$(($(cat last 2>/dev/null || echo 0) + 1))\necho $id > last\ncat > script.$id\n\
    SLURM_JOB_ID=$id setsid bash script.$id > job.$id.log 2>&1 < /dev/null &\necho $! > pid.$id\necho $id\n";
const SQUEUE: &str = "for pid in pid.*; do\n[ -e $pid ] || continue\n\
    kill -0 $(cat $pid) 2>/dev/null && state=RUNNING || state=COMPLETED\n\
    echo \"${pid#pid.}|hansa-gpu.0|$state|11:00:00|0:01\"\ndone\n";
const SCANCEL: &str = "for id in \"$@\"; do :; done\nkill -TERM $(cat pid.$id)\n";

/// A folder with such a Slurm; its jobs end with it.
struct Cluster(tempfile::TempDir);

impl Cluster {
    fn new() -> Self {
        let cluster = Self(tempfile::tempdir().unwrap());
        for (name, body) in [("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SCANCEL)] {
            let file = cluster.path().join(name);
            let folder = cluster.path().display();
            fs::write(&file, format!("#!/bin/sh\ncd {folder}\n{body}")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(cluster.path().join("secret"), "the-secret-of-all-peers").unwrap();
        cluster
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn config(&self, name: &str, text: &str) -> String {
        let path = self.path().join(name);
        let text = text.replace("FOLDER", &self.path().display().to_string());
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn log(&self, job: u32) -> String {
        fs::read_to_string(self.path().join(format!("job.{job}.log"))).unwrap_or_default()
    }

    fn cancel(&self, job: u32) {
        let mut command = Command::new(self.path().join("scancel"));
        let _ = command.arg(job.to_string()).stderr(Stdio::null()).status();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let last = fs::read_to_string(self.path().join("last")).unwrap_or_default();
        let last = last.trim().parse().unwrap_or(0);
        (1..=last).for_each(|job| self.cancel(job));
    }
}

/// A process that ends with the test, and the addresses that it prints.
struct Process(Child, Value);

impl Process {
    fn start(args: &[&str]) -> Self {
        let mut command = hansa(args);
        for name in ["SLURM_JOB_ID", "SLURM_JOB_END_TIME"] {
            command.env_remove(name);
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        Self(child, serde_json::from_str(&line).unwrap())
    }

    fn ask(&self, listener: &str, request: &str) -> String {
        let address = self.1[listener].as_str().unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        let mut answer = String::new();
        stream.write_all(request.as_bytes()).unwrap();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn is_ready(&self) -> bool {
        let request = "GET /health/ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        self.ask("admin", request).starts_with("HTTP/1.1 200")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until(what: &str, good: impl Fn() -> bool) {
    for _ in 0..LOOKS {
        if good() {
            return;
        }
        sleep(Duration::from_millis(10));
    }
    panic!("waited in vain for {what}");
}

#[test]
fn a_job_serves_through_the_agent_that_submitted_it_and_outlives_it() {
    let cluster = Cluster::new();
    cluster.config("node.toml", &format!("{PEER}{NODE}"));
    let config = cluster.config("gateway.toml", &format!("{PEER}{GATEWAY}"));
    let gateway = Process::start(&["serve", "--config", &config]);
    let address = gateway.1["listen"].as_str().unwrap();
    let text = format!("{PEER}{AGENT}").replace("GATEWAY", address);
    let config = cluster.config("agent.toml", &text);
    let mut agent = Process::start(&["agent", "--config", &config]);
    until("a job to serve", || gateway.is_ready());
    until("the agent to see it", || agent.is_ready());
    let body = r#"{"model":"sim","max_tokens":2,"messages":[{"role":"user","content":"hi"}]}"#;
    let length = body.len();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let answer = gateway.ask("listen", &request);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("x-hansa-site: local/gpu/0"), "{answer}");
    let log = cluster.log(1);
    assert!(
        log.contains("set up\n") && log.contains("lent for some time"),
        "{log}"
    );

    terminate(&agent.0);
    assert_eq!(agent.0.wait().unwrap().code(), Some(0));
    until("the gateway to miss the job", || !gateway.is_ready());
    // The next agent listens where the job calls, and goes on with it.
    let listen = agent.1["listen"].as_str().unwrap();
    let text = text.replacen("127.0.0.1:0", listen, 1);
    let config = cluster.config("agent.toml", &text);
    let agent = Process::start(&["agent", "--config", &config]);
    until("the job to call again", || {
        gateway.is_ready() && agent.is_ready()
    });
    let last = fs::read_to_string(cluster.path().join("last")).unwrap();
    assert_eq!(last, "1\n", "another job was submitted");
    cluster.cancel(1);
    until("the job to end in order", || {
        cluster.log(1).contains("drained=InOrder")
    });
}

#[test]
fn a_config_is_an_agents_or_a_servers() {
    let cluster = Cluster::new();
    let agent = cluster.config(
        "agent.toml",
        &format!("{PEER}{AGENT}").replace("GATEWAY", "127.0.0.1:1"),
    );
    let node = cluster.config("node.toml", &format!("{PEER}{NODE}"));
    for (args, named) in [
        (["serve", "--config", &agent], "hansa agent"),
        (["agent", "--config", &node], "[agent]"),
    ] {
        let output = output(&args);
        assert_eq!(output.status.code(), Some(64), "{output:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains(named), "{stderr}");
    }
}
