//! What a process with this config will be, in a few lines for `hansa check`.

use std::net::SocketAddr;

use crate::schema::agent::Job;
use crate::schema::{Choice, Config, Discover, Model, Origin, Peer, Runner, Upstream};
use crate::units::show_size;

impl Config {
    /// What the process will be: its config file, listeners and models, as lines of text without a
    /// last newline.
    pub fn describe(&self, origin: &Origin) -> String {
        let mut lines = vec![
            format!("config: {origin}"),
            format!(
                "clients: {}, at most {} connections",
                self.clients(),
                self.server.connections_max
            ),
            format!(
                "operators: {}",
                (self.admin.listen).map_or("none".to_owned(), |address| listener("http", address))
            ),
            format!("models: {}", self.models.len()),
        ];
        lines.extend(self.models.iter().map(model));
        if !self.nodes.is_empty() || !self.sites.is_empty() || self.peer != Peer::default() {
            lines.push(peers(&self.peer));
            lines.extend(self.topology());
        }
        lines.extend(tenants(self));
        lines.extend(calls(self));
        lines.extend(self.jobs.iter().map(job));
        lines.join("\n")
    }

    fn clients(&self) -> String {
        let scheme = if self.server.tls_cert.is_some() {
            "https"
        } else {
            "http"
        };
        let is_open = !self.server.listen.ip().is_loopback();
        let reach = match (!self.authenticates(), is_open) {
            (false, _) => " (with keys)",
            (true, false) => "",
            (true, true) if self.peer.can_authenticate() => {
                " (open to other machines, for peers alone)"
            }
            (true, true) => " (open to other machines, without keys)",
        };
        listener(scheme, self.server.listen) + reach
    }

    /// This server and those that it calls, as a tree.
    fn topology(&self) -> Vec<String> {
        let role = match (self.sites.is_empty(), self.nodes.is_empty()) {
            (false, _) => "federation gateway",
            (true, false) => "site gateway",
            (true, true) => "node",
        };
        let mut lines = vec![format!("topology: {role}")];
        let here = self.models.iter().map(|model| model.id.as_str());
        let here: Vec<&str> = here.collect();
        let mut branches = Vec::new();
        if !here.is_empty() {
            branches.push(format!("this server: {}", here.join(", ")));
        }
        branches.extend(self.nodes.iter().map(|node| branch("node", node)));
        branches.extend(self.sites.iter().map(|site| branch("site", site)));
        let last = branches.len().saturating_sub(1);
        let draw = |(index, branch): (usize, String)| {
            let stroke = if index == last { "`--" } else { "|--" };
            format!("  {stroke} {branch}")
        };
        lines.extend(branches.into_iter().enumerate().map(draw));
        lines
    }
}

fn peers(peer: &Peer) -> String {
    let mut known = Vec::new();
    if let Some(secret) = &peer.secret_file {
        known.push(format!("a secret from {secret}"));
    }
    if let Some(ca) = &peer.ca {
        known.push(format!("certificates signed by {}", ca.display()));
    }
    match known.is_empty() {
        true => "peers: none can call this server".to_owned(),
        false => format!("peers: known by {}", known.join(" or ")),
    }
}

fn branch(role: &str, upstream: &Upstream) -> String {
    let models = upstream
        .models
        .iter()
        .map(|model| match model.ours == model.theirs {
            true => model.ours.clone(),
            false => format!("{} (there {})", model.ours, model.theirs),
        });
    let mut facts = vec![upstream.kind.name().to_owned()];
    facts.extend((upstream.discover != Discover::Agent).then(|| upstream.url.clone()));
    match upstream.discover {
        Discover::Static => {}
        Discover::Agent => facts.push("calls this server".to_owned()),
        found => facts.push(format!("instances by {}", found.name())),
    }
    facts.extend(upstream.country.clone());
    facts.extend(upstream.rtt_ms.map(|ms| format!("{ms} ms away")));
    if upstream.experimental {
        facts.push("experimental".to_owned());
    }
    let models: Vec<String> = models.collect();
    format!(
        "{role} {} ({}): {}",
        upstream.name,
        facts.join(", "),
        models.join(", ")
    )
}

/// Nothing for a server that everyone uses as nobody.
fn tenants(config: &Config) -> Option<String> {
    let quota = &config.quota;
    let kept = quota.ledger.is_some() || quota.store.is_some();
    if !config.authenticates() && config.tenants.is_empty() && !kept {
        return None;
    }
    let ledger = match (&quota.store, &quota.ledger) {
        (Some(_), _) => "ledger in PostgreSQL, shared with other gateways".to_owned(),
        (None, Some(file)) => format!("ledger in {}", file.display()),
        (None, None) => "ledger in memory".to_owned(),
    };
    let issuers = match config.issuers.len() {
        0 => String::new(),
        count => format!("issuers: {count}, "),
    };
    Some(format!(
        "tenants: {}, keys: {}, {issuers}allocations: {}, {ledger}",
        config.tenants.len(),
        config.keys.len(),
        config.allocations.len()
    ))
}

/// Whom it calls, where it does.
fn calls(config: &Config) -> Option<String> {
    let (agent, dial) = (&config.agent, &config.dial);
    match (&agent.gateway, &dial.gateway, &dial.node) {
        (Some(gateway), ..) => Some(format!("agent: carries jobs to {gateway}")),
        (None, Some(gateway), Some(node)) => {
            Some(format!("calls {gateway} and serves there as node {node}"))
        }
        _ => None,
    }
}

fn job(job: &Job) -> String {
    let config = job.config.as_ref();
    let config = config.map(|file| file.display().to_string());
    format!(
        "  job {}: {} at once of {} s each, with {}",
        job.node,
        job.replicas,
        job.time_limit_s,
        config.unwrap_or_default()
    )
}

fn listener(scheme: &str, address: SocketAddr) -> String {
    let port = if address.port() == 0 {
        " (any free port)"
    } else {
        ""
    };
    format!("{scheme}://{address}{port}")
}

fn model(model: &Model) -> String {
    let runner = match model.runner {
        Runner::Candle => format!(
            "candle on {}, weights from {}, KV cache of {} in {}",
            model.device,
            model.source,
            kv_bytes(model),
            model.kv_type.name()
        ),
        Runner::Sim if model.sim.embedding_numbers > 0 => "simulated, an embedder".to_owned(),
        Runner::Sim => format!("simulated, KV cache of {}", kv_bytes(model)),
    };
    let context = match (model.context_max, model.runner) {
        (Some(tokens), _) => format!("a context of {tokens} tokens"),
        (None, Runner::Sim) => format!("a context of {} tokens", model.sim.context_tokens),
        (None, Runner::Candle) => "the model's own context".to_owned(),
    };
    format!(
        "  {}: {runner}; {} sequences at once, {} in line, {context}",
        model.id, model.sequences_max, model.queue_max
    )
}

fn kv_bytes(model: &Model) -> String {
    let cap = model.kv_bytes_cap();
    cap.map_or("what the memory allows".to_owned(), show_size)
}
