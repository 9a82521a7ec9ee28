//! Arguments of `sim`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::sim::scenario::{Policy, policy};

/// Arguments of `sim`.
#[derive(Debug, Args)]
pub struct SimArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: SimCommand,
}

/// What the simulator does.
#[derive(Debug, Subcommand)]
pub enum SimCommand {
    /// Simulates a scenario under each of its policies and reports them side by side. One seed gives the same report to
    /// the byte.
    ///
    /// Exit codes: 0 simulated, 1 a prediction was worse than asked for, 2 wrong arguments, 3 the run that it was held against
    /// was client-bound, 4 no request was answered. Stopped early, it reports the policies that are done.
    Run(RunArgs),
    /// Checks a scenario and says what it would simulate.
    Check {
        /// The scenario.
        #[arg(long, value_name = "FILE")]
        scenario: PathBuf,
    },
    /// Fits what a server's steps cost to the raw file of a `drive` run against a single node, and prints it as a [[machine]].
    Calibrate {
        /// File that `drive --raw` wrote.
        #[arg(value_name = "RAW")]
        raw: PathBuf,
        /// Name of the machine.
        #[arg(long, default_value = "calibrated")]
        name: String,
    },
}

/// Arguments of `sim run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The scenario.
    #[arg(long, value_name = "FILE")]
    pub scenario: PathBuf,
    /// Another seed than the scenario's.
    #[arg(long)]
    pub seed: Option<u64>,
    /// At most this many requests.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub requests: Option<u64>,
    /// Only this policy, whatever the scenario compares; may be given several times.
    #[arg(long, value_name = "NAME", value_parser = policy)]
    pub policy: Vec<Policy>,
    /// Writes the report as JSON to a file, or to stdout with "-" (the text then goes to stderr).
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<PathBuf>,
    /// Writes a page with maps, one file that needs nothing else.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Plays the requests of a `drive` run instead of the scenario's load, and says how far the first policy's prediction
    /// is from what was measured.
    #[arg(long, value_name = "RAW")]
    pub against: Option<PathBuf>,
    /// With --against: exit code 1 where the mean end-to-end time is further off, in percent.
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = 10.0,
        requires = "against"
    )]
    pub e2e_within: f64,
    /// With --against: exit code 1 where the 99th percentile of the time to first token is further off, in percent.
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = 25.0,
        requires = "against"
    )]
    pub ttft_within: f64,
}
