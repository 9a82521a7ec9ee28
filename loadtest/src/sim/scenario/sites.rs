//! `[[machine]]`, `[[site]]`, `[[gateway]]`, `[[tenant]]` and `[[outage]]` of a simulation's scenario: who serves and who asks.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::nanos;
use crate::limits::MAX_SIM_NODES;
use crate::problems::quote;
use crate::scenario::read::Section;
use crate::sim::geo::Place;
use crate::sim::node::Engine;
use crate::sim::plan::{Carbon, Gateway, Outage, Site, Tenant, Walltime};

/// Engines by the names of their machines.
pub(super) type Machines = BTreeMap<String, Engine>;

/// `[[machine]]`.
pub(super) fn machines(root: &Section<'_, '_>) -> Machines {
    let mut machines = Machines::new();
    for section in root.sections("machine") {
        let name = section.text("name");
        let engine = engine(&section);
        if !section.peek("name") {
            section.fault("needs a name");
        }
        if let Some(name) = name
            && machines.insert(name.clone(), engine).is_some()
        {
            section.fault_of("name", format!("there are two machines {}", quote(&name)));
        }
        section.finish();
    }
    if machines.is_empty() && !root.peek("machine") {
        root.fault("needs a [[machine]]: what a node's steps cost");
    }
    machines
}

fn engine(section: &Section<'_, '_>) -> Engine {
    let us = |key, default: f64| {
        let read = section.number(key, 0.0..=1e9);
        read.unwrap_or(default) * 1e3
    };
    let whole = |key, default: i64| {
        let read = section.whole(key, 1..=1_000_000_000_000);
        read.unwrap_or(default)
    };
    for key in ["step_us", "prefill_token_us"] {
        if !section.peek(key) {
            section.fault(format!("needs {key}"));
        }
    }
    Engine {
        step_ns: us("step_us", 0.0),
        prefill_token_ns: us("prefill_token_us", 0.0),
        context_token_ns: us("context_token_us", 0.0),
        sequence_ns: us("sequence_us", 0.0),
        kv_tokens: whole("kv_tokens", 400_000).unsigned_abs(),
        sequences_max: narrow(whole("sequences_max", 256)),
        step_tokens_max: narrow(whole("step_tokens_max", 2_048)),
        step_target_ns: us("step_target_us", 50_000.0),
        queue_max: narrow(whole("queue_max", 1_024)),
        joules_per_token: section.number("joules_per_token", 0.0..=1e6).unwrap_or(0.0),
    }
}

fn narrow(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// `[[site]]`.
pub(super) fn sites(root: &Section<'_, '_>, machines: &Machines) -> Vec<Site> {
    let mut sites: Vec<Site> = Vec::new();
    for section in root.sections("site") {
        let site = site(&section, machines);
        if let Some(site) = site {
            if sites.iter().any(|known| known.name == site.name) {
                section.fault_of("name", format!("there are two sites {:?}", site.name));
            }
            sites.push(site);
        }
        section.finish();
    }
    if sites.is_empty() && !root.peek("site") {
        root.fault("needs a [[site]]");
    }
    sites
}

fn site(section: &Section<'_, '_>, machines: &Machines) -> Option<Site> {
    for key in ["name", "machine", "lat", "lon"] {
        if !section.peek(key) {
            section.fault(format!("needs {key}"));
        }
    }
    let name = section.text("name");
    let machine = section.text("machine");
    let engine = machine.as_ref().and_then(|machine| machines.get(machine));
    if let (Some(machine), None) = (&machine, engine) {
        let known: Vec<&str> = machines.keys().map(String::as_str).collect();
        let what = format!(
            "no machine {}; there are {}",
            quote(machine),
            known.join(", ")
        );
        section.fault_of("machine", what);
    }
    let country = section.text("country");
    if country.as_ref().is_some_and(|country| country.len() != 2) {
        section.fault_of("country", "two capital letters of ISO 3166, such as \"FI\"");
    }
    let (lat, lon) = (
        section.number("lat", -90.0..=90.0),
        section.number("lon", -180.0..=180.0),
    );
    let nodes = section
        .whole("nodes", 1..=MAX_SIM_NODES as i64)
        .unwrap_or(1);
    let lasts = section.duration("walltime").map(nanos);
    let pause = section.duration("walltime_pause").map_or(0, nanos);
    if lasts.is_none() && section.peek("walltime_pause") {
        section.fault_of("walltime_pause", "needs a walltime");
    }
    let number = |key, most, default: f64| section.number(key, 0.0..=most).unwrap_or(default);
    let carbon = Carbon {
        mean: number("grams_per_kwh", 10_000.0, 0.0),
        swing: number("grams_swing", 1.0, 0.0),
        peak_hour: number("grams_peak_hour", 24.0, 19.0),
    };
    let mut engine = *engine?;
    engine.joules_per_token *= section.number("pue", 1.0..=5.0).unwrap_or(1.0);
    Some(Site {
        name: name?.into(),
        country: country.map(Arc::from),
        place: Place {
            lat: lat?,
            lon: lon?,
        },
        nodes: usize::try_from(nodes).unwrap_or(1),
        engine,
        walltime: lasts.map(|lasts| Walltime { lasts, pause }),
        carbon,
    })
}

/// `[[gateway]]`; one at each site where there are none, with requests by its nodes.
pub(super) fn gateways(root: &Section<'_, '_>, sites: &[Site]) -> Vec<Gateway> {
    let mut gateways = Vec::new();
    for section in root.sections("gateway") {
        let site = site_of(&section, sites);
        let share = section.number("share", 1e-6..=1e6).unwrap_or(1.0);
        gateways.extend(site.map(|site| Gateway { site, share }));
        section.finish();
    }
    if gateways.is_empty() && !root.peek("gateway") {
        let at = |(site, plan): (usize, &Site)| Gateway {
            site,
            share: plan.nodes as f64,
        };
        gateways.extend(sites.iter().enumerate().map(at));
    }
    gateways
}

/// The place of the site that a section names.
fn site_of(section: &Section<'_, '_>, sites: &[Site]) -> Option<usize> {
    if !section.peek("site") {
        section.fault("needs a site");
    }
    let name = section.text("site")?;
    let place = sites.iter().position(|site| *site.name == *name);
    if place.is_none() {
        section.fault_of("site", format!("no site {}", quote(&name)));
    }
    place
}

/// `[[tenant]]`; anyone where there are none.
pub(super) fn tenants(root: &Section<'_, '_>, sites: &[Site]) -> Vec<Tenant> {
    let mut tenants = Vec::new();
    for section in root.sections("tenant") {
        let name = section.text("name");
        if !section.peek("name") {
            section.fault("needs a name");
        }
        let rate = section.whole("tokens_per_minute", 1..=i64::MAX);
        let countries = section.texts("countries").into_iter();
        let tenant = Tenant {
            name: name.unwrap_or_default().into(),
            weight: section.number("weight", 1e-6..=1e6).unwrap_or(1.0),
            tokens_per_minute: rate.map(i64::unsigned_abs),
            allocations: allocations(&section, sites),
            countries: countries.map(|(_, country)| country.into()).collect(),
        };
        tenants.push(tenant);
        section.finish();
    }
    if tenants.is_empty() {
        tenants.push(Tenant::anyone());
    }
    tenants
}

/// `allocations = ["SITE = TOKENS"]`.
fn allocations(section: &Section<'_, '_>, sites: &[Site]) -> Vec<(usize, u64)> {
    let mut allocations = Vec::new();
    for (offset, text) in section.texts("allocations") {
        let parts = text.split_once('=');
        let read = parts.and_then(|(name, tokens)| {
            let site = sites.iter().position(|site| *site.name == *name.trim())?;
            let tokens = tokens.trim().replace('_', "");
            Some((site, tokens.parse::<u64>().ok()?))
        });
        match read {
            Some(allocation) => allocations.push(allocation),
            None => section.fault_at(
                offset,
                format!(
                    "expected \"SITE = TOKENS\" with the name of a site, not {}",
                    quote(&text)
                ),
            ),
        }
    }
    allocations
}

/// `[[outage]]`.
pub(super) fn outages(root: &Section<'_, '_>, sites: &[Site]) -> Vec<Outage> {
    let mut outages: Vec<Outage> = Vec::new();
    for section in root.sections("outage") {
        let site = site_of(&section, sites);
        let (at, lasts) = (section.duration("at"), section.duration("lasts"));
        if !section.peek("at") || !section.peek("lasts") {
            section.fault("needs at and lasts, such as \"10m\"");
        }
        if let (Some(site), Some(at), Some(lasts)) = (site, at, lasts) {
            let (at, lasts) = (nanos(at), nanos(lasts));
            let meets = |other: &Outage| {
                other.site == site && at <= other.at + other.lasts && other.at <= at + lasts
            };
            if outages.iter().any(meets) {
                section.fault("meets another outage of the site");
            }
            outages.push(Outage { site, at, lasts });
        }
        section.finish();
    }
    outages
}
