//! A gateway of the federation in a simulation: where requests enter, and what it knows of the sites.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use hansa_gateway::route::facts::{CandidateId, Facts, Figures};
use hansa_gateway::route::means::Means;
use hansa_gateway::route::options::Options;
use hansa_gateway::route::residency::Rules;
use hansa_gateway::route::{End, Router, Ticket};

use super::load::Stream;
use super::plan::{self, Plan};
use super::quota::{Account, Hold};
use super::site::{MODEL, Site, Wish};
use crate::clock::Nanos;
use crate::rng::mix;

/// Family of draws.
const ROUTERS: u64 = 0x726f_7574;

/// Rules that allow everything.
pub(super) static OPEN: LazyLock<Rules> = LazyLock::new(Rules::default);

/// A gateway.
#[derive(Debug)]
pub(super) struct Entry {
    router: Router,
    sites: Vec<Known>,
    /// What each tenant's requests are held to.
    rules: Vec<Arc<Rules>>,
    pub(super) stream: Stream,
    /// No further request comes here.
    pub(super) is_over: bool,
}

/// What it knows of a site.
#[derive(Debug)]
struct Known {
    id: CandidateId,
    name: Arc<str>,
    half_trip: Nanos,
    report_delay: Nanos,
    /// Number of the last report that came.
    seen: u64,
    /// No report that left before this will come: the connection was lost.
    lost_until: Nanos,
}

impl Entry {
    /// Gateway `number` of the plan.
    pub(super) fn new(plan: &Plan, options: &Options, number: usize) -> Self {
        let here = plan
            .gateways
            .get(number)
            .and_then(|g| plan.sites.get(g.site));
        let place = here.map(|site| site.place).unwrap_or_default();
        let home = here.filter(|_| plan.home).map(|site| site.name.clone());
        let options = Options {
            home,
            ..options.clone()
        };
        // Seeds that lie side by side would give routers that draw alike, which is a herd of its own.
        let seed = mix(plan.seed ^ mix(ROUTERS ^ number as u64));
        let mut router = Router::new(options, seed);
        let known = |site: &plan::Site| {
            let round_trip = place.round_trip(site.place, plan.network.base_rtt_ms);
            let facts = Facts {
                country: site.country.clone(),
                rtt: Duration::from_nanos(round_trip),
                hop: true,
                ..Facts::new(&site.name, &site.name, "", MODEL)
            };
            let id = router.add(facts, Duration::ZERO)?;
            // The run begins with servers that have known each other for a while.
            router.observe(id, idle(site), Duration::ZERO);
            Some(Known {
                id,
                name: site.name.clone(),
                half_trip: round_trip / 2,
                report_delay: round_trip / 2 + plan.network.status_delay,
                seen: 0,
                lost_until: 0,
            })
        };
        let sites = plan.sites.iter().map_while(known).collect();
        // The sun stands an hour later for every 15 degrees to the east.
        let sun = plan.network.start_hour + place.lon / 15.0;
        let part = part_of(plan, number);
        Self {
            router,
            sites,
            rules: plan.tenants.iter().map(rules_of).collect(),
            stream: Stream::new(&plan.arriving, (plan.seed, number), part, sun),
            is_over: false,
        }
    }

    /// Longest way of a report to it.
    pub(super) fn report_delay_max(&self) -> Nanos {
        let delays = self.sites.iter().map(|site| site.report_delay);
        delays.max().unwrap_or(0)
    }

    /// Half the round trip to a site.
    pub(super) fn half_trip(&self, site: usize) -> Nanos {
        self.sites.get(site).map_or(0, |site| site.half_trip)
    }

    /// The name under which a site's failures are remembered.
    pub(super) fn upstream(&self, site: usize) -> Option<Arc<str>> {
        self.sites.get(site).map(|site| site.name.clone())
    }

    /// What a tenant's requests are held to.
    pub(super) fn rules(&self, tenant: usize) -> Arc<Rules> {
        self.rules.get(tenant).cloned().unwrap_or_default()
    }

    /// Takes in the reports that have come by now.
    pub(super) fn hear(&mut self, sites: &mut [Site], now: Nanos) {
        for (known, site) in self.sites.iter_mut().zip(sites) {
            let Some(left_by) = now.checked_sub(known.report_delay) else {
                continue;
            };
            let Some(report) = site.newest(now, left_by, known.seen) else {
                continue;
            };
            if report.at < known.lost_until {
                continue;
            }
            known.seen = report.figures.sequence;
            let mut figures = report.figures.clone();
            figures.age += Duration::from_nanos(now - report.at);
            self.router
                .observe(known.id, figures, Duration::from_nanos(now));
        }
    }

    /// Picks a site.
    pub(super) fn place(
        &mut self,
        wish: &Wish<'_>,
        tried: &[Arc<str>],
        (account, hold): (&Account, &Hold),
        now: Nanos,
    ) -> Option<(usize, Ticket)> {
        let sites = &self.sites;
        let allowed = |facts: &Facts| {
            let place = sites.iter().position(|site| site.name == facts.site);
            match place.is_none_or(|place| account.allows(place, hold)) {
                true => Means::Any,
                false => Means::Nothing,
            }
        };
        let ask = wish.ask(tried, 0, &allowed);
        let placed = self.router.place(&ask, Duration::from_nanos(now)).ok()?;
        Some((placed.candidate.index(), placed.ticket))
    }

    /// The first content of a request came.
    pub(super) fn first_content(&mut self, ticket: &mut Ticket, blocks: &[u64], now: Nanos) {
        let at = Duration::from_nanos(now);
        self.router.first_content(ticket, blocks, at);
    }

    /// A request ended.
    pub(super) fn ended(&mut self, ticket: Ticket, end: End, now: Nanos) {
        self.router.ended(ticket, end, Duration::from_nanos(now));
    }

    /// The connection to a site broke: it takes no requests until it reports again.
    pub(super) fn lost(&mut self, site: usize, now: Nanos) {
        if let Some(known) = self.sites.get_mut(site) {
            known.lost_until = now;
            let gone = Figures::default();
            self.router
                .observe(known.id, gone, Duration::from_nanos(now));
        }
    }

    /// Whether nothing is in flight (I10).
    pub(super) fn is_idle(&self) -> bool {
        let mut sites = self.sites.iter();
        sites.all(|site| self.router.in_flight(site.id) == 0)
    }
}

/// The part of all requests that enters at gateway `number`: from where to where in `[0, 1]`.
fn part_of(plan: &Plan, number: usize) -> (f64, f64) {
    let all: f64 = plan.gateways.iter().map(|gateway| gateway.share).sum();
    let before = plan.gateways.iter().take(number).map(|g| g.share);
    let from: f64 = before.sum::<f64>() / all;
    let own = plan.gateways.get(number).map_or(0.0, |g| g.share / all);
    (from, from + own)
}

/// Figures of a site without work.
fn idle(site: &plan::Site) -> Figures {
    let kv_tokens = site.engine.kv_tokens * site.nodes as u64;
    Figures {
        ready: true,
        kv_tokens_total: kv_tokens,
        kv_tokens_free: kv_tokens,
        ..Figures::default()
    }
}

fn rules_of(tenant: &plan::Tenant) -> Arc<Rules> {
    let countries = (!tenant.countries.is_empty()).then(|| tenant.countries.as_slice().into());
    Arc::new(Rules {
        countries,
        ..Rules::default()
    })
}
