//! Servers that nobody can call: they call, directly or through an agent, and serve what comes back.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use hansa_config::Config;
use hansa_config::schema::agent::{Dial, Job};
use hansa_config::schema::{Discover, Upstream};
use hansa_gateway::agent::run::AgentApp;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::harness::{
    Answer, PATIENCE, Server, Wire, bare, chat, exchange, gateway, model, node, post, sim_text,
    spawn,
};
use crate::tls::pem;

const PATH: &str = "/v1/chat/completions";
const SECRET: &str = "x-hansa-peer: the-secret-of-all-peers\r\n";

/// The node `gpu` of a gateway, whose servers call.
fn calling() -> Upstream {
    Upstream {
        name: "gpu".to_owned(),
        discover: Discover::Agent,
        models: vec![model("sim", "sim")],
        ..Upstream::default()
    }
}

/// A server of the node `gpu` that calls `gateway`, and takes 2 ms for a token.
fn caller(gateway: SocketAddr) -> Config {
    let mut config = node();
    config.models[0].sim.step_base_us = 2_000;
    config.dial = Dial {
        gateway: Some(format!("http://{gateway}")),
        node: Some("gpu".to_owned()),
        connections: 2,
    };
    config
}

async fn until_ready(server: &Server) {
    server
        .wait_for("/health/ready", |answer| answer.status == 200)
        .await;
}

/// Asks, many at a time so that no server alone is the best for all of them, until `node` serves.
async fn until_served_by(site: &Server, node: &str) {
    let body = chat(r#""max_tokens":20"#);
    let asking = async {
        loop {
            let answers = (0..16).map(|_| site.post(PATH, &body));
            let answers = futures::future::join_all(answers).await;
            if answers.iter().any(|answer| answer.node() == node) {
                return;
            }
        }
    };
    timeout(PATIENCE, asking).await.unwrap();
}

#[tokio::test]
async fn a_server_that_calls_is_an_upstream_for_as_long_as_it_is_there() {
    let site = Server::launch(gateway(vec![calling()])).await;
    let early = site.post(PATH, &chat(r#""max_tokens":2"#)).await;
    assert_eq!(early.status, 503, "{early:?}");
    let server = Server::start(caller(site.clients)).await;
    until_ready(&site).await;
    let body = chat(r#""max_tokens":3"#);
    let answers = (0..20).map(|_| site.post(PATH, &body));
    for answer in futures::future::join_all(answers).await {
        assert_eq!((answer.status, answer.node()), (200, "gpu/0".to_owned()));
        let text = &answer.json()["choices"][0]["message"]["content"];
        assert_eq!(text, &sim_text(7, 0, 3));
    }
    server.stop().await;
    site.wait_for("/health/ready", |answer| answer.status == 503)
        .await;
    site.stop().await;
}

#[tokio::test]
async fn a_server_calls_again_when_its_connections_break() {
    let site = Server::launch(gateway(vec![calling()])).await;
    let wire = Wire::to(site.clients).await;
    let cut = wire.address;
    let mut config = caller(cut);
    config.dial.connections = 1;
    let server = Server::start(config).await;
    until_ready(&site).await;
    wire.cut();
    site.wait_for("/health/ready", |answer| answer.status == 503)
        .await;
    let whole = Wire::at(cut, site.clients).await;
    until_ready(&site).await;
    assert_eq!(
        site.post(PATH, &chat(r#""max_tokens":2"#)).await.status,
        200
    );
    server.stop().await;
    drop(whole);
    site.stop().await;
}

/// Starts a long stream at `site`, and gives its text so far and what is still to come.
async fn begin_stream(site: &Server, tokens: u64) -> (TcpStream, String) {
    let body = chat(&format!(r#""max_tokens":{tokens},"stream":true"#));
    let mut stream = TcpStream::connect(site.clients).await.unwrap();
    stream
        .write_all(post(PATH, "", &body).as_bytes())
        .await
        .unwrap();
    let mut text = String::new();
    while text.matches(r#""content":""#).count() < 10 {
        let mut piece = [0; 4096];
        let read = timeout(PATIENCE, stream.read(&mut piece))
            .await
            .unwrap()
            .unwrap();
        assert!(read > 0, "{text}");
        text += std::str::from_utf8(&piece[..read]).unwrap();
    }
    (stream, text)
}

/// The answer of a stream, read to its end.
async fn end_stream((mut stream, mut text): (TcpStream, String)) -> Answer {
    let reading = stream.read_to_string(&mut text);
    timeout(PATIENCE, reading).await.unwrap().unwrap();
    Answer::parse(&text)
}

fn content(answer: &Answer) -> String {
    let events = answer.events();
    assert_eq!(
        events.last().map(String::as_str),
        Some("[DONE]"),
        "{answer:?}"
    );
    let chunks = events
        .iter()
        .filter_map(|e| serde_json::from_str::<Value>(e).ok());
    let pieces = chunks.map(|chunk| {
        chunk["choices"][0]["delta"]["content"]
            .as_str()
            .map(str::to_owned)
    });
    pieces.flatten().collect()
}

#[tokio::test]
async fn a_stream_that_began_when_there_was_one_server_goes_on_with_the_next() {
    const TOKENS: u64 = 2_000;
    let site = Server::launch(gateway(vec![calling()])).await;
    let first = Server::start(caller(site.clients)).await;
    until_ready(&site).await;
    let stream = begin_stream(&site, TOKENS).await;
    let next = Server::start(caller(site.clients)).await;
    until_served_by(&site, "gpu/1").await;
    // Its grace is far shorter than the stream: what is left goes on elsewhere.
    first.stop().await;
    let answer = end_stream(stream).await;
    assert_eq!(answer.node(), "gpu/0");
    assert_eq!(content(&answer), sim_text(7, 0, TOKENS));
    site.wait_for_metric("hansa_requests_in_flight 0").await;
    // The number of one that left is free again.
    let third = Server::start(caller(site.clients)).await;
    until_served_by(&site, "gpu/0").await;
    for server in [next, third, site] {
        server.stop().await;
    }
}

#[tokio::test]
async fn who_is_no_peer_or_no_node_cannot_call() {
    let site = Server::launch(gateway(vec![calling()])).await;
    let ask = async |headers: &str| {
        let request = format!(
            "GET /hansa/v1/agent HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n"
        );
        exchange(site.clients, &request).await.status
    };
    let upgrade = "connection: upgrade\r\nupgrade: hansa-agent\r\n";
    let who = "x-hansa-node: gpu\r\nx-hansa-instance: i\r\n";
    assert_eq!(ask(&format!("{upgrade}{who}")).await, 403);
    assert_eq!(
        ask(&format!("x-hansa-peer: wrong\r\n{upgrade}{who}")).await,
        401
    );
    assert_eq!(ask(&format!("{SECRET}{who}")).await, 400);
    assert_eq!(ask(&format!("{SECRET}{upgrade}")).await, 400);
    let stranger = who.replace("gpu", "cpu");
    assert_eq!(ask(&format!("{SECRET}{upgrade}{stranger}")).await, 404);
    site.stop().await;
}

#[tokio::test]
async fn certificates_are_enough_to_call_and_to_be_believed() {
    let mut site = gateway(vec![calling()]);
    site.peer.secret_file = None;
    site.peer.ca = pem("ca.pem");
    site.server.tls_cert = pem("server.pem");
    site.server.tls_key = pem("server.key");
    let site = Server::launch(site).await;
    let mut config = caller(site.clients);
    config.dial.gateway = Some(format!("https://localhost:{}", site.clients.port()));
    config.peer.secret_file = None;
    config.peer.ca = pem("ca.pem");
    config.peer.cert = pem("peer.pem");
    config.peer.key = pem("peer.key");
    let server = Server::start(config).await;
    // Ready means that the server told the gateway its status, which it tells peers alone.
    until_ready(&site).await;
    server.stop().await;
    site.stop().await;
}

/// An agent in this process, with a Slurm that only notes what it is told.
struct Agent {
    nodes: SocketAddr,
    operators: SocketAddr,
    stop: CancellationToken,
    run: JoinHandle<()>,
}

impl Agent {
    async fn start(gateway: SocketAddr, slurm: &Path) -> Self {
        let mut config = bare();
        config.agent.gateway = Some(format!("http://{gateway}"));
        config.agent.slurm = Some(slurm.to_owned());
        config.agent.poll_s = 1;
        config.jobs = vec![Job {
            node: "gpu".to_owned(),
            config: Some("/node.toml".into()),
            ..Job::default()
        }];
        let app = AgentApp::build(config).await.unwrap();
        let addresses = app.addresses();
        let stop = CancellationToken::new();
        let told = stop.clone();
        let run = spawn(async move { app.run(told.cancelled()).await.unwrap() });
        Self {
            nodes: addresses.listen,
            operators: addresses.admin.unwrap(),
            stop,
            run,
        }
    }

    /// Waits until the agent's jobs stand so.
    async fn until(&self, states: &[(u64, &str)]) {
        let request = "GET /admin/v1/jobs HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let asking = async {
            loop {
                let answer = exchange(self.operators, request).await.json();
                let jobs = answer["replicas"][0]["jobs"].as_array().cloned();
                let seen: Vec<(u64, String)> = jobs
                    .unwrap_or_default()
                    .iter()
                    .map(|job| {
                        (
                            job["id"].as_u64().unwrap(),
                            job["state"].as_str().unwrap().to_owned(),
                        )
                    })
                    .collect();
                if seen
                    .iter()
                    .map(|(id, state)| (*id, state.as_str()))
                    .eq(states.iter().copied())
                {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, asking).await.unwrap();
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.run).await.unwrap().unwrap();
    }
}

/// A folder with commands that look like Slurm's: `squeue` prints the file `jobs`.
fn slurm(folder: &Path) {
    let place = folder.display();
    let note = format!("echo \"$(basename $0) $*\" >> {place}/told");
    let commands = [
        ("sbatch", format!("{note}; cat > {place}/script; echo 1")),
        ("squeue", format!("cat {place}/jobs")),
        ("scancel", note),
    ];
    picture(folder, "");
    for (name, body) in commands {
        let file = folder.join(name);
        std::fs::write(&file, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn picture(folder: &Path, jobs: &str) {
    let new = folder.join("jobs.new");
    std::fs::write(&new, jobs).unwrap();
    std::fs::rename(new, folder.join("jobs")).unwrap();
}

/// A connection to an agent as the server of `job`, for as long as it is held.
async fn call(agent: &Agent, job: u64) -> TcpStream {
    let mut stream = TcpStream::connect(agent.nodes).await.unwrap();
    let request = format!(
        "GET /hansa/v1/agent HTTP/1.1\r\nhost: agent\r\nconnection: upgrade\r\nupgrade: hansa-agent\r\n{SECRET}\
         x-hansa-node: gpu\r\nx-hansa-instance: {job}\r\nx-hansa-job: {job}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    stream
}

#[tokio::test]
async fn an_agent_carries_a_node_to_its_gateway() {
    let folder = tempfile::tempdir().unwrap();
    slurm(folder.path());
    let site = Server::launch(gateway(vec![calling()])).await;
    let agent = Agent::start(site.clients, folder.path()).await;
    let server = Server::start(caller(agent.nodes)).await;
    until_ready(&site).await;
    let whole = end_stream(begin_stream(&site, 100).await).await;
    assert_eq!(content(&whole), sim_text(7, 0, 100));
    let script = std::fs::read_to_string(folder.path().join("script")).unwrap();
    assert!(
        script.contains(&format!("--dial 'http://{}' --dial-as 'gpu'", agent.nodes)),
        "{script}"
    );
    agent.stop().await;
    site.wait_for("/health/ready", |answer| answer.status == 503)
        .await;
    server.stop().await;
    site.stop().await;
}

#[tokio::test]
async fn a_job_takes_the_place_of_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    slurm(path);
    let site = Server::launch(gateway(vec![calling()])).await;
    let agent = Agent::start(site.clients, path).await;
    agent.until(&[(1, "waiting")]).await;
    picture(
        path,
        "1|hansa-gpu.0|RUNNING|2:00:00|0:10\n7|another|RUNNING|1:00|0:01\n",
    );
    agent.until(&[(1, "starting")]).await;
    let first = call(&agent, 1).await;
    agent.until(&[(1, "serving")]).await;
    // One that somebody else submitted under the name counts as well.
    picture(
        path,
        "1|hansa-gpu.0|RUNNING|1:59:00|1:10\n2|hansa-gpu.0|RUNNING|2:00:00|0:05\n",
    );
    agent.until(&[(1, "serving"), (2, "starting")]).await;
    let next = call(&agent, 2).await;
    agent.until(&[(1, "serving"), (2, "serving")]).await;
    let told = async {
        let finish = "scancel --batch --signal=TERM 1\n";
        while !std::fs::read_to_string(path.join("told"))
            .unwrap()
            .contains(finish)
        {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, told).await.unwrap();
    drop(first);
    picture(
        path,
        "1|hansa-gpu.0|COMPLETED|INVALID|1:20\n2|hansa-gpu.0|RUNNING|2:00:00|0:15\n",
    );
    agent.until(&[(2, "serving")]).await;
    let told = std::fs::read_to_string(path.join("told")).unwrap();
    assert_eq!(told.matches("sbatch").count(), 1, "{told}");
    assert_eq!(told.matches("scancel").count(), 1, "{told}");
    drop(next);
    agent.stop().await;
    site.stop().await;
}

#[tokio::test]
async fn strangers_get_nothing_of_an_agent() {
    let folder = tempfile::tempdir().unwrap();
    slurm(folder.path());
    let agent = Agent::start(SocketAddr::from(([127, 0, 0, 1], 9)), folder.path()).await;
    for request in [
        "GET /hansa/v1/agent HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n",
        "GET /v1/models HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n",
    ] {
        assert_eq!(exchange(agent.nodes, request).await.status, 401);
    }
    let call = format!(
        "GET /hansa/v1/agent HTTP/1.1\r\nhost: agent\r\nconnection: upgrade\r\nupgrade: hansa-agent\r\n{SECRET}\
         x-hansa-node: gpu\r\nx-hansa-instance: i\r\n\r\n"
    );
    // Nobody listens where its gateway should be.
    let answer = exchange(agent.nodes, &call).await;
    assert_eq!(answer.status, 502, "{answer:?}");
    agent.stop().await;
}
