//! What tenants, keys and allocations mean together.

use std::collections::{HashMap, HashSet};

use super::required_keys;
use crate::keys::Key;
use crate::keys::tenancy::{ALLOCATION, API_KEY, PRICE, RATE, TENANT};
use crate::problems::{Fault, quote};
use crate::read::Reader;
use crate::schema::Config;
use crate::schema::tenancy::StoreAway;

/// Notes every broken rule of these sections.
pub(super) fn check(reader: &mut Reader) {
    let config = reader.config.clone();
    each(reader, "tenant", TENANT, config.tenants.len());
    each(reader, "key", API_KEY, config.keys.len());
    each(reader, "allocation", ALLOCATION, config.allocations.len());
    each(reader, "price", PRICE, config.prices.len());
    each(reader, "rate", RATE, config.rates.len());
    let tenants: Vec<&str> = config.tenants.iter().map(|t| t.id.as_str()).collect();
    let keys = config.keys.iter();
    unique(reader, "tenant", "id", &tenants);
    unique(
        reader,
        "key",
        "id",
        &keys.clone().map(|k| k.id.as_str()).collect::<Vec<_>>(),
    );
    unique(
        reader,
        "key",
        "sha256",
        &keys.clone().map(|k| k.sha256.as_str()).collect::<Vec<_>>(),
    );
    let allocations = config.allocations.iter();
    unique(
        reader,
        "allocation",
        "id",
        &allocations
            .clone()
            .map(|a| a.id.as_str())
            .collect::<Vec<_>>(),
    );
    let known_tenants: HashSet<&str> = tenants.iter().copied().collect();
    tenant_ids(reader, &tenants, &known_tenants);
    known(
        reader,
        "key",
        &known_tenants,
        &keys.map(|k| k.tenant.as_str()).collect::<Vec<_>>(),
    );
    known(
        reader,
        "allocation",
        &known_tenants,
        &allocations
            .clone()
            .map(|a| a.tenant.as_str())
            .collect::<Vec<_>>(),
    );
    each_alone(reader, &config);
}

/// What holds of one section without the others.
fn each_alone(reader: &mut Reader, config: &Config) {
    for (index, allocation) in config.allocations.iter().enumerate() {
        if let (Some(start), Some(end)) = (allocation.start_s, allocation.end_s)
            && start >= end
        {
            let help = "let it end after it starts";
            let fault = Fault::new("is not after its start", help);
            at(reader, &format!("allocation[{index}].end"), fault);
        }
    }
    for (index, tenant) in config.tenants.iter().enumerate() {
        let is_open = tenant.rates.store_away == Some(StoreAway::Open);
        if is_open && tenant.rates.open_tokens_per_minute.is_none() {
            let help = "say how many with open_tokens_per_minute";
            let fault = Fault::new("is open to no number of tokens", help);
            at(reader, &format!("tenant[{index}].store_away"), fault);
        }
    }
    if config.quota.store.is_some() && config.quota.ledger.is_some() {
        let fault = Fault::new("stands beside quota.ledger", "keep records in one of them");
        at(reader, "quota.store", fault);
    }
    for (index, rate) in config.rates.iter().enumerate() {
        if rate.model.is_empty() == rate.site.is_empty() {
            let fault = Fault::new("bounds neither or both", "name a model or a site");
            at(reader, &format!("rate[{index}]"), fault);
        }
    }
}

pub(super) fn each<S>(reader: &mut Reader, section: &str, keys: &[Key<S>], count: usize) {
    for index in 0..count {
        let path = format!("{section}[{index}]");
        if reader.sound(&[&path]) {
            required_keys(reader, keys, &path);
        }
    }
}

/// An organisation has a plain name, a project names its organisation, which has a section.
fn tenant_ids(reader: &mut Reader, tenants: &[&str], known: &HashSet<&str>) {
    for (index, id) in tenants.iter().enumerate() {
        let path = format!("tenant[{index}].id");
        let Some((organisation, project)) = id.split_once('/') else {
            continue;
        };
        if organisation.is_empty() || project.is_empty() || project.contains('/') {
            let help = "write `organisation` or `organisation/project`";
            let fault = Fault::new(format!("{} is neither", quote(id)), help);
            at(reader, &path, fault);
        } else if !known.contains(organisation) {
            let message = format!("its organisation {} has no section", quote(organisation));
            let help = format!("add [[tenant]] with id = {organisation:?}");
            at(reader, &path, Fault::new(message, help));
        }
    }
}

pub(super) fn unique(reader: &mut Reader, section: &str, name: &str, values: &[&str]) {
    let mut first: HashMap<&str, usize> = HashMap::new();
    for (index, value) in values.iter().enumerate() {
        if value.is_empty() {
            continue;
        }
        if let Some(earlier) = first.get(value) {
            let message = format!("is that of {section}[{earlier}] already");
            let help = format!("give each {section} a {name} of its own");
            let fault = Fault::new(message, help);
            at(reader, &format!("{section}[{index}].{name}"), fault);
        } else {
            first.insert(value, index);
        }
    }
}

fn known(reader: &mut Reader, section: &str, tenants: &HashSet<&str>, named: &[&str]) {
    for (index, tenant) in named.iter().enumerate() {
        if !tenant.is_empty() && !tenants.contains(tenant) {
            let message = format!("there is no tenant {}", quote(tenant));
            let help = format!("add [[tenant]] with id = {tenant:?}");
            let path = format!("{section}[{index}].tenant");
            at(reader, &path, Fault::new(message, help));
        }
    }
}

/// Notes a fault of `path` where the text has it and its value is sound.
pub(super) fn at(reader: &mut Reader, path: &str, fault: Fault) {
    if let Some(offset) = reader.offset(path).filter(|_| reader.sound(&[path])) {
        reader.fault(offset, path, fault);
    }
}
