//! Blocks that several sequences share, now or one after another: what is computed once, and for whom.

use super::model::{Bench, IS_NAN, after_text, completion, ids_of, submission, take_all};
use crate::api::{Event, Submission, Usage};

/// Runs a submission alone and returns its tokens and usage.
fn run(bench: &mut Bench, submission: Submission) -> (Vec<u32>, Usage) {
    let mut stream = bench.submit(submission);
    bench.finish();
    let events = take_all(&mut stream);
    match events.last() {
        Some(Event::Done(usage)) => (ids_of(&events, 0), *usage),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_prompt_that_begins_like_an_earlier_one_is_computed_from_where_it_differs() {
    let mut bench = Bench::new(4, 64, 100);
    let (first, second) = (after_text(0, 40, 1, 10, 8), after_text(0, 40, 2, 10, 8));
    assert_eq!(run(&mut bench, first).1.cached_tokens, 0);
    let before = bench.core.stats().prefill_tokens;
    let (ids, usage) = run(&mut bench, second.clone());
    assert_eq!(usage.cached_tokens, 40);
    assert_eq!(bench.core.stats().prefill_tokens - before, 10);
    assert_eq!(ids, completion(&second, 0, bench.context_len));
    let stats = bench.core.stats();
    assert_eq!((stats.prefix_tokens, stats.prefix_hit_tokens), (100, 40));
}

#[test]
fn the_next_turn_of_a_conversation_finds_the_answer_too() {
    let mut bench = Bench::new(4, 64, 100);
    let first = submission(1, 21, 30);
    let (answer, _) = run(&mut bench, first.clone());
    let prompt = [&first.prompt[..], &answer, &[1, 2, 3]].concat();
    let next = Submission {
        prompt: prompt.into(),
        ..submission(2, 1, 5)
    };
    let (_, usage) = run(&mut bench, next);
    // All full blocks of what was computed: the last token of the answer never was.
    let computed = first.prompt.len() + answer.len() - 1;
    assert_eq!(usage.cached_tokens as usize, computed / 4 * 4);
}

#[test]
fn the_last_token_of_a_prompt_is_always_computed() {
    let mut bench = Bench::new(4, 64, 100);
    let twice = submission(1, 40, 8);
    let first = run(&mut bench, twice.clone());
    let second = run(&mut bench, twice);
    assert_eq!(second.1.cached_tokens, 36);
    assert_eq!(first.0, second.0);
}

#[test]
fn pools_do_not_share() {
    let mut bench = Bench::new(4, 64, 100);
    let mine = submission(1, 40, 8);
    run(&mut bench, mine.clone());
    let theirs = Submission {
        pool: 1,
        ..mine.clone()
    };
    assert_eq!(run(&mut bench, theirs).1.cached_tokens, 0);
    assert_eq!(run(&mut bench, mine).1.cached_tokens, 36);
}

#[test]
fn choices_of_one_prompt_share_its_blocks() {
    let mut bench = Bench::new(8, 256, 100);
    let request = Submission {
        n: 4,
        ..submission(1, 42, 12)
    };
    let mut stream = bench.submit(request.clone());
    bench.turn();
    bench.turn();
    let stats = bench.core.stats();
    assert_eq!(stats.running, 4);
    // 40 tokens lie in shared blocks; each of the others computes the last two again.
    assert_eq!(stats.prefill_tokens, 42 + 3 * 2);
    assert_eq!(stats.blocks_total - stats.blocks_free, 10 + 4);
    bench.finish();
    let events = take_all(&mut stream);
    for choice in 0..4 {
        assert_eq!(
            ids_of(&events, choice),
            completion(&request, choice, bench.context_len)
        );
    }
    let Some(Event::Done(usage)) = events.last() else {
        panic!("it ends well");
    };
    assert_eq!(usage.cached_tokens, 0, "sharing among choices is no hit");
}

#[test]
fn a_flooder_leaves_the_prefix_of_another_pool_alone() {
    let mut bench = Bench::new(4, 64, 100);
    let mine = Submission {
        pool: 7,
        ..submission(1, 80, 4)
    };
    run(&mut bench, mine.clone());
    for id in 2..60 {
        run(&mut bench, submission(id, 90, 4));
    }
    assert_eq!(run(&mut bench, mine).1.cached_tokens, 76);
}

#[test]
fn blocks_of_a_sequence_that_went_wrong_are_not_found() {
    let mut bench = Bench::new(4, 64, 100);
    let bad = Submission {
        prompt: [1, 2, 3, 4, 5, 6, 7, 8, IS_NAN].into(),
        ..submission(1, 1, 8)
    };
    let mut stream = bench.submit(bad.clone());
    bench.finish();
    assert!(matches!(take_all(&mut stream)[..], [Event::Failed(..)]));
    let like_it = Submission {
        prompt: [1, 2, 3, 4, 5, 6, 7, 8, 9].into(),
        ..bad
    };
    assert_eq!(run(&mut bench, like_it).1.cached_tokens, 0);
}

#[test]
fn a_resumed_choice_says_what_the_uninterrupted_one_would_have() {
    for emitted in [0, 1, 3, 17, 23] {
        let mut bench = Bench::new(4, 16, 100);
        let mut whole = Submission {
            n: 2,
            ..submission(1, 21, 24)
        };
        whole.stop.ignore_eos = true;
        let alone = [0, 1].map(|choice| completion(&whole, choice, bench.context_len));
        let resume = vec![alone[0][..emitted].to_vec()];
        let mut stream = bench.submit(Submission { resume, ..whole });
        bench.finish();
        let events = take_all(&mut stream);
        assert_eq!(ids_of(&events, 0), alone[0][emitted..]);
        assert_eq!(ids_of(&events, 1), alone[1]);
        let usage = Usage {
            prompt_tokens: 21,
            cached_tokens: 0,
            completion_tokens: 48 - emitted as u32,
            ..Usage::default()
        };
        assert_eq!(events.last(), Some(&Event::Done(usage)));
    }
}
