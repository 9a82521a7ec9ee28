//! The event loop of a simulation: gateways that route over sites, sites that route over nodes, and what travels between.
//!
//! One run is one policy. Everything happens in the order of virtual time, and at one moment in the order in which it was
//! planned, so a seed gives the same run to the byte. Every request that arrived is done, failed or in the system; this is
//! counted, not supposed.

mod books;
mod inbound;
mod outbound;
mod trouble;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use hansa_gateway::route::Ticket;
use hansa_gateway::route::options::{Options, Policy};

use super::entry::Entry;
use super::node::{Effect, Leg};
use super::plan::Plan;
use super::quota::{Account, Hold};
use super::site::Site;
use super::tally::Tally;
use super::{Onlooker, Progress};
use crate::clock::Nanos;
use crate::rng::mix;

/// Events between two looks at a node's books, and two words to who looks on.
const AUDIT_PERIOD: u64 = 1 << 12;

/// What went wrong in a simulation is a bug of the simulator or of what it drives.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A request was lost from sight, or counted twice.
    #[error(
        "{arrived} requests arrived, {done} are done, {failed} failed and {left} are in the system: please report the \
         scenario and its seed"
    )]
    Conservation {
        /// Requests that came.
        arrived: u64,
        /// Requests with an answer.
        done: u64,
        /// Requests without one.
        failed: u64,
        /// Requests in the system.
        left: u64,
    },
    /// A node's books do not add up.
    #[error(
        "node {node} of {site} counts what it does not have: please report the scenario and its seed"
    )]
    Node {
        /// Its site.
        site: Arc<str>,
        /// Its number.
        node: usize,
    },
    /// Something ended and a router still counts it (I10), or an allocation promised more than it has (L1).
    #[error("{what} does not return to what it was: please report the scenario and its seed")]
    Leak {
        /// What.
        what: &'static str,
    },
}

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// A request comes to a gateway: its number, where it is a recorded one.
    Arrive {
        gateway: u16,
        recorded: Option<u64>,
    },
    /// A request comes to its site.
    Reach {
        leg: Leg,
    },
    /// A run of steps is over.
    Run {
        site: u16,
        node: u16,
        version: u32,
    },
    /// Its gateway gets the first content.
    Content {
        leg: Leg,
    },
    /// Its gateway gets the end.
    Done {
        leg: Leg,
    },
    /// Its gateway learns that the site does not take it, or has lost it.
    Refused {
        leg: Leg,
        lost: bool,
    },
    /// A node's job ends, the next one begins.
    JobEnd {
        site: u16,
        node: u16,
    },
    JobStart {
        site: u16,
        node: u16,
    },
    /// A site goes away, and comes back.
    SiteGone {
        site: u16,
    },
    SiteBack {
        site: u16,
    },
}

/// A request in the system.
#[derive(Debug)]
struct Flight {
    leg: Leg,
    gateway: usize,
    site: usize,
    node: usize,
    tenant: usize,
    /// Tokens to compute and to produce by this dispatch: produced ones become part of the prompt.
    prompt: u64,
    output: u64,
    asked: (u64, u64),
    blocks: Arc<[u64]>,
    /// The same as routers cut them.
    beginnings: Arc<[u64]>,
    arrived: Nanos,
    first: Option<Nanos>,
    cached: u64,
    /// When the last message to its gateway arrives: none overtakes another.
    told: Nanos,
    /// When the first content of this dispatch left the site.
    spoke: Option<Nanos>,
    at_gateway: Option<Ticket>,
    at_site: Option<Ticket>,
    tried: Vec<Arc<str>>,
    hold: Hold,
}

/// A simulation under way.
pub(super) struct World<'p> {
    plan: &'p Plan,
    entries: Vec<Entry>,
    sites: Vec<Site>,
    accounts: Vec<Account>,
    flights: Vec<Option<Flight>>,
    free: Vec<u32>,
    events: BinaryHeap<Reverse<(Nanos, u64, What)>>,
    planned: u64,
    legs: u32,
    drawn: u64,
    attempts_max: u32,
    effects: Vec<Effect>,
    last_dispatch: Nanos,
    tally: Tally,
}

/// Runs `plan` under a policy; `None` where the onlooker ended it.
///
/// # Errors
/// [`Broken`] where the books do not add up.
pub(super) fn run(
    plan: &Plan,
    policy: Policy,
    onlooker: &mut dyn Onlooker,
) -> Result<Option<(Tally, Vec<Site>)>, Broken> {
    let mut world = World::new(plan, policy);
    world.begin();
    while let Some(Reverse((now, _, what))) = world.events.pop() {
        world.tally.events += 1;
        world.happen(what, now);
        if world.tally.events.is_multiple_of(AUDIT_PERIOD) {
            world.audit(what)?;
            let progress = Progress {
                policy: policy.name(),
                arrived: world.tally.arrived,
                at: now,
            };
            if onlooker.look(progress).is_break() {
                return Ok(None);
            }
        }
        if world.is_over() {
            break;
        }
    }
    world.check_end()?;
    world.sum_up();
    Ok(Some((world.tally, world.sites)))
}

impl<'p> World<'p> {
    fn new(plan: &'p Plan, policy: Policy) -> Self {
        let options = Options {
            policy,
            ..plan.options.clone()
        };
        let network = &plan.network;
        let entry = |number| Entry::new(plan, &options, number);
        let entries: Vec<Entry> = (0..plan.gateways.len()).map(entry).collect();
        let delay_max = entries.iter().map(Entry::report_delay_max).max();
        let site = |(number, site): (u64, &super::plan::Site)| {
            let seed = mix(plan.seed.wrapping_add(mix(number)));
            Site::new(site, &options, network, (seed, delay_max.unwrap_or(0)))
        };
        let tally = Tally::new(
            plan.sites.len(),
            plan.tenants.len(),
            network.herding_window,
            plan.warmup,
        );
        Self {
            plan,
            entries,
            sites: (0..).zip(&plan.sites).map(site).collect(),
            accounts: plan.tenants.iter().map(Account::new).collect(),
            flights: Vec::new(),
            free: Vec::new(),
            events: BinaryHeap::new(),
            planned: 0,
            legs: 0,
            drawn: 0,
            attempts_max: options.attempts_max,
            effects: Vec::new(),
            last_dispatch: 0,
            tally,
        }
    }

    fn begin(&mut self) {
        for gateway in 0..self.entries.len() {
            self.plan_arrival(gateway);
        }
        let mut ends = Vec::new();
        for (site, state) in (0_u16..).zip(&self.sites) {
            let of_site = state.first_ends();
            ends.extend(of_site.map(|(node, at)| (site, node as u16, at)));
        }
        for (site, node, at) in ends {
            self.at(at, What::JobEnd { site, node });
        }
        for outage in &self.plan.outages {
            let site = outage.site as u16;
            self.at(outage.at, What::SiteGone { site });
            self.at(outage.at + outage.lasts, What::SiteBack { site });
        }
    }

    fn happen(&mut self, what: What, now: Nanos) {
        self.tally.last = now;
        match what {
            What::Arrive { gateway, recorded } => self.arrive(gateway.into(), recorded, now),
            What::Reach { leg } => self.reach(leg, now),
            What::Run {
                site,
                node,
                version,
            } => self.run_ended(site.into(), node.into(), version, now),
            What::Content { leg } => self.content(leg, now),
            What::Done { leg } => self.done(leg, now),
            What::Refused { leg, lost } => self.refused(leg, lost, now),
            What::JobEnd { site, node } => self.job_ended(site.into(), node.into(), now),
            What::JobStart { site, node } => self.job_started(site.into(), node.into(), now),
            What::SiteGone { site } => self.site_gone(site.into(), now),
            What::SiteBack { site } => self.site_back(site.into(), now),
        }
    }

    fn at(&mut self, at: Nanos, what: What) {
        self.planned += 1;
        self.events.push(Reverse((at, self.planned, what)));
    }

    /// Nothing comes any more, and everything that came is over.
    fn is_over(&self) -> bool {
        self.in_system() == 0 && self.entries.iter().all(|entry| entry.is_over)
    }

    fn sum_up(&mut self) {
        let nodes = self.sites.iter().flat_map(Site::nodes);
        self.tally.preemptions = nodes.map(|node| node.preemptions).sum();
        for site in &mut self.tally.sites {
            site.last_dispatch = self.last_dispatch;
        }
    }

    fn in_system(&self) -> u64 {
        (self.flights.len() - self.free.len()) as u64
    }
}

/// The request of a dispatch that still counts.
fn flight(flights: &mut [Option<Flight>], leg: Leg) -> Option<&mut Flight> {
    let flight = flights.get_mut(leg.slot as usize)?.as_mut()?;
    (flight.leg == leg).then_some(flight)
}
