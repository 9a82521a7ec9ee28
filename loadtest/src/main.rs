//! The program `hansa-loadtest`: reads the command line and hands over.

use std::process::ExitCode;

use clap::Parser;
use hansa_loadtest::cli::{Cli, Command};
use hansa_loadtest::command::{abuse, bed, check, compare, drive, search, sim};

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Drive(args) => drive::drive(&args),
        Command::Search(args) => search::search(&args),
        Command::Compare(args) => compare::compare(&args),
        Command::Check(args) => check::check(&args),
        Command::Mock(args) => bed::mock(&args),
        Command::Proxy(args) => bed::proxy(&args),
        Command::Abuse(args) => abuse::abuse(&args),
        Command::Sim(args) => sim::sim(&args),
    }
}
