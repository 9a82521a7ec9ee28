//! The command line: what can be asked for. [`crate::plan`] checks what arguments mean together.

mod faults;
mod sim;

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand};

pub use self::faults::{AbuseArgs, MockArgs, ProxyArgs};
use crate::compare::Gate;
use crate::drive::prompt::Endpoint;
use crate::limits::{
    MAX_IN_FLIGHT, MAX_PROBE_RATE, MAX_RAW_SAMPLE, MAX_THREADS, MAX_TOKENS, MAX_WARMUP,
};
use crate::slo::Objective;
use crate::units::duration;

pub use self::sim::{RunArgs as SimRunArgs, SimArgs, SimCommand};

/// Arguments that a scenario file says itself.
const SAID_BY_SCENARIO: [&str; 12] = [
    "arrival",
    "shape",
    "duration",
    "requests",
    "prompt_tokens",
    "output_tokens",
    "endpoint",
    "seed",
    "warmup",
    "timeout",
    "ignore_eos",
    "check_sim_tokens",
];

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
    /// Exit codes: 0 all objectives met (without --slo: all requests good), 1 missed, 2 wrong arguments, 3 the client
    /// was the bottleneck, 4 none good.
    Drive(Box<DriveArgs>),
    /// Finds the highest rate that meets all objectives, beginning at --rate: a run of --duration for each rate tried.
    ///
    /// Exit codes: 0 found, 1 not found, 2 wrong arguments, 3 the client is the limit, 4 none good.
    Search(Box<SearchArgs>),
    /// Compares two runs by their raw files, with intervals of 95 % for every change.
    ///
    /// Exit codes: 0 all gates met, 1 one missed, 2 wrong arguments, 3 undecided: a run was client-bound, or there are
    /// too few requests to tell.
    Compare(CompareArgs),
    /// Checks a scenario file and says what it would do; sends nothing. Exit code 2 for a bad one.
    Check(CheckArgs),
    /// Runs mock sites of known speed, and says where in one line of JSON, until it is told to end.
    Mock(MockArgs),
    /// Runs a proxy before a real server, which does to its connections what --fault says, until it is told to end.
    Proxy(ProxyArgs),
    /// Behaves badly towards a server of your own, kind by kind, and says what was to be expected and what was seen.
    ///
    /// Exit codes: 0 all as expected, 1 something was not, 2 wrong arguments.
    Abuse(AbuseArgs),
    /// Simulates a federation of sites, with the gateway's own routing, to answer "what if".
    Sim(Box<SimArgs>),
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The scenario file.
    #[arg(long, value_name = "FILE")]
    pub scenario: PathBuf,
}

/// Arguments of `search`.
#[derive(Debug, Args)]
pub struct SearchArgs {
    /// The runs.
    #[command(flatten)]
    pub drive: DriveArgs,
    /// How near the highest rate met and the lowest missed must be, as a part of the former.
    #[arg(long, default_value_t = 0.05, value_parser = tolerance)]
    pub tolerance: f64,
    /// Further times that the result must be met, each with other prompts and arrivals.
    #[arg(long, value_name = "TIMES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(..=10))]
    pub confirm: u32,
    /// Pause before each further run.
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub settle: Duration,
}

/// Arguments of `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Raw file of the run before.
    #[arg(value_name = "A")]
    pub before: PathBuf,
    /// Raw file of the run after.
    #[arg(value_name = "B")]
    pub after: PathBuf,
    /// A change that may be: 'ttft.p99 < +5%', 'output > -3%'; may be given several times.
    #[arg(long)]
    pub gate: Vec<Gate>,
    /// Fixes the draws.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// How an open loop spaces its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ArrivalKind {
    /// Evenly.
    Constant,
    /// At random, independently.
    Poisson,
    /// At random, in bursts or evenly, as --shape says.
    Gamma,
}

/// Arguments of `drive`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("load").required(true).args(["concurrency", "rate", "scenario"]))]
pub struct DriveArgs {
    /// Base URL of the server, http or https, with or without /v1.
    #[arg(long, required_unless_present = "scenario")]
    pub url: Option<String>,
    /// PEM file with the authorities to be trusted for https, instead of the public ones.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Model to ask for; an answer of another one is a failure.
    #[arg(
        long,
        required_unless_present = "scenario",
        conflicts_with = "scenario"
    )]
    pub model: Option<String>,
    /// A file that says all of the load (`check` checks it); --url, where given, comes before its own.
    #[arg(long, value_name = "FILE", conflicts_with_all = SAID_BY_SCENARIO)]
    pub scenario: Option<PathBuf>,
    /// Closed loop: this many users, each sends its next request when its last one is over.
    #[arg(long, value_name = "USERS", value_parser = clap::value_parser!(u64).range(1..=MAX_IN_FLIGHT as u64))]
    pub concurrency: Option<u64>,
    /// Open loop: this many requests per second on average, sent when due whatever the server does.
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// How an open loop spaces its requests [default: poisson].
    #[arg(long, conflicts_with = "concurrency")]
    pub arrival: Option<ArrivalKind>,
    /// Shape of gamma arrivals: below 1 they come in bursts, above 1 evenly [default: 0.5].
    #[arg(long)]
    pub shape: Option<f64>,
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
    /// Writes every request, for `compare` and for your own analysis, never a text: one line of JSON each, or Parquet where
    /// FILE ends in .parquet.
    #[arg(long, value_name = "FILE")]
    pub raw: Option<PathBuf>,
    /// Keeps only so many requests in the raw file, drawn evenly from all requests.
    #[arg(long, value_name = "REQUESTS", requires = "raw", value_parser = clap::value_parser!(u64).range(1..=MAX_RAW_SAMPLE))]
    pub raw_sample: Option<u64>,
    /// Reads this metrics page of the server every second, on the same time axis; `/metrics` where no path is given.
    #[arg(long, value_name = "URL")]
    pub metrics: Option<String>,
    /// Short requests for one token beside the load, this many per second: what the load does to others (vllm:
    /// --probe-request-rate). They are reported apart, beside a few sent before the load, and may have objectives:
    /// 'probe.ttft.p99 < 200ms'.
    #[arg(long, alias = "probe-request-rate", value_name = "PER_SECOND", value_parser = probe_rate)]
    pub probe_rate: Option<f64>,
    /// Shows progress in plain lines on a terminal too.
    #[arg(long)]
    pub plain: bool,
    /// Writes a report with charts, one file that needs nothing else.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Must hold, or the exit code is 1: 'ttft.p99 < 500ms', 'tpot < 50ms' with 'goodput > 95%', 'output > 1000/s'; may
    /// be given several times.
    #[arg(long, value_name = "OBJECTIVE")]
    pub slo: Vec<Objective>,
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

fn tolerance(text: &str) -> Result<f64, String> {
    let part = text
        .parse()
        .ok()
        .filter(|part| (0.001..=1.0).contains(part));
    part.ok_or_else(|| "expected a number from 0.001 to 1".to_owned())
}

fn probe_rate(text: &str) -> Result<f64, String> {
    let rate = text
        .parse()
        .ok()
        .filter(|rate| (0.001..=MAX_PROBE_RATE).contains(rate));
    rate.ok_or_else(|| format!("expected a number from 0.001 to {MAX_PROBE_RATE}"))
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

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn exactly_one_kind_of_load_is_asked_for() {
        let parse = |more: &str| {
            let line = format!("hansa-loadtest drive {more}");
            Cli::try_parse_from(line.split_whitespace()).is_ok()
        };
        let to = "--url http://h --model m";
        assert!(parse(&format!("{to} --rate 2 --arrival gamma --shape 0.3")));
        assert!(parse("--scenario s.toml --url http://h --slo goodput>95%"));
        for bad in [
            "".to_owned(),
            to.to_owned(),
            "--url http://h --rate 1".to_owned(),
            format!("{to} --concurrency 1 --rate 2"),
            format!("{to} --concurrency 1 --arrival poisson"),
            format!("{to} --concurrency 0"),
            format!("{to} --concurrency 1000000"),
            format!("{to} --scenario s.toml"),
            format!("{to} --rate 1 --slo ttft<5"),
            "--scenario s.toml --seed 4".to_owned(),
        ] {
            assert!(!parse(&bad), "{bad}");
        }
    }
}
