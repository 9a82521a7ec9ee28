//! `hansa agent`: keeps jobs of Slurm that serve, and carries their connections to a gateway.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hansa_config::Config;

use super::{Failure, print_line, runtime};
use crate::agent::run::AgentApp;
use crate::signals::Signals;

/// Which agent.
#[derive(Debug, Args)]
pub(super) struct AgentArgs {
    /// What to submit, and whom to call
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs until it is told to end; the jobs stay.
pub(super) fn run(args: &AgentArgs) -> Result<(), Failure> {
    let config = Config::load(&args.config).map_err(Failure::usage)?;
    if config.agent.gateway.is_none() {
        let help = "this is no config of an agent: add [agent] with gateway, and [[job]]";
        return Err(Failure::usage(help));
    }
    let runtime = runtime().map_err(Failure::failed)?;
    let ended: Result<(), Failure> = runtime.block_on(async {
        let mut signals = Signals::listen().map_err(Failure::failed)?;
        let app = AgentApp::build(config).await?;
        let addresses = serde_json::to_string(&app.addresses()).map_err(Failure::failed)?;
        print_line(&addresses)?;
        Ok(app.run(signals.next()).await?)
    });
    // A command of Slurm may take long yet; nobody waits for it any more.
    runtime.shutdown_timeout(Duration::ZERO);
    ended
}
