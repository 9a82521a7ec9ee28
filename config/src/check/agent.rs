//! What the keys of `[dial]`, `[agent]` and `[[job]]` mean together.

use super::required_keys;
use crate::keys::agent::JOB;
use crate::problems::{Fault, quote};
use crate::read::Reader;

/// Notes every broken rule in `reader`.
pub(super) fn config(reader: &mut Reader) {
    dial(reader);
    agent(reader);
    let jobs = reader.config.jobs.clone();
    for (index, job) in jobs.iter().enumerate() {
        let path = format!("job[{index}]");
        if !reader.sound(&[&path]) {
            continue;
        }
        required_keys(reader, JOB, &path);
        if job.grace_s >= job.time_limit_s {
            let message = format!(
                "a job of {} s has no {} s to finish",
                job.time_limit_s, job.grace_s
            );
            let fault = Fault::new(message, "make it less than time_limit_s");
            between(reader, &path, ["grace_s", "time_limit_s"], fault);
        }
        plain_name(reader, &job.node, &path);
        let same = jobs[..index]
            .iter()
            .position(|earlier| earlier.node == job.node);
        if let Some(earlier) = same.filter(|_| !job.node.is_empty()) {
            let message = format!("{} is the node of job[{earlier}] already", quote(&job.node));
            let help = "raise its replicas, or give the gateway another [[node]]";
            fault(reader, &format!("{path}.node"), Fault::new(message, help));
        }
    }
}

/// It becomes part of a job's name and of a file's.
fn plain_name(reader: &mut Reader, node: &str, path: &str) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !node.bytes().all(plain) {
        let message = format!("{} cannot name a job", quote(node));
        let help = "use letters, digits, dots, dashes and underscores, here and at the gateway";
        fault(reader, &format!("{path}.node"), Fault::new(message, help));
    }
}

fn dial(reader: &mut Reader) {
    let dial = &reader.config.dial;
    let (there, lacks) = match (&dial.gateway, &dial.node) {
        (Some(_), None) => ("dial.gateway", "dial.node"),
        (None, Some(_)) => ("dial.node", "dial.gateway"),
        _ => return,
    };
    if reader.sound(&["dial.gateway", "dial.node"]) {
        let message = format!("is of no use without {lacks}");
        fault(reader, there, Fault::new(message, format!("add {lacks}")));
    }
}

fn agent(reader: &mut Reader) {
    let config = &reader.config;
    let (has_gateway, has_jobs) = (config.agent.gateway.is_some(), !config.jobs.is_empty());
    let can_authenticate = config.peer.can_authenticate();
    if !reader.sound(&["agent", "agent.gateway", "job"]) {
        return;
    }
    if has_jobs && !has_gateway {
        let help = "add [agent] with gateway = \"https://gateway.example\"";
        return fault(
            reader,
            "job",
            Fault::new("needs an agent that submits it", help),
        );
    }
    if has_gateway && !has_jobs {
        let help = "add [[job]] with node and config";
        fault(reader, "agent", Fault::new("has no job to submit", help));
    }
    if has_gateway && !can_authenticate {
        let help =
            "add [peer] with secret_file: jobs prove by it who they are, and so does the agent";
        fault(reader, "agent", Fault::new("needs [peer]", help));
    }
}

/// Notes a fault between two keys of a job, at the first one that the text has.
fn between(reader: &mut Reader, path: &str, names: [&str; 2], broken: Fault) {
    let full = names.map(|name| format!("{path}.{name}"));
    let there = full.iter().find(|path| reader.offset(path).is_some());
    if let Some(there) = there.filter(|_| reader.sound(&[&full[0], &full[1]])) {
        fault(reader, there, broken);
    }
}

fn fault(reader: &mut Reader, path: &str, fault: Fault) {
    let offset = reader.offset(path).unwrap_or(0);
    reader.fault(offset, path, fault);
}
