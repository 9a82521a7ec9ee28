//! The command line: what a user types, and what the process answers on its way out.

mod accounts;
mod admin;
mod agent;
mod key;
mod usage;

use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use hansa_config::{Config, schema};
use tokio::runtime::{Builder, Runtime};

use crate::drain::Drained;
use crate::limits::{BLOCKING_THREADS_MAX, WORKERS_MAX};
use crate::serve::{App, ServeError};
use crate::signals::Signals;

/// One inference service from many AI factories: OpenAI's API in front of batching engines.
#[derive(Debug, Parser)]
#[command(name = "hansa", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve models. Without a config file: the default model, on this machine only
    Serve(ServeArgs),
    /// Read a config file and say everything that is wrong with it
    Check {
        /// The file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Models that are known by name
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Keep jobs of Slurm that serve, and carry their connections to a gateway
    Agent(agent::AgentArgs),
    /// Keys of the API
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Organisations and projects of a running server
    #[command(subcommand)]
    Tenants(accounts::TenantCommand),
    /// What tenants of a running server may spend in all
    #[command(subcommand)]
    Allocations(accounts::AllocationCommand),
    /// What was used: reports, exports, deletion
    #[command(subcommand)]
    Usage(usage::UsageCommand),
    /// Requests of a running server that are not over, with what they hold
    Reservations(admin::AdminArgs),
    /// What gateways that share a PostgreSQL have on lease
    Leases(admin::AdminArgs),
    /// Where a request went and why, as JSON; kept for some minutes
    Decisions {
        /// Its id, as in the answer's `x-request-id`
        request: String,
        #[command(flatten)]
        admin: admin::AdminArgs,
    },
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// What to serve and how; `hansa check` explains its problems
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address for clients; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Serve this model alone, with the settings of the config's first model: a name of `hansa models list`, a path to
    /// a .gguf file (its id is the file's name without the ending), or hf:OWNER/REPO/FILE.gguf
    #[arg(long, value_name = "NAME|PATH")]
    model: Option<String>,
    /// Address for operators, or "none" [default: 127.0.0.1:9900]
    #[arg(long, value_name = "ADDR|none", value_parser = admin_listen)]
    admin_listen: Option<AdminListen>,
    /// Call the gateway at this URL and serve what comes back on the connection; before dial.gateway
    #[arg(long, value_name = "URL", requires = "dial_as")]
    dial: Option<String>,
    /// The [[node]] that this server is there; before dial.node
    #[arg(long, value_name = "NODE", requires = "dial")]
    dial_as: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct AdminListen(Option<SocketAddr>);

fn admin_listen(text: &str) -> Result<AdminListen, String> {
    if text == "none" {
        return Ok(AdminListen(None));
    }
    let address = text.parse().map(|address| AdminListen(Some(address)));
    address.map_err(|_| "neither \"none\" nor an address such as 127.0.0.1:9900".to_owned())
}

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// List them, and whether they are on this machine
    List,
    /// Fetch one, so that `serve` needs no network
    Pull {
        /// Its name
        name: String,
    },
}

/// Why the process ends without success: what to print, and the exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    message: String,
    code: u8,
}

/// Wrong arguments or a wrong config (`EX_USAGE`).
const EXIT_USAGE: u8 = 64;
/// Something that this machine lacks: an address, a model, a file.
const EXIT_FAILED: u8 = 70;
/// A second signal cut running requests.
const EXIT_FORCED: u8 = 1;

impl Failure {
    fn new(message: impl fmt::Display, code: u8) -> Self {
        let message = message.to_string();
        Self { message, code }
    }

    fn usage(message: impl fmt::Display) -> Self {
        Self::new(message, EXIT_USAGE)
    }

    fn failed(message: impl fmt::Display) -> Self {
        Self::new(message, EXIT_FAILED)
    }

    /// Prints the message and gives the exit code.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        // Nobody to tell where stderr is closed; the code says it as well.
        let _ = writeln!(io::stderr(), "hansa: {}", self.message);
        ExitCode::from(self.code)
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::NotLoopback { .. } => Self::usage(error),
            _ => Self::failed(error),
        }
    }
}

/// Prints what clap has to say: help on stdout with success, a mistake on stderr with the exit code for one.
#[must_use]
pub fn explain(error: &clap::Error) -> ExitCode {
    // As above: the code says it as well.
    let _ = error.print();
    if error.use_stderr() {
        ExitCode::from(EXIT_USAGE)
    } else {
        ExitCode::SUCCESS
    }
}

impl Cli {
    /// Does what the user asked for.
    ///
    /// # Errors
    /// [`Failure`], for the user to read.
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Serve(args) => serve(args),
            Command::Check { config } => check(&config),
            Command::Models(ModelsCommand::List) => models::list(),
            Command::Models(ModelsCommand::Pull { name }) => models::pull(&name),
            Command::Agent(args) => agent::run(&args),
            Command::Key(command) => key::run(command),
            Command::Tenants(command) => accounts::tenants(command),
            Command::Allocations(command) => accounts::allocations(command),
            Command::Usage(command) => usage::run(command),
            Command::Reservations(admin) => accounts::reservations(admin),
            Command::Leases(admin) => accounts::leases(admin),
            Command::Decisions { request, admin } => accounts::decisions(&request, admin),
        }
    }
}

fn serve(args: ServeArgs) -> Result<(), Failure> {
    let config = config(args)?;
    let runtime = runtime().map_err(Failure::failed)?;
    let drained: Result<_, Failure> = runtime.block_on(async {
        let mut signals = Signals::listen().map_err(Failure::failed)?;
        let app = App::build(config).await?;
        let addresses = serde_json::to_string(&app.addresses()).map_err(Failure::failed)?;
        print_line(&addresses)?;
        Ok(app.run(async || signals.next().await).await?)
    });
    // A download or a tokenizer at work may take long yet; nobody waits for it any more.
    runtime.shutdown_timeout(Duration::ZERO);
    match drained? {
        Drained::Forced => Err(Failure::new(
            "stopped before the drain was over",
            EXIT_FORCED,
        )),
        Drained::InOrder | Drained::Cut => Ok(()),
    }
}

/// The config that the arguments ask for.
fn config(args: ServeArgs) -> Result<Config, Failure> {
    let mut config = match &args.config {
        Some(file) => Config::load(file).map_err(Failure::usage)?,
        None => Config::default(),
    };
    if config.agent.gateway.is_some() {
        let help = "this is the config of an agent; start it with `hansa agent`";
        return Err(Failure::usage(help));
    }
    if let Some(listen) = args.listen {
        config.server.listen = listen;
    }
    if let Some(AdminListen(listen)) = args.admin_listen {
        config.admin.listen = listen;
    }
    if let (Some(gateway), Some(node)) = (args.dial, args.dial_as) {
        config.dial.gateway = Some(gateway);
        config.dial.node = Some(node);
    }
    if let Some(source) = args.model {
        let settings = config.models.first().cloned().unwrap_or_default();
        config.models = vec![schema::Model {
            id: id_of(&source).to_owned(),
            runner: schema::Runner::Candle,
            source,
            ..settings
        }];
    }
    Ok(config)
}

/// The id of a model in the API where only its source is known: the file's name without the ending, or the name itself.
fn id_of(source: &str) -> &str {
    let path = Path::new(source);
    let is_file = path.extension().is_some_and(|ending| ending == "gguf");
    let name = if is_file { path.file_stem() } else { None };
    name.and_then(|name| name.to_str()).unwrap_or(source)
}

fn check(file: &Path) -> Result<(), Failure> {
    let config = Config::load(file).map_err(Failure::usage)?;
    print_line(&config.describe(&schema::Origin::File(file.to_owned())))
}

fn runtime() -> io::Result<Runtime> {
    // The engine has threads of its own and needs the cores more than the network does.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Builder::new_multi_thread()
        .worker_threads(cores.clamp(2, WORKERS_MAX))
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("hansa-net")
        .enable_all()
        .build()
}

/// One line on stdout, at once: whoever started us may wait for it.
fn print_line(line: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{line}")
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::failed(format!("cannot write to stdout: {error}")))
}

#[cfg(feature = "engine")]
mod models {
    use hansa_models::source::{SourceOptions, cached, catalogue, resolve};

    use super::{Failure, print_line};

    pub(super) fn list() -> Result<(), Failure> {
        let options = SourceOptions::from_env();
        for entry in catalogue() {
            let here = cached(entry, &options).map_or("not fetched", |_| "on this machine");
            let megabytes = entry.bytes / 1_000_000;
            let (name, about) = (&entry.name, &entry.about);
            print_line(&format!("{name}  {megabytes} MB, {here}. {about}"))?;
        }
        Ok(())
    }

    pub(super) fn pull(name: &str) -> Result<(), Failure> {
        let file = resolve(name, &SourceOptions::from_env()).map_err(Failure::failed)?;
        print_line(&file.path.display().to_string())
    }
}

#[cfg(not(feature = "engine"))]
mod models {
    use super::Failure;

    pub(super) fn list() -> Result<(), Failure> {
        Err(Failure::failed(
            "this build serves no models of its own; build with the cargo feature `engine`",
        ))
    }

    pub(super) fn pull(_: &str) -> Result<(), Failure> {
        list()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Config, String> {
        let args = [&["hansa", "serve"], args].concat();
        let cli = Cli::try_parse_from(args).map_err(|error| error.to_string())?;
        match cli.command {
            Command::Serve(args) => config(args).map_err(|failure| failure.message),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn without_arguments_the_default_model_is_served_on_loopback() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.server.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.admin.listen.unwrap().to_string(), "127.0.0.1:9900");
        assert_eq!(config.models, vec![schema::Model::default()]);
    }

    #[test]
    fn arguments_go_before_the_config() {
        let args = ["--listen", "127.0.0.1:0", "--admin-listen", "none"];
        let config = parse(&args).unwrap();
        assert_eq!(config.server.listen.port(), 0);
        assert_eq!(config.admin.listen, None);
        assert!(parse(&["--admin-listen", "nowhere"]).is_err());
    }

    #[test]
    fn a_model_is_named_after_its_file() {
        for (source, id) in [
            ("smollm2-135m-instruct", "smollm2-135m-instruct"),
            ("/models/Qwen3-0.6B-Q8_0.gguf", "Qwen3-0.6B-Q8_0"),
            ("hf:owner/repo/Some.Model.gguf", "Some.Model"),
        ] {
            let config = parse(&["--model", source]).unwrap();
            assert_eq!(config.models[0].id, id);
            assert_eq!(config.models[0].source, source);
        }
    }
}
