//! The `drive` command from its arguments to its exit code: runtime, warm-up, run, self-check, report.

use std::convert::Infallible;
use std::fs::File;
use std::future::pending;
use std::io::{self, Write, stderr, stdout};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::{DriveArgs, Plan};
use crate::clock::{Clock, unix_ms};
use crate::drive::arrival::{Arrival, Until};
use crate::drive::client::Client;
use crate::drive::meters::Meters;
use crate::drive::{Load, Outcome, RunError, Sink, run, warm_up};
use crate::limits::{MAX_IN_FLIGHT, SPARE_FILES};
use crate::os;
use crate::report::progress::{Goal, display};
use crate::report::{self, Report, Run, exit, table};
use crate::self_check::{Evidence, SelfCheck};
use crate::stats::Stats;
use crate::watch::Watcher;

/// Runs `drive`.
pub fn drive(args: &DriveArgs) -> ExitCode {
    match attempt(args) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            writeln!(stderr(), "error: {error:#}").ok();
            ExitCode::from(exit::BAD_ARGUMENTS)
        }
    }
}

/// Everything that can be wrong with the arguments is found before the first request.
fn attempt(args: &DriveArgs) -> anyhow::Result<u8> {
    let plan = args.plan(std::env::var("OPENAI_API_KEY").ok().as_deref())?;
    let mut json = args.json.as_deref().map(JsonOutput::open).transpose()?;
    let runtime = runtime(args.threads)?;
    warn_of_few_files(&plan);
    let report = runtime.block_on(measure(args, &plan))?;
    let code = report.exit_code();
    match present(&report, &mut json) {
        Ok(()) => Ok(code),
        Err(error) => {
            writeln!(stderr(), "error: the report cannot be written: {error}").ok();
            Ok(code.max(exit::MISSED))
        }
    }
}

fn runtime(threads: u64) -> io::Result<Runtime> {
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

async fn measure(args: &DriveArgs, plan: &Plan) -> anyhow::Result<Report> {
    let client = Client {
        ask: Arc::new(plan.ask.clone()),
        target: plan.target.clone(),
        addresses: plan.target.resolve().await?,
        timeout: plan.timeout,
        check_sim_tokens: args.check_sim_tokens,
        clock: Clock::start(),
        meters: Arc::default(),
    };
    let (stop, stopped) = watch::channel(false);
    let whole = async {
        let mut warmup_good = 0;
        if args.warmup > 0 {
            let apart = Client {
                meters: Arc::new(Meters::default()),
                ..client.clone()
            };
            warmup_good =
                warm_up(Arc::new(apart), &plan.load, args.warmup, stopped.clone()).await?;
        }
        let started = unix_ms();
        let mut stats = Stats::default();
        let (outcome, evidence) = observed_run(client, plan, stopped.clone(), &mut |record| {
            stats.fold(record)
        })
        .await?;
        let check = SelfCheck::of(
            &stats,
            Evidence {
                threads: args.threads as usize,
                ..evidence
            },
        );
        let run = describe(args, plan, warmup_good);
        Ok::<_, RunError>(Report::new(run, started, &outcome, &stats, check))
    };
    tokio::select! {
        report = whole => report.context("the run could not begin"),
        never = stop_on_signal(&stop) => match never {},
    }
}

/// Runs the load under the eyes of the watcher and says what the client's own part in it was, on one thread.
async fn observed_run(
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
async fn stop_on_signal(stop: &watch::Sender<bool>) -> Infallible {
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

fn describe(args: &DriveArgs, plan: &Plan, warmup_good: u64) -> Run {
    let load = match (&plan.load, args.rate) {
        (Load::Closed { users, .. }, _) => report::Load::Closed { users: *users },
        (Load::Open(_), rate) => report::Load::Open {
            rate: rate.unwrap_or(0.0),
            poisson: args.arrival() == Arrival::Poisson,
        },
    };
    Run {
        url: plan.target.url(),
        model: args.model.clone(),
        endpoint: args.endpoint,
        load,
        duration_s: plan.until.duration.map(|duration| duration.as_secs_f64()),
        requests: plan.until.requests,
        prompt_tokens: args.prompt_tokens,
        output_tokens: args.output_tokens,
        seed: args.seed,
        timeout_s: args.timeout.as_secs_f64(),
        check_sim_tokens: args.check_sim_tokens,
        warmup_requests: args.warmup,
        warmup_good,
    }
}

fn present(report: &Report, json: &mut Option<JsonOutput>) -> io::Result<()> {
    let json_on_stdout = matches!(json, Some(JsonOutput::Stdout));
    if json_on_stdout {
        table::write(report, &mut stderr().lock())?;
    } else {
        table::write(report, &mut stdout().lock())?;
    }
    match json {
        None => Ok(()),
        Some(JsonOutput::Stdout) => write_json(report, &mut stdout().lock()),
        Some(JsonOutput::File(file)) => write_json(report, file),
    }
}

fn write_json(report: &Report, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    writeln!(out)?;
    out.flush()
}

/// Opened before the run: a path that cannot be written must not cost a run.
enum JsonOutput {
    Stdout,
    File(File),
}

impl JsonOutput {
    fn open(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Stdout);
        }
        let file = File::create(path);
        Ok(Self::File(file.with_context(|| {
            format!("--json: cannot write {}", path.display())
        })?))
    }
}
