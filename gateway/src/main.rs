//! The binary `hansa`: arguments in, exit code out. Everything else is in the library.

use std::process::ExitCode;

use clap::Parser;
use hansa_gateway::cli::{Cli, explain};
use hansa_gateway::telemetry::{LogOptions, start_logging};

/// A request is some hundred small pieces of memory that live for a millisecond, and the C library's allocator takes a fifth
/// of the gateway's time for them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
