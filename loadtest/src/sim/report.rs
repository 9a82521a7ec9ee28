//! What a simulation says in the end: one value that the text is printed from and that `--json` writes. It holds nothing
//! of the machine that it ran on, so that one seed gives the same bytes everywhere. Times are milliseconds.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::plan::Plan;
use super::site::Site;
use super::tally::{Herding, Tally};
use crate::clock::Nanos;
use crate::stats::Summary;

/// Name and version of the JSON shape.
pub const SCHEMA: &str = "hansa-loadtest/sim/1";
/// What reports say of a simulation that was ended.
pub(super) const STOPPED_EARLY: &str = "stopped early: policies that were not done are left out";
/// What they say where no latency was counted.
pub(super) const NOTHING_COUNTED: &str =
    "no request was done that came after the warm-up; no latency is counted";
/// Points of a curve.
const CURVE_STEPS: u32 = 200;

/// A whole report.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Version of this program.
    pub version: &'static str,
    /// The seed.
    pub seed: u64,
    /// How requests came, in words.
    pub load: String,
    /// Requests a second on average.
    pub rate: f64,
    /// Requests a second that all nodes can serve, as the model of their steps says.
    pub capacity: f64,
    /// One of so many requests and nodes was simulated.
    pub thinning: u32,
    /// Time between two reports of status, in milliseconds.
    pub status_period_ms: f64,
    /// How much longer than messages they take, in milliseconds.
    pub status_delay_ms: f64,
    /// Gateways that requests entered by.
    pub gateways: usize,
    /// Nodes of all sites.
    pub nodes: usize,
    /// It was ended before all policies were done.
    pub interrupted: bool,
    /// One for each policy that is done.
    pub policies: Vec<PolicyReport>,
}

/// What came of one policy.
#[derive(Debug, Clone, Serialize)]
pub struct PolicyReport {
    /// Its name.
    pub policy: &'static str,
    /// Requests that came: as many as are done and failed together.
    pub arrived: u64,
    /// Requests with an answer.
    pub done: u64,
    /// Requests without one, by reason.
    pub failed: BTreeMap<&'static str, u64>,
    /// Dispatches after a refusal.
    pub retried: u64,
    /// Dispatches after a loss.
    pub resumed: u64,
    /// Time to first token.
    pub ttft_ms: Summary,
    /// End to end.
    pub e2e_ms: Summary,
    /// Time per output token after the first, one value a request.
    pub tpot_ms: Summary,
    /// Tokens produced a second of the run.
    pub output_tok_s: f64,
    /// Part of all prompt tokens that was found in a prefix cache.
    pub cached_share: f64,
    /// Part of the nodes' time that was spent in steps.
    pub utilisation: f64,
    /// Energy of the answers.
    pub joules: f64,
    /// Its carbon, in grams.
    pub grams: f64,
    /// Sequences that lost their place in a cache and were computed again.
    pub preemptions: u64,
    /// The largest herding of a site with 10 requests or more in a window (of a status period, unless the scenario says otherwise).
    pub herding: Herding,
    /// By site, in the scenario's order.
    pub sites: Vec<SiteReport>,
    /// Requests done and failed by tenant, in the scenario's order.
    pub tenants: Vec<(u64, u64)>,
    /// Share of requests (from 0 to 1) up to a time to first token.
    pub ttft_curve: Vec<(f64, f64)>,
    /// Virtual time to the last event, in seconds.
    pub lasted_s: f64,
    /// Events of the simulation.
    pub events: u64,
}

/// What one site did.
#[derive(Debug, Clone, Serialize)]
pub struct SiteReport {
    /// Its name.
    pub name: String,
    /// Latitude and longitude.
    pub place: (f64, f64),
    /// Its nodes.
    pub nodes: usize,
    /// Requests done.
    pub done: u64,
    /// Its part of all.
    pub share: f64,
    /// Part of its nodes' time that was spent in steps.
    pub utilisation: f64,
    /// Time to first token.
    pub ttft_ms: Summary,
    /// Tokens produced.
    pub output_tokens: u64,
    /// Carbon in grams.
    pub grams: f64,
    /// How unevenly requests came, by windows of a status period or as the scenario says.
    pub herding: Herding,
}

impl Report {
    pub(super) fn of(plan: &Plan, policies: Vec<PolicyReport>) -> Self {
        let words = &plan.words;
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            seed: plan.seed,
            load: words.load.clone(),
            rate: words.rate,
            capacity: words.capacity,
            thinning: words.thinning,
            status_period_ms: ms(plan.network.status_period),
            status_delay_ms: ms(plan.network.status_delay),
            gateways: plan.gateways.len(),
            nodes: plan.nodes(),
            interrupted: policies.len() < plan.policies.len(),
            policies,
        }
    }

    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out);
        out
    }

    /// Whether nothing that was done counts in a latency.
    pub(super) fn counts_nothing(&self) -> bool {
        let mut policies = self.policies.iter();
        policies.all(|policy| policy.ttft_ms.count == 0)
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "{} nodes, {} gateways; {} ({:.0} % of {:.2}/s); status every {} ms, {} ms late; seed {}",
            self.nodes,
            self.gateways,
            self.load,
            100.0 * self.rate / self.capacity,
            self.capacity,
            self.status_period_ms,
            self.status_delay_ms,
            self.seed
        )?;
        if self.thinning > 1 {
            writeln!(
                out,
                "one of {} requests and nodes is simulated",
                self.thinning
            )?;
        }
        if self.interrupted {
            writeln!(out, "{STOPPED_EARLY}")?;
        }
        let heads = "policy            done  failed  ttft p50     p95      p99  e2e mean  tpot p50  busy  cached  grams  herding";
        writeln!(out, "\n{heads}")?;
        for policy in &self.policies {
            policy.line(out)?;
        }
        if self.counts_nothing() {
            writeln!(out, "{NOTHING_COUNTED}")?;
        }
        for policy in &self.policies {
            policy.details(out)?;
        }
        Ok(())
    }
}

impl PolicyReport {
    pub(super) fn of(policy: &'static str, mut tally: Tally, sites: &[Site]) -> Self {
        let (done, last) = (tally.done, tally.last);
        let states = tally.sites.iter_mut().zip(sites);
        let of = |(tally, state)| SiteReport::of(tally, state, done, last);
        let sites: Vec<SiteReport> = states.map(of).collect();
        let nodes: usize = sites.iter().map(|site| site.nodes).sum();
        let busy = sites
            .iter()
            .map(|site| site.utilisation * site.nodes as f64);
        let judged = sites.iter().map(|site| site.herding);
        let herding = judged.filter(|herding| herding.mean >= 10.0);
        let worst = herding.max_by(|a, b| a.peak_over_mean.total_cmp(&b.peak_over_mean));
        let seconds = (last as f64 / 1e9).max(1e-9);
        Self {
            policy,
            arrived: tally.arrived,
            done,
            retried: tally.retried,
            resumed: tally.resumed,
            ttft_ms: tally.ttft.summary(),
            e2e_ms: tally.e2e.summary(),
            tpot_ms: tally.tpot.summary(),
            output_tok_s: tally.output_tokens as f64 / seconds,
            cached_share: tally.cached_tokens as f64 / (tally.prompt_tokens as f64).max(1.0),
            utilisation: busy.sum::<f64>() / nodes.max(1) as f64,
            joules: tally.sites.iter().map(|site| site.joules).sum(),
            grams: tally.sites.iter().map(|site| site.grams).sum(),
            preemptions: tally.preemptions,
            herding: worst.unwrap_or_default(),
            sites,
            ttft_curve: tally.ttft.curve(CURVE_STEPS),
            lasted_s: seconds,
            events: tally.events,
            failed: tally.failed,
            tenants: tally.tenants,
        }
    }

    fn line(&self, out: &mut String) -> std::fmt::Result {
        let (ttft, failed) = (&self.ttft_ms, self.failed.values().sum::<u64>());
        writeln!(
            out,
            "{:<12} {:>9} {:>7} {:>9} {:>7} {:>8} {:>9} {:>9} {:>4.0}% {:>6.1}% {:>6.0} {:>8}",
            self.policy,
            self.done,
            failed,
            figure(ttft, ttft.p50, 0),
            figure(ttft, ttft.p95, 0),
            figure(ttft, ttft.p99, 0),
            figure(&self.e2e_ms, self.e2e_ms.mean, 0),
            figure(&self.tpot_ms, self.tpot_ms.p50, 1),
            100.0 * self.utilisation,
            100.0 * self.cached_share,
            self.grams,
            self.herding.worst()
        )
    }

    fn details(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "\n{}: {} came, {} done; {} sent again after a refusal, {} after a loss; {} preempted",
            self.policy, self.arrived, self.done, self.retried, self.resumed, self.preemptions
        )?;
        for (reason, count) in &self.failed {
            writeln!(out, "  failed: {count} {reason}")?;
        }
        writeln!(
            out,
            "  site          nodes    done  share  busy  ttft p95  peak/mean  dispersion"
        )?;
        for site in &self.sites {
            writeln!(
                out,
                "  {:<12} {:>6} {:>7} {:>5.1}% {:>4.0}% {:>9} {:>10} {:>11.2}",
                site.name,
                site.nodes,
                site.done,
                100.0 * site.share,
                100.0 * site.utilisation,
                figure(&site.ttft_ms, site.ttft_ms.p95, 0),
                site.herding.worst(),
                site.herding.dispersion
            )?;
        }
        Ok(())
    }
}

impl SiteReport {
    fn of(tally: &mut super::tally::SiteTally, state: &Site, done: u64, last: Nanos) -> Self {
        let busy: Nanos = state.nodes().map(|node| node.busy).sum();
        let nodes = state.plan.nodes;
        Self {
            name: state.plan.name.to_string(),
            place: (state.plan.place.lat, state.plan.place.lon),
            nodes,
            done: tally.done,
            share: tally.done as f64 / done.max(1) as f64,
            utilisation: busy as f64 / (last.max(1) as f64 * nodes as f64),
            ttft_ms: tally.ttft.summary(),
            output_tokens: tally.output_tokens,
            grams: tally.grams,
            herding: tally.dispatches.herding(tally.last_dispatch),
        }
    }
}

/// One figure of a summary; a dash where it is of nothing.
pub(super) fn figure(of: &Summary, value: f64, digits: usize) -> String {
    match of.count {
        0 => "-".to_owned(),
        _ => format!("{value:.digits$}"),
    }
}

fn ms(nanos: Nanos) -> f64 {
    nanos as f64 / 1e6
}
