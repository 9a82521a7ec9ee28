//! The program `hansa-loadtest`: reads the command line and hands over.

use std::process::ExitCode;

use clap::Parser;
use hansa_loadtest::cli::{Cli, Command};
use hansa_loadtest::command;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Drive(args) => command::drive(&args),
    }
}
