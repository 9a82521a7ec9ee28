//! `[dial]`, `[agent]` and `[[job]]`: servers that nobody can call, so that they call, and the jobs of Slurm that run them.

use std::path::PathBuf;

/// `[dial]`: the gateway that this server calls to be called back on the same connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dial {
    /// URL of the gateway, or of an agent on the way to it; nobody is called where unset.
    pub gateway: Option<String>,
    /// The `[[node]]` that this server is there.
    pub node: Option<String>,
    /// Connections that are kept.
    pub connections: u32,
}

/// `[agent]`: submits jobs that serve, and carries their connections to the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// URL of the gateway; a config that has it is an agent's.
    pub gateway: Option<String>,
    /// URL at which jobs reach the agent; `server.listen` where unset.
    pub url: Option<String>,
    /// Folder of `sbatch`, `squeue` and `scancel`; those of `PATH` where unset.
    pub slurm: Option<PathBuf>,
    /// The program `hansa` on the nodes; the agent's own where unset.
    pub program: Option<PathBuf>,
    /// Folder for what jobs write to their output; the agent's working folder where unset.
    pub output: Option<PathBuf>,
    /// Seconds between two questions how the jobs stand.
    pub poll_s: u64,
}

/// `[[job]]`: a node that runs as a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The `[[node]]` of the gateway that it is.
    pub node: String,
    /// Config of the `hansa serve` that it runs.
    pub config: Option<PathBuf>,
    /// Jobs that serve at once.
    pub replicas: u32,
    /// Time limit of one job.
    pub time_limit_s: u64,
    /// Time before its end at which a job is told to finish.
    pub grace_s: u64,
    /// Time from a job's start until it serves, before one was measured.
    pub load_s: u64,
    /// Time after which a job that runs and does not serve is given up.
    pub start_max_s: u64,
    /// Slurm's partition.
    pub partition: Option<String>,
    /// Slurm's account.
    pub account: Option<String>,
    /// Slurm's generic resources.
    pub gres: Option<String>,
    /// Further options of sbatch.
    pub options: Vec<String>,
    /// Lines of shell before the server starts.
    pub setup: Vec<String>,
}

impl Default for Dial {
    fn default() -> Self {
        Self {
            gateway: None,
            node: None,
            connections: 4,
        }
    }
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            gateway: None,
            url: None,
            slurm: None,
            program: None,
            output: None,
            poll_s: 10,
        }
    }
}

impl Default for Job {
    fn default() -> Self {
        Self {
            node: String::new(),
            config: None,
            replicas: 1,
            time_limit_s: 12 * 3_600,
            grace_s: 60,
            load_s: 120,
            start_max_s: 1_800,
            partition: None,
            account: None,
            gres: None,
            options: Vec::new(),
            setup: Vec::new(),
        }
    }
}
