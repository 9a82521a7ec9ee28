//! Answers on their way out: from the steps of a node to the gateway that the request came to.

use std::time::Duration;

use hansa_gateway::route::{End, Served};

use super::inbound::jittered;
use super::{Flight, What, World, flight};
use crate::clock::Nanos;
use crate::sim::node::{Effect, Leg};
use crate::sim::site::BYTES_PER_TOKEN;

/// Answers on their way out.
impl World<'_> {
    pub(super) fn run_ended(&mut self, site: usize, node: usize, version: u32, now: Nanos) {
        let mut effects = std::mem::take(&mut self.effects);
        effects.clear();
        if let Some(state) = self.sites.get_mut(site) {
            let next = state.run_ended(node, version, now, &mut effects);
            self.plan_run(site, node, next);
        }
        self.take_effects(&effects, now);
        self.effects = effects;
    }

    pub(super) fn plan_run(&mut self, site: usize, node: usize, run: Option<(Nanos, u32)>) {
        if let Some((at, version)) = run {
            let (site, node) = (site as u16, node as u16);
            let what = What::Run {
                site,
                node,
                version,
            };
            self.at(at, what);
        }
    }

    pub(super) fn take_effects(&mut self, effects: &[Effect], now: Nanos) {
        for effect in effects {
            match *effect {
                Effect::Token { leg, cached } => self.token(leg, cached, now),
                Effect::Done(leg) => self.produced(leg, now),
            }
        }
    }

    /// Sends word to a request's gateway, after all that was sent before.
    pub(super) fn tell(&mut self, leg: Leg, what: impl Fn(Leg) -> What, now: Nanos) {
        let Some(flight) = flight(&mut self.flights, leg) else {
            return;
        };
        let entry = self.entries.get(flight.gateway);
        let half = entry.map_or(0, |entry| entry.half_trip(flight.site));
        let way = jittered(self.plan, half, leg, 1 + flight.told);
        flight.told = flight.told.max(now + way);
        let at = flight.told;
        self.at(at, what(leg));
    }

    /// A node has the next token after a prompt.
    fn token(&mut self, leg: Leg, cached: u64, now: Nanos) {
        let Some(flight) = flight(&mut self.flights, leg) else {
            return;
        };
        let at = Duration::from_nanos(now);
        if let (Some(ticket), Some(site)) = (&mut flight.at_site, self.sites.get_mut(flight.site)) {
            site.router().first_content(ticket, &flight.beginnings, at);
        }
        flight.cached += cached;
        if flight.spoke.is_none() {
            flight.spoke = Some(now);
            self.tell(leg, |leg| What::Content { leg }, now);
        }
    }

    /// A node has produced the last token.
    fn produced(&mut self, leg: Leg, now: Nanos) {
        let Some(flight) = flight(&mut self.flights, leg) else {
            return;
        };
        let served = Served {
            prompt_bytes: flight.prompt * BYTES_PER_TOKEN,
            prompt_tokens: flight.prompt as u32,
            output_tokens: flight.output as f64,
            tpot_s: per_token(flight.spoke.unwrap_or(now), now, flight.output),
        };
        if let (Some(ticket), Some(site)) = (flight.at_site.take(), self.sites.get_mut(flight.site))
        {
            let at = Duration::from_nanos(now);
            site.router().ended(ticket, End::Done(served), at);
        }
        self.tell(leg, |leg| What::Done { leg }, now);
    }

    /// The gateway has the first content.
    pub(super) fn content(&mut self, leg: Leg, now: Nanos) {
        let Some(flight) = flight(&mut self.flights, leg) else {
            return;
        };
        flight.first.get_or_insert(now);
        let entry = self.entries.get_mut(flight.gateway);
        if let (Some(ticket), Some(entry)) = (&mut flight.at_gateway, entry) {
            entry.first_content(ticket, &flight.beginnings, now);
        }
    }

    /// The gateway has all of it.
    pub(super) fn done(&mut self, leg: Leg, now: Nanos) {
        if flight(&mut self.flights, leg).is_none() {
            return;
        }
        let Some(mut flight) = self.forget(leg.slot) else {
            return;
        };
        let (prompt, output) = flight.asked;
        let first = flight.first.unwrap_or(now);
        let tpot_s = per_token(first, now, output);
        if let (Some(ticket), Some(entry)) = (
            flight.at_gateway.take(),
            self.entries.get_mut(flight.gateway),
        ) {
            let served = Served {
                prompt_bytes: prompt * BYTES_PER_TOKEN,
                prompt_tokens: prompt as u32,
                output_tokens: output as f64,
                tpot_s,
            };
            entry.ended(ticket, End::Done(served), now);
        }
        if let Some(account) = self.accounts.get_mut(flight.tenant) {
            let at = Duration::from_nanos(now);
            account.post(&mut flight.hold, prompt + output, at);
        }
        self.note(&flight, first, tpot_s, now);
    }

    fn note(&mut self, flight: &Flight, first: Nanos, tpot_s: Option<f64>, now: Nanos) {
        let tally = &mut self.tally;
        tally.done += 1;
        if let Some(tenant) = tally.tenants.get_mut(flight.tenant) {
            tenant.0 += 1;
        }
        let (prompt, output) = flight.asked;
        tally.prompt_tokens += prompt;
        tally.output_tokens += output;
        tally.cached_tokens += flight.cached;
        let ttft_us = (first - flight.arrived) / 1_000;
        let counts = flight.arrived >= self.plan.warmup;
        if counts {
            tally.ttft.record(ttft_us);
            tally.e2e.record((now - flight.arrived) / 1_000);
            tally.tpot.record_if(tpot_s.map(|s| (s * 1e6) as u64));
        }
        let (Some(site), Some(state)) = (
            tally.sites.get_mut(flight.site),
            self.sites.get(flight.site),
        ) else {
            return;
        };
        let joules = state.plan.engine.joules_per_token * output as f64;
        site.done += 1;
        site.output_tokens += output;
        site.joules += joules;
        site.grams += joules / 3.6e6 * state.grams_per_kwh(now);
        if counts {
            site.ttft.record(ttft_us);
        }
    }
}

/// Seconds of a token after the first of `output`.
fn per_token(first: Nanos, last: Nanos, output: u64) -> Option<f64> {
    let gaps = output.checked_sub(1).filter(|gaps| *gaps > 0)?;
    Some(last.saturating_sub(first) as f64 / 1e9 / gaps as f64)
}
