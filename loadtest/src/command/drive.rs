//! The `drive` command from its arguments to its exit code: runtime, warm-up, run, self-check, report.

use std::convert::Infallible;
use std::future::pending;
use std::io::{self, Write, stderr};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::observe::{Look, client, observed_run};
use super::output::Outputs;
use super::{end, environment};
use crate::cli::DriveArgs;
use crate::clock::{Clock, unix_ms};
use crate::drive::client::Client;
use crate::drive::meters::Meters;
use crate::drive::record::Record;
use crate::drive::{Load, RunError, warm_up};
use crate::faults::bed::{Bed, BedError};
use crate::faults::failover::Failover;
use crate::limits::SPARE_FILES;
use crate::os;
use crate::plan::Plan;
use crate::report::charts::{self, Chart};
use crate::report::{self, Report, Run, exit};
use crate::self_check::SelfCheck;
use crate::slo;
use crate::stats::Stats;
use crate::timeline::Timeline;

/// Runs `drive`.
pub fn drive(args: &DriveArgs) -> ExitCode {
    end(attempt(args))
}

/// Everything that can be wrong with the arguments is found before the first request.
fn attempt(args: &DriveArgs) -> anyhow::Result<u8> {
    let plan = Plan::of(args, &environment)?;
    let mut outputs = Outputs::open(args)?;
    let runtime = runtime(args.threads)?;
    warn_of_few_files(&plan);
    let (report, charts) = runtime.block_on(measure(args, &plan, &mut outputs))?;
    let code = report.exit_code();
    match outputs.write(&report, &charts) {
        Ok(()) => Ok(code),
        Err(error) => {
            writeln!(stderr(), "error: the report cannot be written: {error}").ok();
            Ok(code.max(exit::MISSED))
        }
    }
}

/// The event loop of a client with so many threads.
pub(super) fn runtime(threads: u64) -> io::Result<Runtime> {
    match threads {
        0 | 1 => Builder::new_current_thread().enable_all().build(),
        more => {
            let threads = usize::try_from(more).unwrap_or(usize::MAX);
            Builder::new_multi_thread()
                .worker_threads(threads)
                .enable_all()
                .build()
        }
    }
}

/// A low limit of open files is no error: a request that hits it fails as `not_sent`. But say it beforehand.
fn warn_of_few_files(plan: &Plan) {
    if let Some(files) = os::raise_file_limit()
        && let Some(users) = plan.load.users()
        && files < users as u64 + SPARE_FILES
    {
        writeln!(
            stderr(),
            "warning: only {files} files may be open (ulimit -n)"
        )
        .ok();
    }
}

async fn measure(
    args: &DriveArgs,
    plan: &Plan,
    outputs: &mut Outputs,
) -> anyhow::Result<(Report, Vec<Chart>)> {
    let client = client(plan).await?;
    let bed = bed(plan, client.clock)?;
    let (stop, stopped) = watch::channel(false);
    let whole = async {
        let mut warmup_good = 0;
        if plan.warmup > 0 {
            let apart = Client {
                workload: Arc::new(plan.workload.for_warm_up()),
                meters: Arc::new(Meters::default()),
                ..client.clone()
            };
            warmup_good =
                warm_up(Arc::new(apart), &plan.load, plan.warmup, stopped.clone()).await?;
        }
        let look = Look::before(args, &client, plan, stopped.clone()).await?;
        let started = unix_ms();
        let mut stats = Stats::with_limits(slo::limits(&plan.objectives));
        let began = client.clock.now();
        let mut timeline = Timeline::new(began);
        let mut failover = Failover::new(&plan.faults, began);
        if let Some(bed) = &bed {
            bed.begin(began);
        }
        let mut sink = |record: &Record| {
            stats.fold(record);
            timeline.fold(record);
            failover.fold(record);
            outputs.take(record, began);
        };
        let observed = observed_run(client, plan, look, stopped.clone(), &mut sink).await?;
        let probes = observed.probes.map(|probes| probes.into_report(&mut stats));
        let check = SelfCheck::of(&stats, observed.evidence);
        let run = describe(plan, warmup_good);
        let mut report = Report::new(run, started, &observed.outcome, &stats, check);
        report.judge(&plan.objectives, &stats);
        report.faults = failover.report();
        report.fairness = stats.groups.fairness(&plan.workload.tenant_shares());
        report.probe_requests = probes;
        report.server = observed.scraped;
        let charts = charts::all(&timeline, &stats, report.server.as_ref());
        Ok::<_, RunError>((report, charts))
    };
    tokio::select! {
        report = whole => report.context("the run could not begin"),
        never = stop_on_signal(&stop) => match never {},
    }
}

/// The servers that the scenario wants, running.
fn bed(plan: &Plan, clock: Clock) -> Result<Option<Bed>, BedError> {
    let wanted = !plan.faults.is_empty();
    wanted
        .then(|| Bed::start(&plan.faults, clock, plan.workload.seed))
        .transpose()
}

/// Interrupt and termination stop the run, whose report is still written. Never returns.
pub(super) async fn stop_on_signal(stop: &watch::Sender<bool>) -> Infallible {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signals) => signals.recv().await,
            Err(_) => pending().await,
        }
    };
    tokio::select! {
        heard = tokio::signal::ctrl_c() => if heard.is_err() { pending::<()>().await },
        _ = terminated => {}
    }
    stop.send_replace(true);
    pending().await
}

fn describe(plan: &Plan, warmup_good: u64) -> Run {
    let words = plan.load_words.clone();
    let load = match &plan.load {
        Load::Open(schedule) => report::Load::Open {
            rate: schedule.mean_rate(plan.until.duration),
            words,
        },
        closed => report::Load::Closed {
            users: closed.users().unwrap_or(0),
            words,
        },
    };
    let models = plan.workload.models.items();
    Run {
        url: plan.target.url(),
        model: models.join(", "),
        endpoint: plan.workload.endpoint,
        load,
        workload: plan.workload.to_string(),
        duration_s: plan.until.duration.map(|duration| duration.as_secs_f64()),
        requests: plan.until.requests,
        seed: plan.workload.seed,
        timeout_s: plan.timeout.as_secs_f64(),
        check_sim_tokens: plan.check_sim_tokens,
        warmup_requests: plan.warmup,
        warmup_good,
    }
}
