//! How long a decision takes and whether deciding needs more and more memory, on a quiet machine:
//! `cargo bench -p hansa-gateway --no-default-features --features engine --bench route`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement that prints its figures"
)]

use std::hint::black_box;
use std::time::Duration;

use hansa_gateway::clock::Clock;
use hansa_gateway::route::decision::Attempt;
use hansa_gateway::route::facts::{CandidateId, Facts, Figures};
use hansa_gateway::route::means::Means;
use hansa_gateway::route::options::Options;
use hansa_gateway::route::residency::{Rules, allow_list};
use hansa_gateway::route::{Ask, End, Router, Served};

const MODELS: usize = 8;
const REQUESTS: u64 = 1_000_000;
/// Requests in flight: each ends when so many more have come.
const IN_FLIGHT: usize = 256;

fn main() {
    for (what, sites, nodes) in [("19 sites", 19, 1), ("100 nodes", 20, 5)] {
        let (router, ids) = fleet(sites, nodes);
        measure(what, router, &ids);
    }
}

fn fleet(sites: usize, nodes: usize) -> (Router, Vec<CandidateId>) {
    let mut router = Router::new(Options::default(), 1);
    let mut ids = Vec::new();
    for site in 0..sites {
        for node in 0..nodes {
            for model in 0..MODELS {
                let name = format!("site-{site}/node-{node}");
                let site = format!("site-{site}");
                let facts = Facts {
                    country: Some(["FI", "SE", "DE", "IT"][site.len() % 4].into()),
                    rtt: Duration::from_millis(5),
                    ..Facts::new(
                        &name,
                        &site,
                        &format!("node-{node}"),
                        &format!("model-{model}"),
                    )
                };
                ids.push(router.add(facts, Duration::ZERO).unwrap());
            }
        }
    }
    (router, ids)
}

fn figures(sequence: u64) -> Figures {
    Figures {
        ready: true,
        sequence,
        running: 12,
        queued_tokens: 400 + sequence % 7 * 100,
        kv_tokens_total: 500_000,
        kv_tokens_free: 200_000,
        prefill_tokens_per_s: 8_000.0,
        decode_tokens_per_s: 600.0,
        numerics: vec!["0123456789abcdef".to_owned()],
        joules_per_token: Some(0.4),
        grams_per_kwh: Some(120.0),
        ..Figures::default()
    }
}

fn measure(what: &str, mut router: Router, ids: &[CandidateId]) {
    let clock = Clock::system();
    let rules = Rules {
        countries: allow_list(&["FI", "SE", "DE", "IT"].map(str::to_owned)),
        ..Rules::default()
    };
    let models: Vec<String> = (0..MODELS).map(|model| format!("model-{model}")).collect();
    let (mut took, mut open) = (
        vec![1_u32; REQUESTS as usize],
        std::collections::VecDeque::new(),
    );
    let mut resident = Vec::new();
    for request in 0..REQUESTS {
        // A thousand requests a second, and figures once a second.
        let now = Duration::from_millis(request);
        if request % 1_000 == 0 {
            for id in ids {
                router.observe(*id, figures(request + 1), now);
            }
        }
        // One of 500 conversations with a prompt of 32 blocks.
        let conversation = request.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 500;
        let blocks: Vec<u64> = (0..32)
            .map(|block| conversation * 1_000 + block + 1)
            .collect();
        let ask = Ask {
            attempt: Attempt::First,
            model: &models[(conversation % MODELS as u64) as usize],
            prompt_bytes: 34_000,
            blocks: &blocks,
            session: Some(conversation + 1_000_000),
            max_tokens: Some(300),
            n: 1,
            rules: &rules,
            hops: 0,
            tried: &[],
            numerics: None,
            allocation: &|_| Means::Any,
            time_left: None,
            waits: false,
        };
        let began = clock.now();
        let mut placed = black_box(router.place(&ask, now).unwrap());
        took[request as usize] =
            u32::try_from((clock.now() - began).as_nanos()).unwrap_or(u32::MAX);
        router.first_content(&mut placed.ticket, &blocks, now);
        open.push_back(placed.ticket);
        if open.len() > IN_FLIGHT {
            let served = Served {
                prompt_bytes: 34_000,
                prompt_tokens: 8_500,
                output_tokens: 200.0,
                tpot_s: Some(0.02),
            };
            router.ended(open.pop_front().unwrap(), End::Done(served), now);
        }
        if (request + 1) % (REQUESTS / 4) == 0 {
            resident.push(resident_kib());
        }
    }
    took.sort_unstable();
    let at = |share: usize| f64::from(took[(took.len() - 1) * share / 1_000]) / 1_000.0;
    println!(
        "{what}, {MODELS} models: a decision takes p50 {:.1} us, p99 {:.1} us, p99.9 {:.1} us; \
         resident after each quarter of {REQUESTS}: {resident:?} KiB",
        at(500),
        at(990),
        at(999),
    );
}

/// Resident memory of this process.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or_default()
}
