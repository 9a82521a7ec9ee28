//! Turn by turn: order, faults, pauses, deadlines.

use std::time::Duration;

use super::model::{
    Bench, EOS, FAILS, IS_NAN, PANICS, completion, ids_of, submission, take, take_all, text_of,
};
use crate::api::{EngineError, Event, FinishReason, Submission, Usage};
use crate::core::Turn;
use crate::events::EventStream;
use crate::limits::{EVENTS_MAX, PAUSE_KEEPS_BLOCKS};

/// One that runs to its length.
fn without_eos(id: u64, prompt_tokens: u32, max_tokens: u32) -> Submission {
    let mut submission = submission(id, prompt_tokens, max_tokens);
    submission.stop.ignore_eos = true;
    submission
}

fn assert_all_free(bench: &Bench) {
    let stats = bench.core.stats();
    assert_eq!(stats.blocks_free, stats.blocks_total);
    assert_eq!((stats.running, stats.waiting), (0, 0));
}

#[test]
fn a_decode_never_waits_for_a_long_prompt() {
    let mut bench = Bench::new(8, 8, 100);
    let mut short = bench.submit(without_eos(1, 3, 50));
    bench.turn();
    let _long = bench.submit(without_eos(2, 200, 5));
    for _ in 0..20 {
        take_all(&mut short);
        bench.turn();
        assert!(
            take(&mut short).is_some(),
            "each step gives the short one a token"
        );
    }
}

#[test]
fn a_prompt_is_prefilled_in_chunks_of_the_budget() {
    let mut bench = Bench::new(8, 8, 100);
    let mut stream = bench.submit(submission(1, 33, 1));
    for _ in 0..4 {
        bench.turn();
        assert!(take(&mut stream).is_none());
    }
    bench.turn();
    assert!(take(&mut stream).is_some());
    assert_eq!(
        (bench.core.stats().steps, bench.core.stats().prefill_tokens),
        (5, 33)
    );
}

#[test]
fn equal_requests_get_their_first_tokens_in_order_of_arrival() {
    let mut bench = Bench::new(4, 16, 40);
    let mut streams: Vec<EventStream> = (0..20)
        .map(|id| bench.submit(without_eos(id, 10, 6)))
        .collect();
    let mut first_at = vec![None; streams.len()];
    for turn in 0..2000 {
        bench.turn();
        for (stream, at) in streams.iter_mut().zip(&mut first_at) {
            if !take_all(stream).is_empty() {
                at.get_or_insert(turn);
            }
        }
    }
    assert!(first_at.iter().all(Option::is_some));
    assert!(first_at.is_sorted(), "{first_at:?}");
}

#[test]
fn the_newest_is_preempted_and_its_tokens_stay_the_same() {
    // Two sequences of 8 + 40 tokens need 24 blocks; there are 16.
    let mut bench = Bench::new(4, 64, 16);
    let submissions = [without_eos(1, 8, 40), without_eos(2, 8, 40)];
    let mut streams = submissions.clone().map(|s| bench.submit(s));
    bench.finish();
    assert!(bench.core.stats().preemptions > 0);
    for (submission, stream) in submissions.iter().zip(&mut streams) {
        let events = take_all(stream);
        assert_eq!(
            ids_of(&events, 0),
            completion(submission, 0, bench.context_len)
        );
    }
    assert_all_free(&bench);
}

#[test]
fn choices_differ_and_usage_counts_the_prompt_once() {
    let mut bench = Bench::new(8, 64, 100);
    let request = Submission {
        n: 3,
        ..without_eos(1, 9, 12)
    };
    let mut stream = bench.submit(request.clone());
    bench.finish();
    let events = take_all(&mut stream);
    let choices = [0, 1, 2].map(|choice| ids_of(&events, choice));
    assert_eq!(
        choices,
        [0, 1, 2].map(|choice| completion(&request, choice, bench.context_len))
    );
    assert!(choices[0] != choices[1] && choices[1] != choices[2]);
    let usage = Usage {
        prompt_tokens: 9,
        completion_tokens: 36,
        ..Usage::default()
    };
    assert_eq!(events.last(), Some(&Event::Done(usage)));
}

#[test]
fn a_choice_ends_by_eos_stop_string_length_or_context() {
    let ends = |submission: Submission| {
        let mut bench = Bench::new(8, 64, 30);
        let mut stream = bench.submit(submission);
        bench.finish();
        take_all(&mut stream)
    };
    let reason = |events: &[Event]| match events[events.len() - 2] {
        Event::Finished { reason, .. } => reason,
        _ => panic!("the event before the last one is the choice's end"),
    };
    let full = without_eos(5, 4, 10);
    let ids = completion(&full, 0, 120);
    let by_length = ends(full.clone());
    assert_eq!(
        (reason(&by_length), ids_of(&by_length, 0)),
        (FinishReason::Length, ids.clone())
    );

    let mut stopped = full;
    stopped.stop.strings = vec![format!("{} {}", ids[3], ids[4])];
    let by_string = ends(stopped);
    assert_eq!(reason(&by_string), FinishReason::Stop);
    let before: String = ids[..3].iter().map(|id| format!("{id} ")).collect();
    assert_eq!(text_of(&by_string, 0), before);

    let by_context = ends(without_eos(5, 100, 1000));
    assert_eq!(
        (reason(&by_context), ids_of(&by_context, 0).len()),
        (FinishReason::Length, 20)
    );

    let with_eos = (0..)
        .map(|id| submission(id, 4, 100))
        .find(|s| completion(s, 0, 120).ends_with(&[EOS]));
    let by_eos = ends(with_eos.expect("some sequence meets EOS"));
    assert_eq!(reason(&by_eos), FinishReason::Stop);
    assert!(!text_of(&by_eos, 0).contains(&format!("{EOS} ")));
}

#[test]
fn a_fault_ends_only_those_it_hit() {
    for (token, error) in [
        (PANICS, EngineError::StepFailed),
        (FAILS, EngineError::StepFailed),
        (IS_NAN, EngineError::InvalidLogits),
    ] {
        let mut bench = Bench::new(4, 16, 40);
        let mut bad = bench.submit(Submission {
            prompt: [token, 1].into(),
            ..submission(1, 1, 5)
        });
        bench.turn();
        let usage = Usage {
            prompt_tokens: 2,
            ..Usage::default()
        };
        assert_eq!(take_all(&mut bad), [Event::Failed(error, usage)]);
        let good = without_eos(2, 7, 20);
        let mut stream = bench.submit(good.clone());
        bench.finish();
        assert_eq!(
            ids_of(&take_all(&mut stream), 0),
            completion(&good, 0, bench.context_len)
        );
        assert_all_free(&bench);
    }
}

#[test]
fn a_row_that_is_no_number_leaves_its_batch_alone() {
    let mut bench = Bench::new(4, 32, 40);
    let good = without_eos(1, 7, 20);
    let mut stream = bench.submit(good.clone());
    let mut bad = bench.submit(Submission {
        prompt: [IS_NAN].into(),
        ..submission(2, 1, 5)
    });
    bench.finish();
    assert!(matches!(
        take_all(&mut bad)[..],
        [Event::Failed(EngineError::InvalidLogits, _)]
    ));
    assert_eq!(
        ids_of(&take_all(&mut stream), 0),
        completion(&good, 0, bench.context_len)
    );
}

#[test]
fn a_slow_reader_pauses_itself_and_loses_nothing() {
    let mut bench = Bench::new(4, 32, 200);
    let (slow, quick) = (without_eos(1, 5, 200), without_eos(2, 5, 200));
    let mut slow_stream = bench.submit(slow.clone());
    let mut quick_stream = bench.submit(quick.clone());
    let mut quick_events = Vec::new();
    while bench.turn() == Turn::Stepped {
        quick_events.extend(take_all(&mut quick_stream));
    }
    assert_eq!(
        ids_of(&quick_events, 0),
        completion(&quick, 0, bench.context_len)
    );
    assert_eq!(bench.core.stats().running, 1);
    assert_eq!(bench.turn(), Turn::Paused);

    let mut slow_events = Vec::new();
    for _ in 0..300 {
        slow_events.extend(take_all(&mut slow_stream));
        bench.turn();
    }
    assert_eq!(
        ids_of(&slow_events, 0),
        completion(&slow, 0, bench.context_len)
    );
    assert_all_free(&bench);
}

#[test]
fn a_paused_sequence_gives_way_to_those_in_line() {
    let mut bench = Bench::new(1, 32, 60);
    let paused = without_eos(1, 5, 150);
    let mut paused_stream = bench.submit(paused.clone());
    while bench.turn() == Turn::Stepped {}
    let next = without_eos(2, 5, 20);
    let mut next_stream = bench.submit(next.clone());
    assert_eq!(bench.turn(), Turn::Paused, "it keeps its seat for a while");
    bench.now += PAUSE_KEEPS_BLOCKS;
    bench.finish();
    assert_eq!(
        ids_of(&take_all(&mut next_stream), 0),
        completion(&next, 0, bench.context_len)
    );

    let mut events = Vec::new();
    for _ in 0..200 {
        events.extend(take_all(&mut paused_stream));
        bench.turn();
    }
    assert_eq!(
        ids_of(&events, 0),
        completion(&paused, 0, bench.context_len)
    );
}

#[test]
fn an_ended_submission_leaves_though_its_reader_does_not_read() {
    let mut bench = Bench::new(4, 32, 60);
    let tokens = EVENTS_MAX as u32 - 1;
    let mut stream = bench.submit(without_eos(1, 5, tokens));
    bench.finish();
    assert_all_free(&bench);
    let events = take_all(&mut stream);
    assert_eq!(ids_of(&events, 0).len(), tokens as usize);
    assert!(matches!(events.last(), Some(Event::Done(_))));
    assert!(take(&mut stream).is_none());
}

#[test]
fn a_deadline_ends_running_waiting_and_paused_alike() {
    let mut bench = Bench::new(2, 32, 40);
    let at = Duration::from_millis(100);
    let mut streams: Vec<EventStream> = (0..4)
        .map(|id| {
            bench.submit(Submission {
                deadline: Some(at),
                ..without_eos(id, 5, 140)
            })
        })
        .collect();
    let mut late = bench.submit(Submission {
        deadline: Some(Duration::ZERO),
        ..submission(9, 5, 5)
    });
    bench.turn();
    let nothing = Usage {
        prompt_tokens: 5,
        ..Usage::default()
    };
    assert_eq!(
        take_all(&mut late),
        [Event::Failed(EngineError::DeadlineExceeded, nothing)]
    );
    bench.now = at;
    bench.turn();
    assert_all_free(&bench);
    for stream in &mut streams {
        let events = take_all(stream);
        let Some(Event::Failed(EngineError::DeadlineExceeded, usage)) = events.last() else {
            panic!("{:?}", events.last());
        };
        assert_eq!(usage.completion_tokens as usize, ids_of(&events, 0).len());
    }
}

#[test]
fn the_devices_time_is_shared_out_by_the_tokens_of_each_step() {
    let mut bench = Bench::new(8, 64, 100);
    bench.step_time = Duration::from_micros(900);
    let mut streams = [
        bench.submit(without_eos(1, 1, 10)),
        bench.submit(without_eos(2, 8, 10)),
    ];
    let steps = bench.finish();
    let times = streams
        .each_mut()
        .map(|stream| match take_all(stream).pop() {
            Some(Event::Done(usage)) => usage.device_time,
            other => panic!("{other:?}"),
        });
    // Nine tokens of prompt in the first step, one of each in the nine others.
    assert_eq!(steps, 10);
    assert_eq!(times[0], Duration::from_micros(100 + 9 * 450));
    assert_eq!(times[1], Duration::from_micros(800 + 9 * 450));
}

#[test]
fn an_abort_by_id_says_so_to_the_reader() {
    let mut bench = Bench::new(2, 32, 40);
    let mut stream = bench.submit(without_eos(1, 5, 100));
    bench.turn();
    bench.abort("1");
    bench.abort("unknown");
    bench.turn();
    let events = take_all(&mut stream);
    let usage = Usage {
        prompt_tokens: 5,
        completion_tokens: 1,
        ..Usage::default()
    };
    assert_eq!(
        events.last(),
        Some(&Event::Failed(EngineError::Aborted, usage))
    );
    assert_all_free(&bench);
}
