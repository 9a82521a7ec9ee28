//! The `sim` command: simulates, checks a scenario, fits a machine.

use std::fs::File;
use std::io::{Write, stderr, stdout};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use tokio::sync::watch;

use super::drive::{runtime, stop_on_signal};
use super::end;
use super::output::Json;
use crate::cli::{SimArgs, SimCommand, SimRunArgs};
use crate::clock::{Clock, Nanos, nanos};
use crate::limits::SIM_PROGRESS_PERIOD;
use crate::raw::Run;
use crate::report::exit;
use crate::sim::against::{Against, Measured};
use crate::sim::calibrate::fit;
use crate::sim::page::html;
use crate::sim::plan::Plan;
use crate::sim::report::{PolicyReport, Report};
use crate::sim::{Onlooker, Progress, scenario, simulate};

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
    if !args.policy.is_empty() {
        plan.policies.clone_from(&args.policy);
        plan.policies.dedup();
    }
    let measured = args.against.as_deref().map(Run::load).transpose()?;
    let measured = measured.map(|run| Measured::of(&run)).transpose()?;
    if let Some(measured) = &measured {
        ensure!(
            plan.words.thinning == 1,
            "--against plays all requests of a run, so all nodes are needed: remove run.thinning"
        );
        measured.replace_load(&mut plan);
    }
    let mut json = Json::open(args.json.as_deref())?;
    let page = args.html.as_deref();
    let page = page
        .map(|path| {
            File::create(path).with_context(|| format!("--html: cannot write {}", path.display()))
        })
        .transpose()?;
    let report = simulate(&plan, &mut Screen::start(&plan)?)?;
    let against = measured.and_then(|measured| measured.against(&report));
    write(&report, against.as_ref(), &mut json)?;
    if let Some(mut page) = page {
        page.write_all(html(&report).as_bytes())?;
    }
    Ok(exit_code(args, &report, against.as_ref()))
}

/// Tells people how far a simulation is, and ends it at an interrupt.
struct Screen {
    clock: Clock,
    /// When something was told last.
    told: Nanos,
    /// Virtual time at which no request comes any more.
    until: Nanos,
    stopped: watch::Receiver<bool>,
}

impl Screen {
    /// # Errors
    /// No thread can be had to listen for signals.
    fn start(plan: &Plan) -> anyhow::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let runtime = runtime(1)?;
        let listening = move || match runtime.block_on(stop_on_signal(&stop)) {};
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(listening)
            .context("no thread to listen for signals")?;
        Ok(Self {
            clock: Clock::start(),
            told: 0,
            until: plan.duration,
            stopped,
        })
    }
}

impl Onlooker for Screen {
    fn look(&mut self, progress: Progress) -> ControlFlow<()> {
        let now = self.clock.now();
        if now - self.told >= nanos(SIM_PROGRESS_PERIOD) {
            self.told = now;
            let Progress {
                policy,
                arrived,
                at,
            } = progress;
            let seconds = |nanos: Nanos| nanos as f64 / 1e9;
            let end = match self.until {
                Nanos::MAX => String::new(),
                until => format!(" of {:.0}", seconds(until)),
            };
            // Nobody can be told that stderr is gone.
            let _ = writeln!(
                stderr(),
                "{policy}: {arrived} requests, {:.1}{end} s simulated",
                seconds(at)
            );
        }
        match *self.stopped.borrow() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn done(&mut self, report: &PolicyReport) {
        let PolicyReport {
            policy,
            arrived,
            events,
            ..
        } = report;
        let _ = writeln!(
            stderr(),
            "{policy}: done, {arrived} requests, {events} events"
        );
    }
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
    if against.is_some_and(|against| against.client_bound) {
        exit::CLIENT_BOUND
    } else if against.is_some_and(missed) {
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
