//! Arguments of the commands that break things: `mock`, `proxy`, `abuse`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::faults::abuse::Abuse;
use crate::limits::{ABUSE_CONNECTIONS, MAX_TARGETS, MOCK_QUEUE, MOCK_SLOTS};
use crate::units::duration;

/// Arguments of `mock`.
#[derive(Debug, Args)]
pub struct MockArgs {
    /// How many sites; they are named mock-1, mock-2 and so on.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=MAX_TARGETS as i64))]
    pub sites: u16,
    /// Where the first one listens, the others at the ports after it; port 0 takes any.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9101")]
    pub listen: SocketAddr,
    /// The model that they serve.
    #[arg(long, default_value = "mock")]
    pub model: String,
    /// Requests at work at a time in a site.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=i64::from(MOCK_SLOTS)))]
    pub slots: u32,
    /// Requests that may wait for a slot; further ones get 429.
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(..=i64::from(MOCK_QUEUE)))]
    pub queue: u32,
    /// Time of a prompt, whatever its length.
    #[arg(long, value_name = "TIME", default_value = "5ms", value_parser = duration)]
    pub prefill: Duration,
    /// Time of each token of a prompt.
    #[arg(long, value_name = "TIME", default_value = "20us", value_parser = duration)]
    pub prefill_token: Duration,
    /// Time between two tokens of an answer.
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = duration)]
    pub step: Duration,
    /// Added to it for each request at work.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub step_request: Option<Duration>,
    /// Fixes texts of requests without a seed, and what faults draw.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// What goes wrong, as a [[fault]] of a scenario: 'kind = "stall", target = "mock-1", at = "10s", for = "1s"'; may be
    /// given several times. Times count from the start.
    #[arg(long)]
    pub fault: Vec<String>,
}

/// Arguments of `proxy`.
#[derive(Debug, Args)]
pub struct ProxyArgs {
    /// Where clients connect.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9101")]
    pub listen: SocketAddr,
    /// The server behind it.
    #[arg(long, value_name = "HOST:PORT")]
    pub to: String,
    /// Fixes what faults draw.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// What goes wrong, as a [[fault]] of a scenario: 'kind = "latency", delay = "80ms", jitter = "10ms"'; may be given several
    /// times. Times count from the start.
    #[arg(long)]
    pub fault: Vec<String>,
}

/// Arguments of `abuse`.
#[derive(Debug, Args)]
pub struct AbuseArgs {
    /// Base URL of the server, with or without /v1; http only.
    #[arg(long)]
    pub url: String,
    /// A model that it serves.
    #[arg(long)]
    pub model: String,
    /// API key [default: $OPENAI_API_KEY, if set].
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,
    /// Only these kinds [default: all].
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    pub only: Vec<Abuse>,
    /// Connections of each kind; a flood makes four times as many.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=ABUSE_CONNECTIONS))]
    pub connections: u64,
    /// How long an abused connection may stay.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub patience: Duration,
    /// Says that the server is yours and may be abused; needed for any that is not on this machine.
    #[arg(long)]
    pub i_own_this_server: bool,
    /// Writes the findings as JSON to a file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}
