//! From arguments or a scenario file to a checked plan. Everything that can be wrong is found before a request is sent.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::cli::{ArrivalKind, DriveArgs};
use crate::clock::nanos;
use crate::drive::Load;
use crate::drive::arrival::{Arrival, Schedule, ScheduleError, Until};
use crate::drive::target::{Target, TargetError};
use crate::faults::plan::FaultPlan;
use crate::limits::{MAX_IN_FLIGHT, MAX_OBJECTIVES};
use crate::problems::Problems;
use crate::scenario::Scenario;
use crate::scrape;
use crate::slo::Objective;
use crate::spread::Spread;
use crate::workload::mix::Mix;
use crate::workload::{Source, Synthetic, Workload};

/// Burstiness of gamma arrivals where none is given.
const DEFAULT_SHAPE: f64 = 0.5;

/// A checked run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What is asked.
    pub workload: Workload,
    /// Where to.
    pub target: Target,
    /// PEM file with the authorities that the scenario trusts.
    pub authorities: Option<PathBuf>,
    /// When.
    pub load: Load,
    /// The load in a few words.
    pub load_words: String,
    /// The rate and spacing of a steady open loop, which a search varies.
    pub pace: Option<Pace>,
    /// When it ends.
    pub until: Until,
    /// Time limit of a request.
    pub timeout: Duration,
    /// Requests before the run.
    pub warmup: u64,
    /// Texts are compared with the formula of a simulated model.
    pub check_sim_tokens: bool,
    /// What must be met.
    pub objectives: Vec<Objective>,
    /// Servers to start for the run, and what goes wrong.
    pub faults: FaultPlan,
    /// The server's metrics page.
    pub metrics: Option<scrape::Plan>,
    /// Probe requests per second.
    pub probe_rate: Option<f64>,
}

/// How a steady open loop comes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// The spacing.
    pub arrival: Arrival,
    /// Requests per second.
    pub rate: f64,
}

/// Why the arguments cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The URL or a header.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The schedule.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The URL of the metrics page.
    #[error("the metrics page: {0}")]
    Metrics(TargetError),
    /// The scenario file or the recorded load that it names.
    #[error(transparent)]
    Scenario(#[from] Problems),
    /// Neither the command line nor the scenario names a server.
    #[error("where to? --url, or url in [target] of the scenario")]
    NoUrl,
    /// Authorities for plain http.
    #[error("--ca (or ca in [target]) needs an https URL")]
    NobodyToTrust,
    /// An objective of requests that nobody sends.
    #[error(
        "an objective of probe requests needs --probe-rate, or [probe_requests] in the scenario"
    )]
    NoProbes,
    /// Probe requests ask for a token.
    #[error("probe requests need an endpoint that streams")]
    ProbesNeedStreams,
    /// Too many objectives.
    #[error("more than {MAX_OBJECTIVES} objectives")]
    TooManyObjectives,
}

/// Gives the values of environment variables.
pub type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

impl Plan {
    /// Checks the arguments, and the scenario that they name, against each other and makes the schedule.
    ///
    /// # Errors
    /// The first argument that cannot be followed; of a scenario, all that is wrong with it.
    pub fn of(args: &DriveArgs, env: Environment<'_>) -> Result<Self, PlanError> {
        let mut plan = match &args.scenario {
            Some(file) => Self::of_scenario(args, file, env)?,
            None => Self::of_arguments(args)?,
        };
        let env_key = env("OPENAI_API_KEY").filter(|key| !key.trim().is_empty());
        if let Some(key) = args.api_key.clone().or(env_key) {
            plan.target.set_api_key(&key)?;
        }
        for header in &args.header {
            plan.target.add_header(header)?;
        }
        if let Some(url) = &args.metrics {
            let target = Target::page(url).map_err(PlanError::Metrics)?;
            let every = Duration::from_secs(1);
            plan.metrics = Some(scrape::Plan { target, every });
        }
        if let Some(authorities) = args.ca.as_ref().or(plan.authorities.as_ref()) {
            let mut asked = plan.target.trust(authorities)?;
            if let Some(page) = &mut plan.metrics {
                asked |= page.target.trust(authorities)?;
            }
            if !asked {
                return Err(PlanError::NobodyToTrust);
            }
        }
        plan.probe_rate = args.probe_rate.or(plan.probe_rate);
        if plan.probe_rate.is_some() && !plan.workload.endpoint.streams() {
            return Err(PlanError::ProbesNeedStreams);
        }
        plan.objectives.extend(args.slo.iter().cloned());
        let of_probes = |objective: &Objective| matches!(objective, Objective::Probe { .. });
        if plan.probe_rate.is_none() && plan.objectives.iter().any(of_probes) {
            return Err(PlanError::NoProbes);
        }
        if plan.objectives.len() > MAX_OBJECTIVES {
            return Err(PlanError::TooManyObjectives);
        }
        Ok(plan)
    }

    fn of_scenario(args: &DriveArgs, file: &Path, env: Environment<'_>) -> Result<Self, PlanError> {
        let scenario = Scenario::load(file, env)?;
        let url = args.url.as_ref().or(scenario.url.as_ref());
        let url = url.ok_or(PlanError::NoUrl)?;
        Ok(Self {
            target: Target::parse(url, scenario.workload.endpoint)?,
            authorities: scenario.authorities,
            workload: scenario.workload,
            load: scenario.load,
            load_words: scenario.load_words,
            pace: scenario.pace,
            until: scenario.until,
            timeout: scenario.timeout,
            warmup: scenario.warmup,
            check_sim_tokens: false,
            objectives: scenario.objectives,
            faults: scenario.faults,
            metrics: scenario.metrics,
            probe_rate: scenario.probe_rate,
        })
    }

    fn of_arguments(args: &DriveArgs) -> Result<Self, PlanError> {
        let url = args.url.as_ref().ok_or(PlanError::NoUrl)?;
        let until = until(args);
        let pace = pace(args);
        let (load, load_words) = load(args, pace, until)?;
        let workload = Workload {
            seed: args.seed,
            endpoint: args.endpoint,
            ignore_eos: args.ignore_eos,
            send_seed: args.check_sim_tokens,
            source: Source::Synthetic(Synthetic {
                prompt: Spread::Fixed(args.prompt_tokens.into()),
                output: Spread::Fixed(args.output_tokens.into()),
                ..Synthetic::default()
            }),
            models: Mix::one(args.model.as_deref().unwrap_or_default().into()),
            tenants: Mix::none(),
            priorities: Mix::none(),
            forms: Mix::none(),
            abort: None,
        };
        Ok(Self {
            target: Target::parse(url, args.endpoint)?,
            authorities: None,
            workload,
            load,
            load_words,
            pace,
            until,
            timeout: args.timeout,
            warmup: args.warmup,
            check_sim_tokens: args.check_sim_tokens,
            objectives: Vec::new(),
            faults: FaultPlan::default(),
            metrics: None,
            probe_rate: None,
        })
    }

    /// The same at another pace, with prompts and arrivals of its own: number 0 has those of the plan.
    ///
    /// # Errors
    /// A rate out of range.
    pub fn at(&self, pace: Pace, number: u64) -> Result<Self, ScheduleError> {
        let seed = self.workload.seed.wrapping_add(number);
        let schedule = Schedule::build(pace.arrival, pace.rate, self.until, seed)?;
        let mut plan = self.clone();
        plan.workload.seed = seed;
        plan.load = Load::Open(Arc::new(schedule));
        plan.pace = Some(pace);
        Ok(plan)
    }

    /// Time limit of a request in nanoseconds.
    pub fn timeout_ns(&self) -> u64 {
        nanos(self.timeout)
    }
}

fn until(args: &DriveArgs) -> Until {
    let default = args.requests.is_none().then_some(Duration::from_secs(30));
    Until {
        duration: args.duration.or(default),
        requests: args.requests,
    }
}

fn pace(args: &DriveArgs) -> Option<Pace> {
    let arrival = match args.arrival {
        Some(ArrivalKind::Constant) => Arrival::Constant,
        Some(ArrivalKind::Gamma) => Arrival::Gamma(args.shape.unwrap_or(DEFAULT_SHAPE)),
        Some(ArrivalKind::Poisson) | None => Arrival::Poisson,
    };
    args.rate.map(|rate| Pace { arrival, rate })
}

fn load(
    args: &DriveArgs,
    pace: Option<Pace>,
    until: Until,
) -> Result<(Load, String), ScheduleError> {
    if let Some(Pace { arrival, rate }) = pace {
        let schedule = Schedule::build(arrival, rate, until, args.seed)?;
        let words = format!("open loop, {arrival}, {rate}/s");
        return Ok((Load::Open(Arc::new(schedule)), words));
    }
    until.bounds()?;
    let users = args.concurrency.unwrap_or(1);
    let users = usize::try_from(users).unwrap_or(MAX_IN_FLIGHT);
    let load = Load::Closed {
        users,
        until,
        think: None,
    };
    Ok((load, format!("closed loop, {users} users")))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn plan_with(more: &str, env: Environment<'_>) -> Result<Plan, PlanError> {
        let line = format!("hansa-loadtest drive --url http://h --model m {more}");
        match Cli::try_parse_from(line.split_whitespace())
            .unwrap()
            .command
        {
            Command::Drive(args) => Plan::of(&args, env),
            other => panic!("{other:?}"),
        }
    }

    fn plan(more: &str) -> Result<Plan, PlanError> {
        plan_with(more, &|_| None)
    }

    #[test]
    fn arguments_become_loads() {
        assert!(matches!(plan("--rate 2").unwrap().load, Load::Open(_)));
        let closed = plan("--concurrency 2").unwrap();
        assert!(matches!(closed.load, Load::Closed { users: 2, .. }));
        assert_eq!(
            plan("--rate 2 --arrival gamma").unwrap().load_words,
            "open loop, gamma of shape 0.5, 2/s"
        );
    }

    #[test]
    fn a_run_has_an_end() {
        let until = |more: &str| plan(more).unwrap().until;
        let none = until("--concurrency 1");
        assert_eq!(
            (none.duration, none.requests),
            (Some(Duration::from_secs(30)), None)
        );
        let count = until("--concurrency 1 --requests 5");
        assert_eq!((count.duration, count.requests), (None, Some(5)));
        assert!(matches!(
            plan("--rate 0"),
            Err(PlanError::Schedule(ScheduleError::Rate(_)))
        ));
        assert!(matches!(
            plan("--rate 1 --arrival gamma --shape 0"),
            Err(PlanError::Schedule(ScheduleError::Shape(_)))
        ));
    }

    #[test]
    fn an_objective_of_probe_requests_needs_some() {
        let with = |more: &str| plan(&format!("--rate 1 --slo probe.ttft.p99<1s {more}"));
        assert!(matches!(with(""), Err(PlanError::NoProbes)));
        assert_eq!(with("--probe-rate 2").unwrap().probe_rate, Some(2.0));
        assert!(matches!(
            with("--probe-rate 2 --endpoint embeddings"),
            Err(PlanError::ProbesNeedStreams)
        ));
    }

    #[test]
    fn the_key_comes_from_the_argument_or_else_from_the_environment() {
        let key = |more: &str, env: Option<&str>| {
            let plan = plan_with(more, &|_| env.map(str::to_owned)).unwrap();
            let value = plan.target.headers().get("authorization");
            value.map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(
            key("--rate 1 --api-key a", Some("b")).as_deref(),
            Some("Bearer a")
        );
        assert_eq!(key("--rate 1", Some("b")).as_deref(), Some("Bearer b"));
        assert_eq!(key("--rate 1", Some("")), None);
        assert_eq!(key("--rate 1", None), None);
    }
}
