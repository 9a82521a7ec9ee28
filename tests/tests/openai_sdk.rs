//! The official OpenAI client of Python against the real binary, with the simulated and with the real model.

use anyhow::Result;
use hansa_tests::{Server, python_with, repository_root, run_script};

const PACKAGES: [&str; 1] = ["openai==3.54.0"];

/// A simulated model that answers at once.
const SIM: &str = r#"
[[model]]
id = "sim"
runner = "sim"

[model.sim]
step_base_us = 200
prefill_token_us = 0
decode_sequence_us = 0

[[model]]
id = "sim-embedder"
runner = "sim"
[model.sim]
embedding_numbers = 16
step_base_us = 0
prefill_token_us = 0
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_works_with_the_simulated_model() -> Result<()> {
    let server = Server::with_config(SIM).await?;
    check_with_sdk(&server, "sim").await?;
    server.metric_becomes("hansa_requests_in_flight", 0.0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_works_with_the_default_model() -> Result<()> {
    let server = Server::with_default_model().await?;
    check_with_sdk(&server, "smollm2-135m-instruct").await
}

async fn check_with_sdk(server: &Server, model: &str) -> Result<()> {
    let url = format!("http://{}/v1", server.address);
    let model = model.to_owned();
    tokio::task::spawn_blocking(move || {
        let python = python_with("openai", &PACKAGES)?;
        run_script(
            &python,
            &repository_root().join("tests/sdk/openai_sdk.py"),
            &[&url, &model],
        )
    })
    .await?
}
