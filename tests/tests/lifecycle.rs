//! How a server starts, ends, and what it leaves behind when clients go away.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hansa_loadtest::faults::abuse::{ALL, Victim};
use hansa_tests::{Server, hansa_binary};
use serde_json::{Value, json};

/// A simulated model slow enough that a stream is still running when something happens to it.
const SLOW: &str = r#"
[server]
grace_ms = GRACE

[[model]]
id = "sim"
runner = "sim"

[model.sim]
step_base_us = 5000
"#;

fn slow(grace_ms: u32) -> String {
    SLOW.replace("GRACE", &grace_ms.to_string())
}

fn endless() -> Value {
    json!({"model": "sim", "prompt": "on and on", "max_tokens": 4000, "stream": true})
}

#[tokio::test]
async fn sigterm_lets_a_stream_finish_within_the_grace_period() -> Result<()> {
    let mut server = Server::with_config(&slow(30_000)).await?;
    let request = json!({"model": "sim", "prompt": "short", "max_tokens": 60, "stream": true});
    let mut stream = server.client().stream("/v1/completions", &request).await?;
    stream.next_data().await?.context("a first event")?;
    server.terminate()?;
    let rest = stream.rest().await?;
    assert_eq!(rest.last().map(String::as_str), Some("[DONE]"));
    assert!(server.exit(Duration::from_secs(5)).await?.success());
    Ok(())
}

#[tokio::test]
async fn sigterm_ends_a_stream_with_an_error_after_the_grace_period() -> Result<()> {
    let mut server = Server::with_config(&slow(300)).await?;
    let mut stream = server
        .client()
        .stream("/v1/completions", &endless())
        .await?;
    stream.next_data().await?.context("a first event")?;
    server.terminate()?;
    let rest = stream.rest().await?;
    let last: Value = serde_json::from_str(rest.last().context("a last event")?)?;
    assert_eq!(last["error"]["type"], "server_error", "{last}");
    assert!(server.exit(Duration::from_secs(5)).await?.success());
    Ok(())
}

#[tokio::test]
async fn an_idle_server_ends_at_once() -> Result<()> {
    let mut server = Server::with_config(&slow(30_000)).await?;
    server.terminate()?;
    assert!(server.exit(Duration::from_secs(5)).await?.success());
    Ok(())
}

#[tokio::test]
async fn a_client_that_disconnects_leaves_no_block_behind() -> Result<()> {
    let server = Server::with_config(&slow(1000)).await?;
    let total = server.metric("hansa_engine_blocks_total").await?;
    for _ in 0..20 {
        let mut stream = server
            .client()
            .stream("/v1/completions", &endless())
            .await?;
        stream.next_data().await?.context("a first event")?;
    }
    server
        .metric_becomes("hansa_engine_blocks_free", total)
        .await?;
    server.metric_becomes("hansa_requests_in_flight", 0.0).await
}

#[tokio::test]
async fn a_client_that_disconnects_before_its_answer_leaves_no_block_behind() -> Result<()> {
    let server = Server::with_config(&slow(1000)).await?;
    let total = server.metric("hansa_engine_blocks_total").await?;
    let request = json!({"model": "sim", "prompt": "whole", "max_tokens": 4000});
    let client = server.client();
    let answer = client.post("/v1/completions", &request);
    assert!(
        tokio::time::timeout(Duration::from_millis(300), answer)
            .await
            .is_err()
    );
    server
        .metric_becomes("hansa_engine_blocks_free", total)
        .await
}

/// With the timers of a server shortened, and what is expected of a good one unchanged.
#[tokio::test]
async fn a_server_that_is_abused_serves_others_and_keeps_nothing_of_it() -> Result<()> {
    let timers = "[server]\nheader_timeout_ms = 1000\nbody_timeout_ms = 1000\n";
    let model = "[[model]]\nid = \"sim\"\nrunner = \"sim\"\n[model.sim]\nstep_base_us = 1000\n";
    let server = Server::with_config(&format!("{timers}{model}")).await?;
    let total = server.metric("hansa_engine_blocks_total").await?;
    let victim = Victim {
        address: server.address,
        host: server.address.to_string(),
        authorization: None,
        model: "sim".to_owned(),
        connections: 16,
        patience: Duration::from_secs(30),
    };
    for abuse in ALL {
        let finding = abuse.run(&victim).await;
        ensure!(finding.good, "{finding:#?}");
    }
    server
        .metric_becomes("hansa_requests_in_flight", 0.0)
        .await?;
    server
        .metric_becomes("hansa_engine_blocks_free", total)
        .await
}

#[test]
fn a_bad_config_ends_with_64_and_names_every_problem() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("bad.toml");
    std::fs::write(
        &file,
        "[server]\nlistne = \"127.0.0.1:0\"\n\n[[model]]\nid = \"\"\nrunner = \"magic\"\n",
    )?;
    for command in ["check", "serve"] {
        let output = std::process::Command::new(hansa_binary())
            .arg(command)
            .arg("--config")
            .arg(&file)
            .output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(64), "{text}");
        for (line, word) in [(2, "listne"), (5, "id"), (6, "magic")] {
            assert!(
                text.contains(&format!("bad.toml:{line}:")) && text.contains(word),
                "{word} in {text}"
            );
        }
    }
    Ok(())
}
