//! What a process with this config will be, in a few lines for `hansa check`.

use std::net::SocketAddr;

use crate::schema::{Choice, Config, Model, Origin, Runner};
use crate::units::show_size;

impl Config {
    /// What the process will be: its config file, listeners and models, as lines of text without a
    /// last newline.
    pub fn describe(&self, origin: &Origin) -> String {
        let mut lines = vec![
            format!("config: {origin}"),
            format!(
                "clients: {}, at most {} connections",
                listener(self.server.listen, self.keys.len()),
                self.server.connections_max
            ),
            format!(
                "operators: {}",
                (self.admin.listen).map_or("none".to_owned(), |address| listener(address, 0))
            ),
            format!("models: {}", self.models.len()),
        ];
        lines.extend(self.models.iter().map(model));
        lines.extend(tenants(self));
        lines.join("\n")
    }
}

/// Nothing for a server that everyone uses as nobody.
fn tenants(config: &Config) -> Option<String> {
    if config.keys.is_empty() && config.tenants.is_empty() && config.quota.ledger.is_none() {
        return None;
    }
    let ledger = match &config.quota.ledger {
        Some(file) => format!("ledger in {file}"),
        None => "ledger in memory".to_owned(),
    };
    Some(format!(
        "tenants: {}, keys: {}, allocations: {}, {ledger}",
        config.tenants.len(),
        config.keys.len(),
        config.allocations.len()
    ))
}

fn listener(address: SocketAddr, keys: usize) -> String {
    let port = if address.port() == 0 {
        " (any free port)"
    } else {
        ""
    };
    let reach = if keys > 0 {
        " (with keys)"
    } else if address.ip().is_loopback() {
        ""
    } else {
        " (open to other machines, without keys)"
    };
    format!("http://{address}{port}{reach}")
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
