//! Gateways, nodes and a wide network in a few lines: a simulation in virtual time of what a policy does to queues.
//!
//! A node prefills one prompt after the other and then decodes all of its sequences side by side. Its figures reach each
//! gateway late and seldom.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::super::draw::Draw;
use super::super::options::Policy;
use super::super::{End, Served, Ticket};
use super::*;

/// What is simulated.
struct World {
    gateways: usize,
    nodes: usize,
    policy: Policy,
    /// Between two reports of a node to a gateway, and how old a report is when it arrives.
    report_every_ms: u64,
    report_age_ms: u64,
    /// Mean time between two requests, by virtual time.
    gap_us: fn(now_ms: u64) -> u64,
    until_ms: u64,
}

#[derive(Default)]
struct Node {
    /// When the prompts that it has are computed.
    busy_until_us: u64,
    running: u32,
    queued: Vec<u64>,
}

/// Microseconds of a prompt and of an answer.
const PREFILL_US: u64 = 100_000;
const DECODE_US: u64 = 2_000_000;

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Report {
        gateway: usize,
        node: usize,
    },
    Hear {
        gateway: usize,
        node: usize,
        running: u32,
        queued: u64,
    },
    Arrive,
    Content {
        sent: usize,
    },
    Done {
        sent: usize,
    },
}

/// Milliseconds to the first content and the node by time of arrival, and the longest queue of a node.
struct Outcome {
    ttft_ms: Vec<(u64, u64)>,
    sent_to: Vec<(u64, usize)>,
    queue_max: usize,
}

impl Outcome {
    fn p95_ms(&self, from_ms: u64, to_ms: u64) -> u64 {
        let within = |(at, _): &&(u64, u64)| (from_ms..to_ms).contains(at);
        let mut times: Vec<u64> = self.ttft_ms.iter().filter(within).map(|t| t.1).collect();
        times.sort_unstable();
        times[times.len() * 95 / 100]
    }

    /// Variance over mean of the requests that come to a node in two seconds, at the node where it is largest.
    fn dispersion(&self, from_ms: u64, to_ms: u64) -> f64 {
        let of_node = |node: usize| {
            let mut counts = vec![0.0; ((to_ms - from_ms) / 2_000) as usize];
            for (at, to) in &self.sent_to {
                if *to == node && (from_ms..to_ms).contains(at) {
                    counts[((at - from_ms) / 2_000) as usize] += 1.0;
                }
            }
            let mean = counts.iter().sum::<f64>() / counts.len() as f64;
            let squares: f64 = counts.iter().map(|count| (count - mean).powi(2)).sum();
            squares / counts.len() as f64 / mean
        };
        let nodes = self.sent_to.iter().map(|(_, node)| node + 1).max();
        (0..nodes.unwrap_or(0)).map(of_node).fold(0.0, f64::max)
    }
}

struct Sent {
    gateway: usize,
    node: usize,
    at_us: u64,
    ticket: Option<Ticket>,
}

/// The state of a world and what is to happen in it.
struct Simulation<'w> {
    world: &'w World,
    gateways: Vec<(Router, Vec<CandidateId>)>,
    nodes: Vec<Node>,
    sent: Vec<Sent>,
    events: BinaryHeap<Reverse<(u64, What)>>,
    draw: Draw,
    outcome: Outcome,
}

fn simulate(world: &World) -> Outcome {
    let options = Options {
        policy: world.policy,
        ..Options::default()
    };
    let gateway = |_| router(options.clone(), world.nodes);
    let mut simulation = Simulation {
        world,
        gateways: (0..world.gateways).map(gateway).collect(),
        nodes: (0..world.nodes).map(|_| Node::default()).collect(),
        sent: Vec::new(),
        events: BinaryHeap::new(),
        draw: Draw::new(11),
        outcome: Outcome {
            ttft_ms: Vec::new(),
            sent_to: Vec::new(),
            queue_max: 0,
        },
    };
    simulation.run();
    simulation.outcome
}

impl Simulation<'_> {
    fn run(&mut self) {
        for gateway in 0..self.world.gateways {
            for node in 0..self.world.nodes {
                // Not all at the same moment.
                let at = self.draw.below(self.world.report_every_ms * 1_000);
                self.plan(at, What::Report { gateway, node });
            }
        }
        self.plan(0, What::Arrive);
        while let Some(Reverse((at, what))) = self.events.pop() {
            match what {
                What::Report { gateway, node } => self.report(at, gateway, node),
                What::Hear {
                    gateway,
                    node,
                    running,
                    queued,
                } => self.hear(at, (gateway, node), running, queued),
                What::Arrive => self.arrive(at),
                What::Content { sent } => self.content(at, sent),
                What::Done { sent } => self.done(at, sent),
            }
        }
    }

    fn plan(&mut self, at: u64, what: What) {
        self.events.push(Reverse((at, what)));
    }

    fn is_over(&self, at: u64) -> bool {
        at >= self.world.until_ms * 1_000
    }

    /// A node tells a gateway what is true now.
    fn report(&mut self, at: u64, gateway: usize, node: usize) {
        if !self.is_over(at) {
            let next = at + self.world.report_every_ms * 1_000;
            self.plan(next, What::Report { gateway, node });
        }
        let state = &mut self.nodes[node];
        state.forget_computed(at);
        let (running, queued) = (state.running, state.queued.len() as u64);
        let heard_at = at + self.world.report_age_ms * 1_000;
        let hear = What::Hear {
            gateway,
            node,
            running,
            queued,
        };
        self.plan(heard_at, hear);
    }

    /// The gateway hears it.
    fn hear(&mut self, at: u64, (gateway, node): (usize, usize), running: u32, queued: u64) {
        let figures = Figures {
            running,
            queued_tokens: 1_000 * queued,
            age: ms(self.world.report_age_ms),
            ..idle()
        };
        let (router, ids) = &mut self.gateways[gateway];
        router.observe(ids[node], figures, Duration::from_micros(at));
    }

    fn arrive(&mut self, at: u64) {
        if !self.is_over(at) {
            let gap = self.draw.below(2 * (self.world.gap_us)(at / 1_000)) + 1;
            self.plan(at + gap, What::Arrive);
        }
        let gateway = self.draw.below(self.world.gateways as u64) as usize;
        let router = &mut self.gateways[gateway].0;
        let placed = place(router, &Extra::default(), Duration::from_micros(at)).unwrap();
        let node = placed.candidate.index();
        self.outcome.sent_to.push((at / 1_000, node));
        let content_at = self.nodes[node].take_in(at);
        self.outcome.queue_max = self.outcome.queue_max.max(self.nodes[node].queued.len());
        self.plan(
            content_at,
            What::Content {
                sent: self.sent.len(),
            },
        );
        self.sent.push(Sent {
            gateway,
            node,
            at_us: at,
            ticket: Some(placed.ticket),
        });
    }

    fn content(&mut self, at: u64, number: usize) {
        let sent = &mut self.sent[number];
        let router = &mut self.gateways[sent.gateway].0;
        let ticket = sent.ticket.as_mut().unwrap();
        router.first_content(ticket, &[], Duration::from_micros(at));
        let took = (at - sent.at_us) / 1_000;
        self.outcome.ttft_ms.push((sent.at_us / 1_000, took));
        self.plan(at + DECODE_US, What::Done { sent: number });
    }

    fn done(&mut self, at: u64, number: usize) {
        let sent = &mut self.sent[number];
        self.nodes[sent.node].running -= 1;
        let served = Served {
            prompt_bytes: 4_000,
            prompt_tokens: 1_000,
            output_tokens: 100.0,
            tpot_s: Some(0.02),
        };
        let ticket = sent.ticket.take().unwrap();
        let router = &mut self.gateways[sent.gateway].0;
        router.ended(ticket, End::Done(served), Duration::from_micros(at));
    }
}

impl Node {
    fn forget_computed(&mut self, at: u64) {
        self.queued.retain(|until| *until > at);
    }

    /// Takes in a prompt and says when it is computed.
    fn take_in(&mut self, at: u64) -> u64 {
        self.forget_computed(at);
        self.busy_until_us = self.busy_until_us.max(at) + PREFILL_US;
        self.queued.push(self.busy_until_us);
        self.running += 1;
        self.busy_until_us
    }
}

/// Ten nodes prefill 100 prompts a second; 80 come.
fn world(policy: Policy) -> World {
    World {
        gateways: 2,
        nodes: 10,
        policy,
        report_every_ms: 2_000,
        report_age_ms: 0,
        gap_us: |_| 12_500,
        until_ms: 60_000,
    }
}

/// p95 of the time to first content, longest queue and the worst node's unevenness, of so many gateways whose figures come so often.
fn seen(gateways: usize, report_every_ms: u64) -> (u64, usize, f64) {
    let outcome = simulate(&World {
        gateways,
        report_every_ms,
        ..world(Policy::Cost)
    });
    let p95 = outcome.p95_ms(20_000, 60_000);
    (p95, outcome.queue_max, outcome.dispersion(20_000, 60_000))
}

#[test]
fn figures_two_seconds_old_make_no_herd() {
    for gateways in [2, 8] {
        let (fresh, ..) = seen(gateways, 50);
        let (old, queue_max, dispersion) = seen(gateways, 2_000);
        // Where everybody ran to who looked idle last, 160 requests would come to one node between two reports.
        assert!(queue_max <= 15, "{queue_max} prompts wait at one node");
        assert!(
            2 * old <= 3 * fresh,
            "p95 of the time to first content is {old} ms, and {fresh} ms by fresh figures"
        );
        // 1 where requests come at random.
        assert!(dispersion <= 0.5, "dispersion is {dispersion}");
    }
}

#[test]
fn a_gateway_that_is_alone_needs_no_fresh_figures() {
    let ((fresh, ..), (old, ..)) = (seen(1, 50), seen(1, 2_000));
    assert!(
        2 * old <= 3 * fresh,
        "p95 of the time to first content is {old} ms, and {fresh} ms by fresh figures"
    );
}

#[test]
fn reports_that_travel_long_make_no_herd_either() {
    let late = World {
        report_every_ms: 500,
        report_age_ms: 2_000,
        ..world(Policy::Cost)
    };
    let outcome = simulate(&late);
    assert!(
        outcome.queue_max <= 20,
        "{} prompts wait at one node",
        outcome.queue_max
    );
}

#[test]
fn after_a_burst_of_twice_the_capacity_queues_empty_again() {
    // Twice the capacity from 20 s to 40 s, then 60 % of it: the 2,000 prompts too many take 50 s.
    let burst = World {
        report_every_ms: 1_000,
        gap_us: |now_ms| {
            if (20_000..40_000).contains(&now_ms) {
                5_000
            } else {
                16_667
            }
        },
        until_ms: 160_000,
        ..world(Policy::Cost)
    };
    let outcome = simulate(&burst);
    let (before, after) = (
        outcome.p95_ms(5_000, 20_000),
        outcome.p95_ms(130_000, 160_000),
    );
    assert!(
        after <= 2 * before + 100,
        "p95 was {before} ms before and is {after} ms"
    );
}
