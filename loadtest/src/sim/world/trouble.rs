//! What goes wrong: refusals, jobs that end, sites that go away. Nothing is lost of it but time.

use std::time::Duration;

use hansa_gateway::route::End;
use hansa_gateway::route::decision::Attempt;

use super::{Flight, What, World, flight};
use crate::clock::Nanos;
use crate::sim::node::Leg;

/// What goes wrong.
impl World<'_> {
    /// The gateway learns that a site does not take a request or has lost it.
    pub(super) fn refused(&mut self, leg: Leg, lost: bool, now: Nanos) {
        let Some(flight) = flight(&mut self.flights, leg) else {
            return;
        };
        let (attempt, end) = match (lost, flight.first.is_some()) {
            (false, _) => (Attempt::Retry, End::Overloaded(None)),
            (true, false) => (Attempt::Move, End::Failed),
            (true, true) => (Attempt::Resume, End::Failed),
        };
        if let (Some(ticket), Some(site)) = (flight.at_site.take(), self.sites.get_mut(flight.site))
        {
            // It came to a site that was away for less than word of it travelled.
            let at = Duration::from_nanos(now);
            site.router().ended(ticket, End::Left, at);
        }
        if let Some(entry) = self.entries.get_mut(flight.gateway) {
            flight.tried.extend(entry.upstream(flight.site));
            if let Some(ticket) = flight.at_gateway.take() {
                entry.ended(ticket, end, now);
            }
        }
        let tries = flight.tried.len() as u32;
        if lost {
            self.tally.resumed += 1;
        } else {
            self.tally.retried += 1;
        }
        if tries >= self.attempts_max {
            self.give_up(leg.slot, "refused everywhere it was tried");
        } else {
            self.depart(leg.slot, attempt, now);
        }
    }

    pub(super) fn give_up(&mut self, slot: u32, reason: &'static str) {
        let Some(mut flight) = self.forget(slot) else {
            return;
        };
        if let Some(account) = self.accounts.get_mut(flight.tenant) {
            let at = Duration::from_nanos(self.tally.last);
            account.post(&mut flight.hold, 0, at);
        }
        self.tally.fail(reason, flight.tenant);
    }

    /// A node's job is over: what runs there goes on at another node of the site.
    pub(super) fn job_ended(&mut self, site: usize, node: usize, now: Nanos) {
        let Some(state) = self
            .sites
            .get(site)
            .filter(|s| s.ends_at(node) == Some(now))
        else {
            return;
        };
        if let Some(walltime) = state.plan.walltime {
            let (site, node) = (site as u16, node as u16);
            self.at(now + walltime.pause, What::JobStart { site, node });
        }
        for leg in self.stop_node(site, node, now) {
            self.tally.resumed += 1;
            self.enter(leg, Attempt::Resume, now);
        }
    }

    pub(super) fn job_started(&mut self, site: usize, node: usize, now: Nanos) {
        let ends = self.sites.get_mut(site).and_then(|s| s.start(node, now));
        if let Some(at) = ends {
            let (site, node) = (site as u16, node as u16);
            self.at(at, What::JobEnd { site, node });
        }
    }

    /// All nodes of a site are gone, and the connections to it.
    pub(super) fn site_gone(&mut self, site: usize, now: Nanos) {
        let Some(state) = self.sites.get_mut(site) else {
            return;
        };
        state.is_gone = true;
        for node in 0..state.plan.nodes {
            self.stop_node(site, node, now);
        }
        for entry in &mut self.entries {
            entry.lost(site, now);
        }
        let there = |flight: &&Flight| flight.site == site && flight.at_gateway.is_some();
        let flights = self.flights.iter().flatten().filter(there);
        let legs: Vec<Leg> = flights.map(|flight| flight.leg).collect();
        for leg in legs {
            self.tell(leg, |leg| What::Refused { leg, lost: true }, now);
        }
    }

    pub(super) fn site_back(&mut self, site: usize, now: Nanos) {
        let Some(state) = self.sites.get_mut(site) else {
            return;
        };
        state.is_gone = false;
        (0..state.plan.nodes).for_each(|node| self.job_started(site, node, now));
    }

    /// Takes a node away and says whom it served; what they were given becomes part of their prompts.
    fn stop_node(&mut self, site: usize, node: usize, now: Nanos) -> Vec<Leg> {
        let mut effects = Vec::new();
        let Some(state) = self.sites.get_mut(site) else {
            return Vec::new();
        };
        let lost = state.stop(node, now, &mut effects);
        self.take_effects(&effects, now);
        let at = Duration::from_nanos(now);
        for (leg, left) in &lost {
            let Some(flight) = flight(&mut self.flights, *leg) else {
                continue;
            };
            flight.prompt += flight.output - left;
            flight.output = *left;
            if let (Some(ticket), Some(state)) = (flight.at_site.take(), self.sites.get_mut(site)) {
                state.router().ended(ticket, End::Failed, at);
            }
        }
        lost.into_iter().map(|(leg, _)| leg).collect()
    }
}
