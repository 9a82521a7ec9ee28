//! The `drive` command from its arguments to its exit code: runtime, warm-up, run, self-check, report.

use std::convert::Infallible;
use std::future::pending;
use std::io::{self, Write, stderr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::output::Outputs;
use super::{end, environment};
use crate::cli::DriveArgs;
use crate::clock::{Clock, unix_ms};
use crate::drive::arrival::Until;
use crate::drive::client::Client;
use crate::drive::meters::Meters;
use crate::drive::{Load, Outcome, RunError, Sink, run, warm_up};
use crate::faults::bed::{Bed, BedError};
use crate::faults::failover::Failover;
use crate::limits::{MAX_IN_FLIGHT, SPARE_FILES};
use crate::os;
use crate::plan::Plan;
use crate::report::charts::{self, Chart};
use crate::report::progress::{Goal, display};
use crate::report::{self, Report, Run, exit};
use crate::self_check::{Evidence, SelfCheck};
use crate::slo;
use crate::stats::Stats;
use crate::timeline::Timeline;
use crate::watch::Watcher;

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
    let wanted = match &plan.load {
        Load::Closed { users, .. } => *users,
        Load::Open(schedule) => schedule.due().len().min(MAX_IN_FLIGHT),
    };
    if let Some(files) = os::raise_file_limit()
        && files < wanted as u64 + SPARE_FILES
        && matches!(plan.load, Load::Closed { .. })
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
        let started = unix_ms();
        let mut stats = Stats::with_limits(slo::limits(&plan.objectives));
        let began = client.clock.now();
        let mut timeline = Timeline::new(began);
        let mut failover = Failover::new(&plan.faults, began);
        if let Some(bed) = &bed {
            bed.begin(began);
        }
        let (outcome, evidence) = observed_run(client, plan, stopped.clone(), &mut |record| {
            stats.fold(record);
            timeline.fold(record);
            failover.fold(record);
            outputs.take(record, began);
        })
        .await?;
        let check = SelfCheck::of(
            &stats,
            Evidence {
                threads: args.threads as usize,
                ..evidence
            },
        );
        let run = describe(plan, warmup_good);
        let mut report = Report::new(run, started, &outcome, &stats, check);
        report.judge(&plan.objectives, &stats);
        report.faults = failover.report();
        report.fairness = stats.groups.fairness(&plan.workload.tenant_shares());
        Ok::<_, RunError>((report, charts::all(&timeline, &stats)))
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

/// Runs the load under the eyes of the watcher and says what the client's own part in it was, on one thread.
pub(super) async fn observed_run(
    client: Client,
    plan: &Plan,
    stop: watch::Receiver<bool>,
    sink: Sink<'_>,
) -> Result<(Outcome, Evidence), RunError> {
    let watcher = Watcher::start(client.clock, client.meters.clone(), display(goal(plan)))?;
    let cpu_before = os::cpu_used();
    let outcome = run(Arc::new(client), &plan.load, stop, sink).await;
    let cpu = os::cpu_used().saturating_sub(cpu_before);
    let watched = watcher.finish();
    let outcome = outcome?;
    let evidence = Evidence {
        wall: Duration::from_nanos(outcome.ended.saturating_sub(outcome.began)),
        cpu,
        threads: 1,
        watched,
        open_loop: matches!(plan.load, Load::Open(_)),
        interrupted: outcome.interrupted,
    };
    Ok((outcome, evidence))
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

fn goal(plan: &Plan) -> Goal {
    match (&plan.load, plan.until) {
        (Load::Open(schedule), _) => Goal::Requests(schedule.due().len() as u64),
        (
            _,
            Until {
                duration: Some(duration),
                ..
            },
        ) => Goal::Time(duration),
        (_, Until { requests, .. }) => Goal::Requests(requests.unwrap_or(0)),
    }
}

/// A client that is ready to send.
pub(super) async fn client(plan: &Plan) -> anyhow::Result<Client> {
    Ok(Client {
        workload: Arc::new(plan.workload.clone()),
        target: plan.target.clone(),
        addresses: plan.target.resolve().await?,
        timeout: plan.timeout_ns(),
        check_sim_tokens: plan.check_sim_tokens,
        clock: Clock::start(),
        meters: Arc::default(),
    })
}

fn describe(plan: &Plan, warmup_good: u64) -> Run {
    let words = plan.load_words.clone();
    let load = match &plan.load {
        Load::Closed { users, .. } => report::Load::Closed {
            users: *users,
            words,
        },
        Load::Open(schedule) => report::Load::Open {
            rate: schedule.mean_rate(plan.until.duration),
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
