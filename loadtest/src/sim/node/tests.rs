//! A node alone: its steps against sums made by hand, and its books under anything.

use proptest::prelude::*;

use super::*;

/// 10 ms a step, 1 ms a prompt token, 0.1 ms a sequence, 1 us a token of context.
const ENGINE: Engine = Engine {
    step_ns: 10e6,
    prefill_token_ns: 1e6,
    context_token_ns: 1e3,
    sequence_ns: 1e5,
    kv_tokens: 10_000,
    sequences_max: 4,
    step_tokens_max: 64,
    step_target_ns: 50e6,
    queue_max: 100,
    joules_per_token: 0.0,
};

fn leg(number: u32) -> Leg {
    Leg {
        number,
        slot: number,
    }
}

fn job(number: u32, prompt: u64, output: u64) -> Job {
    Job::new(leg(number), prompt, output, Arc::default())
}

/// Runs a node dry: when each effect came.
fn drain(node: &mut Node, mut next: Option<(Nanos, u32)>) -> Vec<(Nanos, Effect)> {
    let (mut all, mut effects) = (Vec::new(), Vec::new());
    while let Some((at, version)) = next {
        next = node.end(version, at, &mut effects);
        all.extend(effects.drain(..).map(|effect| (at, effect)));
        assert!(node.is_consistent());
    }
    all
}

#[test]
fn a_request_alone_takes_what_its_steps_take() {
    let mut node = Node::new(ENGINE);
    let next = node.take(job(1, 100, 3), 0);
    let effects = drain(&mut node, next);
    // 64 tokens and 36; then two decodes over contexts of 100 and 101.
    let first = (10 + 64 + 10 + 36) * 1_000_000;
    let second = 2 * 10_100_000 + 100_000 + 101_000;
    let token = Effect::Token {
        leg: leg(1),
        cached: 0,
    };
    assert_eq!(
        effects,
        [(first, token), (first + second, Effect::Done(leg(1)))]
    );
    assert_eq!(node.stand().kv_free, 10_000);
}

#[test]
fn who_comes_in_the_middle_of_a_run_waits_for_the_step_and_no_longer() {
    let mut node = Node::new(ENGINE);
    let begun = node.take(job(1, 10, 1_000), 0);
    let (at, version) = begun.unwrap();
    assert_eq!(at, 20_000_000);
    let run = node.end(version, at, &mut Vec::new()).unwrap();
    // 999 steps in one event, of some 10.1 ms each; the newcomer cuts it in its third step.
    assert!(run.0 > 10_000_000_000);
    let cut = node.take(job(2, 10, 1), at + 25_000_000).unwrap();
    assert_eq!(cut.0, at + 3 * 10_100_000 + 10_000 + 11_000 + 12_000);
    let mut effects = Vec::new();
    assert_eq!(node.end(run.1, run.0, &mut effects), None, "it was cut");
    let next = node.end(cut.1, cut.0, &mut effects).unwrap();
    assert!(effects.is_empty());
    // Its prompt shares a step with the other's token.
    assert_eq!(next.0 - cut.0, 10_000_000 + 10_000_000 + 100_000 + 13_000);
}

#[test]
fn a_known_beginning_is_not_computed_again() {
    let mut node = Node::new(ENGINE);
    let blocks: Arc<[u64]> = vec![1, 2].into();
    let with = |number| Job::new(leg(number), 600, 1, Arc::clone(&blocks));
    let next = node.take(with(1), 0);
    let first = drain(&mut node, next);
    let next = node.take(with(2), 10_000_000_000);
    let again = drain(&mut node, next);
    assert_eq!(
        again[0].1,
        Effect::Token {
            leg: leg(2),
            cached: 512
        }
    );
    assert!(again[0].0 - 10_000_000_000 < first[0].0 / 4);
}

#[test]
fn a_full_cache_sends_the_last_one_back_and_everyone_ends() {
    let engine = Engine {
        kv_tokens: 200,
        ..ENGINE
    };
    let mut node = Node::new(engine);
    let next = node.take(job(1, 60, 100), 0);
    assert!(node.take(job(2, 60, 100), 1).is_none());
    let effects = drain(&mut node, next);
    let done: Vec<Effect> = effects
        .iter()
        .map(|e| e.1)
        .filter(|e| matches!(e, Effect::Done(_)))
        .collect();
    assert_eq!(done, [Effect::Done(leg(1)), Effect::Done(leg(2))]);
    assert!(node.preemptions > 0);
}

#[test]
fn a_node_that_stops_says_how_far_it_was() {
    let mut node = Node::new(ENGINE);
    let (at, version) = node.take(job(1, 10, 100), 0).unwrap();
    node.end(version, at, &mut Vec::new());
    node.take(job(2, 10, 7), at + 1_000_000);
    // Two whole steps of the run, and the newcomer was not begun.
    let mut effects = Vec::new();
    let lost = node.stop(at + 9_000_000, &mut effects);
    assert_eq!(lost, [(leg(1), 99), (leg(2), 7)]);
    assert!(node.is_consistent() && effects.is_empty());
}

#[test]
fn the_capacity_is_what_a_node_that_is_never_idle_does() {
    let engine = Engine {
        sequences_max: 32,
        step_tokens_max: 2_048,
        prefill_token_ns: 5e4,
        ..ENGINE
    };
    let means = Means {
        prompt: 200.0,
        uncached: 200.0,
        output: 50.0,
        output_context: 50.0 * 225.0,
    };
    let mut node = Node::new(engine);
    let mut next = None;
    for number in 0..1_000 {
        next = node.take(job(number, 200, 50), 0).or(next);
    }
    let effects = drain(&mut node, next);
    let seconds = effects.last().unwrap().0 as f64 / 1e9;
    let ratio = 1_000.0 / seconds / engine.capacity(&means);
    assert!((0.85..1.02).contains(&ratio), "{ratio}");
}

proptest! {
    #[test]
    fn whatever_comes_everyone_ends_once_and_the_books_are_right(
        jobs in prop::collection::vec((1_u64..400, 1_u64..80, 0_u64..300_000_000), 1..40),
        kv_tokens in 480_u64..2_000,
        sequences_max in 1_u32..9,
        step_tokens_max in 1_u32..128,
    ) {
        let engine = Engine { kv_tokens, sequences_max, step_tokens_max, ..ENGINE };
        let mut node = Node::new(engine);
        let (mut now, mut next, mut effects) = (0, None, Vec::new());
        let count = jobs.len();
        for (number, (prompt, output, gap)) in jobs.into_iter().enumerate() {
            now += gap;
            while let Some((at, version)) = next && at <= now {
                next = node.end(version, at, &mut effects);
                prop_assert!(node.is_consistent());
            }
            let number = number as u32;
            next = node.take(job(number, prompt, output), now).or(next);
            prop_assert!(node.is_consistent());
        }
        while let Some((at, version)) = next {
            next = node.end(version, at, &mut effects);
            prop_assert!(node.is_consistent());
        }
        prop_assert_eq!(node.sequences(), 0);
        let mut done: Vec<u32> = effects.iter().filter_map(|effect| match effect {
            Effect::Done(leg) => Some(leg.number),
            Effect::Token { .. } => None,
        }).collect();
        done.sort_unstable();
        prop_assert_eq!(done, (0..count as u32).collect::<Vec<_>>());
        prop_assert_eq!(node.stand().kv_free, kv_tokens);
    }
}
