//! Requests on their way in: they arrive at a gateway, go to a site, and are handed to a node.

use std::sync::Arc;
use std::time::Duration;

use hansa_gateway::route::decision::Attempt;

use super::{Flight, What, World, flight};
use crate::clock::Nanos;
use crate::rng::SplitMix64;
use crate::sim::entry::OPEN;
use crate::sim::load::Demand;
use crate::sim::node::{Job, Leg};
use crate::sim::plan::Plan;
use crate::sim::quota::Hold;
use crate::sim::site::Wish;

/// Family of draws.
const JITTER: u64 = 0x6a69_7474;

/// Requests on their way in.
impl World<'_> {
    pub(super) fn plan_arrival(&mut self, gateway: usize) {
        let Some(entry) = self.entries.get_mut(gateway) else {
            return;
        };
        match entry.stream.next() {
            Some((at, recorded)) if at < self.plan.duration => {
                let gateway = gateway as u16;
                self.at(at, What::Arrive { gateway, recorded });
            }
            _ => entry.is_over = true,
        }
    }

    pub(super) fn arrive(&mut self, gateway: usize, recorded: Option<u64>, now: Nanos) {
        if self.drawn >= self.plan.requests_max {
            self.entries
                .iter_mut()
                .for_each(|entry| entry.is_over = true);
            return;
        }
        self.plan_arrival(gateway);
        let number = recorded.unwrap_or(self.drawn);
        self.drawn += 1;
        let demand = self.plan.lengths.draw(self.plan.seed, number);
        let tenant = self.tenant(demand.whose);
        self.tally.arrived += 1;
        let max_tokens = self.plan.lengths.max_tokens;
        let account = self.accounts.get_mut(tenant);
        let at = Duration::from_nanos(now);
        let hold = account.and_then(|a| a.reserve(demand.prompt, max_tokens, at));
        let Some(hold) = hold else {
            return self.tally.fail("rate of the tenant", tenant);
        };
        let kv_least = self.plan.sites.iter().map(|site| site.engine.kv_tokens);
        if demand.prompt + demand.output + 1 > kv_least.min().unwrap_or(0) {
            return self.tally.fail("longer than a node holds", tenant);
        }
        let slot = self.keep(&demand, gateway, (tenant, hold), now);
        self.depart(slot, Attempt::First, now);
    }

    fn tenant(&self, whose: f64) -> usize {
        let all: f64 = self.plan.tenants.iter().map(|tenant| tenant.weight).sum();
        let mut left = whose * all;
        for (place, tenant) in self.plan.tenants.iter().enumerate() {
            left -= tenant.weight;
            if left < 0.0 {
                return place;
            }
        }
        0
    }

    fn keep(
        &mut self,
        demand: &Demand,
        gateway: usize,
        (tenant, hold): (usize, Hold),
        now: Nanos,
    ) -> u32 {
        let slot = self.free.pop().unwrap_or(self.flights.len() as u32);
        let flight = Flight {
            leg: Leg { number: 0, slot },
            gateway,
            site: 0,
            node: 0,
            tenant,
            prompt: demand.prompt,
            output: demand.output,
            asked: (demand.prompt, demand.output),
            blocks: Arc::clone(&demand.blocks),
            beginnings: demand.beginnings(),
            arrived: now,
            first: None,
            cached: 0,
            told: now,
            spoke: None,
            at_gateway: None,
            at_site: None,
            tried: Vec::new(),
            hold,
        };
        match self.flights.get_mut(slot as usize) {
            Some(place) => *place = Some(flight),
            None => self.flights.push(Some(flight)),
        }
        slot
    }

    /// The gateway sends a request to a site, or gives up.
    pub(super) fn depart(&mut self, slot: u32, attempt: Attempt, now: Nanos) {
        let Some(Some(flight)) = self.flights.get_mut(slot as usize) else {
            return;
        };
        let (Some(entry), Some(account)) = (
            self.entries.get_mut(flight.gateway),
            self.accounts.get_mut(flight.tenant),
        ) else {
            return;
        };
        entry.hear(&mut self.sites, now);
        let rules = entry.rules(flight.tenant);
        let wish = Wish {
            attempt,
            prompt_tokens: flight.prompt,
            blocks: &flight.beginnings,
            session: None,
            max_tokens: self.plan.lengths.max_tokens,
            rules: &rules,
        };
        let Some((site, ticket)) = entry.place(&wish, &flight.tried, (account, &flight.hold), now)
        else {
            return self.give_up(slot, "no site takes it");
        };
        self.legs = self.legs.wrapping_add(1);
        account.move_to(site, &mut flight.hold);
        flight.leg.number = self.legs;
        (flight.site, flight.at_gateway) = (site, Some(ticket));
        // What a lost site had said and nobody heard must be said again.
        flight.spoke = flight.first;
        let leg = flight.leg;
        let half = entry.half_trip(site);
        if let Some(site) = self.tally.sites.get_mut(site) {
            site.dispatches.count(now);
        }
        self.last_dispatch = now;
        let at = now + jittered(self.plan, half, leg, 0);
        self.at(at, What::Reach { leg });
    }

    /// A request has come to its site.
    pub(super) fn reach(&mut self, leg: Leg, now: Nanos) {
        if flight(&mut self.flights, leg).is_some() {
            self.enter(leg, Attempt::First, now);
        }
    }

    /// A site hands a request to one of its nodes, or refuses it.
    pub(super) fn enter(&mut self, leg: Leg, attempt: Attempt, now: Nanos) {
        let Some(flight) = flight(&mut self.flights, leg) else {
            return;
        };
        let Some(site) = self.sites.get_mut(flight.site) else {
            return;
        };
        let wish = Wish {
            attempt,
            prompt_tokens: flight.prompt,
            blocks: &flight.beginnings,
            session: None,
            max_tokens: self.plan.lengths.max_tokens,
            rules: &OPEN,
        };
        let job = Job::new(
            leg,
            flight.prompt,
            flight.output,
            Arc::clone(&flight.blocks),
        );
        match site.send(&wish, &job, now) {
            Some(sent) => {
                (flight.node, flight.at_site) = (sent.node, Some(sent.ticket));
                let (site, node) = (flight.site, sent.node);
                self.plan_run(site, node, sent.run);
            }
            None => self.tell(leg, |leg| What::Refused { leg, lost: false }, now),
        }
    }
}

/// A way of `half` with what the network adds to it this time.
pub(super) fn jittered(plan: &Plan, half: Nanos, leg: Leg, message: u64) -> Nanos {
    if plan.network.jitter <= 0.0 {
        return half;
    }
    let seed = plan.seed ^ JITTER ^ u64::from(leg.number).rotate_left(32);
    let unit = SplitMix64::for_item(seed, message).next_unit();
    half + (half as f64 * plan.network.jitter * unit) as Nanos
}
