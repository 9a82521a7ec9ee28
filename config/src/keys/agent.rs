//! Keys of `[dial]`, `[agent]` and `[[job]]`, and those of `[server]` that say when it ends.

use super::{Key, Section, Slot, key, section};
use crate::limits;
use crate::schema::Config;
use crate::schema::agent::Job;

pub(crate) const SECTIONS: [Section; 3] = [
    section(
        "dial",
        "A gateway that this server calls because nobody can call it: requests come back on the same connections.",
    ),
    section(
        "agent",
        "Turns the process into an agent (`hansa agent`): it submits jobs to Slurm that serve, and carries their \
         connections to the gateway of the site. It needs no root and nothing that comes in from outside.",
    ),
    Section {
        many: true,
        optional: true,
        ..section(
            "job",
            "A node that runs as a job of Slurm, one section for each. The agent keeps as many jobs as replicas, and \
             starts the next one before one ends.",
        )
    },
];

/// Keys of the sections that are there once.
pub(crate) const ROOT: &[Key<Config>] = &[
    key(
        "server.ends_at",
        "When the machine is taken away: nothing is let in that would go on beyond it, and the server leaves in time. \
         Left out: the end of the Slurm job that it runs in, if it runs in one.",
        |c: &mut Config| Slot::Date(&mut c.server.ends_at_s),
    )
    .example("2027-01-01T06:00:00Z"),
    key(
        "server.ends_in_s",
        "The same as a time from the start of the server.",
        |c: &mut Config| Slot::MaybeU64(&mut c.server.ends_in_s, limits::ENDS_IN_S),
    )
    .example("43200"),
    key(
        "dial.gateway",
        "URL of the gateway, or of an agent that leads to it. The gateway believes it by [peer].",
        |c: &mut Config| Slot::MaybeUrl(&mut c.dial.gateway),
    )
    .example("\"https://gateway.example\""),
    key(
        "dial.node",
        "Name of the [[node]] that this server is at the gateway, where it has discover = \"agent\".",
        |c: &mut Config| Slot::MaybeId(&mut c.dial.node),
    )
    .example("\"node-1\""),
    key(
        "dial.connections",
        "Connections that are kept; each carries 100 requests at once.",
        |c: &mut Config| Slot::U32(&mut c.dial.connections, limits::DIAL_CONNECTIONS),
    ),
    key(
        "agent.gateway",
        "URL of the gateway of the site, which the agent calls.",
        |c: &mut Config| Slot::MaybeUrl(&mut c.agent.gateway),
    )
    .example("\"https://gateway.example\""),
    key(
        "agent.url",
        "Where jobs reach the agent over the network of the compute nodes. Left out: http:// and server.listen.",
        |c: &mut Config| Slot::MaybeUrl(&mut c.agent.url),
    )
    .example("\"http://10.0.0.1:8080\""),
    key(
        "agent.slurm",
        "Folder with sbatch, squeue and scancel. Left out: they are looked for in PATH.",
        |c: &mut Config| Slot::Path(&mut c.agent.slurm),
    )
    .example("\"/opt/slurm/bin\""),
    key(
        "agent.program",
        "The program hansa as the compute nodes see it. Left out: the agent's own.",
        |c: &mut Config| Slot::Path(&mut c.agent.program),
    )
    .example("\"/home/me/bin/hansa\""),
    key(
        "agent.output",
        "Folder for what jobs write to their output. Left out: the agent's working folder.",
        |c: &mut Config| Slot::Path(&mut c.agent.output),
    )
    .example("\"/home/me/hansa\""),
    key(
        "agent.poll_s",
        "Time between two questions to Slurm how the jobs stand.",
        |c: &mut Config| Slot::U64(&mut c.agent.poll_s, limits::POLL_S),
    ),
];

/// Keys of each `[[job]]`.
pub(crate) const JOB: &[Key<Job>] = &[
    key(
        "node",
        "The [[node]] of the gateway that its jobs are; it has discover = \"agent\" there.",
        |j: &mut Job| Slot::Id(&mut j.node),
    )
    .required(),
    key(
        "config",
        "Config of the server that a job runs, as the compute nodes see it. Its [peer] is that of the agent.",
        |j: &mut Job| Slot::Path(&mut j.config),
    )
    .required()
    .example("\"/home/me/node.toml\""),
    key(
        "replicas",
        "Jobs that serve at once; around an end there is one more.",
        |j: &mut Job| Slot::U32(&mut j.replicas, limits::REPLICAS),
    ),
    key(
        "time_limit_s",
        "Time limit of a job; Slurm counts whole minutes.",
        |j: &mut Job| Slot::U64(&mut j.time_limit_s, limits::JOB_TIME_S),
    ),
    key(
        "grace_s",
        "Time before its limit at which a job is told to finish. What runs longer goes on elsewhere. Above \
         server.grace_ms and server.drain_delay_ms of its own config.",
        |j: &mut Job| Slot::U64(&mut j.grace_s, limits::JOB_GRACE_S),
    ),
    key(
        "load_s",
        "Time from a job's start until it serves, until it was measured: so much earlier the next one is submitted.",
        |j: &mut Job| Slot::U64(&mut j.load_s, limits::JOB_LOAD_S),
    ),
    key(
        "start_max_s",
        "Time after which a job that runs without serving is cancelled.",
        |j: &mut Job| Slot::U64(&mut j.start_max_s, limits::JOB_LOAD_S),
    ),
    key("partition", "Partition of Slurm.", |j: &mut Job| {
        Slot::MaybeId(&mut j.partition)
    })
    .example("\"gpu\""),
    key("account", "Account that pays for it.", |j: &mut Job| {
        Slot::MaybeId(&mut j.account)
    })
    .example("\"project_1\""),
    key(
        "gres",
        "Generic resources, such as GPUs.",
        |j: &mut Job| Slot::MaybeId(&mut j.gres),
    )
    .example("\"gpu:1\""),
    key(
        "options",
        "Further options of sbatch, one each.",
        |j: &mut Job| Slot::Lines(&mut j.options),
    ),
    key(
        "setup",
        "Lines of shell before the server starts, such as module load.",
        |j: &mut Job| Slot::Lines(&mut j.setup),
    ),
];
