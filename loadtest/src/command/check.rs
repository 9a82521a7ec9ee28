//! The `check` command: what a scenario would do, or all that is wrong with it.

use std::io::{Write, stdout};
use std::process::ExitCode;

use super::{end, environment};
use crate::cli::CheckArgs;
use crate::drive::Load;
use crate::report::exit;
use crate::scenario::Scenario;

/// Runs `check`.
pub fn check(args: &CheckArgs) -> ExitCode {
    end(attempt(args))
}

fn attempt(args: &CheckArgs) -> anyhow::Result<u8> {
    let scenario = Scenario::load(&args.scenario, &environment)?;
    let mut out = stdout().lock();
    writeln!(out, "{}: good", args.scenario.display())?;
    writeln!(out, "load      {}", scenario.load_words)?;
    writeln!(out, "asks      {}", scenario.workload)?;
    if let Load::Open(schedule) = &scenario.load {
        let last = schedule.due().last().copied().unwrap_or(0) as f64 / 1e9;
        writeln!(
            out,
            "arrivals  {}, the last one after {last:.1} s",
            schedule.due().len()
        )?;
    }
    for fault in &scenario.faults.faults {
        writeln!(out, "fault     {}", fault.words())?;
    }
    if let Load::Staged { crowd, .. } = &scenario.load {
        for part in crowd.parts() {
            let (from, to, length) = (part.users, part.users_end, part.duration.as_secs_f64());
            writeln!(
                out,
                "stage     {}: {from} to {to} users in {length:.1} s",
                part.name
            )?;
        }
    }
    if let Some(metrics) = &scenario.metrics {
        writeln!(out, "metrics   {}", metrics.target.url())?;
    }
    if let Some(rate) = scenario.probe_rate {
        writeln!(out, "probes    {rate}/s")?;
    }
    for objective in &scenario.objectives {
        writeln!(out, "slo       {objective}")?;
    }
    Ok(exit::GOOD)
}
