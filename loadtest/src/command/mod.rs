//! The commands, from their arguments to their exit codes.

pub mod abuse;
pub mod bed;
pub mod check;
pub mod compare;
pub mod drive;
mod observe;
mod output;
pub mod search;
pub mod sim;

use std::io::{Write, stderr};
use std::process::ExitCode;

use crate::report::exit;

/// Ends a command: an error is wrong arguments, since everything else has a code of its own.
fn end(result: anyhow::Result<u8>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // Nobody can be told that stderr is gone.
            writeln!(stderr(), "error: {error:#}").ok();
            ExitCode::from(exit::BAD_ARGUMENTS)
        }
    }
}

/// The environment.
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
