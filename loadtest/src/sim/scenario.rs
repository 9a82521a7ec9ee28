//! A simulation's scenario file: a world and its load in one TOML file, checked with all its problems at once, each with
//! its line. This file is its sections and what they mean together; `scenario/sites.rs` reads who serves and who asks.

mod sites;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hansa_gateway::route::options::Options;
pub(crate) use hansa_gateway::route::options::Policy;

use self::sites::{gateways, machines, outages, sites, tenants};
use super::geo::EQUIPMENT_MS;
use super::load::{Arriving, Daily, Lengths};
use super::plan::{Network, Plan, Site, Words};
use crate::clock::{Nanos, nanos};
use crate::limits::{MAX_RATE, MAX_SIM_NODES, MAX_SIM_REQUESTS, MAX_TOKENS};
use crate::problems::Problems;
use crate::scenario::common;
use crate::scenario::read::Section;
use crate::spread::{Bell, Spread};
use crate::trace::Trace;

/// Longest status period and delay, in seconds.
const STATUS_SECONDS_MAX: f64 = 60.0;

/// Every policy that can be simulated.
const POLICIES: [Policy; 5] = [
    Policy::Cost,
    Policy::RoundRobin,
    Policy::LeastLoad,
    Policy::Prefix,
    Policy::Weighted,
];

/// Reads a scenario and everything that it names.
///
/// # Errors
/// Every problem of the file at once, and of the recorded load that it names.
pub fn load(path: &Path) -> Result<Plan, Problems> {
    parse(path, &common::text(path)?)
}

/// Reads the text of a scenario; `path` names it in messages, and a recorded load is looked for beside it.
///
/// # Errors
/// As [`load`].
pub fn parse(path: &Path, text: &str) -> Result<Plan, Problems> {
    common::parse(path, text, read)
}

/// `[run]`.
struct Run {
    seed: u64,
    duration: Option<Nanos>,
    warmup: Nanos,
    requests_max: u64,
    thinning: u32,
    start_hour: f64,
    policies: Vec<Policy>,
}

/// How much comes.
#[derive(Debug, Clone, Copy)]
enum Amount {
    /// Requests a second.
    Rate(f64),
    /// As a part of what all nodes can serve.
    Utilisation(f64),
    /// As recorded.
    Recorded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Poisson,
    Daily,
    Trace,
}

/// All sections are read before any fault ends it. The inner error is that of a recorded load's own file.
fn read(root: &Section<'_, '_>, folder: &Path) -> Result<Option<Plan>, Problems> {
    let run = run(root);
    let trace = trace(root, folder);
    let (kind, amount, daily) = amount(root);
    let lengths = lengths(root);
    let network = network(root, run.start_hour);
    let (options, home) = route(root);
    let machines = machines(root);
    let mut sites = sites(root, &machines);
    let gateways = gateways(root, &sites);
    let tenants = tenants(root, &sites);
    let outages = outages(root, &sites);
    let trace = trace?.map(|trace| match run.thinning {
        1 => trace,
        by => Arc::new(trace.thinned(by, run.seed)),
    });
    recorded(root, kind == Some(Kind::Trace), trace.as_deref());
    if run.duration.is_none() && kind != Some(Kind::Trace) {
        root.fault("[run] needs a duration");
    }
    thin(&mut sites, run.thinning);
    if sites.iter().map(|site| site.nodes).sum::<usize>() > MAX_SIM_NODES {
        root.fault(format!("more than {MAX_SIM_NODES} nodes; set run.thinning"));
    }
    let (Some(kind), Some(amount)) = (kind, amount) else {
        return Ok(None);
    };
    let mut plan = Plan {
        seed: run.seed,
        duration: run.duration.unwrap_or(Nanos::MAX),
        warmup: run.warmup,
        requests_max: run.requests_max,
        policies: run.policies,
        arriving: Arriving::Poisson { rate: 0.0 },
        lengths: Lengths {
            recorded: trace.clone().filter(|_| kind == Kind::Trace),
            ..lengths
        },
        sites,
        gateways,
        network,
        options,
        home,
        tenants,
        outages,
        words: Words::default(),
    };
    if plan.sites.is_empty() || plan.gateways.is_empty() {
        return Ok(None);
    }
    arrange(&mut plan, (amount, daily, run.thinning), trace);
    Ok(Some(plan))
}

/// Fixes rate and arrivals, now that it is known what the sites can serve.
fn arrange(
    plan: &mut Plan,
    (amount, daily, thinning): (Amount, Option<Daily>, u32),
    trace: Option<Arc<Trace>>,
) {
    let capacity = plan.capacity();
    let rate = match (amount, &trace) {
        (Amount::Rate(rate), _) => rate / f64::from(thinning),
        (Amount::Utilisation(part), _) => part * capacity,
        (Amount::Recorded, Some(trace)) => recorded_rate(trace),
        (Amount::Recorded, None) => 0.0,
    };
    let (arriving, load) = match (amount, daily, trace) {
        (Amount::Recorded, _, Some(trace)) => {
            let words = format!("{} recorded requests", trace.entries().len());
            (Arriving::Recorded(trace), words)
        }
        (_, Some(daily), _) => {
            let words = format!(
                "{rate:.2}/s over a day, {:.0} % more at {} o'clock by the sun, waves of {}",
                daily.swing * 100.0,
                daily.peak_hour,
                daily.waves
            );
            (Arriving::Daily(Daily { rate, ..daily }), words)
        }
        _ => (Arriving::Poisson { rate }, format!("{rate:.2}/s at random")),
    };
    plan.arriving = arriving;
    plan.words = Words {
        load,
        rate,
        capacity,
        thinning,
    };
}

/// Faults what does not go together with a recorded load, or with none.
fn recorded(root: &Section<'_, '_>, is_asked_for: bool, trace: Option<&Trace>) {
    match (is_asked_for, trace) {
        (true, None) => root.fault("load.kind = \"trace\" needs a [trace]"),
        (true, Some(trace)) if trace.entries().is_empty() => {
            root.fault("run.thinning leaves nothing of the recorded load");
        }
        (false, Some(_)) => root.fault_of("trace", "needs load.kind = \"trace\""),
        _ => {}
    }
    for name in ["prompt", "prefix"] {
        if is_asked_for && root.peek(name) {
            root.fault_of(name, "a recorded load brings its own; remove it");
        }
    }
}

/// Mean rate of a recorded load.
fn recorded_rate(trace: &Trace) -> f64 {
    let entries = trace.entries();
    let last = entries.last().map_or(0, |entry| entry.at);
    entries.len() as f64 / (last as f64 / 1e9).max(1e-9)
}

/// One of so many nodes stays, at least one of a site.
fn thin(sites: &mut [Site], thinning: u32) {
    for site in sites {
        site.nodes = site.nodes.div_ceil(thinning as usize).max(1);
    }
}

fn run(root: &Section<'_, '_>) -> Run {
    let section = root.section("run");
    let duration = section.duration("duration").map(nanos);
    let warmup = section.duration("warmup").map_or(0, nanos);
    if duration.is_some_and(|duration| warmup >= duration) {
        section.fault_of("warmup", "is as long as the run");
    }
    let whole = |key, most: u64| {
        let read = section.whole(key, 1..=i64::try_from(most).unwrap_or(i64::MAX));
        read.and_then(|number| u64::try_from(number).ok())
    };
    let requests_max = whole("requests", MAX_SIM_REQUESTS).unwrap_or(MAX_SIM_REQUESTS);
    let thinning = whole("thinning", 1_000_000).and_then(|n| u32::try_from(n).ok());
    let seed = section.whole("seed", 0..=i64::MAX).unwrap_or(0);
    let run = Run {
        seed: u64::try_from(seed).unwrap_or(0),
        duration,
        warmup,
        requests_max,
        thinning: thinning.unwrap_or(1),
        start_hour: section.number("start_hour", 0.0..=24.0).unwrap_or(0.0),
        policies: policies(&section),
    };
    section.finish();
    run
}

fn policies(section: &Section<'_, '_>) -> Vec<Policy> {
    let mut policies = Vec::new();
    for (offset, name) in section.texts("policies") {
        match policy(&name) {
            Ok(policy) if !policies.contains(&policy) => policies.push(policy),
            Ok(_) => section.fault_at(offset, format!("policy {name:?} is there twice")),
            Err(what) => section.fault_at(offset, what),
        }
    }
    if policies.is_empty() {
        policies.extend([Policy::Cost, Policy::RoundRobin, Policy::LeastLoad]);
    }
    policies
}

/// The policy of this name.
///
/// # Errors
/// There is none; the text says which there are.
pub fn policy(name: &str) -> Result<Policy, String> {
    let mut all = POLICIES.iter();
    all.find(|policy| policy.name() == name)
        .copied()
        .ok_or_else(|| {
            let names = POLICIES.map(Policy::name).join(", ");
            format!("no policy {name:?}; there are {names}")
        })
}

/// `[trace]`, which must say when requests came.
fn trace(root: &Section<'_, '_>, folder: &Path) -> Result<Option<Arc<Trace>>, Problems> {
    let trace = common::trace(root, folder)?;
    if trace.as_ref().is_some_and(|trace| !trace.is_timed()) {
        root.fault("the recorded load does not say when requests came");
    }
    Ok(trace)
}

fn amount(root: &Section<'_, '_>) -> (Option<Kind>, Option<Amount>, Option<Daily>) {
    let section = root.section("load");
    let kind = section.choice::<Kind>("kind");
    if !section.peek("kind") {
        section.fault("needs a kind: poisson, daily or trace");
    }
    let rate = section.number("rate", 1e-6..=MAX_RATE);
    let part = section.number("utilisation", 0.001..=10.0);
    for key in ["swing", "peak_hour", "waves"] {
        if kind.is_some_and(|kind| kind != Kind::Daily) && section.peek(key) {
            section.fault_of(key, "needs kind = \"daily\"");
        }
    }
    let daily = Daily {
        rate: 0.0,
        swing: section.number("swing", 0.0..=1.0).unwrap_or(0.6),
        peak_hour: section.number("peak_hour", 0.0..=24.0).unwrap_or(14.0),
        waves: section.number("waves", 0.0..=2.0).unwrap_or(0.2),
    };
    let amount = match (kind, rate, part) {
        (Some(Kind::Trace), None, None) => Some(Amount::Recorded),
        (Some(Kind::Trace), ..) => {
            section.fault("a recorded load brings its own rate; set trace.time_scale");
            None
        }
        (_, Some(rate), None) => Some(Amount::Rate(rate)),
        (_, None, Some(part)) => Some(Amount::Utilisation(part)),
        _ => {
            if section.peek("rate") == section.peek("utilisation") {
                section.fault("needs either a rate or a utilisation");
            }
            None
        }
    };
    section.finish();
    let daily = (kind == Some(Kind::Daily)).then_some(daily);
    (kind, amount, daily)
}

/// Lengths like those of Azure's conversations of 2023, as far as a log-normal can be: mean prompt 1,155 tokens, mean
/// answer 211.
fn lengths(root: &Section<'_, '_>) -> Lengths {
    let bell = |mean, sd, max| {
        Spread::Lognormal(Bell {
            mean,
            sd,
            min: 1.0,
            max,
        })
    };
    let tokens = 1.0..=f64::from(MAX_TOKENS);
    let prompt = root.section("prompt");
    let prompt_tokens = prompt.spread("tokens", tokens.clone(), false);
    prompt.finish();
    let output = root.section("output");
    let output_tokens = output.spread("tokens", tokens, false);
    let max_tokens = output.whole("max_tokens", 1..=i64::from(MAX_TOKENS));
    output.finish();
    Lengths {
        prompt: prompt_tokens.unwrap_or(bell(1_155.0, 1_100.0, 14_000.0)),
        output: output_tokens.unwrap_or(bell(211.0, 163.0, 1_500.0)),
        max_tokens: max_tokens.and_then(|max| u32::try_from(max).ok()),
        prefix: common::prefix(root),
        recorded: None,
    }
}

fn network(root: &Section<'_, '_>, start_hour: f64) -> Network {
    let section = root.section("network");
    let seconds = |key, default: Duration| {
        let number = section.duration(key).unwrap_or(default);
        if number.as_secs_f64() > STATUS_SECONDS_MAX {
            section.fault_of(key, format!("is more than {STATUS_SECONDS_MAX} seconds"));
        }
        nanos(number)
    };
    let base = section.number("base_rtt_ms", 0.0..=1_000.0);
    // A server of ours reports changes ten times a second.
    let status_period = seconds("status_period", Duration::from_millis(100));
    let network = Network {
        base_rtt_ms: base.unwrap_or(EQUIPMENT_MS),
        jitter: section.number("jitter", 0.0..=10.0).unwrap_or(0.05),
        status_period,
        herding_window: seconds("herding_window", Duration::from_nanos(status_period)),
        status_delay: seconds("status_delay", Duration::ZERO),
        start_hour,
    };
    section.finish();
    network
}

/// `[route]`: the keys of a server's config that change where requests go.
fn route(root: &Section<'_, '_>) -> (Options, bool) {
    let section = root.section("route");
    let default = Options::default();
    let band = section.number("band_percent", 0.0..=100.0);
    let hysteresis = section.number("hysteresis_ms", 0.0..=60_000.0);
    let carbon = section.number("carbon_ms_per_gram", 0.0..=1e6);
    let attempts = section.whole("attempts_max", 1..=16);
    let home = section.flag("home").unwrap_or(false);
    section.finish();
    let options = Options {
        band: band.map_or(default.band, |percent| percent / 100.0),
        hysteresis_s: hysteresis.map_or(default.hysteresis_s, |ms| ms / 1e3),
        carbon_s_per_gram: carbon.map_or(default.carbon_s_per_gram, |ms| ms / 1e3),
        attempts_max: attempts
            .and_then(|attempts| u32::try_from(attempts).ok())
            .unwrap_or(default.attempts_max),
        ..default
    };
    (options, home)
}

#[cfg(test)]
mod tests;
