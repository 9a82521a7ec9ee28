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
    Report { gateway: usize, node: usize },
    Arrive,
    Content { sent: usize },
    Done { sent: usize },
}

/// Milliseconds to the first content by time of arrival, and the longest queue of a node.
struct Outcome {
    ttft_ms: Vec<(u64, u64)>,
    queue_max: usize,
}

impl Outcome {
    fn p95_ms(&self, from_ms: u64, to_ms: u64) -> u64 {
        let within = |(at, _): &&(u64, u64)| (from_ms..to_ms).contains(at);
        let mut times: Vec<u64> = self.ttft_ms.iter().filter(within).map(|t| t.1).collect();
        times.sort_unstable();
        times[times.len() * 95 / 100]
    }
}

struct Sent {
    gateway: usize,
    node: usize,
    at_us: u64,
    ticket: Option<Ticket>,
}

fn simulate(world: &World) -> Outcome {
    let options = Options {
        policy: world.policy,
        ..Options::default()
    };
    let mut gateways: Vec<(Router, Vec<CandidateId>)> = (0..world.gateways)
        .map(|_| router(options.clone(), world.nodes))
        .collect();
    let mut nodes: Vec<Node> = (0..world.nodes).map(|_| Node::default()).collect();
    let mut sent: Vec<Sent> = Vec::new();
    let mut draw = Draw::new(11);
    let mut events = BinaryHeap::new();
    let mut outcome = Outcome {
        ttft_ms: Vec::new(),
        queue_max: 0,
    };
    for gateway in 0..world.gateways {
        for node in 0..world.nodes {
            // Not all at the same moment.
            let at = draw.below(world.report_every_ms * 1_000);
            events.push(Reverse((at, What::Report { gateway, node })));
        }
    }
    events.push(Reverse((0, What::Arrive)));
    while let Some(Reverse((at, what))) = events.pop() {
        let now = Duration::from_micros(at);
        match what {
            What::Report { gateway, node } => {
                if at < world.until_ms * 1_000 {
                    let next = at + world.report_every_ms * 1_000;
                    events.push(Reverse((next, What::Report { gateway, node })));
                }
                let queue = &mut nodes[node];
                queue.queued.retain(|until| *until > at);
                let figures = Figures {
                    running: queue.running,
                    waiting: 0,
                    queued_tokens: 1_000 * queue.queued.len() as u64,
                    ..idle()
                };
                let (router, ids) = &mut gateways[gateway];
                // It tells what was true when it left; being told later is the same as being told old news.
                let seen_at = now + ms(world.report_age_ms);
                let figures = Figures {
                    age: ms(world.report_age_ms),
                    ..figures
                };
                router.observe(ids[node], figures, seen_at);
            }
            What::Arrive => {
                if at < world.until_ms * 1_000 {
                    let gap = draw.below(2 * (world.gap_us)(at / 1_000)) + 1;
                    events.push(Reverse((at + gap, What::Arrive)));
                }
                let gateway = draw.below(world.gateways as u64) as usize;
                let placed = place(&mut gateways[gateway].0, &Extra::default(), now).unwrap();
                let index = placed.candidate.index();
                let node = &mut nodes[index];
                node.queued.retain(|until| *until > at);
                node.busy_until_us = node.busy_until_us.max(at) + PREFILL_US;
                node.queued.push(node.busy_until_us);
                node.running += 1;
                outcome.queue_max = outcome.queue_max.max(node.queued.len());
                let number = sent.len();
                events.push(Reverse((
                    node.busy_until_us,
                    What::Content { sent: number },
                )));
                sent.push(Sent {
                    gateway,
                    node: index,
                    at_us: at,
                    ticket: Some(placed.ticket),
                });
            }
            What::Content { sent: number } => {
                let Sent {
                    gateway,
                    at_us,
                    ticket,
                    ..
                } = &mut sent[number];
                let router = &mut gateways[*gateway].0;
                router.first_content(ticket.as_mut().unwrap(), &[], now);
                outcome
                    .ttft_ms
                    .push((*at_us / 1_000, (at - *at_us) / 1_000));
                events.push(Reverse((at + DECODE_US, What::Done { sent: number })));
            }
            What::Done { sent: number } => {
                let Sent {
                    gateway,
                    node,
                    ticket,
                    ..
                } = &mut sent[number];
                nodes[*node].running -= 1;
                let served = Served {
                    prompt_bytes: 4_000,
                    prompt_tokens: 1_000,
                    output_tokens: 100.0,
                    tpot_s: Some(0.02),
                };
                let ticket = ticket.take().unwrap();
                gateways[*gateway].0.ended(ticket, End::Done(served), now);
            }
        }
    }
    outcome
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

#[test]
fn figures_two_seconds_old_make_no_herd() {
    let cost = simulate(&world(Policy::Cost));
    // Where everybody ran to who looked idle last, 160 requests would come to one node between two reports.
    assert!(
        cost.queue_max <= 20,
        "{} prompts wait at one node",
        cost.queue_max
    );
    let p95 = cost.p95_ms(10_000, 60_000);
    assert!(p95 <= 1_000, "p95 of the time to first content is {p95} ms");
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
