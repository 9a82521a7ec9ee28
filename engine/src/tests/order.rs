//! Who goes first: classes, flows, ages, and prompts beside decodes.

use std::time::Duration;

use super::model::{Bench, submission, take, take_all};
use crate::api::{Event, Priority, Submission};
use crate::core::Turn;
use crate::events::EventStream;
use crate::limits::AGES_AFTER;

fn asked(id: u64, prompt: u32, tokens: u32, priority: Priority, flow: u64) -> Submission {
    let mut asked = Submission {
        priority,
        flow,
        ..submission(id, prompt, tokens)
    };
    asked.stop.ignore_eos = true;
    asked
}

fn interactive(id: u64, prompt: u32, tokens: u32) -> Submission {
    asked(id, prompt, tokens, Priority::Interactive, 0)
}

fn batch(id: u64, prompt: u32, tokens: u32) -> Submission {
    asked(id, prompt, tokens, Priority::Batch, 0)
}

/// Turns until all streams have ended; for each the turn of its first token.
fn first_tokens(bench: &mut Bench, streams: &mut [EventStream]) -> Vec<Option<u32>> {
    let mut first_at = vec![None; streams.len()];
    for turn in 0..100_000 {
        let state = bench.turn();
        for (stream, at) in streams.iter_mut().zip(&mut first_at) {
            if !take_all(stream).is_empty() {
                at.get_or_insert(turn);
            }
        }
        if state == Turn::Idle {
            break;
        }
    }
    first_at
}

#[test]
fn who_is_waited_for_goes_first() {
    let mut bench = Bench::new(1, 16, 40);
    let mut streams = [
        bench.submit(batch(1, 10, 6)),
        bench.submit(batch(2, 10, 6)),
        bench.submit(interactive(3, 10, 6)),
    ];
    let first_at = first_tokens(&mut bench, &mut streams);
    assert!(
        first_at[2] < first_at[0] && first_at[0] < first_at[1],
        "{first_at:?}"
    );
}

#[test]
fn batch_work_yields_its_room_and_says_the_same() {
    let mut bench = Bench::new(2, 64, 40);
    let mut yielding = [
        bench.submit(batch(1, 40, 60)),
        bench.submit(batch(2, 10, 90)),
    ];
    for _ in 0..5 {
        bench.turn();
    }
    let mut urgent = bench.submit(interactive(3, 60, 40));
    bench.turn();
    assert!(take(&mut urgent).is_some(), "the next step is its own");
    assert!(bench.core.stats().preemptions > 0);
    let rest = first_tokens(&mut bench, &mut yielding);
    assert!(rest.iter().all(Option::is_some));
}

#[test]
fn a_flood_of_interactive_work_does_not_starve_batch_work() {
    let mut bench = Bench::new(2, 16, 60);
    let mut old = bench.submit(batch(1, 30, 10));
    let mut floods = Vec::new();
    let mut done_at = None;
    for turn in 0..20_000_u64 {
        // Always two in line, each of a flow of its own, which begins with the least of all counters.
        if bench.core.stats().waiting < 3 {
            floods.push(bench.submit(asked(2 + turn, 20, 5, Priority::Interactive, 2 + turn)));
        }
        bench.now += Duration::from_millis(20);
        bench.turn();
        if take_all(&mut old)
            .iter()
            .any(|e| matches!(e, Event::Done(_)))
        {
            done_at = Some(bench.now);
            break;
        }
    }
    let done_at = done_at.expect("it is served in the end");
    assert!(done_at >= AGES_AFTER, "it had to wait");
    assert!(done_at <= AGES_AFTER * 2, "{done_at:?}");
}

#[test]
fn a_flow_that_asks_for_little_does_not_wait_for_one_that_asks_for_much() {
    let mut bench = Bench::new(2, 32, 60);
    let mut streams: Vec<_> = (0..40)
        .map(|id| bench.submit(asked(id, 20, 10, Priority::Interactive, 1)))
        .collect();
    for _ in 0..8 {
        bench.turn();
    }
    streams.push(bench.submit(asked(99, 20, 10, Priority::Interactive, 2)));
    let first_at = first_tokens(&mut bench, &mut streams);
    let earlier = first_at[..40]
        .iter()
        .filter(|at| **at < first_at[40])
        .count();
    assert!(earlier <= 6, "{earlier} of the flood came before");
}

#[test]
fn backlogged_flows_get_equal_shares() {
    let mut bench = Bench::new(4, 64, 100);
    // Flow 1 has long answers and flow 2 short ones, both far more than can be served.
    let mut streams = Vec::new();
    for id in 0..200 {
        streams.push(bench.submit(asked(2 * id, 10, 40, Priority::Interactive, 1)));
        streams.push(bench.submit(asked(2 * id + 1, 10, 8, Priority::Interactive, 2)));
    }
    let mut produced = [0_u64; 2];
    for _ in 0..600 {
        bench.turn();
        for (stream, flow) in streams.iter_mut().zip([0, 1].iter().cycle()) {
            produced[*flow] += take_all(stream).len() as u64;
        }
    }
    // Weighted tokens: 10 + 2 x 40 a request against 10 + 2 x 8.
    let served = [produced[0] * 90 / 42, produced[1] * 26 / 10];
    let ratio = served[0] as f64 / served[1] as f64;
    assert!((0.8..1.25).contains(&ratio), "{served:?}");
}

#[test]
fn a_short_prompt_passes_a_long_one_of_another_flow() {
    let mut bench = Bench::new(4, 16, 200);
    let long = bench.submit(asked(1, 600, 5, Priority::Interactive, 1));
    bench.turn();
    bench.turn();
    let mut short = bench.submit(asked(2, 10, 5, Priority::Interactive, 2));
    // A newcomer starts level with the other: one chunk of the long one may come before.
    bench.turn();
    bench.turn();
    assert!(take(&mut short).is_some());
    drop(long);
}

#[test]
fn where_decodes_take_long_alone_prompts_stretch_them_by_less_than_twice() {
    // 20 ms a step, 5 ms a token: 16 decodes take 100 ms, far above the target.
    let mut bench = Bench::new(20, 512, 1000);
    let _decoding: Vec<_> = (0..16)
        .map(|id| bench.submit(interactive(id, 30, 60)))
        .collect();
    let mut usual_ms = 0;
    for _ in 0..20 {
        usual_ms = bench.timed_turn(20, 5, 5);
    }
    let mut long = bench.submit(interactive(99, 200, 5));
    let mut gaps_ms = Vec::new();
    while take(&mut long).is_none() {
        gaps_ms.push(bench.timed_turn(20, 5, 5));
    }
    assert!(
        gaps_ms.iter().all(|gap| *gap <= 2 * usual_ms + 10),
        "{gaps_ms:?}"
    );
    assert!(
        gaps_ms.len() <= 24,
        "it does not wait for ever: {gaps_ms:?}"
    );
}

#[test]
fn prompts_beside_decodes_are_cut_to_the_target() {
    // 5 ms a step, 1 ms a token: with 4 decodes the target of 50 ms leaves 41 prompt tokens.
    let mut bench = Bench::new(8, 512, 1000);
    let _decoding: Vec<_> = (0..4)
        .map(|id| bench.submit(interactive(id, 30, 60)))
        .collect();
    for _ in 0..10 {
        bench.timed_turn(5, 1, 1);
    }
    let _long = bench.submit(interactive(9, 1500, 5));
    let mut worst_ms = 0;
    for _ in 0..30 {
        worst_ms = worst_ms.max(bench.timed_turn(5, 1, 1));
    }
    assert!((40..=55).contains(&worst_ms), "{worst_ms}");
}
