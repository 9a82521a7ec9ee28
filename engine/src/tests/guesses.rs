//! Guessed tokens: with them an engine says what it says without, in fewer steps.

use std::time::Duration;

use proptest::prelude::*;

use super::model::{Bench, REPEATS, completion, grammar, ids_of, submission, take_all, text_of};
use crate::api::{Event, FinishReason, Submission};
use crate::grammar::GrammarSpec;

/// One that goes round in circles.
fn circling(id: u64, prompt_tokens: u32, max_tokens: u32) -> Submission {
    let mut asked = submission(id, prompt_tokens, max_tokens);
    let mut prompt = asked.prompt.to_vec();
    prompt[0] = REPEATS;
    asked.prompt = prompt.into();
    asked.stop.ignore_eos = true;
    asked
}

fn run(bench: &mut Bench, submissions: &[Submission]) -> Vec<Vec<Event>> {
    let mut streams: Vec<_> = submissions
        .iter()
        .map(|s| bench.submit(s.clone()))
        .collect();
    let mut events = vec![Vec::new(); streams.len()];
    // A round after the last turn, for what is still in the channels then.
    while bench.finish() > 0 {
        for (stream, events) in streams.iter_mut().zip(&mut events) {
            events.extend(take_all(stream));
        }
        bench.core.look_around();
    }
    for (stream, events) in streams.iter_mut().zip(&mut events) {
        events.extend(take_all(stream));
    }
    events
}

#[test]
fn what_repeats_itself_takes_fewer_steps_and_reads_the_same() {
    let asked = circling(3, 9, 60);
    let mut bench = Bench::guessing(8, 4, 64, 100);
    let mut stream = bench.submit(asked.clone());
    let steps = bench.finish();
    let ids = ids_of(&take_all(&mut stream), 0);
    assert_eq!(ids, completion(&asked, 0, bench.context_len));
    let stats = bench.core.stats();
    assert!(steps < 40, "{steps} steps for {} tokens", ids.len());
    assert!(stats.accepted_tokens > 20 && stats.accepted_tokens < stats.drafted_tokens);
    assert_eq!(u64::from(steps) + stats.accepted_tokens, 60);
    assert_eq!((stats.decode_tokens, stats.prefill_tokens), (60, 9));
}

#[test]
fn what_was_guessed_wrong_is_found_by_nobody() {
    let first = circling(3, 9, 60);
    let mut bench = Bench::guessing(8, 4, 64, 100);
    let answer = ids_of(&run(&mut bench, std::slice::from_ref(&first))[0], 0);
    assert!(bench.core.stats().accepted_tokens < bench.core.stats().drafted_tokens);
    let computed = first.prompt.len() + answer.len() - 1;
    let next = Submission {
        prompt: [&first.prompt[..], &answer, &[1, 2, 3]].concat().into(),
        ..submission(4, 1, 5)
    };
    let events = run(&mut bench, std::slice::from_ref(&next));
    let Some(Event::Done(usage)) = events[0].last() else {
        panic!("it ends well");
    };
    // The last token of the answer was never computed, and no guess took its place.
    assert_eq!(usage.cached_tokens as usize, computed / 4 * 4);
    assert_eq!(
        ids_of(&events[0], 0),
        completion(&next, 0, bench.context_len)
    );
}

#[test]
fn a_length_and_a_stop_string_end_in_the_middle_of_a_guess() {
    for max_tokens in 20..50 {
        let mut asked = circling(3, 9, max_tokens);
        let whole = completion(&asked, 0, 400);
        let mut bench = Bench::guessing(8, 4, 64, 100);
        let events = run(&mut bench, std::slice::from_ref(&asked));
        assert_eq!(ids_of(&events[0], 0), whole);
        let reason = FinishReason::Length;
        assert!(events[0].contains(&Event::Finished { choice: 0, reason }));

        let last: Vec<String> = whole[whole.len() - 3..]
            .iter()
            .map(|id| format!("{id} "))
            .collect();
        asked.stop.strings = vec![last.concat()];
        let plain = run(&mut Bench::new(4, 64, 100), std::slice::from_ref(&asked));
        let guessed = run(&mut Bench::guessing(8, 4, 64, 100), &[asked]);
        assert_eq!(text_of(&plain[0], 0), text_of(&guessed[0], 0));
        assert_eq!(plain, guessed);
    }
}

#[test]
fn guesses_that_cost_more_than_steps_are_left_alone() {
    let took = |draft_ms: u64| {
        let mut bench = Bench::guessing(8, 4, 64, 200);
        let mut stream = bench.submit(circling(3, 9, 400));
        let mut before = 0;
        while bench.core.stats().decode_tokens < 400 {
            bench.timed_turn(10, 1, 0);
            let drafted = bench.core.stats().drafted_tokens;
            let ms = 10 + (drafted - before) * draft_ms;
            bench.core.took(Duration::from_millis(ms));
            before = drafted;
            take_all(&mut stream);
            bench.core.look_around();
        }
        before
    };
    let (cheap, dear) = (took(1), took(40));
    assert!(
        cheap > 200 && dear < 60,
        "{cheap} guessed where cheap, {dear} where dear"
    );
}

/// Everything that has a say in what comes next.
fn any_submission() -> impl Strategy<Value = Submission> {
    let penalties = (prop::bool::ANY, prop::bool::ANY, prop::bool::ANY);
    let lengths = (2..20_u32, 1..60_u32, 1..4_u32, 0..10_u32);
    (0..1000_u64, lengths, penalties, 0..4_u32).prop_map(|(id, lengths, penalties, kind)| {
        let (prompt, max_tokens, n, min_tokens) = lengths;
        let (repetition, frequency, logprobs) = penalties;
        let mut asked = Submission {
            n,
            ..circling(id, prompt, max_tokens)
        };
        asked.stop.ignore_eos = false;
        asked.sampling.logprobs = logprobs.then_some(2);
        if repetition {
            asked.sampling.repetition_penalty = 1.02;
        }
        if frequency {
            asked.sampling.frequency_penalty = 0.05;
        }
        match kind {
            0 => {
                let spec = GrammarSpec::Regex("([0-9]+ ){5,30}(7 7 7 )?9 ".into());
                asked.grammar = Some(grammar(&spec));
            }
            1 => asked.stop.min_tokens = min_tokens.min(max_tokens),
            2 => asked.stop.strings = vec!["1 6 11 ".to_owned(), "4 9 2".to_owned()],
            _ => asked.resume = vec![vec![5; (min_tokens.min(max_tokens - 1)) as usize]],
        }
        asked
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Event by event: text, ids, log-probabilities, reasons and usage of each submission are those of an engine that
    /// guesses nothing.
    #[test]
    fn guesses_change_nothing_that_is_said(
        submissions in prop::collection::vec(any_submission(), 1..5),
        draft_tokens_max in 1_u32..12,
        step_tokens_max in 4_u32..60,
    ) {
        let mut submissions = submissions;
        for (index, asked) in submissions.iter_mut().enumerate() {
            asked.id = index.to_string().into();
        }
        let plain = run(&mut Bench::new(6, step_tokens_max, 60), &submissions);
        let mut bench = Bench::guessing(draft_tokens_max, 6, step_tokens_max, 60);
        let guessed = run(&mut bench, &submissions);
        for (index, asked) in submissions.iter().enumerate() {
            for choice in 0..asked.n {
                let of = |events: &[Event]| events.iter().filter(|e| is_of(e, choice)).cloned().collect::<Vec<_>>();
                prop_assert_eq!(of(&plain[index]), of(&guessed[index]));
            }
            prop_assert!(matches!(guessed[index].last(), Some(Event::Done(_) | Event::Failed(..))));
        }
        let stats = bench.core.stats();
        prop_assert_eq!(stats.blocks_free, stats.blocks_total);
    }
}

fn is_of(event: &Event, wanted: u32) -> bool {
    matches!(event, Event::Delta { choice, .. } | Event::Finished { choice, .. } if *choice == wanted)
}
