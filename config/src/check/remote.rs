//! What the keys of `[server]`, `[peer]`, `[[node]]` and `[[site]]` mean together, loops between servers among them as
//! far as one file shows them.

use super::required_keys;
use crate::keys::UPSTREAM;
use crate::problems::{Fault, quote};
use crate::read::Reader;
use crate::schema::{Config, Discover, Kind, Upstream};

/// Notes every broken rule in `reader`.
pub(super) fn config(reader: &mut Reader) {
    pairs(reader);
    let config = reader.config.clone();
    let nodes = config.nodes.iter().enumerate();
    let sites = config.sites.iter().enumerate();
    let all: Vec<(String, &Upstream)> = nodes
        .map(|(index, node)| (format!("node[{index}]"), node))
        .chain(sites.map(|(index, site)| (format!("site[{index}]"), site)))
        .collect();
    for (index, (path, upstream)) in all.iter().enumerate() {
        if !reader.sound(&[path]) {
            continue;
        }
        required_keys(reader, UPSTREAM, path);
        models_are_there(reader, upstream, path);
        keys_fit_kind(reader, upstream, path);
        instances_can_be_found(reader, upstream, path);
        if upstream.discover != Discover::Agent {
            is_not_ourselves(reader, &config, upstream, path);
        }
        is_new(reader, &all[..index], upstream, path);
        passes_what_all_know(reader, &config, &all, (upstream, path));
    }
}

/// A certificate without its key, or a key without its certificate, is of no use.
fn pairs(reader: &mut Reader) {
    let config = &reader.config;
    let (server, peer) = (&config.server, &config.peer);
    let pairs = [
        (
            "server.tls_cert",
            server.tls_cert.is_some(),
            "server.tls_key",
            server.tls_key.is_some(),
        ),
        (
            "peer.cert",
            peer.cert.is_some(),
            "peer.key",
            peer.key.is_some(),
        ),
    ];
    for (cert, has_cert, key, has_key) in pairs {
        let (there, lacks) = match (has_cert, has_key) {
            (true, false) => (cert, key),
            (false, true) => (key, cert),
            _ => continue,
        };
        let fault = Fault::new(
            format!("is of no use without {lacks}"),
            format!("add {lacks}"),
        );
        at(reader, there, fault);
    }
}

fn models_are_there(reader: &mut Reader, upstream: &Upstream, path: &str) {
    let full = format!("{path}.models");
    if upstream.models.is_empty() && reader.offset(&full).is_some() {
        let fault = Fault::new("is empty", "list the models that it serves");
        at(reader, &full, fault);
    }
    let names = || upstream.models.iter().map(|model| &model.ours);
    let twice = names().find(|name| names().filter(|other| other == name).count() > 1);
    if let Some(name) = twice {
        let message = format!("{} stands there twice", quote(name));
        at(reader, &full, Fault::new(message, "list each model once"));
    }
}

fn keys_fit_kind(reader: &mut Reader, upstream: &Upstream, path: &str) {
    if !reader.sound(&[&format!("{path}.kind")]) {
        return;
    }
    if path.starts_with("site") && upstream.kind != Kind::Hansa {
        let help = "list a server of another make as a [[node]]";
        at(
            reader,
            &format!("{path}.kind"),
            Fault::new("a site is a server of ours", help),
        );
        return;
    }
    for name in ["key_file", "pass_fields"] {
        let full = format!("{path}.{name}");
        if upstream.kind == Kind::Hansa && reader.offset(&full).is_some() {
            let help =
                "remove it, or set kind = \"openai\"; servers of ours know each other by [peer]";
            at(
                reader,
                &full,
                Fault::new("means nothing with kind = \"hansa\"", help),
            );
        }
    }
    let plain = upstream.url.starts_with("http://");
    let full = format!("{path}.ca_file");
    if plain && upstream.ca_file.is_some() {
        let help = "remove it, or write https:// in the url";
        at(
            reader,
            &full,
            Fault::new("means nothing without https", help),
        );
    }
}

fn instances_can_be_found(reader: &mut Reader, upstream: &Upstream, path: &str) {
    has_a_url_or_calls(reader, upstream, path);
    let full = format!("{path}.addresses_file");
    match (upstream.discover, &upstream.addresses_file) {
        (Discover::File, None) => {
            let help = "add addresses_file, with one address and port a line";
            let fault = Fault::new("\"file\" needs addresses_file", help);
            at(reader, &format!("{path}.discover"), fault);
        }
        (Discover::Static | Discover::Dns | Discover::Agent, Some(_)) => {
            let help = "remove it, or set discover = \"file\"";
            at(
                reader,
                &full,
                Fault::new("means nothing without discover = \"file\"", help),
            );
        }
        _ => {}
    }
}

/// Who calls this server has no address here, and everyone else needs one.
fn has_a_url_or_calls(reader: &mut Reader, upstream: &Upstream, path: &str) {
    let url = format!("{path}.url");
    let has_url = reader.offset(&url).is_some();
    if !reader.sound(&[&url, &format!("{path}.discover")]) {
        return;
    }
    let help =
        "add url = \"http://127.0.0.1:8081\", or discover = \"agent\" where it calls this server";
    match (upstream.discover, has_url) {
        (Discover::Agent, true) => {
            let help = "remove it: such a node calls this server and is called back";
            at(
                reader,
                &url,
                Fault::new("means nothing with discover = \"agent\"", help),
            );
        }
        (Discover::Agent, false) => calls_as_a_peer(reader, upstream, path),
        (_, false) => {
            let offset = reader.offset(path).unwrap_or(0);
            reader.fault(offset, url, Fault::new("is missing", help));
        }
        (_, true) => {}
    }
}

/// A call from outside is believed of peers alone, and only servers of ours make one.
fn calls_as_a_peer(reader: &mut Reader, upstream: &Upstream, path: &str) {
    let full = format!("{path}.discover");
    if upstream.kind != Kind::Hansa {
        let help = "remove kind, or give it a url";
        let fault = Fault::new("\"agent\" needs a server of ours", help);
        return at(reader, &full, fault);
    }
    if !reader.config.peer.can_authenticate() {
        let help = "add [peer] with secret_file, or with ca";
        let fault = Fault::new("\"agent\" needs a way to know who calls", help);
        at(reader, &full, fault);
    }
}

/// The shortest loop: a server that sends requests to itself.
fn is_not_ourselves(reader: &mut Reader, config: &Config, upstream: &Upstream, path: &str) {
    let listen = config.server.listen;
    let authority = authority(&upstream.url);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
        _ => (authority, None),
    };
    let default = if upstream.url.starts_with("https") {
        443
    } else {
        80
    };
    if port.unwrap_or(default) != listen.port() {
        return;
    }
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let ip = host.parse::<std::net::IpAddr>().ok();
    let here = host.eq_ignore_ascii_case("localhost") || ip.is_some_and(|ip| ip.is_loopback());
    let listens_here = listen.ip().is_loopback() || listen.ip().is_unspecified();
    if (here && listens_here) || ip == Some(listen.ip()) {
        let message = format!(
            "is this server itself, which listens on {listen}: requests would go in a circle"
        );
        let help = "name another server, or give server.listen another port";
        at(reader, &format!("{path}.url"), Fault::new(message, help));
    }
}

fn is_new(reader: &mut Reader, before: &[(String, &Upstream)], upstream: &Upstream, path: &str) {
    let full = format!("{path}.name");
    let same = |(_, earlier): &&(String, &Upstream)| earlier.name == upstream.name;
    if let Some((other, _)) = before.iter().find(same)
        && reader.sound(&[&full])
        && reader.offset(&full).is_some()
    {
        let message = format!("{} is the name of {other} already", quote(&upstream.name));
        at(
            reader,
            &full,
            Fault::new(message, "give each node and site a name of its own"),
        );
    }
    let full = format!("{path}.url");
    let same = |(_, earlier): &&(String, &Upstream)| {
        earlier.url == upstream.url && upstream.discover != Discover::Agent
    };
    if let Some((other, _)) = before.iter().find(same)
        && reader.sound(&[&full])
        && reader.offset(&full).is_some()
    {
        let message = format!("is the url of {other} already, which would count its room twice");
        at(
            reader,
            &full,
            Fault::new(message, "list each server once, with all of its models"),
        );
    }
}

/// A field that is passed on must mean something wherever the request may go.
fn passes_what_all_know(
    reader: &mut Reader,
    config: &Config,
    all: &[(String, &Upstream)],
    (upstream, path): (&Upstream, &str),
) {
    for model in &upstream.models {
        for field in &upstream.pass_fields {
            let serves = |other: &Upstream| other.models.iter().any(|m| m.ours == model.ours);
            let knows = |other: &Upstream| other.pass_fields.contains(field);
            let ignorant = all.iter().find(|(_, other)| serves(other) && !knows(other));
            let local = config.models.iter().find(|local| local.id == model.ours);
            let who = match (local, ignorant) {
                (Some(_), _) => format!("[[model]] {}", quote(&model.ours)),
                (None, Some((other, _))) => other.clone(),
                (None, None) => continue,
            };
            let message = format!(
                "{} would be unknown to {who}, which serves the same model",
                quote(field)
            );
            let help =
                "pass a field at each upstream of a model, or give the models different names";
            return at(
                reader,
                &format!("{path}.pass_fields"),
                Fault::new(message, help),
            );
        }
    }
}

/// The host and port of a URL.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

fn at(reader: &mut Reader, path: &str, fault: Fault) {
    let section = path.split(['.']).next().unwrap_or_default();
    let offset = reader.offset(path).or_else(|| reader.offset(section));
    reader.fault(offset.unwrap_or(0), path, fault);
}
