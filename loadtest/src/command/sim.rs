//! The `sim` command: simulates, checks a scenario, fits a machine.

use std::fs::File;
use std::io::{Write, stderr, stdout};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use super::end;
use super::output::Json;
use crate::cli::{SimArgs, SimCommand, SimRunArgs};
use crate::raw::Run;
use crate::report::exit;
use crate::sim::against::{Against, Measured};
use crate::sim::calibrate::fit;
use crate::sim::page::html;
use crate::sim::plan::Plan;
use crate::sim::report::Report;
use crate::sim::{scenario, simulate};

/// Runs `sim`.
pub fn sim(args: &SimArgs) -> ExitCode {
    end(match &args.command {
        SimCommand::Run(args) => run(args),
        SimCommand::Check { scenario } => check(scenario),
        SimCommand::Calibrate { raw, name } => calibrate(raw, name),
    })
}

fn run(args: &SimRunArgs) -> anyhow::Result<u8> {
    let mut plan = scenario::load(&args.scenario)?;
    plan.seed = args.seed.unwrap_or(plan.seed);
    plan.requests_max = args.requests.unwrap_or(plan.requests_max);
    let measured = args.against.as_deref().map(Run::load).transpose()?;
    let measured = measured.map(|run| Measured::of(&run)).transpose()?;
    if let Some(measured) = &measured {
        measured.replace_load(&mut plan);
    }
    let mut json = Json::open(args.json.as_deref())?;
    let page = args.html.as_deref();
    let page = page
        .map(|path| {
            File::create(path).with_context(|| format!("--html: cannot write {}", path.display()))
        })
        .transpose()?;
    let report = simulate(&plan, |policy| {
        // Nobody can be told that stderr is gone.
        writeln!(
            stderr(),
            "{}: {} requests, {} events",
            policy.policy,
            policy.arrived,
            policy.events
        )
        .ok();
    })?;
    let against = measured.and_then(|measured| measured.against(&report));
    write(&report, against.as_ref(), &mut json)?;
    if let Some(mut page) = page {
        page.write_all(html(&report).as_bytes())?;
    }
    Ok(exit_code(args, &report, against.as_ref()))
}

fn write(
    report: &Report,
    against: Option<&Against>,
    json: &mut Option<Json>,
) -> anyhow::Result<()> {
    let against = against.map_or(String::new(), |against| format!("\n{against}\n"));
    let text = report.text() + &against;
    match json {
        Some(Json::Stdout) => stderr().write_all(text.as_bytes())?,
        Some(Json::File(_)) | None => stdout().write_all(text.as_bytes())?,
    }
    if let Some(json) = json {
        json.write(report)?;
    }
    Ok(())
}

fn exit_code(args: &SimRunArgs, report: &Report, against: Option<&Against>) -> u8 {
    if report.policies.iter().all(|policy| policy.done == 0) {
        return exit::ALL_FAILED;
    }
    let missed = |against: &Against| {
        against.e2e_mean.error_percent().abs() > args.e2e_within
            || against.ttft_p99.error_percent().abs() > args.ttft_within
    };
    if against.is_some_and(missed) {
        exit::MISSED
    } else {
        exit::GOOD
    }
}

fn check(path: &Path) -> anyhow::Result<u8> {
    let plan: Plan = scenario::load(path)?;
    let mut out = stdout().lock();
    writeln!(out, "{}: good", path.display())?;
    writeln!(out, "load      {}", plan.words.load)?;
    let policies: Vec<&str> = plan.policies.iter().map(|policy| policy.name()).collect();
    writeln!(out, "policies  {}", policies.join(", "))?;
    writeln!(
        out,
        "world     {} sites, {} nodes, {} gateways, {:.2} requests/s can be served",
        plan.sites.len(),
        plan.nodes(),
        plan.gateways.len(),
        plan.words.capacity
    )?;
    Ok(exit::GOOD)
}

fn calibrate(raw: &Path, name: &str) -> anyhow::Result<u8> {
    let fitted = fit(&Run::load(raw)?)?;
    let mut out = stdout().lock();
    writeln!(
        out,
        "# Fitted to {} requests; the time that half of them decoded for is predicted to {:.1} %.",
        fitted.requests,
        100.0 * fitted.decode_error
    )?;
    out.write_all(fitted.machine(name).as_bytes())?;
    Ok(exit::GOOD)
}
