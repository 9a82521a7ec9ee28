//! The command line: what can be asked for, and its translation into a checked plan. Every argument is checked before
//! a request is sent.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand};

use crate::clock::nanos;
use crate::drive::Load;
use crate::drive::arrival::{Arrival, Schedule, ScheduleError, Until};
use crate::drive::prompt::{Ask, Endpoint};
use crate::drive::target::{Target, TargetError};
use crate::limits::{MAX_DURATION, MAX_IN_FLIGHT, MAX_THREADS, MAX_TOKENS, MAX_WARMUP};

/// Measures an OpenAI-compatible server by what its users feel.
#[derive(Debug, Parser)]
#[command(name = "hansa-loadtest", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Sends streamed requests and reports latencies, rates and failures.
    ///
    /// Exit codes: 0 all requests good, 1 some failed, 2 wrong arguments, 3 the client was the bottleneck, 4 none good.
    Drive(DriveArgs),
}

/// Arguments of `drive`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("load").required(true).args(["concurrency", "rate"]))]
pub struct DriveArgs {
    /// Base URL of the server, with or without /v1; http only.
    #[arg(long)]
    pub url: String,
    /// Model to ask for; an answer of another one is a failure.
    #[arg(long)]
    pub model: String,
    /// Closed loop: this many users, each sends its next request when its last one is over.
    #[arg(long, value_name = "USERS", value_parser = clap::value_parser!(u64).range(1..=MAX_IN_FLIGHT as u64))]
    pub concurrency: Option<u64>,
    /// Open loop: this many requests per second on average, sent when due whatever the server does.
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// How an open loop spaces its requests [default: poisson].
    #[arg(long, conflicts_with = "concurrency")]
    pub arrival: Option<Arrival>,
    /// When to begin no more requests; those in flight are waited for [default: 30s, or none with --requests].
    #[arg(long, value_parser = duration)]
    pub duration: Option<Duration>,
    /// At most this many requests.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub requests: Option<u64>,
    /// Length of each prompt in common words, about one token each; every prompt is different.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = tokens)]
    pub prompt_tokens: u32,
    /// Most tokens of each answer.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = tokens)]
    pub output_tokens: u32,
    /// Which endpoint to ask.
    #[arg(long, default_value = "chat")]
    pub endpoint: Endpoint,
    /// Fixes prompts and arrivals.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// API key [default: $OPENAI_API_KEY, if set].
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,
    /// A further request header; may be given several times.
    #[arg(long, value_name = "NAME:VALUE")]
    pub header: Vec<String>,
    /// Requests before the run that are not counted.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=MAX_WARMUP))]
    pub warmup: u64,
    /// Time limit of a request, counted from its due time.
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub timeout: Duration,
    /// Writes the report as JSON to a file, or to stdout with "-" (the table then goes to stderr).
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<PathBuf>,
    /// Asks the server to go on past the end of an answer (extension of vLLM, sglang and others).
    #[arg(long)]
    pub ignore_eos: bool,
    /// Compares every answer byte for byte with what a simulated Hansa model must say.
    #[arg(long)]
    pub check_sim_tokens: bool,
    /// Threads of the client's event loop.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=MAX_THREADS as u64))]
    pub threads: u64,
}

/// A checked run.
#[derive(Debug)]
pub struct Plan {
    /// What each request asks.
    pub ask: Ask,
    /// Where to.
    pub target: Target,
    /// When.
    pub load: Load,
    /// When it ends.
    pub until: Until,
    /// Time limit of a request in nanoseconds.
    pub timeout: u64,
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
}

impl DriveArgs {
    /// Checks the arguments against each other and makes the schedule. `env_key` is the API key of the environment.
    ///
    /// # Errors
    /// The first argument that cannot be followed.
    pub fn plan(&self, env_key: Option<&str>) -> Result<Plan, PlanError> {
        let mut target = Target::parse(&self.url, self.endpoint)?;
        let env_key = env_key.filter(|key| !key.trim().is_empty());
        if let Some(key) = self.api_key.as_deref().or(env_key) {
            target.set_api_key(key)?;
        }
        for header in &self.header {
            target.add_header(header)?;
        }
        let until = self.until();
        let ask = Ask {
            endpoint: self.endpoint,
            model: self.model.clone(),
            prompt_tokens: self.prompt_tokens,
            output_tokens: self.output_tokens,
            seed: self.seed,
            ignore_eos: self.ignore_eos,
            send_seed: self.check_sim_tokens,
        };
        Ok(Plan {
            ask,
            target,
            load: self.load(until)?,
            until,
            timeout: nanos(self.timeout),
        })
    }

    /// The arrivals of an open loop.
    pub fn arrival(&self) -> Arrival {
        self.arrival.unwrap_or(Arrival::Poisson)
    }

    fn until(&self) -> Until {
        let default = self.requests.is_none().then_some(Duration::from_secs(30));
        Until {
            duration: self.duration.or(default),
            requests: self.requests,
        }
    }

    fn load(&self, until: Until) -> Result<Load, ScheduleError> {
        if let Some(rate) = self.rate {
            let schedule = Schedule::build(self.arrival(), rate, until, self.seed)?;
            return Ok(Load::Open(Arc::new(schedule)));
        }
        until.bounds()?;
        let users = self.concurrency.unwrap_or(1);
        Ok(Load::Closed {
            users: usize::try_from(users).unwrap_or(MAX_IN_FLIGHT),
            until,
        })
    }
}

/// Reads `500ms`, `30s`, `5m` or `1h`; a bare number is refused, since tools disagree on its unit.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let scale = match unit {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err("expected a number and a unit: 500ms, 30s, 5m, 1h".to_owned()),
    };
    let seconds = number
        .parse::<f64>()
        .map_err(|_| format!("{number:?} is no number"))?
        * scale;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() && duration <= MAX_DURATION => Ok(duration),
        _ => Err("expected more than 0 and at most 24h".to_owned()),
    }
}

fn tokens(text: &str) -> Result<u32, String> {
    match text.parse::<NonZeroU32>() {
        Ok(tokens) if tokens.get() <= MAX_TOKENS => Ok(tokens.get()),
        _ => Err(format!("expected a whole number from 1 to {MAX_TOKENS}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &str) -> Result<DriveArgs, clap::Error> {
        let line = format!("hansa-loadtest drive --url http://h --model m {more}");
        let Command::Drive(args) = Cli::try_parse_from(line.split_whitespace())?.command;
        Ok(args)
    }

    fn plan(more: &str) -> Result<Plan, PlanError> {
        parse(more).unwrap().plan(None)
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        let ms = |text| duration(text).map(|duration| duration.as_millis());
        assert_eq!(ms("500ms"), Ok(500));
        assert_eq!(ms("1.5s"), Ok(1_500));
        assert_eq!((ms("2m"), ms("1h")), (Ok(120_000), Ok(3_600_000)));
        for bad in [
            "", "30", "s", "-1s", "0s", "25h", "1.2.3s", "1 s", "infs", "NaNs",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn exactly_one_kind_of_load_is_asked_for() {
        assert!(parse("").is_err());
        assert!(parse("--concurrency 1 --rate 2").is_err());
        assert!(parse("--concurrency 1 --arrival poisson").is_err());
        assert!(parse("--concurrency 0").is_err());
        assert!(parse("--concurrency 1000000").is_err());
        assert!(matches!(plan("--rate 2").unwrap().load, Load::Open(_)));
        assert!(matches!(
            plan("--concurrency 2").unwrap().load,
            Load::Closed { users: 2, .. }
        ));
    }

    #[test]
    fn a_run_has_an_end() {
        let until = |more: &str| parse(more).unwrap().until();
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
    }

    #[test]
    fn the_key_comes_from_the_argument_or_else_from_the_environment() {
        let key = |more: &str, env| {
            let plan = parse(more).unwrap().plan(env).unwrap();
            plan.target
                .headers()
                .get("authorization")
                .map(|value| value.to_str().unwrap().to_owned())
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
