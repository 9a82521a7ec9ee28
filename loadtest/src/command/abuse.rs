//! The `abuse` command: bad clients against one's own server, and a verdict for each kind.

use std::io::{Write as _, stdout};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};

use super::drive::runtime;
use super::{end, environment};
use crate::cli::AbuseArgs;
use crate::drive::prompt::Endpoint;
use crate::drive::target::Target;
use crate::faults::abuse::{ALL, Finding, Victim};
use crate::os;
use crate::report::exit;

/// Runs `abuse`.
pub fn abuse(args: &AbuseArgs) -> ExitCode {
    end(attempt(args))
}

fn attempt(args: &AbuseArgs) -> anyhow::Result<u8> {
    os::raise_file_limit();
    let runtime = runtime(1)?;
    let victim = runtime.block_on(victim(args))?;
    let kinds = if args.only.is_empty() {
        &ALL[..]
    } else {
        &args.only
    };
    let mut findings = Vec::new();
    for kind in kinds {
        let finding = runtime.block_on(kind.run(&victim));
        write(&finding)?;
        findings.push(finding);
    }
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&findings)?;
        std::fs::write(path, json + "\n")
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    let good = findings.iter().all(|finding| finding.good);
    Ok(if good { exit::GOOD } else { exit::MISSED })
}

/// The server, if it may be abused.
async fn victim(args: &AbuseArgs) -> anyhow::Result<Victim> {
    let mut target = Target::parse(&args.url, Endpoint::Chat)?;
    ensure!(
        target.tls().is_none(),
        "abuse speaks http alone: name a listener without TLS"
    );
    let env_key = environment("OPENAI_API_KEY").filter(|key| !key.trim().is_empty());
    if let Some(key) = args.api_key.clone().or(env_key) {
        target.set_api_key(&key)?;
    }
    let addresses = target.resolve().await?;
    let local = addresses.iter().all(|address| address.ip().is_loopback());
    ensure!(
        local || args.i_own_this_server,
        "{} is not on this machine: abuse only what is yours, and say so with --i-own-this-server",
        args.url
    );
    let header = |name| Some(target.headers().get(name)?.to_str().ok()?.to_owned());
    Ok(Victim {
        address: *addresses.first().context("the host has no address")?,
        host: header("host").unwrap_or_default(),
        authorization: header("authorization"),
        model: args.model.clone(),
        connections: usize::try_from(args.connections)?,
        patience: args.patience,
    })
}

fn write(finding: &Finding) -> anyhow::Result<()> {
    let mut out = stdout().lock();
    let verdict = if finding.good { "good" } else { "BAD" };
    let name = serde_json::to_value(finding.abuse)?;
    writeln!(out, "{:<14} {verdict}", name.as_str().unwrap_or_default())?;
    writeln!(out, "  expected  {}", finding.expected)?;
    writeln!(out, "  seen      {}", finding.seen)?;
    writeln!(out, "  others    {}", finding.others)?;
    Ok(())
}
