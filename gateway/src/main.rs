//! The binary `hansa`: arguments in, exit code out. Everything else is in the library.

use std::process::ExitCode;

use clap::Parser;
use hansa_gateway::cli::{Cli, explain};
use hansa_gateway::telemetry::{LogOptions, start_logging};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    start_logging(&LogOptions::from_env());
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
