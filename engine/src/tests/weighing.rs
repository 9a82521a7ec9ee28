//! How likely a prompt's tokens were: all of them, once, whatever happens on the way.

use super::model::{Bench, completion, ids_of, prompt_scores, submission, take_all};
use crate::api::{Event, FinishReason, Submission, Usage};

fn weighing(id: u64, prompt_tokens: u32, max_tokens: u32) -> Submission {
    let mut asked = submission(id, prompt_tokens, max_tokens);
    asked.prompt_logprobs = true;
    asked.sampling.logprobs = Some(1);
    asked
}

/// The stream's first event holds the prompt's log-probabilities, and no other does.
fn assert_weighed(events: &[Event], asked: &Submission) {
    let Some(Event::Prompt(logprobs)) = events.first() else {
        panic!("{:?} does not begin with the prompt", events.first());
    };
    let told: Vec<_> = logprobs
        .iter()
        .map(|l| (l.chosen.token, l.chosen.logprob, l.top[0].logprob))
        .collect();
    let expected: Vec<_> = prompt_scores(&asked.prompt)
        .into_iter()
        .map(|(token, scores)| (token, scores.logprob, scores.top[0].1))
        .collect();
    assert_eq!(told, expected);
    let further = events[1..].iter().filter(|e| matches!(e, Event::Prompt(_)));
    assert_eq!(further.count(), 0);
}

#[test]
fn each_token_but_the_first_is_weighed_in_chunks_of_any_size() {
    for budget in [1, 3, 7, 64, 200] {
        let mut bench = Bench::new(4, budget, 100);
        let asked = weighing(1, 150, 3);
        let mut stream = bench.submit(asked.clone());
        bench.finish();
        let events = take_all(&mut stream);
        assert_weighed(&events, &asked);
        assert_eq!(ids_of(&events, 0), completion(&asked, 0, bench.context_len));
    }
}

#[test]
fn a_prompt_that_is_known_already_is_weighed_all_the_same() {
    let mut bench = Bench::new(4, 64, 100);
    let asked = weighing(1, 41, 3);
    let _ = bench.submit(submission(1, 41, 3));
    bench.finish();
    let mut stream = bench.submit(asked.clone());
    bench.finish();
    let events = take_all(&mut stream);
    assert_weighed(&events, &asked);
    let Some(Event::Done(usage)) = events.last() else {
        panic!("it ends well");
    };
    assert_eq!(usage.cached_tokens, 0);
}

#[test]
fn the_choices_of_a_prompt_have_it_weighed_once_before_they_say_anything() {
    let mut bench = Bench::new(8, 16, 100);
    // Others use the rows up, so that the prompt takes many steps.
    let mut others: Vec<_> = (10..13)
        .map(|id| bench.submit(weighing(id, 90, 2)))
        .collect();
    let asked = Submission {
        n: 3,
        ..weighing(1, 42, 5)
    };
    let mut stream = bench.submit(asked.clone());
    bench.finish();
    let events = take_all(&mut stream);
    assert_weighed(&events, &asked);
    for choice in 0..3 {
        assert_eq!(
            ids_of(&events, choice),
            completion(&asked, choice, bench.context_len)
        );
    }
    for (stream, id) in others.iter_mut().zip(10..) {
        assert_weighed(&take_all(stream), &weighing(id, 90, 2));
    }
}

#[test]
fn a_preempted_prompt_is_told_once() {
    // An interactive prompt takes the room of one that may wait, half of which is computed.
    let mut bench = Bench::new(4, 8, 16);
    let asked = Submission {
        priority: crate::api::Priority::Batch,
        ..weighing(1, 50, 3)
    };
    let mut stream = bench.submit(asked.clone());
    for _ in 0..3 {
        bench.turn();
    }
    let mut other = bench.submit(submission(2, 50, 5));
    bench.finish();
    assert!(bench.core.stats().preemptions > 0);
    let events = take_all(&mut stream);
    assert_weighed(&events, &asked);
    assert_eq!(ids_of(&events, 0), completion(&asked, 0, bench.context_len));
    assert!(matches!(take_all(&mut other).last(), Some(Event::Done(_))));
}

#[test]
fn a_prompt_may_be_weighed_and_not_continued() {
    let mut bench = Bench::new(4, 64, 100);
    for prompt_tokens in [1, 30] {
        let asked = Submission {
            n: 2,
            ..weighing(1, prompt_tokens, 0)
        };
        let mut stream = bench.submit(asked.clone());
        bench.finish();
        let events = take_all(&mut stream);
        if prompt_tokens > 1 {
            assert_weighed(&events, &asked);
        }
        let reason = FinishReason::Length;
        let usage = Usage {
            prompt_tokens,
            ..Usage::default()
        };
        let ends = [0, 1].map(|choice| Event::Finished { choice, reason });
        assert_eq!(
            events[events.len() - 3..],
            [&ends[..], &[Event::Done(usage)]].concat()
        );
    }
}
