//! The fit, against runs whose machine is known.

use std::path::Path;

use super::*;
use crate::clock::Nanos;
use crate::drive::chunk::Usage;
use crate::drive::record::{Labels, Record, Stamps};
use crate::drive::verdict::Verdict;
use crate::raw::Request;
use crate::rng::SplitMix64;
use crate::sim::node::{Effect, Engine, Job, Leg, Node};
use crate::spread::exponential;

const ENGINE: Engine = Engine {
    step_ns: 8e6,
    prefill_token_ns: 100e3,
    context_token_ns: 0.0,
    sequence_ns: 300e3,
    kv_tokens: 100_000,
    sequences_max: 64,
    step_tokens_max: 2_048,
    step_target_ns: 50e6,
    queue_max: 1_000,
    joules_per_token: 0.0,
};

/// What `drive` would have seen of a simulated node.
fn run(requests: u32, gap_s: f64) -> Run {
    let mut rng = SplitMix64::new(3);
    let mut node = Node::new(ENGINE);
    let mut seen: Vec<Request> = Vec::new();
    let (mut next, mut now_s, mut effects) = (None, 0.0, Vec::new());
    for number in 0..=requests {
        now_s += gap_s * exponential(&mut rng);
        let now = if number == requests {
            Nanos::MAX
        } else {
            (now_s * 1e9) as Nanos
        };
        while let Some((at, version)) = next
            && at <= now
        {
            next = node.end(version, at, &mut effects);
            effects
                .drain(..)
                .for_each(|effect| note(&mut seen, effect, at));
        }
        if number == requests {
            break;
        }
        let (prompt, output) = (
            20 + (rng.next_unit() * 400.0) as u64,
            10 + (rng.next_unit() * 90.0) as u64,
        );
        seen.push(request(now, prompt, output));
        let leg = Leg {
            number,
            slot: number,
        };
        let job = Job::new(leg, prompt, output, std::sync::Arc::default());
        next = node.take(job, now).or(next);
    }
    Run {
        requests: seen,
        ..Run::default()
    }
}

fn request(sent: Nanos, prompt_tokens: u64, completion_tokens: u64) -> Request {
    let stamps = Stamps {
        sent: Some(sent),
        intended: sent,
        ..Stamps::default()
    };
    let usage = Usage {
        prompt_tokens,
        completion_tokens,
        total_tokens: None,
    };
    let record = Record {
        labels: Labels::default(),
        stamps,
        verdict: Verdict::Good,
        usage: Some(usage),
        gaps_us: Vec::new(),
        extras: crate::extras::Extras::default(),
    };
    Request { record, good: true }
}

fn note(seen: &mut [Request], effect: Effect, at: Nanos) {
    let (Effect::Token { leg, .. } | Effect::Done(leg)) = effect;
    let stamps = &mut seen[leg.slot as usize].record.stamps;
    stamps.first_content.get_or_insert(at);
    stamps.last_content = Some(at);
}

#[test]
fn the_machine_behind_a_run_is_found_again() {
    let fitted = fit(&run(600, 0.15)).unwrap();
    let near = |value: f64, expected: f64, part: f64| (value / expected - 1.0).abs() < part;
    assert!(near(fitted.step_us, 8_000.0, 0.05), "{fitted:?}");
    assert!(near(fitted.prefill_token_us, 100.0, 0.08), "{fitted:?}");
    assert!(near(fitted.sequence_us, 300.0, 0.25), "{fitted:?}");
    assert!(fitted.context_token_us < 0.3, "{fitted:?}");
    assert!(fitted.decode_error < 0.05, "{fitted:?}");
}

#[test]
fn what_is_fitted_can_be_simulated_and_too_little_is_refused() {
    assert_eq!(fit(&run(20, 1.0)), Err(Unfit::TooFew(20)));
    let fitted = fit(&run(200, 0.2)).unwrap();
    let scenario = format!(
        "[run]\nduration = \"1m\"\n[load]\nkind = \"poisson\"\nrate = 1\n{}[[site]]\nname = \"a\"\nmachine = \"m\"\nlat = 0\nlon = 0\n",
        fitted.machine("m")
    );
    let plan = crate::sim::scenario::parse(Path::new("s.toml"), &scenario);
    assert_eq!(
        plan.map(|plan| plan.nodes()).map_err(|p| p.to_string()),
        Ok(1)
    );
}

#[test]
fn a_run_whose_times_say_nothing_of_the_server_is_refused() {
    let sample = Run {
        weight: 2.0,
        ..run(200, 0.1)
    };
    assert_eq!(fit(&sample).unwrap_err(), Unfit::Sample);
    let bound = Run {
        client_bound: true,
        ..run(200, 0.1)
    };
    assert_eq!(fit(&bound).unwrap_err(), Unfit::ClientBound);
}
