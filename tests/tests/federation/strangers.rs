//! A server that does not know the secret is no peer: it is named in the log, and its site is not used.

use anyhow::{Result, ensure};
use hansa_tests::Server;
use serde_json::json;

use crate::until;

#[tokio::test]
async fn a_site_with_another_secret_serves_nobody_and_costs_nobody() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let secret = |name: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, format!("the-secret-called-{name}"))?;
        anyhow::Ok(format!("[peer]\nsecret_file = \"{}\"\n", file.display()))
    };
    let (right, wrong) = (secret("right")?, secret("wrong")?);
    let model = "[[model]]\nid = \"sim\"\nrunner = \"sim\"\n";
    let good = Server::with_config(&format!("{right}{model}")).await?;
    let stranger = Server::with_config(&format!("{wrong}{model}")).await?;
    let site = |name: &str, server: &Server| {
        format!(
            "[[site]]\nname = \"{name}\"\nurl = \"http://{}\"\nmodels = [\"sim\"]\n",
            server.address
        )
    };
    let sections = site("good", &good) + &site("stranger", &stranger);
    let gateway = Server::with_config(&format!("{right}{sections}")).await?;
    for _ in 0..20 {
        let body = json!({"model": "sim", "prompt": "hello", "max_tokens": 2});
        let reply = gateway.client().post("/v1/completions", &body).await?;
        ensure!(reply.status == 200, "{}", reply.text());
    }
    until("the stranger's name in the log", async || {
        Ok(gateway.log().contains("stranger"))
    })
    .await?;
    let engine = stranger
        .metric("hansa_engine_decode_tokens_total")
        .await
        .unwrap_or(0.0);
    ensure!(engine < 0.5, "the stranger made {engine} tokens");
    Ok(())
}
