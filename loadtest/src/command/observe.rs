//! A run under observation: the load itself, probe requests beside it, the server's metrics page, and what the client's
//! own part in all of it was. `drive` and `search` run this.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::cli::DriveArgs;
use crate::clock::Clock;
use crate::drive::arrival::{Arrival, Schedule, Until};
use crate::drive::client::Client;
use crate::drive::{Load, Outcome, RunError, Sink, run};
use crate::limits::{PROBES_ALONE, PROBES_LONGEST};
use crate::os;
use crate::plan::Plan;
use crate::probes::ProbeReport;
use crate::report::progress::{Goal, display};
use crate::scrape::{Scraped, Scraper};
use crate::self_check::Evidence;
use crate::stall;
use crate::stats::{Distribution, Stats};
use crate::watch::Watcher;
use crate::workload::Workload;

/// Everything that a run left behind but its records.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) outcome: Outcome,
    /// Of a client with one thread.
    pub(super) evidence: Evidence,
    /// Probe requests per second, what they felt before the load, and beside it.
    pub(super) probes: Option<Probed>,
    pub(super) scraped: Option<Scraped>,
}

/// What probe requests left behind.
#[derive(Debug)]
pub(super) struct Probed {
    rate: f64,
    alone: Stats,
    beside: Stats,
}

impl Probed {
    /// What reports show; what is judged becomes part of the run's own `stats`.
    pub(super) fn into_report(self, stats: &mut Stats) -> ProbeReport {
        let report = ProbeReport::new(self.rate, &self.alone, &self.beside);
        stats.probes = Some(Box::new(self.beside));
        report
    }
}

/// How a run is looked at.
pub(super) struct Look {
    /// Plain lines on a terminal too.
    plain: bool,
    /// Threads of the event loop.
    threads: usize,
    prober: Option<Prober>,
}

impl Look {
    /// Makes ready for a run, and sends the probe requests that come before it.
    pub(super) async fn before(
        args: &DriveArgs,
        client: &Client,
        plan: &Plan,
        stop: watch::Receiver<bool>,
    ) -> Result<Self, RunError> {
        let prober = match plan.probe_rate {
            Some(rate) => Some(Prober::start(client, plan, rate, stop).await?),
            None => None,
        };
        let threads = usize::try_from(args.threads).unwrap_or(usize::MAX);
        Ok(Self {
            plain: args.plain,
            threads,
            prober,
        })
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

/// Runs the load.
pub(super) async fn observed_run(
    client: Client,
    plan: &Plan,
    look: Look,
    stop: watch::Receiver<bool>,
    sink: Sink<'_>,
) -> Result<Observed, RunError> {
    let clock = client.clock;
    let scraper = match &plan.metrics {
        Some(page) => Some(Scraper::start(page.clone(), clock, clock.now())?),
        None => None,
    };
    let progress = display(goal(plan), look.plain);
    let watcher = Watcher::start(clock, client.meters.clone(), progress)?;
    let cpu_before = os::cpu_used();
    let mut stalls = Distribution::default();
    let (stop_probes, probes_stopped) = watch::channel(false);
    let load = async {
        let outcome = run(Arc::new(client), &plan.load, stop, sink).await;
        stop_probes.send_replace(true);
        outcome
    };
    let probing = async {
        match &look.prober {
            Some(prober) => prober.beside(probes_stopped).await,
            None => Ok(Stats::default()),
        }
    };
    let (outcome, beside) = tokio::select! {
        both = async { tokio::join!(load, probing) } => both,
        never = stall::watch(clock, &mut stalls) => match never {},
    };
    let cpu = os::cpu_used().saturating_sub(cpu_before);
    let watched = watcher.finish();
    let scraped = scraper.map(Scraper::finish);
    let (outcome, beside) = (outcome?, beside?);
    Ok(Observed {
        outcome,
        evidence: Evidence {
            wall: Duration::from_nanos(outcome.ended.saturating_sub(outcome.began)),
            cpu,
            threads: look.threads,
            watched,
            stall: stalls.summary(),
            open_loop: plan.load.is_open(),
            interrupted: outcome.interrupted,
        },
        probes: look.prober.map(|prober| Probed {
            rate: prober.rate,
            alone: prober.alone,
            beside,
        }),
        scraped,
    })
}

/// Sends probe requests.
struct Prober {
    client: Client,
    rate: f64,
    load: Load,
    /// What they felt before the load.
    alone: Stats,
}

impl Prober {
    /// Sends those that come before the load, one after the other, with prompts of their own.
    async fn start(
        client: &Client,
        plan: &Plan,
        rate: f64,
        stop: watch::Receiver<bool>,
    ) -> Result<Self, RunError> {
        let duration = plan.until.duration.unwrap_or(PROBES_LONGEST);
        let until = Until {
            duration: Some(duration),
            requests: None,
        };
        // At random times, so that they fall upon every phase of the load with its share (PASTA).
        let schedule = Schedule::build(Arrival::Poisson, rate, until, !plan.workload.seed)?;
        let workload = plan.workload.for_probes();
        let before = Workload {
            seed: workload.seed.wrapping_add(1),
            ..workload.clone()
        };
        let with = |workload| Client {
            workload: Arc::new(workload),
            check_sim_tokens: false,
            meters: Arc::default(),
            ..client.clone()
        };
        let few = Load::Closed {
            users: 1,
            until: Until {
                duration: None,
                requests: Some(PROBES_ALONE),
            },
            think: None,
        };
        Ok(Self {
            alone: stats(with(before), &few, stop).await?,
            client: with(workload),
            rate,
            load: Load::Open(Arc::new(schedule)),
        })
    }

    /// Sends the others beside the load, until told that it is over.
    async fn beside(&self, stop: watch::Receiver<bool>) -> Result<Stats, RunError> {
        stats(self.client.clone(), &self.load, stop).await
    }
}

async fn stats(
    client: Client,
    load: &Load,
    stop: watch::Receiver<bool>,
) -> Result<Stats, RunError> {
    let mut stats = Stats::default();
    run(Arc::new(client), load, stop, &mut |record| {
        stats.fold(record)
    })
    .await?;
    Ok(stats)
}

fn goal(plan: &Plan) -> Goal {
    match &plan.load {
        Load::Open(schedule) => Goal::Requests(schedule.due().len() as u64),
        Load::Staged { crowd, .. } => Goal::Time(crowd.duration()),
        Load::Closed { until, .. } => match until.duration {
            Some(duration) => Goal::Time(duration),
            None => Goal::Requests(until.requests.unwrap_or(0)),
        },
    }
}
