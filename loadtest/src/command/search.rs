//! The `search` command: probes at one rate after the other, each with prompts of its own, until the highest rate that
//! meets the objectives is known.

use std::io::{Write, stderr, stdout};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde::Serialize;
use tokio::sync::watch;

use super::drive::{runtime, stop_on_signal};
use super::observe::{Look, client, observed_run};
use super::output::Json;
use super::{end, environment};
use crate::cli::SearchArgs;
use crate::drive::Load;
use crate::drive::record::Record;
use crate::plan::{Pace, Plan};
use crate::probes::ProbeReport;
use crate::report::exit;
use crate::search::{Found, Search};
use crate::self_check::SelfCheck;
use crate::slo::{self, Finding};
use crate::stats::{Stats, Summary};

/// Name and version of the JSON shape.
const SCHEMA: &str = "hansa-loadtest/search/1";

/// One run at one rate.
#[derive(Debug, Clone, Serialize)]
struct Probe {
    /// Requests per second.
    rate: f64,
    /// Requests judged.
    requests: u64,
    good: u64,
    met: bool,
    /// It was ended as soon as nothing that could follow would have met the objectives.
    stopped_early: bool,
    client_bound: bool,
    objectives: Vec<Finding>,
    /// What the load did to short requests beside it; none where none were sent.
    probe_requests: Option<ProbeReport>,
}

#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    found: Found,
    probes: Vec<Probe>,
}

/// Runs `search`.
pub fn search(args: &SearchArgs) -> ExitCode {
    end(attempt(args))
}

fn attempt(args: &SearchArgs) -> anyhow::Result<u8> {
    let plan = Plan::of(&args.drive, &environment)?;
    let pace = plan.pace.context(
        "a search needs a rate to begin with: --rate, or a rate in [load] and no [[stage]]",
    )?;
    if plan.objectives.is_empty() {
        bail!("a search needs something to meet: --slo, or [slo] in the scenario");
    }
    if args.drive.raw.is_some() || args.drive.html.is_some() {
        bail!("--raw and --html are for one run: drive at the rate that was found");
    }
    if !plan.faults.is_empty() {
        bail!("a search breaks nothing: drive the scenario, or take its faults out");
    }
    let mut json = Json::open(args.drive.json.as_deref())?;
    let report = runtime(args.drive.threads)?.block_on(all_probes(args, &plan, pace))?;
    let words = conclusion(&report);
    match &mut json {
        Some(json @ Json::Stdout) => {
            writeln!(stderr(), "{words}").ok();
            json.write(&report)?;
        }
        Some(json) => {
            writeln!(stdout(), "{words}")?;
            json.write(&report)?;
        }
        None => writeln!(stdout(), "{words}")?,
    }
    Ok(exit_code(&report))
}

async fn all_probes(args: &SearchArgs, plan: &Plan, pace: Pace) -> anyhow::Result<Report> {
    let mut search = Search::new(pace.rate, args.tolerance, args.confirm);
    let mut probes = Vec::new();
    let (stop, mut stopped) = watch::channel(false);
    let searching = async {
        while let Some(rate) = search.next() {
            if !probes.is_empty() {
                // What the probe before left behind at the server shall be gone.
                tokio::time::sleep(args.settle).await;
            }
            let next = probe(args, plan, Pace { rate, ..pace }, probes.len() as u64);
            let probe = Box::pin(next).await?;
            tell(&probe);
            let client_bound = probe.client_bound;
            if !client_bound {
                search.tell(probe.met);
            }
            probes.push(probe);
            if client_bound {
                // Whether it was met or missed says nothing of the server, and no other rate can follow from it.
                break;
            }
        }
        anyhow::Ok(())
    };
    tokio::select! {
        done = searching => done?,
        _ = stopped.wait_for(|stop| *stop) => {}
        never = stop_on_signal(&stop) => match never {},
    }
    Ok(Report {
        schema: SCHEMA,
        found: search.found(),
        probes,
    })
}

async fn probe(args: &SearchArgs, plan: &Plan, pace: Pace, number: u64) -> anyhow::Result<Probe> {
    let plan = plan.at(pace, number)?;
    let Load::Open(schedule) = &plan.load else {
        bail!("a search needs an open loop");
    };
    let due = schedule.due().len() as u64;
    let (stop, stopped) = watch::channel(false);
    let mut stats = Stats::with_limits(slo::limits(&plan.objectives));
    let mut hopeless = false;
    let mut sink = |record: &Record| {
        stats.fold(record);
        if !hopeless && slo::is_hopeless(&plan.objectives, &stats, due) {
            hopeless = true;
            stop.send_replace(true);
        }
    };
    let client = client(&plan).await?;
    let look = Look::before(&args.drive, &client, &plan, stopped.clone()).await?;
    let observed = observed_run(client, &plan, look, stopped, &mut sink).await?;
    let probes = observed.probes.map(|probes| probes.into_report(&mut stats));
    let check = SelfCheck::of(&stats, observed.evidence);
    let outcome = observed.outcome;
    let wall_s = outcome.ended.saturating_sub(outcome.began) as f64 / 1e9;
    let objectives = slo::findings(&plan.objectives, &stats, wall_s);
    Ok(Probe {
        rate: pace.rate,
        requests: stats.judged(),
        good: stats.good,
        met: !hopeless && objectives.iter().all(|finding| finding.met),
        stopped_early: hopeless,
        client_bound: check.client_bound,
        objectives,
        probe_requests: probes,
    })
}

/// A line for people while the search goes on.
fn tell(probe: &Probe) {
    let met = if probe.met { "met" } else { "missed" };
    let early = if probe.stopped_early {
        ", stopped early"
    } else {
        ""
    };
    let bound = if probe.client_bound {
        ", CLIENT-BOUND"
    } else {
        ""
    };
    let felt = probe.probe_requests.map_or(String::new(), |felt| {
        let Summary { p50, p99, .. } = felt.beside.ttft_ms;
        format!(", probe requests' ttft p50 {p50:.1} ms, p99 {p99:.1} ms")
    });
    let Probe {
        rate,
        good,
        requests,
        ..
    } = probe;
    // Nobody can be told that stderr is gone.
    writeln!(
        stderr(),
        "{rate:.3}/s: {met}, {good} good of {requests}{felt}{early}{bound}"
    )
    .ok();
}

fn conclusion(report: &Report) -> String {
    let found = &report.found;
    let words = match (found.rate, found.missed) {
        (Some(rate), Some(missed)) => {
            let times = found.times_met;
            format!("highest rate {rate:.3}/s, met {times} times; missed at {missed:.3}/s")
        }
        (Some(rate), None) => format!("met at {rate:.3}/s; no rate was missed"),
        (None, Some(missed)) => format!("no rate was met; the lowest missed is {missed:.3}/s"),
        (None, None) => "nothing was measured".to_owned(),
    };
    let bound = report.probes.iter().find(|probe| probe.client_bound);
    match bound {
        Some(Probe { rate, .. }) => format!(
            "{words}\nat {rate:.3}/s the client was the bottleneck, which is no verdict on the server: try --threads, or a machine of \
             its own"
        ),
        None if found.complete => words,
        None => words + "\nthe search did not come to its end",
    }
}

fn exit_code(report: &Report) -> u8 {
    let mut probes = report.probes.iter();
    if probes.clone().all(|probe| probe.good == 0) {
        exit::ALL_FAILED
    } else if probes.any(|probe| probe.client_bound) {
        exit::CLIENT_BOUND
    } else if report.found.complete {
        exit::GOOD
    } else {
        exit::MISSED
    }
}
