//! Choices under a grammar, and what comes with a choice's tokens.

use super::model::{Bench, completion, grammar, ids_of, scores, submission, take_all, text_of};
use crate::api::{EngineError, Event, FinishReason, StopParams, Submission, Usage};
use crate::grammar::{GrammarSpec, GuideFault};

/// Two numbers of the model's choice, between which it has none.
fn guided(id: u64) -> Submission {
    let spec = GrammarSpec::Regex("1[0-9] (5 6 7 8 9 ){2}[23][0-9] ".into());
    Submission {
        grammar: Some(grammar(&spec)),
        stop: StopParams::after(40),
        ..submission(id, 9, 40)
    }
}

fn usage(events: &[Event]) -> Usage {
    match events.last() {
        Some(Event::Done(usage)) => *usage,
        other => panic!("{other:?} is not the end of a good stream"),
    }
}

#[test]
fn what_a_grammar_forces_costs_no_draw() {
    let mut bench = Bench::new(4, 64, 100);
    let mut stream = bench.submit(guided(1));
    let steps = bench.finish();
    let events = take_all(&mut stream);
    let text = text_of(&events, 0);
    assert!(text.contains(" 5 6 7 8 9 5 6 7 8 9 "), "{text}");
    let ids = ids_of(&events, 0);
    assert_eq!(ids.len() as u32, usage(&events).completion_tokens);
    assert!(steps < ids.len() as u32, "{steps} steps for {ids:?}");
    let reason = FinishReason::Stop;
    assert!(events.contains(&Event::Finished { choice: 0, reason }));
}

#[test]
fn a_guided_choice_says_the_same_in_company_and_after_a_preemption() {
    let alone = |id| {
        let mut bench = Bench::new(4, 64, 100);
        let mut stream = bench.submit(guided(id));
        bench.finish();
        ids_of(&take_all(&mut stream), 0)
    };
    for budget in [4, 7, 64] {
        let mut bench = Bench::new(4, budget, 13);
        let mut streams: Vec<_> = (1..=4)
            .map(|id| {
                (
                    id,
                    bench.submit(guided(id)),
                    bench.submit(submission(id + 10, 8, 30)),
                )
            })
            .collect();
        bench.finish();
        assert!(bench.core.stats().preemptions > 0);
        for (id, guided, plain) in &mut streams {
            assert_eq!(ids_of(&take_all(guided), 0), alone(*id));
            let asked = submission(*id + 10, 8, 30);
            let expected = completion(&asked, 0, bench.context_len);
            assert_eq!(ids_of(&take_all(plain), 0), expected);
        }
        let stats = bench.core.stats();
        assert_eq!(stats.blocks_free, stats.blocks_total);
    }
}

#[test]
fn a_guided_and_penalised_choice_resumes_where_it_stood() {
    let asked = |resume: Vec<u32>| {
        let mut asked = guided(5);
        asked.resume = vec![resume];
        asked.sampling.frequency_penalty = 1.5;
        asked.sampling.repetition_penalty = 1.2;
        asked
    };
    let said = |submission| {
        let mut bench = Bench::new(4, 64, 100);
        let mut stream = bench.submit(submission);
        bench.finish();
        ids_of(&take_all(&mut stream), 0)
    };
    let whole = said(asked(Vec::new()));
    for length in 1..whole.len() {
        let (before, after) = whole.split_at(length);
        assert_eq!(said(asked(before.to_vec())), after, "after {length} tokens");
    }
}

#[test]
fn a_grammar_that_cannot_go_on_ends_its_own_request_alone() {
    let mut bench = Bench::new(4, 64, 100);
    // After some numbers there are more ways to go on than may be.
    let many = r#""a"? "#.repeat(750);
    let lark = format!(r#"start: /([0-9] ){{6}}/ {many} "a""#);
    let mut bad = bench.submit(Submission {
        grammar: Some(grammar(&GrammarSpec::Lark(lark.into()))),
        stop: StopParams::after(300),
        ..submission(1, 9, 40)
    });
    let good = submission(2, 9, 12);
    let mut neighbour = bench.submit(good.clone());
    bench.finish();
    let events = take_all(&mut bad);
    let fault = EngineError::Grammar(GuideFault::TooComplex);
    let failed = matches!(events.last(), Some(Event::Failed(error, _)) if *error == fault);
    assert!(failed, "{events:?}");
    let expected = completion(&good, 0, bench.context_len);
    assert_eq!(ids_of(&take_all(&mut neighbour), 0), expected);
}

#[test]
fn log_probabilities_come_with_their_tokens() {
    let mut bench = Bench::new(4, 64, 100);
    let mut asked = submission(3, 9, 6);
    asked.sampling.logprobs = Some(2);
    let mut stream = bench.submit(asked.clone());
    bench.finish();
    let events = take_all(&mut stream);
    let logprobs = events.iter().flat_map(|event| match event {
        Event::Delta { logprobs, .. } => logprobs.clone(),
        _ => Vec::new(),
    });
    let logprobs: Vec<_> = logprobs.collect();
    let tokens = completion(&asked, 0, bench.context_len);
    assert_eq!(logprobs.len(), tokens.len());
    for (logprob, token) in logprobs.iter().zip(tokens) {
        assert_eq!(logprob.chosen.token, token);
        assert_eq!(logprob.chosen.bytes, format!("{token} ").into_bytes());
        let top: Vec<_> = logprob.top.iter().map(|l| (l.token, l.logprob)).collect();
        assert_eq!(top, scores(token).top);
    }
}

#[test]
fn choices_resume_at_lengths_of_their_own() {
    let mut bench = Bench::new(4, 64, 100);
    let mut asked = Submission {
        n: 3,
        ..submission(6, 9, 20)
    };
    asked.stop.ignore_eos = true;
    let whole = [0, 1, 2].map(|choice| completion(&asked, choice, bench.context_len));
    let cuts = [5, 0, 19];
    asked.resume = cuts
        .iter()
        .zip(&whole)
        .map(|(&cut, ids)| ids[..cut].to_vec())
        .collect();
    let mut stream = bench.submit(asked);
    bench.finish();
    let events = take_all(&mut stream);
    for (choice, (cut, ids)) in cuts.iter().zip(&whole).enumerate() {
        assert_eq!(ids_of(&events, choice as u32), ids[*cut..]);
    }
    assert_eq!(usage(&events).completion_tokens, 15 + 20 + 1);
}
