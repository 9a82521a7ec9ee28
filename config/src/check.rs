//! What keys mean together: rules that no single value can break.
//!
//! A rule is silent where one of its values was refused already.

mod agent;
mod issuer;
mod remote;
mod tenancy;

use std::net::SocketAddr;

use crate::keys::{self, Key, MODEL};
use crate::problems::{Fault, quote};
use crate::read::Reader;
use crate::schema::{Choice, Model, Runner};

/// Notes every broken rule in `reader`.
pub(crate) fn config(reader: &mut Reader) {
    something_to_serve(reader);
    listeners_apart(reader);
    let models = reader.config.models.clone();
    for (index, model) in models.iter().enumerate() {
        let path = format!("model[{index}]");
        if !reader.sound(&[&path]) {
            continue;
        }
        required_keys(reader, MODEL, &path);
        id_is_new(reader, &models[..index], model, &path);
        keys_fit_runner(reader, model, &path);
        steps_hold_all_sequences(reader, model, &path);
        context_holds(reader, model, &path);
    }
    remote::config(reader);
    agent::config(reader);
    tenancy::check(reader);
    issuer::check(reader);
}

fn something_to_serve(reader: &mut Reader) {
    let config = &reader.config;
    let serves = config.models.len() + config.nodes.len() + config.sites.len() > 0;
    let serves = serves || reader.offset("agent").is_some() || !config.jobs.is_empty();
    if serves || !reader.sound(&["model", "node", "site"]) {
        return;
    }
    let help = "add [[model]] with id = \"smollm2-135m-instruct\", \
                or start without a config file to serve that model";
    let fault = Fault::new("no model is listed, so there is nothing to serve", help);
    reader.fault(reader.offset("model").unwrap_or(0), "model", fault);
}

fn listeners_apart(reader: &mut Reader) {
    const CLIENTS: &str = "server.listen";
    const OPERATORS: &str = "admin.listen";
    let clients = reader.config.server.listen;
    let Some(operators) = reader.config.admin.listen else {
        return;
    };
    if !reader.sound(&[CLIENTS, OPERATORS]) || !overlap(clients, operators) {
        return;
    }
    // One of the two is in the text, since the defaults differ.
    let path = [OPERATORS, CLIENTS]
        .into_iter()
        .find(|path| reader.offset(path).is_some());
    let path = path.unwrap_or(CLIENTS);
    let message = format!("clients ({clients}) and operators ({operators}) cannot share a port");
    let help =
        format!("give {CLIENTS} and {OPERATORS} different ports, or set {OPERATORS} to \"none\"");
    reader.fault(
        reader.offset(path).unwrap_or(0),
        path,
        Fault::new(message, help),
    );
}

/// Whether binding both would fail: an unspecified address takes the port on all addresses.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let takes =
        |x: SocketAddr, y: SocketAddr| x.ip().is_unspecified() && (x.is_ipv6() || y.is_ipv4());
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || takes(a, b) || takes(b, a))
}

fn required_keys<S>(reader: &mut Reader, keys: &[Key<S>], path: &str) {
    for key in keys.iter().filter(|key| key.required) {
        let full = format!("{path}.{}", key.path);
        if reader.offset(&full).is_none() {
            let example = key.example.unwrap_or("\"...\"");
            let fault = Fault::new(
                "is missing",
                format!("add {} = {example}. {}", key.path, key.doc),
            );
            reader.fault(reader.offset(path).unwrap_or(0), full, fault);
        }
    }
}

fn id_is_new(reader: &mut Reader, before: &[Model], model: &Model, path: &str) {
    let has_id = |reader: &Reader, path: &str| {
        let full = format!("{path}.id");
        reader
            .sound(&[&full])
            .then(|| reader.offset(&full))
            .flatten()
    };
    let Some(offset) = has_id(reader, path) else {
        return;
    };
    let same = |(index, earlier): &(usize, &Model)| {
        earlier.id == model.id && has_id(reader, &format!("model[{index}]")).is_some()
    };
    if let Some((index, _)) = before.iter().enumerate().find(same) {
        let message = format!("{} is the id of model[{index}] already", quote(&model.id));
        reader.fault(
            offset,
            format!("{path}.id"),
            Fault::new(message, "give each model an id of its own"),
        );
    }
}

fn keys_fit_runner(reader: &mut Reader, model: &Model, path: &str) {
    if !reader.sound(&[&format!("{path}.runner")]) {
        return;
    }
    let of_model = MODEL.iter().map(|key| (key.path, key.only));
    let sections = keys::sections()
        .filter_map(|section| Some((section.path.strip_prefix("model.")?, section.only)));
    for (name, only) in of_model.chain(sections) {
        let full = format!("{path}.{name}");
        if let (Some(runner), Some(offset)) = (only, reader.offset(&full))
            && runner != model.runner
        {
            let message = format!("means nothing with runner = {:?}", model.runner.name());
            let help = format!("remove it, or set runner = {:?}", runner.name());
            reader.fault(offset, full, Fault::new(message, help));
        }
    }
}

fn steps_hold_all_sequences(reader: &mut Reader, model: &Model, path: &str) {
    let (step, sequences) = (model.step_tokens_max, model.sequences_max);
    let message = format!("a step of {step} tokens cannot decode {sequences} sequences");
    let help =
        format!("make step_tokens_max at least {sequences}, or sequences_max at most {step}");
    if step < sequences {
        between(
            reader,
            path,
            ["step_tokens_max", "sequences_max"],
            Fault::new(message, help),
        );
    }
}

fn context_holds(reader: &mut Reader, model: &Model, path: &str) {
    let Some(context) = model.context_max else {
        return;
    };
    if let Some(tokens) = model.default_max_tokens.filter(|tokens| *tokens >= context) {
        let message = format!("{tokens} tokens and a prompt do not fit a context of {context}");
        let help = format!("at most {} with this context_max", context - 1);
        between(
            reader,
            path,
            ["default_max_tokens", "context_max"],
            Fault::new(message, help),
        );
    }
    let made_for = model.sim.context_tokens;
    if model.runner == Runner::Sim && context > made_for {
        let message = format!("{context} is more than the simulated model's {made_for}");
        let help = "lower it, or raise sim.context_tokens";
        between(
            reader,
            path,
            ["context_max", "sim.context_tokens"],
            Fault::new(message, help),
        );
    }
}

/// Notes a fault between two keys of a model, at the first one that the text has.
fn between(reader: &mut Reader, path: &str, names: [&str; 2], fault: Fault) {
    let full = names.map(|name| format!("{path}.{name}"));
    if !reader.sound(&[&full[0], &full[1]]) {
        return;
    }
    if let Some((offset, path)) = full
        .into_iter()
        .find_map(|path| Some((reader.offset(&path)?, path)))
    {
        reader.fault(offset, path, fault);
    }
}
