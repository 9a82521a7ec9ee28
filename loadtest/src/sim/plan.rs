//! What is simulated: a checked scenario as plain values. `scenario.rs` reads it from a file; tests write it down.

use std::sync::Arc;

use hansa_gateway::route::options::{Options, Policy};

use super::geo::Place;
use super::load::{Arriving, Lengths};
use super::node::Engine;
use crate::clock::Nanos;

/// A world, what is asked of it, and the policies to be compared in it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Fixes everything that is drawn.
    pub seed: u64,
    /// No request comes at or after this.
    pub duration: Nanos,
    /// Requests that come before this count in no latency.
    pub warmup: Nanos,
    /// No request comes after so many.
    pub requests_max: u64,
    /// The policies, one run each.
    pub policies: Vec<Policy>,
    /// When requests come.
    pub arriving: Arriving,
    /// How long they are.
    pub lengths: Lengths,
    /// The sites.
    pub sites: Vec<Site>,
    /// Where requests enter.
    pub gateways: Vec<Gateway>,
    /// What lies between.
    pub network: Network,
    /// How routers route, but for the policy.
    pub options: Options,
    /// Whether each gateway takes the site that it stands at for home.
    pub home: bool,
    /// Who asks; at least one.
    pub tenants: Vec<Tenant>,
    /// Sites that go away.
    pub outages: Vec<Outage>,
    /// What the scenario says of load and capacity, for reports.
    pub words: Words,
}

/// A site and its nodes, which are all alike.
#[derive(Debug, Clone)]
pub struct Site {
    /// Its name.
    pub name: Arc<str>,
    /// Country, ISO 3166 alpha-2.
    pub country: Option<Arc<str>>,
    /// Where it stands.
    pub place: Place,
    /// How many nodes; at least 1.
    pub nodes: usize,
    /// What one can do.
    pub engine: Engine,
    /// Each node's jobs end after so long and begin anew after a pause.
    pub walltime: Option<Walltime>,
    /// Carbon of its electricity.
    pub carbon: Carbon,
}

/// Jobs of a batch system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Walltime {
    /// How long each lasts.
    pub lasts: Nanos,
    /// Between two of one node.
    pub pause: Nanos,
}

/// Grams of CO2 of a kilowatt-hour over the day: `mean x (1 + swing x cos(2 pi (hour - peak) / 24))`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Carbon {
    /// Mean over the day.
    pub mean: f64,
    /// From 0 for none to 1.
    pub swing: f64,
    /// Hour (UTC) at which it is worst.
    pub peak_hour: f64,
}

impl Carbon {
    /// Grams at an hour of the day.
    #[must_use]
    pub fn at(&self, hour: f64) -> f64 {
        let phase = std::f64::consts::TAU * (hour - self.peak_hour) / 24.0;
        self.mean * (1.0 + self.swing * phase.cos())
    }
}

/// A place where requests enter.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// The site that it stands at.
    pub site: usize,
    /// Its part of all requests, relative to the others'.
    pub share: f64,
}

/// What lies between gateways and sites.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Network {
    /// Round trip to where one stands oneself, in milliseconds; distance comes on top of it.
    pub base_rtt_ms: f64,
    /// Each way of a message takes up to this share longer, drawn anew each time.
    pub jitter: f64,
    /// Time between two reports of a node or a site.
    pub status_period: Nanos,
    /// Windows by which herding is counted.
    pub herding_window: Nanos,
    /// How much longer than messages reports take.
    pub status_delay: Nanos,
    /// Hour of the day (UTC) at which the run begins.
    pub start_hour: f64,
}

/// Someone who asks.
#[derive(Debug, Clone, PartialEq)]
pub struct Tenant {
    /// Its name.
    pub name: Arc<str>,
    /// Its part of all requests, relative to the others'.
    pub weight: f64,
    /// Tokens a minute that it may use.
    pub tokens_per_minute: Option<u64>,
    /// Tokens that it may use at sites, by their place in the plan. Sites that are not listed are free.
    pub allocations: Vec<(usize, u64)>,
    /// Countries that its requests may go to; empty for all.
    pub countries: Vec<Arc<str>>,
}

impl Tenant {
    /// Someone without bounds.
    #[must_use]
    pub fn anyone() -> Self {
        Self {
            name: "anyone".into(),
            weight: 1.0,
            tokens_per_minute: None,
            allocations: Vec::new(),
            countries: Vec::new(),
        }
    }
}

/// A site goes away, with all that runs there, and comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// Its place in the plan.
    pub site: usize,
    /// When.
    pub at: Nanos,
    /// For how long.
    pub lasts: Nanos,
}

/// What the scenario says, for reports.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Words {
    /// How requests come.
    pub load: String,
    /// Requests a second on average, of all gateways.
    pub rate: f64,
    /// Requests a second that all nodes can serve by [`Engine::capacity`].
    pub capacity: f64,
    /// One of so many requests and nodes is simulated.
    pub thinning: u32,
}

impl Plan {
    /// Nodes of all sites.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.sites.iter().map(|site| site.nodes).sum()
    }

    /// Requests a second that all nodes can serve.
    #[must_use]
    pub fn capacity(&self) -> f64 {
        let means = self.lengths.means(self.seed);
        let of = |site: &Site| site.nodes as f64 * site.engine.capacity(&means);
        self.sites.iter().map(of).sum()
    }
}
